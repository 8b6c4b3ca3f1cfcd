package oci

import (
	"encoding/json"
	"slices"
	"strings"

	"banger/internal/errs"
)

const digestPrefix = "sha256:"

// descriptor points at a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
	Platform    *platform         `json:"platform"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type configuration struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       struct {
		User         string              `json:"User"`
		ExposedPorts map[string]struct{} `json:"ExposedPorts"`
		Env          []string            `json:"Env"`
		Entrypoint   []string            `json:"Entrypoint"`
		Cmd          []string            `json:"Cmd"`
		WorkingDir   string              `json:"WorkingDir"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

func isIndex(mediaType string) bool {
	return mediaType == "application/vnd.oci.image.index.v1+json" ||
		mediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

func isManifest(mediaType string) bool {
	return mediaType == "application/vnd.oci.image.manifest.v1+json" ||
		mediaType == "application/vnd.docker.distribution.manifest.v2+json"
}

// decode reads one JSON document.
func decode(data []byte, v any) error {
	if err := json.Unmarshal(data, v); err != nil {
		return errs.New(errs.InvalidData, "malformed JSON: %w", err)
	}
	return nil
}

func parseLayout(data []byte) error {
	var l struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := decode(data, &l); err != nil {
		return err
	}
	if !strings.HasPrefix(l.Version, "1.") {
		return errs.New(errs.InvalidData, "image layout version %q is not 1.x", l.Version)
	}
	return nil
}

func parseIndex(data []byte) (index, error) {
	var idx index
	if err := decode(data, &idx); err != nil {
		return index{}, err
	}
	if idx.SchemaVersion != 2 {
		return index{}, errs.New(errs.InvalidData, "schema version %d is not 2", idx.SchemaVersion)
	}
	if len(idx.Manifests) > maxManifests {
		return index{}, errs.New(errs.InvalidData, "%d manifests are over %d", len(idx.Manifests), maxManifests)
	}
	// One that is malformed or of a type unknown here (an attestation, another
	// kind of artifact) does not spoil the others.
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d descriptor) bool {
		return d.check() != nil || !isIndex(d.MediaType) && !isManifest(d.MediaType)
	})
	return idx, nil
}

func parseManifest(data []byte) (manifest, error) {
	var m manifest
	if err := decode(data, &m); err != nil {
		return manifest{}, err
	}
	if m.SchemaVersion != 2 {
		return manifest{}, errs.New(errs.InvalidData, "schema version %d is not 2", m.SchemaVersion)
	}
	if m.MediaType != "" && !isManifest(m.MediaType) {
		return manifest{}, errs.New(errs.InvalidData, "media type %q is not a manifest's", m.MediaType)
	}
	switch m.Config.MediaType {
	case "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json":
	default:
		return manifest{}, errs.New(errs.InvalidData, "configuration type %q is not an image's", m.Config.MediaType)
	}
	if err := m.Config.check(); err != nil {
		return manifest{}, err
	}
	if len(m.Layers) == 0 || len(m.Layers) > maxLayers {
		return manifest{}, errs.New(errs.InvalidData, "%d layers, not 1 to %d", len(m.Layers), maxLayers)
	}
	for _, l := range m.Layers {
		if err := l.check(); err != nil {
			return manifest{}, err
		}
		if _, err := compressionOf(l.MediaType); err != nil {
			return manifest{}, err
		}
	}
	return m, nil
}

// check validates what names a blob.
func (d *descriptor) check() error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return errs.New(errs.InvalidData, "blob %s has the size %d", d.Digest, d.Size)
	}
	return nil
}

// checkDigest accepts sha256 only, in the one spelling that is canonical.
func checkDigest(s string) error {
	hex, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		if len(s) > 100 {
			s = s[:100] + "…"
		}
		return errs.New(errs.InvalidData, "digest %q is not sha256 and 64 hexadecimal digits", s)
	}
	return nil
}

// parseConfig reads the configuration of a manifest and joins its diff ids to the layers.
func parseConfig(data []byte, m manifest) (Config, []Layer, error) {
	var c configuration
	if err := decode(data, &c); err != nil {
		return Config{}, nil, err
	}
	if c.OS != "" && c.OS != platformOS || c.Architecture != "" && c.Architecture != platformArch {
		return Config{}, nil, errs.New(errs.NotFound, "the image is for %q/%q, not %s/%s", c.OS, c.Architecture, platformOS, platformArch)
	}
	if c.RootFS.Type != "layers" {
		return Config{}, nil, errs.New(errs.InvalidData, "root file system type %q", c.RootFS.Type)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return Config{}, nil, errs.New(errs.InvalidData, "%d diff ids for %d layers", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	layers := make([]Layer, len(m.Layers))
	for i, l := range m.Layers {
		if err := checkDigest(c.RootFS.DiffIDs[i]); err != nil {
			return Config{}, nil, err
		}
		layers[i] = Layer{Digest: l.Digest, MediaType: l.MediaType, Size: l.Size, DiffID: c.RootFS.DiffIDs[i]}
	}
	cfg := Config{
		Arch: c.Architecture, OS: c.OS, Env: c.Config.Env, User: c.Config.User, WorkDir: c.Config.WorkingDir,
		Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd,
	}
	for p := range c.Config.ExposedPorts {
		cfg.ExposedPorts = append(cfg.ExposedPorts, p)
	}
	slices.Sort(cfg.ExposedPorts)
	return cfg, layers, nil
}
