package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/api"
	"banger/client/clienttest"
	"banger/internal/cli"
	"banger/internal/cli/app"
	"banger/internal/cliio"
	"banger/internal/errs"
)

var update = flag.Bool("update", false, "write the golden files")

// now is the time in tests.
var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// mainEnv makes the test binary banger itself.
const mainEnv = "CLI_TEST_MAIN"

func TestMain(m *testing.M) {
	clienttest.ServeIfAsked()
	if os.Getenv(mainEnv) != "" {
		os.Exit(cli.Main(os.Args[1:], clienttest.Version))
	}
	os.Exit(m.Run())
}

// shell runs commands in this process.
type shell struct {
	t        *testing.T
	in       string
	terminal bool
	getenv   func(string) string

	out, err bytes.Buffer
	app      *app.App
}

func newShell(t *testing.T, d *clienttest.Daemon) *shell {
	s := &shell{t: t, getenv: func(string) string { return "" }}
	if d != nil {
		s.getenv = d.Getenv
	}
	return s
}

func (s *shell) run(args ...string) int {
	s.t.Helper()
	s.out.Reset()
	s.err.Reset()
	interrupts, ctx := app.NewInterrupts(s.t.Context())
	interrupts.Die = func(code int) { s.t.Errorf("died with %d", code) }
	s.app = &app.App{
		IO: &cliio.IO{
			In: strings.NewReader(s.in), Out: &s.out, Err: &s.err, NoColor: true,
			InTTY: s.terminal, OutTTY: s.terminal, ErrTTY: s.terminal,
			Now: func() time.Time { return now }, Columns: func() int { return 80 },
		},
		Getenv: s.getenv, Version: clienttest.Version, Interrupts: interrupts,
	}
	return cli.Run(ctx, s.app, args)
}

// golden compares with testdata/name; -update writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update writes it)\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}

// The table of CLI.md: class to exit code, for commands that have codes of their own and
// for those that give the guest's.
func TestExitCodes(t *testing.T) {
	d := clienttest.Start(t)
	codes := map[errs.Class]int{
		errs.Internal: 1, errs.Usage: 2, errs.NotFound: 3, errs.AlreadyExists: 4, errs.Busy: 4, errs.Precondition: 5,
		errs.Permission: 5, errs.InvalidData: 6, errs.Exhausted: 1, errs.Unavailable: 1, errs.Cancelled: 7, errs.Timeout: 8,
	}
	s := newShell(t, d)
	for class, want := range codes {
		refusal := api.Error{Code: class.Code(), Message: "it is so", Hint: "live with it"}
		d.Refuse("GET /v1/vms/"+class.Code(), 500, refusal)
		d.Refuse("POST /v1/vms/"+class.Code()+"/exec", 500, refusal)
		if got := s.run("vm", "show", class.Code()); got != want || s.err.String() != "banger: it is so\nhint: live with it\n" || s.out.Len() > 0 {
			t.Errorf("%v: exit %d, want %d, %q", class, got, want, &s.err)
		}
		for _, args := range [][]string{{"exec", "--json"}, {"vm", "exec", "--json"}} {
			got := s.run(append(args, class.Code(), "--", "true")...)
			if got != 125 {
				t.Errorf("%v: exec gives %d", class, got)
			}
		}
		s.run("exec", class.Code(), "--json", "--", "true")
		var body api.ErrorBody
		if err := json.Unmarshal(s.err.Bytes(), &body); err != nil || body.Error != refusal {
			t.Errorf("%v: %s", class, &s.err)
		}
	}
}

