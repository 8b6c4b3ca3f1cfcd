// Package ext4 writes ext4 filesystem images in one pass, without root and without a mount.
//
// A Writer applies OCI layers, bottom first, straight into an image file: file
// data goes to disk in the order it leaves the layer, the tree lives in memory,
// and Finish writes directories, bitmaps, inode tables and superblocks behind
// the data. Nothing of a layer is ever a path on the host. Empty writes the
// filesystem of a new, empty disk.
//
// The images use 4096-byte blocks, 256-byte inodes, extents, 64-bit group
// descriptors, flex_bg, sparse_super with backups, metadata_csum, dir_index and
// meta_bg. With meta_bg the place of every group descriptor is known before the
// size of the filesystem is, which is what lets data come first, and the
// filesystem grows online without reserved blocks.
//
// The format is that of the kernel's Documentation/filesystems/ext4 and
// fs/ext4/{ext4.h,hash.c,xattr.c}. Layers are hostile input: every limit in
// Options is enforced before memory, time or disk is spent.
package ext4

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"time"

	"banger/internal/errs"
)

// Sizes of the format, in bytes unless the name says blocks.
const (
	blockSize      = 4096
	blocksPerGroup = 8 * blockSize
	inodeSize      = 256
	descSize       = 64
	descsPerBlock  = blockSize / descSize // also the groups of one meta group
	inodesPerBlock = blockSize / inodeSize
	superOffset    = 1024
	superSize      = 1024
)

// Inode numbers with a fixed meaning.
const (
	rootInode      = 2
	journalInode   = 8
	firstFreeInode = 11 // lost+found
)

// Defaults and fixed limits.
const (
	defaultMaxBytes   = 64 << 30
	defaultMaxEntries = 1 << 20
	bytesPerInode     = 16384
	maxInodesPerGroup = 8 * blockSize
	minGroupBlocks    = 64 // a last group shorter than its metadata plus this is dropped or padded
	minSize           = 1 << 20
	maxSize           = 16 << 40
	metaBytesPerEntry = 128 // budget of names, link targets and xattrs, times MaxEntries
)

// NoJournal as Options.Journal makes a filesystem without a journal.
const NoJournal = -1

// Options says what filesystem to write. The zero value is usable.
type Options struct {
	// Size is the size of the image in bytes, 1 MiB to 16 TiB, rounded down to
	// whole blocks.
	// Zero (not for Empty): just as large as the content needs.
	Size int64
	// Label is the volume name, at most 16 bytes.
	Label string
	// UUID identifies the filesystem and seeds its checksums and directory
	// hashes; zero: random.
	UUID [16]byte
	// Time is the time of creation and of all that no layer gives a time;
	// zero: now. With UUID and Time given the image is a function of the layers.
	Time time.Time
	// Journal is the journal's size in bytes. Zero: chosen by Size. NoJournal: none.
	Journal int64
	// MaxBytes limits the length of the image, and separately the sum of all
	// file sizes of all layers, holes included. Zero: Size, or 64 GiB without one.
	MaxBytes int64
	// MaxEntries limits the number of names in the tree, and with it memory
	// (about 200 bytes each). Zero: 1 Mi.
	MaxEntries int
}

// Stats describes a finished image.
type Stats struct {
	Size          int64 // length of the image file in bytes
	Used          int64 // bytes of blocks in use, metadata and journal included
	Inodes        int   // inodes in use, the reserved ones included
	Entries       int   // names in the tree
	Data          int64 // bytes of file content written, overwritten content included
	SkippedXattrs int   // attributes of namespaces that Linux does not have
}

// Writer makes one image. It is not safe for concurrent use.
type Writer struct {
	f     *os.File
	o     Options
	geo   geometry
	out   *output
	alloc allocator
	tree  tree
	xattr xattrTable
	csum  uint32 // checksum seed made of the UUID
	hash  [4]uint32

	layer    uint32 // number of the layer being applied, from 1
	content  int64  // sum of file sizes of all layers
	stats    Stats
	inodes   []*node // by number - 1, from Finish on
	journal  *node
	err      error // first failure: the image is lost
	finished bool
}

