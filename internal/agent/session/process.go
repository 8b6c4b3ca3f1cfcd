package session

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/errs"
)

// Starter starts processes and learns of their ends. It is a Reaper or a Spawner.
type Starter interface {
	// start is os.StartProcess for a process that leads a session of its own.
	start(path string, argv []string, attr *os.ProcAttr) (*process, error)
}

// process is one that was started and not forgotten.
type process struct {
	pid  int
	done chan struct{} // closed when it was reaped; status is valid then

	mu     *sync.Mutex // held by the one who reaps, from before the pid is free
	status syscall.WaitStatus
	reaped bool
}

// end is called with mu held, once.
func (p *process) end(status syscall.WaitStatus) {
	p.status, p.reaped = status, true
	close(p.done)
}

// signalGroup signals the process group; nothing happens when the leader was reaped,
// because its pid may be somebody else's then.
func (p *process) signalGroup(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = syscall.Kill(-p.pid, sig) // ESRCH: they are all zombies
	}
}

// ifLives calls f with the pid while it is sure to belong to the process.
func (p *process) ifLives(f func(pid int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		f(p.pid)
	}
}

// Reaper starts processes in a guest whose PID 1 this process is, and reaps every child,
// orphans included. Nothing else in the process may wait for children.
type Reaper struct {
	startMu sync.Mutex // one start at a time; also Go's fork lock allows no more

	mu       sync.Mutex
	procs    map[int]*process
	starting bool
	// early holds what ended while a start was under way: it may be the process that
	// the start has not told the pid of yet.
	early   map[int]syscall.WaitStatus
	changed chan struct{}
}

// maxEarly bounds early: a start can take as long as the guest likes, for example when
// the program lies on a file system that never answers.
const maxEarly = 1024

// NewReaper makes a Reaper. The caller arranges that Collect is called after each
// SIGCHLD.
func NewReaper() *Reaper {
	return &Reaper{procs: map[int]*process{}, early: map[int]syscall.WaitStatus{}, changed: make(chan struct{}, 1)}
}

// Collect reaps all children that have ended, and lets Changed know.
func (r *Reaper) Collect() {
	r.Reap()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Changed receives after a Collect.
func (r *Reaper) Changed() <-chan struct{} { return r.changed }

// Reap reaps all children that have ended, and tells whether there are others.
func (r *Reaper) Reap() (others bool) {
	for {
		r.mu.Lock()
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == nil && pid > 0 {
			r.reaped(pid, status)
		}
		r.mu.Unlock()
		switch {
		case err == syscall.EINTR || err == nil && pid > 0:
		case err != nil:
			return false
		default:
			return true
		}
	}
}

func (r *Reaper) reaped(pid int, status syscall.WaitStatus) {
	if p := r.procs[pid]; p != nil {
		delete(r.procs, pid)
		p.end(status)
	} else if r.starting && len(r.early) < maxEarly {
		r.early[pid] = status
	}
}

func (r *Reaper) start(path string, argv []string, attr *os.ProcAttr) (*process, error) {
	r.startMu.Lock()
	defer r.startMu.Unlock()
	r.mu.Lock()
	r.starting = true
	clear(r.early)
	r.mu.Unlock()

	started, err := os.StartProcess(path, argv, attr)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting = false
	if err != nil {
		return nil, err
	}
	p := &process{pid: started.Pid, done: make(chan struct{}), mu: &r.mu}
	status, ended := r.early[p.pid]
	switch {
	case ended:
		p.end(status)
	case len(r.early) == maxEarly && syscall.Kill(p.pid, 0) == syscall.ESRCH:
		// It was reaped when there was no room to remember it.
		p.end(syscall.WaitStatus(syscall.SIGKILL))
	default:
		r.procs[p.pid] = p
	}
	_ = started.Release() // closes its pidfd, nothing else
	return p, nil
}

// Spawner starts processes on a host, as children of a process that has others too. The
// kernel kills them when the Spawner is closed or its process dies; their own children
// it does not.
type Spawner struct {
	work chan func()
	done chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

// NewSpawner makes a Spawner; Close it.
func NewSpawner() *Spawner {
	s := &Spawner{work: make(chan func()), done: make(chan struct{})}
	go func() {
		// A parent-death signal goes out when the thread ends that forked. This one lives
		// as long as the Spawner, and ends with this goroutine because it stays locked.
		runtime.LockOSThread()
		for {
			select {
			case f := <-s.work:
				f()
			case <-s.done:
				return
			}
		}
	}()
	return s
}

// Close kills the processes that are left, and returns when they were reaped.
func (s *Spawner) Close() {
	s.once.Do(func() { close(s.done) })
	s.wg.Wait()
}

func (s *Spawner) start(path string, argv []string, attr *os.ProcAttr) (*process, error) {
	attr.Sys.Pdeathsig = syscall.SIGKILL
	var started *os.Process
	var err error
	ready := make(chan struct{})
	select {
	case s.work <- func() { started, err = os.StartProcess(path, argv, attr); close(ready) }:
		<-ready
	case <-s.done:
		return nil, errs.New(errs.Unavailable, "start %s: the agent ends", path)
	}
	if err != nil {
		return nil, err
	}
	p := &process{pid: started.Pid, done: make(chan struct{}), mu: new(sync.Mutex)}
	_ = started.Release() // closes its pidfd, nothing else
	s.wg.Go(p.wait)
	return p, nil
}

// wait reaps one process. It first waits without reaping, so that the pid is free only
// once reaped is set.
func (p *process) wait() {
	for {
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.pid, &status, 0, nil)
		if err != syscall.EINTR {
			break
		}
	}
	p.end(status)
}
