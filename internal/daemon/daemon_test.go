package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.uber.org/goleak"

	"banger/api"
	"banger/client"
	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/image"
	"banger/internal/kernelcat"
	"banger/internal/oci/ocitest"
	"banger/internal/paths"
	"banger/internal/store"
	"banger/internal/unixsock"
	"banger/internal/vm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// badStore fails, or panics, where it is told to.
type badStore struct {
	*store.Store
	showVM      func() error
	insertImage func() error
}

func (s *badStore) VM(ctx context.Context, key string) (vm.Record, error) {
	if s.showVM != nil {
		return vm.Record{}, s.showVM()
	}
	return s.Store.VM(ctx, key)
}

func (s *badStore) InsertImage(ctx context.Context, img image.Image, replace bool) error {
	if s.insertImage != nil {
		return s.insertImage()
	}
	return s.Store.InsertImage(ctx, img, replace)
}

// parts stand for kernels and disks.
type parts struct{}

func (parts) Resolve(context.Context, string) (kernelcat.Kernel, error) {
	return kernelcat.Kernel{Manifest: kernelcat.Manifest{Name: "k"}}, nil
}

func (parts) Make(context.Context, paths.VM, int64, bool) error { return nil }

func newDaemon(t *testing.T, hook effect.Hook) (*daemon, *badStore) {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{
		seam: effect.New(hook), log: slog.New(slog.DiscardHandler), dirs: paths.Dirs{State: dir, Runtime: dir},
		version: "1.2.3", kvm: &kvmState{done: make(chan struct{}), cancel: func() {}},
	}
	close(d.kvm.done)
	for _, path := range []string{d.dirs.Images(), d.dirs.VMs(), d.dirs.Kernels()} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if d.store, err = store.Open(t.Context(), d.seam, d.dirs.Database()); err != nil {
		t.Fatal(err)
	}
	bad := &badStore{Store: d.store}
	d.images = image.New(d.seam, d.log, d.dirs.Images(), bad)
	d.kernels = kernelcat.New(d.seam, d.dirs.Kernels())
	d.vms = vm.New(vm.Config{
		Seam: d.seam, Log: d.log, Dirs: d.dirs, Store: bad, Images: d.images, Kernels: parts{}, Disks: parts{},
	})
	t.Cleanup(func() {
		if err := d.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d, bad
}

// serving is a daemon on its socket, and the means to ask it.
type serving struct {
	*daemon
	store *badStore
	http  http.Client
}

func serveDaemon(t *testing.T) *serving {
	t.Helper()
	d, bad := newDaemon(t, nil)
	l, err := d.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &serving{daemon: d, store: bad, http: http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, d.dirs.Socket()) },
	}}}
}

// ask sends a request; change may alter it.
func (s *serving) ask(t *testing.T, method, path, body string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://banger"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(answer)
}

