package qemu

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"banger/internal/errs"
	"banger/internal/guestproto"
	"banger/internal/vmm"
	"banger/internal/vmm/monitor"
)

// maxDisks is what microvm's eight virtio devices leave beside the agent's port, the
// random source, the balloon and the network card to come.
const maxDisks = 4

// args is QEMU's command line. The order of the devices is part of a machine's
// identity: a snapshot restores only into the same one.
func (d *driver) args(spec vmm.Spec) ([]string, error) {
	if err := check(spec); err != nil {
		return nil, err
	}
	args := []string{
		// microvm has no firmware to speak of, no PCI and no legacy but what is asked for.
		// Without ACPI its devices are named on the kernel's command line; with it, it
		// hangs under emulation. Without the RTC the kernel waits a whole second for one to
		// answer (1.0 of 1.3 billion instructions to init, measured).
		"-M", "microvm,acpi=off,isa-serial=on,rtc=on,dump-guest-core=off",
		"-accel", d.accelerator(),
		"-cpu", d.cpu(),
		"-smp", strconv.Itoa(spec.CPUs),
		"-m", fmt.Sprintf("%dB", spec.MemoryBytes),
		"-nodefaults", "-no-user-config", "-nographic",
		"-no-reboot", // the guest ends by a reset; the shim starts it again if it wants
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-kernel", spec.Kernel,
		"-append", d.commandLine(),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=agent,fd=%d", monitor.ChannelFD),
		"-device", "virtio-serial-device,max_ports=2",
		"-device", "virtserialport,chardev=agent,name=" + guestproto.PortName,
		"-object", "rng-random,id=entropy,filename=/dev/urandom",
		"-device", "virtio-rng-device,rng=entropy",
		"-device", "virtio-balloon-device,free-page-reporting=on",
	}
	if spec.Initrd != "" {
		args = append(args, "-initrd", spec.Initrd)
	}
	for i, disk := range spec.Disks {
		node := fmt.Sprintf("disk%d", i)
		args = append(args,
			"-blockdev", blockdev(node, disk),
			// A full host disk is an error that the guest sees. By default QEMU stops the
			// machine then, which nobody would notice but by its silence.
			"-device", "virtio-blk-device,werror=report,drive="+node)
	}
	return args, nil
}

// check refuses what QEMU would misunderstand.
func check(spec vmm.Spec) error {
	switch {
	case spec.CPUs < 1:
		return errs.New(errs.Usage, "machine with %d CPUs", spec.CPUs)
	case spec.MemoryBytes < 1:
		return errs.New(errs.Usage, "machine with %d bytes of memory", spec.MemoryBytes)
	case len(spec.Disks) > maxDisks:
		return errs.New(errs.Usage, "machine with %d disks: QEMU's microvm takes at most %d", len(spec.Disks), maxDisks)
	case !filepath.IsAbs(spec.Kernel):
		return errs.New(errs.Usage, "kernel %q: want an absolute path", spec.Kernel)
	case spec.Initrd != "" && !filepath.IsAbs(spec.Initrd):
		return errs.New(errs.Usage, "initrd %q: want an absolute path", spec.Initrd)
	}
	for _, disk := range spec.Disks {
		if !filepath.IsAbs(disk.Path) {
			return errs.New(errs.Usage, "disk %q: want an absolute path", disk.Path)
		}
	}
	return nil
}

func (d *driver) cpu() string {
	if d.kvm {
		return "host"
	}
	return "max"
}

// commandLine is the kernel's. reboot=t resets by a triple fault, which ends QEMU;
// panic=-1 does so at once after a panic, whose text is printed despite quiet;
// acpi=off keeps it from complaining on the console that there is none.
func (d *driver) commandLine() string {
	line := []string{"console=ttyS0", "reboot=t", "panic=-1", "quiet", "acpi=off"}
	if !d.kvm {
		// Emulation: skip timer calibrations that spin for guest time. Medians to init on
		// one quiet host: 1 CPU 0.57 s with these and 0.83 without, 2 CPUs 0.51 and 0.85;
		// 4 CPUs 0.72. Without the local timers the one at the bus ticks for all CPUs,
		// which share their time as they should (vmmtest's EveryCPUWorks).
		line = append(line, "nolapic_timer", "lpj=1000000", "no_timer_check")
	}
	return strings.Join(line, " ")
}

// blockdev describes a raw disk as JSON, in which a file name needs no escaping and
// nothing is probed.
func blockdev(node string, disk vmm.Disk) string {
	type cache struct {
		Direct  bool `json:"direct"`
		NoFlush bool `json:"no-flush"`
	}
	type file struct {
		Driver   string `json:"driver"`
		Filename string `json:"filename"`
		Locking  string `json:"locking"`
		AIO      string `json:"aio"`
		Cache    cache  `json:"cache"`
		Discard  string `json:"discard"`
	}
	type raw struct {
		Driver       string `json:"driver"`
		NodeName     string `json:"node-name"`
		ReadOnly     bool   `json:"read-only"`
		AutoReadOnly bool   `json:"auto-read-only"`
		Cache        cache  `json:"cache"`
		Discard      string `json:"discard"`
		File         file   `json:"file"`
	}
	c := cache{NoFlush: !disk.Durable}
	b := raw{
		Driver: "raw", NodeName: node, ReadOnly: disk.ReadOnly, Cache: c, Discard: "unmap",
		File: file{
			Driver: "file", Filename: disk.Path, AIO: "threads", Cache: c, Discard: "unmap",
			// A writable disk has one user, and QEMU's lock enforces it. A read-only one is
			// shared by any number.
			Locking: "on",
		},
	}
	if disk.ReadOnly {
		b.Discard, b.File.Discard, b.File.Locking = "ignore", "ignore", "off"
	}
	text, err := json.Marshal(b)
	if err != nil {
		panic(err) // strings and booleans only
	}
	return string(text)
}
