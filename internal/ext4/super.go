package ext4

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Features, by the superblock's three words.
const (
	compatJournal  = 0x4
	compatXattr    = 0x8
	compatDirIndex = 0x20

	incompatFileType = 0x2
	incompatMetaBG   = 0x10
	incompatExtents  = 0x40
	incompat64Bit    = 0x80
	incompatFlexBG   = 0x200
	incompatEAInode  = 0x400

	roSparseSuper = 0x1
	roLargeFile   = 0x2
	roHugeFile    = 0x8
	roDirNlink    = 0x20
	roExtraISize  = 0x40
	roMetaCsum    = 0x400
)

// writeDescs writes the group descriptors, each block of them to the first,
// second and last group of its meta group.
func (w *Writer) writeDescs(m *meta) error {
	for first := uint64(0); first < w.geo.groups; first += descsPerBlock {
		b := make([]byte, blockSize)
		last := min(first+descsPerBlock, w.geo.groups)
		for g := first; g < last; g++ {
			w.putDesc(b[(g-first)*descSize:(g-first+1)*descSize], uint32(g), &m.groups[g])
		}
		for _, g := range [...]uint64{first, first + 1, first + descsPerBlock - 1} {
			if g >= w.geo.groups {
				continue
			}
			if err := w.out.write(b, int64(descBlock(g))*blockSize); err != nil {
				return err
			}
		}
	}
	return nil
}

// putDesc writes one descriptor (Documentation/filesystems/ext4/group_descr.rst).
func (w *Writer) putDesc(b []byte, number uint32, g *group) {
	lo := func(off, hi int, v uint32) { // a count in two halves of 16 bits
		le.PutUint16(b[off:], uint16(v))
		le.PutUint16(b[hi:], uint16(v>>16))
	}
	at := func(off, hi int, v uint64) { // a block in two halves of 32 bits
		le.PutUint32(b[off:], uint32(v))
		le.PutUint32(b[hi:], uint32(v>>32))
	}
	at(0x00, 0x20, g.blockBitmap)
	at(0x04, 0x24, g.inodeBitmap)
	at(0x08, 0x28, g.inodeTable)
	lo(0x0c, 0x2c, g.freeBlocks)
	lo(0x0e, 0x2e, uint32(w.geo.ipg)-g.usedInodes)
	lo(0x10, 0x30, g.dirs)
	le.PutUint16(b[0x12:], g.flags)
	lo(0x18, 0x38, g.blockSum)
	lo(0x1a, 0x3a, g.inodeSum)
	lo(0x1c, 0x32, uint32(w.geo.ipg)-g.lastInode)
	le.PutUint16(b[0x1e:], uint16(crc(crc32le(w.csum, number), b)))
}

// writeSupers writes the superblock and its copies.
func (w *Writer) writeSupers(m *meta) error {
	s := w.super(m)
	for g := uint64(0); g < w.geo.groups; g++ {
		if !hasSuper(g) {
			continue
		}
		at := int64(g) * blocksPerGroup * blockSize
		if g == 0 {
			at = superOffset
		}
		le.PutUint16(s[0x5a:], uint16(g))
		le.PutUint32(s[0x3fc:], crc(^uint32(0), s[:0x3fc]))
		if err := w.out.writeAlone(s, at); err != nil {
			return err
		}
	}
	return nil
}

