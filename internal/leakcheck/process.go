package leakcheck

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is what /proc says about one process. Everything is read while it may end:
// what cannot be read any more is empty.
type process struct {
	pid, ppid int
	name      string
	state     string
	start     string
	args      string
}

// listProcesses gives the descendants of this process and whoever mentions a directory
// of Options; not this process itself.
func listProcesses(o Options) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok {
			all[pid] = p
		}
	}
	self := os.Getpid()
	var listed []process
	for _, p := range all {
		if p.pid != self && (descends(all, p, self) || p.mentions(o.Dirs)) {
			listed = append(listed, p)
		}
	}
	return listed, nil
}

func readProcess(pid int) (process, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	const state, ppid, start = 0, 1, 19 // proc(5) numbers them 3, 4 and 22; these follow the name
	if len(fields) <= start {
		return process{}, false
	}
	p := process{pid: pid, name: string(stat[open+1 : end]), state: fields[state], start: fields[start]}
	p.ppid, _ = strconv.Atoi(fields[ppid])
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	p.args = strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
	return p, true
}

func descends(all map[int]process, p process, ancestor int) bool {
	for steps := 0; steps < len(all); steps++ { // the snapshot is not atomic: it may hold a circle
		if p.ppid == ancestor {
			return true
		}
		parent, ok := all[p.ppid]
		if !ok {
			return false
		}
		p = parent
	}
	return false
}

// mentions tells whether the process has to do with one of dirs.
func (p process) mentions(dirs []string) bool {
	if len(dirs) == 0 {
		return false
	}
	base := fmt.Sprintf("/proc/%d/", p.pid)
	environ, _ := os.ReadFile(base + "environ")
	texts := []string{p.args, string(environ)}
	cwd, _ := os.Readlink(base + "cwd")
	texts = append(texts, cwd)
	for _, fd := range p.descriptors() {
		texts = append(texts, fd)
	}
	return mentions(dirs, texts...)
}

// descriptors maps a process's descriptors to what they lead to.
func (p process) descriptors() map[string]string {
	dir := fmt.Sprintf("/proc/%d/fd", p.pid)
	entries, _ := os.ReadDir(dir)
	fds := map[string]string{}
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			fds[entry.Name()] = target
		}
	}
	return fds
}

// kind leaves out the inode numbers of sockets and pipes: they tell nothing.
func kind(target string) string {
	if kind, _, anonymous := strings.Cut(target, ":["); anonymous && (kind == "socket" || kind == "pipe") {
		return kind
	}
	return target
}

func mentions(dirs []string, texts ...string) bool {
	for _, dir := range dirs {
		for _, text := range texts {
			if strings.Contains(text, dir) {
				return true
			}
		}
	}
	return false
}

func (inv *Inventory) processes(o Options, procs []process) error {
	for _, p := range procs {
		if p.state == "Z" {
			inv.add("zombie %d of %d (%s), started at tick %s", p.pid, p.ppid, p.name, p.start)
			continue
		}
		inv.add("process %d (%s), started at tick %s: %s", p.pid, p.name, p.start, p.args)
		if !o.Deep {
			continue
		}
		for _, target := range p.descriptors() {
			inv.add("descriptor of process %d (%s): %s", p.pid, p.name, kind(target))
		}
	}
	return nil
}

// sockets lists unix sockets that are bound below Dirs, or bound anywhere by a listed
// process: a name that was bound through a directory's descriptor tells nothing.
func (inv *Inventory) sockets(o Options, procs []process) error {
	owner := map[string]int{}
	for _, p := range append(procs, process{pid: os.Getpid()}) {
		for _, target := range p.descriptors() {
			if inode, ok := strings.CutPrefix(target, "socket:["); ok {
				owner[strings.TrimSuffix(inode, "]")] = p.pid
			}
		}
	}
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(table), "\n") {
		fields := strings.Fields(line)
		const inode, path = 6, 7
		if len(fields) <= path {
			continue // unbound
		}
		pid, owned := owner[fields[inode]]
		if owned || mentions(o.Dirs, fields[path]) {
			line := inv.add("unix socket %s", fields[path])
			inv.detail[line] = fmt.Sprintf("of process %d", pid)
		}
	}
	return nil
}

// namespaces lists those that differ from this process's own.
func (inv *Inventory) namespaces(o Options, procs []process) error {
	if o.SystemWide {
		var err error
		if procs, err = everyProcess(); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for _, kind := range []string{"net", "user", "mnt", "pid"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return err
		}
		seen[own] = true
	}
	for _, p := range procs {
		for _, kind := range []string{"net", "user", "mnt", "pid"} {
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.pid, kind))
			if err != nil || seen[ns] {
				continue
			}
			seen[ns] = true
			line := inv.add("namespace %s", ns)
			inv.detail[line] = fmt.Sprintf("of process %d (%s)", p.pid, p.name)
		}
	}
	return nil
}

func everyProcess() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	var procs []process
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			procs = append(procs, process{pid: pid})
		}
	}
	return procs, err
}