// Empty writes an empty filesystem of o.Size bytes into the regular file f,
// whose old content is dropped. The file is sparse: what is allocated grows
// with the number of groups, about 64 bytes for each 128 MiB three times over,
// and never with the size. It grows online by EXT4_IOC_RESIZE_FS. Empty does
// not sync the file; after a failure its content is undefined.
func Empty(f *os.File, o Options) error {
	if o.Size <= 0 {
		return errs.New(errs.InvalidData, "make an empty filesystem: size %d", o.Size)
	}
	w, err := New(f, o)
	if err != nil {
		return err
	}
	defer w.Close()
	_, err = w.Finish()
	return err
}

// New starts an image in the regular file f, whose old content is dropped.
// The caller owns f and publishes it after Finish; it must call Close.
func New(f *os.File, o Options) (*Writer, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("make filesystem: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, errs.New(errs.Precondition, "make filesystem in %s: not a regular file", f.Name())
	}
	if err := f.Truncate(0); err != nil {
		return nil, fmt.Errorf("make filesystem: %w", err)
	}
	w := &Writer{f: f, o: o, out: newOutput(f)}
	w.csum = crc(^uint32(0), o.UUID[:])
	for i := range w.hash {
		w.hash[i] = crc(w.csum, []byte{'h', byte(i)})
	}
	w.geo.setSize(o.Size)
	limit := uint64(o.MaxBytes / blockSize)
	if o.Size > 0 {
		limit = w.geo.blocks
	}
	w.alloc.init(limit)
	w.tree.init(o)
	w.tree.gone = w.forget
	if err := w.placeJournal(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// fill checks the options and sets what is not given.
func (o *Options) fill() error {
	if o.Size < 0 || o.MaxBytes < 0 || o.MaxEntries < 0 {
		return errs.New(errs.InvalidData, "make filesystem: negative size or limit")
	}
	if o.Size > 0 && o.Size < minSize || o.Size > maxSize || o.MaxBytes > maxSize {
		return errs.New(errs.InvalidData, "make filesystem: a size of %d bytes is outside %d to %d", max(o.Size, o.MaxBytes), minSize, int64(maxSize))
	}
	if len(o.Label) > 16 {
		return errs.New(errs.InvalidData, "make filesystem: label %q is over 16 bytes", o.Label)
	}
	if o.MaxBytes == 0 {
		if o.MaxBytes = o.Size; o.Size == 0 {
			o.MaxBytes = defaultMaxBytes
		}
	}
	if o.Size > 0 {
		o.Size &^= blockSize - 1
		o.MaxBytes = min(o.MaxBytes, o.Size)
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = defaultMaxEntries
	}
	if o.UUID == ([16]byte{}) {
		if _, err := io.ReadFull(rand.Reader, o.UUID[:]); err != nil {
			return fmt.Errorf("make filesystem: %w", err)
		}
		o.UUID[6], o.UUID[8] = o.UUID[6]&0x0f|0x40, o.UUID[8]&0x3f|0x80
	}
	if o.Time.IsZero() {
		o.Time = time.Now()
	}
	if o.Journal == 0 {
		o.Journal = journalSize(o.Size)
	}
	if o.Journal > 0 && (o.Journal < 1024*blockSize || o.Journal > 1<<30) {
		return errs.New(errs.InvalidData, "make filesystem: a journal of %d bytes is outside 4 MiB to 1 GiB", o.Journal)
	}
	return nil
}

// journalSize is the default journal for a filesystem of size bytes; 0 is an image
// as large as its content. A journal below 1024 blocks is not allowed by the format.
func journalSize(size int64) int64 {
	switch {
	case size == 0:
		return 32 << 20
	case size < 32<<20:
		return NoJournal
	case size < 256<<20:
		return 4 << 20
	case size < 2<<30:
		return 16 << 20
	case size < 16<<30:
		return 32 << 20
	}
	return 64 << 20
}

// Close gives the image up, or ends its use after Finish: it stops the
// goroutine that writes and frees the tree. It does not close the file.
// Calling it again does nothing.
func (w *Writer) Close() {
	w.out.stop()
	w.tree = tree{}
	w.inodes = nil
	if w.err == nil {
		w.err = errs.New(errs.Precondition, "ext4 writer is closed")
	}
}

// fail records the first error: a writer that failed once writes no filesystem.
func (w *Writer) fail(err error) error {
	if w.err == nil && err != nil {
		w.err = err
	}
	return err
}

// le is the byte order of everything on disk but the journal.
var le = binary.LittleEndian
