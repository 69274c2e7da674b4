package shape

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
)

const (
	// commitEvery is how long records that were left out wait for a Commit, where
	// none that was handed out takes them along.
	commitEvery = time.Second
	// pollAtMost bounds what one Poll passes without having something to hand
	// out, in records.
	pollAtMost = 1 << 16
	// historyStep is how many records of the past are asked for at a time.
	historyStep = 4096
)

// A Source is the cursor that is shaped: one shard's.
type Source interface {
	// Next waits for records, Poll does not. A *record.TrimmedError or a
	// *record.CorruptError tells of a loss; the next call goes on behind it.
	Next(ctx context.Context, max int) (record.Batch, error)
	Poll(ctx context.Context, max int) (record.Batch, error)
	// Commit moves the place behind upTo; t counts what was passed.
	Commit(upTo uint64, t record.Tally) error
	Backlog() record.Backlog
}

// A History reads records again that were passed already.
type History interface {
	Poll(ctx context.Context, max int) (record.Batch, error)
	Close() error
}

// Options are what a Cursor may be given.
type Options struct {
	// Next is the sequence number at the cursor's place, and Since the one from
	// which on all that was passed went through the very same shape. The records
	// between them (of the era, see docs/uplinks/shape.md) are read from
	// Past, which begins behind a sequence number, to know what was sent. Past
	// nil: nothing is known, and of each key the first record is sent.
	Next, Since uint64
	Past        func(ctx context.Context, after uint64) (History, error)
	// Filtered adds up the records that were left out and committed; may be nil.
	Filtered *atomic.Uint64
	// Logger gets what stops nothing. nil is slog.Default().
	Logger *slog.Logger
}

// A Cursor is a Source whose records are filtered and changed. What is left out
// is in the tally of the Commit that passes it; where nothing else is passed
// the Cursor commits by itself. The records of a batch are views as the
// Source's are. It is used from one goroutine.
type Cursor struct {
	src   Source
	f     *filter
	o     Options
	begun bool

	recs []record.Record
	buf  []byte // of payloads that were changed
	pack kpl.Encoder

	out     uint64 // sequence number that was handed out last, 0: none
	settled uint64 // up to which the owner has committed
	runs    []run
	waits   time.Time // since when the first run waits
	failed  bool      // the last commit of our own
}

// A run is records that were left out one after the other.
type run struct {
	after uint64 // the record that was handed out before them
	last  uint64
	n     uint64
}

// Cursor wraps the cursor of a lane of the given stream.
func (s *Shape) Cursor(stream string, src Source, o Options) *Cursor {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Cursor{src: src, f: s.filter(stream), o: o}
}

// Next waits for records that are to be sent. Errors are the Source's.
func (c *Cursor) Next(ctx context.Context, limit int) (record.Batch, error) {
	if err := c.begin(ctx); err != nil {
		return record.Batch{}, err
	}
	for {
		b, err := c.wait(ctx, limit)
		if errors.Is(err, errTick) {
			if ctx.Err() != nil {
				return b, context.Cause(ctx)
			}
			c.flush()
			continue
		}
		b, err = c.pass(b, err)
		if err != nil || len(b.Recs) > 0 {
			return b, err
		}
		if err := ctx.Err(); err != nil {
			return b, context.Cause(ctx)
		}
	}
}

// Poll is Next without waiting.
func (c *Cursor) Poll(ctx context.Context, limit int) (record.Batch, error) {
	if err := c.begin(ctx); err != nil {
		return record.Batch{}, err
	}
	for passed := 0; ; {
		b, err := c.src.Poll(ctx, limit)
		n := len(b.Recs)
		passed += n
		b, err = c.pass(b, err)
		if err != nil || len(b.Recs) > 0 || n == 0 || passed >= pollAtMost {
			return b, err
		}
	}
}

var errTick = errors.New("time to commit")

// wait is the Source's Next; errTick when records that were left out have
// waited for long enough.
func (c *Cursor) wait(ctx context.Context, limit int) (record.Batch, error) {
	if !c.free() {
		return c.src.Next(ctx, limit)
	}
	ctx, stop := context.WithTimeoutCause(ctx, max(time.Until(c.waits.Add(commitEvery)), 0), errTick)
	defer stop()
	b, err := c.src.Next(ctx, limit)
	if err != nil && len(b.Recs) == 0 && errors.Is(context.Cause(ctx), errTick) && (errors.Is(err, errTick) || errors.Is(err, context.DeadlineExceeded)) {
		return b, errTick
	}
	return b, err
}

