// Package ocitest writes small OCI layouts for tests.
package ocitest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// WriteLayout writes a layout with one small layer into dir, and answers the path of
// that layer's blob.
func WriteLayout(t testing.TB, dir string) (layerPath string) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, name := range []string{"bin/", "etc/", "root/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(path string, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add := func(content []byte) string {
		sum := sha256.Sum256(content)
		digest := hex.EncodeToString(sum[:])
		write(filepath.Join(blobs, digest), content)
		return "sha256:" + digest
	}
	layerDigest := add(layer.Bytes())
	config := fmt.Sprintf(`{"architecture":"amd64","os":"linux","config":{"Cmd":["true"],"Env":["FROM=image"]},`+
		`"rootfs":{"type":"layers","diff_ids":[%q]}}`, layerDigest)
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`,
		add([]byte(config)), len(config), layerDigest, layer.Len())
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"digest":%q,"size":%d,"platform":{"architecture":"amd64","os":"linux"}}]}`, add([]byte(manifest)), len(manifest))
	write(filepath.Join(dir, "index.json"), []byte(index))
	write(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return filepath.Join(blobs, layerDigest[len("sha256:"):])
}
