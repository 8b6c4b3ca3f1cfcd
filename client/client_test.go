package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
	"banger/client"
	"banger/client/clienttest"
	"banger/internal/errs"
	"banger/internal/paths"
	"banger/internal/unixsock"
)

func TestMain(m *testing.M) {
	clienttest.ServeIfAsked()
	os.Exit(m.Run())
}

func connect(t *testing.T, d *clienttest.Daemon, change ...func(*client.Options)) *client.Client {
	t.Helper()
	opts := client.Options{Getenv: d.Getenv, NoStart: true}
	for _, f := range change {
		f(&opts)
	}
	c, err := client.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Every class arrives with its message and hint, whatever the status.
func TestErrorsKeepTheirClass(t *testing.T) {
	d := clienttest.Start(t)
	c := connect(t, d)
	for _, class := range []errs.Class{
		errs.Internal, errs.Usage, errs.NotFound, errs.AlreadyExists, errs.Busy, errs.Precondition,
		errs.Permission, errs.InvalidData, errs.Exhausted, errs.Unavailable, errs.Cancelled, errs.Timeout,
	} {
		d.Refuse("GET /v1/vms/"+class.Code(), http.StatusTeapot, api.Error{Code: class.Code(), Message: "it is so", Hint: "live with it"})
		_, err := c.VM(t.Context(), class.Code())
		if !errs.Is(err, class) || client.Code(err) != class.Code() || client.Hint(err) != "live with it" || err.Error() != "it is so" {
			t.Errorf("%v: class %v, %q, hint %q", class, errs.ClassOf(err), err, client.Hint(err))
		}
	}
}

func TestAnswersThatAreNoErrorBody(t *testing.T) {
	d := clienttest.Start(t)
	c := connect(t, d)
	d.Handle("GET /v1/vms/html", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		_, _ = fmt.Fprint(w, "<html>")
	})
	d.Handle("GET /v1/vms/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "100")
		_, _ = fmt.Fprint(w, `{"name":`)
	})
	d.Handle("GET /v1/vms/nonsense", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "hello") })
	for name, want := range map[string]errs.Class{
		"html": errs.Internal, "cut": errs.Unavailable, "nonsense": errs.Internal, "unknown": errs.Internal,
	} {
		if _, err := c.VM(t.Context(), name); !errs.Is(err, want) {
			t.Errorf("%s: %v is %v, want %v", name, err, errs.ClassOf(err), want)
		}
	}
}

func TestProgressThenResult(t *testing.T) {
	d := clienttest.Start(t)
	c := connect(t, d)
	d.Stream("POST /v1/images", func(send func(string, any), _ <-chan struct{}) {
		send("progress", api.Progress{Step: "fetch", Done: 1, Total: 2})
		send("from the future", "x")
		send("progress", api.Progress{Step: "write"})
		send("result", api.Image{Name: "made"})
	})
	var steps []string
	got, err := c.PullImage(t.Context(), api.ImagePull{Ref: "oci:/x"}, func(p api.Progress) { steps = append(steps, p.Step) })
	if err != nil || got.Name != "made" || strings.Join(steps, " ") != "fetch write" {
		t.Errorf("%+v, %v, steps %v", got, err, steps)
	}
	if body := d.Body("POST /v1/images"); body != `{"ref":"oci:/x"}` {
		t.Errorf("sent %s", body)
	}
	// The same without a stream.
	if got, err = c.PullImage(t.Context(), api.ImagePull{Ref: "oci:/x"}, nil); err != nil || got.Name != "made" {
		t.Errorf("plain: %+v, %v", got, err)
	}
}

