package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"banger/internal/errs"
)

// openFlags keep a blob that is a FIFO or a device from blocking the open.
const openFlags = unix.O_NONBLOCK | unix.O_NOCTTY

type compression int

const (
	plain compression = iota
	gzipped
	zstded
)

// compressionOf tells how a layer of a media type is packed.
func compressionOf(mediaType string) (compression, error) {
	switch mediaType {
	case "application/vnd.oci.image.layer.v1.tar":
		return plain, nil
	case "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip":
		return gzipped, nil
	case "application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return zstded, nil
	}
	if len(mediaType) > 100 {
		mediaType = mediaType[:100] + "…"
	}
	if strings.Contains(mediaType, "nondistributable") || strings.Contains(mediaType, "foreign") {
		return 0, errs.New(errs.InvalidData, "a layer of type %q is not in the image", mediaType)
	}
	return 0, errs.New(errs.InvalidData, "a layer of type %q is not a file system", mediaType)
}

// OpenLayer opens the uncompressed tar stream of layer n. The stream ends with
// io.EOF only after compressed and uncompressed digest and size were found
// right, so a reader that acts on its data must read to the end before it
// trusts any. It stops when ctx ends. The caller closes it.
func (i *Image) OpenLayer(ctx context.Context, n int) (io.ReadCloser, error) {
	if n < 0 || n >= len(i.Layers) {
		return nil, errs.New(errs.NotFound, "layer %d of %d", n, len(i.Layers))
	}
	l := i.Layers[n]
	kind, err := compressionOf(l.MediaType)
	if err != nil {
		return nil, err
	}
	f, err := i.openBlob(descriptor{Digest: l.Digest, Size: l.Size})
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	r := &layerReader{ctx: ctx, f: f, digest: l.Digest, end: func() {}}
	r.blob = newVerifier(&interruptible{ctx, f}, l.Digest, l.Size, l.Size)
	if err := r.decompress(kind); err != nil {
		return nil, errors.Join(r.explain(err), r.Close())
	}
	r.tar = newVerifier(&whole{r.plain, r.blob}, l.DiffID, -1, maxLayerBytes)
	return r, nil
}

// layerReader is the chain file, digest, decompressor, diff id.
type layerReader struct {
	ctx    context.Context
	f      *os.File
	digest string
	blob   *verifier
	plain  io.Reader
	tar    *verifier
	end    func() // releases the decompressor
}

// decompress puts the decompressor between the two digests.
func (r *layerReader) decompress(kind compression) error {
	switch kind {
	case gzipped:
		z, err := gzip.NewReader(r.blob)
		if err != nil {
			return err
		}
		r.plain = z
	case zstded:
		// The frame's own checksum says nothing that the diff id does not.
		z, err := zstd.NewReader(r.blob, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(maxWindow),
			zstd.IgnoreChecksum(true))
		if err != nil {
			return err
		}
		r.plain, r.end = z, z.Close
	default:
		r.plain = r.blob
	}
	return nil
}

func (r *layerReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.tar.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.explain(err)
	}
	return n, err
}

// explain names the layer; what neither has a class nor comes from the host is
// the decompressor's verdict on the data.
func (r *layerReader) explain(err error) error {
	var host *fs.PathError
	if errs.ClassOf(err) == errs.Internal && !errors.As(err, &host) {
		err = errs.With(errs.InvalidData, err)
	}
	return fmt.Errorf("layer %s: %w", r.digest, err)
}

// Close stops all that reads ahead. Closing again does nothing.
func (r *layerReader) Close() error {
	if r.f == nil {
		return nil
	}
	r.blob.abort() // first: the decompressor may wait for it
	if r.tar != nil {
		r.tar.close()
	}
	r.blob.close()
	r.end()
	err := r.f.Close()
	r.f = nil
	return err
}

// whole is the decompressed stream; it ends only where the blob ends too, so that
// the blob's digest has been checked by then.
type whole struct {
	plain io.Reader
	blob  io.Reader
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.plain.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	var b [1]byte
	if _, rest := w.blob.Read(b[:]); rest == nil {
		err = errs.New(errs.InvalidData, "data follows the compressed stream")
	} else if !errors.Is(rest, io.EOF) {
		err = rest
	}
	return n, err
}

// interruptible stops a stream when its context ends.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i *interruptible) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, context.Cause(i.ctx)
	}
	return i.r.Read(p)
}
