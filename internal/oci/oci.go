// Package oci reads an image out of an OCI image layout directory.
//
// Everything in the directory is hostile until its digest says otherwise: no
// file outside it is opened, no document over 4 MiB is read, and a layer's
// stream ends with an error instead of io.EOF when the bytes, compressed or
// not, are others than the manifest and the configuration name.
//
// Formats: OCI image specification 1.1 (image-layout.md, image-index.md,
// manifest.md, config.md, layer.md); Docker's schema 2 media types are read as
// their OCI equals.
package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/errs"
)

// Limits on what a layout may ask for.
const (
	maxDocument   = 4 << 20 // bytes of an index, manifest or configuration
	maxManifests  = 4096    // descriptors of an index
	maxLayers     = 512
	maxNesting    = 4 // indexes within indexes
	maxLayerBytes = 256 << 30
	maxWindow     = 128 << 20 // of zstd: what the zstd tool accepts unasked
)

// The platform that is chosen where an index has several.
const (
	platformOS   = "linux"
	platformArch = "amd64"
)

const refNameAnnotation = "org.opencontainers.image.ref.name"

// Ref names an image in a layout directory.
type Ref struct {
	Dir string
	Tag string // "": the only image
}

// ParseRef reads "oci:DIR[:TAG]". What follows the last colon is the tag, unless
// it has a slash. A malformed reference is errs.Usage.
func ParseRef(s string) (Ref, error) {
	rest, ok := strings.CutPrefix(s, "oci:")
	if !ok {
		return Ref{}, errs.New(errs.Usage, "image reference %q does not begin with \"oci:\"", s)
	}
	if strings.IndexByte(rest, 0) >= 0 {
		return Ref{}, errs.New(errs.Usage, "image reference %q has a zero byte", s)
	}
	r := Ref{Dir: rest}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		r.Dir, r.Tag = rest[:i], rest[i+1:]
		if r.Tag == "" {
			return Ref{}, errs.New(errs.Usage, "image reference %q has an empty tag", s)
		}
	}
	if r.Dir == "" {
		return Ref{}, errs.New(errs.Usage, "image reference %q names no directory", s)
	}
	return r, nil
}

// String is the reference as ParseRef reads it.
func (r Ref) String() string {
	if r.Tag == "" {
		return "oci:" + r.Dir
	}
	return "oci:" + r.Dir + ":" + r.Tag
}

// Config is what of an image's configuration says how to run it.
type Config struct {
	Arch         string
	OS           string
	Env          []string
	User         string
	WorkDir      string
	Entrypoint   []string
	Cmd          []string
	ExposedPorts []string // sorted, as "80/tcp"
}

// Layer is one layer, as the manifest and the configuration name it.
type Layer struct {
	Digest    string // of the blob
	MediaType string
	Size      int64  // of the blob, bytes
	DiffID    string // digest of the uncompressed tar
}

// Image is an open image. Its layers are in the order they are applied.
type Image struct {
	Digest string // of the manifest
	Config Config
	Layers []Layer

	root *os.Root
}

// OpenLayout reads an image's manifest and configuration and checks their
// digests. A missing directory, tag, platform or blob is errs.NotFound;
// everything malformed is errs.InvalidData. The caller closes the image.
func OpenLayout(ctx context.Context, ref Ref) (*Image, error) {
	root, err := os.OpenRoot(ref.Dir)
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", ref, err)
	}
	img := &Image{root: root}
	if err := img.load(ctx, ref); err != nil {
		return nil, errors.Join(fmt.Errorf("open image %s: %w", ref, err), root.Close())
	}
	return img, nil
}

// Close releases the directory. Readers of layers that are open stay usable.
func (i *Image) Close() error { return i.root.Close() }

func (i *Image) load(ctx context.Context, ref Ref) error {
	if err := i.checkLayout(); err != nil {
		return err
	}
	data, err := i.readFile("index.json", maxDocument)
	if err != nil {
		return err
	}
	idx, err := parseIndex(data)
	if err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	desc, err := chooseTag(idx, ref.Tag)
	if err != nil {
		return err
	}
	for depth := 0; isIndex(desc.MediaType); depth++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if depth == maxNesting {
			return errs.New(errs.InvalidData, "indexes nest deeper than %d", maxNesting)
		}
		if data, err = i.readDocument(desc); err != nil {
			return err
		}
		if idx, err = parseIndex(data); err != nil {
			return fmt.Errorf("index %s: %w", desc.Digest, err)
		}
		if desc, err = choosePlatform(idx.Manifests); err != nil {
			return err
		}
	}
	if data, err = i.readDocument(desc); err != nil {
		return err
	}
	man, err := parseManifest(data)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if data, err = i.readDocument(man.Config); err != nil {
		return err
	}
	i.Digest = desc.Digest
	if i.Config, i.Layers, err = parseConfig(data, man); err != nil {
		return fmt.Errorf("configuration %s: %w", man.Config.Digest, err)
	}
	return nil
}

