package image_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/image"
	"banger/internal/oci/ocitest"
	"banger/internal/store"
	"banger/internal/vm"
)

// rig is a Service over a real database.
type rig struct {
	t      *testing.T
	layout string // what pull pulls
	dir    string
	seam   *effect.Seam
	store  *store.Store
	images *image.Service
}

func newRig(t *testing.T, hook effect.Hook) *rig {
	t.Helper()
	r := &rig{t: t, layout: filepath.Join(t.TempDir(), "tiny"), dir: t.TempDir(), seam: effect.New(hook)}
	ocitest.WriteLayout(t, r.layout)
	var err error
	if r.store, err = store.Open(t.Context(), effect.New(nil), filepath.Join(t.TempDir(), "db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.store.Close() })
	r.images = image.New(r.seam, slog.New(slog.DiscardHandler), r.dir, seamStore{r.store, r.seam})
	return r
}

// seamStore counts a change of rows among the Service's own effects.
type seamStore struct {
	image.Store
	seam *effect.Seam
}

func (s seamStore) InsertImage(ctx context.Context, img image.Image, replace bool) error {
	return s.seam.Do(ctx, "insert", func() error { return s.Store.InsertImage(ctx, img, replace) })
}

func (r *rig) pull(name string, force bool) image.Image {
	r.t.Helper()
	img, err := r.images.Pull(r.t.Context(), "oci:"+r.layout, name, force, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return img
}

func (r *rig) use(img image.Image, vmName string) {
	r.t.Helper()
	if err := r.store.InsertVM(r.t.Context(), vm.Record{ID: vmName, Name: vmName, ImageID: img.ID}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) reconcile() {
	r.t.Helper()
	if err := r.images.Reconcile(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// rows lists the images in the database, unnamed ones too, and files the entries of
// the directory: both by id.
func (r *rig) rows() (ids []string) {
	r.t.Helper()
	all, err := r.store.Images(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, img := range all {
		ids = append(ids, img.ID)
	}
	slices.Sort(ids)
	return ids
}

func (r *rig) files() (ids []string) {
	r.t.Helper()
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}

func (r *rig) wantOnly(ids ...string) {
	r.t.Helper()
	slices.Sort(ids)
	if rows, files := r.rows(), r.files(); !slices.Equal(rows, ids) || !slices.Equal(files, ids) {
		r.t.Errorf("rows %v, files %v, want both %v", rows, files, ids)
	}
}

func wantClass(t *testing.T, err error, want errs.Class) {
	t.Helper()
	if !errs.Is(err, want) {
		t.Errorf("class %v, want %v: %v", errs.ClassOf(err), want, err)
	}
}

func TestPull(t *testing.T) {
	r := newRig(t, nil)
	var steps []string
	img, err := r.images.Pull(t.Context(), "oci:"+r.layout, "", false,
		func(step string, _, _ int64) { steps = append(steps, step) })
	if err != nil {
		t.Fatal(err)
	}
	if img.Name != "tiny" || img.Source != "oci:"+r.layout || img.Arch != "amd64" || len(img.Layers) != 1 ||
		!slices.Equal(img.Config.Cmd, []string{"true"}) || !slices.Equal(img.Config.Env, []string{"FROM=image"}) {
		t.Errorf("%+v", img)
	}
	if !slices.Equal(steps, []string{"layer 1 of 1"}) {
		t.Errorf("progress %q", steps)
	}
	info, err := os.Stat(img.RootfsPath)
	if err != nil || info.Mode() != 0o400 || info.Size() != img.SizeBytes || img.DiskBytes() == 0 {
		t.Errorf("file %v, %v; size %d, on disk %d", info, err, img.SizeBytes, img.DiskBytes())
	}
	rootfs, err := os.ReadFile(img.RootfsPath)
	if err != nil || len(rootfs) < 0x43a || string(rootfs[0x438:0x43a]) != "\x53\xef" {
		t.Errorf("not an ext4 file system (%v)", err)
	}
	for _, ref := range []string{"tiny", img.ID, img.Source} {
		if got, err := r.images.Find(t.Context(), ref); err != nil || got.ID != img.ID || got.Digest != img.Digest {
			t.Errorf("find %s: %+v, %v", ref, got, err)
		}
	}
	r.wantOnly(img.ID)
}

func TestNames(t *testing.T) {
	r := newRig(t, nil)
	for name, ok := range map[string]bool{
		"a": true, "Debian-12.1_x": true, "9": true, strings.Repeat("a", 64): true,
		strings.Repeat("a", 65): false, "-a": false, ".": false, "a/b": false, "a b": false, "é": false, "a\n": false,
	} {
		if _, err := r.images.Pull(t.Context(), "oci:"+r.layout, name, false, nil); ok != (err == nil) || !ok && !errs.Is(err, errs.Usage) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if img, err := r.images.Pull(t.Context(), "oci:"+r.layout+":v1", "", false, nil); err == nil {
		t.Errorf("a tag that the layout has not: %+v", img)
	}
}

func TestHostileLayoutLeavesNothing(t *testing.T) {
	r := newRig(t, nil)
	blob := ocitest.WriteLayout(t, r.layout)
	content, err := os.ReadFile(blob)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1] ^= 1 // after the archive's end: only the digest tells
	if err := os.WriteFile(blob, content, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = r.images.Pull(t.Context(), "oci:"+r.layout, "x", false, nil)
	wantClass(t, err, errs.InvalidData)
	r.wantOnly()
}

// fault fails the at-th effect, tried or untried.
type fault struct {
	at    int
	after bool
	fired bool
}

func (f *fault) Before(_ context.Context, e effect.Event) error {
	if e.N == f.at && !f.after {
		f.fired = true
		return syscall.ENOSPC
	}
	return nil
}

func (f *fault) After(_ context.Context, e effect.Event, err error) error {
	if e.N == f.at && f.after {
		f.fired = true
		return errors.Join(err, syscall.ENOSPC)
	}
	return err
}

func TestPullThatFailsLeavesNothing(t *testing.T) {
	for _, after := range []bool{false, true} {
		for i := 1; ; i++ {
			f := &fault{at: i, after: after}
			r := newRig(t, f)
			_, err := r.images.Pull(t.Context(), "oci:"+r.layout, "x", false, nil)
			if !f.fired {
				if err != nil || i < 7 {
					t.Errorf("no fault at effect %d: %v", i, err)
				}
				break
			}
			wantClass(t, err, errs.Exhausted)
			r.wantOnly()
		}
	}
}

func TestForceReplaces(t *testing.T) {
	r := newRig(t, nil)
	unused := r.pull("x", false)
	_, err := r.images.Pull(t.Context(), "oci:"+r.layout, "x", false, nil)
	wantClass(t, err, errs.AlreadyExists)
	if errs.HintOf(err) == "" {
		t.Error("no hint")
	}

	old := r.pull("x", true)
	r.wantOnly(old.ID) // nobody used the first one
	r.use(old, "web")
	fresh := r.pull("x", true)
	r.wantOnly(old.ID, fresh.ID)
	if got, err := r.images.Find(t.Context(), "x"); err != nil || got.ID != fresh.ID || unused.ID == old.ID {
		t.Errorf("x is %+v, %v", got, err)
	}
	if got, err := r.images.ByID(t.Context(), old.ID); err != nil || got.Name != "" || got.RootfsPath != old.RootfsPath {
		t.Errorf("the old one is %+v, %v", got, err)
	}
	if list, err := r.images.List(t.Context()); err != nil || len(list) != 1 || list[0].ID != fresh.ID {
		t.Errorf("list %+v, %v", list, err)
	}

	r.reconcile()
	r.wantOnly(old.ID, fresh.ID) // still used
	if err := r.store.DeleteVM(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	r.reconcile()
	r.wantOnly(fresh.ID)
}

func TestReconcileRemovesWhatNoRowNames(t *testing.T) {
	r := newRig(t, nil)
	img := r.pull("x", false)
	for _, dir := range []string{"interrupted", "deleted"} {
		if err := os.Mkdir(filepath.Join(r.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(r.dir, dir, ".tmp-rootfs.ext4-1"), nil, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	r.reconcile()
	r.wantOnly(img.ID)
	before := r.seam.Counts()["image.dir.remove"]
	r.reconcile()
	if again := r.seam.Counts()["image.dir.remove"] - before; before != 2 || again != 0 {
		t.Errorf("removed %d, then %d", before, again)
	}
	missing := image.New(r.seam, slog.New(slog.DiscardHandler), filepath.Join(r.dir, "none"), r.store)
	if err := missing.Reconcile(t.Context()); err != nil {
		t.Errorf("no directory yet: %v", err)
	}
}

func TestDelete(t *testing.T) {
	r := newRig(t, nil)
	img := r.pull("x", false)
	r.use(img, "web")
	err := r.images.Delete(t.Context(), "x")
	wantClass(t, err, errs.Precondition)
	if !strings.Contains(err.Error(), "web") || errs.HintOf(err) == "" {
		t.Errorf("%v; hint %q", err, errs.HintOf(err))
	}
	r.wantOnly(img.ID)
	if err := r.store.DeleteVM(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if err := r.images.Delete(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	r.wantOnly()
	err = r.images.Delete(t.Context(), "x")
	wantClass(t, err, errs.NotFound)
}

func TestEnsure(t *testing.T) {
	r := newRig(t, nil)
	_, err := r.images.Ensure(t.Context(), "tiny", nil)
	wantClass(t, err, errs.NotFound)
	if errs.HintOf(err) == "" {
		t.Error("no hint")
	}
	ref := "oci:" + r.layout
	other := filepath.Join(t.TempDir(), "tiny")
	ocitest.WriteLayout(t, other)
	for i, want := range []struct{ ref, name string }{{ref, "tiny"}, {ref, "tiny"}, {"oci:" + other, "tiny-2"}, {"oci:" + other, "tiny-2"}} {
		img, err := r.images.Ensure(t.Context(), want.ref, nil)
		if err != nil || img.Name != want.name {
			t.Errorf("%d: %q, %v, want %q", i, img.Name, err, want.name)
		}
	}
	if n := len(r.rows()); n != 2 {
		t.Errorf("%d images", n)
	}
}

// gate stops a pull at its file until it is opened, or the pull cancelled.
type gate chan struct{}

func (g gate) Before(ctx context.Context, e effect.Event) error {
	if e.Name == "image.rootfs.write" {
		select {
		case <-g:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (g gate) After(_ context.Context, _ effect.Event, err error) error { return err }

type pulled struct {
	img image.Image
	err error
}

// pullTwice has two callers wait for one pull that stands at the gate.
func pullTwice(t *testing.T, r *rig) (cancel [2]context.CancelFunc, results [2]chan pulled) {
	for i := range results {
		var ctx context.Context
		ctx, cancel[i] = context.WithCancel(t.Context())
		results[i] = make(chan pulled, 1)
		go func() {
			img, err := r.images.Pull(ctx, "oci:"+r.layout, "x", false, nil)
			results[i] <- pulled{img, err}
		}()
	}
	synctest.Wait()
	return cancel, results
}

func TestCallersShareAPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(gate)
		r := newRig(t, open)
		cancel, results := pullTwice(t, r)
		cancel[0]()
		wantClass(t, (<-results[0]).err, errs.Cancelled)
		close(open)
		got := <-results[1]
		if n := r.seam.Counts()["image.rootfs.write"]; n != 1 || got.err != nil {
			t.Errorf("%d pulls, %v", n, got.err)
		}
		r.wantOnly(got.img.ID)
		cancel[1]()
	})
}

func TestPullEndsWithItsLastCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, make(gate))
		cancel, results := pullTwice(t, r)
		for i := range cancel {
			cancel[i]()
			wantClass(t, (<-results[i]).err, errs.Cancelled)
		}
		synctest.Wait()
		r.wantOnly()
		if n := r.seam.Counts()["image.dir.remove"]; n != 1 {
			t.Errorf("removed %d directories", n)
		}
	})
}
