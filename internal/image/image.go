// Package image turns OCI images into read-only root file systems and keeps them.
//
// Nothing of an image is ever extracted to the host: layers stream from their source,
// verified, through the ext4 writer into one file. That file is published whole, and
// only then its row: a reader trusts rows, so a file without one is a leftover.
package image

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/flight"
	"banger/internal/keylock"
	"banger/internal/oci"
)

// Image is an immutable root file system with its configuration.
type Image struct {
	ID         string
	Name       string // "" once another image took the name; it goes with its last VM
	Source     string // reference it was pulled from
	Digest     string // of the OCI manifest
	Arch       string
	Kernel     string // "": the default kernel
	RootfsPath string
	SizeBytes  int64
	Config     oci.Config
	Layers     []oci.Layer
	CreatedAt  time.Time
}

// Store keeps images. Each method is one transaction, durable when it returns.
type Store interface {
	// InsertImage adds img. With replace, an image of the same name loses its name;
	// otherwise that is AlreadyExists.
	InsertImage(ctx context.Context, img Image, replace bool) error
	// DeleteImage removes the row; Precondition when a VM uses the image.
	DeleteImage(ctx context.Context, id string) error
	Image(ctx context.Context, nameOrID string) (Image, error) // NotFound
	Images(ctx context.Context) ([]Image, error)
	// ImageUsers names the VMs made from the image.
	ImageUsers(ctx context.Context, id string) ([]string, error)
}

// Service keeps images under one directory.
type Service struct {
	seam  *effect.Seam
	log   *slog.Logger
	dir   string
	store Store
	pulls flight.Group[Image]
	locks keylock.Locks // by image id
}

// New makes a Service for images in dir.
func New(seam *effect.Seam, log *slog.Logger, dir string, store Store) *Service {
	return &Service{seam: seam, log: log, dir: dir, store: store}
}

// Progress is told what a pull does: bytes done of total, of the compressed layers.
type Progress func(step string, done, total int64)

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Pull makes an image from the OCI layout that ref names (oci:DIR[:TAG]) and gives it
// name, or one made of the reference. An image of that name is AlreadyExists unless
// force, which leaves the old one to the VMs that use it. Callers who pull the same
// thing at once share one pull. An error leaves nothing.
func (s *Service) Pull(ctx context.Context, ref, name string, force bool, progress Progress) (Image, error) {
	parsed, err := oci.ParseRef(ref)
	if err != nil {
		return Image{}, err
	}
	if name == "" {
		name = defaultName(parsed)
	}
	if !nameRule.MatchString(name) {
		return Image{}, errs.Hint(errs.New(errs.Usage, "image name %q: not a valid name", name),
			"ASCII letters, digits, '.', '-', '_'; first a letter or digit; at most 64")
	}
	if !force {
		if _, err := s.store.Image(ctx, name); err == nil {
			return Image{}, errs.Hint(errs.New(errs.AlreadyExists, "image %q: there is one already", name),
				"replace it with --force, or choose another --name")
		}
	}
	key := fmt.Sprintf("%s\x00%s\x00%t", ref, name, force)
	return s.pulls.Do(ctx, key, func(ctx context.Context) (Image, error) {
		img, err := s.pull(ctx, parsed, ref, name, force, progress)
		if err != nil {
			return img, fmt.Errorf("pull image %q: %w", ref, err)
		}
		return img, nil
	})
}

func defaultName(ref oci.Ref) string {
	if ref.Tag != "" {
		return strings.ReplaceAll(ref.Tag, ":", "-")
	}
	return filepath.Base(ref.Dir)
}

func (s *Service) pull(ctx context.Context, ref oci.Ref, source, name string, force bool, progress Progress) (_ Image, err error) {
	src, err := oci.OpenLayout(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	id, err := newID()
	if err != nil {
		return Image{}, err
	}
	unlock, err := s.locks.Lock(ctx, id)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	dir := filepath.Join(s.dir, id)
	img := Image{
		ID: id, Name: name, Source: source, Digest: src.Digest, Arch: src.Config.Arch,
		RootfsPath: filepath.Join(dir, rootfsFile), Config: src.Config, Layers: src.Layers, CreatedAt: time.Now().UTC(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.removeFiles(context.WithoutCancel(ctx), id))
		}
	}()
	if err := s.seam.Mkdir(ctx, "image.dir.make", dir, 0o700); err != nil {
		return Image{}, err
	}
	err = s.seam.Publish(ctx, "image.rootfs", img.RootfsPath, 0o400, func(f *os.File) (err error) {
		img.SizeBytes, err = convert(ctx, f, src, progress)
		return err
	})
	if err != nil {
		return Image{}, err
	}
	if err := s.seam.SyncDir(ctx, "image.dir.sync", s.dir); err != nil {
		return Image{}, err
	}
	if err := s.store.InsertImage(ctx, img, force); err != nil {
		// A commit that failed may have happened all the same: no row without its file.
		return Image{}, errors.Join(err, s.store.DeleteImage(context.WithoutCancel(ctx), id))
	}
	if force {
		s.dropUnnamed(ctx)
	}
	return img, nil
}

