package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"banger/internal/guestproto"
)

// setClock sets the clock and stirs the host's seed into the random pool. A guest
// without the right time boots all the same.
func (g *guest) setClock(config guestproto.BootConfig) error {
	if config.ClockNS > 0 {
		ts := unix.NsecToTimespec(config.ClockNS)
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			g.warn(fmt.Errorf("set the clock: %w", err))
		}
	}
	if len(config.Seed) > 0 {
		g.warn(seedRandom(config.Seed))
	}
	return nil
}

// seedRandom credits the pool with the seed's entropy.
func seedRandom(seed []byte) error {
	// struct rand_pool_info: entropy in bits, size in bytes, the bytes.
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(seed)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	info = append(info, seed...)
	fd, err := unix.Open("/dev/urandom", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("seed the random pool: %w", err)
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return fmt.Errorf("seed the random pool: %w", errno)
	}
	return nil
}

// identity tells the guest who it is. A full or read-only disk keeps nobody from
// starting a guest in order to clean it up.
func (g *guest) identity(config guestproto.BootConfig) error {
	if config.Hostname != "" {
		if err := unix.Sethostname([]byte(config.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
		g.warn(update("/etc/hostname", 0o644, func([]byte) []byte { return []byte(config.Hostname + "\n") }))
		g.warn(update("/etc/hosts", 0o644, func(old []byte) []byte { return hosts(old, config.Hostname) }))
	}
	if config.MachineID != "" {
		g.warn(update("/etc/machine-id", 0o444, func([]byte) []byte { return []byte(config.MachineID + "\n") }))
	}
	return nil
}

const hostsMark = "# banger"

// hosts gives the guest's name an address, and keeps what people wrote.
func hosts(old []byte, name string) []byte {
	var b bytes.Buffer
	if !bytes.Contains(old, []byte("localhost")) {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	for line := range strings.Lines(string(old)) {
		if strings.HasSuffix(strings.TrimSpace(line), hostsMark) {
			continue
		}
		b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	fmt.Fprintf(&b, "127.0.1.1\t%s\t%s\n", name, hostsMark)
	return b.Bytes()
}

// maxUpdate is the largest file that update reads.
const maxUpdate = 1 << 20

// update replaces a small file if change wants another content. Whatever was there, a
// symbolic link for example, is replaced by a plain file, whole or not at all.
func update(path string, perm os.FileMode, change func(old []byte) []byte) error {
	var old []byte
	info, err := os.Lstat(path)
	plain := err == nil && info.Mode().IsRegular() && info.Size() <= maxUpdate
	if plain {
		if old, err = os.ReadFile(path); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	changed := change(old)
	if plain && bytes.Equal(old, changed) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	temp := path + ".banger-new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.WriteFile(temp, changed, perm); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// loopbackUp brings the loopback interface up; the kernel gives it its addresses.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}
