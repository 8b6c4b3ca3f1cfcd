package kernelcat

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"banger/internal/effect"
	"banger/internal/embedded"
	"banger/internal/errs"
)

const content = "\x7fELF kernel"

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func manifest(name, kernel string) Manifest {
	return Manifest{Name: name, Distro: "debian-12", Arch: "x86_64", Version: "6.1", SHA256: sum(kernel), Source: SourceEmbedded}
}

type file struct {
	tar.Header
	body string
}

func bundle(t testing.TB, files ...file) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, f := range files {
		if f.Typeflag == 0 {
			f.Typeflag = tar.TypeReg
		}
		f.Mode = 0o644
		if f.Typeflag == tar.TypeReg {
			f.Size = int64(len(f.body))
		}
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return &out
}

func reg(name, body string) file { return file{Header: tar.Header{Name: name}, body: body} }

func describe(m Manifest) file {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return reg(manifestFile, string(b))
}

func good(t testing.TB, name, kernel string) *bytes.Buffer {
	return bundle(t, describe(manifest(name, kernel)), reg(kernelFile, kernel))
}

// put makes an entry by hand.
func put(t *testing.T, c *Catalog, dir string, m Manifest, kernel string) {
	t.Helper()
	path := filepath.Join(c.dir, dir)
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(m)
	for name, body := range map[string][]byte{manifestFile: b, kernelFile: []byte(kernel)} {
		if err := os.WriteFile(filepath.Join(path, name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func names(t *testing.T, c *Catalog) string {
	t.Helper()
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// What lies in the directory is the truth; what is broken there hides nothing else.
func TestTheDirectoryIsTheOnlyTruth(t *testing.T) {
	c := New(effect.New(nil), t.TempDir())
	put(t, c, "debian-6.1", manifest("debian-6.1", content), content)
	put(t, c, "mine", manifest("mine", content), content)
	if err := os.Mkdir(filepath.Join(c.dir, "mine", modulesDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "mine", initrdFile), []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, c, "renamed", manifest("other", content), content)
	put(t, c, "-bad", manifest("-bad", content), content)
	put(t, c, "no-kernel", manifest("no-kernel", content), content)
	_ = os.Remove(filepath.Join(c.dir, "no-kernel", kernelFile))
	put(t, c, "no-json", manifest("no-json", content), content)
	_ = os.WriteFile(filepath.Join(c.dir, "no-json", manifestFile), []byte("{"), 0o600)
	put(t, c, "link-out", manifest("link-out", content), content)
	_ = os.Remove(filepath.Join(c.dir, "link-out", kernelFile))
	_ = os.Symlink("/etc/hostname", filepath.Join(c.dir, "link-out", kernelFile))
	_ = os.WriteFile(filepath.Join(c.dir, "a-file"), nil, 0o600)
	_ = os.Symlink("/etc", filepath.Join(c.dir, "a-link"))
	_ = os.Mkdir(filepath.Join(c.dir, effect.TempPrefix+"half"), 0o700)

	kernels, warnings, err := c.List(t.Context())
	if err != nil || len(kernels) != 2 || kernels[0].Name != "debian-6.1" || kernels[1].Name != "mine" {
		t.Fatalf("%+v, %v", kernels, err)
	}
	mine := kernels[1]
	base := filepath.Join(c.dir, "mine")
	if mine.Path != filepath.Join(base, kernelFile) || mine.InitrdPath != filepath.Join(base, initrdFile) ||
		mine.ModulesDir != filepath.Join(base, modulesDir) || mine.SizeBytes <= 5 {
		t.Errorf("%+v", mine)
	}
	if len(warnings) != 7 {
		t.Errorf("%d warnings: %v", len(warnings), warnings)
	}
}

func TestResolve(t *testing.T) {
	c := New(effect.New(nil), t.TempDir())
	put(t, c, "debian-6.1", manifest("debian-6.1", content), content)
	if k, err := c.Resolve(t.Context(), "debian-6.1"); err != nil || k.SHA256 != sum(content) {
		t.Errorf("%+v, %v", k, err)
	}
	for name, class := range map[string]errs.Class{
		"debin-6.1": errs.NotFound, "..": errs.Usage, "a/b": errs.Usage, ".hidden": errs.Usage, strings.Repeat("a", 65): errs.Usage,
	} {
		_, err := c.Resolve(t.Context(), name)
		if !errs.Is(err, class) || errs.HintOf(err) == "" {
			t.Errorf("%q: %v, hint %q", name, err, errs.HintOf(err))
		}
	}
	_, err := c.Resolve(t.Context(), "debin-6.1")
	if hint := errs.HintOf(err); hint != `did you mean "debian-6.1"? see: banger kernel list` {
		t.Errorf("hint %q", hint)
	}
}

func TestUnpack(t *testing.T) {
	seam := effect.New(nil)
	c := New(seam, t.TempDir())
	name, err := c.unpack(t.Context(), good(t, "slim", content))
	if err != nil || name != "slim" {
		t.Fatalf("%q, %v", name, err)
	}
	k, err := c.Resolve(t.Context(), "slim")
	if err != nil || k.Manifest != manifest("slim", content) {
		t.Fatalf("%+v, %v", k, err)
	}
	if got, _ := os.ReadFile(k.Path); string(got) != content {
		t.Errorf("kernel %q", got)
	}
	written := seam.Counts()["kernel.write"]
	if _, err := c.unpack(t.Context(), good(t, "slim", content)); err != nil || seam.Counts()["kernel.write"] != written {
		t.Errorf("the same again: %v, %v", err, seam.Counts())
	}
	if _, err := c.unpack(t.Context(), good(t, "slim", content+" 2")); err != nil {
		t.Fatal(err)
	}
	if k, err := c.Resolve(t.Context(), "slim"); err != nil || k.SHA256 != sum(content+" 2") {
		t.Errorf("after the upgrade: %+v, %v", k, err)
	}
	if got := names(t, c); got != "slim" {
		t.Errorf("left: %s", got)
	}
}

// A kernel that the user put there under the embedded one's name is the user's.
func TestAnEmbeddedKernelReplacesNobodyElses(t *testing.T) {
	c := New(effect.New(nil), t.TempDir())
	own := manifest("slim", "own")
	own.Source = "import:/somewhere"
	put(t, c, "slim", own, "own")
	if name, err := c.unpack(t.Context(), good(t, "slim", content)); err != nil || name != "slim" {
		t.Fatalf("%q, %v", name, err)
	}
	if k, err := c.Resolve(t.Context(), "slim"); err != nil || k.Manifest != own {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestHostileBundlesLeaveNothing(t *testing.T) {
	m := describe(manifest("slim", content))
	kernel := reg(kernelFile, content)
	link := func(kind byte, name, to string) file {
		return file{Header: tar.Header{Name: name, Typeflag: kind, Linkname: to}}
	}
	bad := manifest("../../slim", content)
	cases := map[string]*bytes.Buffer{
		"no manifest":         bundle(t, kernel),
		"empty":               bundle(t),
		"only a manifest":     bundle(t, m),
		"not zstd":            bytes.NewBufferString("hello"),
		"not tar":             bytes.NewBuffer(compress(t, bytes.Repeat([]byte("x"), 4096))),
		"cut":                 bytes.NewBuffer(good(t, "slim", strings.Repeat("abcdefg", 10000)).Bytes()[:60]),
		"wrong sum":           bundle(t, m, reg(kernelFile, "other")),
		"two kernels":         bundle(t, m, kernel, kernel),
		"name escapes":        bundle(t, describe(bad), kernel),
		"path escapes":        bundle(t, m, reg("../evil", "x"), kernel),
		"absolute path":       bundle(t, m, reg("/tmp/evil", "x"), kernel),
		"kernel is a link":    bundle(t, m, link(tar.TypeSymlink, kernelFile, "/etc/passwd")),
		"kernel is a device":  bundle(t, m, link(tar.TypeChar, kernelFile, "")),
		"kernel is a fifo":    bundle(t, m, link(tar.TypeFifo, kernelFile, "")),
		"hard link":           bundle(t, m, link(tar.TypeLink, kernelFile, "/etc/passwd")),
		"link, then through":  bundle(t, m, link(tar.TypeSymlink, modulesDir, "/tmp"), reg("modules/evil", "x"), kernel),
		"manifest is a link":  bundle(t, link(tar.TypeSymlink, manifestFile, "/etc/passwd"), kernel),
		"manifest too large":  bundle(t, reg(manifestFile, strings.Repeat(" ", maxManifest+1)), kernel),
		"manifest no JSON":    bundle(t, reg(manifestFile, "{"), kernel),
		"unexpected file":     bundle(t, m, kernel, reg("extra", "x")),
		"decompression bomb":  bytes.NewBuffer(bomb(t, m)),
		"upper case checksum": bundle(t, describe(Manifest{Name: "slim", SHA256: strings.ToUpper(sum(content))}), kernel),
	}
	for name, b := range cases {
		t.Run(name, func(t *testing.T) {
			c := New(effect.New(nil), t.TempDir())
			if _, err := c.unpack(t.Context(), b); !errs.Is(err, errs.InvalidData) && !errs.Is(err, errs.Usage) {
				t.Errorf("error %v", err)
			}
			if got := names(t, c); got != "" {
				t.Errorf("left: %s", got)
			}
		})
	}
}

func compress(t *testing.T, b []byte) []byte {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(b, nil)
}

// bomb is a kernel of zeros that is larger than the limit, in some kilobytes.
func bomb(t *testing.T, m file) []byte {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	m.Mode, m.Size = 0o644, int64(len(m.body))
	_ = w.WriteHeader(&m.Header)
	_, _ = w.Write([]byte(m.body))
	_ = w.WriteHeader(&tar.Header{Name: kernelFile, Typeflag: tar.TypeReg, Mode: 0o644, Size: maxKernelBytes + 1<<20})
	zeros := make([]byte, 1<<20)
	for range maxKernelBytes>>20 + 1 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type hook func(effect.Event) error

func (h hook) Before(_ context.Context, e effect.Event) error           { return h(e) }
func (h hook) After(_ context.Context, _ effect.Event, err error) error { return err }

// Failing any one effect of an upgrade leaves the old kernel or the new one, whole; and
// what it could not remove is gone after the next try.
func TestUpgradeIsAllOrNothing(t *testing.T) {
	for i := 1; ; i++ {
		c := New(effect.New(nil), t.TempDir())
		if _, err := c.unpack(t.Context(), good(t, "slim", "old")); err != nil {
			t.Fatal(err)
		}
		fired := false
		c.seam = effect.New(hook(func(e effect.Event) error {
			if e.N != i {
				return nil
			}
			fired = true
			return fmt.Errorf("fault at %s: %w", e.Name, syscall.EIO)
		}))
		_, err := c.unpack(t.Context(), good(t, "slim", "new"))
		if fired != (err != nil) {
			t.Errorf("effect %d: fired %v, error %v", i, fired, err)
		}
		k, err := c.Resolve(t.Context(), "slim")
		if err != nil {
			t.Fatalf("effect %d: %v", i, err)
		}
		if got, _ := os.ReadFile(k.Path); sum(string(got)) != k.SHA256 {
			t.Errorf("effect %d: the kernel is %q", i, got)
		}
		c.seam = effect.New(nil)
		if _, err := c.unpack(t.Context(), good(t, "slim", "newer")); err != nil {
			t.Errorf("effect %d: the next try: %v", i, err)
		}
		if got := names(t, c); got != "slim" {
			t.Errorf("effect %d: left %s", i, got)
		}
		if !fired {
			return
		}
	}
}

func TestEmbeddedAtOnce(t *testing.T) {
	if _, err := embedded.Kernel(); errs.Is(err, errs.Unavailable) {
		t.Skip(err)
	}
	seam := effect.New(nil)
	c := New(seam, t.TempDir())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			k, err := c.Resolve(t.Context(), "")
			if err != nil || k.Source != SourceEmbedded || k.SizeBytes < 1<<20 {
				t.Errorf("%+v, %v", k, err)
			}
		})
	}
	all.Wait()
	if n := seam.Counts()["kernel.write"]; n != 1 {
		t.Errorf("written %d times", n)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(good(f, "slim", content).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(effect.New(nil), t.TempDir())
		if name, err := c.unpack(t.Context(), bytes.NewReader(b)); err == nil {
			if _, err := c.Resolve(t.Context(), name); err != nil {
				t.Errorf("unpacked, and then: %v", err)
			}
		} else if got := names(t, c); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}
