package session

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// scope holds all processes of one session, whatever sessions and groups they made.
type scope interface {
	// prepare makes a process that starts with attr and env begin inside.
	prepare(attr *syscall.SysProcAttr, env []string) []string
	// started tells the process that was started inside.
	started(p *process)
	// kill kills all; it returns when they were sent the signal.
	kill()
	empty() bool
	// oomKills is how many of its processes the kernel killed for memory.
	oomKills() int
	// release gives the scope up; processes in it live on.
	release()
}

// Cgroups makes a control group per session below one directory, and removes it once it
// is empty. It works on a descriptor of the directory: a guest may unmount its path.
type Cgroups struct {
	dir int

	mu   sync.Mutex
	n    int
	left []string // groups of sessions that are over, with processes that are not
}

// NewCgroups uses the cgroup v2 directory at path, which must exist.
func NewCgroups(path string) (*Cgroups, error) {
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open control group %s: %w", path, err)
	}
	return &Cgroups{dir: dir}, nil
}

func (c *Cgroups) open() (scope, error) {
	c.mu.Lock()
	c.n++
	name := "s" + strconv.Itoa(c.n)
	c.sweep()
	c.mu.Unlock()
	if err := unix.Mkdirat(c.dir, name, 0o755); err != nil {
		return nil, fmt.Errorf("make control group %s: %w", name, err)
	}
	fd, err := unix.Openat(c.dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Unlinkat(c.dir, name, unix.AT_REMOVEDIR)
		return nil, fmt.Errorf("open control group %s: %w", name, err)
	}
	return &cgroup{c, name, fd}, nil
}

// sweep removes a few groups that became empty; it goes round, so that all have their
// turn. Called with mu held.
func (c *Cgroups) sweep() {
	for range min(len(c.left), 8) {
		name := c.left[0]
		c.left = c.left[1:]
		if unix.Unlinkat(c.dir, name, unix.AT_REMOVEDIR) == unix.EBUSY {
			c.left = append(c.left, name)
		}
	}
}

type cgroup struct {
	parent *Cgroups
	name   string
	fd     int
}

func (g *cgroup) prepare(attr *syscall.SysProcAttr, env []string) []string {
	attr.UseCgroupFD, attr.CgroupFD = true, g.fd
	return env
}

func (g *cgroup) started(*process) {}

func (g *cgroup) kill() {
	if g.write("cgroup.kill", "1") == nil {
		return
	}
	// Kernels before 5.14 have no cgroup.kill.
	for range 100 {
		pids := strings.Fields(g.read("cgroup.procs"))
		if len(pids) == 0 {
			return
		}
		for _, text := range pids {
			if pid, err := strconv.Atoi(text); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func (g *cgroup) empty() bool { return !strings.Contains(g.read("cgroup.events"), "populated 1") }

func (g *cgroup) oomKills() int {
	for line := range strings.Lines(g.read("memory.events")) {
		if rest, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(rest))
			return n
		}
	}
	return 0
}

func (g *cgroup) release() {
	_ = unix.Close(g.fd)
	g.parent.mu.Lock()
	defer g.parent.mu.Unlock()
	g.parent.left = append(g.parent.left, g.name)
	g.parent.sweep()
}

func (g *cgroup) write(file, text string) error {
	fd, err := unix.Openat(g.fd, file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// read is "" when the file cannot be read.
func (g *cgroup) read(file string) string {
	fd, err := unix.Openat(g.fd, file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	buf := make([]byte, 64<<10) // a longer list of processes is read again
	n, err := unix.Read(fd, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// markVariable is in the environment of every process of a session without a cgroup.
const markVariable = "BANGER_SESSION="

// marks tells the sessions' processes apart where there are no control groups: by a
// variable in the environment that they inherit, and by their session id. A process that
// drops both escapes.
type marks struct {
	prefix string // of this agent

	mu sync.Mutex
	n  int
}

func newMarks() *marks {
	return &marks{prefix: fmt.Sprintf("%s%d-%d-", markVariable, os.Getpid(), time.Now().UnixNano())}
}

func (m *marks) open() scope {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	return &mark{text: m.prefix + strconv.Itoa(m.n)}
}

// killAll kills what is left of all sessions ever opened.
func (m *marks) killAll() {
	killMatching(func(pid int) bool { return environHas(pid, m.prefix, false) })
}

type mark struct {
	text   string
	leader *process
}

func (m *mark) prepare(_ *syscall.SysProcAttr, env []string) []string { return append(env, m.text) }
func (m *mark) started(p *process)                                    { m.leader = p }
func (m *mark) oomKills() int                                         { return 0 }
func (m *mark) release()                                              {}

func (m *mark) matches(pid int) bool {
	if environHas(pid, m.text, true) {
		return true
	}
	inSession := false
	if m.leader != nil {
		m.leader.ifLives(func(leader int) {
			sid, err := unix.Getsid(pid)
			inSession = err == nil && sid == leader
		})
	}
	return inSession
}

func (m *mark) kill() { killMatching(m.matches) }

func (m *mark) empty() bool {
	found := false
	eachProcess(func(pid int) {
		if m.matches(pid) && !zombie(pid) {
			found = true
		}
	})
	return !found
}

// killMatching goes on until it finds nothing new: processes fork while it looks.
func killMatching(matches func(pid int) bool) {
	for range 100 {
		found := false
		eachProcess(func(pid int) {
			if pid != os.Getpid() && pid > 1 && matches(pid) && !zombie(pid) {
				found = true
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		})
		if !found {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func eachProcess(f func(pid int)) {
	proc, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer proc.Close()
	for {
		names, err := proc.Readdirnames(1024)
		for _, name := range names {
			if pid, err := strconv.Atoi(name); err == nil {
				f(pid)
			}
		}
		if err != nil {
			return
		}
	}
}

func environHas(pid int, text string, whole bool) bool {
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if whole && string(v) == text || !whole && bytes.HasPrefix(v, []byte(text)) {
			return true
		}
	}
	return false
}

func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH)
	}
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	return len(rest) > 1 && (rest[1] == 'Z' || rest[1] == 'X')
}
