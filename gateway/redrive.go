package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
)

const (
	// mostLetters is how many refused records one redrive takes.
	mostLetters = 10_000
	// redriveLanes is where the numbers of lanes begin that redrives have, far
	// from any shard's.
	redriveLanes record.ShardID = 1 << 30
	// redriveID is the attribute of a record that was sent again after the
	// target had refused it: its id then. It has another one now, as a consumer
	// that has come further in its lane would drop it by that.
	redriveID = "redrive.id"
)

// A letter is a record in the stream refused.
type letter struct {
	api.Letter
	pos record.Pos
}

func letterOf(r *record.Record) letter {
	return letter{api.Letter{
		ID: r.Attrs["id"], Stream: r.Attrs["stream"], Key: r.Key, Reason: r.Attrs["reason"], Arrived: r.Arrived.UTC(), Type: r.Type,
		Bytes: len(r.Data), Shard: uint32(r.Pos.Shard), Seq: r.Pos.Seq,
	}, r.Pos}
}

// letters goes through what the target of an uplink refused, oldest first in
// each shard; sent tells that a letter was sent again, or is about to be.
func (e *errands) letters(ctx context.Context, id string, each func(l letter, sent bool)) error {
	t, err := e.g.sp.Stream(uplink.RefusedStream)
	if err != nil {
		return err
	}
	under := map[record.Pos]bool{}
	done := map[record.ShardID][]uplink.Span{}
	e.mu.Lock()
	for _, o := range e.book.Orders {
		for _, p := range o.Parts {
			for _, pos := range p.Letters {
				under[pos] = o.Uplink == id
			}
		}
	}
	for shard, spans := range e.book.Redriven[id] {
		done[shard] = slices.Clone(spans)
	}
	e.mu.Unlock()
	for _, sh := range t.Shards() {
		for b, err := range t.Scan(ctx, sh.ID, spool.Oldest()) {
			if _, _, loss := lost(err); err != nil && !loss {
				return err
			}
			for i := range b.Recs {
				r := &b.Recs[i]
				if r.Attrs["uplink"] == id && r.Attrs["id"] != "" {
					each(letterOf(r), under[r.Pos] || covers(done[sh.ID], r.Pos.Seq))
				}
			}
		}
	}
	return nil
}

// covers reports whether a number lies in one of the spans, which are in order.
func covers(spans []uplink.Span, seq uint64) bool {
	i, _ := slices.BinarySearchFunc(spans, seq, func(s uplink.Span, seq uint64) int {
		if s.To <= seq {
			return -1
		}
		return 1
	})
	return i < len(spans) && spans[i].From <= seq
}

// redriven remembers that a letter was sent again. e.mu is held.
func (e *errands) redriven(id string, pos record.Pos) {
	of := e.book.Redriven[id]
	if of == nil {
		of = map[record.ShardID][]uplink.Span{}
		e.book.Redriven[id] = of
	}
	spans := of[pos.Shard]
	i, _ := slices.BinarySearchFunc(spans, pos.Seq, func(s uplink.Span, seq uint64) int {
		if s.To < seq {
			return -1
		}
		return 1
	})
	switch {
	case i < len(spans) && spans[i].From <= pos.Seq && pos.Seq < spans[i].To:
		return
	case i < len(spans) && spans[i].To == pos.Seq:
		spans[i].To++
	case i < len(spans) && spans[i].From == pos.Seq+1:
		spans[i].From--
	default:
		spans = slices.Insert(spans, i, uplink.Span{From: pos.Seq, To: pos.Seq + 1})
	}
	if i+1 < len(spans) && spans[i].To == spans[i+1].From {
		spans[i].To = spans[i+1].To
		spans = slices.Delete(spans, i+1, i+2)
	}
	of[pos.Shard] = spans
}

// refusedEnds is where the shards of the stream refused stand.
func refusedEnds(sp *spool.Spool) map[record.ShardID]uint64 {
	ends := map[record.ShardID]uint64{}
	if t, err := sp.Stream(uplink.RefusedStream); err == nil {
		for _, sh := range t.Shards() {
			ends[sh.ID] = sh.Next
		}
	}
	return ends
}

// mend counts letters that were sent again: one is refused anew, or the target
// has taken them, but for those that are not kept any more. e.mu is held.
func (e *errands) mend(id string, letters []record.Pos, t record.Tally) {
	young := uint64(0) // since the start
	isYoung := false   // the last one
	for _, pos := range letters {
		if isYoung = pos.Seq >= e.begun[pos.Shard]; isYoung {
			young++
		}
	}
	if t.Refused > 0 && !isYoung {
		e.mended[id]-- // the uplink's count does not hold it
	}
	e.mended[id] += int64(min(t.Delivered, young))
}

// unmended is how many of the records that an uplink's target has refused since
// the start were not taken when they were sent again.
func (e *errands) unmended(id string, refused uint64) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return uint64(max(int64(refused)-e.mended[id], 0))
}

