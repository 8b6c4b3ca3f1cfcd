package ext4_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"banger/internal/errs"
	"banger/internal/ext4"
)

// rawHeader is a ustar header with fields as they are given, checksum right.
func rawHeader(name string, typ byte, size, link string, edit func(b []byte)) []byte {
	b := make([]byte, 512)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], size)
	copy(b[136:], "14524100000\x00")
	b[156] = typ
	copy(b[157:], link)
	copy(b[257:], "ustar\x0000")
	if edit != nil {
		edit(b)
	}
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func octal(n int64) string { return fmt.Sprintf("%011o\x00", n) }

// rawEntry is a header and its content, padded.
func rawEntry(name string, typ byte, link, data string) []byte {
	b := append(rawHeader(name, typ, octal(int64(len(data))), link, nil), data...)
	return append(b, make([]byte, -len(data)&511)...)
}

// pax is an extended header with records as they are given.
func pax(records string) []byte { return rawEntry("pax", 'x', "", records) }

// record is one PAX record.
func record(k, v string) string {
	n := len(k) + len(v) + 3
	for len(fmt.Sprint(n))+len(k)+len(v)+3 != n {
		n = len(fmt.Sprint(n)) + len(k) + len(v) + 3
	}
	return fmt.Sprintf("%d %s=%s\n", n, k, v)
}

func end(parts ...[]byte) []byte {
	return append(bytes.Join(parts, nil), make([]byte, 1024)...)
}

type hostileCase struct {
	name   string
	tar    []byte
	want   errs.Class // accepted: the filesystem must be clean
	accept bool
}

