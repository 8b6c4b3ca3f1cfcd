// Package session runs commands for the agent: one session is one command with its
// streams, its terminal if it has one, and every process that comes of it.
package session

import (
	"os"
	"sync"
	"syscall"
	"time"

	"banger/internal/agent/passwd"
	"banger/internal/guestproto"
)

// Config is what all sessions of an agent have in common.
type Config struct {
	Starter    Starter
	Cgroups    *Cgroups // nil: a session's processes are told apart by their environment
	Users      passwd.DB
	SwitchUser bool     // false: commands run as this process's user, whoever was asked for
	Env        []string // NAME=VALUE, defaults
	PathTail   string   // directory at the end of the default PATH, or ""
	Dir        string   // default directory; "" is the user's home
}

// Runner runs sessions.
type Runner struct {
	c     Config
	marks *marks

	mu      sync.Mutex
	closed  bool
	live    map[*session]bool
	serving sync.WaitGroup // Serve calls, and what they left to drain
}

// New makes a Runner.
func New(c Config) *Runner {
	return &Runner{c: c, marks: newMarks(), live: map[*session]bool{}}
}

// Serve runs e for the client at the far end of conn, which it closes. It returns when
// the client has closed its end; or, when the client goes away before the command ended,
// once all processes of the session are gone.
//
// After the command's own process ended, what its streams hold is sent, and what comes
// within drainTime; processes that it left behind live on, and what they write later is
// dropped.
func (r *Runner) Serve(conn *guestproto.Conn, e guestproto.Exec) {
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.serving.Add(1)
		defer r.serving.Done()
	}
	r.mu.Unlock()
	defer conn.Close()
	no := refuse(guestproto.CodeRefused, "the guest is shutting down")
	var c command
	if !closed {
		c, no = r.resolve(e)
	}
	s := &session{r: r, conn: conn, hungUp: make(chan struct{}), tty: e.TTY, stdin: noInput()}
	if no == nil {
		no = s.makeStreams(e, c)
	}
	s.helpers.Go(s.readClient)
	defer s.helpers.Wait()
	if no == nil {
		no = s.start(c)
	}
	if no == nil {
		s.run()
		return
	}
	_ = conn.WriteJSON(guestproto.KindExit, no.exit()) // the client is gone, or reads it
	<-s.hungUp                                         // closing first could cut off what it has not read yet
}

// Close refuses new sessions and hangs up the terminals: the shells on them ignore the
// TERM that a shutdown begins with.
func (r *Runner) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for s := range r.live {
		if s.tty {
			s.proc.signalGroup(syscall.SIGHUP)
		}
	}
}

// Terminate asks the sessions' commands to end, waits at most grace until they have, and
// kills what is left of the sessions whose clients have not gone.
func (r *Runner) Terminate(grace time.Duration) {
	r.mu.Lock()
	procs := make([]*process, 0, len(r.live))
	for s := range r.live {
		procs = append(procs, s.proc)
	}
	r.mu.Unlock()
	for _, p := range procs {
		p.signalGroup(syscall.SIGTERM)
		p.signalGroup(syscall.SIGCONT)
	}
	timeout := time.After(grace)
	for _, p := range procs {
		select {
		case <-p.done:
		case <-timeout:
			r.killLive()
			return
		}
	}
	r.killLive()
}

func (r *Runner) killLive() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.live {
		s.scope.kill()
	}
}

