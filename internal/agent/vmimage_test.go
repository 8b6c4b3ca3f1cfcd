package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"banger/internal/ext4"
	"banger/internal/oci"
)

// Environment of these tests: a directory with vmlinux, and the OCI layout of an image.
const (
	envKernel = "BANGER_TEST_KERNEL"
	envOCI    = "BANGER_TEST_OCI"
)

// shared holds what all guests of this test binary boot from; TestMain removes it.
var shared struct {
	once sync.Once
	dir  string
	err  error
}

// guestFiles gives the kernel and the root file system, made of the layout once.
func guestFiles(t *testing.T) (kernel, base string) {
	t.Helper()
	dir, layout := os.Getenv(envKernel), os.Getenv(envOCI)
	if dir == "" || layout == "" {
		t.Skipf("%s and %s name no kernel and no image", envKernel, envOCI)
	}
	shared.once.Do(func() {
		shared.dir, shared.err = makeShared(layout)
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return filepath.Join(dir, "vmlinux"), filepath.Join(shared.dir, "base.ext4")
}

func makeShared(layout string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "agent-test-*"); err != nil {
		return "", err
	}
	return dir, writeBase(filepath.Join(dir, "base.ext4"), layout)
}

func writeBase(path, layout string) error {
	ctx := context.Background()
	src, err := oci.OpenLayout(ctx, oci.Ref{Dir: layout})
	if err != nil {
		return err
	}
	defer src.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w, err := ext4.New(f, ext4.Options{Journal: ext4.NoJournal})
	if err != nil {
		return err
	}
	defer w.Close()
	for n := range src.Layers {
		layer, err := src.OpenLayer(ctx, n)
		if err != nil {
			return err
		}
		if err := errors.Join(w.ApplyLayer(ctx, layer), layer.Close()); err != nil {
			return err
		}
	}
	_, err = w.Finish()
	return err
}