// checkLayout reads the file that marks a layout.
func (i *Image) checkLayout() error {
	data, err := i.readFile("oci-layout", 4096)
	if err != nil {
		return errs.Hint(err, "an OCI image layout directory has the files oci-layout and index.json")
	}
	return parseLayout(data)
}

// readDocument reads a JSON blob whole and checks its digest.
func (i *Image) readDocument(d descriptor) ([]byte, error) {
	if d.Size > maxDocument {
		return nil, errs.New(errs.InvalidData, "document %s of %d bytes is over %d", d.Digest, d.Size, maxDocument)
	}
	f, err := i.openBlob(d)
	if err != nil {
		return nil, err
	}
	v := newVerifier(f, d.Digest, d.Size, d.Size)
	data, err := io.ReadAll(v)
	v.close()
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return data, nil
}

// readFile reads a file that no digest names.
func (i *Image) readFile(name string, limit int64) ([]byte, error) {
	f, size, err := i.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, errs.New(errs.InvalidData, "%s has %d bytes, over %d", name, size, limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// openBlob opens a blob of the size its descriptor says.
func (i *Image) openBlob(d descriptor) (*os.File, error) {
	f, size, err := i.open(filepath.Join("blobs", "sha256", strings.TrimPrefix(d.Digest, digestPrefix)))
	if err != nil {
		return nil, err
	}
	if size != d.Size {
		return nil, errors.Join(errs.New(errs.InvalidData, "blob %s has %d bytes, its descriptor says %d", d.Digest, size, d.Size), f.Close())
	}
	return f, nil
}

// open opens a regular file below the directory without waiting for anything.
func (i *Image) open(name string) (*os.File, int64, error) {
	f, err := i.root.OpenFile(name, os.O_RDONLY|openFlags, 0)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, 0, errs.New(errs.NotFound, "%s is missing: %w", name, err)
		}
		if errs.ClassOf(err) == errs.Internal { // leaves the directory, or loops
			return nil, 0, errs.New(errs.InvalidData, "open %s: %w", name, err)
		}
		return nil, 0, fmt.Errorf("open %s: %w", name, err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("open %s: %w", name, err), f.Close())
	}
	if !st.Mode().IsRegular() {
		return nil, 0, errors.Join(errs.New(errs.InvalidData, "%s is not a regular file", name), f.Close())
	}
	return f, st.Size(), nil
}

// chooseTag finds the descriptor that an index gives a tag, or the only one.
func chooseTag(idx index, tag string) (descriptor, error) {
	var names []string
	var found []descriptor
	for _, d := range idx.Manifests {
		name := d.Annotations[refNameAnnotation]
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
		if tag == "" || tag == name {
			found = append(found, d)
		}
	}
	slices.Sort(names)
	if len(names) > 20 {
		names = append(names[:20], "…")
	}
	hint := "the directory has no tags"
	if len(names) > 0 {
		hint = "tags in the directory: " + strings.Join(names, ", ")
	}
	switch {
	case len(found) == 0 && tag == "":
		return descriptor{}, errs.New(errs.NotFound, "the directory has no image")
	case len(found) == 0:
		return descriptor{}, errs.Hint(errs.New(errs.NotFound, "no image has the tag %q", tag), "%s", hint)
	case len(found) == 1:
		return found[0], nil
	}
	d, err := choosePlatform(found)
	if err != nil {
		return descriptor{}, errs.Hint(err, "%s", hint)
	}
	return d, nil
}

// choosePlatform finds the descriptor for the guest's platform; of several, the
// first. Without one, a single descriptor that names no platform is it.
func choosePlatform(all []descriptor) (descriptor, error) {
	var plain []descriptor
	var have []string
	for _, d := range all {
		p := d.Platform
		switch {
		case p == nil:
			plain = append(plain, d)
		case p.OS == platformOS && p.Architecture == platformArch:
			return d, nil
		default:
			have = append(have, p.OS+"/"+p.Architecture)
		}
	}
	if len(plain) == 1 {
		return plain[0], nil
	}
	if len(plain) > 1 {
		return descriptor{}, errs.New(errs.NotFound, "%d images and no platform to choose by", len(plain))
	}
	if len(have) > 20 {
		have = append(have[:20], "…")
	}
	return descriptor{}, errs.New(errs.NotFound, "no image for %s/%s, only for %q", platformOS, platformArch, have)
}
