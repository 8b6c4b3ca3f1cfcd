package ext4

import (
	"archive/tar"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"banger/internal/errs"
)

// Extended attributes: fs/ext4/xattr.h. An inode has room for a few after its
// fixed part, one block takes more, and a value too big for that gets an inode
// of its own (feature ea_inode). Equal sets of attributes share their block.
const (
	xattrMagic      = 0xEA020000
	xattrInodeRoom  = inodeSize - 128 - extraSize - 4 // after the magic
	xattrBlockRoom  = blockSize - 32                  // after the header
	xattrEnd        = 4                               // zero word that ends the entries
	xattrMaxValue   = 64 << 10                        // XATTR_SIZE_MAX
	xattrMaxRefs    = 1024                            // EXT4_XATTR_REFCOUNT_MAX
	xattrPAXPrefix  = "SCHILY.xattr."
	xattrACLDefault = "system.posix_acl_default"
	xattrACLAccess  = "system.posix_acl_access"
)

// xattr is one attribute as it is stored: the namespace as an index.
type xattr struct {
	index byte
	name  string
	value string
	ea    *eaValue // the value's own inode, when it does not fit
}

// xattrSet is the attributes of one or more inodes.
type xattrSet struct {
	attrs  []xattr
	inline []byte   // what follows the fixed part of the inode; nil: nothing
	outer  []xattr  // what goes into a block
	users  uint32   // inodes that have the set
	blocks []uint64 // copies of the block, one for each xattrMaxRefs users
	given  uint32   // users that were told their block
}

// eaValue is an inode that holds one attribute value for all that have it.
type eaValue struct {
	node  *node
	value string
	hash  uint32
	refs  uint32
}

// xattrTable keeps one copy of each set of attributes and of each big value.
type xattrTable struct {
	sets   map[string]*xattrSet
	order  []*xattrSet
	values map[string]*eaValue
	big    []*eaValue
}

// readXattrs takes the attributes out of an entry's PAX records. Attributes that
// Linux would refuse on this inode are left out and counted.
func (w *Writer) readXattrs(n *node, records map[string]string) (*xattrSet, error) {
	var attrs []xattr
	entries := 0 // bytes
	var keys []string
	for k := range records {
		if strings.HasPrefix(k, xattrPAXPrefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys) // of several faults, always the same is told
	for _, k := range keys {
		full, v := k[len(xattrPAXPrefix):], records[k]
		x, ok := splitXattr(full)
		if !ok || x.index == 1 && n.mode&modeType != modeRegular && !n.isDir() {
			w.stats.SkippedXattrs++
			continue
		}
		if len(x.name) > maxName || len(v) > xattrMaxValue || strings.IndexByte(x.name, 0) >= 0 {
			return nil, errs.New(errs.InvalidData, "attribute %q of %d bytes", shorten(full), len(v))
		}
		if x.value = v; x.index == 2 || x.index == 3 {
			var err error
			if x.value, err = diskACL(v); err != nil {
				return nil, errs.New(errs.InvalidData, "attribute %q: %w", full, err)
			}
		}
		if entries += x.entrySize(); entries > xattrInodeRoom+xattrBlockRoom-2*xattrEnd {
			return nil, errs.New(errs.InvalidData, "its attributes fit into no block, whatever their values")
		}
		attrs = append(attrs, x)
	}
	if len(attrs) == 0 {
		return nil, nil
	}
	slices.SortFunc(attrs, func(a, b xattr) int { // the order the kernel searches a block in
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), strings.Compare(a.name, b.name))
	})
	return w.internXattrs(attrs)
}

