package agent_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/agent"
	"banger/internal/errs"
	"banger/internal/guest"
	"banger/internal/guestproto"
)

func TestShutdown(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if got := m.run(sh("trap 'exit 9' TERM; echo; while :; do sleep 0.01; done"), ""); got.Code != 9 {
			t.Errorf("a command that obeys: %+v", got.Exit)
		}
	})
	wg.Go(func() {
		if got := m.run(sh("trap '' TERM; while :; do sleep 0.01; done"), ""); got.Code != 137 {
			t.Errorf("a command that does not: %+v", got.Exit)
		}
	})
	time.Sleep(200 * time.Millisecond)
	begin := time.Now()
	if err := m.control.Shutdown(t.Context(), guestproto.VerbReboot, 300); err != nil {
		t.Fatal(err)
	}
	<-m.control.Done()
	wg.Wait()
	if d := time.Since(begin); m.control.Ending() != guestproto.VerbReboot || d < 250*time.Millisecond || d > 5*time.Second {
		t.Errorf("ending %q after %s", m.control.Ending(), d)
	}
}

func TestShutdownOfAnIdleGuestIsFast(t *testing.T) {
	m := boot(t, agent.HostOptions{})
	begin := time.Now()
	if err := m.control.Shutdown(t.Context(), guestproto.VerbPoweroff, 10_000); err != nil {
		t.Fatal(err)
	}
	<-m.control.Done()
	if d := time.Since(begin); m.control.Ending() != guestproto.VerbPoweroff || d > 500*time.Millisecond {
		t.Errorf("ending %q after %s", m.control.Ending(), d)
	}
}

func TestSimulatedGuests(t *testing.T) {
	t.Run("never says hello", func(t *testing.T) {
		m := start(t, agent.HostOptions{NeverHello: true})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, _, err := guest.Boot(ctx, m, guestproto.BootConfig{}, nil); !errs.Is(err, errs.Timeout) {
			t.Error(err)
		}
	})
	t.Run("fails to boot", func(t *testing.T) {
		m := start(t, agent.HostOptions{FailStage: "overlay\x1b[31m", FailError: "no\nspace" + strings.Repeat("x", 1<<19)})
		_, _, err := guest.Boot(t.Context(), m, guestproto.BootConfig{}, nil)
		if !errs.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), `overlay\x1b[31m: no\nspacexx`) || len(err.Error()) > 2000 {
			t.Errorf("%.300v", err)
		}
	})
	t.Run("dies", func(t *testing.T) {
		m := boot(t, agent.HostOptions{DieAfter: 50 * time.Millisecond})
		<-m.control.Done()
		if m.control.Ending() != "" {
			t.Errorf("ending %q", m.control.Ending())
		}
	})
	t.Run("reboots by itself", func(t *testing.T) {
		ends := make(chan string, 1)
		m := boot(t, agent.HostOptions{Ends: ends})
		ends <- guestproto.VerbReboot
		<-m.control.Done()
		if m.control.Ending() != guestproto.VerbReboot {
			t.Errorf("ending %q", m.control.Ending())
		}
	})
	t.Run("deaf", func(t *testing.T) {
		m := boot(t, agent.HostOptions{Deaf: true})
		if err := m.control.Shutdown(t.Context(), guestproto.VerbPoweroff, 0); err != nil {
			t.Fatal(err)
		}
		select {
		case <-m.control.Done():
			t.Error("it ended")
		case <-time.After(100 * time.Millisecond):
		}
	})
	t.Run("console", func(t *testing.T) {
		var console bytes.Buffer
		m := boot(t, agent.HostOptions{Console: &console, ConsoleText: "hi\n", ConsoleFlood: 1000, HelloDelay: 10 * time.Millisecond})
		_ = m.control.Close()
		if console.Len() != 1003 {
			t.Errorf("%d bytes", console.Len())
		}
	})
}
