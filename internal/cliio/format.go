package cliio

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"banger/internal/errs"
)

// HumanSize is a file's size as a person reads it: "4.2 MB".
func HumanSize(n int64) string { return scaled(n, 1000, "B", "kB", "MB", "GB", "TB", "PB") }

// HumanMemory is the size of a memory or disk, which people count by 1024: "2 GiB".
func HumanMemory(n int64) string { return scaled(n, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB") }

func scaled(n int64, base float64, units ...string) string {
	v, i := float64(n), 0
	for i < len(units)-1 && math.Abs(v) >= base-0.5 {
		v /= base
		i++
	}
	if i == 0 || v >= 99.95 || v == math.Trunc(v) {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + units[i]
}

// Age is how long ago t was, as a person reads it: "3 minutes ago".
func Age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	d := now.Sub(t)
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return plural(d, time.Second, "second")
	case d < time.Hour:
		return plural(d, time.Minute, "minute")
	case d < 48*time.Hour:
		return plural(d, time.Hour, "hour")
	case d < 60*24*time.Hour:
		return plural(d, 24*time.Hour, "day")
	case d < 730*24*time.Hour:
		return plural(d, 30*24*time.Hour, "month")
	}
	return plural(d, 365*24*time.Hour, "year")
}

func plural(d, unit time.Duration, name string) string {
	n := int64(d / unit)
	if n != 1 {
		name += "s"
	}
	return fmt.Sprintf("%d %s ago", n, name)
}

// HumanDuration is d with three digits at most: "12.3 ms", "4.56 s".
func HumanDuration(d time.Duration) string {
	switch {
	case d < 100*time.Microsecond:
		return "0 ms"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond)/time.Millisecond)
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < 100*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

var sizeUnits = map[string]int64{
	"": 1, "b": 1,
	"k": 1 << 10, "kib": 1 << 10, "kb": 1e3,
	"m": 1 << 20, "mib": 1 << 20, "mb": 1e6,
	"g": 1 << 30, "gib": 1 << 30, "gb": 1e9,
	"t": 1 << 40, "tib": 1 << 40, "tb": 1e12,
}

// ParseSize reads a size as a person types it: 512M, 2GiB, 1.5g, 500MB, a number of
// bytes. K, M, G and T alone count by 1024.
func ParseSize(text string) (int64, error) {
	trimmed := strings.TrimSpace(text)
	digits := len(trimmed) - len(strings.TrimLeft(trimmed, "0123456789."))
	number, unit := trimmed[:digits], strings.ToLower(strings.TrimSpace(trimmed[digits:]))
	factor, known := sizeUnits[unit]
	v, err := strconv.ParseFloat(number, 64)
	bytes := v * float64(factor)
	switch {
	case !known || err != nil:
		return 0, errs.New(errs.Usage, "%q is not a size; write it like 512M, 2GiB or 20G", text)
	case v <= 0:
		return 0, errs.New(errs.Usage, "%q: a size is more than zero", text)
	case bytes >= 1<<62:
		return 0, errs.New(errs.Usage, "%q: too large", text)
	case unit == "" && bytes < 1<<20:
		return 0, errs.New(errs.Usage, "%q: a number alone is bytes; did you mean %sM?", text, number)
	}
	return int64(bytes), nil
}
