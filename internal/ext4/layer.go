package ext4

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"banger/internal/errs"
)

// Names that say what a layer takes away from the layers below it (OCI image
// specification, layer.md).
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // aufs's own files, never part of an image
)

const (
	dataUnit = 64 << 10 // bytes read at once; a unit of zeros becomes a hole
	maxUID   = 1<<32 - 2
)

// ApplyLayer applies one layer, an uncompressed tar stream, on top of what the
// image has. Whiteouts take away what lower layers put there, whatever their
// place in the stream. The stream is read to its end. A malformed or hostile
// layer is InvalidData, a limit of Options that is passed is Exhausted; after
// any error the image is lost and only Close is left to call.
func (w *Writer) ApplyLayer(ctx context.Context, tarStream io.Reader) error {
	if w.err != nil {
		return w.err
	}
	if w.finished {
		return errs.New(errs.Precondition, "apply a layer to a finished image")
	}
	w.layer++
	if err := w.applyLayer(ctx, tarStream); err != nil {
		return w.fail(err)
	}
	return nil
}

func (w *Writer) applyLayer(ctx context.Context, r io.Reader) error {
	in := &source{ctx: ctx, r: r}
	tr := tar.NewReader(in)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) && in.err == nil {
			_, err = io.Copy(io.Discard, in) // what follows is padding; its digest may matter to the caller
			return err
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return in.explain("next entry", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := w.applyEntry(ctx, h, tr); err != nil {
			return in.explain(fmt.Sprintf("entry %q", shorten(h.Name)), err)
		}
	}
}

