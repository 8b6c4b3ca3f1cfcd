package guest

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// clean makes the guest's text safe for a terminal and a log: at most limit bytes, and
// whatever cannot be printed is escaped as Go escapes it.
func clean(s string, limit int) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		piece := s[:size]
		switch {
		case r == utf8.RuneError && size == 1:
			piece = `\x` + strconv.FormatUint(uint64(s[0])|0x100, 16)[1:]
		case !strconv.IsPrint(r):
			quoted := strconv.QuoteRune(r)
			piece = quoted[1 : len(quoted)-1]
		}
		const more = "…"
		if b.Len()+len(piece)+len(more) > limit {
			b.WriteString(more)
			break
		}
		b.WriteString(piece)
		s = s[size:]
	}
	return b.String()
}