func TestCommandLinesThatAreWrong(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	cases := []struct {
		args string
		code int
		err  string
	}{
		{"vm lst", 2, `unknown command "banger vm lst"` + "\n" + `hint: did you mean "list"? see: banger vm --help`},
		{"vmm", 2, `unknown command "banger vmm"` + "\n" + `hint: did you mean "vm"? see: banger --help`},
		{"frobnicate", 2, `unknown command "banger frobnicate"` + "\n" + "hint: see: banger --help"},
		{"vm list --jsno", 2, "unknown flag --jsno\nhint: did you mean --json? see: banger vm list --help"},
		{"vm list -z", 2, "unknown flag -z\nhint: see: banger vm list --help"},
		{"vm list x", 2, "argument \"x\" is not expected\nhint: see: banger vm list --help"},
		{"vm show", 2, "a name is missing\nhint: see: banger vm show --help"},
		{"vm delete", 2, "a name is missing\nhint: see: banger vm delete --help"},
		{"vm create a b", 2, "argument \"b\" is not expected\nhint: see: banger vm create --help"},
		{"vm create a --cpus x", 2, "--cpus: strconv.ParseInt: parsing \"x\": invalid syntax\nhint: see: banger vm create --help"},
		{"vm create a --cpus 0", 2, "--cpus 0: at least 1 is needed\nhint: see: banger vm create --help"},
		{"vm create a --memory 1Q", 2, "--memory: \"1Q\" is not a size; write it like 512M, 2GiB or 20G\nhint: see: banger vm create --help"},
		{"vm wait a", 2, "--for is missing\nhint: see: banger vm wait --help"},
		{"vm wait a --for tea", 2, "--for \"tea\": it is one of running, ready, stopped, deleted\nhint: see: banger vm wait --help"},
		{"vm wait a --for ready --timeout 0s", 2, "--timeout 0s: a duration is more than zero\nhint: see: banger vm wait --help"},
		{"completion tcsh", 2, "shell \"tcsh\": it is one of bash, zsh, fish, powershell\nhint: see: banger completion --help"},
		{"run ./repo -- make", 125, "run \"./repo\": bringing a directory in is not available in this version\nhint: a command comes after two dashes: banger run -- ./repo"},
		{"run --egress none", 125, "unknown flag --egress\nhint: see: banger run --help"},
		{"run --detach --keep-running", 125, "--detach and --keep-running exclude each other\nhint: see: banger run --help"},
		{"run --detach -- true", 125, "--detach with a command is not available in this version; use --keep-running\nhint: see: banger run --help"},
		{"run -t -T -- true", 125, "--tty and --no-tty exclude each other\nhint: see: banger run --help"},
		{"run -e =x -- true", 125, "--env: \"=x\" has no name; write K=V\nhint: see: banger run --help"},
		{"vm run --timeout 5 -- true", 125, "--timeout: time: missing unit in duration \"5\"\nhint: see: banger vm run --help"},
		{"exec", 125, "a name is missing\nhint: see: banger exec --help"},
		{"exec a", 125, "a command is missing, and there is no terminal for a shell\nhint: see: banger exec --help"},
		{"exec a ls -l", 125, "unknown flag -l\nhint: see: banger exec --help"},
		{"exec a ls", 125, "argument \"ls\" is not expected\nhint: a command comes after two dashes: banger exec a -- ls"},
		{"exec a -t --json -- ls", 125, `{"error":{"code":"usage","message":"--json and --tty exclude each other","hint":"see: banger exec --help"}}`},
		{"run --json --nope", 125, `{"error":{"code":"usage","message":"unknown flag --nope","hint":"see: banger run --help"}}`},
		{"delete a", 2, `unknown command "banger delete"` + "\nhint: see: banger --help"},
		{"rm a", 5, "delete VM \"a\" with all its disks: not confirmed, and there is no terminal to ask on\nhint: confirm with --yes"},
		{"image rm a b", 5, "delete image \"a\", \"b\": not confirmed, and there is no terminal to ask on\nhint: confirm with --yes"},
	}
	s := newShell(t, nil)
	for _, c := range cases {
		code := s.run(strings.Fields(c.args)...)
		want := "banger: " + c.err + "\n"
		if strings.HasPrefix(c.err, "{") {
			want = c.err + "\n"
		}
		if code != c.code || s.err.String() != want || s.out.Len() > 0 {
			t.Errorf("banger %s: exit %d, want %d\ngot:  %q\nwant: %q\nout: %q", c.args, code, c.code, &s.err, want, &s.out)
		}
	}
}

// Names may come from anywhere; none may move a cursor.
func TestHostileTextIsShownHarmlessly(t *testing.T) {
	d := clienttest.Start(t)
	evil := "a\x1b[2J\u009b31m\u202e\r\n\xff"
	d.Answer("GET /v1/vms", []api.VM{{Name: evil, State: "running", Image: evil}})
	d.Refuse("GET /v1/vms/{name}", 404, api.Error{Code: "internal", Message: "show " + evil, Hint: evil})
	s := newShell(t, d)
	for _, terminal := range []bool{true, false} {
		s.terminal = terminal
		for _, args := range [][]string{{"vm", "list"}, {"vm", "list", "--json"}, {"vm", "list", "-q"}, {"vm", "show", evil}, {"vm", "show", evil, "--json"}, {"vm", evil}} {
			s.run(args...)
			for _, bad := range []string{"\x1b", "\u009b", "\u202e", "\r", "\xff"} {
				if strings.Contains(s.out.String()+s.err.String(), bad) {
					t.Errorf("%q, terminal %t: %q in %q %q", args, terminal, bad, &s.out, &s.err)
				}
			}
		}
	}
}

