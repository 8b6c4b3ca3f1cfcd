package agent_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/cpio"
	"banger/internal/guest"
	"banger/internal/guestproto"
)

// vm is a guest that is one: QEMU without KVM. These tests are the agent's own proof of
// its PID 1 half; package vmmtest and the smoke tests prove the whole product.
type vm struct {
	*machine
	qemu    *exec.Cmd
	console *syncBuffer
	dir     string
	kernel  string
	base    string
	boots   int
	exited  chan struct{}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newVM prepares disks and initramfs, and boots nothing.
func newVM(t *testing.T) *vm {
	t.Helper()
	v := &vm{dir: t.TempDir()}
	v.kernel, v.base = guestFiles(t)
	bin := filepath.Join(v.dir, "agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "banger/cmd/banger-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if len(program) > 8<<20 {
		t.Errorf("the agent has %d bytes", len(program))
	}
	var initramfs bytes.Buffer
	if err := cpio.Initramfs(&initramfs, program); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.dir, "initramfs"), initramfs.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, disk := range []string{"upper", "work"} {
		v.mkfs(t, disk, "256M")
	}
	return v
}

func (v *vm) mkfs(t *testing.T, name, size string, args ...string) {
	t.Helper()
	args = append(args, "-q", "-F", "-t", "ext4", filepath.Join(v.dir, name+".ext4"), size)
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
}

// boot starts the VM and waits until it is ready.
func (v *vm) boot(t *testing.T, cpus, memory int) error {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fds[1]), "far")
	defer far.Close()
	nearFile := os.NewFile(uintptr(fds[0]), "near")
	defer nearFile.Close()
	near, err := net.FileConn(nearFile)
	if err != nil {
		t.Fatal(err)
	}
	const cmdline = "console=ttyS0 reboot=t panic=-1 quiet nolapic_timer lpj=1000000 no_timer_check acpi=off"
	args := []string{"-M", "microvm,acpi=off,isa-serial=on,rtc=on", "-accel", "tcg", "-cpu", "max", "-smp", strconv.Itoa(cpus),
		"-m", strconv.Itoa(memory), "-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot",
		"-kernel", v.kernel, "-initrd", filepath.Join(v.dir, "initramfs"), "-append", cmdline,
		"-device", "virtio-rng-device",
		"-chardev", "socket,fd=3,id=agent", "-device", "virtio-serial-device",
		"-device", "virtserialport,chardev=agent,name=" + guestproto.PortName}
	cache := cmp.Or(os.Getenv("BANGER_TEST_CACHE"), "writeback")
	for i, file := range []string{v.base, filepath.Join(v.dir, "upper.ext4"), filepath.Join(v.dir, "work.ext4")} {
		ro := "off"
		if i == 0 {
			ro = "on"
		}
		args = append(args, "-drive", fmt.Sprintf("id=d%d,file=%s,format=raw,if=none,readonly=%s,cache=%s", i, file, ro, cache),
			"-device", fmt.Sprintf("virtio-blk-device,drive=d%d", i))
	}
	if v.boots == 0 && os.Getenv("BANGER_TEST_ICOUNT") != "" {
		args = append(args, "-icount", "shift=0")
	}
	v.boots++
	v.console = &syncBuffer{}
	v.qemu = exec.Command("qemu-system-x86_64", args...)
	v.qemu.ExtraFiles = []*os.File{far}
	v.qemu.Stdout, v.qemu.Stderr = v.console, v.console
	v.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := v.qemu.Start(); err != nil {
		t.Fatal(err)
	}
	v.exited = make(chan struct{})
	exited, qemu := v.exited, v.qemu
	go func() { defer close(exited); _ = qemu.Wait() }()
	v.machine = &machine{t: t}
	m := v.machine
	if m.mux, err = muxClient(near); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = qemu.Process.Kill()
		<-exited
		if m.control != nil {
			_ = m.control.Close()
		}
		_ = m.mux.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var hello guestproto.Hello
	m.control, m.ready, err = guest.Boot(ctx, m, guestproto.BootConfig{
		Hostname: "vm-name", MachineID: strings.Repeat("0123456789abcdef", 2),
		Base: "/dev/vda", Upper: "/dev/vdb", Work: "/dev/vdc",
		Env: []string{"FROM_CONFIG=yes"}, Seed: make([]byte, 32),
	}, func(h guestproto.Hello) { hello = h })
	if err != nil {
		return err
	}
	last := hello.MainNS
	report := fmt.Sprintf("main at %.1f ms, hello +%.1f", float64(last)/1e6, float64(hello.HelloNS-last)/1e6)
	for _, s := range m.ready.Stages {
		report += fmt.Sprintf(", %s +%.1f", s.Name, float64(s.AtNS-last)/1e6)
		last = s.AtNS
	}
	t.Logf("%s, main to ready %.1f ms", report, float64(last-hello.MainNS)/1e6)
	if m.ready.Warnings != nil {
		t.Errorf("warnings: %q", m.ready.Warnings)
	}
	return nil
}

