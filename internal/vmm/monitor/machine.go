package monitor

import (
	"context"
	"errors"
	"os"

	"banger/internal/effect"
)

// Machine is a Process with a Channel to its guest: a vmm.Machine. Close is the
// channel's.
type Machine struct {
	*process
	*Channel
}

// process gives the embedded field a name that is not that of its method.
type process = Process

// ChannelFD is the descriptor at which a VMM started by Start finds its end of the
// channel; the files of Command follow it.
const ChannelFD = 3

// Start starts a VMM process that inherits one end of a new channel as ChannelFD,
// before the command's own files. After an error nothing is left.
func Start(ctx context.Context, seam *effect.Seam, c Command) (*Machine, error) {
	channel, far, err := NewChannel()
	if err != nil {
		return nil, err
	}
	c.Files = append([]*os.File{far}, c.Files...)
	process, err := StartProcess(ctx, seam, c)
	// The process has its own descriptor; with ours open too, its death would not be
	// the end of the channel.
	closeErr := far.Close()
	if err != nil {
		return nil, errors.Join(err, channel.Close())
	}
	if closeErr != nil {
		return nil, errors.Join(closeErr, process.Kill(context.WithoutCancel(ctx)), channel.Close())
	}
	return &Machine{process, channel}, nil
}
