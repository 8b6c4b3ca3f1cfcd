package shim

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/guestproto"
	"banger/internal/paths"
	"banger/internal/procid"
	"banger/internal/sandbox"
	"banger/internal/unixsock"
	"banger/internal/vmm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a VMM whose guest is the test: it sees each session in sessions.
type machine struct {
	sessions chan opened
	done     chan struct{}
	once     sync.Once
}

// opened is the guest's end of a session, whose request was read.
type opened struct {
	conn net.Conn
	req  guestproto.Request
	err  error
}

func newMachine() *machine {
	return &machine{sessions: make(chan opened), done: make(chan struct{})}
}

func (m *machine) Process() procid.ID    { return procid.ID{} }
func (m *machine) Done() <-chan struct{} { return m.done }
func (m *machine) Exit() string          { return "exit 0" }
func (m *machine) Close() error          { return nil }

func (m *machine) Kill(context.Context) error {
	m.once.Do(func() { close(m.done) })
	return nil
}

func (m *machine) Accept(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (m *machine) Open(context.Context) (net.Conn, error) {
	select {
	case <-m.done:
		return nil, errs.New(errs.Unavailable, "the guest has ended")
	default:
	}
	host, guest := net.Pipe()
	go func() {
		o := opened{conn: guest}
		o.err = guestproto.NewConn(guest).ReadJSON(guestproto.KindRequest, &o.req)
		m.sessions <- o
	}()
	return host, nil
}

// guest takes the next session.
func (m *machine) guest(t *testing.T) (net.Conn, guestproto.Request) {
	t.Helper()
	o := <-m.sessions
	if o.err != nil {
		t.Error(o.err)
	}
	return o.conn, o.req
}

// driver starts machines that it was given.
type driver struct{ m *machine }

func (driver) Name() string                            { return "test" }
func (driver) Probe(context.Context) (vmm.Info, error) { return vmm.Info{}, nil }
func (d driver) Start(_ context.Context, spec vmm.Spec) (vmm.Machine, error) {
	if d.m == nil {
		return nil, errs.Hint(errs.New(errs.Exhausted, "no VMM today"), "wait")
	}
	_, _ = io.WriteString(spec.Console, "Kernel panic\n")
	return d.m, nil
}

func newShim(t *testing.T, spec sandbox.Spec, m *machine) *Shim {
	t.Helper()
	return New(effect.New(nil), slog.New(slog.DiscardHandler), paths.VM{Dir: t.TempDir()}, spec, driver{m}, os.Stdin)
}

// running is a shim that serves a guest which is up.
func running(t *testing.T, spec sandbox.Spec) (*Shim, *machine) {
	t.Helper()
	m := newMachine()
	s := newShim(t, spec, m)
	s.machine, s.state.Phase = m, sandbox.PhaseRunning
	l, err := unixsock.Listen(s.vm.ShimSocket())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, unixsock.OwnerOnly(l)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, ticket := range s.tickets {
			ticket.expiry.Stop()
		}
	})
	return s, m
}

func getTicket(t *testing.T, s *Shim, final bool) string {
	t.Helper()
	ticket, err := sandbox.Connect(s.vm).Ticket(t.Context(), sandbox.TicketRequest{
		ID: "r1", Exec: guestproto.Exec{Argv: []string{"cat"}}, Final: final,
	})
	if err != nil {
		t.Fatal(err)
	}
	return ticket.Ticket
}

// session uses a ticket. The error is what the shim answered instead.
func session(t *testing.T, s *Shim, ticket string) (net.Conn, *bufio.Reader, error) {
	t.Helper()
	conn, err := unixsock.Dial(t.Context(), s.vm.ShimSocket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	req, _ := http.NewRequest(http.MethodGet, "http://shim"+sandbox.PathSession, nil)
	req.Header.Set("Authorization", "Bearer "+ticket)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", api.UpgradeExec)
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		var body api.ErrorBody
		if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.Error.Message == "" {
			t.Fatalf("%v: %+v", err, body)
		}
		return nil, nil, errs.New(errs.FromCode(body.Error.Code), "%s", body.Error.Message)
	}
	return conn, r, nil
}