func hostileCases(t testing.TB) []hostileCase {
	const bad = errs.InvalidData
	l := func(e ...ent) []byte { return layer(t, e...) }
	refuse := func(name string, b []byte) hostileCase { return hostileCase{name, b, bad, false} }
	limit := func(name string, b []byte) hostileCase { return hostileCase{name, b, errs.Exhausted, false} }
	accept := func(name string, b []byte) hostileCase { return hostileCase{name, b, 0, true} }
	raw := func(name string, typ byte, size, link string, edit func([]byte)) []byte {
		return end(rawHeader(name, typ, size, link, edit))
	}
	loops := []ent{}
	for i := range 60 {
		loops = append(loops, symlink(fmt.Sprint("l", i), fmt.Sprint("l", i+1)))
	}
	good := l(file("a", "content"), dir("d"), link("b", "a"))
	cases := []hostileCase{
		// paths that climb, or pretend
		accept("..", l(file("../../../etc/passwd", "x"))),
		accept("absolute", l(file("/etc/passwd", "x"))),
		accept(".. in the middle", l(file("a/../../../b", "x"))),
		accept("backslashes", l(file(`..\..\x`, "x"))),
		accept("symlink to / as a parent", l(symlink("r", "/"), file("r/etc/x", "x"))),
		accept("symlink to .. as a parent", l(symlink("r", "../../.."), file("r/x", "x"))),
		accept("symlink replaced by a directory", l(symlink("d", "/etc"), dir("d"), file("d/x", "x"))),
		accept("directory replaced by a symlink", l(dir("d"), file("d/x", "x"), symlink("d", "/etc"), file("d/y", "y"))),
		accept("root file system twice, second a symlink", l(dir("rootfs"), file("rootfs/a", "a"), symlink("rootfs", "/"), file("rootfs/b", "b"))),
		accept("hard link through a symlink", l(symlink("s", "/"), file("f", "x"), link("h", "s/f"))),
		accept("hard link to a symlink", l(symlink("s", "/etc/shadow"), link("h", "s"))),
		accept("hard link, then writing to it", l(file("f", "x"), link("h", "f"), file("h", "y"))),
		accept("hard link to itself", l(file("f", "x"), link("f", "f"))),
		accept("file replaces a file with links", l(file("f", "x"), link("h", "f"), file("f", "y"), link("g", "f"))),
		accept("the directory a link's target is in is replaced", l(dir("d"), file("d/f", "x"), link("d", "d/f"))),
		refuse("symlink named /.", raw("/.", '2', octal(0), "/etc", nil)),
		refuse("symlink named .", raw(".", '2', octal(0), "/etc", nil)),
		refuse("file named ..", raw("..", '0', octal(0), "", nil)),
		refuse("file named a/..", raw("a/..", '0', octal(0), "", nil)),
		refuse("file named /", raw("/", '2', octal(0), "x", nil)),
		refuse("hard link to /", l(link("h", "/"))),
		refuse("hard link to a directory", l(dir("d"), link("h", "d"))),
		refuse("hard link to what is not there", l(link("h", "missing"))),
		refuse("hard link into a missing directory", l(link("h", "no/where"))),
		refuse("hard link outside", l(link("h", "../../etc/passwd"))),
		refuse("hard link without a target", raw("h", '1', octal(0), "", nil)),
		refuse("symlink without a target", raw("h", '2', octal(0), "", nil)),
		refuse("file as a parent", l(file("f", "x"), file("f/g", "y"))),
		refuse("device as a parent", l(device("dev", tar.TypeChar, 1, 3), file("dev/x", "y"))),
		refuse("symlink to itself as a parent", l(symlink("l", "l"), file("l/x", "x"))),
		refuse("60 symlinks as a parent", l(append(loops, file("l0/x", "x"))...)),
		refuse("two symlinks in a circle", l(symlink("a", "b/x"), symlink("b", "a/x"), file("a/y", "y"))),
		refuse("lost+found as a file", l(file("lost+found", "x"))),
		refuse("lost+found as a symlink", l(symlink("lost+found", "/"))),
		accept("lost+found as a directory with files", l(dir("lost+found"), file("lost+found/x", "x"), file(".wh.lost+found", ""))),
		// names
		accept("newline, quotes, escape", l(file("a\nb\"'\x1b[31m", "x"))),
		accept("no UTF-8", end(rawEntry("\xff\xfe\x80", '0', "", "x"))),
		accept("255 bytes", l(file(strings.Repeat("x", 255), "x"))),
		accept("spaces and dots", l(file("...", "x"), file(" ", "x"), file(". ", "x"))),
		refuse("256 bytes", l(file(strings.Repeat("x", 256), "x"))),
		refuse("256 bytes, in the middle", l(file(strings.Repeat("x", 256)+"/y", "x"))),
		refuse("a path of 5000 bytes", l(file(strings.Repeat("abcd/", 1000)+"x", "x"))),
		refuse("no name", raw("", '0', octal(0), "", nil)),
		refuse("zero byte by PAX", end(pax(record("path", "a\x00b")), rawEntry("x", '0', "", ""))),
		refuse("zero byte in a PAX link", end(pax(record("linkpath", "a\x00b")), rawEntry("x", '2', "y", ""))),
		refuse("symlink of 5000 bytes", l(symlink("s", strings.Repeat("x", 5000)))),
		refuse("symlink of 4096 bytes", l(symlink("s", strings.Repeat("x", 4096)))),
		accept("symlink of 4095 bytes", l(symlink("s", strings.Repeat("x", 4095)))),
		refuse("deep by symlinks", l(deep()...)),
		// whiteouts
		accept("whiteout of what is not there", l(file(".wh.x", ""), file("no/dir/.wh.y", ""))),
		accept("whiteout as a directory", l(dir(".wh.d"))),
		accept("whiteout with content", l(file(".wh.d", "content"))),
		accept("opaque twice", l(dir("d"), file("d/.wh..wh..opq", ""), file("d/.wh..wh..opq", ""), file("d/x", "x"))),
		accept("opaque root", l(file(".wh..wh..opq", ""), file("a", "x"))),
		accept("aufs files", l(file(".wh..wh.aufs", ""), dir(".wh..wh.plnk"), file(".wh..wh.orph", "x"))),
		accept("whiteout through a symlink", l(symlink("s", "/"), file("s/.wh.s", ""))),
		refuse("whiteout of nothing", l(file(".wh.", ""))),
		refuse("whiteout of .", l(file("d/.wh..", ""), dir("d"), file("d/.wh..", ""))),
		refuse("whiteout of ..", l(dir("d"), file("d/.wh...", ""))),
		// types, owners, devices
		accept("setuid, setgid, sticky on all types", l(owned(file("f", "x"), 0o7777, 0, 0), owned(dir("d"), 0o7777, 1, 1), owned(symlink("s", "f"), 0o7777, 1, 1))),
		accept("devices", l(device("a", tar.TypeBlock, 8, 0), device("b", tar.TypeChar, 0, 0), device("c", tar.TypeFifo, 0, 0))),
		accept("a device with a size", end(rawHeader("dev", '3', octal(512), "", nil))),
		refuse("device number too big", l(device("a", tar.TypeBlock, 4096, 0))),
		refuse("minor number too big", l(device("a", tar.TypeBlock, 1, 1<<20))),
		refuse("negative device number", raw("a", '4', octal(0), "", func(b []byte) { copy(b[329:], "\xff\xff\xff\xff\xff\xff\xff\xff") })),
		refuse("unknown type", raw("x", 'Z', octal(0), "", nil)),
		refuse("multi-volume", raw("x", 'M', octal(0), "", nil)),
		refuse("volume header", raw("x", 'V', octal(0), "", nil)),
		refuse("uid over 32 bits", end(pax(record("uid", "4294967296")), rawEntry("x", '0', "", ""))),
		refuse("uid -1", raw("x", '0', octal(0), "", func(b []byte) { copy(b[108:], "\xff\xff\xff\xff\xff\xff\xff\xff") })),
		refuse("gid of no one", end(pax(record("gid", "4294967295")), rawEntry("x", '0', "", ""))),
		accept("uid and gid of 32 bits", end(pax(record("gid", "4294967294")+record("uid", "4294967294")), rawEntry("x", '0', "", ""))),
		accept("time far away", end(pax(record("mtime", "99999999999999")), rawEntry("x", '0', "", ""), pax(record("mtime", "-99999999999999.5")), rawEntry("y", '0', "", ""))),
		refuse("negative mode", raw("x", '0', octal(0), "", func(b []byte) { copy(b[100:], "\xff\xff\xff\xff\xff\xff\xff\xff") })),
		// sizes
		refuse("negative size", raw("x", '0', "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "", nil)),
		refuse("size that is no number", raw("x", '0', "zzzzzzzzzzz\x00", "", nil)),
		refuse("size over 63 bits", raw("x", '0', "\x80\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff", "", nil)),
		limit("size of 2^62", raw("x", '0', "\x80\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00", "", nil)),
		limit("size of 8 EiB by PAX", end(pax(record("size", "9223372036854775807")), rawEntry("x", '0', "", ""))),
		refuse("content is cut", rawHeader("x", '0', octal(10000), "", nil)),
		refuse("header is cut", good[:300]),
		refuse("cut in the second header", good[:1024+300]),
		accept("no end marker", bytes.TrimRight(good, "\x00")[:512*4]),
		accept("empty", nil),
		accept("one zero block", make([]byte, 512)),
		accept("junk behind the end", append(bytes.Clone(good), "junk"...)),
		accept("a second archive behind the end", append(bytes.Clone(good), good...)),
		refuse("no tar at all", bytes.Repeat([]byte("not a tar "), 200)),
		refuse("wrong checksum", func() []byte { b := bytes.Clone(good); b[0] ^= 1; return b }()),
		// PAX and GNU
		accept("global header", end(rawEntry("g", 'g', "", record("comment", "x")), rawEntry("x", '0', "", "x"))),
		refuse("PAX header of 2 MiB", end(pax(record("comment", strings.Repeat("x", 2<<20))), rawEntry("x", '0', "", ""))),
		refuse("GNU long name of 2 MiB", end(rawEntry("././@LongLink", 'L', "", strings.Repeat("x", 2<<20)), rawEntry("x", '0', "", ""))),
		refuse("PAX record without a length", end(pax("path=x\n"), rawEntry("x", '0', "", ""))),
		refuse("PAX record with a wrong length", end(pax("99 path=x\n"), rawEntry("x", '0', "", ""))),
		refuse("PAX record with a huge length", end(pax("99999999999999999999 path=x\n"), rawEntry("x", '0', "", ""))),
		accept("PAX header without an entry", end(pax(record("path", "x")))),
		refuse("sparse map that goes back", sparse("0,10,5,10", 20, 20)),
		refuse("sparse map over the size", sparse("0,10,30,10", 20, 20)),
		refuse("sparse map with a negative offset", sparse("-5,10", 10, 20)),
		refuse("sparse map that is no number", sparse("a,b", 10, 20)),
		limit("sparse file of 1 PiB", sparse("0,10", 10, 1<<50)),
		limit("sparse file of 4 EiB", sparse("0,10", 10, 1<<62)),
		// attributes
		accept("attributes of unknown kinds", l(attrs(file("x", ""), "com.apple.provenance", "x", "system.x", "y", "user.", "z"))),
		accept("user attribute on a symlink and a device", l(attrs(symlink("s", "x"), "user.a", "b"), attrs(device("d", tar.TypeChar, 1, 3), "user.a", "b"))),
		refuse("attribute name of 300 bytes", l(attrs(file("x", ""), "user."+strings.Repeat("n", 300), "x"))),
		refuse("attribute of 100 KiB", l(attrs(file("x", ""), "user.a", strings.Repeat("x", 100<<10)))),
		refuse("1000 attributes", l(manyAttrs(1000))),
		refuse("attribute list over 64 KiB", l(manyAttrs(5000))),
		refuse("ACL that is none", l(attrs(file("x", ""), "system.posix_acl_access", "junk"))),
		refuse("ACL with an unknown tag", l(attrs(file("x", ""), "system.posix_acl_access", "\x02\x00\x00\x00\x77\x00\x06\x00\xff\xff\xff\xff"))),
		refuse("ACL that is cut", l(attrs(file("x", ""), "system.posix_acl_default", aclValue[:len(aclValue)-3]))),
	}
	return cases
}

// deep nests directories beyond every limit, each step through a symlink.
func deep() []ent {
	var ents []ent
	for i := range 6 {
		ents = append(ents, dir(strings.Repeat("d/", 1000)), symlink(fmt.Sprint("s", i), strings.Repeat("d/", 1000)))
		if i > 0 {
			ents = append(ents, dir(fmt.Sprint("s", i-1, "/", strings.Repeat("d/", 1500))))
		}
	}
	return ents
}

func manyAttrs(n int) ent {
	e := file("x", "")
	e.PAXRecords = map[string]string{}
	for i := range n {
		e.PAXRecords[fmt.Sprintf("SCHILY.xattr.user.attribute-number-%d", i)] = ""
	}
	return e
}

// sparse is an entry of the GNU sparse format 0.1.
func sparse(spec string, data, size int64) []byte {
	return end(pax(record("GNU.sparse.major", "0")+record("GNU.sparse.minor", "1")+record("GNU.sparse.name", "s")+
		record("GNU.sparse.size", fmt.Sprint(size))+record("GNU.sparse.numblocks", fmt.Sprint(strings.Count(spec, ",")/2+1))+
		record("GNU.sparse.map", spec)), rawEntry("x", '0', "", strings.Repeat("d", int(data))))
}

// TestHostileLayers applies each case twice, alone and on top of a good layer:
// the answer is of the right class, and what is accepted is a clean filesystem.
func TestHostileLayers(t *testing.T) {
	needTool(t, "e2fsck")
	cases := hostileCases(t)
	t.Logf("%d cases", len(cases))
	under := layer(t, dir("d"), file("d/x", "x"), file("f", "lower"), symlink("s", "/d"), dir("rootfs"))
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, layers := range [][][]byte{{c.tar}, {c.tar}, {under, c.tar}} {
				path, _, err := build(t, ext4.Options{MaxBytes: 64 << 20, MaxEntries: 20000}, layers...)
				if c.accept {
					if err != nil {
						t.Fatal(err)
					}
					fsck(t, path)
				} else if !errs.Is(err, c.want) {
					t.Fatalf("class %v, want %v: %v", errs.ClassOf(err), c.want, err)
				}
			}
		})
	}
}

