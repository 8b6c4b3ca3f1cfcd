package passwd_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/agent/passwd"
	"banger/internal/errs"
)

func db(t testing.TB, users, groups string) passwd.DB {
	t.Helper()
	dir := t.TempDir()
	d := passwd.DB{Passwd: filepath.Join(dir, "passwd"), Group: filepath.Join(dir, "group")}
	for path, text := range map[string]string{d.Passwd: users, d.Group: groups} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

const users = `root:x:0:0:root:/root:/bin/bash
# a comment
short:x:1

noid:x:abc:0::/:
minus:x:-1:0::/:
huge:x:4294967295:0::/:
dev:x:1000:1000:Dev,,,:/home/dev:/bin/zsh
dev:x:2000:2000:a second one:/x:/y
1000:x:77:77:a name like a number:/home/n:/bin/sh
bare:x:5:6:::
`

const groups = `root:x:0:
wheel:x:10:root,dev
dev:x:1000:
docker:x:999:other,dev
twice:x:999:dev
bad:x:abc:dev
nomembers:x:5
`

func TestLookup(t *testing.T) {
	d := db(t, users, groups)
	dev := passwd.User{Name: "dev", UID: 1000, GID: 1000, Groups: []uint32{10, 999}, Home: "/home/dev", Shell: "/bin/zsh"}
	devAs := func(gid uint32) passwd.User { u := dev; u.GID, u.Groups = gid, nil; return u }
	root := passwd.User{Name: "root", Groups: []uint32{10}, Home: "/root", Shell: "/bin/bash"}
	cases := []struct {
		spec string
		want passwd.User
		err  errs.Class
	}{
		{"", root, 0}, {"root", root, 0}, {"0", root, 0}, {"dev", dev, 0},
		{"dev:docker", devAs(999), 0}, {"dev:12345", devAs(12345), 0}, {":docker", passwd.User{Name: "root", GID: 999, Home: "/root", Shell: "/bin/bash"}, 0},
		{"1000", passwd.User{Name: "1000", UID: 77, GID: 77, Home: "/home/n", Shell: "/bin/sh"}, 0}, // a name goes first
		{"2000", passwd.User{Name: "dev", UID: 2000, GID: 2000, Groups: []uint32{1000 - 990, 999}, Home: "/x", Shell: "/y"}, 0},
		{"4000", passwd.User{UID: 4000, Home: "/", Shell: "/bin/sh"}, 0},
		{"4000:4001", passwd.User{UID: 4000, GID: 4001, Home: "/", Shell: "/bin/sh"}, 0},
		{"bare", passwd.User{Name: "bare", UID: 5, GID: 6, Home: "/", Shell: "/bin/sh"}, 0},
		{"nobody", passwd.User{}, errs.NotFound}, {"noid", passwd.User{}, errs.NotFound}, {"minus", passwd.User{}, errs.NotFound},
		{"huge", passwd.User{}, errs.NotFound}, {"short", passwd.User{}, errs.NotFound}, {"-1", passwd.User{}, errs.NotFound},
		{"4294967295", passwd.User{}, errs.NotFound}, {"dev:nogroup", devAs(0), errs.NotFound},
		{"dev:", passwd.User{}, errs.Usage}, {"de\nv", passwd.User{}, errs.Usage},
	}
	for _, c := range cases {
		got, err := d.Lookup(c.spec)
		if c.err != 0 {
			if !errs.Is(err, c.err) {
				t.Errorf("%q: %v, want class %v", c.spec, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v, want %+v", c.spec, got, err, c.want)
		}
	}
}

func TestNoDatabase(t *testing.T) {
	for _, d := range []passwd.DB{
		{Passwd: "/no/such/passwd", Group: "/no/such/group"},
		{Passwd: "/dev/null/passwd", Group: "/dev/null/group"},
		db(t, "", ""),
	} {
		for _, spec := range []string{"", "root", "0"} {
			u, err := d.Lookup(spec)
			if err != nil || u.UID != 0 || u.Home != "/root" || u.Shell != "/bin/sh" {
				t.Errorf("%q: %+v, %v", spec, u, err)
			}
		}
	}
}

// What a guest may put in the files' place neither blocks nor eats memory.
func TestHostileFiles(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	sparse := filepath.Join(dir, "sparse")
	if err := os.WriteFile(sparse, []byte("root:x:0:0::/first:/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 1<<40); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for path, wantErr := range map[string]bool{fifo: true, "/dev/zero": true, dir: true, sparse: false, loop: false} {
		done := make(chan error, 1)
		go func() {
			_, err := passwd.DB{Passwd: path, Group: path}.Lookup("root")
			done <- err
		}()
		select {
		case err := <-done:
			if (err != nil) != wantErr {
				t.Errorf("%s: %v", path, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: blocks", path)
		}
	}
	var many strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&many, "g%d:x:%d:dev\n", i, i+5000)
	}
	if u, err := db(t, users, many.String()).Lookup("dev"); err != nil || len(u.Groups) != 1024 {
		t.Errorf("%d groups, %v", len(u.Groups), err)
	}
}

func FuzzLookup(f *testing.F) {
	f.Add(users, groups, "dev:docker")
	f.Fuzz(func(t *testing.T, users, groups, spec string) {
		u, err := db(t, users, groups).Lookup(spec)
		if err == nil && (u.Home == "" || u.Home[0] != '/' || u.Shell == "" || u.UID == 1<<32-1 || u.GID == 1<<32-1 || len(u.Groups) > 1024) {
			t.Errorf("%q: %+v", spec, u)
		}
	})
}