func TestStreamsThatFail(t *testing.T) {
	d := clienttest.Start(t)
	c := connect(t, d)
	d.Stream("POST /v1/vms/broken/start", func(send func(string, any), _ <-chan struct{}) {
		send("progress", api.Progress{Step: "boot"})
		send("error", api.ErrorBody{Error: api.Error{Code: "exhausted", Message: "no space", Hint: "delete some"}})
	})
	d.Stream("POST /v1/vms/cut/start", func(send func(string, any), _ <-chan struct{}) {
		send("progress", api.Progress{Step: "boot"})
	})
	nothing := func(api.Progress) {}
	if _, err := c.StartVM(t.Context(), "broken", nothing); !errs.Is(err, errs.Exhausted) || client.Hint(err) != "delete some" {
		t.Errorf("error event: %v", err)
	}
	if _, err := c.StartVM(t.Context(), "cut", nothing); !errs.Is(err, errs.Unavailable) {
		t.Errorf("cut stream: %v", err)
	}
}

// Cancelling is how a caller stops the daemon's work, so the daemon must see it.
func TestCancelClosesTheConnection(t *testing.T) {
	d := clienttest.Start(t)
	c := connect(t, d)
	seen := make(chan bool, 1)
	d.Stream("POST /v1/run", func(send func(string, any), gone <-chan struct{}) {
		send("progress", api.Progress{Step: "boot"})
		select {
		case <-gone:
			seen <- true
		case <-time.After(10 * time.Second):
			seen <- false
		}
	})
	why := errs.New(errs.Cancelled, "a person pressed a key")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err := c.Run(ctx, api.RunRequest{}, func(api.Progress) { cancel(why) })
	if !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	if !<-seen {
		t.Error("the daemon did not notice")
	}
}

// A question that the daemon's end cut off is asked again, an order is not.
func TestOnlyQuestionsAreRepeated(t *testing.T) {
	d := clienttest.Start(t)
	c := connect(t, d)
	asked := func(method string) (n int) {
		for _, r := range d.Requests() {
			if strings.HasPrefix(r, method+" ") {
				n++
			}
		}
		return n
	}
	cutFirst := func(w http.ResponseWriter, r *http.Request) {
		if asked(r.Method) == 1 {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_ = conn.Close()
			}
			return
		}
		clienttest.JSON(w, 200, api.VM{Name: "a"})
	}
	d.Handle("GET /v1/vms/a/wait", cutFirst)
	d.Handle("POST /v1/vms/a/stop", cutFirst)
	if vm, err := c.WaitVM(t.Context(), "a", client.ForStopped, 0); err != nil || vm.Name != "a" || asked("GET") != 2 {
		t.Errorf("wait: %+v, %v, asked %d times", vm, err, asked("GET"))
	}
	if _, err := c.StopVM(t.Context(), "a"); !errs.Is(err, errs.Unavailable) || asked("POST") != 1 {
		t.Errorf("stop: %v, asked %d times", err, asked("POST"))
	}
}

func TestVersionIsComparedOnce(t *testing.T) {
	d := clienttest.Start(t)
	d.Answer("GET /v1/vms", []api.VM{})
	for mine, want := range map[string]int{"other": 1, clienttest.Version: 0, "": 0} {
		calls := 0
		c := connect(t, d, func(o *client.Options) { o.Version, o.OnVersion = mine, func(string) { calls++ } })
		for range 3 {
			if _, err := c.VMs(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if calls != want {
			t.Errorf("version %q: %d calls, want %d", mine, calls, want)
		}
	}
}

func TestNamesAreEscaped(t *testing.T) {
	d := clienttest.Start(t)
	c := connect(t, d)
	d.Handle("DELETE /v1/vms/{name}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("name") != "../a?b/c" || r.URL.Query().Get("force") != "true" {
			t.Errorf("got %q", r.URL)
		}
		clienttest.JSON(w, 200, struct{}{})
	})
	if err := c.DeleteVM(t.Context(), "../a?b/c", true); err != nil {
		t.Error(err)
	}
}

