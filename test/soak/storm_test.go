//go:build soak

package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/api"
	"banger/client"
	"banger/internal/guestproto"
	"banger/test/rig"
)

var names = []string{"a", "b", "c"}

func spec(name string, rm bool) api.VMSpec {
	return api.VMSpec{Name: name, Image: rig.Image, Kernel: rig.Kernel, VMM: "fake", DiskBytes: 64 << 20, RM: rm}
}

// verb is one thing to do to a VM, and how it may be refused.
type verb struct {
	name    string
	do      func(ctx context.Context, c *client.Client, vm string) error
	refusal []string
}

var verbs = []verb{
	{"create", func(ctx context.Context, c *client.Client, vm string) error {
		_, err := c.CreateVM(ctx, spec(vm, false))
		return err
	}, []string{"already_exists"}},
	{"start", func(ctx context.Context, c *client.Client, vm string) error {
		_, err := c.StartVM(ctx, vm, nil)
		return err
	}, []string{"not_found"}},
	{"stop", func(ctx context.Context, c *client.Client, vm string) error {
		_, err := c.StopVM(ctx, vm)
		return err
	}, []string{"not_found"}},
	{"kill", func(ctx context.Context, c *client.Client, vm string) error {
		_, err := c.KillVM(ctx, vm)
		return err
	}, []string{"not_found"}},
	{"delete", func(ctx context.Context, c *client.Client, vm string) error {
		return c.DeleteVM(ctx, vm, false)
	}, []string{"not_found", "precondition"}},
	{"delete --force", func(ctx context.Context, c *client.Client, vm string) error {
		return c.DeleteVM(ctx, vm, true)
	}, []string{"not_found"}},
	{"run", func(ctx context.Context, c *client.Client, vm string) error {
		made, err := c.Run(ctx, api.RunRequest{VM: spec(vm, true), Exec: api.Exec{Argv: []string{"sh", "-c", "exit 6"}}}, nil)
		if err != nil {
			return err
		}
		exit, err := c.Attach(ctx, made.Session, client.Streams{})
		if err == nil && exit.Code != 6 {
			err = stopped(exit)
		}
		return err
	}, []string{"already_exists", "not_found", "unavailable", "precondition"}}, // others stop and delete it
	{"list", func(ctx context.Context, c *client.Client, _ string) error {
		vms, err := c.VMs(ctx)
		seen := map[string]bool{}
		for _, vm := range vms {
			if seen[vm.Name] {
				return errors.New("two VMs have one name")
			}
			seen[vm.Name] = true
		}
		return err
	}, nil},
	{"exec", func(ctx context.Context, c *client.Client, vm string) error {
		session, err := c.Exec(ctx, vm, api.Exec{Argv: []string{"true"}})
		if err != nil {
			return err
		}
		exit, err := c.Attach(ctx, session, client.Streams{})
		if err == nil && exit.Code != 0 {
			err = stopped(exit)
		}
		return err
	}, []string{"not_found", "precondition", "unavailable"}},
}

// stopped is no error when a command ended as one does whose VM is being stopped: by a
// signal, or before it began.
func stopped(exit client.Exit) error {
	if exit.Signal != 0 || exit.Code == guestproto.CodeRefused && strings.Contains(exit.Error, "shutting down") {
		return nil
	}
	return fmt.Errorf("%+v", exit)
}

// storm does random verbs to few names from many sides until ctx ends.
func storm(ctx context.Context, c *client.Client, report func(v verb, vm string, err error)) *sync.WaitGroup {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				// What needs a VM that runs has its turn more often.
				i := rand.IntN(len(verbs) + 4)
				v, vm := verbs[min(i, len(verbs)-1)], names[rand.IntN(len(names))]
				err := v.do(ctx, c, vm)
				if ctx.Err() == nil {
					report(v, vm, err)
				}
			}
		})
	}
	return &all
}

