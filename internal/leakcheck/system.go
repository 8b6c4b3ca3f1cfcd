package leakcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// mounts lists this process's mount namespace.
func (inv *Inventory) mounts(o Options) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(string(table)), "\n") {
		fields := strings.Fields(line)
		const root, point = 3, 4
		if len(fields) <= point {
			continue
		}
		_, device, _ := strings.Cut(line, " - ")
		if o.SystemWide || mentions(o.Dirs, line) {
			inv.add("mount %s of %s on %s", fields[root], device, fields[point])
		}
	}
	return nil
}

// loops lists loop devices that have a file.
func (inv *Inventory) loops(o Options) error {
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, attribute := range backing {
		file, err := os.ReadFile(attribute)
		if err != nil {
			continue // detached meanwhile
		}
		if name := strings.TrimSpace(string(file)); o.SystemWide || mentions(o.Dirs, name) {
			inv.add("loop device %s of %s", strings.Split(attribute, "/")[3], name)
		}
	}
	return nil
}

// links lists tap and tun devices of this process's network namespace; with SystemWide
// all its links.
func (inv *Inventory) links(o Options) error {
	links, err := filepath.Glob("/sys/class/net/*")
	if err != nil {
		return err
	}
	for _, link := range links {
		_, err := os.Stat(filepath.Join(link, "tun_flags"))
		if tun := err == nil; tun || o.SystemWide {
			inv.add("network link %s", filepath.Base(link))
		}
	}
	return nil
}

func (inv *Inventory) files(o Options) error {
	var failed error
	for _, dir := range o.Dirs {
		err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed meanwhile, or never made
			}
			if err != nil {
				return err
			}
			below := strings.TrimPrefix(strings.TrimPrefix(name, dir), "/")
			if below != "" && matches(o.Ignore, below) {
				if entry.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			return inv.file(o, name, below, entry)
		})
		failed = errors.Join(failed, err)
	}
	return failed
}

func (inv *Inventory) file(o Options, name, below string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	what := fmt.Sprintf("file %s, mode %v", name, info.Mode())
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(name)
		if err != nil {
			return err
		}
		what += ", to " + target
	case info.Mode().IsRegular() && !matches(o.Volatile, below):
		what += fmt.Sprintf(", %d bytes", info.Size())
	}
	inv.add("%s", what)
	return nil
}

func matches(patterns []string, below string) bool {
	for _, pattern := range patterns {
		if ok, _ := path.Match(pattern, below); ok {
			return true
		}
		if ok, _ := path.Match(pattern, path.Base(below)); ok {
			return true
		}
	}
	return false
}
