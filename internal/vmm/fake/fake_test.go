package fake_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/effect"
	"banger/internal/vmm/fake"
	"banger/internal/vmm/vmmtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == fake.Verb {
		os.Exit(fake.Main(os.Args[2:]))
	}
	if len(os.Args) > 3 && os.Args[1] == "orphan" {
		fmt.Fprintln(os.Stderr, vmmtest.RunOrphan(config(os.Args[2]), os.Args[3]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func config(kernel string) vmmtest.Config {
	return vmmtest.Config{
		Driver: fake.New(effect.New(nil)),
		Kernel: kernel, Boot: 10 * time.Second,
		OrphanArgs: []string{"orphan", kernel},
	}
}

func TestConformance(t *testing.T) {
	kernel := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(kernel, []byte(fake.Magic+" conformance\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vmmtest.Run(t, config(kernel))
}