func wantClass(t *testing.T, err error, want errs.Class) {
	t.Helper()
	if !errs.Is(err, want) {
		t.Errorf("class %v, want %v: %v", errs.ClassOf(err), want, err)
	}
}

func TestTicketIsUsedOnce(t *testing.T) {
	s, m := running(t, sandbox.Spec{Name: "web"})
	ticket := getTicket(t, s, false)
	if _, _, err := session(t, s, ticket); err != nil {
		t.Fatal(err)
	}
	conn, req := m.guest(t)
	defer conn.Close()
	if req.ID != "r1" || req.Verb != guestproto.VerbExec || req.Exec == nil || req.Exec.Argv[0] != "cat" {
		t.Errorf("request %+v", req)
	}
	for _, bad := range []string{ticket, "unknown", ""} {
		_, _, err := session(t, s, bad)
		wantClass(t, err, errs.Permission)
	}
}

func TestTicketExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		s := newShim(t, sandbox.Spec{EndWithSession: true, Ephemeral: true}, m)
		s.state.Phase = sandbox.PhaseRunning
		used, err1 := s.issue(sandbox.TicketRequest{Final: true})
		plain, err2 := s.issue(sandbox.TicketRequest{})
		if err1 != nil || err2 != nil || s.redeem(used.Ticket) == nil {
			t.Fatal(err1, err2)
		}
		time.Sleep(2 * sandbox.TicketTTL) // of the bubble's own time
		synctest.Wait()
		if s.redeem(plain.Ticket) != nil {
			t.Error("an old ticket is still good")
		}
		select {
		case <-s.killed:
			t.Error("a used ticket, or one that was not the final, ended the VM")
		default:
		}
		if _, err := s.issue(sandbox.TicketRequest{Final: true}); err != nil {
			t.Fatal(err)
		}
		<-s.killed // its client never came, so the VM ends
	})
}

func TestTicketsAreBounded(t *testing.T) {
	s, _ := running(t, sandbox.Spec{})
	for range maxTickets {
		if _, err := s.issue(sandbox.TicketRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := sandbox.Connect(s.vm).Ticket(t.Context(), sandbox.TicketRequest{})
	wantClass(t, err, errs.Exhausted)
}

func TestTicketsNeedARunningGuest(t *testing.T) {
	s, m := running(t, sandbox.Spec{})
	ticket := getTicket(t, s, false)
	_ = m.Kill(t.Context())
	_, _, err := session(t, s, ticket)
	wantClass(t, err, errs.Unavailable)
	s.update(func(st *sandbox.State) { st.Phase = sandbox.PhaseEnded })
	_, err = sandbox.Connect(s.vm).Ticket(t.Context(), sandbox.TicketRequest{})
	wantClass(t, err, errs.Precondition)
}

func TestSessionCopiesBothWays(t *testing.T) {
	s, m := running(t, sandbox.Spec{})
	client, r, err := session(t, s, getTicket(t, s, false))
	if err != nil {
		t.Fatal(err)
	}
	guest, _ := m.guest(t)
	big := make([]byte, 3<<20)
	_, _ = rand.Read(big)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = client.Write(big) })
	wg.Go(func() { _, _ = guest.Write(big) })
	wg.Go(func() {
		got := make([]byte, len(big))
		if _, err := io.ReadFull(guest, got); err != nil || !bytes.Equal(got, big) {
			t.Errorf("to the guest: %v", err)
		}
	})
	got := make([]byte, len(big))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, big) {
		t.Errorf("from the guest: %v", err)
	}
	wg.Wait()
	guest.Close()
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after the guest's end: %v", err)
	}
}

