package cli_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/client/clienttest"
	"banger/internal/guestproto"
)

var swiftFox = api.VM{ID: "01", Name: "swift-fox", State: "running"}

// runs makes a daemon whose run gives a session that guest plays. Deleted and stopped
// come true when the session has ended.
func runs(t *testing.T, guest func(*guestproto.Conn)) *clienttest.Daemon {
	d := clienttest.Start(t)
	over := make(chan struct{})
	session := d.Session(t, func(conn *guestproto.Conn) {
		defer close(over)
		_ = conn.WriteJSON(guestproto.KindStarted, guestproto.Started{PID: 2})
		guest(conn)
	})
	trace := []api.Span{
		{Name: "resolve", DurationNS: 2e6}, {Name: "disk", StartNS: 2e6, DurationNS: 8e6},
		{Name: "VMM start", StartNS: 10e6, DurationNS: 40e6}, {Name: "kernel", StartNS: 50e6, DurationNS: 300e6},
		{Name: "agent ready", StartNS: 350e6, DurationNS: 50e6},
	}
	d.Stream("POST /v1/run", func(send func(string, any), _ <-chan struct{}) {
		send(api.EventProgress, api.Progress{Step: "booting"})
		send(api.EventResult, api.RunResult{VM: swiftFox, Session: session, Trace: trace})
	})
	d.Answer("POST /v1/vms/swift-fox/exec", session)
	d.Answer("GET /v1/vms/swift-fox", swiftFox)
	d.Handle("GET /v1/vms/01/wait", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-over:
		case <-r.Context().Done():
			return
		}
		if r.URL.Query().Get("for") == "deleted" {
			clienttest.JSON(w, 200, struct{}{})
			return
		}
		stopped := swiftFox
		stopped.State = "stopped"
		clienttest.JSON(w, 200, stopped)
	})
	return d
}

func exits(code int) func(*guestproto.Conn) {
	return func(conn *guestproto.Conn) { _ = conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: code}) }
}

func echo(conn *guestproto.Conn) {
	for {
		kind, payload, err := conn.Read()
		if err != nil || kind == guestproto.KindStdinEOF {
			break
		}
		if kind == guestproto.KindStdin {
			_ = conn.Write(guestproto.KindStdout, payload)
		}
	}
	_ = conn.Write(guestproto.KindStderr, []byte("bye\n"))
	_ = conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: 7})
}

func TestRunGivesTheCommandsCodeAndStreams(t *testing.T) {
	d := runs(t, echo)
	s := newShell(t, d)
	s.in = "one\ntwo\n"
	if code := s.run("run", "--rm", "--name", "swift-fox", "-e", "A=b", "-w", "/tmp", "--", "cat", "-n"); code != 7 ||
		s.out.String() != s.in || s.err.String() != "bye\n" {
		t.Errorf("exit %d, %q, %q", code, &s.out, &s.err)
	}
	want := `{"vm":{"name":"swift-fox","rm":true},"exec":{"argv":["cat","-n"],"env":["A=b"],"dir":"/tmp"}}`
	if body := d.Body("POST /v1/run"); body != want {
		t.Errorf("sent %s", body)
	}
	if asked := d.Requests(); asked[len(asked)-1] != "GET /v1/vms/01/wait?for=deleted" {
		t.Errorf("asked %q", asked)
	}
}

func TestWhatBecomesOfTheVM(t *testing.T) {
	for _, c := range []struct{ args, stderr, last string }{
		{"run -- true", "kept as swift-fox; banger vm start swift-fox, banger rm swift-fox\n", "GET /v1/vms/01/wait?for=stopped"},
		{"run --keep-running -- true", "running as swift-fox; banger exec swift-fox -- CMD, banger rm -f swift-fox\n", "POST /v1/run"},
	} {
		d := runs(t, exits(0))
		s := newShell(t, d)
		code := s.run(strings.Fields(c.args)...)
		asked := d.Requests()
		if code != 0 || s.err.String() != c.stderr || s.out.Len() > 0 || asked[len(asked)-1] != c.last {
			t.Errorf("%s: exit %d, %q, asked %q", c.args, code, &s.err, asked)
		}
	}
	d := runs(t, func(*guestproto.Conn) {})
	s := newShell(t, d)
	if code := s.run("run", "--detach"); code != 0 || s.out.String() != "swift-fox\n" || !strings.Contains(d.Body("POST /v1/run"), `"keep_running":true`) {
		t.Errorf("exit %d, %q, sent %s", code, &s.out, d.Body("POST /v1/run"))
	}
}

