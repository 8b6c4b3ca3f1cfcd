package paths_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"banger/internal/errs"
	"banger/internal/paths"
)

func TestFromEnv(t *testing.T) {
	run := t.TempDir()
	for name, c := range map[string]struct {
		env  map[string]string
		want paths.Dirs
	}{
		"home alone": {
			map[string]string{"HOME": "/h"},
			paths.Dirs{State: "/h/.local/state/banger", Runtime: "/h/.local/state/banger", Cache: "/h/.cache/banger"},
		},
		"XDG": {
			map[string]string{"HOME": "/h", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c", "XDG_RUNTIME_DIR": run},
			paths.Dirs{State: "/s/banger", Runtime: run + "/banger", Cache: "/c/banger"},
		},
		"a runtime directory that is gone": {
			map[string]string{"HOME": "/h", "XDG_RUNTIME_DIR": run + "/none"},
			paths.Dirs{State: "/h/.local/state/banger", Runtime: "/h/.local/state/banger", Cache: "/h/.cache/banger"},
		},
		// Two state directories must never share one socket.
		"a state directory of its own": {
			map[string]string{"HOME": "/h", "XDG_RUNTIME_DIR": run, "BANGER_STATE_DIR": "/mine"},
			paths.Dirs{State: "/mine", Runtime: "/mine", Cache: "/h/.cache/banger"},
		},
		"all of its own": {
			map[string]string{"BANGER_STATE_DIR": "/s", "BANGER_RUNTIME_DIR": "/r", "BANGER_CACHE_DIR": "/c"},
			paths.Dirs{State: "/s", Runtime: "/r", Cache: "/c"},
		},
	} {
		got, err := paths.FromEnv(func(key string) string { return c.env[key] })
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestDirectoriesAreAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	got, err := paths.FromEnv(func(key string) string {
		return map[string]string{"BANGER_STATE_DIR": "s", "BANGER_CACHE_DIR": "c"}[key]
	})
	if err != nil || !filepath.IsAbs(got.State) || !filepath.IsAbs(got.Runtime) || !filepath.IsAbs(got.Cache) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNoHome(t *testing.T) {
	_, err := paths.FromEnv(func(string) string { return "" })
	if !errs.Is(err, errs.Usage) || !strings.Contains(errs.HintOf(err), "BANGER_STATE_DIR") {
		t.Errorf("%v, hint %q", err, errs.HintOf(err))
	}
}

// Every path is its own, and lies where it belongs.
func TestPathsDiffer(t *testing.T) {
	seen := map[string]string{}
	collect := func(of any, under string) {
		v := reflect.ValueOf(of)
		for i := range v.NumMethod() {
			name := v.Type().Method(i).Name
			f, ok := v.Method(i).Interface().(func() string)
			if !ok {
				continue
			}
			path := f()
			if other, taken := seen[path]; taken {
				t.Errorf("%s and %s are both %s", name, other, path)
			}
			seen[path] = name
			if filepath.Dir(path) != under && name != "Socket" {
				t.Errorf("%s is %s, not in %s", name, path, under)
			}
		}
	}
	d := paths.Dirs{State: "/s", Runtime: "/r"}
	collect(d, "/s")
	collect(d.VM("x"), d.VMs()+"/x")
	if d.Socket() != "/r/"+paths.SocketName || len(seen) < 20 {
		t.Errorf("socket %s, %d paths", d.Socket(), len(seen))
	}
}
