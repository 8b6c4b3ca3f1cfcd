package ext4

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"banger/internal/errs"
)

// Limits of paths. Depth bounds recursion; hops is the kernel's own limit.
const (
	maxName    = 255
	maxPath    = 4096
	maxTarget  = 4095
	maxDepth   = 2048
	maxHops    = 40
	maxLinks   = 65000
	maxDetours = 100 << 20 // components walked because of symlinks, over all layers
)

const lostFound = "lost+found"

// Types of inodes, in i_mode.
const (
	modeType    = 0xf000
	modeSymlink = 0xa000
	modeRegular = 0x8000
	modeBlock   = 0x6000
	modeDir     = 0x4000
	modeChar    = 0x2000
	modeFifo    = 0x1000
)

// node is one inode. It is kept small: there may be millions.
type node struct {
	size   int64
	sec    int64 // time, Unix seconds
	nsec   uint32
	uid    uint32
	gid    uint32
	ino    uint32
	links  uint32
	rdev   uint32 // major in the upper 12 bits, minor in the lower 20
	mode   uint16
	flags  uint8
	xattrs *xattrSet
	ext    extent // the only extent, when tail has none
	dir    *directory
	tail   *tail
}

const (
	flagIndexed = 1 << iota // directory with an htree
)

// tail is what few inodes have.
type tail struct {
	target  string   // of a symlink
	extents []extent // all extents, when there is more than one
	root    []byte   // root of an extent tree that does not fit into the inode
	blocks  uint64   // blocks of the extent tree
	ea      *eaValue // this inode holds an attribute value
}

// extent maps a run of a file's blocks; len 0 is none.
type extent struct {
	logical uint32
	len     uint32
	start   uint64
}

// directory is the names of a directory inode.
type directory struct {
	parent *node
	names  map[string]entry
	depth  uint16
	pruned uint32 // the last layer that removed all that lower layers put here
	layer  uint32 // the last layer that had an entry for the directory itself
}

// entry is one name. Its layer is the last one that wrote this name.
type entry struct {
	node  *node
	layer uint32
}

func (n *node) isDir() bool     { return n.dir != nil }
func (n *node) isSymlink() bool { return n.mode&modeType == modeSymlink }

// side is n's tail, made when it has none.
func (n *node) side() *tail {
	if n.tail == nil {
		n.tail = &tail{}
	}
	return n.tail
}

// addExtent appends blocks to the file, joining runs.
func (n *node) addExtent(logical uint32, s span) {
	last := &n.ext
	if n.tail != nil && len(n.tail.extents) > 0 {
		last = &n.tail.extents[len(n.tail.extents)-1]
	}
	if last.len > 0 && last.start+uint64(last.len) == s.start && last.logical+last.len == logical &&
		uint64(last.len)+s.len <= maxExtent {
		last.len += uint32(s.len)
		return
	}
	e := extent{logical, uint32(s.len), s.start}
	if n.ext.len == 0 && (n.tail == nil || len(n.tail.extents) == 0) {
		n.ext = e
		return
	}
	t := n.side()
	if len(t.extents) == 0 {
		t.extents = append(t.extents, n.ext)
		n.ext = extent{}
	}
	t.extents = append(t.extents, e)
}

// extents are all extents of n in order.
func (n *node) extents() []extent {
	if n.tail != nil && len(n.tail.extents) > 0 {
		return n.tail.extents
	}
	if n.ext.len == 0 {
		return nil
	}
	return []extent{n.ext}
}

// tree is the names of the image, and the budgets that bound it.
type tree struct {
	root    *node
	entries int
	max     int
	meta    int64 // bytes of names, link targets and attributes
	maxMeta int64
	detours int
	made    func() *node // a new directory's inode
	gone    func(*node)  // the last name of a node was removed
}

func (t *tree) init(o Options) {
	sec, nsec := splitTime(o.Time)
	t.max = o.MaxEntries
	t.maxMeta = int64(o.MaxEntries) * metaBytesPerEntry
	t.made = func() *node {
		return &node{mode: modeDir | 0o755, links: 2, sec: sec, nsec: nsec, dir: &directory{}}
	}
	t.root = t.made()
	t.root.dir.parent = t.root
	lf := t.made()
	lf.mode = modeDir | 0o700
	lf.dir.parent, lf.dir.depth = t.root, 1
	t.root.dir.names = map[string]entry{lostFound: {lf, 0}}
	t.root.links++
	t.entries = 1
}

// charge takes n bytes from the budget of metadata.
func (t *tree) charge(n int) error {
	if t.meta += int64(n); t.meta > t.maxMeta {
		return errs.New(errs.Exhausted, "names, link targets and attributes need over %d bytes", t.maxMeta)
	}
	return nil
}

// add puts a name into a directory that does not have it. The caller counts links.
func (t *tree) add(dir *node, name string, e entry) error {
	if t.entries++; t.entries > t.max {
		return errs.New(errs.Exhausted, "over %d names", t.max)
	}
	if err := t.charge(len(name)); err != nil {
		return err
	}
	if dir.dir.names == nil {
		dir.dir.names = make(map[string]entry)
	}
	dir.dir.names[strings.Clone(name)] = e
	return nil
}