func TestRunJSON(t *testing.T) {
	cases := []struct {
		name           string
		stdout, stderr []byte
		want           map[string]any
	}{
		{"text", []byte("h\u00e9llo"), []byte("e"), map[string]any{"stdout": "h\u00e9llo", "stderr": "e", "truncated": false}},
		{"binary", []byte{0xff, 0}, nil, map[string]any{"stdout_base64": "/wA=", "stderr": "", "truncated": false}},
		{
			"too much, cut within a character",
			append(bytes.Repeat([]byte("x"), 1<<20-1), "\u00e9\u00e9"...), nil,
			map[string]any{"stdout": strings.Repeat("x", 1<<20-1), "truncated": true},
		},
	}
	for _, c := range cases {
		d := runs(t, func(conn *guestproto.Conn) {
			_, _ = conn.Writer(guestproto.KindStdout).Write(c.stdout)
			_, _ = conn.Writer(guestproto.KindStderr).Write(c.stderr)
			_ = conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: 3})
		})
		s := newShell(t, d)
		code := s.run("run", "--json", "--", "x")
		var doc map[string]any
		if err := json.Unmarshal(s.out.Bytes(), &doc); err != nil || code != 3 || s.err.Len() > 0 {
			t.Fatalf("%s: exit %d, %v, %s", c.name, code, err, &s.err)
		}
		for key, want := range c.want {
			if doc[key] != want {
				t.Errorf("%s: %s is %.40v", c.name, key, doc[key])
			}
		}
		trace := doc["trace"].([]any)
		if doc["exit_code"] != 3.0 || doc["vm"].(map[string]any)["name"] != "swift-fox" || len(trace) != 7 {
			t.Errorf("%s: %v", c.name, doc)
		}
	}
}

func TestTraceFitsEightyColumns(t *testing.T) {
	s := newShell(t, runs(t, exits(0)))
	s.run("run", "--rm", "--trace", "--", "true")
	for _, step := range []string{"resolve", "disk", "VMM start", "kernel", "agent ready", "command", "stop", "total"} {
		if !strings.Contains(s.err.String(), "\n"+step+" ") && !strings.HasPrefix(s.err.String(), step+" ") {
			t.Errorf("no %s in\n%s", step, &s.err)
		}
	}
	for _, line := range lines(s.err.String()) {
		if len(line) > 80 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

func TestCommandsThatDoNotStart(t *testing.T) {
	for _, c := range []struct {
		exit   guestproto.Exit
		code   int
		stderr string
	}{
		{guestproto.Exit{Code: 127, Error: "x: command not found"}, 127, "banger: run x: command not found\n"},
		{guestproto.Exit{Code: 126, Error: "x: permission denied"}, 126, "banger: run x: permission denied\n"},
		{guestproto.Exit{Code: 125, Error: "no such user"}, 125, "banger: the guest refused the command: no such user\n"},
		{guestproto.Exit{Code: 125}, 125, ""},
		{guestproto.Exit{Code: 137, Signal: 9, OOM: true}, 137, "banger: the guest ran out of memory and ended the command; more: --memory\n"},
	} {
		d := runs(t, func(conn *guestproto.Conn) { _ = conn.WriteJSON(guestproto.KindExit, c.exit) })
		s := newShell(t, d)
		if code := s.run("exec", "swift-fox", "--", "x"); code != c.code || s.err.String() != c.stderr {
			t.Errorf("%+v: exit %d, %q", c.exit, code, &s.err)
		}
	}
}

// A VM that dies under its session says why, and is not waited for in vain.
func TestSessionThatBreaksOff(t *testing.T) {
	d := runs(t, func(conn *guestproto.Conn) { _ = conn.Close() })
	failed := swiftFox
	failed.Error = "the kernel panicked"
	d.Answer("GET /v1/vms/01", failed)
	d.Answer("POST /v1/vms/01/stop", failed)
	s := newShell(t, d)
	code := s.run("run", "--json", "--", "x")
	var body api.ErrorBody
	if err := json.Unmarshal(s.err.Bytes(), &body); err != nil || code != 125 || body.Error.Code != "unavailable" ||
		!strings.Contains(body.Error.Message, "the kernel panicked") {
		t.Errorf("exit %d, %s", code, &s.err)
	}
}

func TestTimeoutEndsTheCommand(t *testing.T) {
	d := runs(t, func(conn *guestproto.Conn) {
		for {
			kind, payload, err := conn.Read()
			if err != nil {
				return
			}
			var sig guestproto.Signal
			if kind == guestproto.KindSignal && guestproto.Decode(kind, payload, &sig) == nil {
				_ = conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: 128 + sig.Number, Signal: sig.Number})
				return
			}
		}
	})
	s := newShell(t, d)
	if code := s.run("run", "--rm", "--timeout", "50ms", "--", "sleep", "100"); code != 124 {
		t.Errorf("exit %d, %s", code, &s.err)
	}
}

