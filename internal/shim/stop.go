package shim

import (
	"context"

	"banger/internal/errs"
	"banger/internal/guestproto"
	"banger/internal/sandbox"
)

// Kill ends the VMM at once and waits until the run has ended.
func (s *Shim) Kill(ctx context.Context) (sandbox.State, error) {
	s.requestKill(sandbox.EndKilled, "")
	return s.waitFor(ctx, sandbox.PhaseEnded)
}

// requestKill makes the run end as how; the first request decides.
func (s *Shim) requestKill(how, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.killed:
		return
	default:
	}
	s.end, s.endError = how, why
	close(s.killed)
}

// Stop asks the guest to end and waits until the run has ended. A guest that does not
// end within its grace is killed, and so is one that is not up yet. ctx bounds only the
// waiting: the stop goes on without the caller.
func (s *Shim) Stop(ctx context.Context) (sandbox.State, error) {
	s.mu.Lock()
	control := s.control
	first := s.end == ""
	if first && control != nil {
		s.end = sandbox.EndClean
	}
	s.mu.Unlock()
	switch {
	case !first:
	case control == nil:
		s.requestKill(sandbox.EndKilled, "")
	default:
		go s.shutdown(context.WithoutCancel(ctx), control)
	}
	return s.waitFor(ctx, sandbox.PhaseEnded)
}

type shutdowner interface {
	Shutdown(ctx context.Context, verb string, graceMS int64) error
}

func (s *Shim) shutdown(ctx context.Context, control shutdowner) {
	ctx, cancel := context.WithTimeout(ctx, s.spec.StopGrace+killGrace)
	defer cancel()
	if err := control.Shutdown(ctx, guestproto.VerbPoweroff, s.spec.StopGrace.Milliseconds()); err != nil {
		s.log.Warn("ask the guest to end", "error", err)
	}
	if _, err := s.waitFor(ctx, sandbox.PhaseEnded); err != nil {
		s.requestKill(sandbox.EndHang, "the guest did not stop in time and was killed")
	}
}

// sessionEnded obeys EndWithSession.
func (s *Shim) sessionEnded(ctx context.Context) {
	if s.spec.Ephemeral {
		s.requestKill(sandbox.EndKilled, "")
		return
	}
	if _, err := s.Stop(ctx); err != nil && !errs.Is(err, errs.Cancelled) {
		s.log.Warn("stop after the session", "error", err)
	}
}