// free reports whether there are records left out that only the Cursor itself
// can commit: nothing that was handed out stands before them.
func (c *Cursor) free() bool { return len(c.runs) > 0 && c.settled >= c.runs[0].after }

// flush commits what is free. Where that fails it is tried again later, and
// with the next Commit of the owner.
func (c *Cursor) flush() {
	if !c.free() {
		return
	}
	c.waits = time.Now()
	if err := c.Commit(0, record.Tally{}); err != nil && !errors.Is(err, record.ErrClosed) {
		if !c.failed {
			c.o.Logger.Error("cannot move the cursor over records that are left out", "stream", c.f.stream, "error", err)
		}
		c.failed = true
		return
	}
	c.failed = false
}

// Finish commits what was left out, where nothing that was handed out stands
// before it.
func (c *Cursor) Finish() error {
	if !c.free() {
		return nil
	}
	return c.Commit(0, record.Tally{})
}

// Commit moves the place behind upTo, and behind what was left out after it.
func (c *Cursor) Commit(upTo uint64, t record.Tally) error {
	settled, to, n := max(c.settled, upTo), upTo, 0
	for n < len(c.runs) && c.runs[n].after <= settled {
		t.Filtered += c.runs[n].n
		to = max(to, c.runs[n].last)
		n++
	}
	if err := c.src.Commit(to, t); err != nil {
		return err
	}
	if c.o.Filtered != nil {
		c.o.Filtered.Add(t.Filtered)
	}
	c.settled = settled
	c.runs = append(c.runs[:0], c.runs[n:]...)
	return nil
}

// Backlog is the Source's.
func (c *Cursor) Backlog() record.Backlog { return c.src.Backlog() }

// pass lets a batch through. What was left out is committed in time, and at
// once where the Source has come to an end.
func (c *Cursor) pass(b record.Batch, err error) (record.Batch, error) {
	b.Recs = c.shape(b.Recs)
	if c.free() && (time.Since(c.waits) >= commitEvery || err != nil && !isLoss(err)) {
		c.flush()
	}
	return b, err
}

// isLoss reports whether the Source goes on behind the error.
func isLoss(err error) bool {
	var (
		trimmed *record.TrimmedError
		corrupt *record.CorruptError
	)
	return errors.As(err, &trimmed) || errors.As(err, &corrupt)
}

// shape leaves out and changes records of a batch. Where all stay as they are
// it is the batch itself.
func (c *Cursor) shape(recs []record.Record) []record.Record {
	clear(c.recs)
	c.recs, c.buf = c.recs[:0], c.buf[:0]
	same := true
	for i := range recs {
		r := &recs[i]
		d := c.decide(r)
		if d.v == leaveOut {
			if same {
				c.recs, same = append(c.recs, recs[:i]...), false
			}
			c.leftOut(r.Pos.Seq)
			continue
		}
		c.out = r.Pos.Seq
		if d.v == transform {
			if same {
				c.recs, same = append(c.recs, recs[:i]...), false
			}
			c.recs = append(c.recs, *r)
			c.change(&c.recs[len(c.recs)-1], &d)
			continue
		}
		if !same {
			c.recs = append(c.recs, *r)
		}
	}
	if same {
		return recs
	}
	return c.recs
}

// A decision is what becomes of a record.
type decision struct {
	v       verdict
	e       *entry
	inside  *record.Record // r itself, or what is in the envelope that it is
	wrapped bool
	packed  []byte // the new payload of an aggregate; nil for other records
}

// decide decides about a record as it stands in the log.
func (c *Cursor) decide(r *record.Record) decision {
	d := decision{inside: r}
	if len(r.Data) > 0 {
		if kpl.IsAggregate(r.Data) {
			d.v, d.packed = c.repack(r)
			return d
		}
		if envelope.Is(r.Data) {
			if in, ok := opened(r); ok {
				d.inside, d.wrapped = &in, true
			}
		}
	}
	d.e, d.v = c.f.judge(r.Pos.Seq, d.inside)
	return d
}

