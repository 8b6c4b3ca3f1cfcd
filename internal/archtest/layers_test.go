package archtest

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// layer is a group of packages with one rule for what they import.
type layer struct {
	name     string
	packages []string // below internal/ unless they begin with another top directory; "x/..." is x and all below
	may      []string // layers, or single packages of one
}

// layers is the order of DESIGN section 4: imports go down the list only. Besides
// what `may` says, a package may import its parent (disk/overlay imports disk).
var layers = []layer{
	{
		name: "base", // no banger noun inside
		packages: []string{
			"config", "effect", "errs", "flight", "keylock", "leakcheck", "paths", "procid",
			"progress", "rollback", "unixsock", "version",
		},
		may: []string{"base"},
	},
	{
		name:     "api", // public: wire types
		packages: []string{"api/..."},
	},
	{
		name:     "client", // public: the Go client
		packages: []string{"client/..."},
		may:      []string{"api", "base", "guest", "guestproto"}, // sessions with a guest run past the daemon
	},
	{
		name: "mechanism", // one each; know no VM and not each other
		packages: []string{
			"archive", "cpio", "embedded", "ext4", "fcapi", "kvmprobe", "netstack", "oci", "oci/ocitest", "qmp",
		},
		may: []string{"base"},
	},
	{
		name:     "contract", // what both ends of a seam agree on
		packages: []string{"disk", "guestproto", "vmm", "vmm/monitor", "vmm/vmmtest/guest"},
		may:      []string{"base"},
	},
	{
		name: "resource",
		packages: []string{
			"disk/overlay", "disk/disktest", "guest", "image", "kernelcat", "sandbox",
			"vmm/qemu", "vmm/vmmtest", "vmm/vmmtest/testinit",
		},
		may: []string{"base", "mechanism", "contract"},
	},
	{
		name:     "orchestration",
		packages: []string{"reconcile", "vm"},
		may:      []string{"base", "api", "contract", "resource", "vm"},
	},
	{
		name:     "shim",
		packages: []string{"shim"},
		may:      []string{"base", "api", "contract", "netstack", "resource"},
	},
	{
		name:     "store",
		packages: []string{"store"},
		may:      []string{"base", "contract", "resource", "orchestration"},
	},
	{
		name:     "daemon", // builds the concrete types
		packages: []string{"daemon/..."},
		may:      []string{"base", "api", "mechanism", "contract", "resource", "orchestration", "store", "shim", "daemon"},
	},
	{
		name:     "cliio",
		packages: []string{"cliio"},
		may:      []string{"base", "api"},
	},
	{
		name:     "cli", // the daemon's side is out of reach
		packages: []string{"cli/..."},
		may:      []string{"api", "client", "cliio", "cli", "effect", "errs", "guestproto", "paths", "progress", "unixsock", "version"},
	},
	{
		name:     "agent", // runs in the guest
		packages: []string{"agent/..."},
		may:      []string{"base", "guestproto", "agent"},
	},
	{
		name:     "fake", // a VMM without a guest, for tests: the agent runs in its process
		packages: []string{"vmm/fake"},
		may:      []string{"base", "mechanism", "contract", "agent"},
	},
	{
		name:     "banger",
		packages: []string{"cmd/banger"},
		may:      []string{"base", "cli"},
	},
	{
		name:     "bangerd",
		packages: []string{"cmd/bangerd"},
		may:      []string{"base", "daemon", "shim", "resource"},
	},
	{
		name:     "banger-agent",
		packages: []string{"cmd/banger-agent"},
		may:      []string{"base", "agent"},
	},
	{
		name:     "tools", // not part of the product
		packages: []string{"archtest", "images/...", "kernels/...", "scripts/...", "test/..."},
		may:      []string{"*"},
	},
}

func TestImportsGoDown(t *testing.T) {
	layerOf := func(name string) *layer {
		for i := range layers {
			for _, pattern := range layers[i].packages {
				if below, whole := strings.CutSuffix(pattern, "/..."); name == below || whole && strings.HasPrefix(name, below+"/") {
					return &layers[i]
				}
			}
		}
		return nil
	}
	for _, p := range list(t, "./...") {
		from := short(p.name())
		fromLayer := layerOf(from)
		if fromLayer == nil {
			t.Errorf("package %s is in no layer: add it to the table in layers_test.go", p.name())
			continue
		}
		for _, imported := range p.Imports {
			name, ours := inModule(imported)
			if !ours {
				continue
			}
			to := short(name)
			toLayer := layerOf(to)
			if toLayer == nil {
				continue // told above
			}
			if to == path.Dir(from) || slices.Contains(fromLayer.may, "*") ||
				slices.Contains(fromLayer.may, toLayer.name) || slices.Contains(fromLayer.may, to) {
				continue
			}
			t.Errorf("%s (%s) imports %s (%s): that layer may import %s",
				from, fromLayer.name, to, toLayer.name, strings.Join(fromLayer.may, ", "))
		}
	}
}

// short is the name that the table has for a package.
func short(name string) string { return strings.TrimPrefix(name, "internal/") }
