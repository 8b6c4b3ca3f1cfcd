package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"banger/api"
	"banger/internal/errs"
)

// readEvents follows a streamed answer to its end: progress events go to progress, the
// result into result, an error event is returned. A stream that ends before either is
// Unavailable.
func readEvents(body io.Reader, progress func(api.Progress), result any) error {
	r := bufio.NewReader(body)
	for {
		name, data, err := readEvent(r)
		if err != nil {
			return transportError(err) // also when the stream ends in good order, but too early
		}
		switch name {
		case api.EventProgress:
			var p api.Progress
			if json.Unmarshal(data, &p) == nil && progress != nil {
				progress(p)
			}
		case api.EventResult:
			return decode(bytes.NewReader(data), result)
		case api.EventError:
			var wire api.ErrorBody
			if err := json.Unmarshal(data, &wire); err != nil {
				return errs.New(errs.Internal, "the daemon's error: %w", err)
			}
			return fromWire(wire.Error)
		}
	}
}

// readEvent takes the next event with data. Comments, and fields that are not needed
// here, are skipped.
func readEvent(r *bufio.Reader) (name string, data []byte, err error) {
	for size := 0; ; {
		line, err := readLine(r, maxBody-size)
		if err != nil {
			return "", nil, err
		}
		size += len(line)
		if len(line) == 0 {
			if data != nil {
				return name, data, nil
			}
			name = ""
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			name = string(value)
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
			if data == nil {
				data = []byte{}
			}
		}
	}
}

// readLine takes one line without its end, which is LF or CRLF. A line that is not
// ended is lost, as the format says.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > limit:
			return nil, errs.New(errs.InvalidData, "the daemon's answer has an event of more than %d bytes", maxBody)
		case err == nil:
			return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}
