package fake_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/effect"
	"banger/internal/guestproto"
	"banger/internal/leakcheck"
	"banger/internal/vmm"
	"banger/internal/vmm/fake"
)

// guest is a started fake with the files it writes.
type guest struct {
	vmm.Machine
	dir string
}

func start(t *testing.T, plan string) guest {
	t.Helper()
	g := guest{dir: t.TempDir()}
	leakcheck.Check(t, leakcheck.Options{Dirs: []string{g.dir}, Ignore: []string{"*"}})
	kernel := filepath.Join(g.dir, "kernel")
	if err := os.WriteFile(kernel, []byte(plan+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(g.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	console, log := open("console"), open("log")
	defer console.Close()
	defer log.Close()
	var err error
	g.Machine, err = fake.New(effect.New(nil)).Start(t.Context(), vmm.Spec{
		Kernel: kernel, CPUs: 1, MemoryBytes: 1 << 20, Console: console, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Kill(context.Background()); err != nil {
			t.Error(err)
		}
		_ = g.Close()
	})
	return g
}

func (g guest) waitDone(t *testing.T, exit string) {
	t.Helper()
	select {
	case <-g.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the VMM does not end")
	}
	if g.Exit() != exit {
		t.Errorf("exit %q, want %q", g.Exit(), exit)
	}
}

// hello is the control connection after the guest's first word and our answer.
func (g guest) hello(t *testing.T) *guestproto.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := g.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	control := guestproto.NewConn(stream)
	t.Cleanup(func() { _ = control.Close() })
	var hello guestproto.Hello
	if err := control.ReadJSON(guestproto.KindHello, &hello); err != nil {
		t.Fatal(err)
	}
	if err := control.WriteJSON(guestproto.KindBootConfig, guestproto.BootConfig{Version: 1}); err != nil {
		t.Fatal(err)
	}
	return control
}

// next waits for a frame of that kind.
func next(t *testing.T, c *guestproto.Conn, want guestproto.Kind, v any) {
	t.Helper()
	if err := c.ReadJSON(want, v); err != nil {
		t.Fatalf("frame of kind %d: %v", want, err)
	}
}

func (g guest) exec(t *testing.T, argv ...string) *guestproto.Conn {
	t.Helper()
	stream, err := g.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn := guestproto.NewConn(stream)
	t.Cleanup(func() { _ = conn.Close() })
	request := guestproto.Request{ID: t.Name(), Verb: guestproto.VerbExec, Exec: &guestproto.Exec{Argv: argv}}
	if err := conn.WriteJSON(guestproto.KindRequest, request); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestElfIsAWellBehavedGuest(t *testing.T) {
	g := start(t, "\x7fELF")
	control := g.hello(t)
	var ready guestproto.Ready
	next(t, control, guestproto.KindReady, &ready)
	conn := g.exec(t, "sh", "-c", "exit 7")
	var started guestproto.Started
	next(t, conn, guestproto.KindStarted, &started)
	var exit guestproto.Exit
	next(t, conn, guestproto.KindExit, &exit)
	if exit.Code != 7 {
		t.Errorf("exit %+v", exit)
	}
	if err := control.WriteJSON(guestproto.KindShutdown, guestproto.Shutdown{Verb: guestproto.VerbPoweroff, GraceMS: 100}); err != nil {
		t.Fatal(err)
	}
	var ending guestproto.Ending
	next(t, control, guestproto.KindEnding, &ending)
	if ending.Verb != guestproto.VerbPoweroff {
		t.Errorf("ending %+v", ending)
	}
	_ = control.Write(guestproto.KindEndingAck, nil)
	g.waitDone(t, "exit status 0")
}

// Killed, the fake takes the guest's commands with it, as a real VMM does: the leak
// check of start sees one that stays.
func TestCommandsDieWithTheVMM(t *testing.T) {
	g := start(t, "\x7fELF")
	control := g.hello(t)
	var ready guestproto.Ready
	next(t, control, guestproto.KindReady, &ready)
	conn := g.exec(t, "sh", "-c", "sleep 600 & wait")
	var started guestproto.Started
	next(t, conn, guestproto.KindStarted, &started)
	if err := g.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPlannedEnds(t *testing.T) {
	for plan, exit := range map[string]string{
		"exit=3":                    "exit status 3",
		"panic=20ms":                "exit status 0",
		"hang reset=20ms":           "exit status 0",
		"crash=20ms console=100000": "signal: killed",
		"nonsense":                  "exit status 1",
		"boot=soon":                 "exit status 1",
	} {
		t.Run(plan, func(t *testing.T) {
			g := start(t, fake.Magic+" "+plan)
			g.waitDone(t, exit)
			text := func(name string) string {
				b, _ := os.ReadFile(filepath.Join(g.dir, name))
				return string(b)
			}
			if strings.HasPrefix(plan, "panic") && !strings.Contains(text("console"), "Kernel panic - not syncing") {
				t.Errorf("console %q", text("console"))
			}
			if strings.Contains(plan, "console") && len(text("console")) < 100000 {
				t.Errorf("console has %d bytes", len(text("console")))
			}
			if exit == "exit status 1" && text("log") == "" {
				t.Error("the log says nothing")
			}
		})
	}
}

func TestPlannedGuests(t *testing.T) {
	t.Run("boot fails", func(t *testing.T) {
		g := start(t, fake.Magic+" boot=10ms boot-failed=mount")
		control := g.hello(t)
		var failed guestproto.BootFailed
		next(t, control, guestproto.KindBootFailed, &failed)
		if failed.Stage != "mount" || failed.Error == "" {
			t.Errorf("%+v", failed)
		}
		_ = control.Close()
		g.waitDone(t, "exit status 0")
	})
	t.Run("ends by itself", func(t *testing.T) {
		g := start(t, fake.Magic+" end=reboot@50ms")
		control := g.hello(t)
		var ready guestproto.Ready
		next(t, control, guestproto.KindReady, &ready)
		var ending guestproto.Ending
		next(t, control, guestproto.KindEnding, &ending)
		if ending.Verb != guestproto.VerbReboot {
			t.Errorf("%+v", ending)
		}
		g.waitDone(t, "exit status 0")
	})
	t.Run("dies after ready", func(t *testing.T) {
		g := start(t, fake.Magic+" die=20ms")
		control := g.hello(t)
		var ready guestproto.Ready
		next(t, control, guestproto.KindReady, &ready)
		if kind, _, err := control.Read(); err == nil {
			t.Errorf("a word: kind %d", kind)
		}
		g.waitDone(t, "exit status 0")
	})
	t.Run("deaf", func(t *testing.T) {
		g := start(t, fake.Magic+" deaf")
		control := g.hello(t)
		var ready guestproto.Ready
		next(t, control, guestproto.KindReady, &ready)
		if err := control.WriteJSON(guestproto.KindShutdown, guestproto.Shutdown{Verb: guestproto.VerbPoweroff}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-g.Done():
			t.Error("it ended")
		case <-time.After(200 * time.Millisecond):
		}
	})
	t.Run("hang", func(t *testing.T) {
		g := start(t, fake.Magic+" hang")
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := g.Accept(ctx); err == nil {
			t.Error("a word")
		}
	})
}