func TestSuggestionsForNames(t *testing.T) {
	d := clienttest.Start(t)
	d.Answer("GET /v1/kernels", []api.Kernel{{Name: "debian-6.1"}, {Name: "slim"}})
	d.Refuse("GET /v1/kernels/{name}", 404, api.Error{Code: "not_found", Message: `kernel "debin-6.1": not found`})
	s := newShell(t, d)
	if code := s.run("kernel", "show", "debin-6.1"); code != 3 || s.err.String() !=
		"banger: kernel \"debin-6.1\": not found\nhint: did you mean \"debian-6.1\"? see: banger kernel list\n" {
		t.Errorf("exit %d, %s", code, &s.err)
	}
	if s.run("kernel", "show", "unlike-any"); !strings.HasSuffix(s.err.String(), "hint: see: banger kernel list\n") {
		t.Errorf("%s", &s.err)
	}
}

func TestDeleteAsks(t *testing.T) {
	d := clienttest.Start(t)
	deleted := 0
	d.Handle("DELETE /v1/vms/{name}", func(w http.ResponseWriter, r *http.Request) {
		deleted++
		if r.URL.Query().Has("force") != (r.PathValue("name") == "forced") {
			t.Errorf("%s", r.URL)
		}
		clienttest.JSON(w, 200, struct{}{})
	})
	s := newShell(t, d)
	s.terminal = true
	for _, c := range []struct {
		in, args string
		code, n  int
	}{
		{"y\n", "rm a", 0, 1},
		{"YES\n", "vm delete a b", 0, 2},
		{"\n", "rm a", 7, 0},
		{"", "rm a", 7, 0},
		{"no\n", "rm a", 7, 0},
		{"", "rm -y a", 0, 1},
		{"", "rm -f forced", 0, 1},
	} {
		deleted, s.in = 0, c.in
		if code := s.run(strings.Fields(c.args)...); code != c.code || deleted != c.n {
			t.Errorf("%q, banger %s: exit %d, %d deleted, %s", c.in, c.args, code, deleted, &s.err)
		}
	}
	s.terminal = false
	if code := s.run("rm", "-y", "a", "b", "--json"); code != 0 || strings.Join(strings.Fields(s.out.String()), "") != `{"deleted":["a","b"]}` {
		t.Errorf("exit %d, %s", code, &s.out)
	}
}

// With several names one failure does not keep the others from being done.
func TestSeveralNames(t *testing.T) {
	d := clienttest.Start(t)
	d.Handle("POST /v1/vms/{name}/stop", func(w http.ResponseWriter, r *http.Request) {
		if name := r.PathValue("name"); strings.HasPrefix(name, "no") {
			clienttest.Fail(w, 404, api.Error{Code: "not_found", Message: "vm " + name + ": not found", Hint: "x"})
			return
		}
		clienttest.JSON(w, 200, api.VM{Name: r.PathValue("name"), State: "stopped"})
	})
	s := newShell(t, d)
	if code := s.run("vm", "stop", "a", "no1", "b", "no2"); code != 3 || s.out.String() != "a\nb\n" ||
		strings.Count(s.err.String(), "not found") != 2 {
		t.Errorf("exit %d, %q, %q", code, &s.out, &s.err)
	}
}

func TestCtrlCBeforeASession(t *testing.T) {
	d := clienttest.Start(t)
	s := newShell(t, d)
	for _, args := range [][]string{{"run", "--", "true"}, {"image", "pull", "oci:/x"}} {
		gone := make(chan bool, 1)
		pattern := map[string]string{"run": "POST /v1/run", "image": "POST /v1/images"}[args[0]]
		d.Handle(pattern, func(_ http.ResponseWriter, r *http.Request) {
			s.app.Interrupts.Deliver(os.Interrupt)
			select {
			case <-r.Context().Done():
				gone <- true
			case <-time.After(10 * time.Second):
				gone <- false
			}
		})
		if code := s.run(args...); code != 130 || !<-gone {
			t.Errorf("%v: exit %d, %s", args, code, &s.err)
		}
	}
}

