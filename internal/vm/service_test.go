package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"banger/api"
	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/image"
	"banger/internal/kernelcat"
	"banger/internal/oci"
	"banger/internal/paths"
	"banger/internal/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Store.
type memory struct {
	mu   sync.Mutex
	rows []Record
}

func (m *memory) index(match func(Record) bool) int {
	for i, r := range m.rows {
		if match(r) {
			return i
		}
	}
	return -1
}

func (m *memory) InsertVM(_ context.Context, r Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.index(func(o Record) bool { return o.Name == r.Name }) >= 0 {
		return errs.New(errs.AlreadyExists, "taken")
	}
	m.rows = append(m.rows, r)
	return nil
}

func (m *memory) UpdateVM(_ context.Context, r Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.index(func(o Record) bool { return o.ID == r.ID })
	if i < 0 {
		return errs.New(errs.NotFound, "none")
	}
	m.rows[i] = r
	return nil
}

func (m *memory) DeleteVM(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.index(func(o Record) bool { return o.ID == id }); i >= 0 {
		m.rows = append(m.rows[:i:i], m.rows[i+1:]...)
	}
	return nil
}

func (m *memory) VM(_ context.Context, key string) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.index(func(o Record) bool { return o.ID == key || o.Name == key }); i >= 0 {
		return m.rows[i], nil
	}
	return Record{}, errs.New(errs.NotFound, "none")
}

func (m *memory) VMs(context.Context) ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Record(nil), m.rows...), nil
}

// parts are what else a Service needs. An image or kernel called "none" is not there.
type parts struct{ diskErr error }

func (parts) Ensure(_ context.Context, ref string, _ image.Progress) (image.Image, error) {
	if ref == "none" {
		return image.Image{}, errs.New(errs.NotFound, "no such image")
	}
	return image.Image{ID: "id-" + ref, Name: ref, Kernel: "of-image"}, nil
}

func (parts) ByID(context.Context, string) (image.Image, error) { return image.Image{}, nil }

func (parts) Resolve(_ context.Context, name string) (kernelcat.Kernel, error) {
	if name == "none" {
		return kernelcat.Kernel{}, errs.New(errs.NotFound, "no such kernel")
	}
	return kernelcat.Kernel{Manifest: kernelcat.Manifest{Name: name}}, nil
}

func (p parts) Make(context.Context, paths.VM, int64, bool) error { return p.diskErr }

