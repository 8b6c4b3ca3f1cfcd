// Package qemu runs machines in QEMU's microvm, with KVM or by emulation.
package qemu

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"regexp"
	"strconv"

	"banger/internal/effect"
	"banger/internal/errs"
	"banger/internal/vmm"
	"banger/internal/vmm/monitor"
)

// program is looked for on PATH when no path is given.
const program = "qemu-system-x86_64"

// oldest is the first version whose options are all here (QEMU 7.2: -netdev dgram).
var oldest = [2]int{7, 2}

type driver struct {
	seam *effect.Seam
	path string
	kvm  bool
}

// New makes the driver for the QEMU at path; "" looks for one on PATH at each use. kvm
// tells whether KVM really works here, which is not for QEMU to find out.
func New(seam *effect.Seam, path string, kvm bool) vmm.Driver {
	return &driver{seam: seam, path: path, kvm: kvm}
}

func (d *driver) Name() string { return "qemu" }

// find gives the program's path; Unavailable with a hint when there is none.
func (d *driver) find() (string, error) {
	name := d.path
	if name == "" {
		name = program
	}
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		err = errs.New(errs.Unavailable, "find QEMU: %w", err)
		return "", errs.Hint(err, "install the package qemu-system-x86 (Debian, Ubuntu), or set BANGER_QEMU to the program's path")
	}
	if err != nil {
		return "", errs.New(errs.Unavailable, "find QEMU: %w", err)
	}
	return path, nil
}

var versionLine = regexp.MustCompile(`QEMU emulator version (\d+)\.(\d+)\S*`)

// Probe asks the program for its version, which takes some 30 ms.
func (d *driver) Probe(ctx context.Context) (vmm.Info, error) {
	path, err := d.find()
	if err != nil {
		return vmm.Info{}, err
	}
	var out []byte
	err = d.seam.Do(ctx, "vmm.probe", func() error {
		cmd := exec.CommandContext(ctx, path, "--version")
		cmd.Env = []string{}
		var err error
		out, err = cmd.Output()
		return err
	})
	if err != nil {
		return vmm.Info{}, errs.New(errs.Unavailable, "ask %s for its version: %w", path, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return vmm.Info{}, errs.New(errs.Unavailable, "ask %s for its version: the answer names none", path)
	}
	major, _ := strconv.Atoi(string(m[1])) // digits by the expression
	minor, _ := strconv.Atoi(string(m[2]))
	if major < oldest[0] || major == oldest[0] && minor < oldest[1] {
		err := errs.New(errs.Unavailable, "QEMU %d.%d at %s is too old", major, minor, path)
		return vmm.Info{}, errs.Hint(err, "install QEMU %d.%d or later, or set BANGER_QEMU to one", oldest[0], oldest[1])
	}
	return vmm.Info{
		Path:          path,
		Version:       string(m[0][len("QEMU emulator version "):]),
		Accelerator:   d.accelerator(),
		PageReporting: true,
		Discard:       true,
	}, nil
}

func (d *driver) accelerator() string {
	if d.kvm {
		return "kvm"
	}
	return "tcg"
}

func (d *driver) Start(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	path, err := d.find()
	if err != nil {
		return nil, err
	}
	args, err := d.args(spec)
	if err != nil {
		return nil, err
	}
	m, err := monitor.Start(ctx, d.seam, monitor.Command{
		Path: path, Args: args,
		Console: spec.Console, Log: spec.Log, Files: spec.Inherit,
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}