// prune forgets letters that are not kept any more. e.mu is held.
func (e *errands) prune() {
	t, err := e.g.sp.Stream(uplink.RefusedStream)
	if err != nil {
		return
	}
	first := map[record.ShardID]uint64{}
	for _, sh := range t.Shards() {
		first[sh.ID] = sh.First
	}
	for _, of := range e.book.Redriven {
		for shard, spans := range of {
			of[shard] = slices.DeleteFunc(spans, func(s uplink.Span) bool { return s.To <= first[shard] })
			if first[shard] == 0 || len(of[shard]) == 0 {
				delete(of, shard)
			}
		}
	}
}

// Refused lists what an uplink's target refused, newest first.
func (p *plant) Refused(ctx context.Context, id string, limit int) (api.Refused, error) {
	out := api.Refused{Letters: []api.Letter{}}
	if _, err := p.g.errands.config(id); err != nil {
		return out, err
	}
	err := p.g.errands.letters(ctx, id, func(l letter, sent bool) {
		if sent {
			out.Redrive++
			return
		}
		out.Total++
		out.Letters = append(out.Letters, l.Letter)
		if len(out.Letters) >= 2*limit {
			out.Letters = append(out.Letters[:0], out.Letters[len(out.Letters)-limit:]...)
		}
	})
	out.Letters = out.Letters[max(len(out.Letters)-limit, 0):]
	slices.Reverse(out.Letters)
	return out, err
}

// Redrive sends refused records again, each as a record of its stream.
func (p *plant) Redrive(ctx context.Context, id string, r api.RedriveRequest) (api.Errand, error) {
	e := p.g.errands
	cfg, err := e.config(id)
	if err != nil {
		return api.Errand{}, err
	}
	if err := cfg.Apart(); err != nil {
		return api.Errand{}, fmt.Errorf("%w: %w", localapi.ErrAsked, err)
	}
	if r.All == (len(r.IDs) > 0) {
		return api.Errand{}, fmt.Errorf("%w: say either ids, or all", localapi.ErrAsked)
	}
	want := map[string]bool{}
	for _, id := range r.IDs {
		want[id] = true
	}
	o := &task{Kind: kindRedrive, Uplink: id, By: r.By, At: p.g.clock.now().UTC()}
	parts, n := map[string]*part{}, 0
	err = e.letters(ctx, id, func(l letter, sent bool) {
		switch {
		case sent || !r.All && !want[l.ID]:
			return
		case n == mostLetters:
			o.Left++
			return
		}
		n++
		delete(want, l.ID)
		if parts[l.Stream] == nil {
			parts[l.Stream] = &part{Stream: l.Stream, First: 1, Next: 1}
		}
		parts[l.Stream].Letters = append(parts[l.Stream].Letters, l.pos)
	})
	if err != nil {
		return api.Errand{}, fmt.Errorf("read what was refused: %w", err)
	}
	if len(want) > 0 {
		return api.Errand{}, fmt.Errorf("%w: no refused record has the id %s, or it was sent again", localapi.ErrNothing, slices.Sorted(maps.Keys(want))[0])
	}
	if n == 0 {
		return api.Errand{}, fmt.Errorf("%w: the target of uplink %s has refused nothing that was not sent again", localapi.ErrNothing, id)
	}
	for _, stream := range slices.Sorted(maps.Keys(parts)) {
		parts[stream].End = uint64(len(parts[stream].Letters)) + 1
		o.Parts = append(o.Parts, parts[stream])
	}
	if err := e.begin(o, func(int) (string, error) { return "", e.claim(o) }); err != nil {
		return api.Errand{}, err
	}
	return p.ordered(ctx, o, fmt.Sprintf("%d refused records", n))
}

// claim gives a redrive its lanes, unless another one has its letters since
// they were looked up. e.mu is held.
func (e *errands) claim(o *task) error {
	for _, other := range e.book.Orders {
		if other.Uplink == o.Uplink && other.Kind == kindRedrive {
			return fmt.Errorf("%w: %s is under way", localapi.ErrNothing, other.ID)
		}
	}
	e.prune()
	for _, p := range o.Parts {
		p.Shard = redriveLanes + e.book.Lanes
		e.book.Lanes++
	}
	return nil
}

// begin names an order, and puts it into the file and on its way.
func (e *errands) begin(o *task, name func(n int) (string, error)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, id := e.next(o.Uplink, o.Kind)
	o.ID = id
	var err error
	if o.As, err = name(n); err != nil {
		return err
	}
	return e.add(o)
}

// A redriveLog hands out letters as the records that they were.
type redriveLog struct {
	e       *errands
	o       *task
	cursors map[record.ShardID]uplink.Cursor
}