func newService(t *testing.T, p parts) (*Service, *memory) {
	t.Helper()
	m := &memory{}
	s := New(Config{
		Seam: effect.New(nil), Log: slog.New(slog.DiscardHandler), Dirs: paths.Dirs{State: t.TempDir()},
		Store: m, Images: p, Kernels: p, Disks: p,
	})
	if err := os.Mkdir(s.Dirs.VMs(), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, m
}

func wantClass(t *testing.T, err error, want errs.Class) {
	t.Helper()
	if !errs.Is(err, want) {
		t.Errorf("class %v, want %v: %v", errs.ClassOf(err), want, err)
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "web-1": true, "1a": true, strings.Repeat("a", 63): true, "0a1b2c": true,
		"": false, "1": false, "123": false, "-a": false, "a-": false, "A": false, "a_b": false, "a.b": false,
		"a/b": false, "..": false, "a\n": false, "ä": false, strings.Repeat("a", 64): false,
	} {
		err := checkName(name)
		if ok != (err == nil) {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && (!errs.Is(err, errs.Usage) || errs.HintOf(err) == "") {
			t.Errorf("%q: class %v, hint %q", name, errs.ClassOf(err), errs.HintOf(err))
		}
	}
}

func TestResolve(t *testing.T) {
	s, m := newService(t, parts{})
	for _, c := range []struct {
		spec api.VMSpec
		want errs.Class // Internal: none
	}{
		{api.VMSpec{}, errs.Internal},
		{api.VMSpec{CPUs: maxCPUs, MemoryBytes: minMemory, DiskBytes: minDisk}, errs.Internal},
		{api.VMSpec{CPUs: maxCPUs + 1}, errs.Usage},
		{api.VMSpec{CPUs: -1}, errs.Usage},
		{api.VMSpec{MemoryBytes: minMemory - 1}, errs.Usage},
		{api.VMSpec{MemoryBytes: math.MinInt64}, errs.Usage},
		{api.VMSpec{DiskBytes: minDisk - 1}, errs.Usage},
		{api.VMSpec{DiskBytes: -1}, errs.Usage},
		{api.VMSpec{Name: "No"}, errs.Usage},
		{api.VMSpec{Image: "none"}, errs.NotFound},
		{api.VMSpec{Kernel: "none"}, errs.NotFound},
	} {
		_, err := s.resolve(t.Context(), c.spec, nil)
		if c.want == errs.Internal && err != nil || c.want != errs.Internal && !errs.Is(err, c.want) {
			t.Errorf("%+v: %v", c.spec, err)
		}
	}
	r, err := s.resolve(t.Context(), api.VMSpec{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.resolve(t.Context(), api.VMSpec{Image: "i", Kernel: "k"}, nil)
	if err != nil || other.ID == r.ID || other.MachineID == r.MachineID || other.Kernel != "k" || other.Image != "i" {
		t.Errorf("%+v, %v", other, err)
	}
	if len(r.ID) != 12 || len(r.MachineID) != 32 || r.CreatedAt.IsZero() {
		t.Errorf("%+v", r)
	}
	r.ID, r.MachineID, r.CreatedAt = "", "", time.Time{}
	want := Record{
		State: api.StateCreating, Op: OpCreate, ImageID: "id-" + DefaultImage, Image: DefaultImage, Kernel: "of-image",
		CPUs: DefaultCPUs, MemoryBytes: DefaultMemory, DiskBytes: DefaultDisk,
	}
	if r != want {
		t.Errorf("defaults %+v", r)
	}
	if len(m.rows) != 0 {
		t.Errorf("resolve made rows: %+v", m.rows)
	}
}

func TestCreateChoosesAFreeName(t *testing.T) {
	s, _ := newService(t, parts{})
	for _, c := range []struct{ ask, want string }{{"", "vm-1"}, {"vm-2", "vm-2"}, {"", "vm-3"}, {"web", "web"}} {
		v, err := s.Create(t.Context(), api.VMSpec{Name: c.ask}, nil)
		if err != nil || v.Name != c.want || v.State != api.StateStopped {
			t.Errorf("%q: %+v, %v", c.ask, v, err)
		}
	}
	_, err := s.Create(t.Context(), api.VMSpec{Name: "web"}, nil)
	wantClass(t, err, errs.AlreadyExists)
	if list, err := s.List(t.Context()); err != nil || len(list) != 4 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestCreateThatFailsLeavesNothing(t *testing.T) {
	s, m := newService(t, parts{diskErr: errs.New(errs.Exhausted, "full")})
	_, err := s.Create(t.Context(), api.VMSpec{Name: "web"}, nil)
	wantClass(t, err, errs.Exhausted)
	dirs, readErr := os.ReadDir(s.Dirs.VMs())
	if len(m.rows) != 0 || len(dirs) != 0 || readErr != nil {
		t.Errorf("rows %+v, directories %v, %v", m.rows, dirs, readErr)
	}
}

func TestFindSuggests(t *testing.T) {
	s, m := newService(t, parts{})
	m.rows = []Record{{ID: "1", Name: "web"}}
	for name, hint := range map[string]string{"webb": `"web"`, "we": `"web"`, "x": "vm list"} {
		_, err := s.Show(t.Context(), name)
		wantClass(t, err, errs.NotFound)
		if !strings.Contains(errs.HintOf(err), hint) {
			t.Errorf("%s: hint %q", name, errs.HintOf(err))
		}
	}
}

func TestWaitAnswersAtOnce(t *testing.T) {
	const waits = errs.Cancelled
	for _, c := range []struct {
		state, op, want string
		class           errs.Class // Internal: reached
	}{
		{api.StateRunning, "", "running", errs.Internal},
		{api.StateRunning, "", "ready", errs.Internal},
		{api.StateStopped, "", "stopped", errs.Internal},
		{api.StateFailed, "", "stopped", errs.Internal},
		{api.StateFailed, "", "running", errs.Precondition},
		{api.StateFailed, OpDelete, "deleted", errs.Precondition},
		{api.StateRunning, "", "paused", errs.Usage},
		{api.StateRunning, "", "", errs.Usage},
		{api.StateStopped, "", "running", waits},
		{api.StateStarting, OpStart, "ready", waits},
		{api.StateRunning, "", "stopped", waits},
		{api.StateFailed, "", "deleted", waits},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, m := newService(t, parts{})
			m.rows = []Record{{ID: "1", Name: "web", State: c.state, Op: c.op}}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { _, err := s.Wait(ctx, "web", c.want); done <- err }()
			synctest.Wait()
			if c.class == waits {
				cancel() // who did not wait has its answer already
			}
			err := <-done
			cancel()
			if c.class == errs.Internal && err != nil || c.class != errs.Internal && !errs.Is(err, c.class) {
				t.Errorf("%+v: %v", c, err)
			}
		})
	}
	s, _ := newService(t, parts{})
	_, err := s.Wait(t.Context(), "none", "running")
	wantClass(t, err, errs.NotFound)
	if _, err := s.Wait(t.Context(), "none", WaitDeleted); err != nil {
		t.Errorf("one that is gone is deleted: %v", err)
	}
}

// wait begins to wait and returns when that blocks.
func wait(t *testing.T, s *Service, name, want string) chan error {
	done := make(chan error, 1)
	go func() { _, err := s.Wait(t.Context(), name, want); done <- err }()
	synctest.Wait()
	return done
}

func TestWaitSeesEveryChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m := newService(t, parts{})
		r := Record{ID: "1", Name: "web", State: api.StateStopped}
		m.rows = []Record{r}
		running, deleted := wait(t, s, "web", "running"), wait(t, s, "1", WaitDeleted)
		for _, state := range []string{api.StateStarting, api.StateRunning} {
			r.State = state
			if err := s.save(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-running; err != nil {
			t.Error(err)
		}
		if err := s.Delete(t.Context(), "web", false); !errs.Is(err, errs.Precondition) {
			t.Errorf("delete one that runs: %v", err)
		}
		if err := s.Delete(t.Context(), "web", true); err != nil {
			t.Fatal(err)
		}
		if err := <-deleted; err != nil {
			t.Error(err)
		}
	})
}

// A new VM of the same name is not the one waited for.
func TestWaitFollowsTheVMAndNotTheName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, m := newService(t, parts{})
		m.rows = []Record{{ID: "1", Name: "web", State: api.StateStopped}}
		running := wait(t, s, "web", "running")
		m.mu.Lock()
		m.rows = []Record{{ID: "2", Name: "web", State: api.StateRunning}}
		m.mu.Unlock()
		s.notify()
		wantClass(t, <-running, errs.NotFound)
	})
}

