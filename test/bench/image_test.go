// Package bench measures what docs/PERFORMANCE.md claims. Nothing here asserts a time.
package bench

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"banger/internal/ext4"
	"banger/internal/oci"
)

// testImage opens the layout that BANGER_TEST_OCI names, "DIR[:TAG]".
func testImage(b *testing.B) (*oci.Image, oci.Ref) {
	b.Helper()
	dir := os.Getenv("BANGER_TEST_OCI")
	if dir == "" {
		b.Skip("BANGER_TEST_OCI names no OCI layout; make image builds one")
	}
	ref, err := oci.ParseRef("oci:" + dir)
	if err != nil {
		b.Fatal(err)
	}
	img, err := oci.OpenLayout(b.Context(), ref)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { img.Close() })
	return img, ref
}

// BenchmarkImage converts an image and, in the same run, only decompresses its
// layers, with the same library at its fastest setting and nothing checked, and
// converts them so unchecked. ratio is conversion over decompression,
// unchecked-ratio is what the writer alone adds; the difference is the digests.
func BenchmarkImage(b *testing.B) {
	img, ref := testImage(b)
	path := filepath.Join(b.TempDir(), "image.ext4")
	best := func(d *time.Duration, f func()) {
		start := time.Now()
		f()
		if t := time.Since(start); *d == 0 || t < *d {
			*d = t
		}
	}
	var convertBest, plainBest, uncheckedBest, convertAll, plainAll, uncheckedAll, convertCPU, plainCPU time.Duration
	var size int64
	for b.Loop() {
		start, cpu := time.Now(), cpuTime(b)
		best(&plainBest, func() { size = decompress(b, ref, img, nil) })
		middle, cpuMiddle := time.Now(), cpuTime(b)
		best(&convertBest, func() { convert(b, img, path) })
		plainAll += middle.Sub(start)
		convertAll += time.Since(middle)
		plainCPU += cpuMiddle - cpu
		convertCPU += cpuTime(b) - cpuMiddle
		last := time.Now()
		best(&uncheckedBest, func() { unchecked(b, ref, img, path) })
		uncheckedAll += time.Since(last)
	}
	n := float64(b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(size)/1e6, "MB")
	b.ReportMetric(plainAll.Seconds()*1000/n, "decompress-ms")
	b.ReportMetric(convertAll.Seconds()*1000/n, "convert-ms")
	b.ReportMetric(plainCPU.Seconds()*1000/n, "decompress-cpu-ms")
	b.ReportMetric(convertCPU.Seconds()*1000/n, "convert-cpu-ms")
	b.ReportMetric(convertAll.Seconds()/plainAll.Seconds(), "ratio")
	b.ReportMetric(convertBest.Seconds()/plainBest.Seconds(), "best-ratio")
	b.ReportMetric(uncheckedAll.Seconds()/plainAll.Seconds(), "unchecked-ratio")
	b.ReportMetric(uncheckedBest.Seconds()/plainBest.Seconds(), "best-unchecked-ratio")
}

// cpuTime is what the process has used of all processors. On a busy machine it
// says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func convert(b *testing.B, img *oci.Image, path string) {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w, err := ext4.New(f, ext4.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	for n := range img.Layers {
		r, err := img.OpenLayer(context.Background(), n)
		if err != nil {
			b.Fatal(err)
		}
		if err := w.ApplyLayer(context.Background(), r); err != nil {
			b.Fatal(err)
		}
		if err := r.Close(); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := w.Finish(); err != nil {
		b.Fatal(err)
	}
}

// unchecked is convert without digests.
func unchecked(b *testing.B, ref oci.Ref, img *oci.Image, path string) {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w, err := ext4.New(f, ext4.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	decompress(b, ref, img, w)
	if _, err := w.Finish(); err != nil {
		b.Fatal(err)
	}
}

// decompress is the floor: nothing hashed, nothing kept unless w is given.
func decompress(b *testing.B, ref oci.Ref, img *oci.Image, w *ext4.Writer) int64 {
	b.Helper()
	var total int64
	for _, l := range img.Layers {
		f, err := os.Open(filepath.Join(ref.Dir, "blobs", "sha256", l.Digest[len("sha256:"):]))
		if err != nil {
			b.Fatal(err)
		}
		var r io.Reader = f
		if magic := make([]byte, 2); l.Size > 2 {
			if _, err := f.ReadAt(magic, 0); err != nil {
				b.Fatal(err)
			}
			switch {
			case magic[0] == 0x1f && magic[1] == 0x8b:
				if r, err = gzip.NewReader(f); err != nil {
					b.Fatal(err)
				}
			case magic[0] == 0x28 && magic[1] == 0xb5:
				z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(0))
				if err != nil {
					b.Fatal(err)
				}
				defer z.Close()
				r = z
			}
		}
		if w != nil {
			if err := w.ApplyLayer(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
		n, err := io.Copy(io.Discard, r)
		if err != nil {
			b.Fatal(err)
		}
		total += n
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
	return total
}

// BenchmarkEmpty makes the empty 20 GiB filesystem of an upper disk.
func BenchmarkEmpty(b *testing.B) {
	path := filepath.Join(b.TempDir(), "empty.ext4")
	for b.Loop() {
		f, err := os.Create(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := ext4.Empty(f, ext4.Options{Size: 20 << 30}); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
