// Package agent is banger's side inside a guest: PID 1 from the first instruction after
// the kernel's, which makes the machine out of its disks and the host's configuration,
// runs commands for the host, and ends the machine in order. ServeHost is the same agent
// on a host, without a guest, for tests.
package agent
