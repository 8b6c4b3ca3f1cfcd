// Package errs gives errors a class, so that callers decide by kind and never by text.
//
// A class is attached with New or With and survives wrapping by %w. The table in
// this package is the only place that maps classes to wire codes, exit codes and errno.
package errs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Class is the kind of a failure.
type Class uint8

// The classes. Their wire codes are part of the API and never change.
const (
	Internal      Class = iota // a bug, or a failure of the host that has no better class
	Usage                      // the request is malformed
	NotFound                   // the named thing does not exist
	AlreadyExists              // the name is taken
	Busy                       // another operation holds the object
	Precondition               // the object is in a state that forbids the operation
	Permission                 // the caller may not
	InvalidData                // input data is corrupt, malformed or hostile
	Exhausted                  // no space, memory or other resource left
	Unavailable                // something needed is missing or does not answer
	Cancelled                  // the caller gave up
	Timeout                    // a deadline passed
)

var table = [...]struct {
	code string
	exit int
}{
	Internal:      {"internal", 1},
	Usage:         {"usage", 2},
	NotFound:      {"not_found", 3},
	AlreadyExists: {"already_exists", 4},
	Busy:          {"busy", 4},
	Precondition:  {"precondition", 5},
	Permission:    {"permission", 5},
	InvalidData:   {"invalid_data", 6},
	Exhausted:     {"exhausted", 1},
	Unavailable:   {"unavailable", 1},
	Cancelled:     {"cancelled", 7},
	Timeout:       {"timeout", 8},
}

// Code is the class's name on the wire.
func (c Class) Code() string {
	if int(c) >= len(table) {
		return table[Internal].code
	}
	return table[c].code
}

// String is Code.
func (c Class) String() string { return c.Code() }

// ExitCode is the process exit code that CLI.md gives to the class.
func (c Class) ExitCode() int {
	if int(c) >= len(table) {
		return table[Internal].exit
	}
	return table[c].exit
}

// FromCode is the class of a wire code; an unknown code is Internal.
func FromCode(code string) Class {
	for c, row := range table {
		if row.code == code {
			return Class(c)
		}
	}
	return Internal
}

type classed struct {
	class Class
	err   error
}

func (e *classed) Error() string { return e.err.Error() }
func (e *classed) Unwrap() error { return e.err }

// New makes an error of class c; format and args are those of fmt.Errorf, %w included.
func New(c Class, format string, args ...any) error {
	return &classed{c, fmt.Errorf(format, args...)}
}

// With gives err the class c, replacing the one it has; nil stays nil.
func With(c Class, err error) error {
	if err == nil {
		return nil
	}
	return &classed{c, err}
}

type hinted struct {
	hint string
	err  error
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

// Hint adds the next step for the person who reads the error; nil stays nil.
func Hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{fmt.Sprintf(format, args...), err}
}

// HintOf is the outermost hint of err, or "".
func HintOf(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}

var errnos = map[syscall.Errno]Class{
	syscall.ENOSPC: Exhausted, syscall.EDQUOT: Exhausted, syscall.ENOMEM: Exhausted,
	syscall.EMFILE: Exhausted, syscall.ENFILE: Exhausted, syscall.EAGAIN: Exhausted,
	syscall.EACCES: Permission, syscall.EPERM: Permission, syscall.EROFS: Permission,
	syscall.ENOENT: NotFound, syscall.EEXIST: AlreadyExists,
	syscall.ECONNREFUSED: Unavailable, syscall.ECONNRESET: Unavailable, syscall.EPIPE: Unavailable,
}

// ClassOf is the class of err: the outermost one given, else one derived from a
// context error, an errno or a file system error, else Internal.
func ClassOf(err error) Class {
	var c *classed
	if errors.As(err, &c) {
		return c.class
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	}
	var no syscall.Errno
	if errors.As(err, &no) {
		if class, ok := errnos[no]; ok {
			return class
		}
		return Internal
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return NotFound
	case errors.Is(err, fs.ErrPermission):
		return Permission
	}
	return Internal
}

// Is tells whether err is of class c; nil is of no class.
func Is(err error, c Class) bool { return err != nil && ClassOf(err) == c }
