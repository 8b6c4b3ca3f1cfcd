package ext4

import (
	"cmp"
	"fmt"
	"slices"

	"banger/internal/errs"
)

// Finish writes everything but file data and makes the image a filesystem. It
// neither syncs nor renames: the caller publishes. After an error the image is lost.
func (w *Writer) Finish() (Stats, error) {
	if w.err != nil {
		return Stats{}, w.err
	}
	if w.finished {
		return Stats{}, errs.New(errs.Precondition, "finish a finished image")
	}
	w.finished = true
	if err := w.finish(); err != nil {
		return Stats{}, w.fail(fmt.Errorf("finish image: %w", err))
	}
	return w.stats, nil
}

func (w *Writer) finish() error {
	if err := w.number(); err != nil {
		return err
	}
	for _, n := range w.inodes {
		if n != nil && n.isDir() {
			if err := w.writeDir(n); err != nil {
				return err
			}
		}
	}
	if err := w.placeXattrs(); err != nil {
		return err
	}
	for _, n := range w.inodes {
		if n != nil {
			if err := w.writeExtentTree(n); err != nil {
				return err
			}
		}
	}
	m, err := w.placeMeta()
	if err != nil {
		return err
	}
	if err := w.f.Truncate(m.fileSize); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if err := w.writeInodes(m); err != nil {
		return err
	}
	if err := w.writeBitmaps(m); err != nil {
		return err
	}
	if err := w.writeDescs(m); err != nil {
		return err
	}
	if err := w.writeJournalSuper(); err != nil {
		return err
	}
	if err := w.writeSupers(m); err != nil {
		return err
	}
	if err := w.out.finish(); err != nil {
		return err
	}
	w.punchFreed()
	w.stats.Size = m.fileSize
	w.stats.Used = int64(w.geo.blocks-m.free) * blockSize
	w.stats.Inodes = len(w.inodes)
	w.stats.Entries = w.tree.entries
	return nil
}

// number gives every inode its number: depth first, a directory's names in
// order, so that what lies together is read together.
func (w *Writer) number() error {
	w.inodes = make([]*node, firstFreeInode, firstFreeInode+w.tree.entries)
	w.take(w.tree.root, rootInode)
	lf := w.tree.root.dir.names[lostFound].node
	w.take(lf, firstFreeInode)
	if w.journal != nil {
		w.take(w.journal, journalInode)
	}
	w.numberBelow(w.tree.root)
	if err := w.chooseXattrs(); err != nil {
		return err
	}
	for _, e := range w.xattr.big {
		w.takeNext(e.node)
	}
	return nil
}

func (w *Writer) numberBelow(d *node) {
	names := sortedNames(d.dir)
	for _, name := range names {
		if n := d.dir.names[name].node; n.ino == 0 {
			w.takeNext(n)
		}
	}
	for _, name := range names {
		if n := d.dir.names[name].node; n.isDir() {
			w.numberBelow(n)
		}
	}
}

func (w *Writer) takeNext(n *node) {
	w.inodes = append(w.inodes, nil)
	w.take(n, uint32(len(w.inodes)))
}

func (w *Writer) take(n *node, ino uint32) {
	n.ino = ino
	w.inodes[ino-1] = n
	if n.xattrs != nil {
		n.xattrs.users++
	}
}

// meta is where bitmaps and inode tables are, and what the groups have.
type meta struct {
	groups   []group
	end      uint64 // first block that nothing before the end of the image uses
	free     uint64 // blocks
	fileSize int64
}

type group struct {
	blockBitmap uint64
	inodeBitmap uint64
	inodeTable  uint64
	freeBlocks  uint32
	usedInodes  uint32
	lastInode   uint32 // index of the last used inode, plus one
	dirs        uint32
	flags       uint16
	blockSum    uint32
	inodeSum    uint32
}

const (
	groupInodeUninit = 1
	groupBlockUninit = 2
	groupInodeZeroed = 4
)

// placeMeta finds room for bitmaps and inode tables behind the data. Without a
// given size the filesystem gets as many groups as data, tables and inodes need.
func (w *Writer) placeMeta() (*meta, error) {
	inodes := uint64(len(w.inodes))
	before := w.alloc
	fixed := w.o.Size > 0
	if !fixed {
		w.geo.groups = (before.next + blocksPerGroup - 1) / blocksPerGroup
	}
	for {
		g := &w.geo
		g.ipg = inodesPerGroup(inodes, g, fixed)
		if g.ipg > maxInodesPerGroup {
			if fixed {
				return nil, errs.New(errs.Exhausted, "%d inodes need a bigger image than %d bytes", inodes, w.o.Size)
			}
			g.groups = (inodes + maxInodesPerGroup - 1) / maxInodesPerGroup
			continue
		}
		w.alloc = before
		w.alloc.freed = slices.Clone(before.freed)
		m := &meta{groups: make([]group, g.groups)}
		if err := w.placeTables(m); err != nil {
			return nil, err
		}
		m.end = w.alloc.next
		if need := (m.end + blocksPerGroup - 1) / blocksPerGroup; need > g.groups {
			g.groups = need // a fixed size cannot come here: its limit is the allocator's
			continue
		}
		if !fixed {
			last := (g.groups - 1) * blocksPerGroup
			g.blocks = max(m.end, last+overhead(g.groups-1)+minGroupBlocks)
			w.o.Size = int64(g.blocks) * blockSize
			if g.blocks > w.alloc.limit {
				return nil, errs.New(errs.Exhausted, "the image needs %d bytes, over the limit of %d", w.o.Size, w.o.MaxBytes)
			}
		}
		m.fileSize = w.o.Size
		return m, nil
	}
}