func (v *vm) mustBoot(t *testing.T, cpus, memory int) {
	t.Helper()
	if err := v.boot(t, cpus, memory); err != nil {
		t.Fatalf("%v\n%s", err, v.console)
	}
}

// ends waits for the VM's own end and tells what it announced.
func (v *vm) ends(t *testing.T) string {
	t.Helper()
	select {
	case <-v.exited:
	case <-time.After(3 * time.Minute): // it may have a disk full of data to write out first
		t.Fatalf("the machine does not end\n%s", v.console)
	}
	<-v.control.Done()
	return v.control.Ending()
}

func (v *vm) stop(t *testing.T, verb string, grace int64) {
	t.Helper()
	begin := time.Now()
	if err := v.control.Shutdown(t.Context(), verb, grace); err != nil {
		t.Fatal(err)
	}
	if got := v.ends(t); got != verb {
		t.Errorf("ending %q, want %q\n%s", got, verb, v.console)
	}
	t.Logf("%s took %s", verb, time.Since(begin).Round(time.Millisecond))
	if text := v.console.String(); strings.Contains(text, "banger-agent:") || strings.Contains(text, "panic") {
		t.Errorf("console:\n%s", text)
	}
	for _, disk := range []string{"upper", "work"} {
		out, err := exec.Command("e2fsck", "-fn", filepath.Join(v.dir, disk+".ext4")).CombinedOutput()
		if err != nil {
			t.Errorf("%s is not clean: %v\n%s", disk, err, out)
		}
		out, _ = exec.Command("dumpe2fs", "-h", filepath.Join(v.dir, disk+".ext4")).CombinedOutput()
		if strings.Contains(string(out), "needs_recovery") {
			t.Errorf("%s needs recovery", disk)
		}
	}
}

func (v *vm) want(t *testing.T, script, stdout string) {
	t.Helper()
	if got := v.run(sh(script), ""); got.stdout != stdout || got.Code != 0 {
		t.Errorf("%s\n got %q, %+v, stderr %q\nwant %q", script, got.stdout, got.Exit, got.stderr, stdout)
	}
}

func TestVMLife(t *testing.T) {
	v := newVM(t)
	v.mustBoot(t, 1, 256)
	v.want(t, "hostname; cat /etc/hostname /etc/machine-id; getent hosts vm-name; grep -c localhost /etc/hosts",
		"vm-name\nvm-name\n0123456789abcdef0123456789abcdef\n127.0.1.1       vm-name\n2\n")
	v.want(t, "pwd; echo $HOME $USER $SHELL $FROM_CONFIG $PATH; id -u; ls -A", "/root\n/root root /bin/bash yes /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/banger/bin\n0\n.bashrc\n.profile\n")
	v.want(t, "stat -f -c %T / /root /run /tmp /dev/shm /var/lib/docker /sys/fs/cgroup; findmnt -n -o FSTYPE /var/lib/docker; mount | wc -l",
		"overlayfs\next2/ext3\ntmpfs\noverlayfs\ntmpfs\next2/ext3\ncgroup2fs\next4\n11\n")
	v.want(t, "test $(date +%s) -gt 1700000000 && ping -c1 -W1 127.0.0.1 >/dev/null 2>&1 || ip -br addr show lo | tr -s ' '", "lo UNKNOWN 127.0.0.1/8 ::1/128 \n")
	v.want(t, "cat /proc/self/oom_score_adj; cat /proc/self/cgroup | cut -c1-12; ulimit -n; umask", "0\n0::/banger/s\n1024\n0022\n")
	v.want(t, "echo kept >/root/file; echo kept >/etc/file; mv /etc/apt /etc/apt2; rm /etc/issue; sync; echo x | tee /dev/stderr 2>/dev/null", "x\n")
	if got := v.run(guestproto.Exec{Argv: []string{"sh", "-c", "id; echo out >/dev/stdout"}, User: "nobody"}, ""); !strings.Contains(got.stdout, "65534(nobody)") || !strings.Contains(got.stdout, "out\n") {
		t.Errorf("as nobody: %+v", got)
	}
	if got := v.run(guestproto.Exec{Argv: []string{"tty"}, TTY: true}, ""); got.stdout != "/dev/pts/0\r\n" {
		t.Errorf("terminal: %+v", got)
	}
	// An orphan is reaped, a child's status is not taken away.
	v.want(t, "for i in 1 2 3 4 5; do setsid sh -c 'exit 3' & done; sleep 0.3; (sleep 0.1 & ) ; sh -c 'exit 9'; echo $?; sleep 0.3; ps -eo stat,comm | grep -c '^Z' || true", "9\n0\n")
	v.stop(t, guestproto.VerbReboot, 5000)
	v.mustBoot(t, 2, 256)
	v.want(t, "cat /root/file /etc/file; ls -d /etc/apt2; ls /etc/issue 2>&1; ls -A /root; cat /etc/hosts | grep -c vm-name", "kept\nkept\n/etc/apt2\nls: cannot access '/etc/issue': No such file or directory\n.bashrc\n.profile\nfile\n1\n")
	v.stop(t, guestproto.VerbPoweroff, 5000)
}