func TestVersionNeedsNoDaemon(t *testing.T) {
	s := newShell(t, nil)
	if s.run("version") != 0 || !strings.HasPrefix(s.out.String(), "banger "+clienttest.Version+" (") {
		t.Errorf("%s", &s.out)
	}
	var doc map[string]string
	if s.run("version", "--json") != 0 || json.Unmarshal(s.out.Bytes(), &doc) != nil || doc["version"] != clienttest.Version {
		t.Errorf("%s", &s.out)
	}
	if s.run("help", "vm", "exec") != 0 || !strings.Contains(s.out.String(), "banger vm exec NAME") || s.err.Len() > 0 {
		t.Errorf("%s %s", &s.out, &s.err)
	}
	if s.run() != 0 || !strings.Contains(s.out.String(), "Usage:") {
		t.Errorf("%s", &s.out)
	}
}

func TestCompletion(t *testing.T) {
	d := clienttest.Start(t)
	d.Answer("GET /v1/vms", []api.VM{{Name: "alpha"}, {Name: "beta"}})
	d.Answer("GET /v1/images", []api.Image{{Name: "debian-12"}})
	d.Answer("GET /v1/kernels", []api.Kernel{{Name: "slim"}})
	s := newShell(t, d)
	for _, sh := range []string{"bash", "zsh", "fish", "powershell"} {
		if s.run("completion", sh) != 0 || s.out.Len() < 1000 || s.err.Len() > 0 {
			t.Errorf("%s: %d bytes, %s", sh, s.out.Len(), &s.err)
		}
	}
	for args, want := range map[string]string{
		"exec |":           "alpha beta",
		"vm stop alpha |":  "beta",
		"vm show alpha |":  "",
		"run --image |":    "debian-12",
		"vm create --kern": "--kernel",
		"kernel show |":    "slim",
		"image rm |":       "debian-12",
		"vm wait --for |":  "running ready stopped deleted",
		"completion |":     "bash zsh fish powershell",
	} {
		words := strings.Fields(args)
		if last := len(words) - 1; words[last] == "|" {
			words[last] = ""
		}
		s.run(append([]string{"__completeNoDesc"}, words...)...)
		lines := strings.Split(strings.TrimSpace(s.out.String()), "\n")
		if got := strings.Join(lines[:len(lines)-1], " "); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}

// A shell that asks for names gets none, and quickly, when there is no daemon.
func TestCompletionStartsNoDaemon(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := newShell(t, nil)
	s.getenv = func(name string) string {
		return map[string]string{"BANGER_STATE_DIR": dir, "BANGER_DAEMON": "/bin/false"}[name]
	}
	s.run("__completeNoDesc", "exec", "")
	if _, err := os.Stat(dir); err == nil || strings.TrimSpace(s.out.String()) != ":4" {
		t.Errorf("%q, %v", &s.out, err)
	}
}

func TestVersionWarning(t *testing.T) {
	d := clienttest.Start(t)
	d.Answer("GET /v1/vms", []api.VM{})
	for _, terminal := range []bool{true, false} {
		s := newShell(t, d)
		s.terminal = terminal
		a := &app.App{IO: &cliio.IO{Out: &s.out, Err: &s.err, ErrTTY: terminal, Now: time.Now, Columns: func() int { return 80 }},
			Getenv: d.Getenv, Version: "another"}
		if code := cli.Run(context.Background(), a, []string{"vm", "list"}); code != 0 || strings.Contains(s.err.String(), "warning: the daemon has version") != terminal {
			t.Errorf("terminal %t: exit %d, %s", terminal, code, &s.err)
		}
	}
}

func TestSystem(t *testing.T) {
	d := clienttest.Start(t)
	d.Answer("GET /v1/system/status", api.SystemStatus{PID: 7, Version: "v", StateDir: "/s", Socket: "/s/x", StartedAt: now, KVM: api.KVM{Reason: "no /dev/kvm"}})
	s := newShell(t, d)
	if code := s.run("system", "status", "--json"); code != 0 {
		t.Fatal(code)
	}
	var doc map[string]any
	if err := json.Unmarshal(s.out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"pid", "version", "state_dir", "socket", "vms_running", "kvm"} {
		if _, ok := doc[key]; !ok {
			t.Errorf("no %s in %s", key, &s.out)
		}
	}
	s.terminal = true
	s.run("system", "status")
	if !strings.Contains(s.out.String(), "kvm:         not usable: no /dev/kvm\n") {
		t.Errorf("%s", &s.out)
	}
	s = newShell(t, nil)
	dir := t.TempDir()
	s.getenv = func(name string) string { return map[string]string{"BANGER_STATE_DIR": dir}[name] }
	if code := s.run("system", "stop"); code != 0 || s.err.String() != "the daemon does not run\n" {
		t.Errorf("exit %d, %s", code, &s.err)
	}
}