func (s *serving) client(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{StateDir: s.dirs.State, NoStart: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func code(t *testing.T, answer string) string {
	t.Helper()
	var body api.ErrorBody
	if err := json.Unmarshal([]byte(answer), &body); err != nil {
		t.Errorf("%q: %v", answer, err)
	}
	return body.Error.Code
}

func wantClass(t *testing.T, err error, want errs.Class) {
	t.Helper()
	if !errs.Is(err, want) {
		t.Errorf("class %v, want %v: %v", errs.ClassOf(err), want, err)
	}
}

func TestDescriptionNamesEveryOperation(t *testing.T) {
	s := serveDaemon(t)
	resp, answer := s.ask(t, http.MethodGet, "/openapi.json", "", nil)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal([]byte(answer), &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("version %q, %v", doc.OpenAPI, err)
	}
	var ids []string
	for path, methods := range doc.Paths {
		for _, operation := range methods {
			ids = append(ids, operation.OperationID)
		}
		if !strings.HasPrefix(path, "/"+api.Version+"/") {
			t.Errorf("path %s", path)
		}
	}
	slices.Sort(ids)
	want := "image.delete image.list image.pull image.show kernel.list kernel.show system.status system.stop " +
		"vm.create vm.delete vm.exec vm.kill vm.list vm.run vm.show vm.start vm.stop vm.wait"
	if got := strings.Join(ids, " "); got != want {
		t.Errorf("operations %s", got)
	}
	resp2, _ := s.ask(t, http.MethodGet, "/v1/system/status", "", nil)
	if v := resp2.Header.Get(api.VersionHeader); v != "1.2.3" || resp.StatusCode != http.StatusOK {
		t.Errorf("version %q, status %d", v, resp.StatusCode)
	}
}

func TestOnlyLocalRequestsAreAnswered(t *testing.T) {
	s := serveDaemon(t)
	for name, c := range map[string]struct {
		change func(*http.Request)
		status int
	}{
		"plain":            {nil, http.StatusOK},
		"localhost":        {func(r *http.Request) { r.Host = "localhost:80" }, http.StatusOK},
		"foreign host":     {func(r *http.Request) { r.Host = "evil.example" }, http.StatusForbidden},
		"address":          {func(r *http.Request) { r.Host = "127.0.0.1" }, http.StatusForbidden},
		"host that begins": {func(r *http.Request) { r.Host = "localhost.evil.example" }, http.StatusForbidden},
		"origin":           {func(r *http.Request) { r.Header.Set("Origin", "http://localhost") }, http.StatusForbidden},
		"null origin":      {func(r *http.Request) { r.Header.Set("Origin", "null") }, http.StatusForbidden},
		"referer":          {func(r *http.Request) { r.Header.Set("Referer", "http://banger/") }, http.StatusForbidden},
	} {
		resp, answer := s.ask(t, http.MethodGet, "/v1/vms", "", c.change)
		if resp.StatusCode != c.status || c.status != http.StatusOK && code(t, answer) != errs.Permission.Code() {
			t.Errorf("%s: %d %s", name, resp.StatusCode, answer)
		}
	}
}

func TestClassesReachTheClient(t *testing.T) {
	s := serveDaemon(t)
	c := s.client(t)
	for class := errs.Internal; class <= errs.Timeout; class++ {
		s.store.showVM = func() error { return errs.Hint(errs.New(class, "it went wrong"), "do this") }
		_, err := c.VM(t.Context(), "web")
		wantClass(t, err, class)
		hint := "do this"
		if class == errs.NotFound {
			hint = "see: banger vm list"
		}
		if err == nil || err.Error() != "it went wrong" || client.Hint(err) != hint || client.Code(err) != class.Code() {
			t.Errorf("%v: %v, hint %q, code %q", class, err, client.Hint(err), client.Code(err))
		}
		resp, _ := s.ask(t, http.MethodGet, "/v1/vms/web", "", nil)
		if status, ok := httpStatus[class]; !ok || resp.StatusCode != status || status < 400 {
			t.Errorf("%v: status %d", class, resp.StatusCode)
		}
	}
}

func TestMalformedRequestsAreUsage(t *testing.T) {
	s := serveDaemon(t)
	for _, c := range []struct{ method, path, body string }{
		{http.MethodPost, "/v1/vms", `{"name":`},
		{http.MethodPost, "/v1/vms", `{"cpus":"two"}`},
		{http.MethodPost, "/v1/vms", `{"vmm":"bochs"}`},
		{http.MethodPost, "/v1/vms", `{"name":"Not A Name"}`},
		{http.MethodPost, "/v1/images", `{"ref":"ftp:x"}`},
		{http.MethodGet, "/v1/vms/web/wait?for=running&timeout_ms=-1", ""},
		{http.MethodGet, "/v1/vms/web/wait?for=running&timeout_ms=soon", ""},
		{http.MethodGet, "/v1/vms/web/wait?for=christmas", ""},
		{http.MethodGet, "/v1/vms/" + strings.Repeat("x", 129), ""},
	} {
		resp, answer := s.ask(t, c.method, c.path, c.body, nil)
		if resp.StatusCode < 400 || resp.StatusCode >= 500 || code(t, answer) != errs.Usage.Code() {
			t.Errorf("%s %.60s %s: %d %s", c.method, c.path, c.body, resp.StatusCode, answer)
		}
	}
}

// pullBody asks for an image from a new layout called name; spoil breaks its layer.
func pullBody(t *testing.T, name string, spoil bool) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	layer := ocitest.WriteLayout(t, dir)
	if spoil {
		content, err := os.ReadFile(layer)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(layer, append(content[:len(content)-1], 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf(`{"ref":%q}`, "oci:"+dir)
}

func TestUnknownFieldsAreAccepted(t *testing.T) {
	s := serveDaemon(t)
	if resp, answer := s.ask(t, http.MethodPost, "/v1/images", pullBody(t, "tiny", false), nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, answer)
	}
	resp, answer := s.ask(t, http.MethodPost, "/v1/vms", `{"name":"web","image":"tiny","of_a_newer_client":{"a":1}}`, nil)
	var got api.VM
	if err := json.Unmarshal([]byte(answer), &got); err != nil || resp.StatusCode != http.StatusOK || got.Name != "web" {
		t.Errorf("%d %s", resp.StatusCode, answer)
	}
	if got, err := s.client(t).VM(t.Context(), "web"); err != nil || got.State != api.StateStopped {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestStreamedOperations(t *testing.T) {
	s := serveDaemon(t)
	events := func(r *http.Request) { r.Header.Set("Accept", "text/event-stream") }
	for name, c := range map[string]struct {
		body   string
		change func(*http.Request)
		status int
		kind   string
		want   string // the events' names, or the document's beginning
	}{
		"a document":        {pullBody(t, "a", false), nil, 200, "application/json", `{"name":"a"`},
		"events":            {pullBody(t, "b", false), events, 200, "text/event-stream", "progress result"},
		"a failure":         {pullBody(t, "c", true), nil, 422, "application/json", `{"error":{"code":"invalid_data"`},
		"a failure between": {pullBody(t, "d", true), events, 200, "text/event-stream", "progress error"},
		"a failure first":   {`{"ref":"no"}`, events, 400, "application/json", `{"error":{"code":"usage"`},
	} {
		resp, answer := s.ask(t, http.MethodPost, "/v1/images", c.body, c.change)
		got := answer
		if c.kind == "text/event-stream" {
			var names []string
			for line := range strings.Lines(answer) {
				if name, ok := strings.CutPrefix(line, "event: "); ok {
					names = append(names, strings.TrimSpace(name))
				}
			}
			got = strings.Join(names, " ")
		}
		if resp.StatusCode != c.status || resp.Header.Get("Content-Type") != c.kind || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %d %s\n%s", name, resp.StatusCode, resp.Header.Get("Content-Type"), answer)
		}
	}
}

// A pull goes on for a moment after its last caller left, and for long when others wait
// for it. What it then tells must not reach an answer that has ended.
func TestProgressAfterTheEndIsDropped(t *testing.T) {
	mux := http.NewServeMux()
	a := humago.New(mux, huma.DefaultConfig("test", "1"))
	var late report
	huma.Register(a, op("late", http.MethodGet, "/late", ""), func(_ context.Context, in *Accepting) (*huma.StreamResponse, error) {
		return stream(in.Accept, func(_ context.Context, tell report) (int, error) {
			late = tell
			tell(api.Progress{Step: "one"})
			return 7, nil
		}), nil
	})
	rec := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, "/v1/late", nil)
	req.Header.Set("Accept", "text/event-stream")
	mux.ServeHTTP(rec, req)
	before := rec.Body.Bytes()
	late(api.Progress{Step: "two"})
	if after := rec.Body.Bytes(); !bytes.Equal(before, after) || bytes.Count(after, []byte("event: ")) != 2 {
		t.Errorf("answer %q", after)
	}
}

func TestPanicsDoNotEndTheDaemon(t *testing.T) {
	s := serveDaemon(t)
	c := s.client(t)
	s.store.showVM = func() error { panic("a bug in a handler") }
	_, err := c.VM(t.Context(), "web")
	wantClass(t, err, errs.Unavailable)
	s.store.insertImage = func() error { panic("a bug in a pull") }
	resp, answer := s.ask(t, http.MethodPost, "/v1/images", pullBody(t, "a", false), nil)
	if resp.StatusCode != http.StatusInternalServerError || code(t, answer) != errs.Internal.Code() {
		t.Errorf("%d %s", resp.StatusCode, answer)
	}
	s.store.showVM, s.store.insertImage = nil, nil
	_, err = c.VM(t.Context(), "web")
	wantClass(t, err, errs.NotFound)
	if resp, answer := s.ask(t, http.MethodPost, "/v1/images", pullBody(t, "a", false), nil); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, answer)
	}
}

func TestWaitHasALimit(t *testing.T) {
	s := serveDaemon(t)
	if resp, answer := s.ask(t, http.MethodPost, "/v1/images", pullBody(t, "tiny", false), nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, answer)
	}
	if _, err := s.client(t).CreateVM(t.Context(), api.VMSpec{Name: "web", Image: "tiny"}); err != nil {
		t.Fatal(err)
	}
	_, err := s.client(t).WaitVM(t.Context(), "web", client.ForRunning, 1)
	wantClass(t, err, errs.Timeout)
}

