package ext4

const (
	extraSize   = 32 // i_extra_isize: the fields up to i_projid
	fastSymlink = 60 // a shorter target lies in the inode
	maxExtent   = 32768

	inodeExtents = 0x80000
	inodeIndex   = 0x1000
	inodeEA      = 0x200000
)

// Places in an inode (Documentation/filesystems/ext4/inodes.rst).
const (
	offBlock      = 0x28
	offChecksumLo = 0x7c
	offChecksumHi = 0x82
)

// putInode writes the inode n into b, inodeSize zero bytes.
func (w *Writer) putInode(b []byte, n *node) {
	le.PutUint16(b[0x00:], n.mode)
	le.PutUint16(b[0x02:], uint16(n.uid))
	le.PutUint32(b[0x04:], uint32(n.size))
	le.PutUint16(b[0x18:], uint16(n.gid))
	le.PutUint32(b[0x6c:], uint32(n.size>>32))
	le.PutUint16(b[0x78:], uint16(n.uid>>16))
	le.PutUint16(b[0x7a:], uint16(n.gid>>16))
	le.PutUint16(b[0x80:], extraSize)
	w.putTimes(b, n)
	links := n.links
	if n.isDir() && links > maxLinks {
		links = 1 // dir_nlink: too many to count
	}
	le.PutUint16(b[0x1a:], uint16(links))
	blocks := w.putBlocks(b, n)
	if n.xattrs != nil {
		copy(b[128+extraSize:], n.xattrs.inline)
		if x := n.xattrs.nextBlock(); x != 0 {
			le.PutUint32(b[0x68:], uint32(x))
			le.PutUint16(b[0x76:], uint16(x>>32))
			blocks++
		}
		blocks += n.xattrs.bigBlocks()
	}
	sectors := blocks * (blockSize / 512)
	le.PutUint32(b[0x1c:], uint32(sectors))
	le.PutUint16(b[0x74:], uint16(sectors>>32))
	sum := crc(w.inodeSeed(n.ino), b)
	le.PutUint16(b[offChecksumLo:], uint16(sum))
	le.PutUint16(b[offChecksumHi:], uint16(sum>>16))
}

// putTimes writes the four times: seconds modulo 2^32, and two more bits of
// seconds with the nanoseconds. An inode that holds an attribute's value keeps
// its reference count and hash there instead.
func (w *Writer) putTimes(b []byte, n *node) {
	if n.tail != nil && n.tail.ea != nil {
		le.PutUint32(b[0x08:], n.tail.ea.hash) // i_atime
		le.PutUint32(b[0x24:], n.tail.ea.refs) // i_version, low; high is i_ctime
		return
	}
	extra := uint32((n.sec-int64(int32(n.sec)))>>32)&3 | n.nsec<<2
	for _, at := range [...][2]int{{0x08, 0x8c}, {0x0c, 0x84}, {0x10, 0x88}, {0x90, 0x94}} { // access, change, modify, birth
		le.PutUint32(b[at[0]:], uint32(n.sec))
		le.PutUint32(b[at[1]:], extra)
	}
}

// putBlocks writes i_block and the flags, and returns the blocks it stands for.
func (w *Writer) putBlocks(b []byte, n *node) uint64 {
	ib := b[offBlock : offBlock+60]
	switch n.mode & modeType {
	case modeChar, modeBlock:
		major, minor := n.rdev>>20, n.rdev&0xfffff
		if major < 256 && minor < 256 {
			le.PutUint32(ib, major<<8|minor)
		} else {
			le.PutUint32(ib[4:], minor&0xff|major<<8|minor&^0xff<<12)
		}
		return 0
	case modeFifo:
		return 0
	case modeSymlink:
		if n.size < fastSymlink {
			copy(ib, n.tail.target)
			return 0
		}
	}
	flags := uint32(inodeExtents)
	if n.flags&flagIndexed != 0 {
		flags |= inodeIndex
	}
	if n.tail != nil && n.tail.ea != nil {
		flags |= inodeEA
	}
	le.PutUint32(b[0x20:], flags)
	if n.tail != nil && n.tail.root != nil {
		copy(ib, n.tail.root)
		return n.tail.blocks + countBlocks(n.tail.extents)
	}
	exts := n.extents()
	putExtents(ib, exts, 4)
	return countBlocks(exts)
}

func countBlocks(exts []extent) uint64 {
	var n uint64
	for _, e := range exts {
		n += uint64(e.len)
	}
	return n
}
