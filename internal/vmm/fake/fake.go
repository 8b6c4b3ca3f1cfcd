// Package fake is a VMM without a machine, for tests that must cost milliseconds: a
// process of its own that speaks the agent's protocol on the inherited channel and runs
// the guest's commands on the host. It must not be linked into the product.
package fake

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/vmm"
	"banger/internal/vmm/monitor"
)

// Verb is the first argument with which the running program starts itself as a fake
// VMM; its main passes the arguments after it to Main.
const Verb = "fakevmm"

type driver struct{ seam *effect.Seam }

// New makes the driver. The program that uses it must answer Verb by calling Main.
func New(seam *effect.Seam) vmm.Driver { return driver{seam} }

func (driver) Name() string { return "fake" }

func (driver) Probe(context.Context) (vmm.Info, error) {
	return vmm.Info{Path: "/proc/self/exe", Version: "0", Accelerator: "tcg"}, nil
}

func (d driver) Start(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	if spec.CPUs < 1 || spec.MemoryBytes < 1 {
		return nil, errs.New(errs.Usage, "machine with %d CPUs and %d bytes of memory", spec.CPUs, spec.MemoryBytes)
	}
	if !filepath.IsAbs(spec.Kernel) {
		return nil, errs.New(errs.Usage, "kernel %q: want an absolute path", spec.Kernel)
	}
	args := []string{Verb,
		"-kernel=" + spec.Kernel,
		"-initrd=" + spec.Initrd,
		"-cpus=" + strconv.Itoa(spec.CPUs),
		"-memory=" + strconv.FormatInt(spec.MemoryBytes, 10),
	}
	for _, disk := range spec.Disks {
		if disk.ReadOnly {
			args = append(args, "-ro="+disk.Path)
		} else {
			args = append(args, "-rw="+disk.Path)
		}
	}
	m, err := monitor.Start(ctx, d.seam, monitor.Command{
		Path: "/proc/self/exe", Args: args,
		Console: spec.Console, Log: spec.Log, Files: spec.Inherit,
	})
	if err != nil {
		return nil, fmt.Errorf("fake VMM: %w", err)
	}
	return m, nil
}
