package overlay_test

import (
	"bytes"
	"context"
	"os"
	"syscall"
	"testing"

	"banger/internal/disk/overlay"
	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/paths"
)

const size = 20 << 30

// check wants an empty, sparse ext4 file system of the size at path, called label.
func check(t *testing.T, path, label string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != size || info.Mode() != 0o600 {
		t.Errorf("%s: %d bytes, mode %v", path, info.Size(), info.Mode())
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 4<<20 {
		t.Errorf("%s takes %d bytes", path, used)
	}
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		t.Fatal(err)
	}
	if super[0x38] != 0x53 || super[0x39] != 0xef || !bytes.HasPrefix(super[0x78:], append([]byte(label), 0)) {
		t.Errorf("%s: magic % x, label %q", path, super[0x38:0x3a], super[0x78:0x88])
	}
}

func TestMake(t *testing.T) {
	vm := paths.VM{Dir: t.TempDir()}
	d := overlay.Driver{Seam: effect.New(nil)}
	for _, durable := range []bool{true, false} { // the second over the first
		if err := os.WriteFile(vm.Work(), bytes.Repeat([]byte("old"), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.Make(t.Context(), vm, size, durable); err != nil {
			t.Fatal(err)
		}
		check(t, vm.Upper(), "upper")
		check(t, vm.Work(), "work")
		first := make([]byte, 1024)
		f, err := os.Open(vm.Work())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(first); err != nil || bytes.Contains(first, []byte("old")) {
			t.Errorf("the old content is still there (%v)", err)
		}
		f.Close()
	}
}

type failing int

func (n failing) Before(_ context.Context, e effect.Event) error {
	if e.N == int(n) {
		return syscall.ENOSPC
	}
	return nil
}

func (failing) After(_ context.Context, _ effect.Event, err error) error { return err }

func TestMakeThatFails(t *testing.T) {
	for n := 1; ; n++ {
		vm := paths.VM{Dir: t.TempDir()}
		err := overlay.Driver{Seam: effect.New(failing(n))}.Make(t.Context(), vm, size, true)
		if err == nil {
			if n != 5 {
				t.Errorf("%d effects", n-1)
			}
			return
		}
		if !errs.Is(err, errs.Exhausted) {
			t.Errorf("effect %d: class %v: %v", n, errs.ClassOf(err), err)
		}
	}
}

// A link in the place of a disk is not followed.
func TestMakeThroughALink(t *testing.T) {
	vm := paths.VM{Dir: t.TempDir()}
	victim := vm.Dir + "/victim"
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, vm.Upper()); err != nil {
		t.Fatal(err)
	}
	err := overlay.Driver{Seam: effect.New(nil)}.Make(t.Context(), vm, size, true)
	if content, readErr := os.ReadFile(victim); err == nil || string(content) != "precious" {
		t.Errorf("%v; the file holds %.20q (%v)", err, content, readErr)
	}
}
