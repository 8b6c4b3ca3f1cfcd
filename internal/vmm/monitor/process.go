// Package monitor has what the VMM drivers share: starting and reaping the one VMM
// process, and the channel to the guest's agent on a socket that the process inherits.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/effect"
	"banger/internal/procid"
)

// Command describes a VMM process. It gets an empty environment, its own session, / as
// its working directory, /dev/null as its standard input, and no other descriptor than
// those named here.
type Command struct {
	Path    string
	Args    []string   // without the program's name
	Console *os.File   // standard output
	Log     *os.File   // standard error
	Files   []*os.File // descriptors 3, 4, …
}

// Process is a running VMM process. Its methods may be called from several goroutines.
type Process struct {
	seam *effect.Seam
	cmd  *exec.Cmd
	id   procid.ID
	done chan struct{}

	mu    sync.Mutex
	pidfd int // -1 once the process was reaped
}

// StartProcess starts a VMM. After an error no process is left, whatever failed; a
// program that does not exist is NotFound. The process is killed by the kernel when
// this one ends, however it ends.
func StartProcess(ctx context.Context, seam *effect.Seam, c Command) (*Process, error) {
	p := &Process{seam: seam, done: make(chan struct{}), pidfd: -1}
	// The machine outlives ctx, which bounds its start alone.
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), c.Path, c.Args...)
	p.cmd.Env = []string{}
	p.cmd.Dir = "/"
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = c.Console, c.Log, c.Files
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:    true,
		Pdeathsig: unix.SIGKILL,
		PidFD:     &p.pidfd,
	}
	started := make(chan error)
	go p.live(ctx, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	return p, nil
}

// live starts the process and reaps it.
func (p *Process) live(ctx context.Context, started chan<- error) {
	// The parent-death signal fires when the *thread* that forked ends. So this thread
	// is kept for as long as the process lives, and ends with this goroutine.
	runtime.LockOSThread()
	err := p.seam.Start(ctx, "vmm.start", p.cmd)
	if err == nil && p.pidfd < 0 {
		err = errors.New("the host's kernel has no pidfd (Linux 5.4 and later have)")
	}
	if err == nil {
		p.id, err = procid.Of(p.cmd.Process.Pid)
	}
	if err != nil {
		p.undo()
		started <- err
		return
	}
	started <- nil
	_ = p.cmd.Wait() // Exit tells how it ended
	p.reaped()
}

// undo ends a process that was started although starting it is reported as failed.
func (p *Process) undo() {
	if p.cmd.Process != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
	p.reaped()
}

func (p *Process) reaped() {
	p.mu.Lock()
	if p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
		p.pidfd = -1
	}
	p.mu.Unlock()
	close(p.done)
}

// Process identifies the process.
func (p *Process) Process() procid.ID { return p.id }

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit is "exit status N" or "signal: NAME"; "" before Done.
func (p *Process) Exit() string {
	select {
	case <-p.done:
		return p.cmd.ProcessState.String()
	default:
		return ""
	}
}

// Kill sends SIGKILL and waits until the process was reaped, or ctx ends. One that has
// ended is no error, whatever ctx says.
func (p *Process) Kill(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.signal(ctx); err != nil {
		return fmt.Errorf("kill VMM %d: %w", p.id.PID, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of VMM %d: %w", p.id.PID, context.Cause(ctx))
	}
}

func (p *Process) signal(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 { // reaped meanwhile
		return nil
	}
	return p.seam.SignalPidfd(ctx, "vmm.kill", p.pidfd, unix.SIGKILL)
}