// repack decides about the envelopes in an aggregate, as another gateway sends
// them. An aggregate of anything else stays whole: the place of a part in it is
// in the part's id.
func (c *Cursor) repack(r *record.Record) (verdict, []byte) {
	a := kpl.Open(r.Data)
	if a == nil {
		return send, nil // it is what it is
	}
	for _, x := range a.All() {
		if !envelope.Is(x.Data) {
			return send, nil
		}
	}
	c.pack.Reset()
	changed := false
	for _, x := range a.All() {
		part := *r
		part.Key, part.Data = x.Key, x.Data
		in, ok := opened(&part)
		if ok {
			d := decision{inside: &in, wrapped: true}
			if d.e, d.v = c.f.judge(r.Pos.Seq, &in); d.v == leaveOut {
				changed = true
				continue
			} else if d.v == transform {
				c.change(&part, &d)
				changed = true
			}
		}
		c.pack.Add(x.Key, x.HashKey, part.Data)
	}
	switch {
	case !changed:
		return send, nil
	case c.pack.Len() == 0:
		return leaveOut, nil
	}
	return transform, c.pack.AppendTo(nil)
}

// leftOut notes a record that is not handed out.
func (c *Cursor) leftOut(seq uint64) {
	if len(c.runs) == 0 {
		c.waits = time.Now()
	}
	if n := len(c.runs); n > 0 && c.runs[n-1].after == c.out {
		c.runs[n-1].last = seq
		c.runs[n-1].n++
		return
	}
	c.runs = append(c.runs, run{after: c.out, last: seq, n: 1})
}

// change gives a record its new payload and attributes. One in an envelope
// keeps the envelope: its id, times and attributes are another gateway's.
func (c *Cursor) change(r *record.Record, d *decision) {
	if d.packed != nil {
		r.Data = d.packed
		return
	}
	e, inside, wrapped := d.e, d.inside, d.wrapped
	if !wrapped {
		r.Attrs = c.f.attributes(e, r.Attrs)
	}
	if e.proj == nil || len(inside.Data) == 0 || !c.f.readable && !json.Valid(inside.Data) {
		return
	}
	from := len(c.buf)
	buf, ok := e.proj.apply(c.buf, inside.Data)
	if !ok {
		return
	}
	if !wrapped {
		c.buf = buf
		r.Data = c.buf[from:len(c.buf):len(c.buf)]
		return
	}
	if data, ok := rewrap(r.Data, inside.Data, buf[from:]); ok {
		r.Data = data
	}
}

// rewrap puts another payload into an envelope, whose payload stands at its end
// byte for byte. ok is false where it does not.
func rewrap(env, old, data []byte) (out []byte, ok bool) {
	head, ok := bytes.CutSuffix(env, append(bytes.Clone(old), '}'))
	if !ok {
		return nil, false
	}
	out = append(append(append(make([]byte, 0, len(head)+len(data)+1), head...), data...), '}')
	was, err := envelope.Open(env)
	if err != nil {
		return nil, false
	}
	now, err := envelope.Open(out)
	if err != nil || now.ID != was.ID || now.Key != was.Key || !now.At.Equal(was.At) || !now.Arrived.Equal(was.Arrived) || !bytes.Equal(now.Data, data) {
		return nil, false
	}
	return out, true
}

// begin learns what was sent before, once. Where that cannot be read nothing is
// known: then more is sent, never less.
func (c *Cursor) begin(ctx context.Context) error {
	if c.begun {
		return nil
	}
	from := max(c.o.Since, c.o.Next/era*era, 1)
	if c.o.Past == nil || from >= c.o.Next || !c.f.stateful() {
		c.begun = true
		return nil
	}
	err := c.replay(ctx, from)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.begun = true
	if err != nil {
		c.f.forget()
		c.o.Logger.Warn("what was sent last cannot be read again; of every key the next record is sent", "stream", c.f.stream, "first", from, "last", c.o.Next-1, "error", err)
	}
	return nil
}

func (c *Cursor) replay(ctx context.Context, from uint64) (err error) {
	past, err := c.o.Past(ctx, from-1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, past.Close()) }()
	c.f.forget()
	for want := from; want < c.o.Next; {
		b, err := past.Poll(ctx, historyStep)
		if err != nil {
			return err
		}
		if len(b.Recs) == 0 {
			return errors.New("the records are not there")
		}
		for i := range b.Recs {
			r := &b.Recs[i]
			if r.Pos.Seq >= c.o.Next {
				return nil
			}
			c.decide(r)
			want = r.Pos.Seq + 1
		}
	}
	return nil
}
