package ext4

import "banger/internal/errs"

// geometry is the division of the filesystem into block groups.
type geometry struct {
	blocks uint64 // size of the filesystem
	groups uint64
	ipg    uint64 // inodes of a group
}

// setSize sets blocks and groups for a filesystem of size bytes; a last group
// too short to be of use is left out.
func (g *geometry) setSize(size int64) {
	g.blocks = uint64(size) / blockSize
	g.groups = (g.blocks + blocksPerGroup - 1) / blocksPerGroup
	if g.groups < 2 {
		return
	}
	if rest := g.blocks - (g.groups-1)*blocksPerGroup; rest < overhead(g.groups-1)+minGroupBlocks {
		g.groups--
		g.blocks = g.groups * blocksPerGroup
	}
}

// groupLen is the number of blocks of a group; only the last one may be short.
func (g *geometry) groupLen(group uint64) uint64 {
	return min(blocksPerGroup, g.blocks-group*blocksPerGroup)
}

// hasSuper tells whether a group begins with a copy of the superblock
// (sparse_super: groups 0, 1 and the powers of 3, 5 and 7).
func hasSuper(group uint64) bool {
	if group < 2 {
		return true
	}
	for _, base := range [...]uint64{3, 5, 7} {
		p := base
		for p < group {
			p *= base
		}
		if p == group {
			return true
		}
	}
	return false
}

// hasDescs tells whether a group holds a copy of the descriptor block of its
// meta group (meta_bg: first, second and last group of 64).
func hasDescs(group uint64) bool {
	m := group % descsPerBlock
	return m == 0 || m == 1 || m == descsPerBlock-1
}

// overhead is the number of blocks at the start of a group that hold copies of
// superblock and descriptors. It does not depend on the size of the filesystem.
func overhead(group uint64) uint64 {
	var n uint64
	if hasSuper(group) {
		n++
	}
	if hasDescs(group) {
		n++
	}
	return n
}

// descBlock is where a group of hasDescs keeps its descriptor block.
func descBlock(group uint64) uint64 {
	b := group * blocksPerGroup
	if hasSuper(group) {
		b++
	}
	return b
}

// span is a run of blocks.
type span struct{ start, len uint64 }

// allocator hands out blocks in ascending order and steps over the overhead of
// groups. What is given back is not handed out again.
type allocator struct {
	next  uint64 // first block not handed out
	stop  uint64 // start of the next overhead: next never crosses it
	limit uint64 // blocks that may be in use at most
	freed []span // given back, in no order
}

func (a *allocator) init(limit uint64) {
	a.limit = limit
	a.enter(0)
}

// enter steps over the overhead of a group and finds the next group that has one.
func (a *allocator) enter(group uint64) {
	a.next = group*blocksPerGroup + overhead(group)
	for group++; overhead(group) == 0; group++ {
	}
	a.stop = group * blocksPerGroup
}

// room is how many blocks can be taken in one run now, never zero.
func (a *allocator) room() uint64 { return a.stop - a.next }

// take hands out n blocks in one run; n is at most room.
func (a *allocator) take(n uint64) (uint64, error) {
	b := a.next
	if b+n > a.limit {
		return 0, errs.New(errs.Exhausted, "the image is full: content and metadata need more than %d bytes", a.limit*blockSize)
	}
	a.next += n
	if a.next == a.stop {
		a.enter(a.stop / blocksPerGroup)
	}
	return b, nil
}

// takeRun hands out n blocks in one run; when they do not fit before the next
// overhead the blocks before it stay free. n is less than a group has.
func (a *allocator) takeRun(n uint64) (uint64, error) {
	if n > a.room() {
		a.freed = append(a.freed, span{a.next, a.room()})
		a.enter(a.stop / blocksPerGroup)
	}
	return a.take(n)
}

// takeAll hands out n blocks in as few runs as possible.
func (a *allocator) takeAll(n uint64) ([]span, error) {
	var runs []span
	for n > 0 {
		k := min(n, a.room())
		b, err := a.take(k)
		if err != nil {
			return nil, err
		}
		runs = append(runs, span{b, k})
		n -= k
	}
	return runs, nil
}

// give takes a run back.
func (a *allocator) give(s span) {
	if n := len(a.freed); n > 0 && a.freed[n-1].start+a.freed[n-1].len == s.start {
		a.freed[n-1].len += s.len
		return
	}
	a.freed = append(a.freed, s)
}