// internXattrs is the one set that equals attrs.
func (w *Writer) internXattrs(attrs []xattr) (*xattrSet, error) {
	var key []byte
	for _, x := range attrs {
		key = append(key, x.index)
		key = binary.AppendUvarint(key, uint64(len(x.name)))
		key = append(key, x.name...)
		key = binary.AppendUvarint(key, uint64(len(x.value)))
		key = append(key, x.value...)
	}
	t := &w.xattr
	if s, ok := t.sets[string(key)]; ok {
		return s, nil
	}
	if err := w.tree.charge(2*len(key) + 64*len(attrs)); err != nil {
		return nil, err
	}
	if t.sets == nil {
		t.sets = make(map[string]*xattrSet)
	}
	for i := range attrs { // do not keep the whole header alive
		attrs[i].name, attrs[i].value = strings.Clone(attrs[i].name), strings.Clone(attrs[i].value)
	}
	s := &xattrSet{attrs: attrs}
	t.sets[string(key)] = s
	t.order = append(t.order, s)
	return s, nil
}

// splitXattr turns a name's prefix into the index that stands for it on disk.
func splitXattr(full string) (xattr, bool) {
	switch full {
	case xattrACLAccess:
		return xattr{index: 2}, true
	case xattrACLDefault:
		return xattr{index: 3}, true
	}
	for _, p := range [...]struct {
		prefix string
		index  byte
	}{{"user.", 1}, {"trusted.", 4}, {"security.", 6}} {
		if name, ok := strings.CutPrefix(full, p.prefix); ok && name != "" {
			return xattr{index: p.index, name: name}, true
		}
	}
	return xattr{}, false
}

// diskACL turns an ACL as the system calls have it (linux/posix_acl_xattr.h:
// version 2, eight bytes an entry) into the form on disk (fs/ext4/acl.h:
// version 1, an id only where one is needed).
func diskACL(v string) (string, error) {
	const user, group = 2, 8
	b := []byte(v)
	if len(b) < 4 || le.Uint32(b) != 2 || (len(b)-4)%8 != 0 {
		return "", tar.ErrHeader
	}
	out := le.AppendUint32(nil, 1)
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm := le.Uint16(b), le.Uint16(b[2:])
		switch tag {
		case 1, 4, 0x10, 0x20: // owner, owning group, mask, others
			out = le.AppendUint16(le.AppendUint16(out, tag), perm)
		case user, group:
			out = le.AppendUint16(le.AppendUint16(out, tag), perm)
			out = le.AppendUint32(out, le.Uint32(b[4:]))
		default:
			return "", tar.ErrHeader
		}
	}
	return string(out), nil
}

func round4(n int) int { return (n + 3) &^ 3 }

func (x *xattr) entrySize() int { return round4(16 + len(x.name)) }

// size is what the attribute takes where it is stored.
func (x *xattr) size() int {
	if x.ea != nil {
		return x.entrySize()
	}
	return x.entrySize() + round4(len(x.value))
}

// chooseXattrs decides for every set that an inode has what goes into the inode,
// what into a block and which values get inodes of their own.
func (w *Writer) chooseXattrs() error {
	for _, s := range w.xattr.order {
		if s.users == 0 {
			continue // its files are gone
		}
		if err := w.chooseXattr(s); err != nil {
			return err
		}
	}
	return nil
}

// chooseXattr is chooseXattrs for one set.
func (w *Writer) chooseXattr(s *xattrSet) error {
	inner, outer := xattrInodeRoom-xattrEnd, xattrBlockRoom-xattrEnd
	var in []xattr
	var rest []int
	for i := range s.attrs {
		if x := &s.attrs[i]; x.size() <= inner {
			inner -= x.size()
			in = append(in, *x)
		} else {
			rest = append(rest, i)
			outer -= x.size()
		}
	}
	for outer < 0 { // the biggest values move out until the rest fits
		big := -1
		for _, i := range rest {
			if x := &s.attrs[i]; x.ea == nil && len(x.value) > 0 && (big < 0 || len(x.value) > len(s.attrs[big].value)) {
				big = i
			}
		}
		if big < 0 {
			return errs.New(errs.InvalidData, "the attributes of one file do not fit into a block: %d of them", len(s.attrs))
		}
		x := &s.attrs[big]
		outer += round4(len(x.value))
		x.ea = w.bigValue(x.value)
	}
	for _, i := range rest {
		s.outer = append(s.outer, s.attrs[i])
	}
	if in != nil {
		s.inline = make([]byte, 4+xattrInodeRoom)
		le.PutUint32(s.inline, xattrMagic)
		fillXattrs(s.inline[4:], in, 0)
	}
	return nil
}