// starting makes options that start this test binary as bangerd.
func starting(t *testing.T, dir, mode string) *client.Client {
	t.Helper()
	t.Setenv(clienttest.ModeEnv, mode)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // in the daemon
	c, err := client.New(client.Options{StateDir: dir, Daemon: os.Args[0]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stopper, err := client.New(client.Options{StateDir: dir, NoStart: true})
		if err == nil {
			_ = stopper.Stop(context.Background())
		}
	})
	return c
}

// A socket that nobody listens on is no daemon: a new one is started, detached.
func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, paths.SocketName)
	l, err := unixsock.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := clienttest.WriteDaemonFile(dir, socket); err != nil {
		t.Fatal(err)
	}
	c := starting(t, dir, "ok")
	if _, err := c.VMs(t.Context()); err != nil {
		t.Fatal(err)
	}
	served, _ := os.ReadFile(filepath.Join(dir, "served"))
	if string(served) != "cwd=/ leader=true\n" {
		t.Errorf("the daemon says %q", served)
	}
}

// Eight clients at once end with one daemon, also when it takes its time.
func TestStartRace(t *testing.T) {
	for _, mode := range []string{"ok", "slow"} {
		t.Run(mode, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "not", "yet")
			starting(t, dir, mode)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					c, err := client.New(client.Options{StateDir: dir, Daemon: os.Args[0]})
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					if _, err := c.VMs(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			served, _ := os.ReadFile(filepath.Join(dir, "served"))
			if n := strings.Count(string(served), "\n"); n != 1 {
				t.Errorf("%d daemons", n)
			}
			if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("state directory: %v, %v", info.Mode(), err)
			}
		})
	}
}

func TestDaemonThatDoesNotStart(t *testing.T) {
	cases := []struct {
		mode  string
		class errs.Class
		text  string
	}{
		{"die", errs.Unavailable, "exit status 3; its last words:\nold log\nno such"},
		{"refuse", errs.Precondition, "the database is newer"},
		{"silent", errs.Unavailable, "it ended"},
		{"nonsense", errs.Unavailable, "it said nothing it should"},
	}
	for _, c := range cases {
		t.Run(c.mode, func(t *testing.T) {
			_, err := starting(t, t.TempDir(), c.mode).VMs(t.Context())
			if !errs.Is(err, c.class) || !strings.Contains(err.Error(), c.text) || client.Hint(err) == "" {
				t.Errorf("%v, class %v, hint %q", err, errs.ClassOf(err), client.Hint(err))
			}
		})
	}
}

func TestStopWaitsUntilItIsGone(t *testing.T) {
	dir := t.TempDir()
	c := starting(t, dir, "ok")
	if _, err := c.VMs(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := unixsock.Dial(t.Context(), filepath.Join(dir, paths.SocketName)); !errs.Is(err, errs.Unavailable) {
		t.Errorf("it still listens: %v", err)
	}
	if err := c.Stop(t.Context()); !client.NotRunning(err) {
		t.Errorf("a second stop: %v", err)
	}
}

// A daemon that is told to stop by somebody else and takes its time must not keep a
// command from getting the next one.
func TestStartWhileTheLastOneEnds(t *testing.T) {
	dir := t.TempDir()
	c := starting(t, dir, "lingers")
	if _, err := c.VMs(t.Context()); err != nil {
		t.Fatal(err)
	}
	var stopping sync.WaitGroup
	stopping.Go(func() {
		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
	for {
		conn, err := unixsock.Dial(t.Context(), filepath.Join(dir, paths.SocketName))
		if err != nil {
			break
		}
		_ = conn.Close()
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := c.VMs(t.Context()); err != nil {
		t.Error(err)
	}
	stopping.Wait()
}

func TestNoStart(t *testing.T) {
	c, err := client.New(client.Options{StateDir: filepath.Join(t.TempDir(), "none"), NoStart: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.VMs(t.Context()); !errs.Is(err, errs.Unavailable) || !client.NotRunning(err) {
		t.Errorf("%v", err)
	}
}