func TestOneDaemonForAStateDirectory(t *testing.T) {
	d, _ := newDaemon(t, nil)
	lock, err := d.seam.TryLock(t.Context(), "lock", d.dirs.Lock())
	if err != nil || lock == nil {
		t.Fatal(lock, err)
	}
	defer lock.Close()
	before, err := os.ReadFile(d.dirs.Database())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t.Context(), d.seam, d.log, d.dirs, "2", nil); !errors.Is(err, errBusy) {
		t.Errorf("error %v", err)
	}
	if after, err := os.ReadFile(d.dirs.Database()); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the other daemon's database was touched (%v)", err)
	}
}

// fullOnce is a disk that is full for the first try of an effect.
type fullOnce string

func (f fullOnce) Before(_ context.Context, e effect.Event) error {
	if e.Name == string(f) && e.K == 1 {
		return syscall.ENOSPC
	}
	return nil
}

func (fullOnce) After(_ context.Context, _ effect.Event, err error) error { return err }

func TestTheReserveMakesRoomForDeleting(t *testing.T) {
	for _, full := range []string{"store.vm.update", "store.vm.delete"} {
		d, _ := newDaemon(t, fullOnce(full))
		d.reserve(t.Context())
		if info, err := os.Stat(d.dirs.Reserve()); err != nil || info.Size() != reserveBytes {
			t.Fatalf("reserve %v, %v", info, err)
		}
		s := spaceSaver{d.store, d}
		r := vm.Record{ID: "1", Name: "web", ImageID: "i"}
		if err := d.store.InsertImage(t.Context(), image.Image{ID: "i", Name: "i"}, false); err != nil {
			t.Fatal(err)
		}
		if err := d.store.InsertVM(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := s.UpdateVM(t.Context(), r); err != nil {
			t.Errorf("%s: update: %v", full, err)
		}
		if err := s.DeleteVM(t.Context(), r.ID); err != nil {
			t.Errorf("%s: delete: %v", full, err)
		}
		if n := d.seam.Counts()["state.reserve.release"]; n != 1 {
			t.Errorf("%s: the reserve was given back %d times", full, n)
		}
		if info, err := os.Stat(d.dirs.Reserve()); err != nil || info.Size() != reserveBytes {
			t.Errorf("%s: no reserve again: %v, %v", full, info, err)
		}
	}
}

func TestChooseVMM(t *testing.T) {
	t.Setenv("BANGER_QEMU", "/opt/qemu")
	d, _ := newDaemon(t, nil)
	d.kvm.result.Usable = true
	m := monitors{Drivers{"qemu": Drivers{}.forSpec, "fake": Drivers{}.forSpec}, d.kvm}
	qemu := vm.Monitor{Driver: "qemu", Program: "/opt/qemu", KVM: true}
	for asked, want := range map[string]struct {
		monitor vm.Monitor
		class   errs.Class
	}{
		"":            {qemu, errs.Internal},
		"auto":        {qemu, errs.Internal},
		"qemu":        {qemu, errs.Internal},
		"fake":        {vm.Monitor{Driver: "fake"}, errs.Internal},
		"firecracker": {vm.Monitor{}, errs.Unavailable},
		"bochs":       {vm.Monitor{}, errs.Usage},
	} {
		got, err := m.Choose(t.Context(), asked)
		if got != want.monitor || want.class == errs.Internal && err != nil || want.class != errs.Internal && !errs.Is(err, want.class) {
			t.Errorf("%q: %+v, %v", asked, got, err)
		}
	}
}