func TestClientThatGoesEndsTheGuestsSession(t *testing.T) {
	s, m := running(t, sandbox.Spec{})
	client, _, err := session(t, s, getTicket(t, s, false))
	if err != nil {
		t.Fatal(err)
	}
	guest, _ := m.guest(t)
	client.Close()
	if _, err := guest.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the guest reads %v", err)
	}
}

func TestFinalSessionEndsAnEphemeralVM(t *testing.T) {
	s, m := running(t, sandbox.Spec{EndWithSession: true, Ephemeral: true})
	if _, _, err := session(t, s, getTicket(t, s, false)); err != nil {
		t.Fatal(err)
	}
	other, _ := m.guest(t)
	other.Close()
	if _, _, err := session(t, s, getTicket(t, s, true)); err != nil {
		t.Fatal(err)
	}
	final, _ := m.guest(t)
	select {
	case <-s.killed:
		t.Error("the first session, which was not the final one, ended the VM")
	default:
	}
	final.Close()
	<-s.killed
	if s.end != sandbox.EndKilled {
		t.Errorf("end %q", s.end)
	}
}

// pipes is a listener in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// What a client waits for is answered although the shim is about to exit.
func TestServeFinishesAnswersUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShim(t, sandbox.Spec{}, newMachine())
		l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- s.Serve(ctx, l) }()
		client, server := net.Pipe()
		l.conns <- server
		req, _ := http.NewRequest(http.MethodPost, "http://shim"+sandbox.PathStop, nil)
		if err := req.Write(client); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop()
		synctest.Wait()
		select {
		case err := <-served:
			t.Fatalf("Serve returned before its client was answered: %v", err)
		default:
		}
		s.update(func(st *sandbox.State) { st.Phase = sandbox.PhaseEnded })
		resp, err := http.ReadResponse(bufio.NewReader(client), req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("answer %+v, %v", resp, err)
		}
		client.Close()
		synctest.Wait()
		time.Sleep(finishServer) // of the bubble's own time
		select {
		case err := <-served:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Error("Serve goes on")
		}
	})
}

func TestRunThatCannotStart(t *testing.T) {
	s := newShim(t, sandbox.Spec{}, nil)
	if err := s.Run(t.Context()); err != nil {
		t.Error(err)
	}
	outcome, err := sandbox.ReadOutcome(s.vm)
	if err != nil || outcome.How != sandbox.EndBoot || !outcome.Failed() || outcome.At.IsZero() {
		t.Errorf("outcome %+v, %v", outcome, err)
	}
	state := s.State()
	if state.Phase != sandbox.PhaseEnded || state.Error == nil {
		t.Fatalf("state %+v", state)
	}
	wantClass(t, state.Error.Err(), errs.Exhausted)
	if errs.HintOf(state.Error.Err()) != "wait" {
		t.Errorf("hint %q", errs.HintOf(state.Error.Err()))
	}
}

func TestRunThatEndsBeforeItIsReady(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(*Shim, *machine)
		how   string
		words string
	}{
		"the VMM ends": {func(_ *Shim, m *machine) { _ = m.Kill(context.Background()) }, sandbox.EndBoot, "Kernel panic"},
		"killed":       {func(s *Shim, _ *machine) { s.requestKill(sandbox.EndKilled, "") }, sandbox.EndKilled, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine()
			s := newShim(t, sandbox.Spec{BootTimeout: time.Hour}, m)
			c.end(s, m)
			if err := s.Run(t.Context()); err != nil {
				t.Error(err)
			}
			if o, err := sandbox.ReadOutcome(s.vm); err != nil || o.How != c.how || !strings.Contains(o.Error, c.words) {
				t.Errorf("outcome %+v, %v", o, err)
			}
			if h, err := sandbox.ReadHandles(s.vm); err != nil || h.Shim.PID != os.Getpid() || h.VMM == nil {
				t.Errorf("handles %+v, %v", h, err)
			}
			select {
			case <-m.done:
			default:
				t.Error("the VMM runs on")
			}
		})
	}
}
