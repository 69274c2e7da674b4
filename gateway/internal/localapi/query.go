package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/query"
)

const (
	maxQueryBody = 512 << 10 // bytes of a request
	answerBuffer = 32 << 10  // of rows that are sent together
)

// query answers POST /v1/query with JSON lines; see api.QueryRequest.
func (s *Server) query(w http.ResponseWriter, r *http.Request) {
	var req api.QueryRequest
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxQueryBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		s.fail(w, http.StatusBadRequest, "the request cannot be read: "+err.Error(), `send {"sql":"SELECT …"}`)
		return
	}
	if req.TimeoutMS < 0 || req.TimeoutMS > query.MaxTimeout.Milliseconds() || req.MaxRows < 0 || req.MaxRows > query.MaxRows {
		s.fail(w, http.StatusBadRequest, "timeout_ms is at most 600000 and max_rows at most 10000000", "leave them out for the defaults")
		return
	}
	a := &answer{w: w, rc: http.NewResponseController(w), progress: req.Progress}
	sum, err := s.queries.Run(r.Context(), query.Query{
		SQL: req.SQL, Timeout: time.Duration(req.TimeoutMS) * time.Millisecond, MaxRows: req.MaxRows, Progress: a.tell,
	}, a)
	if err == nil {
		a.end(sum)
		return
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, errClientGone) {
		return // nobody to tell
	}
	told, ok := errors.AsType[*query.Error](err)
	if !a.began {
		switch {
		case !ok:
			s.failWith(w, err)
		case told.Kind == query.Busy:
			w.Header().Set("Retry-After", "2")
			fallthrough
		default:
			s.fail(w, statusOf(told.Kind), told.Message, told.Hint)
		}
		return
	}
	e := api.Error{Status: http.StatusInternalServerError, Message: err.Error()}
	if ok {
		e = api.Error{Status: statusOf(told.Kind), Message: told.Message, Hint: told.Hint}
	} else {
		s.log.Warn("query failed", "error", err)
	}
	a.last(map[string]any{"error": e})
}

func statusOf(k query.Kind) int {
	switch k {
	case query.Busy:
		return http.StatusTooManyRequests
	case query.TimedOut, query.TooLarge:
		return http.StatusUnprocessableEntity
	}
	return http.StatusBadRequest
}

var errClientGone = errors.New("the client is gone")

// An answer is the lines of a query's answer on their way to the client.
type answer struct {
	mu       sync.Mutex // rows come from one goroutine, the progress from another
	w        http.ResponseWriter
	rc       *http.ResponseController
	buf      []byte
	progress bool
	began    bool
	gone     bool
}

func (a *answer) Columns(names []string) error {
	line, err := json.Marshal(map[string]any{"columns": names})
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.w.Header().Set("Content-Type", "application/x-ndjson")
	a.began = true
	a.buf = append(append(a.buf, line...), '\n')
	return nil
}

func (a *answer) Row(row []any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.buf = append(api.AppendRow(a.buf, row), '\n')
	if len(a.buf) < answerBuffer && !a.gone {
		return nil
	}
	return a.send()
}

// send writes what is gathered; mu is held.
func (a *answer) send() error {
	if a.gone {
		return errClientGone
	}
	err := a.rc.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if err == nil {
		_, err = a.w.Write(a.buf)
	}
	a.buf = a.buf[:0]
	if err != nil {
		a.gone = true
		return errClientGone
	}
	return nil
}

// tell sends, a few times a second, what is there and how far the query is.
func (a *answer) tell(p query.Progress) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.began || a.gone {
		return
	}
	if a.progress {
		line, err := json.Marshal(map[string]any{"progress": shownProgress(p)})
		if err == nil { // it is numbers
			a.buf = append(append(a.buf, line...), '\n')
		}
	}
	if len(a.buf) > 0 && a.send() == nil {
		a.gone = a.rc.Flush() != nil
	}
}

func shownProgress(p query.Progress) api.QueryProgress {
	return api.QueryProgress{Scanned: p.Scanned, Blocks: p.Blocks, Skipped: p.Skipped, Share: p.Share, Rows: p.Rows, ElapsedMS: p.Elapsed.Milliseconds()}
}

func (a *answer) end(sum query.Summary) {
	a.last(api.QueryEnd{Done: true, QueryProgress: shownProgress(sum.Progress), Truncated: sum.Truncated, Warnings: sum.Warnings})
}

// last writes the last line.
func (a *answer) last(v any) {
	line, err := json.Marshal(v)
	if err != nil { // it is numbers and texts
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.buf = append(append(a.buf, line...), '\n')
	_ = a.send() // the client is gone; nobody to tell
}