// mkdir makes a directory with the default owner and mode.
func (t *tree) mkdir(dir *node, name string, layer uint32) (*node, error) {
	if dir.dir.depth >= maxDepth {
		return nil, errs.New(errs.InvalidData, "directories nest deeper than %d", maxDepth)
	}
	n := t.made()
	n.dir.parent, n.dir.depth = dir, dir.dir.depth+1
	if err := t.add(dir, name, entry{n, layer}); err != nil {
		return nil, err
	}
	dir.links++
	return n, nil
}

// remove takes a name away, and all below it when it is a directory.
func (t *tree) remove(dir *node, name string) {
	n := dir.dir.names[name].node
	delete(dir.dir.names, name)
	t.entries--
	t.meta -= int64(len(name))
	if n.isDir() {
		for k := range n.dir.names {
			t.remove(n, k)
		}
		dir.links--
		n.links = 0
		t.gone(n)
		return
	}
	if n.links--; n.links == 0 {
		if n.isSymlink() {
			t.meta -= n.size
		}
		t.gone(n)
	}
}

// prune removes what layers below layer put under a directory. What this layer
// wrote stays, whatever the order of its entries was.
func (t *tree) prune(d *node, layer uint32) {
	if d.dir.pruned == layer {
		return
	}
	d.dir.pruned = layer
	for k, e := range d.dir.names {
		if e.node.isDir() {
			t.pruneName(d, k, e, layer)
		} else if e.layer < layer {
			t.remove(d, k)
		}
	}
}

// pruneName removes one name as far as layers below layer put it there.
func (t *tree) pruneName(dir *node, name string, e entry, layer uint32) {
	if dir == t.root && name == lostFound {
		if e.node.isDir() {
			t.prune(e.node, layer)
		}
		return
	}
	if !e.node.isDir() {
		if e.layer < layer {
			t.remove(dir, name)
		}
		return
	}
	t.prune(e.node, layer)
	if e.node.dir.layer == layer {
		return
	}
	if len(e.node.dir.names) == 0 && e.layer < layer {
		t.remove(dir, name)
		return
	}
	// Only implied by this layer's names below it: a new directory.
	fresh := t.made()
	n := e.node
	n.mode, n.uid, n.gid, n.sec, n.nsec, n.xattrs = fresh.mode, 0, 0, fresh.sec, fresh.nsec, nil
	dir.dir.names[name] = entry{n, layer}
}

var errNoDir = errors.New("no such directory")

// walk resolves the directory that parts name, inside the root: ".." stops at the
// root and symlinks are followed as the kernel does after chroot. With make,
// missing directories are made; without, they are errNoDir.
func (t *tree) walk(parts []string, layer uint32, create bool) (*node, error) {
	cur := t.root
	hops := 0
	for len(parts) > 0 {
		p := parts[0]
		parts = parts[1:]
		switch p {
		case "", ".":
			continue
		case "..":
			cur = cur.dir.parent
			continue
		}
		if len(p) > maxName {
			return nil, errs.New(errs.InvalidData, "a name of %d bytes is over %d", len(p), maxName)
		}
		e, ok := cur.dir.names[p]
		switch {
		case !ok:
			if !create {
				return nil, errNoDir
			}
			n, err := t.mkdir(cur, p, layer)
			if err != nil {
				return nil, err
			}
			cur = n
		case e.node.isDir():
			cur = e.node
		case e.node.isSymlink():
			target := e.node.tail.target
			if hops++; hops > maxHops {
				return nil, errs.New(errs.InvalidData, "over %d symlinks in a path", maxHops)
			}
			steps := strings.Split(target, "/")
			if t.detours += len(steps); t.detours > maxDetours {
				return nil, errs.New(errs.InvalidData, "paths follow symlinks over %d components in all", maxDetours)
			}
			if target[0] == '/' {
				cur = t.root
			}
			parts = slices.Concat(steps, parts)
		default:
			if !create {
				return nil, errNoDir
			}
			return nil, errs.New(errs.InvalidData, "%q on the way is %w", p, fs.ErrExist)
		}
	}
	return cur, nil
}

// splitTime makes Unix seconds and nanoseconds of a time, clamped to what an
// inode can hold: 1901-12-13 to 2446-05-10.
func splitTime(t time.Time) (int64, uint32) {
	const first, last = -1 << 31, 1<<34 - 1<<31 - 1
	sec := t.Unix()
	switch {
	case sec < first:
		return first, 0
	case sec > last:
		return last, 0
	}
	return sec, uint32(t.Nanosecond())
}

// splitPath divides a path of an entry or link target into its parent's
// components and its last name; the name is "" when the path names a directory
// by ".", ".." or the root, and then the parent is that directory.
func splitPath(p string) (parent []string, name string, err error) {
	if p == "" {
		return nil, "", errs.New(errs.InvalidData, "the name is empty")
	}
	if len(p) > maxPath {
		return nil, "", errs.New(errs.InvalidData, "a path of %d bytes is over %d", len(p), maxPath)
	}
	if strings.IndexByte(p, 0) >= 0 {
		return nil, "", errs.New(errs.InvalidData, "the name has a zero byte")
	}
	parts := strings.Split(strings.TrimRight(p, "/"), "/")
	last := parts[len(parts)-1]
	switch last {
	case "", ".", "..":
		return parts, "", nil
	}
	if len(last) > maxName {
		return nil, "", errs.New(errs.InvalidData, "a name of %d bytes is over %d", len(last), maxName)
	}
	return parts[:len(parts)-1], last, nil
}
