package cliio

import (
	"bufio"
	"strconv"
	"strings"
	"time"
)

// Cell is one value: what a person reads and what a program reads.
type Cell struct {
	human   string
	machine string
	colour  string
	right   bool
	whole   bool // never cut
}

// Text is a cell that reads the same for everybody.
func Text(s string) Cell { return Cell{human: s, machine: s} }

// State is the state of a VM, coloured.
func State(s string) Cell {
	colours := map[string]string{"running": Green, "failed": Red, "starting": Yellow, "stopping": Yellow, "creating": Yellow}
	return Cell{human: s, machine: s, colour: colours[s], whole: true}
}

// Number is a count.
func Number(n int64) Cell {
	s := strconv.FormatInt(n, 10)
	return Cell{human: s, machine: s, right: true, whole: true}
}

// Size is the size of a file: "4.2 MB", or bytes.
func Size(n int64) Cell {
	return Cell{human: HumanSize(n), machine: strconv.FormatInt(n, 10), right: true, whole: true}
}

// Memory is the size of a memory or a disk: "2 GiB", or bytes.
func Memory(n int64) Cell {
	return Cell{human: HumanMemory(n), machine: strconv.FormatInt(n, 10), right: true, whole: true}
}

// Time is "3 minutes ago", or RFC 3339.
func (s *IO) Time(t time.Time) Cell {
	if t.IsZero() {
		return Cell{whole: true}
	}
	return Cell{human: Age(s.Now(), t), machine: t.UTC().Format(time.RFC3339), whole: true}
}

// Table is rows under headers.
type Table struct {
	headers []string
	rows    [][]Cell
}

// NewTable makes an empty table. Where a terminal is too narrow, the widest columns are
// cut, and the first one, which names the row, is kept readable as long as possible.
func NewTable(headers ...string) *Table { return &Table{headers: headers} }

// Row adds one row; it has as many cells as the table has headers.
func (t *Table) Row(cells ...Cell) { t.rows = append(t.rows, cells) }

// WriteTable writes t as the answer: aligned and cut to the terminal's width there,
// tab-separated in a pipe.
func (s *IO) WriteTable(t *Table) error {
	w := bufio.NewWriter(s.Out)
	if s.OutTTY {
		s.aligned(w, t)
	} else {
		tabbed(w, t)
	}
	return w.Flush()
}

func tabbed(w *bufio.Writer, t *Table) {
	_, _ = w.WriteString(strings.Join(t.headers, "\t") + "\n")
	for _, row := range t.rows {
		for i, c := range row {
			if i > 0 {
				_ = w.WriteByte('\t')
			}
			_, _ = w.WriteString(Clean(c.machine))
		}
		_ = w.WriteByte('\n')
	}
}

const (
	gap        = 2  // between columns
	nameColumn = 24 // what the first column keeps before the others are at their least
)

func (s *IO) aligned(w *bufio.Writer, t *Table) {
	widths := t.widths(s.Columns())
	header := make([]Cell, len(t.headers))
	for i, h := range t.headers {
		header[i] = Cell{human: h, colour: Bold, right: len(t.rows) > 0 && t.rows[0][i].right}
	}
	for _, row := range append([][]Cell{header}, t.rows...) {
		var line strings.Builder
		pending := 0 // spaces that are written only if something follows
		for i, c := range row {
			text := fit(Clean(c.human), widths[i])
			pad := widths[i] - textWidth(text)
			if c.right {
				pending, pad = pending+pad, 0
			}
			if text != "" {
				line.WriteString(strings.Repeat(" ", pending))
				pending = 0
			}
			line.WriteString(paint(!s.NoColor, c.colour, text))
			pending += pad + gap
		}
		_, _ = w.WriteString(line.String() + "\n")
	}
}

// widths gives each column what it needs, and cuts the widest until the line fits. A
// column is never cut below its header or 8, nor is a number, a time or a state.
func (t *Table) widths(columns int) []int {
	widths := make([]int, len(t.headers))
	total := gap * (len(widths) - 1)
	for i, h := range t.headers {
		widths[i] = textWidth(h)
		for _, row := range t.rows {
			widths[i] = max(widths[i], textWidth(Clean(row[i].human)))
		}
		total += widths[i]
	}
	for ; total > columns; total-- {
		cut := -1
		for i := range widths {
			least := max(8, textWidth(t.headers[i]))
			if i == 0 {
				least = max(least, nameColumn)
			}
			if len(t.rows) > 0 && t.rows[0][i].whole || widths[i] <= least {
				continue
			}
			if cut < 0 || widths[i] >= widths[cut] {
				cut = i
			}
		}
		if cut < 0 && widths[0] > 8 {
			cut = 0
		}
		if cut < 0 {
			break
		}
		widths[cut]--
	}
	return widths
}

// Field is one line of WriteFields.
type Field struct {
	Name string
	Cell Cell
}

// WriteFields writes one object: a field a line, names aligned on a terminal,
// tab-separated in a pipe. Empty fields are left out on a terminal.
func (s *IO) WriteFields(fields []Field) error {
	w := bufio.NewWriter(s.Out)
	wide := 0
	for _, f := range fields {
		wide = max(wide, len(f.Name))
	}
	for _, f := range fields {
		if !s.OutTTY {
			_, _ = w.WriteString(f.Name + "\t" + Clean(f.Cell.machine) + "\n")
			continue
		}
		if f.Cell.human == "" {
			continue
		}
		name := f.Name + ":" + strings.Repeat(" ", wide-len(f.Name)+1)
		_, _ = w.WriteString(paint(!s.NoColor, Bold, name) + paint(!s.NoColor, f.Cell.colour, Clean(f.Cell.human)) + "\n")
	}
	return w.Flush()
}
