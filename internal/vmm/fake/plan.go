package fake

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Magic begins a kernel file that tells the fake VMM how its guest behaves, on the
// first line: "#!fake KEY=VALUE …". Any ELF file is a kernel whose guest behaves well.
//
//	exit=N              the VMM does not start: it says so on its log and exits with N
//	boot=DURATION       the guest takes that long to say hello
//	hang                the guest says nothing, ever
//	boot-failed=STAGE   the guest reports that its boot failed there
//	panic=DURATION      the guest's kernel panics that long after its start; exit status 0
//	reset=DURATION      the machine resets without a word that long after its start
//	crash=DURATION      the VMM dies of SIGKILL that long after its start
//	die=DURATION        as reset, that long after the guest was ready
//	end=VERB@DURATION   somebody in the guest ends it (poweroff, halt, reboot), that long
//	                    after its start
//	deaf                the guest hears Shutdown and does nothing
//	console=BYTES       the guest floods its console with so many bytes first
//	conformance         the guest is package vmmtest/guest
//
// Durations are Go's ("50ms").
const Magic = "#!fake"

type plan struct {
	exit        int
	boot        time.Duration
	hang        bool
	bootFailed  string
	panics      time.Duration
	reset       time.Duration
	crash       time.Duration
	die         time.Duration
	endVerb     string
	endAfter    time.Duration
	deaf        bool
	console     int64
	conformance bool
}

// readPlan reads the first line of a kernel file; a file that is neither ELF nor Magic
// is an error.
func readPlan(path string) (plan, error) {
	var p plan
	f, err := os.Open(path)
	if err != nil {
		return p, err
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return p, err
	}
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		return p, nil
	}
	line, _, _ := strings.Cut(string(head), "\n")
	rest, ok := strings.CutPrefix(line, Magic)
	if !ok {
		return p, fmt.Errorf("%s: not a kernel", path)
	}
	for _, word := range strings.Fields(rest) {
		key, value, _ := strings.Cut(word, "=")
		if err := p.set(key, value); err != nil {
			return p, fmt.Errorf("%s: %q: %w", path, word, err)
		}
	}
	return p, nil
}

func (p *plan) set(key, value string) (err error) {
	switch key {
	case "exit":
		p.exit, err = strconv.Atoi(value)
	case "boot":
		p.boot, err = time.ParseDuration(value)
	case "hang":
		p.hang = true
	case "boot-failed":
		p.bootFailed = value
	case "panic":
		p.panics, err = time.ParseDuration(value)
	case "reset":
		p.reset, err = time.ParseDuration(value)
	case "crash":
		p.crash, err = time.ParseDuration(value)
	case "die":
		p.die, err = time.ParseDuration(value)
	case "end":
		verb, after, _ := strings.Cut(value, "@")
		p.endVerb = verb
		p.endAfter, err = time.ParseDuration(after)
	case "deaf":
		p.deaf = true
	case "console":
		p.console, err = strconv.ParseInt(value, 10, 64)
	case "conformance":
		p.conformance = true
	default:
		err = fmt.Errorf("unknown key")
	}
	return err
}
