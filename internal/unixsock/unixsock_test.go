package unixsock_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/errs"
	"banger/internal/unixsock"
)

func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	if _, err := unixsock.Dial(t.Context(), path); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("nothing there: %v", err)
	}
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	conn, err := unixsock.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if uid, err := unixsock.PeerUID(peer.(*net.UnixConn)); err != nil || int(uid) != os.Getuid() {
		t.Errorf("peer uid %d, %v", uid, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := unixsock.Dial(t.Context(), path); !errs.Is(err, errs.Unavailable) {
		t.Fatalf("nobody listens: %v", err)
	}
	again, err := unixsock.Listen(path)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	again.Close()
}