// Signals go to the command; a second interrupt soon after the first ends the session.
func TestSignalsReachTheCommand(t *testing.T) {
	for _, c := range []struct {
		send []os.Signal
		code int
	}{
		{[]os.Signal{syscall.SIGTERM}, 143},
		{[]os.Signal{syscall.SIGINT}, 130},
		{[]os.Signal{syscall.SIGUSR1}, 138},
		{[]os.Signal{os.Interrupt, os.Interrupt}, 130},
	} {
		var s *shell
		d := runs(t, func(conn *guestproto.Conn) {
			for _, sig := range c.send {
				s.app.Interrupts.Deliver(sig)
			}
			for {
				kind, payload, err := conn.Read()
				if err != nil {
					return // closed
				}
				var sig guestproto.Signal
				if kind == guestproto.KindSignal && len(c.send) == 1 && guestproto.Decode(kind, payload, &sig) == nil {
					_ = conn.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: 128 + sig.Number})
					return
				}
			}
		})
		s = newShell(t, d)
		if code := s.run("run", "--rm", "--", "x"); code != c.code {
			t.Errorf("%v: exit %d, %s", c.send, code, &s.err)
		}
	}
}

func TestExecToAVMThatIsNot(t *testing.T) {
	d := clienttest.Start(t)
	d.Answer("GET /v1/vms", []api.VM{swiftFox})
	d.Refuse("POST /v1/vms/{name}/exec", 404, api.Error{Code: "not_found", Message: `vm "swift-fx": not found`})
	s := newShell(t, d)
	if code := s.run("exec", "swift-fx", "--", "x"); code != 125 ||
		s.err.String() != "banger: vm \"swift-fx\": not found\nhint: did you mean \"swift-fox\"? see: banger vm list\n" {
		t.Errorf("exit %d, %s", code, &s.err)
	}
}

func TestWait(t *testing.T) {
	d := clienttest.Start(t)
	d.Handle("GET /v1/vms/a/wait", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "for=ready&timeout_ms=1500" {
			t.Errorf("asked %s", r.URL)
		}
		clienttest.Fail(w, 504, api.Error{Code: "timeout", Message: "not ready"})
	})
	s := newShell(t, d)
	if code := s.run("vm", "wait", "a", "--for", "ready", "--timeout", "1.5s"); code != 8 {
		t.Errorf("exit %d, %s", code, &s.err)
	}
}

func TestProgressOnATerminalOnly(t *testing.T) {
	d := clienttest.Start(t)
	d.Stream("POST /v1/images", func(send func(string, any), _ <-chan struct{}) {
		send(api.EventProgress, api.Progress{Step: "fetching layers", Done: 5e6, Total: 10e6})
		time.Sleep(800 * time.Millisecond)
		send(api.EventResult, api.Image{Name: "made"})
	})
	for _, terminal := range []bool{true, false} {
		s := newShell(t, d)
		s.terminal = terminal
		if code := s.run("image", "pull", "oci:/x"); code != 0 || s.out.String() != "made\n" {
			t.Errorf("exit %d, %q", code, &s.out)
		}
		shown := strings.Contains(s.err.String(), "fetching layers  [==========          ] 5 MB of 10 MB")
		if shown != terminal || terminal && !strings.HasSuffix(s.err.String(), "\r\x1b[K") {
			t.Errorf("terminal %t: %q", terminal, &s.err)
		}
	}
}
