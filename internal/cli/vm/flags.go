package vm

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"banger/api"
	"banger/internal/cli/app"
	"banger/internal/cliio"
	"banger/internal/errs"
)

// specFlags are what describes a VM, in run and create.
type specFlags struct {
	Name, Image, Kernel string
	CPUs                int
	Memory, Disk        sizeFlag
	RM                  bool
}

func (f *specFlags) add(a *app.App, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.Image, "image", "", "`IMAGE`, by name or reference (default: the configured one)")
	flags.StringVar(&f.Kernel, "kernel", "", "`KERNEL` (default: the image's, else the embedded one)")
	flags.IntVar(&f.CPUs, "cpus", 0, "number of CPUs (default 2)")
	flags.Var(&f.Memory, "memory", "memory, like 512M or 2GiB (default 2GiB)")
	flags.Var(&f.Disk, "disk", "size of the disk, which takes only what is used (default 20GiB)")
	flags.BoolVar(&f.RM, "rm", false, "delete the VM when it stops")
	a.CompleteFlag(cmd, "image", app.ImageNames)
	a.CompleteFlag(cmd, "kernel", app.KernelNames)
}

func (f *specFlags) spec(cmd *cobra.Command, getenv func(string) string) (api.VMSpec, error) {
	if cmd.Flags().Changed("cpus") && f.CPUs < 1 {
		return api.VMSpec{}, app.Usage(cmd, "--cpus %d: at least 1 is needed", f.CPUs)
	}
	image, err := app.AbsoluteRef(f.Image)
	return api.VMSpec{
		Name: f.Name, Image: image, Kernel: f.Kernel, CPUs: f.CPUs,
		MemoryBytes: int64(f.Memory), DiskBytes: int64(f.Disk), RM: f.RM,
		VMM: getenv("BANGER_VMM"),
	}, err
}

// sizeFlag is a number of bytes that is typed as a size.
type sizeFlag int64

func (s *sizeFlag) Set(text string) error {
	n, err := cliio.ParseSize(text)
	*s = sizeFlag(n)
	return err
}

func (s *sizeFlag) Type() string { return "size" }

func (s *sizeFlag) String() string {
	if *s == 0 {
		return ""
	}
	return cliio.HumanMemory(int64(*s))
}

// execFlags are what describes a command in a VM, in run and exec.
type execFlags struct {
	TTY, NoTTY, Interactive bool
	Dir, User               string
	Env, EnvFiles           []string
}

func (f *execFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVarP(&f.TTY, "tty", "t", false, "give the command a terminal, also when here is none")
	flags.BoolVarP(&f.NoTTY, "no-tty", "T", false, "give the command no terminal")
	flags.BoolVarP(&f.Interactive, "interactive", "i", false, "accepted; standard input is always passed")
	flags.StringVarP(&f.Dir, "workdir", "w", "", "working `DIR` (default: the image's, else the home directory)")
	flags.StringVarP(&f.User, "user", "u", "", "`USER`, by name or uid, optionally :group (default: the image's, else root)")
	flags.StringArrayVarP(&f.Env, "env", "e", nil, "environment variable `K=V`, or K to pass one on")
	flags.StringArrayVar(&f.EnvFiles, "env-file", nil, "`FILE` of lines K=V")
}

// exec is the request for argv. Whether it gets a terminal is decided here: it does when
// both ends are terminals, unless a flag says else.
func (f *execFlags) exec(cmd *cobra.Command, a *app.App, argv []string, json bool) (api.Exec, error) {
	x := api.Exec{Argv: argv, Dir: f.Dir, User: f.User}
	switch {
	case f.TTY && f.NoTTY:
		return x, app.Usage(cmd, "--tty and --no-tty exclude each other")
	case json && f.TTY:
		return x, app.Usage(cmd, "--json and --tty exclude each other")
	case f.TTY:
		x.TTY = true
	case !f.NoTTY && !json:
		x.TTY = a.IO.InTTY && a.IO.OutTTY
	}
	if x.TTY {
		if size, ok := terminalSize(a.IO); ok {
			x.Rows, x.Cols = size.Rows, size.Cols
		}
		if term := a.Getenv("TERM"); term != "" {
			x.Env = append(x.Env, "TERM="+term)
		}
	}
	for _, path := range f.EnvFiles {
		lines, err := readEnvFile(path, a.Getenv)
		if err != nil {
			return x, err
		}
		x.Env = append(x.Env, lines...)
	}
	for _, entry := range f.Env {
		pair, ok, err := envPair(entry, a.Getenv)
		if err != nil {
			return x, app.Usage(cmd, "--env: %w", err)
		}
		if ok {
			x.Env = append(x.Env, pair)
		}
	}
	return x, nil
}

// envPair checks K=V; a K alone is taken from this process's environment, if it is there.
func envPair(entry string, getenv func(string) string) (pair string, ok bool, err error) {
	key, _, hasValue := strings.Cut(entry, "=")
	switch {
	case key == "":
		return "", false, errs.New(errs.Usage, "%q has no name; write K=V", entry)
	case strings.ContainsRune(entry, 0):
		return "", false, errs.New(errs.Usage, "%q holds a zero byte", key)
	case hasValue:
		return entry, true, nil
	}
	value := getenv(key)
	return key + "=" + value, value != "", nil
}

// readEnvFile reads lines K=V; empty lines and those that begin with # are skipped.
func readEnvFile(path string, getenv func(string) string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, errs.With(errs.Usage, err)
	}
	defer f.Close()
	var pairs []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(strings.TrimSuffix(lines.Text(), "\r"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		pair, ok, err := envPair(line, getenv)
		if err != nil {
			return nil, errs.New(errs.Usage, "%s:%d: %w", filepath.Base(path), n, err)
		}
		if ok {
			pairs = append(pairs, pair)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, errs.With(errs.Usage, err)
	}
	return pairs, nil
}
