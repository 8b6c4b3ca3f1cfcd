package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/guestproto"
	"banger/internal/paths"
	"banger/internal/procid"
	"banger/internal/sandbox"
	"banger/internal/unixsock"
)

func runDir(t *testing.T) paths.VM { return paths.VM{Dir: t.TempDir()} }

func wantClass(t *testing.T, err error, want errs.Class) {
	t.Helper()
	if !errs.Is(err, want) {
		t.Errorf("class %v, want %v: %v", errs.ClassOf(err), want, err)
	}
}

func TestFilesRoundTrip(t *testing.T) {
	dir, seam := runDir(t), effect.New(nil)
	spec := sandbox.Spec{
		ID: "i", Name: "n", Driver: "d", Program: "p", KVM: true, Kernel: "k", Initrd: "r", Base: "b", CPUs: 1, MemoryBytes: 2,
		MachineID: "m", Env: []string{"A=b"}, BootTimeout: 3, StopGrace: 4, Ephemeral: true, EndWithSession: true,
	}
	handles := sandbox.Handles{Shim: procid.ID{PID: 1, StartTime: 2, BootID: "b"}, VMM: &procid.ID{PID: 3}}
	outcome := sandbox.Outcome{How: sandbox.EndHang, Error: "e", At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
	for _, err := range []error{
		sandbox.WriteSpec(t.Context(), seam, dir, spec),
		sandbox.WriteHandles(t.Context(), seam, dir, handles),
		sandbox.WriteOutcome(t.Context(), seam, dir, outcome),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	gotSpec, err1 := sandbox.ReadSpec(dir)
	gotHandles, err2 := sandbox.ReadHandles(dir)
	gotOutcome, err3 := sandbox.ReadOutcome(dir)
	for _, pair := range [][2]any{{gotSpec, spec}, {gotHandles, handles}, {gotOutcome, outcome}} {
		v := reflect.ValueOf(pair[1])
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				t.Errorf("%T.%s: give it a value in this test", pair[1], v.Type().Field(i).Name)
			}
		}
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("got %+v, want %+v", pair[0], pair[1])
		}
	}
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Error(err)
	}
	for _, path := range []string{dir.Spec(), dir.Handles(), dir.Outcome()} {
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

func TestReadOutcome(t *testing.T) {
	boot, err := procid.BootID()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		shimBoot string // "": no handles.json
		how      string
		failed   bool
	}{
		"no shim ever": {"", sandbox.EndShim, true},
		"shim died":    {boot, sandbox.EndShim, true},
		"host died":    {"another boot", sandbox.EndHost, false},
	} {
		dir := runDir(t)
		if c.shimBoot != "" {
			err := sandbox.WriteHandles(t.Context(), effect.New(nil), dir, sandbox.Handles{Shim: procid.ID{PID: 1, BootID: c.shimBoot}})
			if err != nil {
				t.Fatal(err)
			}
		}
		if o, err := sandbox.ReadOutcome(dir); err != nil || o.How != c.how || o.Failed() != c.failed || o.Error == "" {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := runDir(t)
	_, err := sandbox.ReadHandles(dir)
	wantClass(t, err, errs.NotFound)
	for _, path := range []string{dir.Spec(), dir.Outcome()} {
		if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err = sandbox.ReadSpec(dir)
	wantClass(t, err, errs.InvalidData)
	_, err = sandbox.ReadOutcome(dir)
	wantClass(t, err, errs.InvalidData)
}

func TestNewRunClearsTheLastOne(t *testing.T) {
	dir, seam := runDir(t), effect.New(nil)
	for _, path := range []string{dir.Spec(), dir.Handles(), dir.Outcome(), dir.Upper(), dir.Dir + "/.tmp-vm.json-1"} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := sandbox.NewRun(t.Context(), seam, dir); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	entries, err := os.ReadDir(dir.Dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if err != nil || strings.Join(left, " ") != "upper.ext4 vm.json" {
		t.Errorf("left %v, %v", left, err)
	}
}

// shim serves h on the VM's socket.
func shim(t *testing.T, dir paths.VM, h http.HandlerFunc) {
	t.Helper()
	l, err := unixsock.Listen(dir.ShimSocket())
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	srv.Start()
	t.Cleanup(srv.Close)
}

func TestClientAsks(t *testing.T) {
	dir := runDir(t)
	var asked []string
	shim(t, dir, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.URL.String()+" "+string(body))
		if r.URL.Path == sandbox.PathTicket {
			_ = json.NewEncoder(w).Encode(sandbox.Ticket{Ticket: "t"})
			return
		}
		_ = json.NewEncoder(w).Encode(sandbox.State{Phase: sandbox.PhaseRunning, PID: 7})
	})
	c := sandbox.Connect(dir)
	for _, call := range []func() (sandbox.State, error){
		func() (sandbox.State, error) { return c.State(t.Context(), sandbox.PhaseEnded) },
		func() (sandbox.State, error) { return c.Stop(t.Context()) },
		func() (sandbox.State, error) { return c.Kill(t.Context()) },
	} {
		if s, err := call(); err != nil || s.PID != 7 || s.Phase != sandbox.PhaseRunning {
			t.Errorf("%+v, %v", s, err)
		}
	}
	ticket, err := c.Ticket(t.Context(), sandbox.TicketRequest{ID: "i", Exec: guestproto.Exec{Argv: []string{"a"}}, Final: true})
	if err != nil || ticket.Ticket != "t" {
		t.Errorf("%+v, %v", ticket, err)
	}
	want := []string{"GET /v1/state?until=ended ", "POST /v1/stop ", "POST /v1/kill "}
	if len(asked) != 4 || !reflect.DeepEqual(asked[:3], want) || !strings.Contains(asked[3], `"final":true`) {
		t.Errorf("asked %q", asked)
	}
}

func TestClientKeepsClassAndHint(t *testing.T) {
	dir := runDir(t)
	sent := errs.Hint(errs.New(errs.Exhausted, "no room"), "make some")
	shim(t, dir, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_ = json.NewEncoder(w).Encode(sandbox.ErrorOf(sent))
	})
	_, err := sandbox.Connect(dir).Stop(t.Context())
	wantClass(t, err, errs.Exhausted)
	if err == nil || err.Error() != "no room" || errs.HintOf(err) != "make some" {
		t.Errorf("%v, hint %q", err, errs.HintOf(err))
	}
}

func TestClientOfNoShim(t *testing.T) {
	never, dead, cut := runDir(t), runDir(t), runDir(t)
	l, err := unixsock.Listen(dead.ShimSocket())
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Stat(dead.ShimSocket()); errors.Is(err, fs.ErrNotExist) {
		t.Fatal("the dead shim's socket is gone as well")
	}
	shim(t, cut, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }) // it dies while it answers
	for name, dir := range map[string]paths.VM{"never": never, "dead": dead, "cut": cut, "no directory": {Dir: "/none"}} {
		if _, err := sandbox.Connect(dir).State(t.Context(), ""); !errs.Is(err, errs.Unavailable) {
			t.Errorf("%s: class %v: %v", name, errs.ClassOf(err), err)
		}
	}
}

func TestClientIsCancelled(t *testing.T) {
	dir := runDir(t)
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	shim(t, dir, func(_ http.ResponseWriter, r *http.Request) {
		cancel(why)
		<-r.Context().Done() // and the shim waits no more
	})
	if _, err := sandbox.Connect(dir).State(ctx, sandbox.PhaseEnded); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
}
