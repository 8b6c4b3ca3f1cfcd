package smoke_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"banger/test/smoke/host"
)

func TestExitCodeIsTheCommands(t *testing.T) {
	h := steady(t)
	r := h.Want(7, "run", "--rm", "--", "sh", "-c", "exit 7")
	if r.Out != "" || r.Err != "" {
		t.Errorf("it said something: %v", r)
	}
}

func TestStreamsAreKeptApart(t *testing.T) {
	h := steady(t)
	r := h.RunWith("b\na\n", "run", "--rm", "--", "sh", "-c", "sort; echo problem >&2; exit 3")
	if r.Code != 3 || r.Out != "a\nb\n" || r.Err != "problem\n" {
		t.Errorf("%v", r)
	}
}

func TestSignalsAndFailedStartsHaveTheirCodes(t *testing.T) {
	h := steady(t)
	h.Want(143, "run", "--rm", "--", "sh", "-c", "kill -TERM $$")
	r := h.Want(127, "run", "--rm", "--", "no-such-command")
	contains(t, "stderr", r.Err, "banger: run no-such-command: ", "not found")
	h.Want(0, "run", "--name", "codes", "--keep-running", "--", "true")
	h.Want(137, "exec", "codes", "--", "sh", "-c", "kill -KILL $$")
	r = h.Want(126, "exec", "codes", "--", "/etc/passwd")
	contains(t, "stderr", r.Err, "banger: ", "/etc/passwd", "permission denied")
	r = h.Want(126, "exec", "codes", "--", "/etc")
	contains(t, "stderr", r.Err, "banger: ", "/etc")
	r = h.Want(125, "exec", "codes", "-w", "/no/such", "--", "true")
	contains(t, "stderr", r.Err, "/no/such")
	h.Want(0, "rm", "-f", "codes")
}

// program is what an image without anything else holds. It ends with the code that is
// its first argument, fills a file up to so many MiB, or tells a file's size.
const program = `package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	fmt.Println("static", len(os.Args)-1)
	fmt.Fprintln(os.Stderr, "apart")
	if len(os.Args) < 2 {
		return
	}
	switch os.Args[1] {
	case "fill":
		if err := fill(os.Args[2], os.Args[3]); err != nil {
			fmt.Println(err)
			os.Exit(4)
		}
	case "size":
		info, err := os.Stat(os.Args[2])
		if err != nil {
			panic(err)
		}
		fmt.Println(info.Size())
	default:
		code, err := strconv.Atoi(os.Args[1])
		if err != nil {
			panic(err)
		}
		os.Exit(code)
	}
}

func fill(path, mebibytes string) error {
	most, err := strconv.Atoi(mebibytes)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i)
	}
	for n := range most {
		if _, err := f.Write(block); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		fmt.Println("synced", n+1)
	}
	return f.Close()
}
`

// bareImage makes the reference of an image that holds one static program and no shell.
func bareImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source, built := filepath.Join(dir, "main.go"), filepath.Join(dir, "tool")
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", built, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	binary, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	return host.WriteLayout(t, "tool", binary, "/tool", "5")
}

func TestImageWithoutAShell(t *testing.T) {
	ref := bareImage(t)
	h := steady(t)
	h.Want(0, "image", "pull", ref, "--name", "bare")
	r := h.Want(127, "run", "--rm", "--image", "bare", "--", "sh")
	contains(t, "no shell", r.Err, "banger: run sh: ", "not found")
	r = h.Want(127, "run", "--rm", "--image", "bare", "-t")
	contains(t, "no shell for a terminal", r.Err+r.Out, "/bin/sh", "no such file")
	r = h.Want(3, "run", "--rm", "--image", "bare", "--", "/tool", "3", "4")
	if r.Out != "static 2\n" || r.Err != "apart\n" {
		t.Errorf("the program: %v", r)
	}
	r = h.Want(5, "run", "--rm", "--image", "bare")
	if r.Out != "static 1\n" {
		t.Errorf("the image's own command: %v", r)
	}
	h.Want(0, "image", "delete", "-y", "bare")
}

func TestTwentyInARow(t *testing.T) {
	h := steady(t)
	for i := range 20 {
		h.Want(i, "run", "--rm", "--", "sh", "-c", fmt.Sprintf("exit %d", i))
	}
}

func TestFourAtOnce(t *testing.T) {
	h := steady(t)
	var all sync.WaitGroup
	for i := range 4 {
		p := h.Start(strings.NewReader(fmt.Sprint(i)), "run", "--rm", "--memory", "512M", "--", "sh", "-c", fmt.Sprintf("cat; exit 1%d", i))
		all.Go(func() {
			if r := p.Wait(); r.Code != 10+i || r.Out != fmt.Sprint(i) {
				t.Errorf("run %d: %v", i, r)
			}
		})
	}
	all.Wait()
}
