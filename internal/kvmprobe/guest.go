package kvmprobe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// From the kernel's linux/kvm.h, for x86-64.
const (
	kvmGetAPIVersion    = 0xAE00
	kvmCreateVM         = 0xAE01
	kvmGetVCPUMmapSize  = 0xAE04
	kvmCreateVCPU       = 0xAE41
	kvmSetUserMemory    = 0x4020AE46
	kvmSetTSSAddr       = 0xAE47
	kvmRun              = 0xAE80
	kvmSetRegs          = 0x4090AE82
	kvmGetSregs         = 0x8138AE83
	kvmSetSregs         = 0x4138AE84
	apiVersion          = 12
	exitHLT             = 5
	exitReasonOffset    = 8 // in struct kvm_run
	regsSize, ripOffset = 0x90, 0x80
	rflagsOffset        = 0x88
	sregsSize           = 0x138
	selectorOffset      = 12 // of cs, the first segment, after base and limit
)

const (
	memorySize = 4096
	address    = 0x1000 // of the guest's memory and of its first instruction
)

// code counts a million down and halts, in real mode.
var code = [...]byte{
	0x66, 0xB9, 0x40, 0x42, 0x0F, 0x00, // mov ecx, 1000000
	0x66, 0x49, // dec ecx
	0x75, 0xFC, // jnz the one before
	0xF4, // hlt
}

// guest is a machine with one CPU and one page. It is freed with the process.
type guest struct {
	vcpu uintptr
	run  []byte // struct kvm_run
}

func ioctl(fd uintptr, request uintptr, argument uintptr) (uintptr, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, argument)
		if errno == unix.EINTR {
			continue // the runtime's own signals
		}
		if errno != 0 {
			return 0, errno
		}
		return r, nil
	}
}

func ioctlStruct(fd uintptr, request uintptr, b []byte) error {
	_, err := ioctl(fd, request, uintptr(unsafe.Pointer(&b[0])))
	runtime.KeepAlive(b)
	return err
}

func newGuest() (*guest, error) {
	kvm, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", device, err)
	}
	version, err := ioctl(uintptr(kvm), kvmGetAPIVersion, 0)
	if err != nil || version != apiVersion {
		return nil, errors.Join(fmt.Errorf("KVM's API has version %d, want %d", version, apiVersion), err)
	}
	vm, err := ioctl(uintptr(kvm), kvmCreateVM, 0)
	if err != nil {
		return nil, fmt.Errorf("make a VM: %w", err)
	}
	// Intel's processors before 2010 need room for a task segment; others do not care.
	_, _ = ioctl(vm, kvmSetTSSAddr, 0xFFFBD000)
	memory, err := unix.Mmap(-1, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map the guest's memory: %w", err)
	}
	copy(memory, code[:])
	var region [32]byte // slot, flags, address in the guest, size, address here
	binary.NativeEndian.PutUint64(region[8:], address)
	binary.NativeEndian.PutUint64(region[16:], memorySize)
	binary.NativeEndian.PutUint64(region[24:], uint64(uintptr(unsafe.Pointer(&memory[0]))))
	if err := ioctlStruct(vm, kvmSetUserMemory, region[:]); err != nil {
		return nil, fmt.Errorf("give the VM memory: %w", err)
	}
	g := &guest{}
	if g.vcpu, err = ioctl(vm, kvmCreateVCPU, 0); err != nil {
		return nil, fmt.Errorf("make a CPU: %w", err)
	}
	size, err := ioctl(uintptr(kvm), kvmGetVCPUMmapSize, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for the size of a CPU's state: %w", err)
	}
	g.run, err = unix.Mmap(int(g.vcpu), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the CPU's state: %w", err)
	}
	return g, nil
}

// count runs the code once and tells how long that took.
func (g *guest) count() (time.Duration, error) {
	var sregs [sregsSize]byte
	if err := ioctlStruct(g.vcpu, kvmGetSregs, sregs[:]); err != nil {
		return 0, fmt.Errorf("read the CPU's segments: %w", err)
	}
	binary.NativeEndian.PutUint64(sregs[0:], 0) // cs: base and selector 0
	binary.NativeEndian.PutUint16(sregs[selectorOffset:], 0)
	if err := ioctlStruct(g.vcpu, kvmSetSregs, sregs[:]); err != nil {
		return 0, fmt.Errorf("set the CPU's segments: %w", err)
	}
	var regs [regsSize]byte
	binary.NativeEndian.PutUint64(regs[ripOffset:], address)
	binary.NativeEndian.PutUint64(regs[rflagsOffset:], 2)
	if err := ioctlStruct(g.vcpu, kvmSetRegs, regs[:]); err != nil {
		return 0, fmt.Errorf("set the CPU's registers: %w", err)
	}
	start := time.Now()
	if _, err := ioctl(g.vcpu, kvmRun, 0); err != nil {
		return 0, fmt.Errorf("run the guest: %w", err)
	}
	took := time.Since(start)
	if reason := binary.NativeEndian.Uint32(g.run[exitReasonOffset:]); reason != exitHLT {
		return 0, fmt.Errorf("run the guest: it stopped for reason %d, want %d (halt)", reason, exitHLT)
	}
	return took, nil
}