func TestVMEndsFromInside(t *testing.T) {
	v := newVM(t)
	for _, c := range [][2]string{
		{"reboot", "reboot"}, {"poweroff", "poweroff"}, {"halt", "halt"},
		{"kill -TERM 1", "reboot"}, {"kill -INT 1", "reboot"}, {"kill -USR1 1", "halt"}, {"kill -USR2 1", "poweroff"},
	} {
		v.mustBoot(t, 1, 256)
		v.run(sh("for s in HUP QUIT SEGV ABRT ALRM PIPE BUS FPE ILL SYS WINCH TSTP; do kill -$s 1; done; kill -34 1; kill -64 1"), "")
		v.run(sh(c[0]+"; sleep 100"), "")
		if got := v.ends(t); got != c[1] {
			t.Errorf("%s: ending %q\n%s", c[0], got, v.console)
		}
	}
}

// TestVMBootTimes tells the agent's share of a boot, stage by stage: the minimum over
// several boots, because this is wall time on a busy machine.
func TestVMBootTimes(t *testing.T) {
	boots, _ := strconv.Atoi(os.Getenv("BANGER_TEST_BOOTS"))
	if boots == 0 {
		t.Skip("BANGER_TEST_BOOTS is not set")
	}
	v := newVM(t)
	for _, cpus := range []int{1, 2} {
		least := map[string]int64{}
		var order []string
		note := func(name string, ns int64) {
			if old, ok := least[name]; !ok || ns < old {
				least[name] = ns
			}
			if !slices.Contains(order, name) {
				order = append(order, name)
			}
		}
		for range boots {
			v.mustBoot(t, cpus, 256)
			last := v.control.Hello().MainNS
			for _, s := range v.ready.Stages {
				note(s.Name, s.AtNS-last)
				last = s.AtNS
			}
			note("main to ready", last-v.control.Hello().MainNS)
			begin := time.Now()
			v.stop(t, guestproto.VerbPoweroff, 5000)
			note("stop", time.Since(begin).Nanoseconds())
		}
		for _, name := range order {
			t.Logf("%d CPUs: %s %.1f ms", cpus, name, float64(least[name])/1e6)
		}
	}
}

