package cli_test

import (
	"encoding/json"
	"testing"
	"time"

	"banger/api"
	"banger/client/clienttest"
)

func filled(t *testing.T) *clienttest.Daemon {
	d := clienttest.Start(t)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	started := ago(90 * time.Second)
	vms := []api.VM{
		{
			ID: "01", Name: "swift-fox", State: "running", Image: "debian-12", Kernel: "slim", CPUs: 2, MemoryBytes: 2 << 30,
			DiskBytes: 20 << 30, IP: "10.0.2.15", CreatedAt: ago(3 * time.Hour), StartedAt: &started, VMM: "qemu", PID: 4711,
			Ports: []api.Port{{Host: "127.0.0.1:8080", Guest: 80, Proto: "tcp"}},
		},
		{
			ID: "02", Name: "a-name-that-is-as-long-as-the-rules-allow-which-is-a-lot-63", State: "failed", CPUs: 16,
			Image: "registry.example.test/deep/path/python-3.12-slim-bookworm", MemoryBytes: 1536 << 20, DiskBytes: 100 << 30,
			CreatedAt: ago(40 * 24 * time.Hour), Error: "the guest's kernel panicked",
		},
	}
	images := []api.Image{{
		Name: "debian-12", ID: "i1", Source: "oci:/var/tmp/layout", Digest: "sha256:abc", Managed: true, Arch: "amd64",
		RootfsPath: "/s/images/i1/rootfs.ext4", SizeBytes: 267_400_000, DiskBytes: 270_000_000,
		Config:    api.ImageConfig{Env: []string{"PATH=/bin", "A=b c"}, Cmd: []string{"/bin/sh", "-l"}},
		Layers:    []api.Layer{{Digest: "sha256:def", MediaType: "m", SizeBytes: 9}},
		CreatedAt: ago(time.Minute), UsedBy: []string{"swift-fox"},
	}}
	kernels := []api.Kernel{{
		Name: "slim", Distro: "debian", Arch: "x86_64", Version: "6.12.9", SHA256: "00ff", Source: "embedded",
		ImportedAt: ago(26 * time.Hour), KernelPath: "/s/kernels/slim/vmlinux", SizeBytes: 4_200_000,
	}}
	d.Answer("GET /v1/vms", vms)
	d.Answer("GET /v1/vms/swift-fox", vms[0])
	d.Answer("GET /v1/images", images)
	d.Answer("GET /v1/images/debian-12", images[0])
	d.Answer("GET /v1/kernels", kernels)
	d.Answer("GET /v1/kernels/slim", kernels[0])
	return d
}

// Each answer for a person on 80 columns, in a pipe, and as JSON.
func TestAnswers(t *testing.T) {
	s := newShell(t, filled(t))
	for name, args := range map[string][]string{
		"vm-list": {"vm", "list"}, "vm-show": {"vm", "show", "swift-fox"},
		"image-list": {"image", "ls"}, "image-show": {"image", "show", "debian-12"},
		"kernel-list": {"kernel", "list"}, "kernel-show": {"kernel", "show", "slim"},
	} {
		s.terminal = true
		if code := s.run(args...); code != 0 || s.err.Len() > 0 {
			t.Errorf("%s: exit %d, %s", name, code, &s.err)
		}
		golden(t, name+".terminal", s.out.String())
		for _, line := range lines(s.out.String()) {
			if n := len([]rune(line)); n > 80 {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
		s.terminal = false
		s.run(args...)
		golden(t, name+".pipe", s.out.String())
		s.run(append(args, "--json")...)
		golden(t, name+".json", s.out.String())
		if !json.Valid(s.out.Bytes()) {
			t.Errorf("%s: not JSON", name)
		}
	}
	if s.run("ps", "-q"); len(lines(s.out.String())) != 2 {
		t.Errorf("%s", &s.out)
	}
}

func lines(text string) []string {
	var all []string
	for start, i := 0, 0; i < len(text); i++ {
		if text[i] == '\n' {
			all = append(all, text[start:i])
			start = i + 1
		}
	}
	return all
}

func TestEmptyAnswers(t *testing.T) {
	d := clienttest.Start(t)
	d.Answer("GET /v1/vms", json.RawMessage("null"))
	d.Answer("GET /v1/images", []api.Image{})
	d.Answer("GET /v1/kernels", json.RawMessage("null"))
	s := newShell(t, d)
	for noun, columns := range map[string]string{
		"vm":     "NAME\tSTATE\tIMAGE\tCPUS\tMEMORY\tDISK\tCREATED\n",
		"image":  "NAME\tARCH\tSIZE\tDISK\tSOURCE\tCREATED\n",
		"kernel": "NAME\tDISTRO\tARCH\tVERSION\tSIZE\tSOURCE\tIMPORTED\n",
	} {
		if s.run(noun, "list", "--json"); s.out.String() != "[]\n" {
			t.Errorf("%s: %q", noun, &s.out)
		}
		if s.run(noun, "list"); s.out.String() != columns {
			t.Errorf("%s: %q", noun, &s.out)
		}
	}
}
