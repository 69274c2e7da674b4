package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"forebay/gateway/api"
	"forebay/spool"
	"forebay/spool/record"
)

const batchOf = 1000 // records a step

// put appends one record and answers after the commit.
func (s *Server) put(w http.ResponseWriter, r *http.Request) {
	key := r.URL.Query().Get("key")
	if r.ContentLength > record.MaxData {
		w.Header().Set("Connection", "close") // what follows is not read
		s.tooLarge(w)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, record.MaxData))
	if err != nil {
		if _, big := errors.AsType[*http.MaxBytesError](err); big {
			s.tooLarge(w)
			return
		}
		s.fail(w, http.StatusBadRequest, "the payload could not be read: "+err.Error(), "")
		return
	}
	rec := record.Record{Key: key, Data: body}
	if t := r.Header.Get("Content-Type"); t != "" && t != "application/octet-stream" && t != "application/x-www-form-urlencoded" {
		rec.Type = t
	}
	stream := r.PathValue("stream")
	res := make(chan record.Result, 1)
	if err := s.inlet.PutTo(r.Context(), stream, []record.Record{rec}, func(rs []record.Result) { res <- rs[0] }); err != nil {
		s.failWith(w, err)
		return
	}
	got := <-res // always comes: the log answers every record it took
	if got.Err != nil {
		s.failWith(w, got.Err)
		return
	}
	s.answer(w, http.StatusOK, api.PutResult{Stream: stream, Shard: s.shardName(stream, got.Pos.Shard), Seq: got.Pos.Seq, Bytes: len(body)})
}

func (s *Server) tooLarge(w http.ResponseWriter) {
	s.fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the payload is over %d bytes", record.MaxData), "")
}

// ShardName is Kinesis's name of the shard with an index in its stream.
func ShardName(index int) string { return fmt.Sprintf("shardId-%012d", index) }

func (s *Server) shardName(stream string, id record.ShardID) string {
	t, err := s.sp.Stream(stream)
	if err != nil {
		return ""
	}
	for _, sh := range t.Shards() {
		if sh.ID == id {
			return ShardName(sh.Index)
		}
	}
	return "" // the record went to quarantine, which is another stream's shard
}

// A question is what GET …/records asks for.
type question struct {
	stream *spool.Stream
	shards []spool.Shard
	one    bool // a shard was named
	from   spool.Start
	limit  int
	follow bool
	raw    bool // KPL aggregates are shown as they are
}

func (s *Server) ask(r *http.Request) (question, error) {
	q := question{}
	var err error
	if q.stream, err = s.sp.Stream(r.PathValue("stream")); err != nil {
		return q, err
	}
	v := r.URL.Query()
	q.shards = q.stream.Shards()
	if want := v.Get("shard"); want != "" {
		var one []spool.Shard
		for _, sh := range q.shards {
			if ShardName(sh.Index) == want || strconv.Itoa(sh.Index) == want {
				one = append(one, sh)
			}
		}
		if one == nil {
			return q, fmt.Errorf("shard %q: %w", want, record.ErrNoShard)
		}
		q.shards, q.one = one, true
	}
	if q.from, err = parseStart(v.Get("from")); err != nil {
		return q, err
	}
	if l := v.Get("limit"); l != "" {
		if q.limit, err = strconv.Atoi(l); err != nil || q.limit < 0 {
			return q, &record.InvalidError{Field: "limit", Reason: "is not a number of records"}
		}
	}
	q.follow = v.Get("follow") == "true"
	q.raw, err = asTheyAre(v.Get("deaggregate"))
	return q, err
}

func parseStart(from string) (spool.Start, error) {
	switch from {
	case "", "oldest":
		return spool.Oldest(), nil
	case "newest":
		return spool.Newest(), nil
	}
	if seq, err := strconv.ParseUint(from, 10, 64); err == nil {
		if seq == 0 {
			return spool.Oldest(), nil
		}
		return spool.After(seq - 1), nil
	}
	text, event := strings.CutPrefix(from, "event:")
	at, err := time.Parse(time.RFC3339Nano, text)
	switch {
	case err != nil:
		return spool.Start{}, &record.InvalidError{Field: "start", Reason: strconv.Quote(from) + ` is none of "oldest", "newest", a time of arrival (2026-11-05T14:00:00Z), a sender's time (event:2026-11-05T14:00:00Z) and a sequence number`}
	case event:
		return spool.SinceEvent(at), nil
	}
	return spool.Since(at), nil
}

// records serves records as JSON lines: shard by shard what is stored now,
// those that were split or merged before their children; or with follow=true
// all shards at once, as they come.
func (s *Server) records(w http.ResponseWriter, r *http.Request) {
	q, err := s.ask(r)
	if err != nil {
		s.failWith(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := &lines{log: s.log, w: w, rc: http.NewResponseController(w), left: q.limit, bounded: q.limit > 0, stream: q.stream.Name(), identity: s.sp.Identity(), raw: q.raw}
	ctx := r.Context()
	if !q.follow {
		for _, sh := range q.shards {
			for b, err := range q.stream.Scan(ctx, sh.ID, q.from) {
				if !out.batch(sh, b, err) {
					return
				}
			}
		}
		return
	}
	out.flush() // the header, so that the client knows it is heard
	s.follow(ctx, q, out)
}

// lines writes records of several shards to one client.
type lines struct {
	stream   string
	identity record.Identity
	raw      bool
	log      *slog.Logger

	mu      sync.Mutex
	buf     []byte
	w       io.Writer
	rc      *http.ResponseController
	left    int
	bounded bool
	ended   bool
}

func (l *lines) flush() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.ended && l.rc.Flush() == nil
}

// batch writes a batch, or the loss that a reader reports; false ends the
// answer.
func (l *lines) batch(sh spool.Shard, b record.Batch, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return false
		}
		return l.fault(http.StatusGone, err)
	}
	for i := range b.Recs {
		for rec := range l.shown(&b.Recs[i], sh) {
			if l.ended || l.bounded && l.left == 0 {
				l.ended = true
				return false
			}
			line, err := rec.AppendJSON(l.buf[:0])
			if err != nil {
				l.log.Error("record cannot be written as JSON; the answer ends before it",
					"stream", l.stream, "shard", rec.Shard, "sequence", rec.Seq, "error", err)
				l.fault(http.StatusInternalServerError, fmt.Errorf("show record %d of %s: %w", rec.Seq, rec.Shard, err))
				l.ended = true
				return false
			}
			if !l.line(line) {
				return false
			}
			l.left--
		}
	}
	return true
}

// fault writes an error as a line of its own.
func (l *lines) fault(status int, cause error) bool {
	line, err := json.Marshal(map[string]any{"error": api.Error{Status: status, Message: cause.Error()}})
	if err != nil { // it is a number and a text
		l.log.Error("error cannot be written as JSON", "cause", cause, "error", err)
		l.ended = true
		return false
	}
	return l.line(line)
}

func (l *lines) line(line []byte) bool {
	err := l.rc.SetWriteDeadline(time.Now().Add(30 * time.Second))
	if err == nil {
		l.buf = append(line, '\n')
		_, err = l.w.Write(l.buf)
	}
	l.ended = l.ended || err != nil // the client is gone; nobody to tell
	return !l.ended
}
