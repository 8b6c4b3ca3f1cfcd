// Package vmm is the contract of a virtual machine monitor: what it starts from, and
// what the shim may ask of the one process it started. Drivers are in its
// subdirectories; package vmmtest holds them to every sentence here.
package vmm

import (
	"context"
	"net"
	"os"

	"banger/internal/procid"
)

// Driver starts machines. It holds no state about those it started.
type Driver interface {
	// Name is "qemu", "firecracker".
	Name() string
	// Probe tells whether the driver can start machines on this host, and how. It is
	// Unavailable, with a hint, when it cannot.
	Probe(ctx context.Context) (Info, error)
	// Start starts the VMM process, and returns when it runs, which does not mean that
	// the guest does. An error leaves no process and closes nothing of spec. ctx bounds
	// Start alone, not the machine's life. The process dies with the one that called.
	// What only the VMM finds out, such as a file that is no kernel, is no error of
	// Start: the process says so on spec.Log and ends.
	Start(ctx context.Context, spec Spec) (Machine, error)
}

// Info is what a driver found on this host.
type Info struct {
	Path        string // the program
	Version     string
	Accelerator string // "kvm" or "tcg"
	// PageReporting and Discard tell whether memory and disk space that the guest frees
	// goes back to the host.
	PageReporting bool
	Discard       bool
}

// Spec describes one machine. All paths are absolute.
type Spec struct {
	Kernel      string // uncompressed ELF vmlinux
	Initrd      string
	CPUs        int
	MemoryBytes int64
	Disks       []Disk   // in the guest's order: vda, vdb, …
	Console     *os.File // receives the guest's serial console; the driver duplicates it
	Log         *os.File // receives the VMM's own messages; the driver duplicates it
	// Inherit stays open in the VMM process for its life. The VM's lock is among them:
	// while it is held, something of this VM lives.
	Inherit []*os.File
}

// Disk is a raw disk image; its format is never probed.
type Disk struct {
	Path     string
	ReadOnly bool
	// Durable makes the guest's fsync reach the host's disk.
	Durable bool
}

// Machine is one VMM process. Its methods may be called from several goroutines.
type Machine interface {
	// Process identifies the VMM on the host.
	Process() procid.ID
	// Accept waits for the next connection that the guest opens; there is only ever
	// the agent's control connection, and drivers refuse more than a few. It is
	// Unavailable when the guest has ended.
	Accept(ctx context.Context) (net.Conn, error)
	// Open opens a request connection to the agent; before the guest has spoken it waits
	// for that. It is Unavailable when the guest does not answer before ctx's deadline,
	// or has ended.
	Open(ctx context.Context) (net.Conn, error)
	// Done is closed when the process has ended and was reaped.
	Done() <-chan struct{}
	// Exit describes the end, after Done: exit status or signal. It proves nothing
	// about the guest (a panic and a clean reboot both give 0).
	Exit() string
	// Kill ends the process at once and waits until it was reaped. Killing one that has
	// ended is no error. With a ctx that has ended nothing is killed.
	Kill(ctx context.Context) error
	// Close releases what the driver holds on the host side. It does not end the
	// process; call it after Done.
	Close() error
}
