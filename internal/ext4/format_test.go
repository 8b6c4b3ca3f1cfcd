package ext4_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/ext4"
)

// TestDirectories makes directories of every shape an htree has, with names of
// every length, and looks every name up through the kernel.
func TestDirectories(t *testing.T) {
	needTool(t, "e2fsck")
	for _, c := range []struct{ names, length int }{
		{1, 255}, {14, 255}, {16, 255}, {130, 20}, {150, 20}, {12000, 250}, {90000, 30}, {60000, 5},
	} {
		t.Run(fmt.Sprintf("%d names of %d bytes", c.names, c.length), func(t *testing.T) {
			ents := []ent{dir("d")}
			name := func(i int) string {
				n := fmt.Sprintf("%x-\xe9\xff", i)
				if pad := c.length - len(n); pad > 0 {
					n += strings.Repeat("é", pad)[:pad]
				}
				return n
			}
			for i := range c.names {
				e := file("d/"+name(i), "")
				e.Format = tar.FormatGNU
				ents = append(ents, e)
			}
			image, _ := mustBuild(t, ext4.Options{}, layer(t, ents...))
			if os.Geteuid() != 0 {
				return
			}
			mnt, umount := mount(t, image, "ro,noload")
			for i := range c.names {
				if _, err := os.Lstat(filepath.Join(mnt, "d", name(i))); err != nil {
					t.Fatal(err)
				}
			}
			umount()
		})
	}
}

// TestManySubdirectories passes the point where a directory's links are no longer counted.
func TestManySubdirectories(t *testing.T) {
	needTool(t, "e2fsck")
	for _, n := range []int{64998, 64999} {
		ents := []ent{dir("d")}
		for i := range n {
			ents = append(ents, dir(fmt.Sprint("d/", i)))
		}
		_, st := mustBuild(t, ext4.Options{}, layer(t, ents...))
		if st.Entries < n {
			t.Errorf("%d entries", st.Entries)
		}
	}
}

// pattern is the content of a big file: 64 KiB of ones at each period, else zeros.
type pattern struct{ pos, period, size int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.pos >= p.size {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.size-p.pos)]
	in := p.pos % p.period
	v, n := byte(1), int64(64<<10)-in
	if in >= 64<<10 {
		v, n = 0, p.period-in
	}
	b = b[:min(int64(len(b)), n)]
	for i := range b {
		b[i] = v
	}
	p.pos += int64(len(b))
	return len(b), nil
}

