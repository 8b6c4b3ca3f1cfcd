// Package smoke_test holds the built programs, with real guests, to what banger promises:
// the guest's answers come through, the host stays as it was, and whatever is killed,
// full, hostile or in the way is told as it is.
package smoke_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"banger/test/rig"
	"banger/test/smoke/host"
)

// Two state directories serve all tests that need the Debian image: one with a daemon
// that runs all the time, and one whose daemon comes and goes.
var steadyHost, shakenHost kept

type kept struct{ *host.Host }

func TestMain(m *testing.M) {
	if path := os.Getenv(strangerSocket); path != "" {
		os.Exit(beStranger(path))
	}
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		rig.Main(m) // this is bangerd with the fake VMM
	}
	code := m.Run()
	for _, k := range []*kept{&steadyHost, &shakenHost} {
		if err := k.end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// use gives the host to a test, which must leave it as it was.
func (k *kept) use(t *testing.T, daemon bool) *host.Host {
	t.Helper()
	bin, oci := host.Bin(t), host.OCI(t)
	t.Logf("programs in %s, image %s", bin, oci)
	if k.Host == nil {
		dir, err := makeDir()
		if err != nil {
			t.Fatal(err)
		}
		h := host.At(t, dir)
		h.Pull()
		k.Host = h
	}
	k.TB = t
	k.Unchanged(daemon)
	return k.Host
}

// makeDir makes a directory that outlives the test that needs it first.
func makeDir() (string, error) { return os.MkdirTemp("", "banger-smoke") }

// end stops what serves a kept host when the tests are over.
func (k *kept) end() error {
	if k.Host == nil {
		return nil
	}
	stop := k.Start(nil, "system", "stop")
	if r := stop.Wait(); r.Code != 0 {
		return fmt.Errorf("stop the daemon: %v", r)
	}
	if left := rig.Processes(k.State); len(left) > 0 {
		return fmt.Errorf("left at the end:\n%s", strings.Join(left, "\n"))
	}
	return os.RemoveAll(k.Dir)
}

func steady(t *testing.T) *host.Host { t.Helper(); return steadyHost.use(t, true) }
func shaken(t *testing.T) *host.Host { t.Helper(); return shakenHost.use(t, false) }

// contains holds text to parts of it.
func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s: no %q in:\n%s", what, part, text)
		}
	}
}
