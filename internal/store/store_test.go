package store_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/image"
	"banger/internal/oci"
	"banger/internal/store"
	"banger/internal/vm"
)

func open(t *testing.T, path string, hook effect.Hook) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), effect.New(hook), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func dbPath(t *testing.T) string { return filepath.Join(t.TempDir(), "banger.db") }

// raw runs statements on the file as another program would.
func raw(t *testing.T, path, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantClass(t *testing.T, err error, want errs.Class) {
	t.Helper()
	if !errs.Is(err, want) {
		t.Errorf("class %v, want %v: %v", errs.ClassOf(err), want, err)
	}
}

var day = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func someImage(id, name string) image.Image {
	return image.Image{
		ID: id, Name: name, Source: "oci:/l", Digest: "sha256:ab", Arch: "amd64", Kernel: "k", RootfsPath: "/r", SizeBytes: 9,
		Config: oci.Config{
			Env: []string{"A=b"}, User: "u", WorkDir: "/w", Entrypoint: []string{"/e"}, Cmd: []string{"c"},
			ExposedPorts: []string{"80/tcp"}, Arch: "amd64", OS: "linux",
		},
		Layers: []oci.Layer{{Digest: "sha256:cd", MediaType: "m", Size: 3}}, CreatedAt: day.Add(6),
	}
}

func someVM(id, name, imageID string) vm.Record {
	started := day.Add(time.Hour)
	return vm.Record{
		ID: id, Name: name, State: api.StateRunning, Op: vm.OpStop, ImageID: imageID, Image: "i", Kernel: "k", CPUs: 3,
		MemoryBytes: 4, DiskBytes: 5, RM: true, Driver: "auto", LastDriver: "qemu", MachineID: "m", CreatedAt: day.Add(7),
		StartedAt: &started, Run: 8, Error: "e",
	}
}

// full fails if a field of v has its zero value: a round trip would not show its loss.
func full(t *testing.T, v any) {
	t.Helper()
	for i, r := 0, reflect.ValueOf(v); i < r.NumField(); i++ {
		if r.Field(i).IsZero() {
			t.Errorf("%T.%s: give it a value in this test", v, r.Type().Field(i).Name)
		}
	}
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestEveryFieldSurvivesReopening(t *testing.T) {
	path := dbPath(t)
	s := open(t, path, nil)
	img, r := someImage("i1", "debian"), someVM("v1", "web", "i1")
	full(t, img)
	full(t, img.Config)
	full(t, r)
	must(t, s.InsertImage(t.Context(), img, false))
	must(t, s.InsertVM(t.Context(), someVM("v1", "web", "i1")))
	r.State, r.Op, r.Error, r.Run = api.StateFailed, vm.OpDelete, "other", 10
	must(t, s.UpdateVM(t.Context(), r))
	must(t, s.Close())

	s = open(t, path, nil)
	for _, key := range []string{"v1", "web"} {
		got, err := s.VM(t.Context(), key)
		must(t, err)
		same(t, got, r)
	}
	for _, key := range []string{"i1", "debian"} {
		got, err := s.Image(t.Context(), key)
		must(t, err)
		same(t, got, img)
	}
}

func TestListsAreOldestFirst(t *testing.T) {
	s := open(t, dbPath(t), nil)
	// In the order of text, "…05.5Z" is before "…05Z" and "…05.12Z" before "…05.1Z".
	for i, age := range []time.Duration{500 * time.Millisecond, 120 * time.Millisecond, 0, 100 * time.Millisecond} {
		id := []string{"a", "b", "c", "d"}[i]
		img, r := someImage(id, id), someVM(id, id, id)
		img.CreatedAt, r.CreatedAt = day.Add(age), day.Add(age)
		must(t, s.InsertImage(t.Context(), img, false))
		must(t, s.InsertVM(t.Context(), r))
	}
	images, err := s.Images(t.Context())
	must(t, err)
	vms, err := s.VMs(t.Context())
	must(t, err)
	var order string
	for i := range images {
		order += images[i].ID + vms[i].ID
	}
	if order != "ccddbbaa" {
		t.Errorf("order %s", order)
	}
}

func TestClassesOfVMErrors(t *testing.T) {
	s := open(t, dbPath(t), nil)
	must(t, s.InsertImage(t.Context(), someImage("i1", "debian"), false))
	must(t, s.InsertVM(t.Context(), someVM("v1", "web", "i1")))
	wantClass(t, s.InsertVM(t.Context(), someVM("v2", "web", "i1")), errs.AlreadyExists)
	wantClass(t, s.InsertVM(t.Context(), someVM("v3", "new", "gone")), errs.NotFound)
	wantClass(t, s.UpdateVM(t.Context(), someVM("v4", "none", "i1")), errs.NotFound)
	_, err := s.VM(t.Context(), "none")
	wantClass(t, err, errs.NotFound)
	for range 2 { // one that is gone is no error
		must(t, s.DeleteVM(t.Context(), "v1"))
	}
	_, err = s.VM(t.Context(), "v1")
	wantClass(t, err, errs.NotFound)
}

func TestImageNamesAndUsers(t *testing.T) {
	s := open(t, dbPath(t), nil)
	must(t, s.InsertImage(t.Context(), someImage("i1", "debian"), false))
	must(t, s.InsertVM(t.Context(), someVM("v2", "b", "i1")))
	must(t, s.InsertVM(t.Context(), someVM("v1", "a", "i1")))
	wantClass(t, s.InsertImage(t.Context(), someImage("i2", "debian"), false), errs.AlreadyExists)

	must(t, s.InsertImage(t.Context(), someImage("i2", "debian"), true))
	got, err := s.Image(t.Context(), "debian")
	must(t, err)
	same(t, got, someImage("i2", "debian"))
	got, err = s.Image(t.Context(), "i1")
	must(t, err)
	same(t, got, someImage("i1", ""))

	users, err := s.ImageUsers(t.Context(), "i1")
	must(t, err)
	same(t, users, []string{"a", "b"})
	users, err = s.ImageUsers(t.Context(), "i2")
	must(t, err)
	same(t, users, []string{})

	wantClass(t, s.DeleteImage(t.Context(), "i1"), errs.Precondition)
	must(t, s.DeleteImage(t.Context(), "i2"))
	_, err = s.Image(t.Context(), "debian")
	wantClass(t, err, errs.NotFound)
}

// Services look rows up by id: a name that somebody chose to equal one must not lead
// them to another's row.
func TestIDsComeBeforeNames(t *testing.T) {
	s := open(t, dbPath(t), nil)
	must(t, s.InsertImage(t.Context(), someImage("i1", "a"), false))
	must(t, s.InsertImage(t.Context(), someImage("i2", "i1"), false))
	must(t, s.InsertVM(t.Context(), someVM("v1", "a", "i1")))
	must(t, s.InsertVM(t.Context(), someVM("v2", "v1", "i1")))
	img, err := s.Image(t.Context(), "i1")
	must(t, err)
	r, err := s.VM(t.Context(), "v1")
	must(t, err)
	if img.ID != "i1" || r.ID != "v1" {
		t.Errorf("image %s, VM %s", img.ID, r.ID)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		want errs.Class
		hint string
	}{
		"newer schema": {func(t *testing.T, path string) {
			must(t, open(t, path, nil).Close())
			raw(t, path, "PRAGMA user_version = 999")
		}, errs.Precondition, "newer banger"},
		"foreign database":   {func(t *testing.T, path string) { raw(t, path, "CREATE TABLE t (x)") }, errs.Precondition, ""},
		"foreign program":    {func(t *testing.T, path string) { raw(t, path, "PRAGMA application_id = 7") }, errs.Precondition, ""},
		"no database at all": {func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte(strings.Repeat("x", 4096)), 0o600)) }, errs.InvalidData, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := dbPath(t)
			c.make(t, path)
			before, err := os.ReadFile(path)
			must(t, err)
			s, err := store.Open(t.Context(), effect.New(nil), path)
			wantClass(t, err, c.want)
			if err == nil {
				s.Close()
			}
			if !strings.Contains(errs.HintOf(err), c.hint) {
				t.Errorf("hint %q", errs.HintOf(err))
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

func TestTheDatabaseHasAWriteAheadLog(t *testing.T) {
	path := dbPath(t)
	must(t, open(t, path, nil).Close())
	header, err := os.ReadFile(path)
	must(t, err)
	if wal := byte(2); header[18] != wal || header[19] != wal { // the format's write and read version
		t.Errorf("versions %v", header[18:20])
	}
}

func TestTwoProgramsMigrateOnce(t *testing.T) {
	path := dbPath(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := store.Open(t.Context(), effect.New(nil), path)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	counts := effect.New(nil)
	s, err := store.Open(t.Context(), counts, path)
	must(t, err)
	must(t, s.Close())
	if n := counts.Counts()["store.migrate"]; n != 0 {
		t.Errorf("%d migrations were left", n)
	}
}

// fullDisk fails every write to the database.
type fullDisk struct{ on bool }

func (f *fullDisk) Before(_ context.Context, e effect.Event) error {
	if f.on && strings.HasPrefix(e.Name, "store.") {
		return syscall.ENOSPC
	}
	return nil
}

func (f *fullDisk) After(_ context.Context, _ effect.Event, err error) error { return err }

func TestFullDiskLeavesTheOldRows(t *testing.T) {
	disk := &fullDisk{}
	s := open(t, dbPath(t), disk)
	img, r := someImage("i1", "debian"), someVM("v1", "web", "i1")
	must(t, s.InsertImage(t.Context(), img, false))
	must(t, s.InsertVM(t.Context(), r))
	disk.on = true
	changed := r
	changed.State = api.StateFailed
	for name, err := range map[string]error{
		"insert image": s.InsertImage(t.Context(), someImage("i2", "debian"), true),
		"delete image": s.DeleteImage(t.Context(), "i1"),
		"insert VM":    s.InsertVM(t.Context(), someVM("v2", "other", "i1")),
		"update VM":    s.UpdateVM(t.Context(), changed),
		"delete VM":    s.DeleteVM(t.Context(), "v1"),
	} {
		if !errs.Is(err, errs.Exhausted) {
			t.Errorf("%s: class %v: %v", name, errs.ClassOf(err), err)
		}
	}
	images, err := s.Images(t.Context())
	must(t, err)
	same(t, images, []image.Image{img})
	vms, err := s.VMs(t.Context())
	must(t, err)
	same(t, vms, []vm.Record{r})

	_, err = store.Open(t.Context(), effect.New(disk), dbPath(t))
	wantClass(t, err, errs.Exhausted)
}

func TestVersion1Opens(t *testing.T) {
	path := dbPath(t)
	fixture, err := os.ReadFile("testdata/v1.sql")
	must(t, err)
	raw(t, path, string(fixture))
	s := open(t, path, nil)
	r, err := s.VM(t.Context(), "web")
	must(t, err)
	full(t, func() vm.Record { r := r; r.Op = "-"; return r }())
	img, err := s.Image(t.Context(), r.ImageID)
	must(t, err)
	full(t, func() image.Image { i := img; i.Kernel = "-"; return i }())
	full(t, img.Config)
	if r.Name != "web" || img.Layers[0].Size != 9 || !img.CreatedAt.Equal(day.Add(6)) {
		t.Errorf("%+v\n%+v", r, img)
	}
}