// TestExtentTrees makes files whose extents need trees of one and two levels, and
// a sparse one of 6 GiB.
func TestExtentTrees(t *testing.T) {
	needTool(t, "e2fsck")
	for _, c := range []struct{ size, period int64 }{
		{5 << 17, 128 << 10}, {300 << 17, 128 << 10}, {345 << 17, 128 << 10}, {1500 << 17, 128 << 10}, {6 << 30, 1 << 30},
	} {
		t.Run(fmt.Sprintf("%d bytes, data each %d", c.size, c.period), func(t *testing.T) {
			r, w := io.Pipe()
			go func() {
				tw := tar.NewWriter(w)
				err := tw.WriteHeader(&tar.Header{Name: "f", Size: c.size, Mode: 0o600})
				if err == nil {
					_, err = io.Copy(tw, &pattern{0, c.period, c.size})
				}
				if err == nil {
					err = tw.Close()
				}
				w.CloseWithError(err)
			}()
			path := filepath.Join(t.TempDir(), "image")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			iw, err := ext4.New(f, ext4.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer iw.Close()
			if err := iw.ApplyLayer(context.Background(), r); err != nil {
				t.Fatal(err)
			}
			if _, err := iw.Finish(); err != nil {
				t.Fatal(err)
			}
			fsck(t, path)
			if os.Geteuid() != 0 || c.size > 1<<30 {
				return
			}
			mnt, umount := mount(t, path, "ro,noload")
			got, err := os.Open(filepath.Join(mnt, "f"))
			if err != nil {
				t.Fatal(err)
			}
			want := &pattern{0, c.period, c.size}
			a, b := make([]byte, 1<<20), make([]byte, 1<<20)
			for {
				n, err := io.ReadFull(want, a)
				k, _ := io.ReadFull(got, b)
				if n != k || !bytes.Equal(a[:n], b[:k]) {
					t.Fatalf("content differs: %d and %d bytes", n, k)
				}
				if err != nil {
					break
				}
			}
			got.Close()
			umount()
		})
	}
}

// TestBigAttributes has values that fit into no block, alone, shared, and many in
// one file, read back through the kernel.
func TestBigAttributes(t *testing.T) {
	needTool(t, "e2fsck")
	v := func(n int, c string) string { return strings.Repeat(c, n) }
	ents := []ent{
		attrs(file("one", "x"), "user.big", v(60000, "a")),
		attrs(file("same", "x"), "user.big", v(60000, "a")),
		attrs(file("other", "x"), "user.big", v(60000, "a"), "user.more", v(5000, "b"), "security.capability", capability, "user.s", "s"),
		attrs(file("edge", "x"), "user.e", v(4096, "e")),
		attrs(file("max", "x"), "user.m", v(65536, "m")),
		attrs(dir("dir"), "trusted.big", v(20000, "d"), "user.tiny", ""),
		attrs(symlink("short-link", "t"), "trusted.big", v(20000, "d")),
		attrs(symlink("long-link", v(100, "t")), "trusted.big", v(20000, "d")),
	}
	many := file("many", "x")
	many.PAXRecords = map[string]string{}
	for i := range 40 {
		many.PAXRecords[fmt.Sprintf("SCHILY.xattr.user.attr%02d", i)] = v(300+i, "v")
	}
	ents = append(ents, many)
	for i := range 2500 { // over the users that a block may have
		ents = append(ents, attrs(file(fmt.Sprint("shared", i), ""), "user.wide", v(2000, "w")))
	}
	image, _ := mustBuild(t, ext4.Options{Size: 64 << 20}, layer(t, ents...))
	if os.Geteuid() != 0 {
		return
	}
	mnt, umount := mount(t, image, "rw")
	for _, e := range ents {
		for k, want := range e.PAXRecords {
			got := make([]byte, 1<<17)
			n, err := unix.Lgetxattr(filepath.Join(mnt, e.Name), strings.TrimPrefix(k, "SCHILY.xattr."), got)
			if err != nil || string(got[:n]) != want {
				t.Errorf("%s: %s: %d bytes, %v; want %d", e.Name, k, n, err, len(want))
			}
		}
	}
	for _, e := range ents[:5] {
		if err := os.Remove(filepath.Join(mnt, e.Name)); err != nil {
			t.Error(err)
		}
	}
	for i := range 50 {
		if err := unix.Setxattr(filepath.Join(mnt, fmt.Sprint("shared", i)), "user.wide", []byte("changed"), 0); err != nil {
			t.Error(err)
		}
	}
	umount()
	fsck(t, image)
}

// TestSparseFormats applies what GNU tar makes of a file with holes.
func TestSparseFormats(t *testing.T) {
	needTool(t, "e2fsck")
	needTool(t, "tar")
	needMount(t)
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(60) {
		if _, err := f.WriteAt([]byte(strings.Repeat("data", 3000)), i*i*100_000); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(500_000_000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	want := manifest(t, src)
	for _, args := range [][]string{
		{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"},
	} {
		out := filepath.Join(t.TempDir(), "sparse.tar")
		command(t, "tar", append(args, "-cSf", out, "-C", src, ".")...)
		l, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		image, st := mustBuild(t, ext4.Options{}, l)
		if st.Data > 20<<20 {
			t.Errorf("%v: %d bytes of data", args, st.Data)
		}
		mnt, umount := mount(t, image, "ro,noload")
		got := manifest(t, mnt)
		if args[0] == "--format=gnu" { // whole seconds only
			for k := range got {
				got[k], want[k] = stripTime(got[k]), stripTime(want[k])
			}
		}
		compare(t, want, got)
		umount()
		want = manifest(t, src)
	}
}

func stripTime(s string) string {
	a, b, _ := strings.Cut(s, " mtime=")
	_, b, _ = strings.Cut(b, " ")
	return a + " " + b
}

// TestPathsStayInside resolves what climbs, goes around and starts at the root.
func TestPathsStayInside(t *testing.T) {
	needTool(t, "e2fsck")
	image, _ := mustBuild(t, ext4.Options{}, layer(t,
		dir("a/b"), symlink("a/b/abs", "/a"), symlink("a/b/up", "../../../../.."), symlink("chain", "a/b/abs/b"), symlink("new", "made/up"),
		file("/abs-name", "1"), file("../../climb", "2"), file("a/b/abs/in-a", "3"), file("a/b/up/in-root", "4"), file("chain/in-b", "5"),
		file("a/../dotdot", "6"), file("a/b/up/../../b2/x", "7"), file("./a/./dots", "8"), file("new/in-made", "9"), file("a//b///slashes", "10"),
		link("hard", "chain/in-b"), link("/hard2", "../a/b/abs/in-a"), dir("a/b/abs/."), dir(".."), dir("/"), file("chain/../../in-a-by-chain", "11")))
	if os.Geteuid() != 0 {
		return
	}
	mnt, umount := mount(t, image, "ro,noload")
	for name, want := range map[string]string{
		"abs-name": "1", "climb": "2", "a/in-a": "3", "in-root": "4", "a/b/in-b": "5", "dotdot": "6", "b2/x": "7", "a/dots": "8",
		"made/up/in-made": "9", "a/b/slashes": "10", "hard": "5", "hard2": "3", "in-a-by-chain": "11",
	} {
		got, err := os.ReadFile(filepath.Join(mnt, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	umount()
}

// TestBackups destroys the first superblock and descriptors: the copies carry on.
func TestBackups(t *testing.T) {
	needTool(t, "e2fsck")
	image, _ := mustBuild(t, ext4.Options{Size: 9 << 30, Journal: ext4.NoJournal}, layer(t, corpus()[0]...))
	for _, copyAt := range []int{32768, 3 * 32768, 49 * 32768} {
		f, err := os.OpenFile(image, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 8192), 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		out, err := exec.Command("e2fsck", "-fy", "-b", fmt.Sprint(copyAt), "-B", "4096", image).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() > 1) {
			t.Fatalf("copy at %d: %v\n%s", copyAt, err, out)
		}
		for _, lost := range []string{"nattached", "lost+found", "onflict", "llegal"} {
			if bytes.Contains(out, []byte(lost)) {
				t.Errorf("copy at %d: content was lost\n%s", copyAt, out)
			}
		}
		fsck(t, image)
	}
}

// TestNothingLeftToInitialise: the kernel's lazy initialisation writes zeros to
// every inode table that is not marked as zeroed, and fills a sparse disk with them.
func TestNothingLeftToInitialise(t *testing.T) {
	needTool(t, "dumpe2fs")
	out := command(t, "dumpe2fs", emptyImage(t, 20<<30))
	groups, zeroed := strings.Count(out, ": (Blocks "), strings.Count(out, "ITABLE_ZEROED")
	if groups != 160 || zeroed != groups {
		t.Errorf("%d groups, %d with a zeroed inode table", groups, zeroed)
	}
	for _, want := range []string{"metadata_csum", "64bit", "flex_bg", "sparse_super", "meta_bg", "has_journal", "dir_index", "Checksum type:            crc32c"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s", want)
		}
	}
}
