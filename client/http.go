package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"banger/api"
	"banger/internal/errs"
)

// maxBody bounds one answer, and one event of a stream.
const maxBody = 64 << 20

const eventStream = "text/event-stream"

// call is one request. progress, when set, asks for a stream.
type call struct {
	what     string // what is being done, for errors: "list VMs"
	method   string
	path     string
	query    url.Values
	body     any
	progress func(api.Progress)
}

// do performs r and returns the answer's document.
func do[T any](ctx context.Context, c *Client, r call) (T, error) {
	var answer T
	resp, err := c.send(ctx, r)
	if err != nil {
		return answer, fmt.Errorf("%s: %w", r.what, err)
	}
	defer resp.Body.Close()
	c.checkVersion(resp.Header)
	if resp.StatusCode >= 300 {
		return answer, responseError(resp.StatusCode, resp.Body)
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), eventStream) {
		err = readEvents(resp.Body, r.progress, &answer)
	} else {
		err = decode(io.LimitReader(resp.Body, maxBody), &answer)
	}
	var sent *remoteError
	switch {
	case err == nil:
		return answer, nil
	case ctx.Err() != nil:
		return answer, fmt.Errorf("%s: %w", r.what, context.Cause(ctx))
	case errors.As(err, &sent):
		return answer, err
	}
	return answer, fmt.Errorf("%s: %w", r.what, err)
}

func (c *Client) send(ctx context.Context, r call) (*http.Response, error) {
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			return nil, err
		}
	}
	target := "http://banger/" + api.Version + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	for attempt := 0; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, r.method, target, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		req.Header.Set("Accept", "application/json")
		if r.progress != nil {
			req.Header.Set("Accept", eventStream)
		}
		resp, err := c.http.Do(req)
		if err == nil {
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		err = transportError(err)
		// The daemon may have ended with the connection taken, or while a wait was under
		// way: a question may be asked again, an order may not.
		if r.method == http.MethodGet && attempt == 0 && errs.Is(err, errs.Unavailable) && errors.Is(err, io.EOF) {
			continue
		}
		return nil, err
	}
}

// transportError drops url.Error, whose text names a made-up URL, and calls a
// connection that ended early what it is.
func transportError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return errs.Hint(
			errs.New(errs.Unavailable, "the daemon closed the connection: %w", io.EOF),
			"see: banger system status, and daemon.log in the state directory")
	}
	return err
}

func decode(r io.Reader, into any) error {
	if err := json.NewDecoder(r).Decode(into); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return transportError(err)
		}
		return errs.New(errs.Internal, "the daemon's answer: %w", err)
	}
	return nil
}

// remoteError is an error that the daemon or a shim sent.
type remoteError struct{ message string }

func (e *remoteError) Error() string { return e.message }

func fromWire(e api.Error) error {
	err := errs.With(errs.FromCode(e.Code), &remoteError{e.Message})
	if e.Hint != "" {
		err = errs.Hint(err, "%s", e.Hint)
	}
	return err
}

// responseError is the error in the body of a failed response.
func responseError(status int, body io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(body, 1<<20))
	var wire api.ErrorBody
	if err == nil && json.Unmarshal(raw, &wire) == nil && wire.Error.Message != "" {
		return fromWire(wire.Error)
	}
	text := strings.TrimSpace(string(raw[:min(len(raw), 200)]))
	if text == "" {
		text = http.StatusText(status)
	}
	class := errs.Internal
	if status == http.StatusServiceUnavailable {
		class = errs.Unavailable
	}
	return errs.With(class, &remoteError{fmt.Sprintf("the daemon answered %d: %s", status, text)})
}

func (c *Client) checkVersion(h http.Header) {
	theirs := h.Get(api.VersionHeader)
	if theirs == "" || theirs == c.opts.Version || c.opts.Version == "" || c.opts.OnVersion == nil {
		return
	}
	c.versionOnce.Do(func() { c.opts.OnVersion(theirs) })
}