func prepared(t *testing.T) *rig.Rig {
	t.Helper()
	r := rig.New(t)
	r.Start("")
	r.PullImage()
	return r
}

// consistent holds the daemon's list to what is on the host, and then removes all.
func consistent(t *testing.T, r *rig.Rig) {
	t.Helper()
	c := r.Client()
	defer c.Close()
	var vms []api.VM
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var err error
		if vms, err = c.VMs(t.Context()); err != nil {
			t.Fatalf("list: %v\n%s", err, r.Log())
		}
		settled := !slices.ContainsFunc(vms, func(vm api.VM) bool {
			return vm.State != api.StateStopped && vm.State != api.StateFailed && (vm.State != api.StateRunning || vm.RM)
		})
		if settled {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not settled: %+v\n%s", vms, r.Log())
		}
	}
	for _, vm := range vms {
		processes := rig.Processes(filepath.Join(r.State, "vms", vm.ID))
		if (vm.State == api.StateRunning) != (len(processes) > 0) {
			t.Errorf("VM %s is %s, with processes %v\n%s", vm.Name, vm.State, processes, r.Log())
		}
		if err := c.DeleteVM(t.Context(), vm.ID, true); err != nil {
			t.Errorf("delete %s: %v", vm.Name, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(r.State, "vms")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v\n%s", left, err, r.Log())
	}
}

// Many callers, few names: every call is done or refused for a good reason, and what is
// left is consistent.
func TestStormOfVerbs(t *testing.T) {
	r := prepared(t)
	c := r.Client()
	defer c.Close()
	var mu sync.Mutex
	done := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	storm(ctx, c, func(v verb, vm string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			done[v.name]++
		} else if !slices.Contains(v.refusal, client.Code(err)) {
			t.Errorf("%s %s: %s: %v", v.name, vm, client.Code(err), err)
		}
	}).Wait()
	for _, v := range verbs {
		if done[v.name] == 0 {
			t.Errorf("%s never worked", v.name)
		}
	}
	t.Logf("done: %v", done)
	consistent(t, r)
}

// Of many that want one name at once, one gets it; of many that delete it, one does.
func TestOneWinner(t *testing.T) {
	r := prepared(t)
	c := r.Client()
	defer c.Close()
	together := func(do func() error) (won int, codes []string) {
		var mu sync.Mutex
		var all sync.WaitGroup
		begin := make(chan struct{})
		for range 16 {
			all.Go(func() {
				<-begin
				err := do()
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else {
					codes = append(codes, client.Code(err))
				}
			})
		}
		close(begin)
		all.Wait()
		return won, slices.Compact(codes)
	}
	for range 30 {
		won, codes := together(func() error { _, err := c.CreateVM(t.Context(), spec("one", false)); return err })
		if won != 1 || !slices.Equal(codes, []string{"already_exists"}) {
			t.Errorf("create: %d got the name, others %q", won, codes)
		}
		won, codes = together(func() error { _, err := c.StartVM(t.Context(), "one", nil); return err })
		if won != 16 {
			t.Errorf("start: %d, others %q", won, codes)
		}
		if n := len(rig.Processes(filepath.Join(r.State, "vms"))); n != 2 {
			t.Errorf("started 16 times, %d processes", n)
		}
		won, codes = together(func() error { return c.DeleteVM(t.Context(), "one", true) })
		if won != 1 || !slices.Equal(codes, []string{"not_found"}) {
			t.Errorf("delete: %d did, others %q", won, codes)
		}
	}
	consistent(t, r)
}

// The same storm over a daemon that is killed again and again.
func TestStormOverADyingDaemon(t *testing.T) {
	r := prepared(t)
	for range 40 {
		c := r.Client()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		all := storm(ctx, c, func(verb, string, error) {})
		time.Sleep(time.Duration(50+rand.IntN(450)) * time.Millisecond) // anywhere in the work
		r.Kill()
		cancel()
		all.Wait()
		c.Close()
		r.Start("")
	}
	consistent(t, r)
}
