package kernelcat

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"banger/internal/effect"
	"banger/internal/embedded"
	"banger/internal/errs"
)

// Limits of a bundle.
const (
	maxKernelBytes = 256 << 20
	maxWindow      = 64 << 20
)

// ensureEmbedded answers the name of the embedded kernel, with it on disk.
func (c *Catalog) ensureEmbedded(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.embedded != "" {
		return c.embedded, nil
	}
	bundle, err := embedded.Kernel()
	if err != nil {
		return "", err
	}
	defer bundle.Close()
	name, err := c.unpack(ctx, bundle)
	if err != nil {
		return "", fmt.Errorf("unpack the embedded kernel: %w", err)
	}
	c.embedded = name
	return name, nil
}

// unpack puts the bundle's kernel on disk unless just that kernel is there, or one of
// that name from elsewhere. A broken entry is replaced. An error leaves what was there
// before.
func (c *Catalog) unpack(ctx context.Context, bundle io.Reader) (name string, err error) {
	z, err := zstd.NewReader(bundle, zstd.WithDecoderMaxMemory(maxKernelBytes), zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderConcurrency(1))
	if err != nil {
		return "", err
	}
	defer z.Close()
	archive := tar.NewReader(z)
	m, err := firstManifest(archive)
	if err != nil {
		return "", err
	}
	if have, err := c.read(m.Name); err == nil && (have.Source != m.Source || have.SHA256 == m.SHA256) {
		return m.Name, nil // the same, or one that the user put there and nobody replaces
	}
	temp := filepath.Join(c.dir, effect.TempPrefix+m.Name)
	if err := c.seam.RemoveAll(ctx, "kernel.temp.clear", temp); err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, c.seam.RemoveAll(context.WithoutCancel(ctx), "kernel.temp.remove", temp))
	}()
	if err := c.seam.Mkdir(ctx, "kernel.temp.make", temp, 0o700); err != nil {
		return "", err
	}
	if err := c.fill(ctx, temp, archive, m); err != nil {
		return "", err
	}
	return m.Name, c.swapIn(ctx, temp, filepath.Join(c.dir, m.Name))
}

// firstManifest reads the archive's first entry, which must be the manifest.
func firstManifest(archive *tar.Reader) (m Manifest, err error) {
	h, err := archive.Next()
	for err == nil && h.Typeflag == tar.TypeDir {
		h, err = archive.Next()
	}
	if err != nil {
		return m, errs.With(errs.InvalidData, err)
	}
	if filepath.Clean(h.Name) != manifestFile || h.Typeflag != tar.TypeReg {
		return m, errs.New(errs.InvalidData, "the bundle begins with %q, want %s", h.Name, manifestFile)
	}
	content, err := io.ReadAll(io.LimitReader(archive, maxManifest+1))
	if err != nil {
		return m, errs.With(errs.InvalidData, err)
	}
	return parseManifest(content)
}

// fill writes the archive's files into temp, through a root that nothing leaves.
func (c *Catalog) fill(ctx context.Context, temp string, archive *tar.Reader, m Manifest) error {
	root, err := os.OpenRoot(temp)
	if err != nil {
		return err
	}
	defer root.Close()
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := c.seam.PublishBytes(ctx, "kernel.manifest", filepath.Join(temp, manifestFile), 0o600, content); err != nil {
		return err
	}
	found := false
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errs.With(errs.InvalidData, err)
		}
		name := filepath.Clean(h.Name)
		switch {
		case h.Typeflag == tar.TypeDir && name == ".":
		case h.Typeflag == tar.TypeReg && name == kernelFile && !found:
			found = true
			if err := c.writeKernel(ctx, root, archive, m); err != nil {
				return err
			}
		default:
			return errs.New(errs.InvalidData, "the bundle holds %q, which a kernel does not have", h.Name)
		}
	}
	if !found {
		return errs.New(errs.InvalidData, "the bundle has no %s", kernelFile)
	}
	return nil
}

func (c *Catalog) writeKernel(ctx context.Context, root *os.Root, r io.Reader, m Manifest) error {
	return c.seam.Do(ctx, "kernel.write", func() error {
		f, err := root.OpenFile(kernelFile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if err != nil {
			return err
		}
		sum := sha256.New()
		n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(r, maxKernelBytes+1))
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		if n > maxKernelBytes {
			return errs.New(errs.InvalidData, "%s is larger than %d bytes", kernelFile, maxKernelBytes)
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != m.SHA256 {
			return errs.New(errs.InvalidData, "%s: sha256 %s, %s says %s", kernelFile, got, manifestFile, m.SHA256)
		}
		return nil
	})
}

// swapIn puts temp in place. Where a directory is there, the two change places in one
// step, and the old one is left at temp for the caller to remove.
func (c *Catalog) swapIn(ctx context.Context, temp, final string) error {
	if err := c.seam.SyncDir(ctx, "kernel.temp.sync", temp); err != nil {
		return err
	}
	if _, err := os.Lstat(final); errors.Is(err, fs.ErrNotExist) {
		return c.seam.Rename(ctx, "kernel.publish", temp, final)
	}
	return c.seam.Exchange(ctx, "kernel.exchange", temp, final)
}