// Lanes lists a lane for each stream that letters came from.
func (l *redriveLog) Lanes(context.Context) ([]uplink.LaneCursor, error) {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	var out []uplink.LaneCursor
	for _, p := range l.o.Parts {
		if p.Next >= p.End {
			continue
		}
		if l.cursors[p.Shard] == nil {
			c := &errandCursor{e: l.e, o: l.o, p: p, read: p.Next}
			c.poll = func(ctx context.Context, limit int) (record.Batch, error) { return l.poll(ctx, p, c.read, limit) }
			l.cursors[p.Shard] = c
		}
		hash := record.HashOf(fmt.Sprintf("%s/%d", p.Stream, p.Shard))
		out = append(out, uplink.LaneCursor{Lane: lane.Lane{Stream: p.Stream, Shard: p.Shard, Hash: hash}, Cursor: l.cursors[p.Shard]})
	}
	if len(out) == 0 {
		l.e.end(l.o.ID, "done", l.o.By)
	}
	return out, nil
}

// maxPoll bounds what is read of letters at a time.
const maxPoll = 256

// poll reads letters from number next on. What is not there is a gap.
func (l *redriveLog) poll(ctx context.Context, p *part, next uint64, limit int) (record.Batch, error) {
	b := record.Batch{Shard: p.Shard, Next: next}
	size := 0
	for ; b.Next < p.End && len(b.Recs) < min(limit, maxPoll) && size < 1<<20; b.Next++ {
		r, err := l.read(ctx, p.Letters[b.Next-1])
		if _, _, loss := lost(err); loss || errors.Is(err, record.ErrNoShard) {
			continue
		}
		if err != nil {
			return record.Batch{Shard: p.Shard, Next: next}, err
		}
		r = again(r)
		r.Pos = record.Pos{Shard: p.Shard, Seq: b.Next}
		size += r.Size()
		b.Recs = append(b.Recs, r)
	}
	return b, nil
}

// read reads one letter.
func (l *redriveLog) read(ctx context.Context, pos record.Pos) (record.Record, error) {
	t, err := l.e.g.sp.Stream(uplink.RefusedStream)
	if err != nil {
		return record.Record{}, err
	}
	rd, err := t.Reader(pos.Shard, spool.After(pos.Seq-1))
	if err != nil {
		return record.Record{}, err
	}
	defer rd.Close()
	b, err := rd.Poll(ctx, 1)
	if err != nil {
		return record.Record{}, err
	}
	if len(b.Recs) == 0 || b.Recs[0].Pos != pos {
		return record.Record{}, &record.TrimmedError{Shard: pos.Shard, From: pos.Seq, To: pos.Seq + 1}
	}
	r := b.Recs[0]
	r.Data, r.Attrs = slices.Clone(r.Data), maps.Clone(r.Attrs)
	return r, nil
}

// again is the record that a letter holds, as it is sent again: with its own
// times, key and attributes, and its first id as an attribute. What another
// gateway sent in an envelope is taken out of it, as its id counts as well.
func again(r record.Record) record.Record {
	attrs := map[string]string{redriveID: r.Attrs["id"]}
	r.Source = r.Attrs["source"]
	for k, v := range r.Attrs {
		if name, ok := strings.CutPrefix(k, "was."); ok {
			attrs[name] = v
		}
	}
	if len(attrs) == 1 && envelope.Is(r.Data) {
		if o, err := envelope.Open(r.Data); err == nil {
			r.At, r.Source, r.Type, r.Data = o.At, o.Source, o.Type, o.Data
			if o.Key != "" {
				r.Key = o.Key
			}
			attrs = maps.Clone(o.Attrs)
			if attrs == nil {
				attrs = map[string]string{}
			}
			attrs[redriveID] = o.ID
		}
	}
	r.Attrs, r.Origin, r.HashKey, r.Chunk = attrs, nil, nil, record.ChunkRef{}
	return r
}

// Refuse keeps a letter that was refused again, with the new reason.
func (l *redriveLog) Refuse(ctx context.Context, stream string, r record.Record, reason string) error {
	i := slices.IndexFunc(l.o.Parts, func(p *part) bool { return p.Shard == r.Pos.Shard })
	if i < 0 {
		return fmt.Errorf("keep a refused record: lane %d: %w", r.Pos.Shard, record.ErrNoShard)
	}
	old, err := l.read(ctx, l.o.Parts[i].Letters[r.Pos.Seq-1])
	if _, _, loss := lost(err); loss {
		return nil // the letter is kept no longer; there is nothing to keep again
	}
	if err != nil {
		return fmt.Errorf("keep a refused record: %w", err)
	}
	old.Attrs["reason"], old.Attrs["stream"] = reason, stream
	old.Source, old.SourceSeq, old.Pos, old.Origin = "uplink/"+l.o.Uplink, 0, record.Pos{}, nil
	t, err := l.e.g.sp.Stream(uplink.RefusedStream)
	if err != nil {
		return err
	}
	res, err := t.Put(ctx, []record.Record{old})
	if err != nil {
		return fmt.Errorf("keep a refused record: %w", err)
	}
	return res[0].Err
}
