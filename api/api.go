// Package api is what goes over banger's socket: request and response types, paths and
// error codes. JSON fields may be added, never renamed; an unknown field is ignored.
package api

import "time"

// Version is the API's version, in the path of every operation and in the header
// VersionHeader of every response together with the daemon's own version.
const (
	Version       = "v1"
	VersionHeader = "Banger-Version"
)

// States of a VM.
const (
	StateCreating = "creating"
	StateStopped  = "stopped"
	StateStarting = "starting"
	StateRunning  = "running"
	StatePaused   = "paused"
	StateStopping = "stopping"
	StateFailed   = "failed"
)

// VM is a virtual machine as the daemon knows it.
type VM struct {
	ID          string     `json:"id" doc:"never reused"`
	Name        string     `json:"name"`
	State       string     `json:"state" enum:"creating,stopped,starting,running,paused,stopping,failed"`
	Image       string     `json:"image"`
	Kernel      string     `json:"kernel"`
	CPUs        int        `json:"cpus"`
	MemoryBytes int64      `json:"memory_bytes"`
	DiskBytes   int64      `json:"disk_bytes" doc:"size of the root disk; thin"`
	IP          string     `json:"ip" doc:"empty until the VM has a network"`
	CreatedAt   time.Time  `json:"created_at"`
	StartedAt   *time.Time `json:"started_at"`
	VMM         string     `json:"vmm" doc:"driver that runs or last ran it"`
	PID         int        `json:"pid" doc:"the VMM's process id, 0 when it does not run"`
	Ports       []Port     `json:"ports"`
	Workspace   string     `json:"workspace"`
	Error       string     `json:"error" doc:"why it failed"`
	RM          bool       `json:"rm" doc:"deleted when it stops"`
}

// Port is a forwarded port.
type Port struct {
	Host  string `json:"host"`
	Guest int    `json:"guest"`
	Proto string `json:"proto"`
}

// VMSpec asks for a VM. Zero values mean the defaults.
type VMSpec struct {
	Name        string `json:"name,omitempty" doc:"empty: a free one is chosen"`
	Image       string `json:"image,omitempty"`
	Kernel      string `json:"kernel,omitempty"`
	CPUs        int    `json:"cpus,omitempty"`
	MemoryBytes int64  `json:"memory_bytes,omitempty"`
	DiskBytes   int64  `json:"disk_bytes,omitempty"`
	RM          bool   `json:"rm,omitempty" doc:"delete it when it stops"`
	VMM         string `json:"vmm,omitempty" enum:",auto,firecracker,qemu,fake" doc:"empty: auto"`
}

// Exec asks for a command in a VM. An empty Argv is the user's shell on a terminal, else
// the image's own command.
type Exec struct {
	Argv []string `json:"argv,omitempty"`
	Env  []string `json:"env,omitempty" doc:"K=V"`
	Dir  string   `json:"dir,omitempty" doc:"empty: the image's working directory, else the user's home"`
	User string   `json:"user,omitempty" doc:"name or uid, optionally :group; empty: the image's user, else root"`
	TTY  bool     `json:"tty,omitempty"`
	Rows uint16   `json:"rows,omitempty"`
	Cols uint16   `json:"cols,omitempty"`
}

// Session is a one-time right to connect to a VM's shim and run what was asked for.
// The connection carries package guestproto's frames after an HTTP upgrade.
type Session struct {
	Socket string `json:"socket" doc:"path of the shim's unix socket"`
	Ticket string `json:"ticket" doc:"valid once, within 30 seconds"`
}

// RunRequest makes, starts and uses a VM in one step. When the session ends the VM is
// stopped, and deleted if the spec says rm; KeepRunning leaves it running.
type RunRequest struct {
	VM          VMSpec `json:"vm"`
	Exec        Exec   `json:"exec"`
	KeepRunning bool   `json:"keep_running,omitempty"`
}

// RunResult is a VM that runs, and the session in it.
type RunResult struct {
	VM      VM      `json:"vm"`
	Session Session `json:"session"`
	Trace   []Span  `json:"trace"`
}

// Span is one step of a longer operation.
type Span struct {
	Name       string `json:"name"`
	StartNS    int64  `json:"start_ns" doc:"since the operation began"`
	DurationNS int64  `json:"duration_ns"`
}

