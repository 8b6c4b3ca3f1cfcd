// Package guestproto is the protocol between host and guest agent, and the only shared
// definition of it. The guest is hostile: every reader here bounds what it takes.
//
// Transport: over QEMU one yamux session on a virtio-serial port for the VM's whole
// life (the guest is the yamux server, the host the client, and both may open
// streams); over Firecracker vsock connections. Both give the same two kinds of
// connection.
//
// Control: the guest opens exactly one, and speaks first.
//
//	guest Hello → host BootConfig → guest Ready or BootFailed
//	then any time: host Shutdown; guest Ending → host EndingAck
//
// Request: the host opens one for each request, and speaks first.
//
//	host Request(exec) → guest Started or Exit
//	then: host Stdin*, StdinEOF, Signal, Resize; guest StdinWindow, Stdout*, Stderr*, and Exit as the last frame
//
// Input is counted: the host has at most StdinWindow bytes under way that the guest has
// not given back with a StdinWindow frame. So a program that reads nothing never keeps
// the frames behind its input, a signal above all, from being seen.
//
// End of input is a frame, because half-close is lost on Firecracker's vsock. A request
// connection that the host closes before Exit ends its session: the agent sends the
// process group HUP, and KILL after HangupGrace.
//
// Kinds and JSON fields are only ever added; a reader ignores kinds and fields it does
// not know.
package guestproto

import "time"

const (
	// Version is the newest protocol version this code speaks.
	Version = 1
	// PortName is the name of the agent's virtio-serial port.
	PortName = "banger.agent"
	// RequestPort and ControlPort are the vsock ports: the guest listens on the first
	// for requests and dials the second on the host (CID 2).
	RequestPort = 1024
	ControlPort = 1025
	// HangupGrace is what a session gets between HUP and KILL when its client is gone.
	HangupGrace = 2 * time.Second
	// StdinWindow is how many bytes of input the host may send before the guest gives
	// the first back.
	StdinWindow = 256 << 10
)

// Kind tells what a frame carries.
type Kind uint8

// Frame kinds. The comment names the payload: a JSON document of that type, or bytes.
const (
	KindHello      Kind = 1  // Hello
	KindBootConfig Kind = 2  // BootConfig
	KindReady      Kind = 3  // Ready
	KindBootFailed Kind = 4  // BootFailed
	KindEnding     Kind = 5  // Ending
	KindEndingAck  Kind = 6  // empty
	KindShutdown   Kind = 7  // Shutdown
	KindRequest    Kind = 16 // Request
	KindStarted    Kind = 17 // Started
	KindStdin      Kind = 18 // bytes
	KindStdinEOF   Kind = 19 // empty
	KindStdout     Kind = 20 // bytes
	KindStderr     Kind = 21 // bytes
	KindSignal     Kind = 22 // Signal
	KindResize     Kind = 23 // Resize
	KindExit       Kind = 24 // Exit

	KindStdinWindow Kind = 25 // Credit
)

// Hello is the guest's first word.
type Hello struct {
	Version    int    `json:"version"`
	BootID     string `json:"boot_id"`    // /proc/sys/kernel/random/boot_id
	Generation string `json:"generation"` // changes when the VM was resumed from a snapshot
	Kernel     string `json:"kernel"`     // uname -r
	MainNS     int64  `json:"main_ns"`    // CLOCK_BOOTTIME when the agent's main began
	HelloNS    int64  `json:"hello_ns"`   // CLOCK_BOOTTIME when this was sent
}

// BootConfig is everything that tells this VM apart. It is on no disk and not on the
// kernel command line.
type BootConfig struct {
	Version   int      `json:"version"`
	Hostname  string   `json:"hostname"`
	MachineID string   `json:"machine_id"` // 32 hex digits
	ClockNS   int64    `json:"clock_ns"`   // host's CLOCK_REALTIME
	Base      string   `json:"base"`       // device of the read-only root, "/dev/vda"
	Upper     string   `json:"upper"`      // device of the private upper, "/dev/vdb"
	Work      string   `json:"work"`       // device of the work disk, "/dev/vdc"; "" has none
	Env       []string `json:"env"`        // K=V, defaults for every session
	Seed      []byte   `json:"seed"`       // 32 bytes for the guest's random pool
}

// Ready says that the guest takes requests.
type Ready struct {
	Stages []Stage `json:"stages"`
	// Warnings are steps that went wrong and were not worth the guest's life, for
	// example a hostname that a full disk did not take.
	Warnings []string `json:"warnings,omitempty"`
}

// Stage is a point of the guest's boot.
type Stage struct {
	Name string `json:"name"`
	AtNS int64  `json:"at_ns"` // CLOCK_BOOTTIME
}

// BootFailed says at which stage the guest's boot ended.
type BootFailed struct {
	Stage string `json:"stage"`
	Error string `json:"error"`
}

// How a guest ends.
const (
	VerbPoweroff = "poweroff"
	VerbHalt     = "halt"
	VerbReboot   = "reboot"
)

// Ending announces how the guest is about to end; it waits shortly for the EndingAck.
type Ending struct {
	Verb string `json:"verb"`
}

// Shutdown asks the guest to end: TERM to every process, KILL after the grace, sync,
// unmount, Ending, reset.
type Shutdown struct {
	Verb    string `json:"verb"`
	GraceMS int64  `json:"grace_ms"`
}

// Request is the first frame of a request connection. A repeat with the same ID is not
// executed twice.
type Request struct {
	ID   string `json:"id"`
	Verb string `json:"verb"` // VerbExec
	Exec *Exec  `json:"exec,omitempty"`
}

// VerbExec runs a command.
const VerbExec = "exec"

// Exec describes a command. Argv[0] without a slash is looked for on PATH of the
// resulting environment.
type Exec struct {
	Argv  []string `json:"argv"`
	Env   []string `json:"env"`  // K=V, over BootConfig.Env and the user's HOME, USER, LOGNAME, SHELL
	Dir   string   `json:"dir"`  // "": the user's home
	User  string   `json:"user"` // name or uid, optionally ":group"; "": root
	TTY   bool     `json:"tty"`
	Rows  uint16   `json:"rows,omitempty"`
	Cols  uint16   `json:"cols,omitempty"`
	Login bool     `json:"login"` // Argv is empty: run the user's login shell
}

// Started says that the process runs.
type Started struct {
	PID int `json:"pid"` // in the guest
}

// Signal is sent to the session's process group (the foreground one on a terminal).
type Signal struct {
	Number int `json:"number"`
}

// Resize sets the terminal's size.
type Resize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Credit gives the host back as many bytes of input as the program took.
type Credit struct {
	Bytes int `json:"bytes"`
}

// CodeRefused is the Code of an Exit whose command was never tried, for a reason that
// Error tells: a malformed request, an unknown user, a directory that is not there.
const CodeRefused = 125

// Exit is the end of a session. Code is what a shell would report: the exit status,
// 128+Signal, 126 for a command that is not executable, 127 for one that does not
// exist; or CodeRefused. OOM goes with any code but 0: the kernel killed a process of
// the session for memory.
type Exit struct {
	Code   int    `json:"code"`
	Signal int    `json:"signal,omitempty"`
	OOM    bool   `json:"oom,omitempty"`
	Error  string `json:"error,omitempty"`
}