func TestVMHostile(t *testing.T) {
	v := newVM(t)
	v.mkfs(t, "upper", "64M") // to be filled
	v.mustBoot(t, 1, 256)
	t.Run("memory", func(t *testing.T) {
		got := v.run(guestproto.Exec{Argv: []string{"python3", "-c", "x=[]\nwhile 1: x.append(bytearray(1<<20))"}}, "")
		if got.Code != 137 || got.Signal != 9 || !got.OOM {
			t.Errorf("%+v", got)
		}
		got = v.run(sh("python3 -c 'x=[]\nwhile 1: x.append(bytearray(1<<20))'; exit $?"), "")
		if got.Code != 137 || !got.OOM {
			t.Errorf("in a child: %+v", got)
		}
		got = v.run(sh("dd if=/dev/zero of=/dev/shm/x bs=1M; rm /dev/shm/x; echo ok"), "")
		t.Logf("a full tmpfs: %+v", got.Exit)
		v.run(sh("rm -f /dev/shm/x"), "")
		v.want(t, "echo alive", "alive\n")
	})
	t.Run("processes", func(t *testing.T) {
		conn := v.open("", sh("bomb() { bomb | bomb & }; bomb; sleep 1000"))
		time.Sleep(8 * time.Second)
		_ = conn.Close()
		begin := time.Now()
		eventually := func(script, want string) {
			t.Helper()
			for {
				var out bytes.Buffer
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				_, err := guest.RunSession(ctx, v.open("", sh(script)), guest.Streams{Stdout: &out})
				cancel()
				if err == nil && out.String() == want {
					t.Logf("%s: after %s", script, time.Since(begin).Round(time.Millisecond))
					return
				}
				if time.Since(begin) > 90*time.Second {
					t.Fatalf("%v, %q\n%s", err, out.String(), v.console)
				}
			}
		}
		eventually("echo alive", "alive\n")
		eventually("ls /sys/fs/cgroup/banger | grep -c ^s", "1\n") // only its own is left
	})
	t.Run("many sessions", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				if got := v.run(sh(fmt.Sprintf("cat; exit %d", i)), "input"); got.Code != i || got.stdout != "input" {
					t.Errorf("%d: %+v", i, got)
				}
			})
		}
		wg.Wait()
		count := func() string {
			return v.run(sh("ls /proc/1/fd | wc -l; ls /proc/1/task | wc -l; ls /sys/fs/cgroup/banger | grep -c ^s"), "").stdout
		}
		before := count()
		begin := time.Now()
		for range 200 {
			if got := v.run(guestproto.Exec{Argv: []string{"true"}}, ""); got.Code != 0 {
				t.Fatalf("%+v", got)
			}
		}
		t.Logf("a session takes %s; before %q, after %q", (time.Since(begin) / 200).Round(time.Microsecond), before, count())
	})
	t.Run("orphans go with the client", func(t *testing.T) {
		conn := v.open("", sh("setsid env -i sleep 1234 & sleep 1000"))
		time.Sleep(500 * time.Millisecond)
		_ = conn.Close()
		time.Sleep(3 * time.Second)
		v.want(t, "ps -eo args --no-headers | grep -c '^sleep' || true", "0\n")
	})
	t.Run("throughput", func(t *testing.T) {
		var n countWriter
		begin := time.Now()
		exit, err := guest.RunSession(t.Context(), v.open("", guestproto.Exec{Argv: []string{"head", "-c", "100000000", "/dev/zero"}}), guest.Streams{Stdout: &n})
		if err != nil || exit.Code != 0 || n != 100000000 {
			t.Errorf("%+v, %v, %d bytes", exit, err, n)
		}
		t.Logf("out: %.0f MB/s", 100/time.Since(begin).Seconds())
		begin = time.Now()
		exit, err = guest.RunSession(t.Context(), v.open("", sh("test $(wc -c) = 50000000")), guest.Streams{Stdin: bytes.NewReader(make([]byte, 50000000))})
		if err != nil || exit.Code != 0 {
			t.Errorf("%+v, %v", exit, err)
		}
		t.Logf("in: %.0f MB/s", 50/time.Since(begin).Seconds())
	})
	t.Run("no programs", func(t *testing.T) {
		// The disk is filled last: removing what the image has takes a little space.
		got := v.run(sh("cp /bin/dd /dev/shm; umount -l /sys/fs/cgroup /proc /dev/pts; "+
			"rm -rf /usr/bin /bin /etc/passwd /etc/group /root /run/banger; /dev/shm/dd if=/dev/zero of=/x bs=1M; exit 0"), "")
		t.Logf("%+v", got.Exit)
		got = v.run(guestproto.Exec{Argv: []string{"sh"}}, "")
		if got.Code != 127 {
			t.Errorf("%+v", got)
		}
	})
	v.control.Shutdown(t.Context(), guestproto.VerbPoweroff, 3000)
	if got := v.ends(t); got != guestproto.VerbPoweroff {
		t.Errorf("ending %q\n%s", got, v.console)
	}
	// The disk is full, and it boots all the same.
	if err := v.boot(t, 1, 256); err != nil {
		t.Fatalf("%v\n%s", err, v.console)
	}
	v.stop(t, guestproto.VerbPoweroff, 3000)
}

type countWriter int

func (c *countWriter) Write(p []byte) (int, error) { *c += countWriter(len(p)); return len(p), nil }

func TestVMBootFails(t *testing.T) {
	v := newVM(t)
	if err := os.Truncate(filepath.Join(v.dir, "upper.ext4"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(v.dir, "upper.ext4"), 64<<20); err != nil {
		t.Fatal(err)
	}
	err := v.boot(t, 1, 256)
	if err == nil || !strings.Contains(err.Error(), "guest boot at disks: mount /dev/vdb: invalid argument") {
		t.Errorf("%v", err)
	}
	select {
	case <-v.exited:
	case <-time.After(5 * time.Second):
		t.Error("the guest does not reset")
	}
}

func TestVMHomes(t *testing.T) {
	for _, c := range []struct{ name, files, want string }{
		{"a seed", "a dir/b", "a\ndir\n"},
		{"a nested seed", "root/a root/.hidden", ".hidden\na\n"},
		{"half a copy", ".banger-home.copy/half", ".bashrc\n.profile\n"},
		{"half an adoption", ".banger-home.adopt/one two", "one\ntwo\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := newVM(t)
			seed := filepath.Join(v.dir, "seed")
			for _, f := range strings.Fields(c.files) {
				if err := os.MkdirAll(filepath.Join(seed, filepath.Dir(f)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(seed, f), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			v.mkfs(t, "work", "64M", "-d", seed)
			for range 2 {
				v.mustBoot(t, 1, 256)
				v.want(t, "ls -A", c.want)
				v.stop(t, guestproto.VerbPoweroff, 5000)
			}
		})
	}
}
