package ext4

import (
	"cmp"
	"slices"

	"banger/internal/errs"
)

// Directories: Documentation/filesystems/ext4/directory.rst. One that fits into
// a block is a list; a bigger one is an htree whose blocks are sorted by hash.
const (
	dirTail      = 12 // checksum entry at the end of a block of names
	dirRoom      = blockSize - dirTail
	dxRootOffset = 32 // count and limit in the root block
	dxNodeOffset = 8  // the same in an index block
	dxRootLimit  = (blockSize-dxRootOffset)/8 - 1
	dxNodeLimit  = (blockSize-dxNodeOffset)/8 - 1
)

// item is a name on its way to disk.
type item struct {
	name  string
	ino   uint32
	hash  uint32
	minor uint32
	typ   byte
}

func (i *item) size() int { return round4(8 + len(i.name)) }

// fileType is the type of an inode as directories tell it.
func fileType(mode uint16) byte {
	switch mode & modeType {
	case modeRegular:
		return 1
	case modeDir:
		return 2
	case modeChar:
		return 3
	case modeBlock:
		return 4
	case modeFifo:
		return 5
	case modeSymlink:
		return 7
	}
	return 0
}

// sortedNames is the names of a directory in byte order.
func sortedNames(d *directory) []string {
	names := make([]string, 0, len(d.names))
	for k := range d.names {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// writeDir writes the blocks of directory n.
func (w *Writer) writeDir(n *node) error {
	used := 12 + 12
	items := make([]item, 0, len(n.dir.names))
	for _, name := range sortedNames(n.dir) {
		c := n.dir.names[name].node
		it := item{name: name, ino: c.ino, typ: fileType(c.mode)}
		used += it.size()
		items = append(items, it)
	}
	if n == w.tree.root.dir.names[lostFound].node && used <= dirRoom {
		return w.writeLostFound(n, items)
	}
	if used <= dirRoom {
		b := newDirBlock(w, n)
		b.dots(n)
		for i := range items {
			b.put(&items[i])
		}
		return w.writeDirBlocks(n, b.seal())
	}
	return w.writeIndexedDir(n, items)
}

// writeLostFound writes lost+found with empty blocks to spare, as e2fsck wants it.
func (w *Writer) writeLostFound(n *node, items []item) error {
	b := newDirBlock(w, n)
	b.dots(n)
	for i := range items {
		b.put(&items[i])
	}
	out := b.seal()
	for range 3 {
		out = append(out, newDirBlock(w, n).seal()...)
	}
	return w.writeDirBlocks(n, out)
}

// dirBlock is one block of names being filled.
type dirBlock struct {
	b    []byte
	pos  int
	last int // offset of the last entry
	seed uint32
}

func newDirBlock(w *Writer, n *node) *dirBlock {
	return &dirBlock{b: make([]byte, blockSize), seed: w.inodeSeed(n.ino)}
}

func (d *dirBlock) put(it *item) {
	p := d.b[d.pos:]
	le.PutUint32(p, it.ino)
	le.PutUint16(p[4:], uint16(it.size()))
	p[6], p[7] = byte(len(it.name)), it.typ
	copy(p[8:], it.name)
	d.last = d.pos
	d.pos += it.size()
}

func (d *dirBlock) dots(n *node) {
	d.put(&item{name: ".", ino: n.ino, typ: 2})
	d.put(&item{name: "..", ino: n.dir.parent.ino, typ: 2})
}

// seal stretches the last entry to the end and adds the checksum.
func (d *dirBlock) seal() []byte {
	le.PutUint16(d.b[d.last+4:], uint16(dirRoom-d.last))
	t := d.b[dirRoom:]
	le.PutUint16(t[4:], dirTail)
	t[7] = 0xde
	le.PutUint32(t[8:], crc(d.seed, d.b[:dirRoom]))
	return d.b
}

// leaf is a finished block of names and the hash its index entry has.
type leaf struct {
	hash  uint32
	block uint32 // logical, in the directory
}

// writeIndexedDir writes an htree: the root in block 0, index blocks when the
// root cannot name all leaves, then the leaves.
func (w *Writer) writeIndexedDir(n *node, items []item) error {
	for i := range items {
		items[i].hash, items[i].minor = dirHash(w.hash, items[i].name)
	}
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.minor, b.minor), cmp.Compare(a.name, b.name))
	})
	starts := packLeaves(items)
	nodes := 0
	if len(starts) > dxRootLimit {
		nodes = (len(starts) + dxNodeLimit - 1) / dxNodeLimit
	}
	if nodes > dxRootLimit {
		return errs.New(errs.Exhausted, "a directory of %d names is too big", len(items))
	}
	leaves := make([]leaf, len(starts))
	for i, s := range starts {
		leaves[i] = leaf{items[s].hash, uint32(1 + nodes + i)}
		if i > 0 && items[s-1].hash == items[s].hash {
			leaves[i].hash |= 1 // goes on from the leaf before
		}
	}
	n.flags |= flagIndexed
	out := make([]byte, 0, (1+nodes)*blockSize)
	if nodes == 0 {
		out = append(out, w.dxRoot(n, leaves, 0)...)
	} else {
		top := make([]leaf, nodes)
		for i := range top {
			top[i] = leaf{leaves[i*dxNodeLimit].hash, uint32(1 + i)}
		}
		out = append(out, w.dxRoot(n, top, 1)...)
		for i := range top {
			out = append(out, w.dxNode(n, leaves[i*dxNodeLimit:min((i+1)*dxNodeLimit, len(leaves))])...)
		}
	}
	if err := w.writeDirBlocks(n, out); err != nil {
		return err
	}
	for i, s := range starts {
		end := len(items)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		b := newDirBlock(w, n)
		for j := s; j < end; j++ {
			b.put(&items[j])
		}
		if err := w.writeDirBlocks(n, b.seal()); err != nil {
			return err
		}
	}
	return nil
}

