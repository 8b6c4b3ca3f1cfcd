package ext4_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"banger/internal/ext4"
)

// needMount skips a test that cannot mount a loop device.
func needMount(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: mounts an image")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		tb.Skipf("needs loop devices: %v", err)
	}
}

func command(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// mount mounts an image and returns where, and what unmounts it.
func mount(tb testing.TB, image, options string) (string, func()) {
	tb.Helper()
	needMount(tb)
	dir := tb.TempDir()
	command(tb, "mount", "-t", "ext4", "-o", "loop,"+options, image, dir)
	mounted := true
	umount := func() {
		if mounted {
			mounted = false
			command(tb, "umount", dir)
		}
	}
	tb.Cleanup(umount)
	return dir, umount
}

// manifest describes every path below root, one line each.
func manifest(tb testing.TB, root string) map[string]string {
	tb.Helper()
	out := map[string]string{}
	first := map[uint64]string{}
	now := time.Now().Unix()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		if rel == "lost+found" {
			return filepath.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		var b strings.Builder
		fmt.Fprintf(&b, "mode=%o uid=%d gid=%d", st.Mode, st.Uid, st.Gid)
		if age := now - st.Mtim.Sec; st.Mode&unix.S_IFMT == unix.S_IFDIR && age > -3600 && age < 3600 {
			b.WriteString(" mtime=now") // no layer names it: each way gives it its own time
		} else {
			fmt.Fprintf(&b, " mtime=%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
		case unix.S_IFREG:
			sum, err := hashFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " size=%d sha=%.12x", st.Size, sum)
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " to=%q", to)
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprintf(&b, " dev=%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first[st.Ino] == "" {
				first[st.Ino] = rel
			}
			fmt.Fprintf(&b, " nlink=%d same=%q", st.Nlink, first[st.Ino])
		}
		fmt.Fprintf(&b, " xattrs=%s", xattrs(tb, p))
		out[rel] = b.String()
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func hashFile(p string) ([]byte, error) {
	f, err := os.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return h.Sum(nil), err
}

func xattrs(tb testing.TB, p string) string {
	tb.Helper()
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, list)
	if err != nil {
		tb.Fatalf("%s: list attributes: %v", p, err)
	}
	var out []string
	for _, name := range strings.Split(strings.Trim(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		val := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(p, name, val)
		if err != nil {
			tb.Fatalf("%s: attribute %s: %v", p, name, err)
		}
		sum := sha256.Sum256(val[:k])
		out = append(out, fmt.Sprintf("%s:%d:%x", name, k, sum[:4]))
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

// compare fails the test for every path that differs.
func compare(tb testing.TB, want, got map[string]string) {
	tb.Helper()
	shown := 0
	report := func(format string, args ...any) {
		if shown++; shown <= 20 {
			tb.Errorf(format, args...)
		}
	}
	for p, w := range want {
		if g, ok := got[p]; !ok {
			report("missing: %q", p)
		} else if g != w {
			report("%q\n image %s\n   tar %s", p, g, w)
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			report("too much: %q", p)
		}
	}
	tb.Logf("%d paths compared, %d differ", len(want), shown)
}

// reference applies layers with GNU tar as root: the whiteouts of a layer first,
// then whatever one of its entries replaces is removed, then tar extracts.
func reference(tb testing.TB, layers ...string) string {
	tb.Helper()
	needMount(tb)
	needTool(tb, "tar")
	root := tb.TempDir()
	for _, file := range layers {
		each := func(f func(h *tar.Header, p, base string)) {
			r, err := os.Open(file)
			if err != nil {
				tb.Fatal(err)
			}
			defer r.Close()
			for t := tar.NewReader(r); ; {
				h, err := t.Next()
				if err == io.EOF {
					return
				}
				if err != nil {
					tb.Fatal(err)
				}
				name := path.Clean("/" + h.Name)
				f(h, filepath.Join(root, name), path.Base(name))
			}
		}
		each(func(_ *tar.Header, p, base string) {
			if base == ".wh..wh..opq" {
				kids, _ := os.ReadDir(filepath.Dir(p))
				for _, k := range kids {
					os.RemoveAll(filepath.Join(filepath.Dir(p), k.Name()))
				}
			} else if victim, ok := strings.CutPrefix(base, ".wh."); ok {
				os.RemoveAll(filepath.Join(filepath.Dir(p), victim))
			}
		})
		seen := map[string]bool{}
		each(func(h *tar.Header, p, base string) {
			st, err := os.Lstat(p)
			if err != nil || p == root || strings.HasPrefix(base, ".wh.") || seen[p] {
				return
			}
			seen[p] = true
			if !st.IsDir() || h.Typeflag != tar.TypeDir {
				os.RemoveAll(p)
			}
		})
		command(tb, "tar", "-xpf", file, "-C", root, "--numeric-owner", "--xattrs", "--xattrs-include=*",
			"--exclude=.wh.*", "--warning=no-timestamp", "--delay-directory-restore")
	}
	return root
}

// judge converts layers and compares the kernel's view of the image with GNU tar's.
func judge(t *testing.T, o ext4.Options, layers ...[]byte) {
	t.Helper()
	needTool(t, "e2fsck")
	image, st := mustBuild(t, o, layers...)
	t.Logf("%+v", st)
	var files []string
	for i, l := range layers {
		f := filepath.Join(t.TempDir(), fmt.Sprintf("layer%d.tar", i))
		if err := os.WriteFile(f, l, 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	root := reference(t, files...)
	dir, umount := mount(t, image, "ro,noload")
	compare(t, manifest(t, root), manifest(t, dir))
	umount()
}

func owned(e ent, mode int64, uid, gid int) ent {
	e.Mode, e.Uid, e.Gid = mode, uid, gid
	return e
}

func at(e ent, t time.Time) ent {
	e.ModTime = t
	return e
}

func attrs(e ent, kv ...string) ent {
	e.PAXRecords = map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		e.PAXRecords["SCHILY.xattr."+kv[i]] = kv[i+1]
	}
	return e
}

func device(name string, typ byte, major, minor int64) ent {
	return ent{tar.Header{Name: name, Typeflag: typ, Mode: 0o600, Devmajor: major, Devminor: minor}, ""}
}

// capability is a security.capability value, revision 2.
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// aclValue is an ACL as system calls have it: owner, user 1000, group, mask, others.
const aclValue = "\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
	"\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

func corpus() [][]ent {
	long := strings.Repeat("n", 255)
	base := []ent{
		dir("./"), dir("bin"), dir("etc/"), dir("./usr"), dir("usr/lib"), dir("dev"), dir("empty"),
		owned(file("bin/su", "#!setuid"), 0o4755, 0, 0), owned(file("bin/wall", "setgid"), 0o2755, 0, 5),
		owned(dir("tmp"), 0o1777, 0, 0), owned(file("etc/big-ids", "x"), 0o640, 70000, 4000000000),
		owned(file("etc/none", ""), 0, 65534, 65534),
		symlink("lib", "usr/lib"), symlink("abs", "/usr/lib"), symlink("up", "../../../../usr"), symlink("dangling", "no/where"),
		symlink("l59", strings.Repeat("a", 59)), symlink("l60", strings.Repeat("b", 60)), symlink("l4k", strings.Repeat("c/", 2000)),
		file("lib/via-link", "through a symlink"),
		link("etc/su-link", "bin/su"), link("bin/link-of-link", "etc/su-link"), link("sym-hard", "l60"),
		device("dev/null", tar.TypeChar, 1, 3), device("dev/sda", tar.TypeBlock, 8, 0), device("dev/big", tar.TypeBlock, 259, 100000),
		device("dev/max", tar.TypeChar, 4095, 1048575), {tar.Header{Name: "dev/fifo", Typeflag: tar.TypeFifo, Mode: 0o622}, ""},
		file("etc/"+long, "255"), file("etc/üñí-日本\x01\n\t ", "utf-8"), file(strings.Repeat("d/", 60)+"deep", "deep"),
		attrs(file("etc/cap", "cap"), "security.capability", capability),
		attrs(file("etc/user", "x"), "user.a", "1", "user.empty", "", "user.bin", "\x00\x01\x02", "trusted.t", "v"),
		attrs(file("etc/wide", "x"), "user.wide", strings.Repeat("w", 2500), "user.b", "small"),
		attrs(file("etc/wide2", "x"), "user.wide", strings.Repeat("w", 2500), "user.b", "small"),
		attrs(dir("etc/attrs"), "user.dir", "d", "trusted.overlay.opaque", "n"),
		attrs(owned(file("etc/acl", "x"), 0o664, 0, 0), "system.posix_acl_access", aclValue),
		attrs(symlink("attr-link", "x"), "trusted.on.link", "l"),
		at(file("etc/ns", ""), time.Unix(1600000000, 123456789)), at(file("etc/old", ""), time.Unix(-86400*365, 500)),
		at(file("etc/2100", ""), time.Date(2100, 2, 3, 4, 5, 6, 7, time.UTC)), at(file("etc/1902", ""), time.Date(1902, 1, 1, 0, 0, 0, 0, time.UTC)),
		at(file("etc/2400", ""), time.Date(2400, 1, 1, 0, 0, 0, 99, time.UTC)),
		file("zeros", string(make([]byte, 8<<20))), file("holes", holes()), file("odd", strings.Repeat("odd", 123457)),
		dir("sub"), file("sub/keep", "1"), file("sub/gone", "2"), dir("sub/tree"), file("sub/tree/a", "a"), file("sub/tree/b", "b"),
		dir("opq"), file("opq/old1", "1"), file("opq/old2", "2"), dir("opq/olddir"), file("opq/olddir/x", "x"),
		dir("opq2"), file("opq2/old", "1"), dir("todir"), file("todir/x", "x"), file("tofile", "f"), file("swap", "s"), dir("swapdir"),
		file("shared", "old bytes"), link("shared2", "shared"), file("gone-target", "kept by a link"), link("kept", "gone-target"),
		dir("wide"),
	}
	for i := range 5000 {
		base = append(base, file(fmt.Sprintf("wide/file-number-%05d", i), fmt.Sprint(i)))
	}
	second := []ent{
		dir("./"), dir("sub"), file("sub/.wh.gone", ""), file("sub/.wh.tree", ""), file("sub/.wh.not-there", ""),
		dir("opq"), file("opq/new1", "n"), file("opq/.wh..wh..opq", ""), file("opq/new2", "n"), dir("opq/olddir"), file("opq/olddir/y", "y"),
		dir("opq2"), file("opq2/.wh..wh..opq", ""), file("opq2/new", "n"),
		file("todir2", "x"), file("todir", "now a file"), dir("tofile"), file("tofile/in", "now a directory"),
		file("shared", "new bytes, and more of them"), file(".wh.gone-target", ""), link("cross", "shared2"), link("opq/cross", "zeros"),
		file("swapped", "new"), file(".wh.swap", ""), file("swap", "written before and after"), dir("swapdir"), file("swapdir/x", "x"),
		dir("usr/lib"), file("lib/second", "through the old symlink"), file("missing/.wh.x", ""), file(".wh..wh.plnk", ""), dir("wide"),
	}
	for i := range 5000 {
		if i%3 == 0 {
			second = append(second, file(fmt.Sprintf("wide/.wh.file-number-%05d", i), ""))
		}
	}
	third := []ent{
		dir("./"), dir("tree"), file("tree/new", "n"), file(".wh.bin", ""), dir("sub"), file("sub/keep", "again"),
		file("fresh/.wh.nothing", ""), dir("fresh"), file("etc/cap", "cap lost"), dir("etc"), file("wide/.wh..wh..opq", ""), dir("wide"), file("wide/one", "1"),
	}
	return [][]ent{base, second, third}
}

// holes is content with long and short runs of zeros at odd places.
func holes() string {
	b := make([]byte, 3<<20+77)
	for _, i := range []int{0, 4095, 70000, 1 << 20, 1<<20 + 65536, 2<<20 + 4096, 3<<20 + 76} {
		b[i] = 1
	}
	return string(b)
}

func TestKernelSeesWhatTarExtracts(t *testing.T) {
	var layers [][]byte
	for _, ents := range corpus() {
		layers = append(layers, layer(t, ents...))
	}
	for n := 1; n <= len(layers); n++ {
		t.Run(fmt.Sprintf("%d layers", n), func(t *testing.T) { judge(t, ext4.Options{}, layers[:n]...) })
	}
	t.Run("fixed size", func(t *testing.T) { judge(t, ext4.Options{Size: 300 << 20}, layers...) })
	t.Run("no journal", func(t *testing.T) { judge(t, ext4.Options{Journal: ext4.NoJournal}, layers...) })
}

func TestSameInputSameImage(t *testing.T) {
	var sums [2][]byte
	for i := range sums {
		var layers [][]byte
		for _, ents := range corpus() {
			layers = append(layers, layer(t, ents...))
		}
		p, _, err := build(t, ext4.Options{UUID: [16]byte{1}, Time: time.Unix(1e9, 0)}, layers...)
		if err != nil {
			t.Fatal(err)
		}
		if sums[i], err = hashFile(p); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(sums[0], sums[1]) {
		t.Error("two images of the same layers differ")
	}
}

// TestRewrite uses an image as a guest would: mount, remove, create, unmount,
// check; and takes a copy while it is mounted, as a power cut would leave it.
func TestRewrite(t *testing.T) {
	needTool(t, "e2fsck")
	needMount(t)
	ents := corpus()
	image, _ := mustBuild(t, ext4.Options{Size: 400 << 20}, layer(t, ents[0]...), layer(t, ents[1]...))
	dir, umount := mount(t, image, "rw")
	if err := os.RemoveAll(filepath.Join(dir, "wide")); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		if err := os.MkdirAll(filepath.Join(dir, "made", fmt.Sprint(i%40)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "made", fmt.Sprint(i%40), fmt.Sprintf("%0100d", i)), make([]byte, i*7), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("x"), 100<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "large2")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"etc/cap", "etc/wide", "etc/wide2", "etc/user"} {
		if err := unix.Setxattr(filepath.Join(dir, p), "user.more", bytes.Repeat([]byte("m"), 900), 0); err != nil {
			t.Fatal(err)
		}
	}
	unix.Sync()
	if err := os.RemoveAll(filepath.Join(dir, "made", "7")); err != nil {
		t.Fatal(err)
	}
	crashed := filepath.Join(t.TempDir(), "crashed.ext4")
	command(t, "cp", "--sparse=always", image, crashed)
	umount()
	fsck(t, image)
	_, umount = mount(t, crashed, "rw")
	umount()
	fsck(t, crashed)
}

// TestGrowOffline doubles images with resize2fs, then uses the new space.
func TestGrowOffline(t *testing.T) {
	needTool(t, "e2fsck")
	needTool(t, "resize2fs")
	needMount(t)
	image, st := mustBuild(t, ext4.Options{}, layer(t, corpus()[0]...))
	for _, size := range []int64{st.Size + 100<<20, 2 << 30, 20 << 30} {
		if err := os.Truncate(image, size); err != nil {
			t.Fatal(err)
		}
		command(t, "resize2fs", image)
		fsck(t, image)
	}
	dir, umount := mount(t, image, "rw")
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 300<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	umount()
	fsck(t, image)
}

// TestRealImage judges the image in the layout that BANGER_TEST_OCI names.
func TestRealImage(t *testing.T) {
	layout := os.Getenv("BANGER_TEST_OCI")
	if layout == "" {
		t.Skip("BANGER_TEST_OCI names no OCI layout; make image builds one")
	}
	needMount(t)
	needTool(t, "e2fsck")
	files := unpackLayers(t, layout)
	path := filepath.Join(t.TempDir(), "image.ext4")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := ext4.New(f, ext4.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, name := range files {
		r, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.ApplyLayer(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	st, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", st)
	fsck(t, path)
	root := reference(t, files...)
	dir, umount := mount(t, path, "ro,noload")
	compare(t, manifest(t, root), manifest(t, dir))
	umount()
}

// unpackLayers decompresses the layers of a layout's first image into files.
func unpackLayers(t *testing.T, layout string) []string {
	t.Helper()
	type desc struct{ Digest, MediaType string }
	blob := func(d desc) string {
		return filepath.Join(layout, "blobs", "sha256", strings.TrimPrefix(d.Digest, "sha256:"))
	}
	read := func(p string, v any) {
		data, err := os.ReadFile(p)
		if err == nil {
			err = json.Unmarshal(data, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var index struct{ Manifests []desc }
	var man struct{ Layers []desc }
	read(filepath.Join(layout, "index.json"), &index)
	read(blob(index.Manifests[0]), &man)
	var files []string
	for i, l := range man.Layers {
		in, err := os.Open(blob(l))
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		var r io.Reader = in
		if strings.HasSuffix(l.MediaType, "zstd") {
			r, err = zstd.NewReader(in)
		} else if strings.HasSuffix(l.MediaType, "gzip") {
			r, err = gzip.NewReader(in)
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), fmt.Sprint(i, ".tar"))
		out, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(out, r); err != nil {
			t.Fatal(err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
		files = append(files, name)
	}
	return files
}