// StartResult is a VM that runs.
type StartResult struct {
	VM    VM     `json:"vm"`
	Trace []Span `json:"trace"`
}

// Image is an immutable root filesystem with its configuration.
type Image struct {
	Name         string      `json:"name"`
	ID           string      `json:"id"`
	Source       string      `json:"source" doc:"reference it was pulled from"`
	Digest       string      `json:"digest" doc:"of the OCI manifest"`
	Managed      bool        `json:"managed"`
	Arch         string      `json:"arch"`
	RootfsPath   string      `json:"rootfs_path"`
	WorkSeedPath string      `json:"work_seed_path"`
	Kernel       string      `json:"kernel" doc:"empty: the default kernel"`
	SizeBytes    int64       `json:"size_bytes"`
	DiskBytes    int64       `json:"disk_bytes" doc:"allocated on the host"`
	Config       ImageConfig `json:"config"`
	Layers       []Layer     `json:"layers"`
	CreatedAt    time.Time   `json:"created_at"`
	UsedBy       []string    `json:"used_by" doc:"names of VMs"`
}

// ImageConfig is what the image says about running it.
type ImageConfig struct {
	Env          []string `json:"env"`
	User         string   `json:"user"`
	Workdir      string   `json:"workdir"`
	Entrypoint   []string `json:"entrypoint"`
	Cmd          []string `json:"cmd"`
	ExposedPorts []string `json:"exposed_ports"`
}

// Layer is one layer an image was made from.
type Layer struct {
	Digest    string `json:"digest"`
	MediaType string `json:"media_type"`
	SizeBytes int64  `json:"size_bytes"`
}

// ImagePull asks for an image by reference: oci:DIR[:TAG].
type ImagePull struct {
	Ref   string `json:"ref"`
	Name  string `json:"name,omitempty"`
	Force bool   `json:"force,omitempty" doc:"replace an image of that name"`
}

// Kernel is a kernel on disk.
type Kernel struct {
	Name       string    `json:"name"`
	Distro     string    `json:"distro"`
	Arch       string    `json:"arch"`
	Version    string    `json:"kernel_version"`
	SHA256     string    `json:"sha256" doc:"of vmlinux, hex"`
	Source     string    `json:"source" doc:"import:DIR, pull:URL or embedded"`
	ImportedAt time.Time `json:"imported_at"`
	KernelPath string    `json:"kernel_path"`
	InitrdPath string    `json:"initrd_path"`
	ModulesDir string    `json:"modules_dir"`
	SizeBytes  int64     `json:"size_bytes"`
}

// SystemStatus describes the daemon.
type SystemStatus struct {
	PID        int       `json:"pid"`
	Version    string    `json:"version"`
	StateDir   string    `json:"state_dir"`
	Socket     string    `json:"socket"`
	StartedAt  time.Time `json:"started_at"`
	VMsRunning int       `json:"vms_running"`
	KVM        KVM       `json:"kvm"`
}

// KVM tells whether hardware virtualization really works here.
type KVM struct {
	Usable bool   `json:"usable"`
	Reason string `json:"reason"`
}

// Error is the body of every failed response, and of the "error" event of a stream.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// ErrorBody wraps an Error, on the wire and on standard error with --json.
type ErrorBody struct {
	Error Error `json:"error"`
}

// Progress is the data of a "progress" event.
type Progress struct {
	Step  string `json:"step" doc:"what is being done, for a person"`
	Done  int64  `json:"done,omitempty" doc:"bytes"`
	Total int64  `json:"total,omitempty" doc:"bytes; 0: unknown"`
}

// Names of the events of a streamed response (text/event-stream): any number of
// progress events, then one result or one error.
const (
	EventProgress = "progress"
	EventResult   = "result"
	EventError    = "error"
)

// DaemonFile is daemon.json in the state directory.
type DaemonFile struct {
	Socket    string    `json:"socket"`
	PID       int       `json:"pid"`
	StartTime uint64    `json:"start_time" doc:"clock ticks after boot"`
	BootID    string    `json:"boot_id"`
	StartedAt time.Time `json:"started_at"`
	Version   string    `json:"version"`
}

// UpgradeExec is the protocol name of the HTTP upgrade on a shim's socket:
// GET /v1/session with "Authorization: Bearer TICKET" and "Upgrade: banger-session".
const UpgradeExec = "banger-session"