// packLeaves divides sorted names into full blocks: the index of each block's first.
func packLeaves(items []item) []int {
	starts := []int{0}
	used := 0
	for i := range items {
		if used += items[i].size(); used > dirRoom {
			starts = append(starts, i)
			used = items[i].size()
		}
	}
	return starts
}

// dxRoot makes the first block of an indexed directory.
func (w *Writer) dxRoot(n *node, kids []leaf, levels byte) []byte {
	d := newDirBlock(w, n)
	d.dots(n)
	le.PutUint16(d.b[12+4:], blockSize-12) // ".." spans the rest for readers without htree
	d.b[28] = 1                            // half MD4
	d.b[29] = 8                            // size of this header
	d.b[30] = levels
	putIndexEntries(d.b, dxRootOffset, dxRootLimit, kids, d.seed)
	return d.b
}

// dxNode makes an index block; its first eight bytes are an unused entry that
// spans the block.
func (w *Writer) dxNode(n *node, kids []leaf) []byte {
	b := make([]byte, blockSize)
	le.PutUint16(b[4:], blockSize)
	putIndexEntries(b, dxNodeOffset, dxNodeLimit, kids, w.inodeSeed(n.ino))
	return b
}

// putIndexEntries writes limit, count and entries at off, and the checksum
// behind the last possible entry. The first entry has no hash.
func putIndexEntries(b []byte, off, limit int, kids []leaf, seed uint32) {
	le.PutUint16(b[off:], uint16(limit))
	le.PutUint16(b[off+2:], uint16(len(kids)))
	for i, k := range kids {
		p := b[off+8*i:]
		if i > 0 {
			le.PutUint32(p, k.hash)
		}
		le.PutUint32(p[4:], k.block)
	}
	sum := crc(seed, b[:off+8*len(kids)])
	sum = crc(sum, make([]byte, 8)) // reserved word, checksum as zero
	le.PutUint32(b[off+8*limit+4:], sum)
}

// writeDirBlocks appends whole blocks to directory n.
func (w *Writer) writeDirBlocks(n *node, b []byte) error {
	runs, err := w.alloc.takeAll(uint64(len(b) / blockSize))
	if err != nil {
		return err
	}
	for _, r := range runs {
		k := r.len * blockSize
		if err := w.out.write(b[:k], int64(r.start)*blockSize); err != nil {
			return err
		}
		n.addExtent(uint32(n.size/blockSize), r)
		n.size += int64(k)
		b = b[k:]
	}
	return nil
}

func roundBlock(n int) int { return (n + blockSize - 1) &^ (blockSize - 1) }