// Kill ends all sessions without their clients' leave and returns when they are over.
func (r *Runner) Kill() {
	r.Close()
	r.killLive()
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.serving.Wait()
	}()
	for {
		r.marks.killAll() // again, for one that was just being started
		select {
		case <-over:
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Wait waits until all sessions are over and their clients have gone, at most d.
func (r *Runner) Wait(d time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.serving.Wait()
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}

// session is one of Serve's.
type session struct {
	r       *Runner
	conn    *guestproto.Conn
	tty     bool
	scope   scope
	hungUp  chan struct{} // closed when the client has gone, and conn with it
	helpers sync.WaitGroup

	stdin   *input
	master  *os.File    // with a terminal
	outputs []*output   // what the client gets
	child   [3]*os.File // the command's ends, closed once it runs

	mu      sync.Mutex
	proc    *process // nil before it runs
	pending []int    // signals that came before
}

// maxPending bounds signals for a command that does not run yet.
const maxPending = 16

// start starts the command. After a refusal only the conversation with the client
// remains.
func (s *session) start(c command) *refusal {
	s.scope = s.r.openScope()
	attr := &os.ProcAttr{Dir: c.dir, Files: s.child[:], Sys: &syscall.SysProcAttr{Setsid: true, Setctty: s.tty}}
	if s.r.c.SwitchUser {
		attr.Sys.Credential = &syscall.Credential{Uid: c.user.UID, Gid: c.user.GID, Groups: c.user.Groups}
	}
	attr.Env = s.scope.prepare(attr.Sys, c.env)
	started := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		// A program on a file system that never answers keeps the start from returning.
		select {
		case <-started:
		case <-s.hungUp:
			s.scope.kill()
		}
	})
	proc, err := s.r.c.Starter.start(c.path, c.argv, attr)
	close(started)
	watcher.Wait()
	s.closeChild()
	if err != nil {
		s.closeStreams()
		s.scope.release()
		return startError(c, err)
	}
	s.scope.started(proc)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proc = proc
	for _, number := range s.pending {
		proc.signalGroup(syscall.Signal(number))
	}
	return nil
}

func (r *Runner) openScope() scope {
	if r.c.Cgroups != nil {
		if sc, err := r.c.Cgroups.open(); err == nil {
			return sc
		}
		// A guest can break its control groups; it still gets its commands run.
	}
	return r.marks.open()
}

// makeStreams leaves nothing open after a refusal.
func (s *session) makeStreams(e guestproto.Exec, c command) *refusal {
	uid, gid := -1, -1
	if s.r.c.SwitchUser {
		uid, gid = int(c.user.UID), int(c.user.GID)
	}
	if err := s.openStreams(e, uid, gid); err != nil {
		s.closeChild()
		s.closeStreams()
		return &refusal{guestproto.CodeRefused, err}
	}
	return nil
}

func (s *session) openStreams(e guestproto.Exec, uid, gid int) (err error) {
	if e.TTY {
		user := (*os.File)(nil)
		if s.master, user, err = openPTY(e.Rows, e.Cols, uid, gid); err != nil {
			return err
		}
		s.child = [3]*os.File{user, user, user}
		s.stdin = newInput(s.conn, s.master, true)
		s.outputs = []*output{{conn: s.conn, kind: guestproto.KindStdout, f: s.master}}
		return nil
	}
	var stdin *os.File
	if s.child[0], stdin, err = pipe(uid, gid); err != nil {
		return err
	}
	s.stdin = newInput(s.conn, stdin, false)
	for i, kind := range []guestproto.Kind{guestproto.KindStdout, guestproto.KindStderr} {
		var out *os.File
		if out, s.child[i+1], err = pipe(uid, gid); err != nil {
			return err
		}
		s.outputs = append(s.outputs, &output{conn: s.conn, kind: kind, f: out})
	}
	return nil
}

// pipe makes a pipe that belongs to the user, who may open it again as /dev/stdout.
func pipe(uid, gid int) (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err == nil && uid >= 0 {
		_ = control(r, func(fd int) error { return syscall.Fchown(fd, uid, gid) })
	}
	return r, w, err
}

// closeStreams closes what is open; closing twice is no harm.
func (s *session) closeStreams() {
	s.stdin.close()
	for _, o := range s.outputs {
		_ = o.f.Close()
	}
}

func (s *session) closeChild() {
	for _, f := range s.child {
		if f != nil {
			_ = f.Close()
		}
	}
}

