// Package clienttest is a daemon and a shim without VMs, for tests of what talks to them.
// It answers what the test told it to.
package clienttest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
	"banger/internal/guestproto"
	"banger/internal/paths"
	"banger/internal/procid"
	"banger/internal/unixsock"
)

// Version is the fake daemon's.
const Version = "1.2.3-test"

// Daemon listens on a socket in a state directory of its own.
type Daemon struct {
	Dir string // its state directory

	mux *http.ServeMux

	mu       sync.Mutex
	requests []string
	bodies   map[string]string // of the last request, by "METHOD /path"
	sessions int
}

// Start starts a daemon, which ends with the test.
func Start(t testing.TB) *Daemon {
	t.Helper()
	d := &Daemon{Dir: t.TempDir(), mux: http.NewServeMux(), bodies: map[string]string{}}
	socket := filepath.Join(d.Dir, paths.SocketName)
	l, err := unixsock.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(d.serve))
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	if err := WriteDaemonFile(d.Dir, socket); err != nil {
		t.Fatal(err)
	}
	return d
}

// WriteDaemonFile says in the state directory dir that a daemon listens at socket.
func WriteDaemonFile(dir, socket string) error {
	self, err := procid.Self()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(api.DaemonFile{
		Socket: socket, PID: self.PID, StartTime: self.StartTime, BootID: self.BootID, StartedAt: time.Now(), Version: Version,
	})
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (d *Daemon) serve(w http.ResponseWriter, r *http.Request) {
	var body strings.Builder
	if _, err := bufio.NewReader(r.Body).WriteTo(&body); err != nil {
		return
	}
	d.mu.Lock()
	d.requests = append(d.requests, r.Method+" "+r.URL.String())
	d.bodies[r.Method+" "+r.URL.Path] = body.String()
	d.mu.Unlock()
	w.Header().Set(api.VersionHeader, Version)
	if r.Host != "banger" {
		Fail(w, http.StatusForbidden, api.Error{Code: "permission", Message: "host " + r.Host})
		return
	}
	d.mux.ServeHTTP(w, r)
}

// Requests are the methods and paths asked for so far.
func (d *Daemon) Requests() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.requests...)
}

// Body is what the last request "METHOD /path" carried.
func (d *Daemon) Body(request string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bodies[request]
}

// Getenv is an environment that leads to d.
func (d *Daemon) Getenv(name string) string {
	if name == "BANGER_STATE_DIR" {
		return d.Dir
	}
	return ""
}

// Handle answers requests of pattern, "GET /v1/vms/{name}", with f.
func (d *Daemon) Handle(pattern string, f http.HandlerFunc) { d.mux.HandleFunc(pattern, f) }

// Answer answers requests of pattern with v.
func (d *Daemon) Answer(pattern string, v any) {
	d.Handle(pattern, func(w http.ResponseWriter, _ *http.Request) { JSON(w, http.StatusOK, v) })
}

// Refuse answers requests of pattern with an error.
func (d *Daemon) Refuse(pattern string, status int, e api.Error) {
	d.Handle(pattern, func(w http.ResponseWriter, _ *http.Request) { Fail(w, status, e) })
}

// Stream answers requests of pattern with events, when they ask for them.
func (d *Daemon) Stream(pattern string, events func(send func(event string, data any), gone <-chan struct{})) {
	d.Handle(pattern, func(w http.ResponseWriter, r *http.Request) {
		asked := r.Header.Get("Accept") == "text/event-stream"
		if asked {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
		}
		events(func(event string, data any) {
			if asked {
				raw, _ := json.Marshal(data)
				_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, raw)
				w.(http.Flusher).Flush()
			} else if event == api.EventResult {
				JSON(w, http.StatusOK, data)
			}
		}, r.Context().Done())
	})
}

// JSON answers with a document.
func JSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// Fail answers with an error.
func Fail(w http.ResponseWriter, status int, e api.Error) { JSON(w, status, api.ErrorBody{Error: e}) }

// Session makes a shim's socket that accepts one session, which guest plays.
func (d *Daemon) Session(t testing.TB, guest func(*guestproto.Conn)) api.Session {
	t.Helper()
	d.mu.Lock()
	d.sessions++
	s := api.Session{Socket: filepath.Join(d.Dir, fmt.Sprintf("shim-%d.sock", d.sessions)), Ticket: "ticket"}
	d.mu.Unlock()
	l, err := unixsock.Listen(s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	var playing sync.WaitGroup
	playing.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if frames := accept(conn, s.Ticket); frames != nil {
			guest(frames)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		playing.Wait()
	})
	return s
}

func accept(conn net.Conn, ticket string) *guestproto.Conn {
	buffered := bufio.NewReader(conn)
	r, err := http.ReadRequest(buffered)
	if err != nil {
		return nil
	}
	if r.Method != http.MethodGet || r.URL.Path != "/v1/session" || r.Host != "banger" ||
		r.Header.Get("Upgrade") != api.UpgradeExec || r.Header.Get("Authorization") != "Bearer "+ticket {
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"+
			`{"error":{"code":"permission","message":"the ticket is not valid","hint":"ask again"}}`)
		return nil
	}
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", api.UpgradeExec)
	return guestproto.NewConn(stream{conn, buffered})
}

type stream struct {
	net.Conn
	r *bufio.Reader
}

func (s stream) Read(p []byte) (int, error) { return s.r.Read(p) }
