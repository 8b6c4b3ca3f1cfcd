package ext4

import "golang.org/x/sys/unix"

// punchFreed gives the host the space of files that no layer above kept. It is
// an economy, not a need: where the host's file system cannot, nothing is lost.
func (w *Writer) punchFreed() {
	for _, s := range w.alloc.freed {
		_ = unix.Fallocate(int(w.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			int64(s.start)*blockSize, int64(s.len)*blockSize)
	}
}
