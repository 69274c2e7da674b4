package video

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"forebay/spool/record"
)

const (
	// admission is how long a push may wait for a slot and for memory.
	admission = 5 * time.Second
	// silence is how long a sender may send nothing in the middle of a chunk.
	silence = 30 * time.Second
	// storing is how long a chunk that has arrived may wait for the log to take
	// it. Its sender may be gone by then, so nobody else would end that wait.
	storing = 30 * time.Second
	// reportEvery is how often the chunks that one camera lost are logged.
	reportEvery = 10 * time.Second
	// firstRead is the memory taken for a chunk whose length is not announced.
	firstRead = 64 << 10
)

// Receipt is the body of the answer 201.
type Receipt struct {
	Stream   string `json:"stream"`
	Shard    uint32 `json:"shard"` // its number within the spool
	Sequence uint64 `json:"sequence"`
	Bytes    int    `json:"bytes"`
}

// A refusal is an answer other than 201.
type refusal struct {
	status int
	after  time.Duration // Retry-After, if set
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, text: fmt.Sprintf(format, args...)}
}

// ServeHTTP takes PUT or POST /video/{camera}/{name}. It answers 201 with a
// Receipt when the chunk is on disk; 400 for a malformed request, 404 for a
// camera that may not push, 408 for a sender that fell silent, 413 for a chunk
// over max_chunk; 429 with Retry-After when the log is full or too much is on
// its way; 503 with Retry-After when the log cannot take it. Every other answer
// than 201 means that the chunk is not stored. A chunk that has arrived to its
// end is stored even if the sender closes the connection without reading the
// answer, as some encoders do; one that breaks off never is. What is not stored
// is counted and logged. Whether the sender may push at all is decided before.
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p := new(push)
	receipt, err := s.serve(w, r, p)
	w.Header().Set("Content-Type", "application/json")
	if err == nil {
		w.WriteHeader(http.StatusCreated)
		s.answer(w, receipt)
		return
	}
	no := refusalOf(err)
	if no.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(no.after.Seconds())))
	}
	if no.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", "PUT, POST")
	}
	s.dropped(p, no.status, err)
	w.WriteHeader(no.status)
	s.answer(w, map[string]string{"error": no.text})
}

func (s *Source) answer(w io.Writer, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("answer did not reach the sender", "error", err)
	}
}

// refusalOf is the answer to an error of the log or of ours.
func refusalOf(err error) *refusal {
	var no *refusal
	var invalid *record.InvalidError
	switch {
	case errors.As(err, &no):
		return no
	case errors.As(err, &invalid) && invalid.TooLarge:
		return refuse(http.StatusRequestEntityTooLarge, "%v", err)
	case errors.As(err, &invalid):
		return refuse(http.StatusBadRequest, "%v", err)
	case errors.Is(err, record.ErrFull), errors.Is(err, errStalled):
		return &refusal{status: http.StatusTooManyRequests, after: 5 * time.Second, text: err.Error()}
	}
	return &refusal{status: http.StatusServiceUnavailable, after: 5 * time.Second, text: err.Error()}
}

func (s *Source) serve(w http.ResponseWriter, r *http.Request, p *push) (Receipt, error) {
	if r.Method != http.MethodPut && r.Method != http.MethodPost {
		return Receipt{}, refuse(http.StatusMethodNotAllowed, "use PUT or POST")
	}
	id, name, err := parsePath(r.URL.Path)
	if err != nil {
		return Receipt{}, refuse(http.StatusBadRequest, "%v", err)
	}
	p.id, p.name = id, name
	if err := p.readHeaders(r.Header); err != nil {
		return Receipt{}, refuse(http.StatusBadRequest, "%v", err)
	}
	if r.ContentLength > int64(s.cfg.MaxChunk) {
		return Receipt{}, s.tooLarge()
	}
	if !s.running() {
		return Receipt{}, errNotRunning
	}
	if p.cam = s.camera(id); p.cam == nil {
		if s.cfg.Strict {
			return Receipt{}, refuse(http.StatusNotFound, "camera %q has no [[camera]] table, and strict is set", id)
		}
		return Receipt{}, refuse(http.StatusNotFound, "more than %d cameras have pushed; give %q a [[camera]] table", maxCameras, id)
	}

	// net/http ends the request's context when the sender closes the connection,
	// the body read or not. The body's end is told by reading it alone.
	ctx := context.WithoutCancel(r.Context())
	wait, cancel := context.WithTimeout(ctx, admission)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-wait.Done():
		return Receipt{}, busy("too many chunks are on their way")
	}
	taken, err := s.read(wait, w, r, p)
	defer func() { s.room.give(taken) }()
	if err != nil {
		return Receipt{}, err
	}
	pos, err := s.store(ctx, p)
	if err != nil {
		return Receipt{}, err
	}
	return Receipt{Stream: string(s.cfg.Stream), Shard: uint32(pos.Shard), Sequence: pos.Seq, Bytes: len(p.body)}, nil
}

func busy(text string) *refusal {
	return &refusal{status: http.StatusTooManyRequests, after: time.Second, text: text}
}

