package cpio

import (
	"bytes"
	"fmt"
	"io"
)

// Initramfs writes the guest's first root: the agent as /init, the two devices that the
// kernel and Go's runtime want before anything is mounted, and the directories that the
// agent mounts on. Equal agents give equal bytes. It is not compressed: unpacking would
// cost more than the page cache does.
func Initramfs(w io.Writer, agent []byte) error {
	archive := NewWriter(w)
	for _, name := range []string{"dev", "proc", "sys", "lower", "upper", "work", "new"} {
		if err := archive.Add(Entry{Name: name, Mode: TypeDir | 0o755}, nil); err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
	}
	entries := []Entry{
		{Name: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: TypeChar | 0o666, Major: 1, Minor: 3},
		{Name: "init", Mode: TypeFile | 0o755, Size: int64(len(agent))},
	}
	for _, e := range entries {
		if err := archive.Add(e, bytes.NewReader(agent)); err != nil {
			return fmt.Errorf("initramfs: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}
