package session

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"banger/internal/agent/passwd"
	"banger/internal/guestproto"
)

// What a shell reports for a command that it could not run.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// command is an Exec with everything decided.
type command struct {
	path string // absolute, or relative to dir
	argv []string
	env  []string
	dir  string
	user passwd.User
}

// refusal is an Exit of a command that does not run.
type refusal struct {
	code int
	err  error
}

func (r *refusal) exit() guestproto.Exit {
	return guestproto.Exit{Code: r.code, Error: r.err.Error()}
}

func refuse(code int, format string, args ...any) *refusal {
	return &refusal{code, fmt.Errorf(format, args...)}
}

// resolve decides what e means in this guest now.
func (r *Runner) resolve(e guestproto.Exec) (command, *refusal) {
	c := command{argv: e.Argv}
	for _, text := range slices.Concat(e.Argv, e.Env, []string{e.Dir, e.User}) {
		if strings.IndexByte(text, 0) >= 0 {
			return c, refuse(guestproto.CodeRefused, "request: %q holds a zero byte", text)
		}
	}
	if e.Login != (len(e.Argv) == 0) {
		return c, refuse(guestproto.CodeRefused, "request: want either a command or a login shell")
	}
	user, err := r.lookupUser(e.User)
	if err != nil {
		return c, &refusal{guestproto.CodeRefused, err}
	}
	c.user = user
	var no *refusal
	if c.dir, no = r.directory(e.Dir, user); no != nil {
		return c, no
	}
	if c.env, err = r.environment(e, user); err != nil {
		return c, &refusal{guestproto.CodeRefused, err}
	}
	if e.Login {
		c.path = user.Shell
		if _, err := os.Stat(c.path); errors.Is(err, fs.ErrNotExist) {
			c.path = "/bin/sh" // the account names a shell that the image does not have
		}
		c.argv = []string{"-" + filepath.Base(c.path)}
		return c, executable(c.path, c.path, user)
	}
	c.path, no = find(e.Argv[0], c.dir, pathOf(c.env), user)
	return c, no
}

func (r *Runner) lookupUser(spec string) (passwd.User, error) {
	if r.c.SwitchUser {
		return r.c.Users.Lookup(spec)
	}
	return r.c.Users.Lookup(fmt.Sprint(os.Getuid()))
}

// directory is where the command runs. A home that cannot be used is no error: images
// name homes that they do not have.
func (r *Runner) directory(asked string, user passwd.User) (string, *refusal) {
	if asked == "" && r.c.Dir != "" {
		return r.c.Dir, nil
	}
	dir := asked
	if dir == "" {
		dir = user.Home
	}
	if !filepath.IsAbs(dir) {
		return "", refuse(guestproto.CodeRefused, "directory %q: want an absolute path", dir)
	}
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		err = syscall.ENOTDIR
	case err == nil && !mayExecute(info, user):
		err = syscall.EACCES
	}
	if err != nil && asked == "" {
		return "/", nil
	}
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return "", refuse(guestproto.CodeRefused, "directory %s: %w", dir, err)
	}
	return dir, nil
}

// environment puts together: the guest's defaults, then what the account says, then what
// was asked for. A default PATH does not override the image's.
func (r *Runner) environment(e guestproto.Exec, user passwd.User) ([]string, error) {
	env := &variables{index: map[string]int{}}
	for _, v := range r.c.Env {
		if err := env.set(v); err != nil {
			return nil, err
		}
	}
	name := user.Name
	if name == "" {
		name = fmt.Sprint(user.UID)
	}
	for _, v := range []string{"HOME=" + user.Home, "USER=" + name, "LOGNAME=" + name, "SHELL=" + user.Shell} {
		if err := env.set(v); err != nil {
			return nil, err
		}
	}
	path := defaultPath
	if i, ok := env.index["PATH"]; ok {
		path = env.list[i][len("PATH="):]
	}
	if r.c.PathTail != "" {
		path += ":" + r.c.PathTail
	}
	env.put("PATH", "PATH="+path)
	if _, ok := env.index["TERM"]; !ok && e.TTY {
		env.put("TERM", "TERM=xterm")
	}
	for _, v := range e.Env {
		if err := env.set(v); err != nil {
			return nil, err
		}
	}
	return env.list, nil
}

// variables is an environment in which a later value replaces an earlier one.
type variables struct {
	list  []string
	index map[string]int
}

func (v *variables) set(text string) error {
	name, _, ok := strings.Cut(text, "=")
	if !ok || name == "" || strings.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("environment %q: want NAME=VALUE", text)
	}
	v.put(name, text)
	return nil
}

func (v *variables) put(name, text string) {
	if i, ok := v.index[name]; ok {
		v.list[i] = text
		return
	}
	v.index[name] = len(v.list)
	v.list = append(v.list, text)
}

func pathOf(env []string) string {
	for _, v := range env {
		if path, ok := strings.CutPrefix(v, "PATH="); ok {
			return path
		}
	}
	return ""
}

// find looks for a program as a shell does. The result is relative to dir when name is.
func find(name, dir, path string, user passwd.User) (string, *refusal) {
	if strings.Contains(name, "/") {
		return name, executable(name, inDir(dir, name), user)
	}
	no := refuse(codeNotFound, "%s: command not found", name)
	if name == "" || name == "." || name == ".." {
		return "", no
	}
	for _, element := range filepath.SplitList(path) {
		candidate := inDir(dir, filepath.Join(element, name))
		switch n := executable(name, candidate, user); {
		case n == nil:
			return candidate, nil
		case n.code == codeNotExecutable:
			no = n // unless a later directory has one that is
		}
	}
	return "", no
}

func inDir(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// executable tells why user cannot run path, which was asked for as name.
func executable(name, path string, user passwd.User) *refusal {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return refuse(codeNotFound, "%s: no such file", name)
	case err != nil:
		return refuse(codeNotExecutable, "%s: %w", name, errors.Unwrap(err))
	case info.IsDir():
		return refuse(codeNotExecutable, "%s: is a directory", name)
	case !info.Mode().IsRegular() || !mayExecute(info, user):
		return refuse(codeNotExecutable, "%s: permission denied", name)
	}
	return nil
}

// mayExecute applies the mode bits; the kernel has the last word.
func mayExecute(info fs.FileInfo, user passwd.User) bool {
	mode := info.Mode().Perm()
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return true
	case user.UID == 0:
		return mode&0o111 != 0 || info.IsDir()
	case st.Uid == user.UID:
		return mode&0o100 != 0
	case st.Gid == user.GID || slices.Contains(user.Groups, st.Gid):
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}

// startError tells why a start that should have worked did not.
func startError(c command, err error) *refusal {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	name := c.argv[0]
	switch {
	case errors.Is(err, syscall.ENOENT):
		return refuse(codeNotExecutable, "%s: its interpreter does not exist", name)
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM):
		return refuse(guestproto.CodeRefused, "start %s: %w", name, err)
	}
	return refuse(codeNotExecutable, "%s: %w", name, err)
}
