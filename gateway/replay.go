package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
	"forebay/uplink/shape"
)

// defaultAs is what a replay's records are called where nobody said.
const defaultAs = "replay-{n}-{stream}"

// Replay sends a time range of a stream again, to an uplink's target under
// another name.
func (p *plant) Replay(ctx context.Context, id string, r api.ReplayRequest) (api.Errand, error) {
	e := p.g.errands
	cfg, err := e.config(id)
	if err != nil {
		return api.Errand{}, err
	}
	now := p.g.clock.now().UTC()
	if r.To.IsZero() {
		r.To = now
	}
	switch {
	case r.To.After(now):
		return api.Errand{}, fmt.Errorf("%w: to: %s has not come yet; what comes goes out anyhow", localapi.ErrAsked, r.To.Format(time.RFC3339))
	case !r.From.Before(r.To):
		return api.Errand{}, fmt.Errorf("%w: from: %s is not before %s", localapi.ErrAsked, r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	}
	t, err := p.g.sp.Stream(r.Stream)
	if err != nil {
		return api.Errand{}, err
	}
	if !cfg.Match(r.Stream) {
		return api.Errand{}, fmt.Errorf("%w: stream: uplink %s does not hand on %q", localapi.ErrAsked, id, r.Stream)
	}
	o := &task{Kind: kindReplay, Uplink: id, Stream: r.Stream, From: r.From.UTC(), To: r.To.UTC(), By: r.By, At: now}
	if o.Parts, err = partsOf(t, r.From, r.To); err != nil {
		return api.Errand{}, err
	}
	if o.total() == 0 {
		return api.Errand{}, fmt.Errorf("%w: stream %s keeps nothing that arrived in that time", localapi.ErrNothing, r.Stream)
	}
	if r.Preview {
		return p.preview(t, cfg, o, r.As)
	}
	if err := e.begin(o, func(n int) (string, error) { return p.replayName(cfg, o, r.As, n) }); err != nil {
		return api.Errand{}, err
	}
	begin := "the oldest record"
	if !o.From.IsZero() {
		begin = o.From.Format(time.RFC3339)
	}
	note := fmt.Sprintf("%s from %s to %s as %s, %s", o.Stream, begin, o.To.Format(time.RFC3339), o.As, count(o.total(), "record", "records"))
	return p.ordered(ctx, o, note)
}

// preview is a replay as it would be ordered now.
func (p *plant) preview(t *spool.Stream, cfg uplink.Config, o *task, as string) (api.Errand, error) {
	e := p.g.errands
	e.mu.Lock()
	defer e.mu.Unlock()
	n, id := e.next(o.Uplink, o.Kind)
	o.ID = id
	var err error
	if o.As, err = p.replayName(cfg, o, as, n); err != nil {
		return api.Errand{}, err
	}
	out := o.show()
	out.State = "preview"
	var kept, bytes float64
	for _, sh := range t.Shards() {
		if sh.Next > sh.First {
			kept += float64(sh.Next - sh.First)
		}
		bytes += float64(sh.Bytes)
	}
	if kept > 0 {
		out.Bytes = int64(bytes / kept * float64(o.total()))
	}
	return out, nil
}

// replayName is what the records are called at the far side. e.mu is held.
func (p *plant) replayName(cfg uplink.Config, o *task, as string, n int) (string, error) {
	if as == "" {
		if !cfg.NamedByStream() && cfg.Renamable() {
			return "", fmt.Errorf("%w: as: the target of uplink %s takes all streams under one name; say another one for the replay", localapi.ErrAsked, cfg.ID)
		}
		as = defaultAs
	}
	as = strings.ReplaceAll(as, "{n}", strconv.Itoa(n))
	as = strings.ReplaceAll(as, "{stream}", shape.Far(cfg.Shape, o.Stream))
	if _, err := cfg.Replay(o.ID, o.Stream, as); err != nil {
		return "", fmt.Errorf("%w: %w", localapi.ErrAsked, err)
	}
	if slices.Contains(p.g.errands.book.Names[o.Uplink], as) {
		return "", fmt.Errorf("%w: as: an earlier replay has used %q; take another name, as a target may take what comes under it again for a repetition", localapi.ErrAsked, as)
	}
	for _, t := range p.g.sp.Streams() {
		if cfg.NamedByStream() && cfg.Match(t.Name()) && shape.Far(cfg.Shape, t.Name()) == as {
			return "", fmt.Errorf("%w: as: the stream %s goes there under the name %q already", localapi.ErrAsked, t.Name(), as)
		}
	}
	return as, nil
}

// ordered notes who asked for an errand, and shows it. It is on its way,
// whether the note could be kept or not.
func (p *plant) ordered(ctx context.Context, o *task, note string) (api.Errand, error) {
	p.g.log.Warn("errand was ordered by an operator", "errand", o.ID, "by", o.By, "note", note)
	if err := p.audit(ctx, act{Event: "uplink-" + o.Kind, Object: "uplink/" + o.ID, By: o.By, Note: note}); err != nil {
		return api.Errand{}, fmt.Errorf("it is on its way, but no trace of it could be kept: %w", err)
	}
	p.g.errands.mu.Lock()
	defer p.g.errands.mu.Unlock()
	return o.show(), nil
}

// CancelErrand ends a replay or a redrive; what is sent stays sent.
func (p *plant) CancelErrand(ctx context.Context, id, by string) (api.Errand, error) {
	e := p.g.errands
	e.mu.Lock()
	var a api.Errand
	ok := e.end(id, "canceled", by)
	var err error
	if ok {
		a = e.runs[id].o.show()
		a.State = "canceled"
		err = e.write()
	}
	e.mu.Unlock()
	if err != nil {
		return a, fmt.Errorf("it has ended, but begins again if the gateway is killed before that can be noted: %w", err)
	}
	if !ok {
		return a, fmt.Errorf("%q: %w", id, localapi.ErrNoErrand)
	}
	if err := p.audit(ctx, act{Event: "uplink-" + a.Kind + "-canceled", Object: "uplink/" + id, By: by}); err != nil {
		return a, fmt.Errorf("it is done, but no trace of it could be kept: %w", err)
	}
	return a, nil
}

// partsOf is what of a stream arrived from one time on and before another, by
// shards, parents first.
func partsOf(t *spool.Stream, from, to time.Time) ([]*part, error) {
	var out []*part
	for _, sh := range t.Shards() {
		start := spool.Oldest()
		if !from.IsZero() {
			start = spool.Since(from)
		}
		first, err := placeOf(t, sh.ID, start)
		if err != nil {
			return nil, err
		}
		end, err := placeOf(t, sh.ID, spool.Since(to))
		if err != nil {
			return nil, err
		}
		if end = min(end, sh.Next); first < end {
			out = append(out, &part{Stream: t.Name(), Shard: sh.ID, First: first, Next: first, End: end})
		}
	}
	return out, nil
}

func placeOf(t *spool.Stream, shard record.ShardID, start spool.Start) (uint64, error) {
	r, err := t.Reader(shard, start)
	if err != nil {
		return 0, fmt.Errorf("find the records of stream %s: %w", t.Name(), err)
	}
	return r.Pos(), r.Close()
}

// A replayLog is the log as a replay reads it: the parts of its order. What is
// refused of it is kept under the errand's name, so that a redrive of the
// uplink leaves it alone.
type replayLog struct {
	*forUplink
	e     *errands
	o     *task
	like  *shape.Shape // what the uplink does to the records; nil for nothing
	lanes map[record.ShardID]uplink.LaneCursor
}

func (e *errands) replayLog(o *task, cfg uplink.Config, view *forUplink) (uplink.Log, error) {
	l := &replayLog{forUplink: view, e: e, o: o, lanes: map[record.ShardID]uplink.LaneCursor{}}
	if len(cfg.Shape) > 0 {
		var err error
		if l.like, err = shape.New(cfg.Shape); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Lanes lists the parts whose shards' parents are done. None goes before the
// others for its class.
func (l *replayLog) Lanes(context.Context) ([]uplink.LaneCursor, error) {
	t, err := l.sp.Stream(l.o.Stream)
	if err != nil {
		l.e.mu.Lock()
		defer l.e.mu.Unlock()
		l.e.end(l.o.ID, "given up: "+err.Error(), "forebay")
		return nil, nil
	}
	busy := map[record.ShardID]bool{}
	l.e.mu.Lock()
	for _, p := range l.o.Parts {
		busy[p.Shard] = p.Next < p.End
	}
	l.e.mu.Unlock()
	var out []uplink.LaneCursor
	left := false
	for _, sh := range t.Shards() {
		if !busy[sh.ID] {
			continue
		}
		left = true
		if slices.ContainsFunc(sh.Parents, func(id record.ShardID) bool { return busy[id] }) {
			continue
		}
		c, ok := l.lanes[sh.ID]
		if !ok {
			if c, err = l.lane(t, sh); err != nil {
				return nil, err
			}
			l.lanes[sh.ID] = c
		}
		out = append(out, c)
	}
	if !left {
		l.e.mu.Lock()
		defer l.e.mu.Unlock()
		l.e.end(l.o.ID, "done", l.o.By)
	}
	return out, nil
}

func (l *replayLog) lane(t *spool.Stream, sh spool.Shard) (uplink.LaneCursor, error) {
	i := slices.IndexFunc(l.o.Parts, func(p *part) bool { return p.Shard == sh.ID })
	p := l.o.Parts[i]
	r, err := t.Reader(sh.ID, spool.After(p.Next-1))
	if err != nil {
		return uplink.LaneCursor{}, err
	}
	var cur uplink.Cursor = &errandCursor{e: l.e, o: l.o, p: p, poll: r.Poll, read: p.Next}
	if l.like != nil && !l.like.Empty(t.Name()) {
		// After a restart nothing is known of what was sent before: of every key
		// the next record is.
		cur = l.like.Cursor(t.Name(), cur, shape.Options{Next: p.Next, Since: p.Next, Logger: l.log})
	}
	return uplink.LaneCursor{Lane: lane.Lane{Stream: t.Name(), Shard: sh.ID, Hash: laneHash(t.Name(), sh)}, Cursor: cur}, nil
}
