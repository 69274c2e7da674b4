package ingest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	"forebay/spool/record"
)

// maxShards is how many shards an answer lists.
const maxShards = 100

// An answer says what became of a request. Stored and Failed together are its
// records.
type answer struct {
	Status  int     `json:"status,omitempty"` // where it is not 200
	Code    string  `json:"code,omitempty"`
	Message string  `json:"message,omitempty"`
	Hint    string  `json:"hint,omitempty"`
	Stream  string  `json:"stream,omitempty"`
	Stored  int     `json:"stored"`
	Failed  int     `json:"failed"`
	Errors  []fault `json:"errors,omitempty"`
	// Omitted are errors beyond those that are named.
	Omitted int `json:"errors_omitted,omitempty"`
	// Retry are the records that may be sent again, all of them: they were in
	// order and are not stored.
	Retry []span `json:"retry,omitempty"`
	// Shards say where the stored ones are.
	Shards []shard `json:"shards,omitempty"`

	trouble *trouble
	retry   int // records in Retry
	places  map[record.ShardID]*shard
	last    *shard
	lastID  record.ShardID
}

// A span is a run of records, by index, both ends included.
type span struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// A shard holds some of the request's records: their first and last sequence
// number there. Records of others may lie between.
type shard struct {
	Shard  string `json:"shard,omitempty"`
	Stored int    `json:"stored"`
	First  uint64 `json:"first"`
	Last   uint64 `json:"last"`
}

func newAnswer(in *intake) *answer {
	return &answer{Stream: in.stream, places: map[record.ShardID]*shard{}}
}

// place notes a stored record.
func (a *answer) place(p record.Pos) {
	a.Stored++
	if a.last == nil || a.lastID != p.Shard {
		s := a.places[p.Shard]
		if s == nil {
			s = &shard{First: p.Seq, Last: p.Seq}
			a.places[p.Shard] = s
		}
		a.last, a.lastID = s, p.Shard
	}
	a.last.Stored++
	a.last.First, a.last.Last = min(a.last.First, p.Seq), max(a.last.Last, p.Seq)
}

// again notes a record that may be sent again.
func (a *answer) again(p place) {
	a.retry++
	if n := len(a.Retry); n > 0 && a.Retry[n-1].To == p.index-1 {
		a.Retry[n-1].To = p.index
		return
	}
	a.Retry = append(a.Retry, span{p.index, p.index})
}

// refuseAll is the answer where everything or nothing was asked for.
func (a *answer) refuseAll(in *intake) {
	a.finish(in, nil)
	a.Failed = in.seen
	a.Message = "some records are not in order, so nothing was stored (atomic)"
}

// finish counts and chooses the status.
func (a *answer) finish(in *intake, name func(string, record.ShardID) string) {
	a.Failed = in.failed + a.retry
	slices.SortStableFunc(in.faults, func(x, y fault) int { return cmp.Compare(x.Index, y.Index) })
	a.Errors, a.Omitted = in.faults, in.failed-len(in.faults)
	switch {
	case a.trouble != nil:
		a.Status, a.Code, a.Message = a.trouble.status, a.trouble.code, a.trouble.message
		switch a.trouble.code {
		case codeUnknown:
			a.Hint = "what stands under retry may be stored or not; send it again"
		case codeStream:
			a.Hint = streamHint
		default:
			a.Hint = "what stands under retry is not stored; send it again"
		}
	case a.Stored == 0 && in.failed > 0 && in.large == in.failed:
		a.Status, a.Code, a.Message = http.StatusRequestEntityTooLarge, codeTooLarge, "no record was stored: all are too large"
	case a.Stored == 0 && in.failed > 0:
		a.Status, a.Code, a.Message = http.StatusBadRequest, codeMalformed, "no record was stored: all were refused"
		if len(in.faults) > 0 {
			a.Code = in.faults[0].Code
		}
	}
	if name == nil {
		return
	}
	ids := make([]record.ShardID, 0, len(a.places))
	for id := range a.places {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids[:min(len(ids), maxShards)] {
		s := a.places[id]
		if s.Shard = name(in.stream, id); s.Shard != "" {
			a.Shards = append(a.Shards, *s)
		}
	}
}

// refuse answers a request of which nothing is stored.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, no *refusal) {
	for i := 0; i+1 < len(no.header); i += 2 {
		w.Header().Set(no.header[i], no.header[i+1])
	}
	if no.close && !r.ProtoAtLeast(2, 0) {
		w.Header().Set("Connection", "close")
	}
	h.write(w, r, &answer{
		Status: no.status, Code: no.code, Message: no.message, Hint: no.hint,
		trouble: &trouble{retry: no.retry},
	})
}

// Refuse answers a request that the server does not let in, in the shape of
// this door's other answers: 401, 403, or whatever the server finds.
func (h *Handler) Refuse(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	h.refuse(w, r, &refusal{status: status, code: code, message: message})
}

func (h *Handler) write(w http.ResponseWriter, r *http.Request, a *answer) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(a); err != nil { // it is numbers and texts
		h.failures.Add(1)
		h.log.Error("answer cannot be written as JSON", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if a.trouble != nil && a.trouble.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(a.trouble.retry))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(cmp.Or(a.Status, http.StatusOK))
	if _, err := w.Write(b.Bytes()); err != nil {
		h.log.Debug("client did not take its answer", "remote", r.RemoteAddr, "error", err)
	}
}
