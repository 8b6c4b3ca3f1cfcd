package oci_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"banger/internal/errs"
	"banger/internal/oci"
)

const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeTar      = "application/vnd.oci.image.layer.v1.tar"
	typeGzip     = typeTar + "+gzip"
	typeZstd     = typeTar + "+zstd"
)

type m = map[string]any

// layout is a layout directory under construction.
type layout struct {
	tb  testing.TB
	dir string
}

func newLayout(tb testing.TB) *layout {
	l := &layout{tb, tb.TempDir()}
	if err := os.MkdirAll(filepath.Join(l.dir, "blobs", "sha256"), 0o755); err != nil {
		tb.Fatal(err)
	}
	l.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return l
}

func (l *layout) file(name string, data []byte) {
	l.tb.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), data, 0o644); err != nil {
		l.tb.Fatal(err)
	}
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

func (l *layout) blobPath(d string) string {
	return filepath.Join(l.dir, "blobs", "sha256", strings.TrimPrefix(d, "sha256:"))
}

// blob stores data and returns its descriptor.
func (l *layout) blob(mediaType string, data []byte) m {
	l.tb.Helper()
	d := digest(data)
	if err := os.WriteFile(l.blobPath(d), data, 0o644); err != nil {
		l.tb.Fatal(err)
	}
	return m{"mediaType": mediaType, "digest": d, "size": len(data)}
}

func (l *layout) doc(mediaType string, v any) m {
	l.tb.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		l.tb.Fatal(err)
	}
	return l.blob(mediaType, data)
}

func (l *layout) index(descs ...m) {
	data, err := json.Marshal(m{"schemaVersion": 2, "manifests": descs})
	if err != nil {
		l.tb.Fatal(err)
	}
	l.file("index.json", data)
}

// image stores an image with one layer; edit may change manifest and configuration.
func (l *layout) image(tar, blob []byte, mediaType string, edit func(man, cfg m)) m {
	cfg := m{
		"architecture": "amd64", "os": "linux",
		"config": m{"Env": []string{"A=b"}, "User": "u", "WorkingDir": "/w", "Entrypoint": []string{"/e"},
			"Cmd": []string{"c"}, "ExposedPorts": m{"80/tcp": m{}, "22/tcp": m{}}},
		"rootfs": m{"type": "layers", "diff_ids": []string{digest(tar)}},
	}
	man := m{"schemaVersion": 2, "mediaType": typeManifest, "layers": []m{l.blob(mediaType, blob)}}
	if edit != nil {
		edit(man, cfg)
	}
	if man["config"] == nil {
		man["config"] = l.doc(typeConfig, cfg)
	}
	return l.doc(typeManifest, man)
}

func with(d m, kv ...any) m {
	out := m{}
	for k, v := range d {
		out[k] = v
	}
	for i := 0; i < len(kv); i += 2 {
		out[kv[i].(string)] = kv[i+1]
	}
	return out
}

func tagged(d m, tag string) m {
	return with(d, "annotations", m{"org.opencontainers.image.ref.name": tag})
}

func onPlatform(d m, arch string) m {
	return with(d, "platform", m{"os": "linux", "architecture": arch})
}

func pack(tb testing.TB, mediaType string, b []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch mediaType {
	case typeGzip:
		w = gzip.NewWriter(&out)
	case typeZstd:
		z, err := zstd.NewWriter(&out)
		if err != nil {
			tb.Fatal(err)
		}
		w = z
	default:
		return b
	}
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// open opens an image and reads all its layers.
func open(dir, tag string) (*oci.Image, [][]byte, error) {
	ctx := context.Background()
	img, err := oci.OpenLayout(ctx, oci.Ref{Dir: dir, Tag: tag})
	if err != nil {
		return nil, nil, err
	}
	defer img.Close()
	var out [][]byte
	for n := range img.Layers {
		r, err := img.OpenLayer(ctx, n)
		if err != nil {
			return img, out, err
		}
		data, err := io.ReadAll(r)
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return img, out, err
		}
		out = append(out, data)
	}
	return img, out, nil
}

