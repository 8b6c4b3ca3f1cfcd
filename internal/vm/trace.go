package vm

import (
	"time"

	"banger/api"
	"banger/internal/sandbox"
)

// trace collects the spans of one operation.
type trace struct {
	start time.Time
	spans []api.Span
}

func newTrace() *trace { return &trace{start: time.Now()} }

// begin starts a span; the returned function ends it.
func (t *trace) begin(name string) func() {
	from := time.Now()
	return func() { t.add(name, from, time.Now()) }
}

func (t *trace) add(name string, from, to time.Time) {
	t.spans = append(t.spans, api.Span{
		Name: name, StartNS: from.Sub(t.start).Nanoseconds(), DurationNS: to.Sub(from).Nanoseconds(),
	})
}

// addBoot turns a shim's timings into spans. The kernel's share is told by the guest's
// own clock, which starts when the kernel does; firmware and loading count as VMM start.
func (t *trace) addBoot(launched time.Time, m sandbox.Timings) {
	kernel := min(max(m.KernelBoot, 0), m.Hello.Sub(m.VMM)) // the guest's word is bounded by what the host saw
	entered := m.Hello.Add(-kernel)
	t.add("vmm start", launched, entered)
	t.add("kernel", entered, m.Hello)
	t.add("agent ready", m.Hello, m.Ready)
}
