// Package kernelcat owns the kernels on disk: one directory a kernel, with
// manifest.json beside vmlinux and optionally initrd.img and modules/. The directory is
// the only truth: an entry put there by hand is a kernel, and there is no row.
package kernelcat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"banger/internal/effect"
	"banger/internal/errs"
)

// Files of a kernel's directory.
const (
	manifestFile = "manifest.json"
	kernelFile   = "vmlinux"
	initrdFile   = "initrd.img"
	modulesDir   = "modules"
)

// SourceEmbedded is the source of the kernel that bangerd carries.
const SourceEmbedded = "embedded"

const maxManifest = 64 << 10

// Manifest is manifest.json.
type Manifest struct {
	Name       string    `json:"name"`
	Distro     string    `json:"distro"`
	Arch       string    `json:"arch"`
	Version    string    `json:"kernel_version"`
	SHA256     string    `json:"sha256"` // of vmlinux, hex
	Source     string    `json:"source"` // import:DIR, pull:URL or embedded
	ImportedAt time.Time `json:"imported_at"`
}

// Kernel is a kernel on disk. Paths of what it does not have are empty.
type Kernel struct {
	Manifest
	Path       string
	InitrdPath string
	ModulesDir string
	SizeBytes  int64 // of all its files
}

// Catalog is a directory of kernels. Its methods may be called from several goroutines;
// the caller holds the state directory's lock.
type Catalog struct {
	seam *effect.Seam
	dir  string

	mu       sync.Mutex // one unpacking at a time
	embedded string     // name of the embedded kernel, once it is known to be on disk
}

// New makes a Catalog of dir, which exists.
func New(seam *effect.Seam, dir string) *Catalog { return &Catalog{seam: seam, dir: dir} }

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CheckName is Usage unless name may name a kernel.
func CheckName(name string) error {
	if !nameRule.MatchString(name) {
		return errs.Hint(errs.New(errs.Usage, "kernel name %q: not a valid name", name),
			"ASCII letters, digits, '.', '-', '_'; first a letter or digit; at most 64")
	}
	return nil
}

// List is every kernel, by name. Entries that are not kernels are skipped, each with a
// warning.
func (c *Catalog) List(ctx context.Context) (kernels []Kernel, warnings []error, err error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, nil, context.Cause(ctx)
		}
		if strings.HasPrefix(e.Name(), effect.TempPrefix) {
			continue // an import under way, or what a crash left of one
		}
		k, err := c.read(e.Name())
		if err != nil {
			warnings = append(warnings, fmt.Errorf("kernel %q: %w", e.Name(), err))
			continue
		}
		kernels = append(kernels, k)
	}
	return kernels, warnings, nil
}

// Resolve is the kernel of that name; "" is the embedded one, which is unpacked when it
// is not on disk yet, or when another build carries another one.
func (c *Catalog) Resolve(ctx context.Context, name string) (Kernel, error) {
	if name == "" {
		var err error
		if name, err = c.ensureEmbedded(ctx); err != nil {
			return Kernel{}, err
		}
	}
	if err := CheckName(name); err != nil {
		return Kernel{}, err
	}
	k, err := c.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return k, errs.Hint(errs.New(errs.NotFound, "kernel %q: not found", name), "%s", c.suggest(ctx, name))
	}
	if err != nil {
		return k, fmt.Errorf("kernel %q: %w", name, err)
	}
	return k, nil
}

func (c *Catalog) suggest(ctx context.Context, name string) string {
	kernels, _, err := c.List(ctx)
	best, distance := "", 1+max(2, len(name)/3)
	if err == nil {
		for _, k := range kernels {
			d := edits(name, k.Name)
			if strings.HasPrefix(k.Name, name) || strings.HasPrefix(name, k.Name) {
				d = 1
			}
			if d < distance {
				best, distance = k.Name, d
			}
		}
	}
	if best == "" {
		return "see: banger kernel list"
	}
	return fmt.Sprintf("did you mean %q? see: banger kernel list", best)
}

// edits is how many bytes must be inserted, removed or replaced to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// read reads one entry, following no link out of the catalog.
func (c *Catalog) read(name string) (k Kernel, err error) {
	root, err := os.OpenRoot(c.dir)
	if err != nil {
		return k, err
	}
	defer root.Close()
	dir, err := root.OpenRoot(name)
	if err != nil {
		return k, err
	}
	defer dir.Close()
	if k.Manifest, err = readManifest(dir); err != nil {
		return k, err
	}
	if k.Name != name {
		return k, errs.New(errs.InvalidData, "%s names it %q", manifestFile, k.Name)
	}
	base := filepath.Join(c.dir, name)
	if info, err := dir.Stat(kernelFile); err != nil {
		return k, err
	} else if !info.Mode().IsRegular() {
		return k, errs.New(errs.InvalidData, "%s is not a regular file", kernelFile)
	}
	k.Path = filepath.Join(base, kernelFile)
	if _, err := dir.Stat(initrdFile); err == nil {
		k.InitrdPath = filepath.Join(base, initrdFile)
	}
	if info, err := dir.Stat(modulesDir); err == nil && info.IsDir() {
		k.ModulesDir = filepath.Join(base, modulesDir)
	}
	k.SizeBytes, err = size(dir)
	return k, err
}

func readManifest(dir *os.Root) (m Manifest, err error) {
	f, err := dir.Open(manifestFile)
	if err != nil {
		return m, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return m, err
	}
	return parseManifest(content)
}

func parseManifest(content []byte) (m Manifest, err error) {
	if len(content) > maxManifest {
		return m, errs.New(errs.InvalidData, "%s is larger than %d bytes", manifestFile, maxManifest)
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return m, errs.New(errs.InvalidData, "%s: %w", manifestFile, err)
	}
	return m, CheckName(m.Name)
}

func size(dir *os.Root) (total int64, err error) {
	err = fs.WalkDir(dir.FS(), ".", func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
