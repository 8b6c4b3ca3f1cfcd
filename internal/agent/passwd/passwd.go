// Package passwd reads a guest's user and group databases. The files are the guest's:
// they may be missing, malformed, huge, or no files at all.
package passwd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"banger/internal/errs"
)

// Limits of what is looked at; what lies beyond is as if it were not there.
const (
	maxFile   = 4 << 20
	maxLine   = 64 << 10
	maxGroups = 1024
)

// User is who a process runs as.
type User struct {
	Name   string // "" when the id is in no database
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string   // never empty
	Shell  string   // never empty
}

// DB are the paths of the two files.
type DB struct{ Passwd, Group string }

// Lookup finds spec: a user's name or id, optionally followed by ":" and a group's name
// or id; "" is root. A number that is in no database is good as it is, with group 0 and
// home "/"; without a database root still has "/root". A user named without a group has
// the supplementary groups of the database, one with a group has none. An unknown name
// is NotFound, a malformed spec Usage.
func (db DB) Lookup(spec string) (User, error) {
	who, group, hasGroup := strings.Cut(spec, ":")
	if who == "" {
		who = "0"
	}
	if hasGroup && group == "" || strings.ContainsAny(spec, "\x00\n") {
		return User{}, errs.New(errs.Usage, "user %q: want NAME or UID, optionally :GROUP", spec)
	}
	u, err := db.user(who)
	if err != nil {
		return User{}, err
	}
	if hasGroup {
		u.GID, err = db.group(group)
		return u, err
	}
	if u.Name != "" {
		u.Groups, err = db.groupsOf(u.Name, u.GID)
	}
	return u, err
}

// user prefers a name over an id, also for a name that looks like a number.
func (db DB) user(who string) (User, error) {
	id, numeric := parseID(who)
	var byName, byID *User
	err := scan(db.Passwd, 7, func(f []string) bool {
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if !ok1 || !ok2 {
			return true
		}
		u := &User{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]}
		switch {
		case f[0] == who:
			byName = u
			return false
		case numeric && uid == id && byID == nil:
			byID = u
		}
		return true
	})
	if err != nil {
		return User{}, err
	}
	u := User{UID: id, Home: "/"}
	switch {
	case byName != nil:
		u = *byName
	case byID != nil:
		u = *byID
	case !numeric && who == "root":
		u = User{Name: "root", Home: "/root"}
	case !numeric:
		return User{}, errs.New(errs.NotFound, "user %q: not in %s", who, db.Passwd)
	case id == 0:
		u = User{Name: "root", Home: "/root"}
	}
	if !strings.HasPrefix(u.Home, "/") {
		u.Home = "/"
	}
	if !strings.HasPrefix(u.Shell, "/") {
		u.Shell = "/bin/sh"
	}
	return u, nil
}

func (db DB) group(who string) (uint32, error) {
	id, numeric := parseID(who)
	found := numeric
	err := scan(db.Group, 3, func(f []string) bool {
		if f[0] != who {
			return true
		}
		if gid, ok := parseID(f[2]); ok {
			id, found = gid, true
		}
		return !found
	})
	if err == nil && !found {
		err = errs.New(errs.NotFound, "group %q: not in %s", who, db.Group)
	}
	return id, err
}

func (db DB) groupsOf(name string, primary uint32) ([]uint32, error) {
	var ids []uint32
	seen := map[uint32]bool{primary: true}
	err := scan(db.Group, 4, func(f []string) bool {
		gid, ok := parseID(f[2])
		if !ok || seen[gid] {
			return true
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if member == name {
				seen[gid] = true
				ids = append(ids, gid)
				break
			}
		}
		return len(ids) < maxGroups
	})
	return ids, err
}

// parseID takes plain decimal numbers; 2^32-1 means "leave as it is" to the kernel, and
// is no id.
func parseID(s string) (uint32, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}

// scan calls f with the fields of each line that has at least min of them, until f
// returns false. A missing file has no lines.
func scan(path string, min int, f func(fields []string) bool) error {
	text, err := read(path)
	if err != nil {
		return err
	}
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte("\n"))
		if len(line) > maxLine {
			continue
		}
		fields := strings.SplitN(string(line), ":", 8)
		if len(fields) >= min && fields[0] != "" && !f(fields) {
			return nil
		}
	}
	return nil
}

// read takes a regular file only: a FIFO or a device in its place would block or never
// end.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, errs.New(errs.InvalidData, "read users: %s is no regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	return text, nil
}