// super makes the superblock (Documentation/filesystems/ext4/super.rst), without
// what differs between copies.
func (w *Writer) super(m *meta) []byte {
	s := make([]byte, superSize)
	inodes := w.geo.ipg * w.geo.groups
	now := w.o.Time.Unix()
	le.PutUint32(s[0x00:], uint32(inodes))
	le.PutUint32(s[0x04:], uint32(w.geo.blocks))
	le.PutUint32(s[0x150:], uint32(w.geo.blocks>>32))
	le.PutUint32(s[0x0c:], uint32(m.free))
	le.PutUint32(s[0x158:], uint32(m.free>>32))
	le.PutUint32(s[0x10:], uint32(inodes)-uint32(len(w.inodes)))
	le.PutUint32(s[0x18:], 2) // block size: 1024 << 2
	le.PutUint32(s[0x1c:], 2) // cluster size
	le.PutUint32(s[0x20:], blocksPerGroup)
	le.PutUint32(s[0x24:], blocksPerGroup)
	le.PutUint32(s[0x28:], uint32(w.geo.ipg))
	putTime40(s, 0x30, 0x274, now) // last write
	le.PutUint16(s[0x36:], 0xffff) // no check after a number of mounts
	le.PutUint16(s[0x38:], 0xEF53)
	le.PutUint16(s[0x3a:], 1)      // clean
	le.PutUint16(s[0x3c:], 1)      // on errors: continue
	putTime40(s, 0x40, 0x277, now) // last check
	le.PutUint32(s[0x4c:], 1)      // revision: dynamic
	le.PutUint32(s[0x54:], firstFreeInode)
	le.PutUint16(s[0x58:], inodeSize)
	compat := uint32(compatXattr | compatDirIndex)
	if w.journal != nil {
		compat |= compatJournal
	}
	incompat := uint32(incompatFileType | incompatMetaBG | incompatExtents | incompat64Bit | incompatFlexBG)
	if len(w.xattr.big) > 0 {
		incompat |= incompatEAInode
	}
	le.PutUint32(s[0x5c:], compat)
	le.PutUint32(s[0x60:], incompat)
	le.PutUint32(s[0x64:], roSparseSuper|roLargeFile|roHugeFile|roDirNlink|roExtraISize|roMetaCsum)
	copy(s[0x68:], w.o.UUID[:])
	copy(s[0x78:], w.o.Label)
	if w.journal != nil {
		w.putJournal(s)
	}
	for i, h := range w.hash {
		le.PutUint32(s[0xec+4*i:], h)
	}
	s[0xfc] = 1 // half MD4
	le.PutUint16(s[0xfe:], descSize)
	le.PutUint32(s[0x100:], 0xc) // mount options: user_xattr, acl
	putTime40(s, 0x108, 0x276, now)
	le.PutUint16(s[0x15c:], extraSize)
	le.PutUint16(s[0x15e:], extraSize)
	le.PutUint32(s[0x160:], 1) // directory hashes take characters as signed
	s[0x174] = 4               // 16 groups in a flex group
	s[0x175] = 1               // crc32c
	return s
}

// putTime40 writes a time of the superblock: 32 bits and 8 more elsewhere.
func putTime40(s []byte, at, high int, sec int64) {
	le.PutUint32(s[at:], uint32(sec))
	s[high] = byte(sec >> 32)
}

// placeJournal reserves the journal's blocks, before any data.
func (w *Writer) placeJournal() error {
	if w.o.Journal <= 0 {
		return nil
	}
	size := w.o.Journal &^ (blockSize - 1)
	runs, err := w.alloc.takeAll(uint64(size / blockSize))
	if err != nil {
		return err
	}
	sec, nsec := splitTime(w.o.Time)
	w.journal = &node{mode: modeRegular | 0o600, links: 1, sec: sec, nsec: nsec}
	for _, r := range runs {
		for r.len > 0 {
			n := min(r.len, maxExtent)
			w.journal.addExtent(uint32(w.journal.size/blockSize), span{r.start, n})
			w.journal.size += int64(n) * blockSize
			r.start, r.len = r.start+n, r.len-n
		}
	}
	return nil
}

// putJournal names the journal in the superblock, with a copy of its map.
func (w *Writer) putJournal(s []byte) {
	le.PutUint32(s[0xe0:], journalInode)
	s[0xfd] = 1
	var b [inodeSize]byte
	w.putBlocks(b[:], w.journal)
	copy(s[0x10c:], b[offBlock:offBlock+60])
	le.PutUint32(s[0x10c+60:], uint32(w.journal.size>>32))
	le.PutUint32(s[0x10c+64:], uint32(w.journal.size))
}

// writeJournalSuper writes the superblock of an empty journal
// (Documentation/filesystems/ext4/journal.rst); everything in it is big endian.
func (w *Writer) writeJournalSuper() error {
	if w.journal == nil {
		return nil
	}
	be := binary.BigEndian
	b := make([]byte, blockSize)
	be.PutUint32(b[0x00:], 0xC03B3998)
	be.PutUint32(b[0x04:], 4) // superblock, version 2
	be.PutUint32(b[0x0c:], blockSize)
	be.PutUint32(b[0x10:], uint32(w.journal.size/blockSize))
	be.PutUint32(b[0x14:], 1) // first block of the log
	be.PutUint32(b[0x18:], 1) // first commit id; start stays 0: nothing to replay
	copy(b[0x30:], w.o.UUID[:])
	be.PutUint32(b[0x40:], 1) // users
	return w.out.write(b, int64(w.journal.extents()[0].start)*blockSize)
}

func countZeroBits(b []byte) uint32 {
	n := 0
	for i := 0; i < len(b); i += 8 {
		n += 64 - bits.OnesCount64(le.Uint64(b[i:]))
	}
	return uint32(n)
}

// writeAlone writes b, which need not be whole blocks, to a place of its own.
func (o *output) writeAlone(b []byte, off int64) error {
	if err := o.send(); err != nil {
		return err
	}
	if _, err := o.f.WriteAt(b, off); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}