const rootfsFile = "rootfs.ext4"

func newID() (string, error) {
	b := make([]byte, 8)
	_, err := rand.Read(b)
	return hex.EncodeToString(b), err
}

// removeFiles removes an image's directory. The file is made read-only, its directory
// is not, so nothing has to be made writable first.
func (s *Service) removeFiles(ctx context.Context, id string) error {
	return s.seam.RemoveAll(ctx, "image.dir.remove", filepath.Join(s.dir, id))
}

// Find is the image that ref names: by name, id, or the reference it was pulled from.
// NotFound comes with a hint.
func (s *Service) Find(ctx context.Context, ref string) (Image, error) {
	img, err := s.store.Image(ctx, ref)
	if !errs.Is(err, errs.NotFound) {
		return img, err
	}
	all, listErr := s.store.Images(ctx)
	if listErr != nil {
		return Image{}, listErr
	}
	hint := "make one: make image, then: banger image pull oci:DIR --name " + ref
	for _, other := range all {
		if other.Source == ref && other.Name != "" {
			return other, nil
		}
		if strings.HasPrefix(other.Name, ref) || (other.Name != "" && strings.HasPrefix(ref, other.Name)) {
			hint = fmt.Sprintf("did you mean %q? see: banger image list", other.Name)
		}
	}
	return Image{}, errs.Hint(err, "%s", hint)
}

// Ensure is Find for a VM that is about to be made: an image that is not here is pulled
// when ref says where from.
func (s *Service) Ensure(ctx context.Context, ref string, progress Progress) (Image, error) {
	img, err := s.Find(ctx, ref)
	if !errs.Is(err, errs.NotFound) {
		return img, err
	}
	parsed, refErr := oci.ParseRef(ref)
	if refErr != nil {
		return img, err
	}
	name := defaultName(parsed)
	for n := 2; ; n++ {
		img, err = s.Pull(ctx, ref, name, false, progress)
		if !errs.Is(err, errs.AlreadyExists) {
			return img, err
		}
		name = fmt.Sprintf("%s-%d", defaultName(parsed), n)
	}
}

// ByID is the image with that id, named or not.
func (s *Service) ByID(ctx context.Context, id string) (Image, error) { return s.store.Image(ctx, id) }

// Users names the VMs made from the image.
func (s *Service) Users(ctx context.Context, id string) ([]string, error) {
	return s.store.ImageUsers(ctx, id)
}

// List is every image that has a name.
func (s *Service) List(ctx context.Context) ([]Image, error) {
	all, err := s.store.Images(ctx)
	named := make([]Image, 0, len(all))
	for _, img := range all {
		if img.Name != "" {
			named = append(named, img)
		}
	}
	return named, err
}

// Delete removes an image. One that VMs use is Precondition.
func (s *Service) Delete(ctx context.Context, name string) error {
	img, err := s.Find(ctx, name)
	if err != nil {
		return err
	}
	users, err := s.store.ImageUsers(ctx, img.ID)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return errs.Hint(errs.New(errs.Precondition, "image %q is used by %s", img.Name, strings.Join(users, ", ")),
			"delete those VMs first")
	}
	return s.remove(context.WithoutCancel(ctx), img)
}

// remove takes the row first: a reader trusts rows, and a file without one is found by
// Reconcile.
func (s *Service) remove(ctx context.Context, img Image) error {
	unlock, err := s.locks.Lock(ctx, img.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.store.DeleteImage(ctx, img.ID); err != nil && !errs.Is(err, errs.NotFound) {
		return fmt.Errorf("delete image %q: %w", img.Name, err)
	}
	return s.removeFiles(ctx, img.ID)
}

// dropUnnamed removes images that lost their name and have no VM any more.
func (s *Service) dropUnnamed(ctx context.Context) {
	all, err := s.store.Images(ctx)
	for _, img := range all {
		if img.Name != "" {
			continue
		}
		if users, userErr := s.store.ImageUsers(ctx, img.ID); userErr == nil && len(users) == 0 {
			err = errors.Join(err, s.remove(ctx, img))
		}
	}
	if err != nil {
		s.log.Warn("remove replaced images", "error", err)
	}
}

// Reconcile removes what an interrupted pull or delete left. Call it before any other
// method.
func (s *Service) Reconcile(ctx context.Context) error {
	s.dropUnnamed(ctx)
	images, err := s.store.Images(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, img := range images {
		known[img.ID] = true
	}
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !known[e.Name()] {
			err = errors.Join(err, s.removeFiles(ctx, e.Name()))
		}
	}
	return err
}

// DiskBytes is what the image's file takes on the host.
func (i Image) DiskBytes() int64 {
	info, err := os.Stat(i.RootfsPath)
	if err != nil {
		return 0
	}
	const statBlock = 512
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * statBlock
	}
	return info.Size()
}
