package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/agent/session"
	"banger/internal/guestproto"
)

// Where the initramfs has room for the parts of the root; package cpio makes these.
const (
	lowerDir = "/lower"
	upperDir = "/upper"
	workDir  = "/work"
	newRoot  = "/new"
)

// powerDir holds poweroff, halt and reboot, for images that have none.
const powerDir = "/run/banger/bin"

const noExec = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mount makes the mount point if it can and mounts.
func mount(source, target, fstype string, flags uintptr, data string) error {
	err := unix.Mount(source, target, fstype, flags, data)
	if errors.Is(err, unix.ENOENT) {
		if mkErr := os.MkdirAll(target, 0o755); mkErr == nil {
			err = unix.Mount(source, target, fstype, flags, data)
		}
	}
	if err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}

// mountKernel mounts the kernel's own file systems in the initramfs.
func mountKernel() error {
	unix.Umask(0o022)
	if err := mount("proc", "/proc", "proc", noExec, ""); err != nil {
		return err
	}
	if err := mount("sysfs", "/sys", "sysfs", noExec, ""); err != nil {
		return err
	}
	return mount("dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755")
}

// disks are the guest's file systems. The descriptors are their root directories, which
// no path leads to once the root is switched; -1 stands for none.
type disks struct {
	upper int
	work  int
}

// mount mounts the disks in the initramfs.
func (d *disks) mount(config guestproto.BootConfig) error {
	d.upper, d.work = -1, -1
	mounts := []struct {
		device, target string
		flags          uintptr
		data           string
	}{
		// The base is shared by many guests: nothing may be written, not even its journal.
		{config.Base, lowerDir, unix.MS_RDONLY, "noload"},
		{config.Upper, upperDir, 0, ""},
		{config.Work, workDir, 0, ""},
	}
	if config.Work == "" {
		mounts = mounts[:2]
	}
	errc := make(chan error, len(mounts))
	for _, m := range mounts { // at once: mostly they wait for their disks
		go func() { errc <- mountDisk(m.device, m.target, m.flags, m.data) }()
	}
	var err error
	for range mounts {
		err = errors.Join(err, <-errc)
	}
	if err != nil {
		return err
	}
	if d.upper, err = openDir(upperDir); err != nil || config.Work == "" {
		return err
	}
	d.work, err = openDir(workDir)
	return err
}

// diskLimit is how long a disk may take to appear.
const diskLimit = 5 * time.Second

func mountDisk(device, target string, flags uintptr, data string) error {
	deadline := time.Now().Add(diskLimit)
	for {
		err := unix.Mount(device, target, "ext4", flags|unix.MS_NOATIME, data)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO) || time.Now().After(deadline) {
			return fmt.Errorf("mount %s: %w", device, err)
		}
		time.Sleep(time.Millisecond)
	}
}

