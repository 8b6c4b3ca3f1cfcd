package ext4_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/ext4"
)

// TestGrowOnline grows mounted filesystems with EXT4_IOC_RESIZE_FS in a guest, in
// steps that cross groups, flex groups and meta groups, and has e2fsck judge
// the result on the host. It runs in a guest because the ioctl needs a capability
// that containers do not have, and because guests are where it is done.
func TestGrowOnline(t *testing.T) {
	needTool(t, "e2fsck")
	needTool(t, "qemu-system-x86_64")
	kernel := os.Getenv("BANGER_TEST_KERNEL")
	if kernel == "" {
		t.Skip("BANGER_TEST_KERNEL names no guest kernel; make kernel builds one")
	}
	if st, err := os.Stat(kernel); err == nil && st.IsDir() {
		kernel = filepath.Join(kernel, "vmlinux")
	}
	dir := t.TempDir()
	initrd := filepath.Join(dir, "initrd")
	writeInitramfs(t, initrd, buildGrowInit(t, dir))
	const gib = 1 << 30
	corpusImage, _ := mustBuild(t, ext4.Options{}, layer(t, corpus()[0]...))
	upper := emptyImage(t, gib)
	small := emptyImage(t, 100<<20)
	for _, c := range []struct {
		name  string
		image string
		sizes []int64
	}{
		{"upper of 1 GiB to 1 TiB", upper, []int64{1200 << 20, 3 * gib, 9 * gib, 20 * gib, 70*gib + 4096*777, 1024 * gib}},
		{"upper of 100 MiB", small, []int64{129 << 20, 200 << 20, 100 * gib}},
		{"image of a base", corpusImage, []int64{2 * gib, 21 * gib}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sizes []string
			for _, s := range c.sizes {
				sizes = append(sizes, fmt.Sprint(s))
			}
			if err := os.Truncate(c.image, c.sizes[len(c.sizes)-1]); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "qemu-system-x86_64", "-M", "microvm,acpi=off,isa-serial=on,rtc=on",
				"-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot",
				"-kernel", kernel, "-initrd", initrd,
				"-append", "console=ttyS0 reboot=t panic=-1 quiet nolapic_timer lpj=1000000 no_timer_check grow="+strings.Join(sizes, ","),
				"-drive", "id=d,file="+c.image+",format=raw,if=none,cache=unsafe", "-device", "virtio-blk-device,drive=d")
			out, err := cmd.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("grown")) || bytes.Contains(out, []byte("EXT4-fs error")) {
				t.Fatalf("%v\n%s", err, out)
			}
			fsck(t, c.image)
		})
	}
}

func emptyImage(t *testing.T, size int64) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "empty.ext4")
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := ext4.Empty(f, ext4.Options{Size: size}); err != nil {
		t.Fatal(err)
	}
	return p
}

func buildGrowInit(t *testing.T, dir string) []byte {
	t.Helper()
	needTool(t, "go")
	out := filepath.Join(dir, "growinit")
	cmd := exec.Command("go", "build", "-o", out, "./testdata/growinit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// writeInitramfs writes a newc archive with the one file /init and /dev/console.
func writeInitramfs(t *testing.T, path string, program []byte) {
	t.Helper()
	var b bytes.Buffer
	add := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", b.Len()+1, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	add("dev", 0o40755, 0, 0, nil)
	add("dev/console", 0o20600, 5, 1, nil)
	add("init", 0o100755, 0, 0, program)
	add("TRAILER!!!", 0, 0, 0, nil)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