func (s *Source) tooLarge() *refusal {
	return refuse(http.StatusRequestEntityTooLarge, "chunk is larger than max_chunk, %s", s.cfg.MaxChunk)
}

// read fills p.body and returns how much of the room it took. While the body
// grows, the copy of it is not counted.
func (s *Source) read(wait context.Context, w http.ResponseWriter, r *http.Request, p *push) (taken int64, err error) {
	limit := int64(s.cfg.MaxChunk)
	size := min(limit, firstRead)
	if r.ContentLength >= 0 {
		size = r.ContentLength
	}
	if err := s.room.take(wait, size); err != nil {
		return 0, busy("too many bytes are on their way")
	}
	taken = size
	p.body = make([]byte, 0, size)
	slow := http.NewResponseController(w)
	for {
		if err := deadline(slow, time.Now().Add(silence)); err != nil {
			return taken, err
		}
		if len(p.body) == cap(p.body) {
			// Full: is that the end?
			var one [1]byte
			n, err := r.Body.Read(one[:])
			if done, err := ended(err); done && n == 0 {
				return taken, s.complete(slow, p, err)
			}
			if n == 0 {
				continue
			}
			grown := min(2*taken+firstRead, limit)
			if grown <= taken {
				return taken, s.tooLarge()
			}
			if !s.room.try(grown - taken) {
				return taken, busy("too many bytes are on their way")
			}
			taken = grown
			p.body = append(append(make([]byte, 0, grown), p.body...), one[0])
			continue
		}
		n, err := r.Body.Read(p.body[len(p.body):cap(p.body)])
		p.body = p.body[:len(p.body)+n]
		if done, err := ended(err); done {
			return taken, s.complete(slow, p, err)
		}
	}
}

// ended tells the body's end, clean or broken, from more to come.
func ended(err error) (bool, error) {
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, io.EOF):
		return true, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return true, refuse(http.StatusRequestTimeout, "nothing came for %s", silence)
	}
	return true, refuse(http.StatusBadRequest, "chunk broke off: %v", err)
}

func (s *Source) complete(slow *http.ResponseController, p *push, err error) error {
	if err != nil {
		return err
	}
	if len(p.body) == 0 {
		return refuse(http.StatusBadRequest, "chunk is empty")
	}
	// The deadline must not fall while the answer waits for the log. Where it
	// cannot be taken back the sender has gone, which is no harm to the chunk.
	if err := deadline(slow, time.Time{}); err != nil {
		s.log.Debug("sender went before its chunk was stored", "camera", p.id, "error", err)
	}
	return nil
}

// deadline sets the connection's read deadline, where it has one.
func deadline(c *http.ResponseController, t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return refuse(http.StatusBadRequest, "connection is gone: %v", err)
	}
	return nil
}

// store puts the chunk into the log and waits for its commit. One chunk of a
// camera is stored at a time, in the order in which they were read.
func (s *Source) store(ctx context.Context, p *push) (record.Pos, error) {
	in, ctx, release, err := s.borrow(ctx, p)
	if err != nil {
		return record.Pos{}, err
	}
	defer release()
	select {
	case p.cam.gate <- struct{}{}:
		defer func() { <-p.cam.gate }()
	case <-ctx.Done():
		return record.Pos{}, gaveUp(ctx)
	}
	p.arrived = s.now()
	p.describe()
	if p.cam.timeline.repeats(p) {
		return p.cam.timeline.pos, nil
	}
	rec, err := p.record()
	if err != nil {
		return record.Pos{}, err
	}
	committed := make(chan record.Result, 1)
	err = in.Put(ctx, []record.Record{rec}, func(rs []record.Result) {
		if len(rs) == 0 {
			committed <- record.Result{Err: record.ErrCannotStore}
			return
		}
		committed <- rs[0]
	})
	if err != nil && ctx.Err() != nil {
		err = gaveUp(ctx)
	}
	res := record.Result{Err: err}
	if err == nil {
		// The bytes belong to the log until it answers, even if the sender is gone.
		res = <-committed
	}
	s.stored(p, res.Pos, res.Err)
	if res.Err != nil {
		return record.Pos{}, fmt.Errorf("store the chunk: %w", res.Err)
	}
	p.cam.timeline.follow(p, res.Pos)
	return res.Pos, nil
}

// errStalled ends the wait for the log; errNotRunning is its other end.
var errStalled = fmt.Errorf("the log has taken nothing for %s", storing)

func gaveUp(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		return errStalled
	}
	return errNotRunning
}

// A report keeps one camera from filling the gateway's own log.
type report struct {
	next   time.Time
	unsaid uint64 // pushes since the last line
}

// dropped counts and logs a push that is not stored: at most one line every
// reportEvery for a camera, and one for all that are not known.
func (s *Source) dropped(p *push, status int, err error) {
	s.errors.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	rep := &s.strangers
	if cam := s.cameras[p.id]; cam != nil {
		cam.state.Dropped++
		rep = &cam.report
	}
	now := time.Now()
	if now.Before(rep.next) {
		rep.unsaid++
		return
	}
	s.log.Warn("push was not stored", "camera", p.id, "name", p.name, "status", status, "error", err, "unlogged_before", rep.unsaid)
	*rep = report{next: now.Add(reportEvery)}
}
