package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/errs"
)

// maxDepth bounds how deep a tree goes; each level costs two descriptors.
const maxDepth = 256

var errTooDeep = errs.New(errs.InvalidData, "directories nest deeper than %d", maxDepth)

// list gives the names in a directory.
func list(dir int, name string) ([]string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return f.Readdirnames(-1)
}

// removeTree removes name and what is below; one that is not there is no error.
func removeTree(dir int, name string, depth int) error {
	if depth == 0 {
		return errTooDeep
	}
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	names, err := list(dir, name)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeTree(dir, name+"/"+n, depth-1); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

// treeCopy copies a tree with everything that belongs to its files: owners, modes,
// times, attributes, hard links, special files.
type treeCopy struct {
	top   int // what target paths are relative to
	links map[inode]string
}

// directory copies the open directory src to the new directory target.
func (c *treeCopy) directory(src int, target string, depth int) error {
	if depth == 0 {
		return errTooDeep
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	names, err := list(src, ".")
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(c.top, target, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", target, err)
	}
	for _, name := range names {
		if err := c.entry(src, name, target+"/"+name, depth); err != nil {
			return err
		}
	}
	fd, err := unix.Openat(c.top, target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return c.attributes(src, fd, target, &st)
}

func (c *treeCopy) entry(dir int, name, target string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("look at %s: %w", name, err)
	}
	kind := st.Mode & unix.S_IFMT
	id := inode{st.Dev, st.Ino}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.links[id]; ok {
			return unix.Linkat(c.top, first, c.top, target, 0)
		}
		c.links[id] = target
	}
	switch kind {
	case unix.S_IFDIR, unix.S_IFREG:
		src, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		if kind == unix.S_IFDIR {
			defer unix.Close(src)
			return c.directory(src, target, depth-1)
		}
		f := os.NewFile(uintptr(src), name)
		defer f.Close()
		return c.file(f, target, &st)
	case unix.S_IFLNK:
		return c.symlink(dir, name, target, &st)
	}
	if err := unix.Mknodat(c.top, target, st.Mode, int(st.Rdev)); err != nil {
		return fmt.Errorf("make %s: %w", target, err)
	}
	return errors.Join(
		unix.Fchownat(c.top, target, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW),
		unix.Fchmodat(c.top, target, st.Mode&0o7777, 0), // no symbolic link: it was just made
		c.times(target, &st))
}

func (c *treeCopy) file(src *os.File, target string, st *unix.Stat_t) error {
	fd, err := unix.Openat(c.top, target, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make %s: %w", target, err)
	}
	dst := os.NewFile(uintptr(fd), target)
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		return fmt.Errorf("copy %s: %w", target, err)
	}
	return c.attributes(int(src.Fd()), fd, target, st)
}

func (c *treeCopy) symlink(dir int, name, target string, st *unix.Stat_t) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return fmt.Errorf("read link %s: %w", name, err)
	}
	if err := unix.Symlinkat(string(buf[:n]), c.top, target); err != nil {
		return fmt.Errorf("make %s: %w", target, err)
	}
	return errors.Join(
		unix.Fchownat(c.top, target, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW),
		c.times(target, st))
}

// attributes go on in this order: a change of owner drops set-id bits and capabilities,
// and everything changes the times.
func (c *treeCopy) attributes(src, dst int, target string, st *unix.Stat_t) error {
	if err := unix.Fchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("own %s: %w", target, err)
	}
	if err := unix.Fchmod(dst, st.Mode&0o7777); err != nil {
		return fmt.Errorf("set the mode of %s: %w", target, err)
	}
	if err := copyXattrs(src, dst); err != nil {
		return fmt.Errorf("set attributes of %s: %w", target, err)
	}
	return c.times(target, st)
}

func (c *treeCopy) times(target string, st *unix.Stat_t) error {
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(c.top, target, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set the times of %s: %w", target, err)
	}
	return nil
}

// copyXattrs leaves out what the target's file system does not take, and the overlay's
// own notes.
func copyXattrs(src, dst int) error {
	const maxXattr = 64 << 10 // the kernel's limit for a list and for a value
	buf := make([]byte, maxXattr)
	n, err := unix.Flistxattr(src, buf)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		n, err := unix.Fgetxattr(src, name, buf)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(dst, name, buf[:n], 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	return nil
}
