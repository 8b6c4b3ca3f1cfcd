package cpio_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/cpio"
	"banger/internal/errs"
)

func gnu(t *testing.T, dir string, archive []byte, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("no GNU cpio")
	}
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cpio %v: %v", args, err)
	}
	return string(out)
}

func TestInitramfsAsGNUCpioSeesIt(t *testing.T) {
	for size := range 9 { // every padding
		agent := bytes.Repeat([]byte("a"), size)
		var archive bytes.Buffer
		if err := cpio.Initramfs(&archive, agent); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(gnu(t, "", archive.Bytes(), "-itv", "--quiet", "--numeric-uid-gid")), "\n")
		var got []string
		for _, line := range lines {
			f := strings.Fields(line)
			got = append(got, f[0]+" "+f[1]+" "+f[2]+" "+f[3]+" "+strings.Join(f[4:len(f)-4], "")+" "+f[len(f)-1])
		}
		want := []string{
			"drwxr-xr-x 2 0 0 0 dev", "drwxr-xr-x 2 0 0 0 proc", "drwxr-xr-x 2 0 0 0 sys",
			"drwxr-xr-x 2 0 0 0 lower", "drwxr-xr-x 2 0 0 0 upper", "drwxr-xr-x 2 0 0 0 work", "drwxr-xr-x 2 0 0 0 new",
			"crw------- 1 0 0 5,1 dev/console", "crw-rw-rw- 1 0 0 1,3 dev/null",
			"-rwxr-xr-x 1 0 0 " + string(rune('0'+size)) + " init",
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("size %d: got\n%s\nwant\n%s", size, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		dir := t.TempDir()
		gnu(t, dir, archive.Bytes(), "-id", "--quiet", "init")
		if b, err := os.ReadFile(filepath.Join(dir, "init")); err != nil || !bytes.Equal(b, agent) {
			t.Errorf("size %d: init is %q, %v", size, b, err)
		}
	}
}

func TestInitramfsIsDeterministic(t *testing.T) {
	sum := func() [32]byte {
		var b bytes.Buffer
		if err := cpio.Initramfs(&b, []byte("agent")); err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b.Bytes())
	}
	if first, second := sum(), sum(); first != second {
		t.Error("two archives of one agent differ")
	}
}

func TestEntriesAreChecked(t *testing.T) {
	for _, e := range []cpio.Entry{
		{Name: ""}, {Name: "/etc"}, {Name: "etc/"}, {Name: "a//b"}, {Name: "../a"}, {Name: "a/./b"}, {Name: "a\x00b"},
		{Name: "TRAILER!!!"}, {Name: strings.Repeat("x", 5000)},
		{Name: "a", Mode: cpio.TypeFile, Size: -1}, {Name: "a", Mode: cpio.TypeFile, Size: 1 << 32}, {Name: "a", Mode: cpio.TypeDir, Size: 1},
	} {
		var b bytes.Buffer
		if err := cpio.NewWriter(&b).Add(e, nil); !errs.Is(err, errs.Usage) || b.Len() != 0 {
			t.Errorf("%.40q: %v, %d bytes", e.Name, err, b.Len())
		}
	}
	err := cpio.NewWriter(io.Discard).Add(cpio.Entry{Name: "a", Mode: cpio.TypeFile, Size: 5}, strings.NewReader("abc"))
	if !errs.Is(err, errs.InvalidData) {
		t.Errorf("short content: %v", err)
	}
}

type full struct{ left int }

var errFull = errors.New("full")

func (f *full) Write(p []byte) (int, error) {
	n := min(len(p), f.left)
	f.left -= n
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

func TestEveryWriteErrorIsReported(t *testing.T) {
	var b bytes.Buffer
	if err := cpio.Initramfs(&b, []byte("agent")); err != nil {
		t.Fatal(err)
	}
	for n := range b.Len() {
		if err := cpio.Initramfs(&full{n}, []byte("agent")); !errors.Is(err, errFull) {
			t.Fatalf("full after %d bytes: %v", n, err)
		}
	}
}

func FuzzAdd(f *testing.F) {
	f.Add("dir/name", uint32(0o100644), []byte("content"))
	f.Fuzz(func(t *testing.T, name string, mode uint32, content []byte) {
		var b bytes.Buffer
		w := cpio.NewWriter(&b)
		if w.Add(cpio.Entry{Name: name, Mode: mode, Size: int64(len(content))}, bytes.NewReader(content)) != nil {
			return
		}
		if err := w.Close(); err != nil || b.Len()%4 != 0 {
			t.Fatalf("%d bytes, %v", b.Len(), err)
		}
	})
}
