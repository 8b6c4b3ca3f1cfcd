// Package paths names every file that banger makes on the host, and nothing else does.
package paths

import (
	"os"
	"path/filepath"

	"banger/internal/errs"
)

// Dirs are the directories that name and serve one daemon.
type Dirs struct {
	State   string // everything that must survive; names the daemon
	Runtime string // the daemon's own socket
	Cache   string // what can be fetched again
}

// FromEnv finds the directories as CLI.md says. All are absolute; none is made.
func FromEnv(getenv func(string) string) (Dirs, error) {
	home := func(rest string) string {
		if h := getenv("HOME"); h != "" {
			return filepath.Join(h, rest)
		}
		return ""
	}
	first := func(candidates ...string) string {
		for _, c := range candidates {
			if c != "" {
				return c
			}
		}
		return ""
	}
	under := func(variable string) string {
		if d := getenv(variable); d != "" {
			return filepath.Join(d, "banger")
		}
		return ""
	}
	d := Dirs{
		State: first(getenv("BANGER_STATE_DIR"), under("XDG_STATE_HOME"), home(".local/state/banger")),
		Cache: first(getenv("BANGER_CACHE_DIR"), under("XDG_CACHE_HOME"), home(".cache/banger")),
	}
	if d.State == "" {
		return d, errs.Hint(errs.New(errs.Usage, "no state directory: HOME is not set"), "set BANGER_STATE_DIR")
	}
	d.Runtime = first(getenv("BANGER_RUNTIME_DIR"), d.runtimeDefault(getenv))
	for _, p := range []*string{&d.State, &d.Runtime, &d.Cache} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return d, err
		}
		*p = abs
	}
	return d, nil
}

// runtimeDefault keeps the socket in the state directory when that was chosen
// explicitly: two state directories must never share one socket.
func (d Dirs) runtimeDefault(getenv func(string) string) string {
	if x := getenv("XDG_RUNTIME_DIR"); x != "" && getenv("BANGER_STATE_DIR") == "" {
		if info, err := os.Stat(x); err == nil && info.IsDir() {
			return filepath.Join(x, "banger")
		}
	}
	return d.State
}

// Files and directories of a state directory.
func (d Dirs) Lock() string       { return filepath.Join(d.State, "lock") }
func (d Dirs) DaemonFile() string { return filepath.Join(d.State, "daemon.json") }
func (d Dirs) DaemonLog() string  { return filepath.Join(d.State, "daemon.log") }
func (d Dirs) Database() string   { return filepath.Join(d.State, "banger.db") }
func (d Dirs) Reserve() string    { return filepath.Join(d.State, "reserve") }
func (d Dirs) Kernels() string    { return filepath.Join(d.State, "kernels") }
func (d Dirs) Images() string     { return filepath.Join(d.State, "images") }
func (d Dirs) Initramfs() string  { return filepath.Join(d.State, "initramfs") }
func (d Dirs) VMs() string        { return filepath.Join(d.State, "vms") }
func (d Dirs) KVMProbe() string   { return filepath.Join(d.State, "kvm.json") }
func (d Dirs) Socket() string     { return filepath.Join(d.Runtime, SocketName) }

// SocketName is the daemon's socket in its directory.
const SocketName = "banger.sock"

// VM is the run directory of one VM: made first, removed last.
type VM struct{ Dir string }

// VM is the run directory of the VM with that id.
func (d Dirs) VM(id string) VM { return VM{filepath.Join(d.VMs(), id)} }

// Files of a run directory.
func (v VM) Lock() string       { return filepath.Join(v.Dir, "lock") }         // held while anything of the VM lives
func (v VM) Spec() string       { return filepath.Join(v.Dir, "vm.json") }      // specification, for the shim and for recovery
func (v VM) Handles() string    { return filepath.Join(v.Dir, "handles.json") } // processes of this run
func (v VM) Outcome() string    { return filepath.Join(v.Dir, "outcome.json") } // how this run ended
func (v VM) Console() string    { return filepath.Join(v.Dir, "console.log") }  // the guest's serial console
func (v VM) VMMLog() string     { return filepath.Join(v.Dir, "vmm.log") }
func (v VM) ShimLog() string    { return filepath.Join(v.Dir, "shim.log") }
func (v VM) ShimSocket() string { return filepath.Join(v.Dir, ShimSocketName) }
func (v VM) Upper() string      { return filepath.Join(v.Dir, "upper.ext4") }
func (v VM) Work() string       { return filepath.Join(v.Dir, "work.ext4") }

// ShimSocketName is a shim's socket in its VM's run directory.
const ShimSocketName = "shim.sock"