// TestLimits passes each limit of Options by a little.
func TestLimits(t *testing.T) {
	needTool(t, "e2fsck")
	var many []ent
	for i := range 5000 {
		many = append(many, file(fmt.Sprint(i), ""))
	}
	rewritten := []ent{}
	for range 100 {
		rewritten = append(rewritten, file("same", strings.Repeat("x", 100000)))
	}
	links := []ent{file("f", "")}
	for i := range 65000 {
		links = append(links, link(fmt.Sprint(i), "f"))
	}
	for _, c := range []struct {
		name string
		o    ext4.Options
		ents []ent
		want errs.Class
	}{
		{"entries", ext4.Options{MaxEntries: 1000}, many, errs.Exhausted},
		{"image of a fixed size", ext4.Options{Size: 4 << 20}, []ent{file("big", strings.Repeat("x", 4<<20))}, errs.Exhausted},
		{"image of a fixed size, metadata", ext4.Options{Size: 1 << 20, Journal: ext4.NoJournal}, many, errs.Exhausted},
		{"bytes", ext4.Options{MaxBytes: 8 << 20, Journal: ext4.NoJournal}, []ent{file("big", strings.Repeat("x", 9<<20))}, errs.Exhausted},
		{"bytes of files that are replaced", ext4.Options{MaxBytes: 8 << 20, Journal: ext4.NoJournal}, rewritten, errs.Exhausted},
		{"hard links", ext4.Options{}, links, errs.InvalidData},
		{"size", ext4.Options{Size: 1 << 19}, nil, errs.InvalidData},
		{"label", ext4.Options{Label: "seventeen letters"}, nil, errs.InvalidData},
		{"journal", ext4.Options{Journal: 4096}, nil, errs.InvalidData},
	} {
		if _, _, err := build(t, c.o, layer(t, c.ents...)); !errs.Is(err, c.want) {
			t.Errorf("%s: class %v, want %v: %v", c.name, errs.ClassOf(err), c.want, err)
		}
	}
	mustBuild(t, ext4.Options{}, layer(t, links[:65000]...))
}

