package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func smallTar(t *testing.T) string {
	t.Helper()
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	body := []byte(strings.Repeat("banger\n", 10_000))
	if err := w.WriteHeader(&tar.Header{Name: "etc/motd", Mode: 0o644, Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	if err := os.WriteFile(path, content.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLayoutIsWholeAndReproducible(t *testing.T) {
	tarPath, when := smallTar(t), time.Unix(1_700_000_000, 0).UTC()
	first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, dir := range []string{first, second} {
		if err := write(tarPath, dir, "debian-12", when); err != nil {
			t.Fatal(err)
		}
		if err := verify(dir); err != nil {
			t.Fatal(err)
		}
	}
	a, err := os.ReadFile(filepath.Join(first, indexFile))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(second, indexFile))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("two layouts of one tar differ:\n%s\n%s", a, b)
	}
}

func TestVerifyFindsEveryChangedBlob(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oci")
	if err := write(smallTar(t), dir, "debian-12", time.Unix(0, 0).UTC()); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil || len(blobs) != 3 {
		t.Fatalf("blobs: %v, %v", blobs, err)
	}
	for _, blob := range blobs {
		good, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 1
		if err := os.WriteFile(blob, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := verify(dir); err == nil {
			t.Errorf("a changed %s was not noticed", filepath.Base(blob))
		}
		if err := os.WriteFile(blob, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
