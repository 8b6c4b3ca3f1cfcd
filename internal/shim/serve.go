package shim

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"banger/api"
	"banger/internal/errs"
	"banger/internal/guestproto"
	"banger/internal/sandbox"
)

const (
	maxRequest   = 1 << 20
	maxTickets   = 1024
	headerLimit  = 10 * time.Second
	finishServer = 2 * time.Second
)

// ticket is a one-time right to a session.
type ticket struct {
	request guestproto.Request
	final   bool
	expiry  *time.Timer
}

// Serve answers on l until ctx ends, then lets answers under way finish.
func (s *Shim) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+sandbox.PathState, s.handleState)
	mux.HandleFunc("POST "+sandbox.PathStop, s.answerState(s.Stop))
	mux.HandleFunc("POST "+sandbox.PathKill, s.answerState(s.Kill))
	mux.HandleFunc("POST "+sandbox.PathTicket, s.handleTicket)
	mux.HandleFunc("GET "+sandbox.PathSession, s.handleSession)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: headerLimit, MaxHeaderBytes: 64 << 10}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishServer)
		defer cancel()
		_ = server.Shutdown(grace) // what is still open then is cut by the process's end
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-finished // Serve returns when Shutdown begins
	return nil
}

func (s *Shim) handleState(w http.ResponseWriter, r *http.Request) {
	s.answerState(func(ctx context.Context) (sandbox.State, error) {
		return s.waitFor(ctx, r.URL.Query().Get("until"))
	})(w, r)
}

func (s *Shim) answerState(f func(context.Context) (sandbox.State, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		state, err := f(r.Context())
		answer(w, state, err)
	}
}

func answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status, v = http.StatusConflict, sandbox.ErrorOf(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone, or reads it
}

func (s *Shim) handleTicket(w http.ResponseWriter, r *http.Request) {
	var req sandbox.TicketRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&req); err != nil {
		answer(w, nil, errs.New(errs.Usage, "ticket request: %w", err))
		return
	}
	t, err := s.issue(req)
	answer(w, t, err)
}

func (s *Shim) issue(req sandbox.TicketRequest) (sandbox.Ticket, error) {
	secret := make([]byte, 24)
	if _, err := rand.Read(secret); err != nil {
		return sandbox.Ticket{}, err
	}
	key := hex.EncodeToString(secret)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Phase != sandbox.PhaseRunning {
		return sandbox.Ticket{}, errs.New(errs.Precondition, "VM %q is %s", s.spec.Name, s.state.Phase)
	}
	if len(s.tickets) >= maxTickets {
		return sandbox.Ticket{}, errs.New(errs.Exhausted, "VM %q: %d sessions wait for their clients", s.spec.Name, maxTickets)
	}
	t := &ticket{final: req.Final}
	t.request = guestproto.Request{ID: req.ID, Verb: guestproto.VerbExec, Exec: &req.Exec}
	t.expiry = time.AfterFunc(sandbox.TicketTTL, func() {
		if s.redeem(key) != nil && t.final && s.spec.EndWithSession {
			s.sessionEnded(context.Background()) // nobody's request: the client never came
		}
	})
	s.tickets[key] = t
	return sandbox.Ticket{Ticket: key}, nil
}

// redeem takes a ticket out; nil when there is none of that key.
func (s *Shim) redeem(key string) *ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tickets[key]
	if t != nil {
		delete(s.tickets, key)
		t.expiry.Stop()
	}
	return t
}

// refuse answers a session's client, who is no daemon: its errors are those of the API.
func refuse(w http.ResponseWriter, err error) {
	e := sandbox.ErrorOf(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusConflict)
	body := api.ErrorBody{Error: api.Error{Code: e.Code, Message: e.Message, Hint: e.Hint}}
	_ = json.NewEncoder(w).Encode(body) // the client is gone, or reads it
}

func (s *Shim) handleSession(w http.ResponseWriter, r *http.Request) {
	key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	t := s.redeem(key)
	if t == nil {
		refuse(w, errs.New(errs.Permission, "the ticket is unknown, used or expired"))
		return
	}
	if t.final && s.spec.EndWithSession {
		defer s.sessionEnded(context.WithoutCancel(r.Context()))
	}
	guestConn, err := s.openSession(r.Context(), t.request)
	if err != nil {
		refuse(w, err)
		return
	}
	defer guestConn.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, err)
		return
	}
	defer client.Close()
	const upgraded = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + api.UpgradeExec + "\r\n\r\n"
	if _, err := io.WriteString(client, upgraded); err != nil {
		return
	}
	splice(client, buffered.Reader, guestConn)
}

func (s *Shim) openSession(ctx context.Context, req guestproto.Request) (net.Conn, error) {
	s.mu.Lock()
	machine := s.machine
	s.mu.Unlock()
	if machine == nil {
		return nil, errs.New(errs.Unavailable, "VM %q has ended", s.spec.Name)
	}
	conn, err := machine.Open(ctx)
	if err != nil {
		return nil, err
	}
	if err := guestproto.NewConn(conn).WriteJSON(guestproto.KindRequest, req); err != nil {
		return nil, errors.Join(errs.With(errs.Unavailable, err), conn.Close())
	}
	return conn, nil
}

// splice copies frames both ways until either side ends. Frames need no understanding
// here: the client bounds what it takes from the guest, and the guest what it takes
// from the client.
func splice(client net.Conn, fromClient *bufio.Reader, guest net.Conn) {
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(guest, fromClient)
		_ = guest.Close() // the client went: the agent ends the session
	})
	_, _ = io.Copy(client, guest)
	_ = client.Close()
	wg.Wait()
}
