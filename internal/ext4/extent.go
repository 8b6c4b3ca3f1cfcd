package ext4

// Extent trees: Documentation/filesystems/ext4/ifork.rst. The inode holds four
// entries; a file with more extents has blocks of 340 entries below it, in as
// many levels as it takes.
const (
	extentMagic      = 0xF30A
	extentsInInode   = 4
	extentsPerBlock  = (blockSize - 12) / 12
	extentHeaderSize = 12
)

// putExtentHeader writes a node's header.
func putExtentHeader(b []byte, entries, max, depth int) {
	le.PutUint16(b[0:], extentMagic)
	le.PutUint16(b[2:], uint16(entries))
	le.PutUint16(b[4:], uint16(max))
	le.PutUint16(b[6:], uint16(depth))
}

// putExtents writes a leaf node.
func putExtents(b []byte, exts []extent, max int) {
	putExtentHeader(b, len(exts), max, 0)
	for i, e := range exts {
		p := b[extentHeaderSize+12*i:]
		le.PutUint32(p, e.logical)
		le.PutUint16(p[4:], uint16(e.len))
		le.PutUint16(p[6:], uint16(e.start>>32))
		le.PutUint32(p[8:], uint32(e.start))
	}
}

// child is a node of the level below: its first logical block and its place.
type child struct {
	logical uint32
	block   uint64
}

// putIndex writes an index node.
func putIndex(b []byte, kids []child, max, depth int) {
	putExtentHeader(b, len(kids), max, depth)
	for i, k := range kids {
		p := b[extentHeaderSize+12*i:]
		le.PutUint32(p, k.logical)
		le.PutUint32(p[4:], uint32(k.block))
		le.PutUint16(p[8:], uint16(k.block>>32))
	}
}

// writeExtentTree writes the blocks of n's extent tree when its extents do not
// fit into the inode, and keeps the root.
func (w *Writer) writeExtentTree(n *node) error {
	exts := n.extents()
	if len(exts) <= extentsInInode {
		return nil
	}
	var level []child
	for i := 0; i < len(exts); i += extentsPerBlock {
		part := exts[i:min(i+extentsPerBlock, len(exts))]
		b := make([]byte, blockSize)
		putExtents(b, part, extentsPerBlock)
		at, err := w.writeExtentBlock(n, b)
		if err != nil {
			return err
		}
		level = append(level, child{part[0].logical, at})
	}
	depth := 1
	for ; len(level) > extentsInInode; depth++ {
		var up []child
		for i := 0; i < len(level); i += extentsPerBlock {
			part := level[i:min(i+extentsPerBlock, len(level))]
			b := make([]byte, blockSize)
			putIndex(b, part, extentsPerBlock, depth)
			at, err := w.writeExtentBlock(n, b)
			if err != nil {
				return err
			}
			up = append(up, child{part[0].logical, at})
		}
		level = up
	}
	t := n.side()
	t.root = make([]byte, 60)
	putIndex(t.root, level, extentsInInode, depth)
	return nil
}

// writeExtentBlock ends a node's block with its checksum and writes it.
func (w *Writer) writeExtentBlock(n *node, b []byte) (uint64, error) {
	const tail = extentHeaderSize + 12*extentsPerBlock
	le.PutUint32(b[tail:], crc(w.inodeSeed(n.ino), b[:tail]))
	n.side().blocks++
	return w.writeRun(b)
}
