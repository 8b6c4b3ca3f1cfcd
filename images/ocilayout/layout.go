package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Media types and file names of the OCI image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+zstd"

	annotationName = "org.opencontainers.image.ref.name"

	layoutFile = "oci-layout"
	indexFile  = "index.json"
)

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type containerConfig struct {
	Env []string `json:"Env"`
	Cmd []string `json:"Cmd"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

type imageConfig struct {
	platform
	Created time.Time       `json:"created"`
	Config  containerConfig `json:"config"`
	RootFS  rootFS          `json:"rootfs"`
	History []history       `json:"history"`
}

// write makes the layout. The bytes of the result depend on the tar, the name
// and the time alone.
func write(tarPath, out, name string, created time.Time) error {
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	blobs := filepath.Join(out, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	layer, diffID, err := writeLayer(blobs, tarPath)
	if err != nil {
		return fmt.Errorf("pack %s: %w", tarPath, err)
	}
	where := platform{Architecture: "amd64", OS: "linux"}
	config, err := writeJSON(blobs, typeConfig, imageConfig{
		platform: where,
		Created:  created,
		Config: containerConfig{
			Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"LANG=C.UTF-8",
			},
			Cmd: []string{"/bin/bash"},
		},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{diffID}},
		History: []history{{Created: created, CreatedBy: "images/build"}},
	})
	if err != nil {
		return err
	}
	top, err := writeJSON(blobs, typeManifest, manifest{
		SchemaVersion: 2,
		MediaType:     typeManifest,
		Config:        config,
		Layers:        []descriptor{layer},
	})
	if err != nil {
		return err
	}
	top.Platform = &where
	top.Annotations = map[string]string{annotationName: name}
	indexBytes, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{top}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, indexFile), indexBytes, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, layoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// writeLayer compresses the tar into a blob and returns its descriptor and the
// digest of the uncompressed tar.
func writeLayer(blobs, tarPath string) (descriptor, string, error) {
	in, err := os.Open(tarPath)
	if err != nil {
		return descriptor{}, "", err
	}
	defer in.Close()
	unnamed := filepath.Join(blobs, "layer")
	out, err := os.Create(unnamed)
	if err != nil {
		return descriptor{}, "", err
	}
	defer out.Close()

	packed, plain := newDigester(), newDigester()
	encoder, err := zstd.NewWriter(io.MultiWriter(out, packed), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return descriptor{}, "", err
	}
	if _, err := io.Copy(io.MultiWriter(encoder, plain), in); err != nil {
		return descriptor{}, "", err
	}
	if err := encoder.Close(); err != nil {
		return descriptor{}, "", err
	}
	if err := out.Close(); err != nil {
		return descriptor{}, "", err
	}
	layer := descriptor{MediaType: typeLayer, Digest: packed.String(), Size: packed.size}
	return layer, plain.String(), os.Rename(unnamed, blobPath(blobs, layer.Digest))
}

func writeJSON(blobs, mediaType string, content any) (descriptor, error) {
	encoded, err := json.Marshal(content)
	if err != nil {
		return descriptor{}, err
	}
	sum := newDigester()
	if _, err := sum.Write(encoded); err != nil {
		return descriptor{}, err
	}
	d := descriptor{MediaType: mediaType, Digest: sum.String(), Size: sum.size}
	return d, os.WriteFile(blobPath(blobs, d.Digest), encoded, 0o644)
}

// verify reads a layout back as a stranger would: every blob is there with the
// size and digest its descriptor names, the layer decompresses to its diff ID,
// and nothing else lies around.
func verify(dir string) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	var top index
	raw, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &top); err != nil {
		return fmt.Errorf("%s: %w", indexFile, err)
	}
	if len(top.Manifests) != 1 {
		return fmt.Errorf("%s: %d manifests instead of one", indexFile, len(top.Manifests))
	}
	var image manifest
	if err := readJSON(blobs, top.Manifests[0], &image); err != nil {
		return err
	}
	var config imageConfig
	if err := readJSON(blobs, image.Config, &config); err != nil {
		return err
	}
	if len(image.Layers) != 1 || len(config.RootFS.DiffIDs) != 1 {
		return fmt.Errorf("%d layers and %d diff IDs instead of one each", len(image.Layers), len(config.RootFS.DiffIDs))
	}
	if err := verifyLayer(blobs, image.Layers[0], config.RootFS.DiffIDs[0]); err != nil {
		return err
	}
	entries, err := os.ReadDir(blobs)
	if err != nil {
		return err
	}
	if len(entries) != 3 {
		return fmt.Errorf("%d blobs instead of manifest, configuration and layer", len(entries))
	}
	return nil
}

func readJSON(blobs string, d descriptor, content any) error {
	var raw bytes.Buffer
	if err := readBlob(blobs, d, &raw); err != nil {
		return err
	}
	if err := json.Unmarshal(raw.Bytes(), content); err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return nil
}

func verifyLayer(blobs string, layer descriptor, diffID string) error {
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(readBlob(blobs, layer, writer)) }()
	defer reader.Close()
	decoder, err := zstd.NewReader(reader)
	if err != nil {
		return err
	}
	defer decoder.Close()
	plain := newDigester()
	if _, err := io.Copy(plain, decoder); err != nil {
		return fmt.Errorf("layer %s: %w", layer.Digest, err)
	}
	if plain.String() != diffID {
		return fmt.Errorf("layer %s decompresses to %s, not to its diff ID %s", layer.Digest, plain, diffID)
	}
	return nil
}

// readBlob copies a blob to w and reports a size or digest other than described.
func readBlob(blobs string, d descriptor, w io.Writer) error {
	in, err := os.Open(blobPath(blobs, d.Digest))
	if err != nil {
		return err
	}
	defer in.Close()
	sum := newDigester()
	if _, err := io.Copy(io.MultiWriter(w, sum), in); err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	if sum.size != d.Size || sum.String() != d.Digest {
		return errors.New("blob " + d.Digest + ": content differs from its descriptor")
	}
	return nil
}

func blobPath(blobs, digest string) string {
	return filepath.Join(blobs, strings.TrimPrefix(digest, "sha256:"))
}

// digester counts and hashes what is written to it.
type digester struct {
	hash hash.Hash
	size int64
}

func newDigester() *digester { return &digester{hash: sha256.New()} }

func (d *digester) Write(p []byte) (int, error) {
	d.size += int64(len(p))
	return d.hash.Write(p)
}

func (d *digester) String() string { return "sha256:" + hex.EncodeToString(d.hash.Sum(nil)) }