// run carries the session from a started process to its end.
func (s *session) run() {
	s.r.add(s)
	defer s.r.remove(s)
	defer s.scope.release()
	s.helpers.Go(s.stdin.run)
	_ = s.conn.WriteJSON(guestproto.KindStarted, guestproto.Started{PID: s.proc.pid}) // the reader notices
	drained := make(chan struct{})
	s.helpers.Go(func() {
		defer close(drained)
		s.copyOutput()
	})

	select {
	case <-s.proc.done:
	case <-s.hungUp:
		s.hangUp()
		return
	}
	s.stdin.close()
	for _, o := range s.outputs {
		o.lastCall()
	}
	select {
	case <-drained:
	case <-s.hungUp: // the client took neither the rest nor the code
		s.hangUp()
		return
	}
	s.abandonOutput()
	_ = s.conn.WriteJSON(guestproto.KindExit, s.exit()) // the client is gone, or reads it
	<-s.hungUp
}

func (r *Runner) add(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[s] = true
	if r.closed { // it came in while Close went round
		s.proc.signalGroup(syscall.SIGTERM)
	}
}

func (r *Runner) remove(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, s)
}

func (s *session) exit() guestproto.Exit {
	status := s.proc.status
	e := guestproto.Exit{Code: status.ExitStatus()}
	if status.Signaled() {
		e.Signal = int(status.Signal())
		e.Code = 128 + e.Signal
	}
	e.OOM = e.Code != 0 && s.scope.oomKills() > 0
	return e
}

// hangUp ends everything of the session: HUP to the command's process group, and after
// HangupGrace, or once the command has ended and the rest had a moment, KILL to all.
func (s *session) hangUp() {
	if s.tty {
		if group := foreground(s.master); group > 1 {
			_ = syscall.Kill(-group, syscall.SIGHUP)
		}
	}
	s.proc.signalGroup(syscall.SIGHUP)
	s.proc.signalGroup(syscall.SIGCONT)
	s.closeStreams()
	grace := time.NewTimer(guestproto.HangupGrace)
	defer grace.Stop()
	select {
	case <-s.proc.done:
	case <-grace.C:
	}
	const step = 5 * time.Millisecond
	for waited := time.Duration(0); !s.scope.empty() && waited < leftoverGrace; waited += step {
		time.Sleep(step)
	}
	s.scope.kill()
	s.proc.signalGroup(syscall.SIGKILL)
	<-s.proc.done
}

// leftoverGrace is what processes of a session whose command has already ended get
// between the client's going and KILL.
const leftoverGrace = 100 * time.Millisecond

// readClient obeys the client until it goes or breaks the protocol, which is the same.
func (s *session) readClient() {
	defer close(s.hungUp)
	defer s.conn.Close() // writes under way end
	for {
		kind, payload, err := s.conn.Read()
		if err != nil {
			return
		}
		switch kind {
		case guestproto.KindStdin:
			err = s.stdin.add(payload)
		case guestproto.KindStdinEOF:
			s.stdin.finish()
		case guestproto.KindSignal:
			var sig guestproto.Signal
			if err = guestproto.Decode(kind, payload, &sig); err == nil {
				s.signal(sig.Number)
			}
		case guestproto.KindResize:
			var size guestproto.Resize
			if err = guestproto.Decode(kind, payload, &size); err == nil && s.master != nil {
				_ = resize(s.master, size.Rows, size.Cols) // the terminal may be closed by now
			}
		}
		if err != nil {
			return
		}
	}
}

// signal goes to whoever a key on the terminal would reach.
func (s *session) signal(number int) {
	if number < 1 || number > 64 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		if len(s.pending) < maxPending {
			s.pending = append(s.pending, number)
		}
		return
	}
	sig := syscall.Signal(number)
	if s.tty {
		if group := foreground(s.master); group > 1 && syscall.Kill(-group, sig) == nil {
			return
		}
	}
	s.proc.signalGroup(sig)
}
