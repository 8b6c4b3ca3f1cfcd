package clienttest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger/api"
	"banger/internal/paths"
	"banger/internal/unixsock"
)

// ModeEnv tells a test binary that was started as bangerd how to behave; see ServeIfAsked.
const ModeEnv = "CLIENTTEST_DAEMON"

// ServeIfAsked is bangerd when the test binary was started as such, and then does not
// return. Call it first in TestMain. The modes are: ok; slow, which listens late; die,
// which logs and ends; refuse, which reports an error; silent, which says nothing and
// ends well; nonsense; lingers, which takes its time to end.
func ServeIfAsked() {
	mode := os.Getenv(ModeEnv)
	if mode == "" || len(os.Args) != 2 || os.Args[1] != "serve" {
		return
	}
	ready := os.NewFile(3, "ready")
	dir := os.Getenv("BANGER_STATE_DIR")
	say := func(line string) {
		_, _ = fmt.Fprintln(ready, line)
		_ = ready.Close()
	}
	switch mode {
	case "die":
		fmt.Fprintln(os.Stderr, "old log\nno such \x1b[31mmoon")
		os.Exit(3)
	case "refuse":
		say(`error {"code":"precondition","message":"the database is newer","hint":"upgrade banger"}`)
		os.Exit(1)
	case "silent":
		os.Exit(0)
	case "nonsense":
		say("what?")
		time.Sleep(time.Second)
		os.Exit(0)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		say("busy")
		os.Exit(0)
	}
	serve(dir, mode, say)
	os.Exit(0)
}

// serve counts itself in the file "served" and ends when told, or after a minute.
func serve(dir, mode string, say func(string)) {
	if mode == "slow" {
		time.Sleep(300 * time.Millisecond)
	}
	counter, err := os.OpenFile(filepath.Join(dir, "served"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	cwd, _ := os.Getwd()
	sid, _ := unix.Getsid(0)
	_, _ = fmt.Fprintf(counter, "cwd=%s leader=%t\n", cwd, sid == os.Getpid())
	socket := filepath.Join(dir, paths.SocketName)
	l, err := unixsock.Listen(socket)
	if err != nil {
		panic(err)
	}
	stop := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/vms", func(w http.ResponseWriter, _ *http.Request) { JSON(w, 200, []api.VM{}) })
	mux.HandleFunc("GET /v1/system/status", func(w http.ResponseWriter, _ *http.Request) {
		JSON(w, 200, api.SystemStatus{PID: os.Getpid(), StateDir: dir, Socket: socket})
	})
	mux.HandleFunc("POST /v1/system/stop", func(w http.ResponseWriter, _ *http.Request) {
		JSON(w, 200, json.RawMessage("{}"))
		time.AfterFunc(100*time.Millisecond, func() { close(stop) })
	})
	go func() { _ = (&http.Server{Handler: mux}).Serve(l) }()
	if err := WriteDaemonFile(dir, socket); err != nil {
		panic(err)
	}
	say("ready")
	select {
	case <-stop:
		if mode == "lingers" { // it listens no more, but has not given the state directory back
			_ = l.Close()
			time.Sleep(time.Second)
		}
	case <-time.After(time.Minute):
	}
}
