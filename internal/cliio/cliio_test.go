package cliio

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"banger/api"
	"banger/internal/errs"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"512M": 512 << 20, "2GiB": 2 << 30, "20G": 20 << 30, "1.5g": 3 << 29, "500MB": 500e6, "1048576": 1 << 20, " 1 T ": 1 << 40,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1G", "0", "1X", "1..2G", "512", "9999999T", "0x10M", "1e3M", "G1"} {
		if got, err := ParseSize(text); !errs.Is(err, errs.Usage) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}

func TestHumanNumbers(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1 kB", 4_200_000: "4.2 MB", 999_999: "1 MB", 267_400_000: "267 MB", 21_072_286: "21.1 MB", 1e12: "1 TB",
	} {
		if got := HumanSize(n); got != want {
			t.Errorf("size %d: %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{2 << 30: "2 GiB", 1536 << 20: "1.5 GiB", 512 << 20: "512 MiB", 1000: "1000 B"} {
		if got := HumanMemory(n); got != want {
			t.Errorf("memory %d: %q, want %q", n, got, want)
		}
	}
	now := time.Unix(1e9, 0)
	for d, want := range map[time.Duration]string{
		-time.Minute: "now", 0: "now", time.Second: "1 second ago", 3 * time.Minute: "3 minutes ago", 59 * time.Minute: "59 minutes ago",
		time.Hour: "1 hour ago", 47 * time.Hour: "47 hours ago", 49 * time.Hour: "2 days ago", 100 * 24 * time.Hour: "3 months ago", 800 * 24 * time.Hour: "2 years ago",
	} {
		if got := Age(now, now.Add(-d)); got != want {
			t.Errorf("age %v: %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0 ms", 1500 * time.Microsecond: "1.5 ms", 123456 * time.Microsecond: "123 ms", 4560 * time.Millisecond: "4.56 s", 61 * time.Second: "61.0 s", 125 * time.Second: "2m5s",
	} {
		if got := HumanDuration(d); got != want {
			t.Errorf("duration %v: %q, want %q", d, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain ünïcode 日本": "plain ünïcode 日本", "a\x1b[2Jb": `a\x1b[2Jb`, "\u009b31m": `\u009b31m`, "x\u202ey": `x\u202ey`,
		"\xff": `\xff`, "a\nb\tc\r": `a\nb\tc\x0d`, "\x7f": `\x7f`, "": "",
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := CleanLines("a\nb\x1b\n"); got != "a\nb\\x1b\n" {
		t.Errorf("%q", got)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b\u009b\xff\n")
	f.Fuzz(func(t *testing.T, in string) {
		out := Clean(in)
		if !utf8.ValidString(out) || strings.ContainsFunc(out, harmful) {
			t.Errorf("%q became %q", in, out)
		}
	})
}

// The document says the same after what is dangerous was escaped.
func FuzzJSON(f *testing.F) {
	f.Add("a\x1b\u009b\x7f\u202e\\u0000\"")
	f.Fuzz(func(t *testing.T, in string) {
		in = strings.ToValidUTF8(in, "?")
		raw, err := marshal(api.VM{Name: in}, "")
		if err != nil {
			t.Fatal(err)
		}
		var back api.VM
		if err := json.Unmarshal(raw, &back); err != nil || back.Name != in {
			t.Errorf("%q became %q, %v", in, back.Name, err)
		}
		if strings.ContainsFunc(strings.TrimSuffix(string(raw), "\n"), func(r rune) bool { return r != utf8.RuneError && harmful(r) }) {
			t.Errorf("%q", raw)
		}
	})
}

func TestListsAreNeverNull(t *testing.T) {
	images := []api.Image{{Name: "a"}}
	raw, err := marshal(images, "")
	if err != nil || strings.Contains(string(raw), "null") || !strings.Contains(string(raw), `"used_by":[]`) || !strings.Contains(string(raw), `"env":[]`) {
		t.Errorf("%s, %v", raw, err)
	}
	if images[0].UsedBy != nil {
		t.Error("the caller's value was changed")
	}
	if raw, _ := marshal([]api.VM(nil), ""); string(raw) != "[]\n" {
		t.Errorf("%s", raw)
	}
}

func TestTablesFit(t *testing.T) {
	for columns := 60; columns <= 200; columns += 10 {
		var out bytes.Buffer
		s := &IO{Out: &out, OutTTY: true, NoColor: true, Now: time.Now, Columns: func() int { return columns }}
		table := NewTable("NAME", "SIZE", "SOURCE", "DESCRIPTION")
		table.Row(Text("short"), Size(5), Text("日本語日本語日本語日本語"), Text(strings.Repeat("word ", 30)))
		table.Row(Text(strings.Repeat("n", 63)), Size(4_200_000), Text(""), Text("last"))
		if err := s.WriteTable(table); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(out.String(), "\n") {
			if textWidth(line) > columns {
				t.Errorf("%d columns, %d wide: %s", columns, textWidth(line), line)
			}
			if strings.HasSuffix(line, " ") {
				t.Errorf("spaces at the end: %q", line)
			}
		}
		if !strings.Contains(out.String(), "4.2 MB") {
			t.Errorf("a number was cut:\n%s", &out)
		}
	}
}

func TestColour(t *testing.T) {
	for _, noColor := range []bool{false, true} {
		var out bytes.Buffer
		s := &IO{Out: &out, Err: &out, OutTTY: true, ErrTTY: true, NoColor: noColor, Now: time.Now, Columns: func() int { return 80 }}
		table := NewTable("STATE")
		table.Row(State("running"))
		if err := s.WriteTable(table); err != nil {
			t.Fatal(err)
		}
		s.WriteError(errs.Hint(errs.New(errs.Busy, "x"), "y"))
		s.WriteTrace([]api.Span{{Name: "a", DurationNS: 5}})
		if coloured := strings.Contains(out.String(), "\x1b["); coloured == noColor {
			t.Errorf("no colour %t: %q", noColor, &out)
		}
	}
}

func TestTrace(t *testing.T) {
	var out bytes.Buffer
	s := &IO{Err: &out, Columns: func() int { return 80 }}
	s.WriteTrace([]api.Span{
		{Name: "resolve", DurationNS: 2e6}, {Name: "kernel", StartNS: 50e6, DurationNS: 300e6},
		{Name: "command", StartNS: 400e6, DurationNS: 600e6}, {Name: "a hostile \x1b name, too long to fit", StartNS: -5, DurationNS: -1},
	})
	s.WriteTrace(nil)
	want := `resolve                     2.0 ms  #
kernel                      300 ms    #############
command                     600 ms                   ##########################
a hostile \x1b name, to…      0 ms  #
total                       1.00 s
total      0 ms
`
	if out.String() != want {
		t.Errorf("got:\n%s", &out)
	}
}

// A warning in the middle of a progress line begins on a line of its own.
func TestWarningAndProgress(t *testing.T) {
	var out bytes.Buffer
	s := &IO{Err: &out, ErrTTY: true, Columns: func() int { return 40 }}
	p := s.Progress("doing something that takes long, and longer than the line is wide")
	time.Sleep(progressAfter + 2*progressEvery)
	s.Warn("watch out")
	p.Stop()
	p.Stop()
	text := out.String()
	if !strings.Contains(text, "\r\x1b[Kwatch out\n") || !strings.Contains(text, "doing something") {
		t.Errorf("%q", text)
	}
	for _, drawn := range strings.Split(text, "\r\x1b[K") {
		if textWidth(strings.TrimSuffix(drawn, "watch out\n")) > 39 {
			t.Errorf("too wide: %q", drawn)
		}
	}
	var none *Progress
	none.Update("x", 1, 2)
	none.Stop()
}