// inodesPerGroup is the size of the inode tables: an inode for each 16 KiB, and
// enough for those in use. It may be more than a group can have.
func inodesPerGroup(inodes uint64, g *geometry, fixed bool) uint64 {
	n := uint64(blocksPerGroup * blockSize / bytesPerInode)
	if fixed && g.groups == 1 {
		n = g.blocks * blockSize / bytesPerInode
	}
	n = max(n, (inodes+g.groups-1)/g.groups)
	return (n + inodesPerBlock - 1) &^ (inodesPerBlock - 1)
}

func (w *Writer) placeTables(m *meta) error {
	var err error
	for i := range m.groups {
		if m.groups[i].blockBitmap, err = w.alloc.takeRun(1); err != nil {
			return err
		}
	}
	for i := range m.groups {
		if m.groups[i].inodeBitmap, err = w.alloc.takeRun(1); err != nil {
			return err
		}
	}
	for i := range m.groups {
		if m.groups[i].inodeTable, err = w.alloc.takeRun(w.geo.ipg / inodesPerBlock); err != nil {
			return err
		}
	}
	return nil
}

// writeInodes writes the used part of the inode tables; the rest is a hole.
func (w *Writer) writeInodes(m *meta) error {
	var b [blockSize]byte
	for i := 0; i < len(w.inodes); i += inodesPerBlock {
		clear(b[:])
		g := &m.groups[uint64(i)/w.geo.ipg]
		first := uint64(i) % w.geo.ipg
		for j, n := range w.inodes[i:min(i+inodesPerBlock, len(w.inodes))] {
			g.usedInodes++
			g.lastInode = uint32(first) + uint32(j) + 1
			if n == nil {
				// reserved and unused: zeros, as mke2fs leaves them
				continue
			}
			if n.isDir() {
				g.dirs++
			}
			w.putInode(b[j*inodeSize:(j+1)*inodeSize], n)
		}
		at := g.inodeTable + first/inodesPerBlock
		if err := w.out.write(b[:], int64(at)*blockSize); err != nil {
			return err
		}
	}
	return nil
}

// writeBitmaps writes the bitmaps of all groups that have something in use, and
// counts. The other groups are marked as not initialised: the kernel makes
// their bitmaps when it first needs them.
func (w *Writer) writeBitmaps(m *meta) error {
	freed := joinSpans(w.alloc.freed, m.end)
	w.alloc.freed = freed
	ones := make([]byte, blockSize)
	for i := range ones {
		ones[i] = 0xff
	}
	b := make([]byte, blockSize)
	for i := range m.groups {
		g, start := &m.groups[i], uint64(i)*blocksPerGroup
		g.flags = groupInodeZeroed // the file is sparse: what was not written is zero
		length := w.geo.groupLen(uint64(i))
		if start >= m.end && uint64(i) != w.geo.groups-1 {
			g.flags |= groupBlockUninit
			g.freeBlocks = uint32(length - overhead(uint64(i)))
		} else {
			copy(b, ones)
			used := min(max(m.end, start), start+length) - start
			setBits(b, max(used, overhead(uint64(i))), length, false)
			for len(freed) > 0 && freed[0].start < start+length {
				s := freed[0]
				from, to := max(s.start, start), min(s.start+s.len, start+length)
				setBits(b, from-start, to-start, false)
				if s.start+s.len > start+length {
					break
				}
				freed = freed[1:]
			}
			g.freeBlocks = countZeroBits(b)
			g.blockSum = crc(w.csum, b)
			if err := w.out.write(b, int64(g.blockBitmap)*blockSize); err != nil {
				return err
			}
		}
		m.free += uint64(g.freeBlocks)
		if g.usedInodes == 0 {
			g.flags |= groupInodeUninit
			continue
		}
		copy(b, ones)
		setBits(b, uint64(g.lastInode), w.geo.ipg, false)
		g.inodeSum = crc(w.csum, b[:w.geo.ipg/8])
		if err := w.out.write(b, int64(g.inodeBitmap)*blockSize); err != nil {
			return err
		}
	}
	return nil
}

// joinSpans sorts runs of free blocks and joins those that touch. Nothing
// overlaps, and nothing lies behind end.
func joinSpans(s []span, end uint64) []span {
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	out := s[:0]
	for _, x := range s {
		if x.start >= end || x.len == 0 {
			continue
		}
		if n := len(out); n > 0 && out[n-1].start+out[n-1].len == x.start {
			out[n-1].len += x.len
			continue
		}
		out = append(out, x)
	}
	return out
}

// setBits sets the bits from up to, not including, to.
func setBits(b []byte, from, to uint64, on bool) {
	for from < to {
		if from%8 == 0 && to-from >= 8 {
			if b[from/8] = 0; on {
				b[from/8] = 0xff
			}
			from += 8
			continue
		}
		if mask := byte(1) << (from % 8); on {
			b[from/8] |= mask
		} else {
			b[from/8] &^= mask
		}
		from++
	}
}