func TestWaitGivesTheCause(t *testing.T) {
	s, m := newService(t, parts{})
	m.rows = []Record{{ID: "1", Name: "web", State: api.StateStopped}}
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if v, err := s.Wait(ctx, "web", "running"); !errors.Is(err, why) || v.Name != "web" {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestExecNeedsARunningVM(t *testing.T) {
	s, m := newService(t, parts{})
	m.rows = []Record{{ID: "1", Name: "web", State: api.StateStopped}}
	_, err := s.Exec(t.Context(), "web", api.Exec{Argv: []string{"true"}})
	wantClass(t, err, errs.Precondition)
	if !strings.Contains(errs.HintOf(err), "banger vm start web") {
		t.Errorf("hint %q", errs.HintOf(err))
	}
}

func TestGuestExec(t *testing.T) {
	img := image.Image{Name: "i", Config: oci.Config{User: "u", WorkDir: "/w", Entrypoint: []string{"e"}, Cmd: []string{"c"}}}
	for _, c := range []struct {
		in   api.Exec
		want string // argv, directory, user, login
	}{
		{api.Exec{}, "[e c] /w u false"},
		{api.Exec{Argv: []string{"a"}}, "[a]  u false"},
		{api.Exec{Argv: []string{"a"}, Dir: "/d", User: "v"}, "[a] /d v false"},
		{api.Exec{TTY: true}, "[] /w u true"},
	} {
		got, err := guestExec(c.in, img)
		if text := fmt.Sprintf("%v %s %s %t", got.Argv, got.Dir, got.User, got.Login); err != nil || text != c.want {
			t.Errorf("%+v: %s, %v, want %s", c.in, text, err, c.want)
		}
	}
	_, err := guestExec(api.Exec{}, image.Image{Name: "i"})
	wantClass(t, err, errs.Usage)
}

// The guest's clock is its word only: no span may be negative, or longer than what the
// host saw.
func TestTraceBoundsTheGuestsClock(t *testing.T) {
	tr := newTrace()
	at := func(ms int) time.Time { return tr.start.Add(time.Duration(ms) * time.Millisecond) }
	timings := sandbox.Timings{VMM: at(20), Hello: at(70), Ready: at(100)}
	ms := time.Millisecond.Nanoseconds()
	for guest, kernel := range map[time.Duration]int64{
		30 * time.Millisecond: 30, 0: 0, -time.Hour: 0, math.MinInt64: 0, math.MaxInt64: 50, time.Hour: 50,
	} {
		tr.spans = nil
		timings.KernelBoot = guest
		tr.addBoot(at(10), timings)
		want := []api.Span{
			{Name: "vmm start", StartNS: 10 * ms, DurationNS: (60 - kernel) * ms},
			{Name: "kernel", StartNS: (70 - kernel) * ms, DurationNS: kernel * ms},
			{Name: "agent ready", StartNS: 70 * ms, DurationNS: 30 * ms},
		}
		if !reflect.DeepEqual(tr.spans, want) {
			t.Errorf("guest says %v: %+v", guest, tr.spans)
		}
	}
}
