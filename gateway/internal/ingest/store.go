package ingest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"forebay/spool/record"
)

// What goes to the log at once. One commit mostly serves a slice; a source
// that waits with more would only fill the log's queue.
const (
	sliceRecords = 1000
	sliceBytes   = 4 << 20
)

// Further codes of records that were not stored: they may be sent again.
const (
	codeFull     = "full"     // there is no room on the disk
	codeBusy     = "busy"     // the log's queue stayed full
	codeStopping = "stopping" // the gateway stops
	codeFailed   = "failed"   // the log cannot be written
	codeUnknown  = "unknown"  // the commit did not end in time
	codeStream   = "stream"   // it is not there, or not any more
)

var (
	errBusy    = errors.New("the log's queue stayed full")
	errUnknown = errors.New("the commit did not end in time")
	errResults = errors.New("the log gave another number of results than records")
)

// A trouble is why records that are in order were not stored.
type trouble struct {
	code    string
	status  int
	retry   int // seconds, 0: no Retry-After
	message string
}

func troubleOf(err error) *trouble {
	switch {
	case errors.Is(err, record.ErrFull):
		return &trouble{codeFull, http.StatusTooManyRequests, 5, "the spool is full"}
	case errors.Is(err, errBusy):
		return &trouble{codeBusy, http.StatusTooManyRequests, 1, errBusy.Error()}
	case errors.Is(err, record.ErrClosed):
		return &trouble{codeStopping, http.StatusServiceUnavailable, 5, "the gateway is stopping"}
	case errors.Is(err, record.ErrReadOnly), errors.Is(err, record.ErrCannotStore):
		return &trouble{codeFailed, http.StatusServiceUnavailable, 5, "the log cannot be written"}
	case errors.Is(err, errUnknown), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &trouble{codeUnknown, http.StatusServiceUnavailable, 5, errUnknown.Error() + ": it may be stored"}
	case errors.Is(err, record.ErrNoStream):
		return &trouble{codeStream, http.StatusNotFound, 0, "there is no such stream"}
	}
	return &trouble{codeFailed, http.StatusInternalServerError, 0, "the record could not be stored; the gateway's log says why"}
}

// store puts the records into the log, slice after slice, and waits for each
// commit. It ends at the first trouble: what comes later would overtake.
func (h *Handler) store(ctx context.Context, in *intake) *answer {
	out := newAnswer(in)
	if in.atomic && in.failed > 0 {
		out.refuseAll(in)
		return out
	}
	for from := 0; from < len(in.recs) && out.trouble == nil; {
		to, bytes := from, 0
		for to < len(in.recs) && to-from < sliceRecords && (to == from || bytes+in.recs[to].Size() <= sliceBytes) {
			bytes += in.recs[to].Size()
			to++
		}
		recs := in.recs[from:to]
		results, err := h.put(ctx, in.stream, recs)
		for i := range recs {
			var pos record.Pos
			why := err
			if err == nil {
				pos, why = results[i].Pos, results[i].Err
			}
			h.settle(in, out, from+i, pos, why)
		}
		from = to
		if out.trouble != nil {
			for ; from < len(in.recs); from++ {
				out.again(in.places[from])
			}
		}
	}
	out.finish(in, h.opt.ShardName)
	return out
}

// settle notes what became of a record.
func (h *Handler) settle(in *intake, out *answer, i int, pos record.Pos, err error) {
	if err == nil {
		out.place(pos)
		return
	}
	if bad, ok := errors.AsType[*record.InvalidError](err); ok {
		code := codeInvalid
		if bad.TooLarge {
			code = codeTooLarge
		}
		in.mark(in.places[i], code, bad.Error())
		return
	}
	if out.trouble == nil {
		out.trouble = troubleOf(err)
		if out.trouble.code == codeFailed || errors.Is(err, errUnknown) {
			h.failures.Add(1)
			h.log.Error("records could not be stored", "stream", in.stream, "error", err)
		}
	}
	out.again(in.places[i])
}

// put hands records to the log and waits until they are on disk. An error
// stands for all of them.
func (h *Handler) put(ctx context.Context, stream string, recs []record.Record) ([]record.Result, error) {
	committed := make(chan []record.Result, 1)
	admit, cancel := context.WithTimeout(ctx, h.opt.Admit)
	defer cancel()
	err := h.to.PutTo(admit, stream, recs, func(rs []record.Result) {
		committed <- append(make([]record.Result, 0, len(rs)), rs...)
	})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return nil, errBusy // nothing was taken
		}
		return nil, fmt.Errorf("put records: %w", err)
	}
	wait := time.NewTimer(h.opt.Commit)
	defer wait.Stop()
	select {
	case results := <-committed:
		if len(results) != len(recs) {
			return nil, errResults
		}
		return results, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-wait.C:
		return nil, errUnknown
	}
}
