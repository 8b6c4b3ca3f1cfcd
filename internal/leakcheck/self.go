package leakcheck

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// descriptors lists this process's, by what they lead to: a number may be reused.
func (inv *Inventory) descriptors() error {
	self := process{pid: os.Getpid()}
	listing := fmt.Sprintf("/proc/%d/fd", self.pid)
	for number, target := range self.descriptors() {
		if target == listing {
			continue // the one that this list is read from
		}
		line := inv.add("descriptor %s", kind(target))
		inv.detail[line] = "one of them is " + number
	}
	return nil
}

// goroutines lists them by the place that started them; those of package testing and
// the runtime's own are left out.
func (inv *Inventory) goroutines() error {
	stacks := make([]byte, 1<<20)
	for {
		n := runtime.Stack(stacks, true)
		if n < len(stacks) {
			stacks = stacks[:n]
			break
		}
		stacks = make([]byte, 2*len(stacks))
	}
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		_, creator, ok := strings.Cut(stack, "\ncreated by ")
		if !ok {
			continue // the main goroutine
		}
		creator, _, _ = strings.Cut(creator, "\n")
		creator, _, _ = strings.Cut(creator, " in goroutine")
		if strings.HasPrefix(creator, "testing.") || strings.HasPrefix(creator, "runtime.") ||
			strings.HasPrefix(creator, "os/signal.") {
			continue
		}
		line := inv.add("goroutine started by %s", creator)
		inv.detail[line] = stack
	}
	return nil
}