func openDir(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// overlay joins base and upper. The upper's root directory shows as the guest's, so it
// takes over what the image says of that.
func (d *disks) overlay() error {
	var st unix.Stat_t
	if err := unix.Stat(lowerDir, &st); err != nil {
		return fmt.Errorf("look at the image's root: %w", err)
	}
	const root, work = upperDir + "/root", upperDir + "/work"
	err := unix.Mkdir(root, st.Mode&0o7777)
	if err == nil {
		err = errors.Join(unix.Chmod(root, st.Mode&0o7777), unix.Chown(root, int(st.Uid), int(st.Gid)))
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make the upper's root: %w", err)
	}
	if err := unix.Mkdir(work, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make the overlay's work directory: %w", err)
	}
	// Renaming a directory of the image works as anywhere else (redirect_dir), files are
	// copied whole (a metacopy would need the same base for ever), and one device number
	// covers all files (xino).
	return mount("overlay", newRoot, "overlay", unix.MS_NOATIME,
		"lowerdir="+lowerDir+",upperdir="+root+",workdir="+work+",redirect_dir=on,metacopy=off,index=off,xino=auto")
}

// switchRoot leaves the initramfs. Nothing in it is worth freeing: the agent's own file
// stays in memory as long as it runs.
func switchRoot() error {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return err
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// mountDevices completes what programs expect of a running system.
func (g *guest) mountDevices() error {
	mounts := []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5"},
		{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
	for _, m := range mounts {
		if err := mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return err
		}
	}
	links := [][2]string{
		{"/proc/self/fd", "/dev/fd"}, {"/proc/self/fd/0", "/dev/stdin"},
		{"/proc/self/fd/1", "/dev/stdout"}, {"/proc/self/fd/2", "/dev/stderr"},
	}
	if err := os.MkdirAll(powerDir, 0o755); err != nil {
		return err
	}
	for verb := range verbSignals {
		// The agent's file is in the initramfs, where no path leads; this link does.
		links = append(links, [2]string{"/proc/1/exe", powerDir + "/" + verb})
	}
	for _, l := range links {
		if err := os.Symlink(l[0], l[1]); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := os.Mkdir("/run/lock", 0o1777); err == nil {
		err = os.Chmod("/run/lock", 0o1777|fs.ModeSticky)
		g.warn(err)
	}
	g.warn(loopbackUp())
	return nil
}

// bindDirectories puts plain directories of the upper's ext4 where container engines
// keep their own overlays, which an overlay would refuse to carry.
func (g *guest) bindDirectories() {
	for _, dir := range []string{"/var/lib/docker", "/var/lib/containerd"} {
		name := "plain-" + filepath.Base(dir)
		if err := unix.Mkdirat(g.disks.upper, name, 0o711); err != nil && !errors.Is(err, unix.EEXIST) {
			g.warn(fmt.Errorf("make %s on the upper: %w", name, err))
			continue
		}
		g.warn(bind(g.disks.upper, name, dir))
	}
}

// bind mounts name below the directory dir, which may be out of every path's reach, on
// target, which it makes if it can.
func bind(dir int, name, target string) error {
	tree, err := unix.OpenTree(dir, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("bind %s: open: %w", target, err)
	}
	defer unix.Close(tree)
	move := func() error {
		return unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
	}
	err = move()
	if errors.Is(err, unix.ENOENT) {
		if err = os.MkdirAll(target, 0o711); err == nil {
			err = move()
		}
	}
	if err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	return nil
}

// reservedProcesses is what the sessions leave of the kernel's process table, so that
// the agent's runtime can always make a thread: it dies when it cannot.
const reservedProcesses = 128

// makeCgroups mounts the control groups and makes one for all sessions.
func makeCgroups() (*session.Cgroups, error) {
	const root, group = "/sys/fs/cgroup", "/sys/fs/cgroup/banger"
	if err := mount("cgroup2", root, "cgroup2", noExec, "nsdelegate,memory_recursiveprot"); err != nil {
		return nil, err
	}
	// With processor control the agent, in the root group, competes with all sessions
	// together and not with each of their processes; and each session with the others.
	if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory +pids +cpu"), 0); err != nil {
		return nil, fmt.Errorf("enable memory, pids and cpu control: %w", err)
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(group+"/cgroup.subtree_control", []byte("+memory +cpu"), 0); err != nil {
		return nil, fmt.Errorf("enable memory and cpu control: %w", err)
	}
	if err := os.WriteFile(group+"/pids.max", []byte(strconv.Itoa(maxProcesses())), 0); err != nil {
		return nil, fmt.Errorf("limit processes: %w", err)
	}
	// A line for every process at every kill keeps a machine busy that has thousands.
	if err := os.WriteFile("/proc/sys/vm/oom_dump_tasks", []byte("0"), 0); err != nil {
		return nil, fmt.Errorf("shorten the kernel's reports: %w", err)
	}
	if limit := maxMemory(); limit > 0 {
		if err := os.WriteFile(group+"/memory.max", []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
			return nil, fmt.Errorf("limit memory: %w", err)
		}
	}
	return session.NewCgroups(group)
}

// maxMemory is what sessions may have together, in bytes: nearly all there is. With the
// rest the agent goes on when they use it up; without it, it would wait for memory like
// everybody, and could not end them. 0 stands for unknown.
func maxMemory() int64 {
	const least = 12 << 20
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "MemAvailable:" {
			continue
		}
		kb, err := strconv.ParseInt(fields[1], 10, 64)
		available := kb << 10
		if err != nil || available < 4*least {
			return 0
		}
		return available - max(least, available/32)
	}
	return 0
}

func maxProcesses() int {
	limit := 1 << 15
	for _, name := range []string{"pid_max", "threads-max"} {
		text, err := os.ReadFile("/proc/sys/kernel/" + name)
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && (n < limit || name == "pid_max") {
			limit = n
		}
	}
	return max(limit-reservedProcesses, limit/2)
}
