package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"banger/api"
	"banger/internal/errs"
)

// httpStatus maps a class to the status of a response.
var httpStatus = map[errs.Class]int{
	errs.Internal: http.StatusInternalServerError, errs.Usage: http.StatusBadRequest,
	errs.NotFound: http.StatusNotFound, errs.AlreadyExists: http.StatusConflict,
	errs.Busy: http.StatusConflict, errs.Precondition: http.StatusPreconditionFailed,
	errs.Permission: http.StatusForbidden, errs.InvalidData: http.StatusUnprocessableEntity,
	errs.Exhausted: http.StatusInsufficientStorage, errs.Unavailable: http.StatusServiceUnavailable,
	errs.Cancelled: http.StatusRequestTimeout, errs.Timeout: http.StatusGatewayTimeout,
}

// wireFailure is an error in the form that huma sends.
type wireFailure struct {
	api.ErrorBody
	status int
}

// GetStatus implements huma.StatusError.
func (w *wireFailure) GetStatus() int { return w.status }

// Error implements error.
func (w *wireFailure) Error() string { return w.ErrorBody.Error.Message }

func failure(err error) error {
	if err == nil {
		return nil
	}
	return &wireFailure{api.ErrorBody{Error: wireError(err)}, httpStatus[errs.ClassOf(err)]}
}

// invalid is how huma reports a request that does not fit its schema.
func invalid(status int, message string, details ...error) huma.StatusError {
	for _, d := range details {
		if d != nil {
			message += "; " + d.Error()
		}
	}
	class := errs.Usage
	switch {
	case status == http.StatusNotFound:
		class = errs.NotFound
	case status >= http.StatusInternalServerError:
		class = errs.Internal
	}
	return &wireFailure{api.ErrorBody{Error: api.Error{Code: class.Code(), Message: message}}, status}
}

// report tells a client of progress.
type report func(api.Progress)

func (tell report) image(step string, done, total int64) {
	tell(api.Progress{Step: step, Done: done, Total: total})
}

// stream answers a long call: server-sent events when the client accepts them, one JSON
// document otherwise. The status is true: nothing is sent before the first event or the
// result is known.
func stream[T any](accept string, call func(context.Context, report) (T, error)) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		s := &sender{hc: hc, events: strings.Contains(accept, "text/event-stream")}
		var tell report = func(api.Progress) {}
		if s.events {
			tell = s.progress
		}
		result, err := call(hc.Context(), tell)
		s.end(result, err)
	}}
}

type sender struct {
	hc     huma.Context
	events bool
	mu     sync.Mutex
	begun  bool
	ended  bool
}

// progress is dropped after the end: work that callers share tells of itself for longer
// than one of them listens.
func (s *sender) progress(p api.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.event(api.EventProgress, p)
	}
}

func (s *sender) event(name string, v any) {
	if !s.begun {
		s.begun = true
		s.hc.SetHeader("Content-Type", "text/event-stream")
		s.hc.SetStatus(http.StatusOK)
	}
	data, err := json.Marshal(v)
	if err != nil {
		return
	}
	w := s.hc.BodyWriter()
	// A client that is gone has cancelled the call's context; nothing else to do here.
	_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, data)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

func (s *sender) end(result any, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	switch {
	case err != nil && s.begun:
		s.event(api.EventError, api.ErrorBody{Error: wireError(err)})
	case err != nil:
		s.document(httpStatus[errs.ClassOf(err)], api.ErrorBody{Error: wireError(err)})
	case s.events:
		s.event(api.EventResult, result)
	default:
		s.document(http.StatusOK, result)
	}
}

func (s *sender) document(status int, v any) {
	s.hc.SetHeader("Content-Type", "application/json")
	s.hc.SetStatus(status)
	_ = json.NewEncoder(s.hc.BodyWriter()).Encode(v)
}

// streamed documents both forms of a streamed operation's answer.
func streamed[T any](registry huma.Registry, op huma.Operation) huma.Operation {
	schema := registry.Schema(reflect.TypeFor[T](), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "the result, or with Accept: text/event-stream events progress, then result or error",
		Content: map[string]*huma.MediaType{
			"application/json":  {Schema: schema},
			"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}},
		},
	}}
	return op
}
