package effect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mkdir makes one directory. It fails with fs.ErrExist when something is there.
func (s *Seam) Mkdir(ctx context.Context, name, path string, perm fs.FileMode) error {
	return s.Do(ctx, name, func() error { return os.Mkdir(path, perm) })
}

// MkdirAll makes a directory and its missing parents; an existing one is no error.
func (s *Seam) MkdirAll(ctx context.Context, name, path string, perm fs.FileMode) error {
	return s.Do(ctx, name, func() error { return os.MkdirAll(path, perm) })
}

// Remove removes one file or empty directory; a missing one is no error.
func (s *Seam) Remove(ctx context.Context, name, path string) error {
	return s.Do(ctx, name, func() error {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// RemoveAll removes a tree without following links; a missing one is no error.
// After a failure part of the tree may remain.
func (s *Seam) RemoveAll(ctx context.Context, name, path string) error {
	return s.Do(ctx, name, func() error { return os.RemoveAll(path) })
}

// Rename renames within one file system and makes the change durable in the target's
// directory.
func (s *Seam) Rename(ctx context.Context, name, from, to string) error {
	if err := s.Do(ctx, name, func() error { return os.Rename(from, to) }); err != nil {
		return err
	}
	return s.SyncDir(ctx, name+".sync", filepath.Dir(to))
}

// Exchange makes two names of one file system change places in one step, durably.
func (s *Seam) Exchange(ctx context.Context, name, a, b string) error {
	err := s.Do(ctx, name, func() error {
		return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	})
	if err != nil {
		return err
	}
	return s.SyncDir(ctx, name+".sync", filepath.Dir(b))
}

// SyncDir makes the entries of a directory durable.
func (s *Seam) SyncDir(ctx context.Context, name, dir string) error {
	return s.Do(ctx, name, func() error {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	})
}

// Create makes a new file for reading and writing; it fails with fs.ErrExist when
// something is there.
func (s *Seam) Create(ctx context.Context, name, path string, perm fs.FileMode) (*os.File, error) {
	return s.open(ctx, name, path, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
}

// OpenFile opens for writing with the flags of os.OpenFile; O_NOFOLLOW is added.
func (s *Seam) OpenFile(ctx context.Context, name, path string, flag int, perm fs.FileMode) (*os.File, error) {
	return s.open(ctx, name, path, flag|unix.O_NOFOLLOW, perm)
}

func (s *Seam) open(ctx context.Context, name, path string, flag int, perm fs.FileMode) (*os.File, error) {
	var f *os.File
	err := s.Do(ctx, name, func() (err error) {
		f, err = os.OpenFile(path, flag, perm)
		return err
	})
	return f, err
}

// Publish writes a file so that path holds either what it held before or the whole new
// content, also after a power cut: temporary sibling, write, fsync, rename, fsync of
// the directory. After a failure the temporary sibling is gone; after a crash it may
// remain under a name that begins with TempPrefix.
func (s *Seam) Publish(ctx context.Context, name, path string, perm fs.FileMode, write func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	var temp string
	defer func() {
		if err != nil && temp != "" {
			err = errors.Join(err, os.Remove(temp))
		}
	}()
	err = s.Do(ctx, name+".write", func() error {
		f, err := os.CreateTemp(dir, TempPrefix+filepath.Base(path)+"-*")
		if err != nil {
			return err
		}
		temp = f.Name()
		return errors.Join(f.Chmod(perm), write(f), f.Sync(), f.Close())
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := s.Do(ctx, name+".rename", func() error { return os.Rename(temp, path) }); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	temp = ""
	if err := s.SyncDir(ctx, name+".syncdir", dir); err != nil {
		return fmt.Errorf("publish %s: %w", path, err)
	}
	return nil
}

// TempPrefix begins the name of every unpublished file.
const TempPrefix = ".tmp-"

// ClearTemps removes what crashes left unpublished in dir, while nobody publishes there.
// A missing dir is no error.
func (s *Seam) ClearTemps(ctx context.Context, name, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), TempPrefix) {
			err = errors.Join(err, s.RemoveAll(ctx, name, filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// PublishBytes is Publish of a small file.
func (s *Seam) PublishBytes(ctx context.Context, name, path string, perm fs.FileMode, content []byte) error {
	return s.Publish(ctx, name, path, perm, func(f *os.File) error {
		_, err := f.Write(content)
		return err
	})
}

// TryLock takes an exclusive flock on path, creating the file. It answers nil, nil when
// somebody else holds it. The lock lasts until the last descriptor of the returned open
// file, inherited ones included, is closed.
func (s *Seam) TryLock(ctx context.Context, name, path string) (*os.File, error) {
	return s.WaitLock(ctx, name, path, 0)
}

// WaitLock is TryLock that waits up to limit for a lock that is held.
func (s *Seam) WaitLock(ctx context.Context, name, path string, limit time.Duration) (*os.File, error) {
	var f *os.File
	err := s.Do(ctx, name, func() (err error) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		held, err := flock(ctx, f, limit)
		if err == nil && held {
			return nil
		}
		_ = f.Close()
		f = nil
		if err != nil {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		return nil
	})
	return f, err
}

// flock polls, because a blocking flock cannot be cancelled.
func flock(ctx context.Context, f *os.File, limit time.Duration) (held bool, err error) {
	const firstStep, longestStep = time.Millisecond, 50 * time.Millisecond
	deadline := time.Now().Add(limit)
	for step := firstStep; ; step = min(2*step, longestStep) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
			return err == nil, err
		}
		if !time.Now().Before(deadline) {
			return false, nil
		}
		select {
		case <-time.After(step):
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}