// bigValue is the inode that holds an attribute's value.
func (w *Writer) bigValue(v string) *eaValue {
	t := &w.xattr
	if e, ok := t.values[v]; ok {
		return e
	}
	if t.values == nil {
		t.values = make(map[string]*eaValue)
	}
	e := &eaValue{value: v, hash: crc(w.csum, []byte(v))}
	e.node = &node{mode: modeRegular | 0o600, links: 1, size: int64(len(v))}
	e.node.side().ea = e
	t.values[v] = e
	t.big = append(t.big, e)
	return e
}

// placeXattrs writes the values that have inodes of their own and, for every set
// that needs blocks, as many blocks as its users need.
func (w *Writer) placeXattrs() error {
	for _, s := range w.xattr.order {
		if len(s.outer) == 0 {
			continue
		}
		for left := s.users; left > 0; {
			refs := min(left, xattrMaxRefs)
			left -= refs
			if err := w.writeXattrBlock(s, refs); err != nil {
				return err
			}
		}
	}
	for _, e := range w.xattr.big {
		b := make([]byte, roundBlock(len(e.value)))
		copy(b, e.value)
		start, err := w.writeRun(b)
		if err != nil {
			return err
		}
		e.node.ext = extent{0, uint32(len(b) / blockSize), start}
	}
	return nil
}

func (w *Writer) writeXattrBlock(s *xattrSet, refs uint32) error {
	start, err := w.alloc.takeRun(1)
	if err != nil {
		return err
	}
	b := make([]byte, blockSize)
	le.PutUint32(b, xattrMagic)
	le.PutUint32(b[4:], refs)
	le.PutUint32(b[8:], 1) // blocks
	le.PutUint32(b[12:], fillXattrs(b[32:], s.outer, 32))
	le.PutUint32(b[16:], crc(crc(w.csum, le.AppendUint64(nil, start)), b))
	for i := range s.outer {
		if ea := s.outer[i].ea; ea != nil {
			ea.refs++
		}
	}
	s.blocks = append(s.blocks, start)
	return w.out.write(b, int64(start)*blockSize)
}

// nextBlock is the attribute block for the next inode that has the set; 0: none.
func (s *xattrSet) nextBlock() uint64 {
	if len(s.blocks) == 0 {
		return 0
	}
	s.given++
	return s.blocks[(s.given-1)/xattrMaxRefs]
}

// bigBlocks is how many blocks the set's values take that have their own inodes:
// the kernel counts them to each inode that has the set.
func (s *xattrSet) bigBlocks() uint64 {
	var n uint64
	for i := range s.outer {
		if ea := s.outer[i].ea; ea != nil {
			n += uint64(roundBlock(len(ea.value)) / blockSize)
		}
	}
	return n
}

// fillXattrs writes entries from the front of b and values from its end, and
// returns the hash over all of them. delta is added to value offsets.
func fillXattrs(b []byte, attrs []xattr, delta int) uint32 {
	end, p := len(b), 0
	var all uint32
	for i := range attrs {
		x := &attrs[i]
		b[p], b[p+1] = byte(len(x.name)), x.index
		le.PutUint32(b[p+8:], uint32(len(x.value)))
		var h uint32
		for _, c := range []byte(x.name) {
			h = h<<5 ^ h>>27 ^ uint32(c)
		}
		switch {
		case x.ea != nil:
			le.PutUint32(b[p+4:], x.ea.node.ino)
			h = h<<16 ^ h>>16 ^ x.ea.hash
		case len(x.value) > 0:
			n := round4(len(x.value))
			end -= n
			copy(b[end:], x.value)
			le.PutUint16(b[p+2:], uint16(end+delta))
			for i := 0; i < n; i += 4 {
				h = h<<16 ^ h>>16 ^ le.Uint32(b[end+i:])
			}
		}
		le.PutUint32(b[p+12:], h)
		all = all<<16 ^ all>>16 ^ h
		copy(b[p+16:], x.name)
		p += x.entrySize()
	}
	return all
}
