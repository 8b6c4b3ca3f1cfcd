package smoke_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/api"
	"banger/test/smoke/host"
)

// onSocket is an HTTP client of a unix socket, as curl --unix-socket is.
func onSocket(t *testing.T, path string) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: host.Patience}
}

func get(t *testing.T, c *http.Client, url string, header ...string) (status int, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// What a web page could make a browser send is refused, on every path.
func TestBrowsersAreRefused(t *testing.T) {
	h := steady(t)
	c := onSocket(t, h.Socket())
	for _, path := range []string{"/v1/vms", "/openapi.json", "/no/such"} {
		for name, refused := range map[string][]string{
			"origin":         {"http://localhost" + path, "Origin", "http://localhost"},
			"null origin":    {"http://localhost" + path, "Origin", "null"},
			"referer":        {"http://localhost" + path, "Referer", "http://evil.example/"},
			"foreign host":   {"http://evil.example" + path},
			"address":        {"http://127.0.0.1" + path},
			"prefix of name": {"http://localhost.evil.example" + path},
		} {
			status, body := get(t, c, refused[0], refused[1:]...)
			var e api.ErrorBody
			if err := json.Unmarshal(body, &e); err != nil || status != http.StatusForbidden || e.Error.Code != "permission" {
				t.Errorf("%s on %s: %d %s", name, path, status, body)
			}
		}
	}
	if status, body := get(t, c, "http://localhost/v1/vms"); status != http.StatusOK || strings.TrimSpace(string(body)) != "[]" {
		t.Errorf("curl: %d %s", status, body)
	}
}

// operations are all that the API can do, by the names that DESIGN gives them.
var operations = []string{
	"image.delete", "image.list", "image.pull", "image.show",
	"kernel.list", "kernel.show",
	"system.status", "system.stop",
	"vm.create", "vm.delete", "vm.exec", "vm.kill", "vm.list", "vm.run", "vm.show", "vm.start", "vm.stop", "vm.wait",
}

// The API's description is complete and refers to nothing that is not in it.
func TestOpenAPI(t *testing.T) {
	h := steady(t)
	status, body := get(t, onSocket(t, h.Socket()), "http://localhost/openapi.json")
	var document map[string]any
	if err := json.Unmarshal(body, &document); err != nil || status != http.StatusOK {
		t.Fatalf("%d, %v: %s", status, err, body)
	}
	if version, _ := document["openapi"].(string); !strings.HasPrefix(version, "3.1") {
		t.Errorf("version %q", version)
	}
	var found []string
	paths, _ := document["paths"].(map[string]any)
	for path, item := range paths {
		methods, _ := item.(map[string]any)
		for method, operation := range methods {
			o, _ := operation.(map[string]any)
			id, _ := o["operationId"].(string)
			found = append(found, id)
			if o["responses"] == nil || o["summary"] == nil || !strings.HasPrefix(path, "/v1/") {
				t.Errorf("%s %s: %v", method, path, o)
			}
		}
	}
	slices.Sort(found)
	if !slices.Equal(found, operations) {
		t.Errorf("operations %q, want %q", found, operations)
	}
	var refs func(v any)
	refs = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				refs(e)
			}
		case map[string]any:
			for key, e := range v {
				if ref, ok := e.(string); ok && key == "$ref" && lookup(document, ref) == nil {
					t.Errorf("%s leads nowhere", ref)
				}
				refs(e)
			}
		}
	}
	refs(document)
}

func lookup(document any, ref string) any {
	rest, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		return nil
	}
	for _, key := range strings.Split(rest, "/") {
		object, _ := document.(map[string]any)
		document = object[key]
	}
	return document
}

// strangerSocket makes the test binary somebody who asks a socket for something.
const strangerSocket = "BANGER_TEST_STRANGER"

// beStranger tells on standard output how far it got.
func beStranger(path string) int {
	conn, err := net.DialTimeout("unix", path, host.Patience)
	if err != nil {
		fmt.Println("connect:", err)
		return 0
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(host.Patience))
	// A refusal may come before the request is out.
	_, _ = io.WriteString(conn, "GET /v1/vms HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		fmt.Println("read:", err)
		return 0
	}
	fmt.Printf("answer: %q\n", answer)
	return 0
}

// Nobody but the owner and root gets a word out of a socket, whatever its mode became.
func TestOtherUsersAreRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	h := steady(t)
	h.Want(0, "run", "--name", "mine", "--keep-running", "--memory", "512M", "--", "true")
	sockets := []string{h.Socket(), h.RunDir(h.VM("mine").ID).ShimSocket()}
	ask := func(path string) string {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe") // the binary's directory is not for others
		cmd.Env, cmd.Dir = []string{strangerSocket + "=" + path}, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	for _, socket := range sockets {
		if said := ask(socket); !strings.Contains(said, "connect: ") || !strings.Contains(said, "permission denied") {
			t.Errorf("%s: %s", socket, said)
		}
	}
	// As after somebody's careless chmod -R.
	for _, socket := range sockets {
		for dir := filepath.Dir(socket); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			chmod(t, dir, 0o755)
		}
		chmod(t, socket, 0o666)
		if said := ask(socket); said != "answer: \"\"\n" {
			t.Errorf("%s: %s", socket, said)
		}
	}
	h.Want(0, "rm", "-f", "mine")
}

// chmod lasts until the end of the test.
func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Chmod(path, info.Mode().Perm()); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}
