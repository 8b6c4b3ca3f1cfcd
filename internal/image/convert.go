package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"banger/internal/ext4"
	"banger/internal/oci"
)

// convert writes the layers of src into f as one file system, and answers its size.
func convert(ctx context.Context, f *os.File, src *oci.Image, progress Progress) (int64, error) {
	w, err := ext4.New(f, ext4.Options{Label: "base", Journal: ext4.NoJournal})
	if err != nil {
		return 0, err
	}
	defer w.Close()
	var total, done int64
	for _, l := range src.Layers {
		total += l.Size
	}
	for n, l := range src.Layers {
		if progress != nil {
			progress(fmt.Sprintf("layer %d of %d", n+1, len(src.Layers)), done, total)
		}
		if err := applyLayer(ctx, w, src, n); err != nil {
			return 0, fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		done += l.Size
	}
	stats, err := w.Finish()
	return stats.Size, err
}

func applyLayer(ctx context.Context, w *ext4.Writer, src *oci.Image, n int) (err error) {
	layer, err := src.OpenLayer(ctx, n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, layer.Close()) }()
	if err := w.ApplyLayer(ctx, layer); err != nil {
		return err
	}
	// What follows the archive's end belongs to the digest too, and reading to the end
	// is what verifies it.
	_, err = io.Copy(io.Discard, layer)
	return err
}
