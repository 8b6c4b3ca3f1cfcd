package cliio

import (
	"fmt"
	"strings"
	"time"

	"banger/api"
)

// WriteTrace writes how long each step took, as bars on one scale, to standard error.
func (s *IO) WriteTrace(spans []api.Span) {
	const duration = 8
	s.errMu.Lock()
	defer s.errMu.Unlock()
	s.line.erase()
	names, end := 5, int64(1)
	for _, sp := range spans {
		names = max(names, min(24, textWidth(Clean(sp.Name))))
		end = max(end, sp.StartNS+sp.DurationNS)
	}
	columns := 80
	if s.ErrTTY {
		columns = max(40, min(columns, s.Columns()))
	}
	room := int64(columns - names - duration - 5)
	for _, sp := range spans {
		from := min(max(0, sp.StartNS)*room/end, room-1)
		length := max(1, min((max(0, sp.DurationNS)*room+end/2)/end, room-from))
		bar := strings.Repeat(" ", int(from)) + paint(s.ErrTTY && !s.NoColor, Green, strings.Repeat("#", int(length)))
		name := fit(Clean(sp.Name), names)
		_, _ = fmt.Fprintf(s.Err, "%s%s  %*s  %s\n", name, strings.Repeat(" ", names-textWidth(name)),
			duration, HumanDuration(time.Duration(sp.DurationNS)), bar)
	}
	_, _ = fmt.Fprintf(s.Err, "%-*s  %*s\n", names, "total", duration, HumanDuration(time.Duration(end)))
}
