package host

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"banger/internal/kernelcat"
)

// AddKernel puts a kernel into the state directory as a person would, by hand.
func (h *Host) AddKernel(name string, vmlinux []byte) {
	h.Helper()
	dir := filepath.Join(h.dirs().Kernels(), name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.Fatal(err)
	}
	sum := sha256.Sum256(vmlinux)
	manifest := kernelcat.Manifest{Name: name, Arch: "x86_64", Version: "0", SHA256: hex.EncodeToString(sum[:]), Source: "import:test"}
	write(h, filepath.Join(dir, "vmlinux"), vmlinux)
	write(h, filepath.Join(dir, "manifest.json"), document(h, manifest))
}

// RemoveKernel takes it away again.
func (h *Host) RemoveKernel(name string) {
	h.Helper()
	if err := os.RemoveAll(filepath.Join(h.dirs().Kernels(), name)); err != nil {
		h.Fatal(err)
	}
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func document(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type (
	descriptor struct {
		MediaType string            `json:"mediaType"`
		Digest    string            `json:"digest"`
		Size      int               `json:"size"`
		Platform  map[string]string `json:"platform,omitempty"`
	}
	manifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	index struct {
		SchemaVersion int          `json:"schemaVersion"`
		Manifests     []descriptor `json:"manifests"`
	}
)

// WriteLayout makes an OCI layout whose image holds one program, at /NAME, and nothing
// else, not even a directory; cmd is the image's command. It gives the reference.
func WriteLayout(t testing.TB, name string, program []byte, cmd ...string) string {
	t.Helper()
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		t.Fatal(err)
	}
	add := func(kind string, content []byte) descriptor {
		sum := sha256.Sum256(content)
		digest := hex.EncodeToString(sum[:])
		write(t, filepath.Join(blobs, digest), content)
		return descriptor{MediaType: "application/vnd.oci.image." + kind, Digest: "sha256:" + digest, Size: len(content)}
	}
	var tape bytes.Buffer
	w := tar.NewWriter(&tape)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(program))})
	if err == nil {
		_, err = w.Write(program)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	layer := add("layer.v1.tar", tape.Bytes())
	config := add("config.v1+json", document(t, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": cmd},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layer.Digest}},
	}))
	m := add("manifest.v1+json", document(t, manifest{
		SchemaVersion: 2, MediaType: "application/vnd.oci.image.manifest.v1+json", Config: config, Layers: []descriptor{layer},
	}))
	m.Platform = map[string]string{"architecture": "amd64", "os": "linux"}
	write(t, filepath.Join(dir, "index.json"), document(t, index{SchemaVersion: 2, Manifests: []descriptor{m}}))
	write(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return "oci:" + dir
}