// repeat is a stream of n times the same bytes.
type repeat struct {
	b   []byte
	n   int
	pos int
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b[r.pos:])
	if r.pos += n; r.pos == len(r.b) {
		r.pos, r.n = 0, r.n-1
	}
	return n, nil
}

// TestBombs streams what grows in memory or time unless it is bounded, and
// looks at the heap afterwards.
func TestBombs(t *testing.T) {
	entries := func(e ...ent) []byte { return bytes.TrimSuffix(layer(t, e...), make([]byte, 1024)) }
	count := 0
	next := func() []byte { // ever new names
		count++
		return rawEntry(fmt.Sprintf("dir%d/file%d", count%1000, count), '0', "", "")
	}
	for _, c := range []struct {
		name string
		r    io.Reader
		want errs.Class
		ok   bool
	}{
		{"a million names", readerFunc(next, 1_000_000), 0, true},
		{"names without end", readerFunc(next, 1<<30), errs.Exhausted, false},
		{"one name, a million times", &repeat{b: entries(file("same", "x")), n: 300_000}, 0, true},
		{"opaque directory, again and again", io.MultiReader(readerFunc(next, 20000), &repeat{b: entries(file("dir1/.wh..wh..opq", ""), file(".wh.dir2", "")), n: 100_000}), 0, true},
		{"attributes that all differ", readerFunc(func() []byte {
			count++
			return append(pax(record("SCHILY.xattr.user.a", fmt.Sprint(count)+strings.Repeat("v", 60000))), rawEntry("x", '0', "", "")...)
		}, 1<<30), errs.Exhausted, false},
		{"long symlinks", readerFunc(func() []byte {
			count++
			return append(pax(record("linkpath", strings.Repeat("/s", 2000))), rawEntry(fmt.Sprint(count), '2', "x", "")...)
		}, 1<<30), errs.Exhausted, false},
		{"detours through long symlinks", io.MultiReader(
			bytes.NewReader(entries(symlink("a", strings.Repeat("./", 2000)+"b"), symlink("b", strings.Repeat("./", 2000)+"c"), symlink("c", strings.Repeat("./", 2000)))),
			&repeat{b: entries(file("a/x", "")), n: 1 << 30}), errs.InvalidData, false},
		{"zeros without end", io.MultiReader(bytes.NewReader(rawHeader("z", '0', octal(8<<30-1), "", nil)), &repeat{b: make([]byte, 1<<20), n: 1 << 30}), errs.Exhausted, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			count = 0
			f, err := os.Create(filepath.Join(t.TempDir(), "image"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			entries := 200_000
			if c.ok {
				entries = 1_100_000
			}
			w, err := ext4.New(f, ext4.Options{MaxBytes: 4 << 30, MaxEntries: entries})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			err = w.ApplyLayer(t.Context(), c.r)
			if c.ok && err != nil || !c.ok && !errs.Is(err, c.want) {
				t.Fatalf("class %v, want %v: %v", errs.ClassOf(err), c.want, err)
			}
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			t.Logf("%d entries, heap %d MiB", count, m.HeapAlloc>>20)
			if m.HeapAlloc > 300<<20 {
				t.Errorf("the heap has %d bytes", m.HeapAlloc)
			}
			if err == nil {
				if _, err := w.Finish(); err != nil {
					t.Fatal(err)
				}
				fsck(t, f.Name())
			}
			runtime.KeepAlive(w)
		})
	}
}

// readerFunc is the stream of n results of f.
func readerFunc(f func() []byte, n int) io.Reader {
	return &generated{f: f, n: n}
}

type generated struct {
	f    func() []byte
	n    int
	rest []byte
}

func (g *generated) Read(p []byte) (int, error) {
	if len(g.rest) == 0 {
		if g.n == 0 {
			return 0, io.EOF
		}
		g.n--
		g.rest = g.f()
	}
	n := copy(p, g.rest)
	g.rest = g.rest[n:]
	return n, nil
}

// TestStreamFails tells the stream's own failure and the caller's cancel from bad data.
func TestStreamFails(t *testing.T) {
	before := runtime.NumGoroutine()
	l := layer(t, file("a", strings.Repeat("x", 1<<20)))
	broken := errs.New(errs.Unavailable, "the line is cut")
	open := func() *ext4.Writer {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		w, err := ext4.New(f, ext4.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		return w
	}
	for _, at := range []int{100, 512, 5000, len(l) - 100, len(l)} {
		w := open()
		err := w.ApplyLayer(t.Context(), io.MultiReader(bytes.NewReader(l[:at]), failing{broken}))
		if !errors.Is(err, broken) || !errs.Is(err, errs.Unavailable) {
			t.Errorf("after %d bytes: %v", at, err)
		}
		if _, err2 := w.Finish(); err2 == nil {
			t.Error("a lost image was finished")
		}
		w.Close()
		w.Close()
	}
	for range 100 { // the goroutine that writes ends with Close
		if runtime.NumGoroutine() <= before {
			break
		}
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errs.New(errs.Cancelled, "the caller left"))
	w := open()
	if err := w.ApplyLayer(ctx, bytes.NewReader(l)); !errs.Is(err, errs.Cancelled) || !strings.Contains(err.Error(), "the caller left") {
		t.Errorf("cancelled: %v", err)
	}
}

// TestHostDiskIsFull writes onto a file system that has no room left.
func TestHostDiskIsFull(t *testing.T) {
	needMount(t)
	dir := t.TempDir()
	command(t, "mount", "-t", "tmpfs", "-o", "size=4m", "none", dir)
	t.Cleanup(func() { command(t, "umount", dir) })
	for _, n := range []int{1, 30} { // met while writing data, met while writing metadata
		f, err := os.Create(filepath.Join(dir, "image"))
		if err != nil {
			t.Fatal(err)
		}
		w, err := ext4.New(f, ext4.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var ents []ent
		for i := range n {
			e := file(fmt.Sprint("f", i), strings.Repeat("x", 9<<20/n))
			if n > 1 {
				e.data = e.data[:4<<20/n-8000]
			}
			ents = append(ents, e)
		}
		for i := range 2000 {
			ents = append(ents, ent{tar.Header{Name: fmt.Sprint("d", i), Typeflag: tar.TypeDir, Mode: 0o755}, ""})
		}
		err = w.ApplyLayer(t.Context(), bytes.NewReader(layer(t, ents...)))
		if err == nil {
			_, err = w.Finish()
		}
		if !errs.Is(err, errs.Exhausted) {
			t.Errorf("class %v: %v", errs.ClassOf(err), err)
		}
		w.Close()
		f.Close()
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
