// Package cpio writes archives in the "newc" format, which the Linux kernel unpacks as
// its initramfs (Documentation/driver-api/early-userspace/buffer-format in its sources).
package cpio

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"banger/internal/errs"
)

// File types for Entry.Mode, as in the mode of a Unix file.
const (
	TypeDir  = 0o040000
	TypeFile = 0o100000
	TypeChar = 0o020000
)

// Entry describes one file. It belongs to root, and its times are 0.
type Entry struct {
	Name  string // relative, without ".." and without a slash at either end
	Mode  uint32 // type and permissions
	Major uint32 // of a device
	Minor uint32
	Size  int64 // of a regular file
}

const (
	maxName = 4096
	maxSize = 1<<32 - 1
	trailer = "TRAILER!!!"
)

// Writer writes one archive. After an error it is of no use.
type Writer struct {
	w   io.Writer
	off int64
	ino uint32
}

// NewWriter begins an archive.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Add writes an entry; content must have exactly Size bytes and may be nil when that is
// 0. A malformed entry is Usage, a content that is too short InvalidData.
func (w *Writer) Add(e Entry, content io.Reader) error {
	if err := check(e); err != nil {
		return err
	}
	w.ino++
	if err := w.header(e, w.ino); err != nil {
		return fmt.Errorf("write %s: %w", e.Name, err)
	}
	if e.Size > 0 {
		n, err := io.CopyN(w.w, content, e.Size)
		w.off += n
		if errors.Is(err, io.EOF) {
			return errs.New(errs.InvalidData, "write %s: content has %d bytes, want %d", e.Name, n, e.Size)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", e.Name, err)
		}
	}
	return w.pad()
}

// Close ends the archive; it does not close what it was written to.
func (w *Writer) Close() error { return w.header(Entry{Name: trailer}, 0) }

func check(e Entry) error {
	if e.Name == "" || len(e.Name) >= maxName || e.Name == trailer || strings.ContainsRune(e.Name, 0) {
		return errs.New(errs.Usage, "archive entry %q: not a name", e.Name)
	}
	for part := range strings.SplitSeq(e.Name, "/") {
		if part == "" || part == "." || part == ".." {
			return errs.New(errs.Usage, "archive entry %q: not a clean relative path", e.Name)
		}
	}
	if e.Size < 0 || e.Size > maxSize || e.Size > 0 && e.Mode&0o170000 != TypeFile {
		return errs.New(errs.Usage, "archive entry %q: size %d", e.Name, e.Size)
	}
	return nil
}

func (w *Writer) header(e Entry, ino uint32) error {
	links := 1
	if e.Mode&0o170000 == TypeDir {
		links = 2
	}
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, major, minor, rmajor, rminor,
	// namesize with the final zero, checksum (unused in this format)
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		ino, e.Mode, 0, 0, links, 0, e.Size, 0, 0, e.Major, e.Minor, len(e.Name)+1, 0, e.Name)
	n, err := io.WriteString(w.w, h)
	w.off += int64(n)
	if err != nil {
		return err
	}
	return w.pad()
}

// pad fills up to a multiple of four bytes, after a name as after a content.
func (w *Writer) pad() error {
	n, err := w.w.Write(make([]byte, -w.off&3))
	w.off += int64(n)
	return err
}
