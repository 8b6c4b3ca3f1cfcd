package guestproto_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"banger/internal/errs"
	"banger/internal/guestproto"
)

type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func TestFramesArriveWhole(t *testing.T) {
	a, b := net.Pipe()
	from, to := guestproto.NewConn(a), guestproto.NewConn(b)
	defer to.Close()
	big := bytes.Repeat([]byte("x"), guestproto.MaxData+1)
	go func() {
		defer from.Close()
		_ = from.WriteJSON(guestproto.KindExit, guestproto.Exit{Code: 7})
		_, _ = from.Writer(guestproto.KindStdout).Write(big)
		_ = from.Write(guestproto.KindStdinEOF, nil)
	}()
	var exit guestproto.Exit
	if err := to.ReadJSON(guestproto.KindExit, &exit); err != nil || exit.Code != 7 {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	var got []byte
	for len(got) < len(big) {
		kind, payload, err := to.Read()
		if err != nil || kind != guestproto.KindStdout {
			t.Fatalf("kind %d, %v", kind, err)
		}
		got = append(got, payload...)
	}
	if !bytes.Equal(got, big) {
		t.Fatal("the bytes changed")
	}
	if kind, payload, err := to.Read(); kind != guestproto.KindStdinEOF || len(payload) != 0 || err != nil {
		t.Fatalf("kind %d, %d bytes, %v", kind, len(payload), err)
	}
	if _, _, err := to.Read(); !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %v", err)
	}
}

func TestHostileFrames(t *testing.T) {
	cases := []struct {
		name string
		in   []byte
		want error
	}{
		{"cut header", []byte{20, 0}, io.ErrUnexpectedEOF},
		{"cut payload", []byte{20, 0, 0, 0, 5, 'a'}, io.ErrUnexpectedEOF},
		{"no payload at all", []byte{20, 0, 0, 0, 5}, io.ErrUnexpectedEOF},
	}
	for _, c := range cases {
		var in buffer
		in.Write(c.in)
		if _, _, err := guestproto.NewConn(&in).Read(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	var in buffer
	in.Write([]byte{20, 0xff, 0xff, 0xff, 0xff})
	if _, _, err := guestproto.NewConn(&in).Read(); !errs.Is(err, errs.InvalidData) {
		t.Errorf("4 GiB frame: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{24, 0, 0, 0, 10, '{', '"', 'c', 'o', 'd', 'e', '"', ':', '7', '}'})
	f.Add([]byte{20, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		var rw buffer
		rw.Write(in)
		c := guestproto.NewConn(&rw)
		for taken := 0; ; {
			kind, payload, err := c.Read()
			if err != nil {
				return
			}
			if taken += 5 + len(payload); taken > len(in) {
				t.Fatalf("%d bytes out of %d", taken, len(in))
			}
			var exit guestproto.Exit
			_ = guestproto.Decode(kind, payload, &exit)
		}
	})
}
