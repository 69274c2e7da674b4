// Package ingest is the plain HTTP door, for things that have no SDK:
//
//	POST /ingest/{stream}
//
// with newline-delimited JSON, a JSON document, CSV, InfluxDB line protocol or
// bytes as they are. It knows formats and answers; who may come in, over which
// address, is the business of the server that it is mounted on. An answer that
// counts a record as stored means that it is on disk. docs/ingest.md says it
// for users.
package ingest

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"forebay/spool/record"
)

// A Log takes the records. Each comes with Key, Data, Type and, if the sender
// gave one, At.
type Log interface {
	// PutTo hands records of one stream over. It blocks while the log's queue
	// is full; ctx cancels only that wait. If it returns nil, done is called
	// exactly once, with a result per record in their order, after the commit
	// or its failure, on the log's goroutine: it must not block. The records'
	// bytes belong to the log until then. A stream that does not exist is
	// record.ErrNoStream.
	PutTo(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error
}

// Options are what may differ from one mounting to the next; zero means the
// default.
type Options struct {
	// MaxRecord is the largest record of a stream, data and key together, in
	// bytes; record.ErrNoStream where there is no such stream. Nil means 1 MiB,
	// and that only the Log knows which streams there are.
	MaxRecord func(stream string) (int, error)
	// ShardName is what users call a shard of a stream; "" leaves it out of
	// the answer, as does nil.
	ShardName func(stream string, id record.ShardID) string
	// MaxBody is the largest request, before and after inflating, in bytes;
	// 16 MiB.
	MaxBody int64
	// MaxHeld bounds the memory of all requests together that come by
	// ServeHTTP, in bytes; 256 MiB.
	MaxHeld int64
	// MaxRecords is how many records a request may have, refused ones
	// included; 10,000.
	MaxRecords int
	// Admit is how long a request waits for room in the log's queue before it
	// is told to come back; 5 s.
	Admit time.Duration
	// Commit is how long records that were admitted wait for their commit;
	// behind it the client is told that we do not know. 60 s.
	Commit time.Duration
}

func (o Options) withDefaults() Options {
	if o.MaxRecord == nil {
		o.MaxRecord = func(string) (int, error) { return 1 << 20, nil }
	}
	if o.MaxBody <= 0 {
		o.MaxBody = 16 << 20
	}
	if o.MaxHeld <= 0 {
		o.MaxHeld = 256 << 20
	}
	if o.MaxRecords <= 0 {
		o.MaxRecords = 10_000
	}
	if o.Admit <= 0 {
		o.Admit = 5 * time.Second
	}
	if o.Commit <= 0 {
		o.Commit = 60 * time.Second
	}
	return o
}

// A Handler answers POST /ingest/{stream}.
type Handler struct {
	opt      Options
	to       Log
	log      *slog.Logger
	held     atomic.Int64 // bytes, see Options.MaxHeld
	failures atomic.Uint64
}

// New makes a handler whose records go to a log.
func New(to Log, opt Options, log *slog.Logger) *Handler {
	return &Handler{opt: opt.withDefaults(), to: to, log: log}
}

// Prefix begins the path of every request of this door.
const Prefix = "/ingest/"

// Stream is the stream that a path names, and false for a path that is not of
// this door.
func Stream(path string) (string, bool) {
	name, ok := strings.CutPrefix(path, Prefix)
	return name, ok && name != "" && !strings.Contains(name, "/")
}

// Errors counts requests that failed by our own fault: the log could not be
// written.
func (h *Handler) Errors() uint64 { return h.failures.Load() }

// ServeHTTP reads a request and answers it. The server has asked who it is;
// it sets the deadlines for reading and writing. The memory that all requests
// take together is bounded by Options.MaxHeld.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var mine int64
	defer func() { h.held.Add(-mine) }()
	take := func(n int64) bool {
		if h.held.Add(n) > h.opt.MaxHeld {
			h.held.Add(-n)
			return false
		}
		mine += n
		return true
	}
	a, no := h.ask(r)
	if no != nil {
		h.refuse(w, r, no)
		return
	}
	body, no := h.readBody(r, take)
	if no != nil {
		h.refuse(w, r, no)
		return
	}
	h.serve(w, r, a, body, take)
}

// Serve answers a request whose body the server has read already, because it
// had to before it knew who sent it (Signature Version 4 signs the body). body
// is what came, not inflated, and not over Options.MaxBody. take lends memory:
// it is asked before n bytes more are used, false means that there are not so
// many; the server takes all of it back when Serve has returned.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, body []byte, take func(n int64) bool) {
	a, no := h.ask(r)
	if no != nil {
		h.refuse(w, r, no)
		return
	}
	if int64(len(body)) > h.opt.MaxBody {
		h.refuse(w, r, tooLarge("the request", h.opt.MaxBody))
		return
	}
	h.serve(w, r, a, body, take)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, a *ask, body []byte, take func(int64) bool) {
	if a.gzip {
		var no *refusal
		if body, no = h.inflate(body, take); no != nil {
			h.refuse(w, r, no)
			return
		}
	}
	if len(body) == 0 {
		h.refuse(w, r, &refusal{status: http.StatusBadRequest, code: "empty", message: "the request has no body"})
		return
	}
	in := newIntake(a, &h.opt, take)
	if no := in.parse(body); no != nil {
		h.refuse(w, r, no)
		return
	}
	h.write(w, r, h.store(r.Context(), in))
}
