package client

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"banger/api"
	"banger/internal/errs"
)

func TestEventFormat(t *testing.T) {
	cases := []struct{ name, in, want string }{
		{"plain", "event: result\ndata: {\"name\":\"a\"}\n\n", "a"},
		{"CRLF", "event: result\r\ndata: {\"name\":\"a\"}\r\n\r\n", "a"},
		{"comments and other fields", ": hello\nid: 7\nretry: 10\n\nevent:result\ndata:{\"name\":\"a\"}\n\n", "a"},
		{"several data lines", "event: result\ndata: {\"name\":\ndata: \"a\"}\n\n", "a"},
		{"data before the name", "data: {\"name\":\"a\"}\nevent: result\n\n", "a"},
		{"malformed progress", "event: progress\ndata: x\n\nevent: result\ndata: {\"name\":\"a\"}\n\n", "a"},
		{"the name does not leak into the next", "event: result\n\ndata: {}\n\nevent: result\ndata: {\"name\":\"a\"}\n\n", "a"},
	}
	for _, c := range cases {
		var v api.VM
		if err := readEvents(strings.NewReader(c.in), nil, &v); err != nil || v.Name != c.want {
			t.Errorf("%s: %q, %v", c.name, v.Name, err)
		}
	}
}

func TestHostileEvents(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("data: "), zeros{})
	var v api.VM
	if err := readEvents(endless, nil, &v); !errs.Is(err, errs.InvalidData) {
		t.Errorf("endless line: %v", err)
	}
	if err := readEvents(strings.NewReader("event: result\ndata: {"), nil, &v); !errs.Is(err, errs.Unavailable) {
		t.Errorf("cut: %v", err)
	}
	// The daemon was killed: HTTP misses the end of the body.
	killed := io.MultiReader(strings.NewReader("event: progress\ndata: {}\n\n"), iotest.ErrReader(io.ErrUnexpectedEOF))
	if err := readEvents(killed, nil, &v); !errs.Is(err, errs.Unavailable) || errs.HintOf(err) == "" {
		t.Errorf("killed: %v, hint %q", err, errs.HintOf(err))
	}
	if err := readEvents(strings.NewReader("event: error\ndata: [\n\n"), nil, &v); !errs.Is(err, errs.Internal) {
		t.Errorf("malformed error: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func FuzzEvents(f *testing.F) {
	f.Add("event: result\ndata: {}\n\n")
	f.Add(": x\r\n\r\nevent: error\ndata: {\"error\":{\"code\":\"busy\",\"message\":\"x\"}}\n\n")
	f.Fuzz(func(t *testing.T, in string) {
		var v api.VM
		err := readEvents(strings.NewReader(in), func(api.Progress) {}, &v)
		if err == nil && !strings.Contains(in, "result") {
			t.Fatal("a result out of nothing")
		}
		var sent *remoteError
		if errors.As(err, &sent) && !strings.Contains(in, "error") {
			t.Fatal("an error out of nothing")
		}
	})
}