func TestParseRef(t *testing.T) {
	for in, want := range map[string]oci.Ref{
		"oci:/a/b":       {Dir: "/a/b"},
		"oci:/a/b:t":     {Dir: "/a/b", Tag: "t"},
		"oci:b:t":        {Dir: "b", Tag: "t"},
		"oci:./x:y/z":    {Dir: "./x:y/z"},
		"oci:/a:b:1.0-x": {Dir: "/a:b", Tag: "1.0-x"},
	} {
		got, err := oci.ParseRef(in)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
		if got.String() != in {
			t.Errorf("%q comes back as %q", in, got.String())
		}
	}
	for _, in := range []string{"", "oci:", "/a", "oci::t", "oci:a:", "docker:x", "oci:a\x00b"} {
		if _, err := oci.ParseRef(in); !errs.Is(err, errs.Usage) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestLayers(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 200000)
	for _, typ := range []string{typeTar, typeGzip, typeZstd} {
		for _, tar := range [][]byte{big, []byte("x"), {}} {
			l := newLayout(t)
			l.index(l.image(tar, pack(t, typ, tar), typ, nil))
			img, got, err := open(l.dir, "")
			if err != nil {
				t.Errorf("%s, %d bytes: %v", typ, len(tar), err)
				continue
			}
			if len(got) != 1 || !bytes.Equal(got[0], tar) {
				t.Errorf("%s, %d bytes: content differs", typ, len(tar))
			}
			want := oci.Config{Arch: "amd64", OS: "linux", Env: []string{"A=b"}, User: "u", WorkDir: "/w",
				Entrypoint: []string{"/e"}, Cmd: []string{"c"}, ExposedPorts: []string{"22/tcp", "80/tcp"}}
			if fmt.Sprint(img.Config) != fmt.Sprint(want) {
				t.Errorf("configuration %+v, want %+v", img.Config, want)
			}
		}
	}
}

func TestChoice(t *testing.T) {
	l := newLayout(t)
	mk := func(s string) m { return l.image([]byte(s), []byte(s), typeTar, nil) }
	a, b, other := mk("a"), mk("b"), mk("other")
	nested := l.doc(typeIndex, m{"schemaVersion": 2, "manifests": []m{
		onPlatform(other, "arm64"), onPlatform(b, "amd64"), onPlatform(other, "unknown")}})
	arm := l.doc(typeIndex, m{"schemaVersion": 2, "manifests": []m{onPlatform(other, "arm64")}})
	l.index(tagged(a, "one"), tagged(nested, "two"), tagged(arm, "arm"))
	for tag, want := range map[string]string{"one": "a", "two": "b"} {
		_, got, err := open(l.dir, tag)
		if err != nil || string(got[0]) != want {
			t.Errorf("tag %s: %q, %v", tag, got, err)
		}
	}
	_, _, err := open(l.dir, "three")
	if !errs.Is(err, errs.NotFound) || !strings.Contains(errs.HintOf(err), "arm, one, two") {
		t.Errorf("unknown tag: %v (hint %q)", err, errs.HintOf(err))
	}
	if _, _, err := open(l.dir, ""); !errs.Is(err, errs.NotFound) || errs.HintOf(err) == "" {
		t.Errorf("no tag: %v", err)
	}
	if _, _, err := open(l.dir, "arm"); !errs.Is(err, errs.NotFound) {
		t.Errorf("wrong platform: %v", err)
	}
	if _, _, err := open(filepath.Join(l.dir, "missing"), ""); !errs.Is(err, errs.NotFound) {
		t.Errorf("missing directory: %v", err)
	}
}

func TestCancelAndClose(t *testing.T) {
	l := newLayout(t)
	tar := make([]byte, 64<<20)
	l.index(l.image(tar, pack(t, typeZstd, tar), typeZstd, nil))
	ctx, cancel := context.WithCancel(t.Context())
	img, err := oci.OpenLayout(ctx, oci.Ref{Dir: l.dir})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	r, err := img.OpenLayer(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); !errs.Is(err, errs.Cancelled) {
		t.Errorf("after cancel: %v", err)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	// Closing in the middle waits for nothing and leaves nothing.
	for range 20 {
		r, err := img.OpenLayer(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHostile(t *testing.T) {
	tar := bytes.Repeat([]byte("abc"), 100000)
	packed := pack(t, typeZstd, tar)
	zipped := pack(t, typeGzip, tar)
	image := func(edit func(man, cfg m)) func(*layout) {
		return func(l *layout) { l.index(l.image(tar, packed, typeZstd, edit)) }
	}
	blobAs := func(typ string, blob []byte) func(*layout) {
		return func(l *layout) { l.index(l.image(tar, blob, typ, nil)) }
	}
	layerDesc := func(man m) m { return man["layers"].([]m)[0] }
	after := func(change func(l *layout, blob string)) func(*layout) {
		return func(l *layout) {
			image(nil)(l)
			change(l, l.blobPath(digest(packed)))
		}
	}
	huge := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8}, packed[6:]...) // a window of 2 GiB
	cases := []struct {
		name string
		make func(*layout)
		want errs.Class
	}{
		{"digest of the blob", after(func(l *layout, p string) {
			b := bytes.Clone(packed)
			b[len(b)-1] ^= 1
			os.WriteFile(p, b, 0o644)
		}), errs.InvalidData},
		{"short blob", after(func(l *layout, p string) { os.Truncate(p, int64(len(packed)-1)) }), errs.InvalidData},
		{"long blob", after(func(l *layout, p string) { os.WriteFile(p, append(bytes.Clone(packed), 0), 0o644) }), errs.InvalidData},
		{"missing blob", after(func(l *layout, p string) { os.Remove(p) }), errs.NotFound},
		{"blob is a link out of the directory", after(func(l *layout, p string) {
			out := filepath.Join(t.TempDir(), "secret")
			os.WriteFile(out, packed, 0o644)
			os.Remove(p)
			os.Symlink(out, p)
		}), errs.InvalidData},
		{"blob is a relative link out of the directory", after(func(l *layout, p string) {
			os.Rename(p, filepath.Join(l.dir, "..", "outside"))
			os.Symlink("../../../outside", p)
		}), errs.InvalidData},
		{"blob is a loop of links", after(func(l *layout, p string) { os.Remove(p); os.Symlink(p, p) }), errs.InvalidData},
		{"blob is a FIFO", after(func(l *layout, p string) { os.Remove(p); syscall.Mkfifo(p, 0o644) }), errs.InvalidData},
		{"blob is a directory", after(func(l *layout, p string) { os.Remove(p); os.Mkdir(p, 0o755) }), errs.InvalidData},
		{"blobs is a link out", after(func(l *layout, p string) {
			d := t.TempDir()
			os.Rename(filepath.Join(l.dir, "blobs"), filepath.Join(d, "blobs"))
			os.Symlink(filepath.Join(d, "blobs"), filepath.Join(l.dir, "blobs"))
		}), errs.InvalidData},
		{"diff id", image(func(_, cfg m) { cfg["rootfs"] = m{"type": "layers", "diff_ids": []string{digest(packed)}} }), errs.InvalidData},
		{"too few diff ids", image(func(_, cfg m) { cfg["rootfs"] = m{"type": "layers", "diff_ids": []string{}} }), errs.InvalidData},
		{"malformed diff id", image(func(_, cfg m) { cfg["rootfs"] = m{"type": "layers", "diff_ids": []string{"sha256:../../x"}} }), errs.InvalidData},
		{"root file system type", image(func(_, cfg m) { cfg["rootfs"] = m{"type": "x", "diff_ids": []string{digest(tar)}} }), errs.InvalidData},
		{"another machine", image(func(_, cfg m) { cfg["architecture"] = "arm64" }), errs.NotFound},
		{"another system", image(func(_, cfg m) { cfg["os"] = "windows" }), errs.NotFound},
		{"size too small", image(func(man, _ m) { layerDesc(man)["size"] = len(packed) - 1 }), errs.InvalidData},
		{"size negative", image(func(man, _ m) { layerDesc(man)["size"] = -1 }), errs.InvalidData},
		{"size not a number", image(func(man, _ m) { layerDesc(man)["size"] = "12" }), errs.InvalidData},
		{"size over 64 bits", image(func(man, _ m) { layerDesc(man)["size"] = 1e30 }), errs.InvalidData},
		{"digest with a path", image(func(man, _ m) { layerDesc(man)["digest"] = "sha256:../../../../etc/passwd" }), errs.InvalidData},
		{"digest of another kind", image(func(man, _ m) { layerDesc(man)["digest"] = "sha512:" + strings.Repeat("0", 128) }), errs.InvalidData},
		{"digest in capitals", image(func(man, _ m) {
			layerDesc(man)["digest"] = "sha256:" + strings.ToUpper(strings.TrimPrefix(digest(packed), "sha256:"))
		}), errs.InvalidData},
		{"media type unknown", image(func(man, _ m) { layerDesc(man)["mediaType"] = "text/html" }), errs.InvalidData},
		{"media type foreign", image(func(man, _ m) {
			layerDesc(man)["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
		}), errs.InvalidData},
		{"media type of another packing", blobAs(typeGzip, packed), errs.InvalidData},
		{"media type of another packing, reversed", blobAs(typeZstd, zipped), errs.InvalidData},
		{"media type without packing", blobAs(typeTar, packed), errs.InvalidData},
		{"no layers", image(func(man, _ m) { man["layers"] = []m{} }), errs.InvalidData},
		{"too many layers", image(func(man, _ m) {
			l := layerDesc(man)
			all := make([]m, 1000)
			for i := range all {
				all[i] = l
			}
			man["layers"] = all
		}), errs.InvalidData},
		{"schema 1", image(func(man, _ m) { man["schemaVersion"] = 1 }), errs.InvalidData},
		{"manifest says it is an index", image(func(man, _ m) { man["mediaType"] = typeIndex }), errs.InvalidData},
		{"configuration of another kind", func(l *layout) {
			image(func(man, _ m) { man["config"] = l.doc("application/vnd.wasm.config.v1+json", m{}) })(l)
		}, errs.InvalidData},
		{"huge configuration", func(l *layout) {
			image(func(man, _ m) { man["config"] = l.blob(typeConfig, make([]byte, 5<<20)) })(l)
		}, errs.InvalidData},
		{"huge manifest", func(l *layout) { l.index(l.blob(typeManifest, make([]byte, 64<<20))) }, errs.InvalidData},
		{"manifest claims to be huge", func(l *layout) {
			l.index(with(l.image(tar, packed, typeZstd, nil), "size", int64(1)<<62))
		}, errs.InvalidData},
		{"huge index", func(l *layout) { l.file("index.json", make([]byte, 5<<20)) }, errs.InvalidData},
		{"index is not JSON", func(l *layout) { l.file("index.json", []byte("{")) }, errs.InvalidData},
		{"junk behind the index", func(l *layout) { l.file("index.json", []byte(`{"schemaVersion":2,"manifests":[]}{}`)) }, errs.InvalidData},
		{"index nests deeply", func(l *layout) {
			l.file("index.json", []byte(strings.Repeat(`{"manifests":[`, 20000)))
		}, errs.InvalidData},
		{"no index", func(l *layout) {}, errs.NotFound},
		{"empty index", func(l *layout) { l.index() }, errs.NotFound},
		{"index of schema 1", func(l *layout) { l.file("index.json", []byte(`{"schemaVersion":1,"manifests":[]}`)) }, errs.InvalidData},
		{"index is a link out", func(l *layout) { os.Symlink("/etc/hostname", filepath.Join(l.dir, "index.json")) }, errs.InvalidData},
		{"no oci-layout", after(func(l *layout, _ string) { os.Remove(filepath.Join(l.dir, "oci-layout")) }), errs.NotFound},
		{"layout of version 2", after(func(l *layout, _ string) { l.file("oci-layout", []byte(`{"imageLayoutVersion":"2"}`)) }), errs.InvalidData},
		{"indexes nest", func(l *layout) {
			d := l.image(tar, packed, typeZstd, nil)
			for range 10 {
				d = l.doc(typeIndex, m{"schemaVersion": 2, "manifests": []m{d}})
			}
			l.index(d)
		}, errs.InvalidData},
		{"zstd cut", blobAs(typeZstd, packed[:len(packed)/2]), errs.InvalidData},
		{"zstd with junk behind", blobAs(typeZstd, append(bytes.Clone(packed), "junk behind the frame"...)), errs.InvalidData},
		{"zstd of nothing", blobAs(typeZstd, nil), errs.InvalidData},
		{"zstd with a window of 2 GiB", blobAs(typeZstd, huge), errs.InvalidData},
		{"gzip cut", blobAs(typeGzip, zipped[:len(zipped)/2]), errs.InvalidData},
		{"gzip without its trailer", blobAs(typeGzip, zipped[:len(zipped)-8]), errs.InvalidData},
		{"gzip with half a trailer", blobAs(typeGzip, zipped[:len(zipped)-3]), errs.InvalidData},
		{"zstd without its last byte", blobAs(typeZstd, packed[:len(packed)-1]), errs.InvalidData},
		{"gzip with junk behind", blobAs(typeGzip, append(bytes.Clone(zipped), "junk behind the member"...)), errs.InvalidData},
		{"gzip of nothing", blobAs(typeGzip, nil), errs.InvalidData},
		{"gzip with a wrong checksum", blobAs(typeGzip, func() []byte {
			b := bytes.Clone(zipped)
			b[len(b)-6] ^= 1
			return b
		}()), errs.InvalidData},
		{"more than the diff id covers", blobAs(typeZstd, append(bytes.Clone(packed), pack(t, typeZstd, []byte("more"))...)), errs.InvalidData},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLayout(t)
			c.make(l)
			for range 2 {
				_, _, err := open(l.dir, "")
				if !errs.Is(err, c.want) {
					t.Errorf("class %v, want %v: %v", errs.ClassOf(err), c.want, err)
				}
			}
		})
	}
}

// FuzzDocuments reads a layout whose index, manifest and configuration are the
// fuzzer's: whatever they are, the answer is an image that is whole or an error with a class.
func FuzzDocuments(f *testing.F) {
	l := newLayout(f)
	tar := []byte("tar")
	desc := l.image(tar, tar, typeTar, nil)
	l.index(tagged(desc, "t"))
	idx, err := os.ReadFile(filepath.Join(l.dir, "index.json"))
	if err != nil {
		f.Fatal(err)
	}
	man, err := os.ReadFile(l.blobPath(desc["digest"].(string)))
	if err != nil {
		f.Fatal(err)
	}
	var parsed struct{ Config struct{ Digest string } }
	if err := json.Unmarshal(man, &parsed); err != nil {
		f.Fatal(err)
	}
	cfg, err := os.ReadFile(l.blobPath(parsed.Config.Digest))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(0, idx)
	f.Add(1, man)
	f.Add(2, cfg)
	f.Add(2, []byte(`{"rootfs":{"type":"layers","diff_ids":null}}`))
	f.Add(1, []byte(`{"schemaVersion":2,"layers":[{}],"config":null}`))
	f.Add(0, []byte(`{"schemaVersion":2,"manifests":[{"platform":null},{"platform":{}}]}`))
	f.Fuzz(func(t *testing.T, which int, data []byte) {
		l := newLayout(t)
		l.blob(typeTar, tar)
		docs := [3][]byte{idx, man, cfg}
		switch which &= 3; which {
		case 0:
			docs[0] = data
		case 1:
			docs[1] = data
		default:
			docs[2] = data
			which = 2
		}
		if which == 2 {
			docs[1] = bytes.ReplaceAll(man, []byte(digest(cfg)), []byte(digest(data)))
			docs[1] = bytes.ReplaceAll(docs[1], fmt.Appendf(nil, `"size":%d`, len(cfg)), fmt.Appendf(nil, `"size":%d`, len(data)))
		}
		if which >= 1 {
			docs[0] = bytes.ReplaceAll(idx, []byte(digest(man)), []byte(digest(docs[1])))
			docs[0] = bytes.ReplaceAll(docs[0], fmt.Appendf(nil, `"size":%d`, len(man)), fmt.Appendf(nil, `"size":%d`, len(docs[1])))
		}
		l.file("index.json", docs[0])
		l.blob(typeManifest, docs[1])
		l.blob(typeConfig, docs[2])
		img, _, err := open(l.dir, "")
		if err != nil {
			if c := errs.ClassOf(err); c != errs.InvalidData && c != errs.NotFound {
				t.Errorf("class %v: %v", c, err)
			}
			return
		}
		if len(img.Layers) == 0 {
			t.Error("an image without layers")
		}
	})
}
