package ext4_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/ext4"
)

// ent is one entry of a test layer; size comes from data.
type ent struct {
	tar.Header
	data string
}

func file(name, data string) ent { return ent{tar.Header{Name: name, Mode: 0o644}, data} }
func dir(name string) ent {
	return ent{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}
func symlink(name, to string) ent {
	return ent{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, ""}
}
func link(name, to string) ent {
	return ent{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}, ""}
}

// layer makes a tar stream of entries. The time of an entry without one is fixed.
func layer(tb testing.TB, ents ...ent) []byte {
	tb.Helper()
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, e := range ents {
		h := e.Header
		h.Size = int64(len(e.data))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1700000000, 0)
		}
		if h.Format == 0 {
			h.Format = tar.FormatPAX
		}
		if err := t.WriteHeader(&h); err != nil {
			tb.Fatalf("%q: %v", h.Name, err)
		}
		if _, err := io.WriteString(t, e.data); err != nil {
			tb.Fatal(err)
		}
	}
	if err := t.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// build makes an image of layers and returns its path.
func build(tb testing.TB, o ext4.Options, layers ...[]byte) (string, ext4.Stats, error) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "image.ext4")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	w, err := ext4.New(f, o)
	if err != nil {
		return path, ext4.Stats{}, err
	}
	defer w.Close()
	for _, l := range layers {
		if err := w.ApplyLayer(context.Background(), bytes.NewReader(l)); err != nil {
			return path, ext4.Stats{}, err
		}
	}
	st, err := w.Finish()
	return path, st, err
}

// mustBuild is build of an image that e2fsck accepts.
func mustBuild(tb testing.TB, o ext4.Options, layers ...[]byte) (string, ext4.Stats) {
	tb.Helper()
	path, st, err := build(tb, o, layers...)
	if err != nil {
		tb.Fatal(err)
	}
	fsck(tb, path)
	return path, st
}

// fsck fails the test unless e2fsck finds nothing to say about an image.
func fsck(tb testing.TB, path string) {
	tb.Helper()
	if out, err := runFsck(path); err != nil {
		tb.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

func runFsck(path string) (string, error) {
	cmd := exec.Command("e2fsck", "-fn", path)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "E2FSCK_CONFIG=/dev/null")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func needTool(tb testing.TB, name string) {
	tb.Helper()
	if _, err := exec.LookPath(name); err != nil {
		tb.Skipf("%s is not installed", name)
	}
}

func TestEmpty(t *testing.T) {
	needTool(t, "e2fsck")
	for _, mib := range []int64{1, 2, 8, 31, 32, 64, 127, 128, 129, 300, 1024, 4096, 8192, 8193, 20480, 1 << 20} {
		path := filepath.Join(t.TempDir(), "empty.ext4")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		err = ext4.Empty(f, ext4.Options{Size: mib<<20 + 512, Label: "upper"})
		if err != nil {
			t.Fatalf("%d MiB: %v", mib, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if out, err := runFsck(path); err != nil {
			t.Errorf("%d MiB: %v\n%s", mib, err, out)
		}
		if st.Size != mib<<20 {
			t.Errorf("%d MiB: the file has %d bytes", mib, st.Size)
		}
		limit := int64(1 << 20)
		if mib > 20480 {
			limit = mib << 20 / 20000
		}
		if got := st.Blocks * 512; got > limit {
			t.Errorf("%d MiB: %d bytes are allocated, over %d", mib, got, limit)
		} else {
			t.Logf("%d MiB: %d KiB allocated", mib, got>>10)
		}
		os.Remove(path)
	}
}

func TestSmallImage(t *testing.T) {
	needTool(t, "e2fsck")
	l := layer(t, dir("etc/"), file("etc/hosts", "127.0.0.1 localhost\n"), symlink("lib", "usr/lib"),
		file("lib/x", strings.Repeat("x", 100000)), link("etc/h2", "etc/hosts"), symlink("long", strings.Repeat("a/", 100)))
	path, st := mustBuild(t, ext4.Options{}, l)
	t.Logf("%+v", st)
	_ = path
}
