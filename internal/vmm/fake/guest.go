package fake

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/hashicorp/yamux"

	"banger/internal/guestproto"
)

func openSession(port *os.File) (*yamux.Session, error) {
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.LogOutput = io.Discard
	return yamux.Server(port, config)
}

// failBoot is a guest whose agent reports a failed boot, and resets when the host heard.
func failBoot(port *os.File, stage string) error {
	session, err := openSession(port)
	if err != nil {
		return err
	}
	stream, err := session.Open()
	if err != nil {
		return err
	}
	control := guestproto.NewConn(stream)
	if err := control.WriteJSON(guestproto.KindHello, guestproto.Hello{Version: guestproto.Version, BootID: "fake", Kernel: "fake"}); err != nil {
		return err
	}
	var config guestproto.BootConfig
	if err := control.ReadJSON(guestproto.KindBootConfig, &config); err != nil {
		return err
	}
	failed := guestproto.BootFailed{Stage: stage, Error: "planned by the fake VMM"}
	if err := control.WriteJSON(guestproto.KindBootFailed, failed); err != nil {
		return err
	}
	// The host closes, or ends the machine.
	_, _, _ = control.Read()
	reset()
	return nil
}

// serve is a guest that behaves well.
func (m *machine) serve(ctx context.Context, port *os.File) error {
	return errors.New("the host agent is not linked yet")
}
