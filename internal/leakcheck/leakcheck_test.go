package leakcheck_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/leakcheck"
)

// A leak of each kind must be named, and be gone from the difference when it is mended.
func TestEveryKindOfLeakIsNamed(t *testing.T) {
	dir := t.TempDir()
	options := leakcheck.Options{Dirs: []string{dir}, Grace: 5 * time.Second}
	rows := 0
	options.Rows = func() (map[string]int, error) { return map[string]int{"vms": rows}, nil }

	leaks := []struct {
		name string
		want string
		make func(t *testing.T) (mend func())
	}{
		{"child process", "+ process ", func(t *testing.T) func() {
			return start(t, exec.CommandContext(t.Context(), "sleep", "60"))
		}},
		{"process that only works in the directory", "(sleep)", func(t *testing.T) func() {
			return orphan(t, dir, "sleep 60")
		}},
		{"process that only knows the directory", "(sleep)", func(t *testing.T) func() {
			return orphan(t, "/", "X="+dir+" sleep 60")
		}},
		{"process that only has a file open there", "(sleep)", func(t *testing.T) func() {
			return orphan(t, "/", "sleep 60 3>"+dir+"/open")
		}},
		{"zombie", "+ zombie ", func(t *testing.T) func() {
			cmd := exec.CommandContext(t.Context(), "true")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var info unix.Siginfo // until it has ended, without reaping it
			if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
				t.Fatal(err)
			}
			return func() { _ = cmd.Wait() }
		}},
		{"descriptor", "+ descriptor /dev/zero", func(t *testing.T) func() {
			f, err := os.Open("/dev/zero")
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = f.Close() }
		}},
		{"goroutine", "+ goroutine started by banger/internal/leakcheck_test", func(*testing.T) func() {
			stop := make(chan struct{})
			go func() { <-stop }()
			return func() { close(stop) }
		}},
		{"mount", "+ mount / of tmpfs tmpfs rw on " + dir, func(t *testing.T) func() {
			needRoot(t)
			point := filepath.Join(dir, "mnt")
			if err := os.Mkdir(point, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", point, "tmpfs", 0, ""); err != nil {
				t.Skip(err)
			}
			return func() { _ = unix.Unmount(point, 0); _ = os.Remove(point) }
		}},
		{"network namespace", "+ namespace net:[", func(t *testing.T) func() {
			needRoot(t)
			cmd := exec.CommandContext(t.Context(), "sleep", "60")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
			return start(t, cmd)
		}},
		{"loop device", "+ loop device ", func(t *testing.T) func() {
			needRoot(t)
			file := filepath.Join(dir, "loop")
			if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", file).Output()
			if err != nil {
				t.Skip(err)
			}
			return func() {
				_ = exec.CommandContext(t.Context(), "losetup", "--detach", strings.TrimSpace(string(out))).Run()
				_ = os.Remove(file)
			}
		}},
		{"tap", "+ network link leaktap", func(t *testing.T) func() {
			needRoot(t)
			return tap(t, "leaktap")
		}},
		{"unix socket", "+ unix socket " + dir, func(t *testing.T) func() {
			var config net.ListenConfig
			l, err := config.Listen(t.Context(), "unix", filepath.Join(dir, "s"))
			if err != nil {
				t.Fatal(err)
			}
			return func() { _ = l.Close() }
		}},
		{"file", "+ file " + dir + "/left, mode -rw-r-----, 3 bytes", func(t *testing.T) func() {
			return write(t, filepath.Join(dir, "left"))
		}},
		{"row", "+ row vms", func(*testing.T) func() { rows++; return func() { rows-- } }},
	}
	before, err := leakcheck.Take(options)
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range leaks {
		t.Run(leak.name, func(t *testing.T) {
			mend := leak.make(t)
			now, err := leakcheck.Take(options)
			if err != nil {
				t.Error(err)
			}
			if diff := strings.Join(before.Diff(now), "\n"); !strings.Contains(diff, leak.want) {
				t.Errorf("not named %q in:\n%s", leak.want, diff)
			}
			mend()
			_ = os.Remove(filepath.Join(dir, "open"))
			if diff, err := before.Wait(options); err != nil || len(diff) > 0 {
				t.Errorf("after it was mended: %v, %v", err, diff)
			}
		})
	}
}

func TestWhatIsGoneIsNamedToo(t *testing.T) {
	dir := t.TempDir()
	remove := write(t, filepath.Join(dir, "f"))
	options := leakcheck.Options{Dirs: []string{dir}}
	before, _ := leakcheck.Take(options)
	remove()
	after, _ := leakcheck.Take(options)
	if diff := before.Diff(after); len(diff) != 1 || !strings.HasPrefix(diff[0], "- file "+dir) {
		t.Errorf("difference: %q", diff)
	}
	if before.String() == after.String() {
		t.Error("different inventories print the same")
	}
}

func TestIgnoredAndVolatileFiles(t *testing.T) {
	dir := t.TempDir()
	options := leakcheck.Options{Dirs: []string{dir}, Ignore: []string{"*.log", "sub"}, Volatile: []string{"db"}}
	write(t, filepath.Join(dir, "db"))
	before, _ := leakcheck.Take(options)
	write(t, filepath.Join(dir, "a.log"))
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "sub", "x"))
	if err := os.WriteFile(filepath.Join(dir, "db"), []byte("longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	after, _ := leakcheck.Take(options)
	if diff := before.Diff(after); len(diff) > 0 {
		t.Errorf("difference: %q", diff)
	}
}

// A leak that mends itself within the grace is none; one that does not fails the test.
func TestCheck(t *testing.T) {
	t.Run("late end", func(t *testing.T) {
		leakcheck.Check(t, leakcheck.Options{})
		go time.Sleep(100 * time.Millisecond)
	})
	recorder := &recorder{TB: t}
	leakcheck.Check(recorder, leakcheck.Options{Grace: 20 * time.Millisecond})
	stop := make(chan struct{})
	go func() { <-stop }()
	recorder.cleanup()
	close(stop)
	if !strings.Contains(recorder.message, "goroutine started by") {
		t.Errorf("message %q", recorder.message)
	}
}

type recorder struct {
	testing.TB
	cleanup func()
	message string
}

func (r *recorder) Cleanup(f func())             { r.cleanup = f }
func (r *recorder) Errorf(_ string, args ...any) { r.message = args[0].(string) }

func needRoot(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func start(t *testing.T, cmd *exec.Cmd) func() {
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
}

// orphan starts a shell command that nothing but the directory leads back to here.
func orphan(t *testing.T, cwd, command string) func() {
	out, err := exec.CommandContext(t.Context(), "sh", "-c",
		"cd "+cwd+"; ("+command+" >/dev/null 2>&1 & echo $!)").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(out))
	for i := 0; i < 100; i++ { // until the shell that was forked has executed it
		if name, _ := os.ReadFile("/proc/" + pid + "/comm"); string(name) == "sleep\n" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return func() { _ = exec.CommandContext(t.Context(), "kill", "-9", pid).Run() }
}

func tap(t *testing.T, name string) func() {
	f, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(f, unix.TUNSETIFF, request); err != nil {
		_ = unix.Close(f)
		t.Skip(err)
	}
	runtime.KeepAlive(request)
	return func() { _ = unix.Close(f) }
}

func write(t *testing.T, path string) func() {
	if err := os.WriteFile(path, []byte("abc"), 0o640); err != nil {
		t.Fatal(err)
	}
	return func() { _ = os.Remove(path) }
}
