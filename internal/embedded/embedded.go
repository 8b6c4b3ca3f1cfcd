// Package embedded holds the files that bangerd carries inside itself: the bundle
// of the default guest kernel and the guest agent.
//
// A fresh clone has neither; what is missing is named, with the make target that
// provides it, when it is asked for.
package embedded

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"banger/internal/errs"
)

//go:embed all:data
var data embed.FS

// Kernel opens the bundle of the default kernel, a zstd-compressed tar. It reads
// from the binary's own pages.
func Kernel() (fs.File, error) {
	file, err := data.Open("data/kernel.tar.zst")
	if err != nil {
		return nil, missing("guest kernel", "make kernel build", err)
	}
	return file, nil
}

// Agent is banger-agent, the static program that runs in every guest. Each call
// makes a copy.
func Agent() ([]byte, error) {
	content, err := data.ReadFile("data/banger-agent")
	if err != nil {
		return nil, missing("guest agent", "make build", err)
	}
	return content, nil
}

func missing(what, command string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.Unavailable, "this build has no %s: run `%s`", what, command)
	}
	return fmt.Errorf("%s: %w", what, err)
}