// source is the layer's stream: it stops with the context and remembers its own
// failures, so that they are told apart from malformed data.
type source struct {
	ctx context.Context
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		s.err = context.Cause(s.ctx)
		return 0, s.err
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// explain gives an error of the tar reader or of an entry its class: the stream's
// own failure as it is, an error with a class or an errno as it is, else InvalidData.
func (s *source) explain(what string, err error) error {
	if s.err != nil {
		return fmt.Errorf("%s: %w", what, s.err)
	}
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errs.ClassOf(err) == errs.Internal {
		var sys *os.PathError
		if !errors.As(err, &sys) {
			return errs.New(errs.InvalidData, "%s: %w", what, err)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

func shorten(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}

// applyEntry applies one entry of a layer; r is its content.
func (w *Writer) applyEntry(ctx context.Context, h *tar.Header, r io.Reader) error {
	parent, name, err := splitPath(h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return errs.New(errs.InvalidData, "the name is a directory's, the type %q is not", h.Typeflag)
		}
		dir, err := w.tree.walk(parent, w.layer, true)
		if err != nil {
			return err
		}
		dir.dir.layer = w.layer
		return w.setMeta(dir, h)
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return w.whiteout(parent, name)
	}
	dir, err := w.tree.walk(parent, w.layer, true)
	if err != nil {
		return err
	}
	switch {
	case h.Typeflag == tar.TypeDir:
		return w.applyDir(h, dir, name)
	case dir == w.tree.root && name == lostFound:
		return errs.New(errs.InvalidData, "lost+found is not a directory")
	case h.Typeflag == tar.TypeLink:
		return w.applyLink(h, dir, name)
	}
	n, err := w.newNode(ctx, h, r)
	if err != nil {
		return err
	}
	if _, exists := dir.dir.names[name]; exists {
		w.tree.remove(dir, name)
	}
	return w.tree.add(dir, name, entry{n, w.layer})
}

// whiteout removes what lower layers put at a name, or everywhere in a directory.
func (w *Writer) whiteout(parent []string, name string) error {
	dir, err := w.tree.walk(parent, w.layer, false)
	if errors.Is(err, errNoDir) {
		return nil
	}
	if err != nil {
		return err
	}
	if name == whiteoutOpaque {
		w.tree.prune(dir, w.layer)
		return nil
	}
	if strings.HasPrefix(name, whiteoutMeta) {
		return nil
	}
	switch victim := strings.TrimPrefix(name, whiteoutPrefix); victim {
	case "", ".", "..":
		return errs.New(errs.InvalidData, "a whiteout of %q", victim)
	default:
		if e, ok := dir.dir.names[victim]; ok {
			w.tree.pruneName(dir, victim, e, w.layer)
		}
	}
	return nil
}

// applyDir makes a directory or gives an existing one new metadata.
func (w *Writer) applyDir(h *tar.Header, dir *node, name string) error {
	e, ok := dir.dir.names[name]
	if ok && !e.node.isDir() {
		w.tree.remove(dir, name)
		ok = false
	}
	if !ok {
		n, err := w.tree.mkdir(dir, name, w.layer)
		if err != nil {
			return err
		}
		e = entry{n, w.layer}
	}
	e.node.dir.layer = w.layer
	return w.setMeta(e.node, h)
}

// applyLink gives an existing inode one more name. The target may be of a lower
// layer; replacing that name there later leaves this one as it is.
func (w *Writer) applyLink(h *tar.Header, dir *node, name string) error {
	missing := errs.New(errs.InvalidData, "the hard link's target %q does not exist", shorten(h.Linkname))
	parent, base, err := splitPath(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link target %q: %w", shorten(h.Linkname), err)
	}
	from, err := w.tree.walk(parent, w.layer, false)
	if errors.Is(err, errNoDir) {
		return missing
	}
	if err != nil {
		return err
	}
	target, ok := from.dir.names[base]
	if !ok {
		if base == "" {
			return errs.New(errs.InvalidData, "a hard link to a directory")
		}
		return missing
	}
	n := target.node
	if n.isDir() {
		return errs.New(errs.InvalidData, "a hard link to the directory %q", shorten(h.Linkname))
	}
	old, exists := dir.dir.names[name]
	if exists && old.node == n {
		dir.dir.names[name] = entry{n, w.layer}
		return nil
	}
	if n.links >= maxLinks {
		return errs.New(errs.InvalidData, "over %d hard links to one file", maxLinks)
	}
	n.links++ // before the removal, which may take its last name
	if exists {
		w.tree.remove(dir, name)
	}
	return w.tree.add(dir, name, entry{n, w.layer})
}

// newNode makes the inode of an entry that is neither directory nor hard link.
func (w *Writer) newNode(ctx context.Context, h *tar.Header, r io.Reader) (*node, error) {
	n := &node{links: 1}
	var err error
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		n.mode = modeRegular
		err = w.readData(ctx, n, h.Size, r)
	case tar.TypeSymlink:
		n.mode = modeSymlink
		err = w.setTarget(n, h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		n.mode = modeChar
		if h.Typeflag == tar.TypeBlock {
			n.mode = modeBlock
		}
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			err = errs.New(errs.InvalidData, "device number %d:%d", h.Devmajor, h.Devminor)
		}
		n.rdev = uint32(h.Devmajor)<<20 | uint32(h.Devminor)&0xfffff
	case tar.TypeFifo:
		n.mode = modeFifo
	default:
		err = errs.New(errs.InvalidData, "entry type %q", h.Typeflag)
	}
	if err != nil {
		return nil, err
	}
	return n, w.setMeta(n, h)
}

// setTarget makes n a symlink to target. Long targets take a block.
func (w *Writer) setTarget(n *node, target string) error {
	if target == "" || len(target) > maxTarget || strings.IndexByte(target, 0) >= 0 {
		return errs.New(errs.InvalidData, "a symlink target of %d bytes", len(target))
	}
	if err := w.tree.charge(len(target)); err != nil {
		return err
	}
	n.size = int64(len(target))
	n.side().target = strings.Clone(target)
	if len(target) < fastSymlink {
		return nil
	}
	var b [blockSize]byte
	copy(b[:], target)
	s, err := w.writeRun(b[:])
	if err != nil {
		return err
	}
	n.ext = extent{0, 1, s}
	return nil
}

// setMeta gives n the owner, mode, time and attributes of an entry.
func (w *Writer) setMeta(n *node, h *tar.Header) error {
	if h.Uid < 0 || h.Uid > maxUID || h.Gid < 0 || h.Gid > maxUID {
		return errs.New(errs.InvalidData, "owner %d:%d", h.Uid, h.Gid)
	}
	if h.Mode < 0 {
		return errs.New(errs.InvalidData, "mode %#o", h.Mode)
	}
	perm := uint16(h.Mode & 0o7777)
	if n.isSymlink() {
		perm = 0o777
	}
	n.mode = n.mode&modeType | perm
	n.uid, n.gid = uint32(h.Uid), uint32(h.Gid)
	n.sec, n.nsec = splitTime(h.ModTime)
	set, err := w.readXattrs(n, h.PAXRecords)
	if err != nil {
		return err
	}
	n.xattrs = set
	return nil
}

// readData copies size bytes of r to the next free blocks and maps them into n.
// Long runs of zeros take no block.
func (w *Writer) readData(ctx context.Context, n *node, size int64, r io.Reader) error {
	if size < 0 || size > w.o.MaxBytes-w.content {
		return errs.New(errs.Exhausted, "a file of %d bytes: the files of all layers are over the limit of %d bytes", size, w.o.MaxBytes)
	}
	w.content += size
	n.size = size
	for pos := int64(0); pos < size; {
		if pos%(64*dataUnit) == 0 && ctx.Err() != nil { // a sparse entry reads no stream
			return context.Cause(ctx)
		}
		a := &w.alloc
		if err := w.out.at(int64(a.next) * blockSize); err != nil {
			return err
		}
		max := min(size-pos, dataUnit, int64(a.room())*blockSize)
		b, err := w.out.space(int(max+blockSize-1) &^ (blockSize - 1))
		if err != nil {
			return err
		}
		got := min(int64(len(b)), max)
		if err := fillFrom(r, b[:got]); err != nil {
			return err
		}
		if !allZero(b[:got]) {
			blocks := (got + blockSize - 1) / blockSize
			clear(b[got : blocks*blockSize])
			start, err := a.take(uint64(blocks))
			if err != nil {
				return err
			}
			w.out.advance(int(blocks * blockSize))
			n.addExtent(uint32(pos/blockSize), span{start, uint64(blocks)})
			w.stats.Data += got
		}
		pos += got
	}
	return nil
}

// writeRun writes whole blocks to the next free place and returns its first block.
func (w *Writer) writeRun(b []byte) (uint64, error) {
	start, err := w.alloc.takeRun(uint64(len(b) / blockSize))
	if err != nil {
		return 0, err
	}
	return start, w.out.write(b, int64(start)*blockSize)
}

// forget gives back the blocks of an inode that lost its last name.
func (w *Writer) forget(n *node) {
	for _, e := range n.extents() {
		w.alloc.give(span{e.start, uint64(e.len)})
	}
}
