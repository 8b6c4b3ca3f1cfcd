package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"

	"banger/internal/errs"
	"banger/internal/paths"
	"banger/internal/unixsock"
)

// Paths of the shim's operations. State, Stop and Kill answer with a State.
const (
	PathState   = "/v1/state"   // GET; ?until=running or ended waits for that phase or a later one
	PathStop    = "/v1/stop"    // POST; asks the guest to end, and waits until it has
	PathKill    = "/v1/kill"    // POST; ends the VMM, and waits until it has
	PathTicket  = "/v1/tickets" // POST TicketRequest → Ticket
	PathSession = "/v1/session" // GET, upgraded: the client's end of a session
)

// Client talks to one VM's shim. A shim that is gone is Unavailable.
type Client struct{ http http.Client }

// Connect makes a client for the VM of that run directory. It does not connect yet.
func Connect(vm paths.VM) *Client {
	return &Client{http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // the daemon speaks rarely to each of many shims
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return unixsock.Dial(ctx, vm.ShimSocket())
		},
	}}}
}

// State asks for the state, and with until waits for that phase or a later one.
func (c *Client) State(ctx context.Context, until string) (s State, err error) {
	return s, c.call(ctx, http.MethodGet, PathState+"?until="+until, nil, &s)
}

// Stop asks the guest to end and waits for it; a guest that hangs is killed.
func (c *Client) Stop(ctx context.Context) (s State, err error) {
	return s, c.call(ctx, http.MethodPost, PathStop, nil, &s)
}

// Kill ends the VMM at once.
func (c *Client) Kill(ctx context.Context) (s State, err error) {
	return s, c.call(ctx, http.MethodPost, PathKill, nil, &s)
}

// Ticket asks for a session's ticket.
func (c *Client) Ticket(ctx context.Context, r TicketRequest) (t Ticket, err error) {
	return t, c.call(ctx, http.MethodPost, PathTicket, r, &t)
}

const maxAnswer = 1 << 20

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader // none: a server sees that its client went only once the body was read
	if in != nil {
		content, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://shim"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errs.With(errs.Unavailable, fmt.Errorf("ask the VM's shim: %w", err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return errs.With(errs.Unavailable, fmt.Errorf("ask the VM's shim: %w", err))
	}
	if resp.StatusCode != http.StatusOK {
		var e ErrorBody
		if err := json.Unmarshal(answer, &e); err != nil || e.Code == "" {
			return fmt.Errorf("ask the VM's shim: HTTP status %d", resp.StatusCode)
		}
		return e.Err()
	}
	return json.Unmarshal(answer, out)
}
