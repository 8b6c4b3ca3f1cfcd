package agent

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Names at the top of a work disk. The home is not the disk's top itself, so that it can
// come to be in one step, and lost+found is not in it.
const (
	homeName  = ".banger-home"
	adoptName = ".banger-home.adopt" // on its way to homeName, by renames
	copyName  = ".banger-home.copy"  // half a copy, until it is renamed
)

// home puts the work disk's home at /root. At first that is a copy of the image's /root,
// or what a seed brought along at the disk's top. Crashes leave a state from which the
// next boot goes on.
func (d *disks) home() error {
	if d.work < 0 {
		return nil
	}
	if err := makeHome(d.work); err != nil {
		return fmt.Errorf("make the home: %w", err)
	}
	return bind(d.work, homeName, "/root")
}

func makeHome(top int) error {
	exists, err := has(top, homeName)
	if err != nil || exists {
		return err
	}
	if err := adopt(top); err != nil {
		return err
	}
	adopted, err := has(top, adoptName)
	if err != nil {
		return err
	}
	from := adoptName
	if !adopted {
		from = copyName
		if err := copyHome(top); err != nil {
			return err
		}
	}
	if from, err = flattened(top, from); err != nil {
		return err
	}
	// The content must be on the disk before its name says that it is whole.
	if err := syncAll(top); err != nil {
		return err
	}
	if err := unix.Renameat(top, from, top, homeName); err != nil {
		return err
	}
	_ = unix.Unlinkat(top, adoptName, unix.AT_REMOVEDIR) // there, and empty, if it was flattened
	// The new name needs no sync of its own: whatever is synced in it later, the journal
	// puts after the rename.
	return nil
}

func has(dir int, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// adopt moves everything that a seed has at the disk's top into adoptName; on an empty
// disk there is no adoptName afterwards.
func adopt(top int) error {
	names, err := list(top, ".")
	if err != nil {
		return err
	}
	for _, name := range names {
		switch name {
		case "lost+found", homeName, adoptName, copyName:
			continue
		}
		if err := unix.Mkdirat(top, adoptName, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if err := unix.Renameat(top, name, top, adoptName+"/"+name); err != nil {
			return err
		}
	}
	return nil
}

// copyHome copies the image's /root, from the beginning if half of it is there.
func copyHome(top int) error {
	if err := removeTree(top, copyName, maxDepth); err != nil {
		return err
	}
	var st unix.Stat_t
	err := unix.Lstat("/root", &st)
	if errors.Is(err, unix.ENOENT) || err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.Mkdirat(top, copyName, 0o700) // the image has no home for root
	}
	if err != nil {
		return err
	}
	src, err := unix.Open("/root", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	c := &treeCopy{top: top, links: map[inode]string{}}
	return c.directory(src, copyName, maxDepth)
}

// flattened is the directory that is the home in name: a home that holds nothing but a
// directory "root" was made by copying /root into it, and that is meant.
func flattened(top int, name string) (string, error) {
	names, err := list(top, name)
	if err != nil || len(names) != 1 || names[0] != "root" {
		return name, err
	}
	inner := name + "/root"
	var st unix.Stat_t
	if err := unix.Fstatat(top, inner, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return name, err
	}
	return inner, nil
}

func syncAll(dir int) error {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Syncfs(fd)
}
