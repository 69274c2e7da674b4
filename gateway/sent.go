package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
	"forebay/gateway/internal/proof"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

// maxRefused bounds how many refused records are known by their ids.
const maxRefused = 1 << 18

// Sent says what an uplink has delivered, by the ledger and by the log.
func (p *plant) Sent(ctx context.Context, id string, ask api.SentAsk) (api.Sent, error) {
	for _, c := range p.g.cfg.Uplinks {
		if string(c.ID) == id {
			return sentBy(ctx, p.g.sp, c, ask)
		}
	}
	return api.Sent{}, fmt.Errorf("uplink %q: %w", id, localapi.ErrNoUplink)
}

// sentBy reads what the log still has of what an uplink has passed. Each shard
// is read once, up to where the cursor stood at the beginning.
func sentBy(ctx context.Context, sp *spool.Spool, c uplink.Config, ask api.SentAsk) (api.Sent, error) {
	id := sp.Identity()
	s := &sentScan{id: id, ask: ask, lanes: map[string]*sentLane{}, out: api.Sent{
		At: time.Now().UTC(), Gateway: id.Gateway, Epoch: id.Epoch.String(), Uplink: string(c.ID), Epochs: []string{},
		Shards: []api.SentShard{}, Lanes: []api.SentLane{},
	}}
	claims := sp.Claims(string(c.ID)) // before anything else: what is counted here was acknowledged before
	steps, err := sp.Steps(ctx, 0)
	if err != nil {
		return s.out, err
	}
	for _, st := range steps {
		if st.Kind == spool.StepEpoch {
			s.out.Epochs = append(s.out.Epochs, st.Who)
		}
	}
	if err := s.readRefused(ctx, sp, string(c.ID)); err != nil {
		return s.out, err
	}
	for _, cl := range claims {
		t, err := sp.Stream(cl.Stream)
		if err != nil {
			continue // deleted meanwhile
		}
		for _, sh := range t.Shards() {
			if sh.ID == cl.Shard {
				if err := s.shard(ctx, t, sh, cl, c); err != nil {
					return s.out, fmt.Errorf("read %s of stream %s: %w", localapi.ShardName(sh.Index), cl.Stream, err)
				}
			}
		}
	}
	for _, name := range s.order {
		s.out.Lanes = append(s.out.Lanes, s.lanes[name].listed())
	}
	return s.out, nil
}

// A sentScan reads a log for what an uplink has sent of it.
type sentScan struct {
	id      record.Identity
	ask     api.SentAsk
	budget  proof.Budget
	refused map[string]bool
	lanes   map[string]*sentLane // by shard and lane
	order   []string
	out     api.Sent

	key  []byte
	last *sentLane // of the record before, and its key
	was  string
}

type sentLane struct {
	api.SentLane
	seqs  *proof.Spans
	parts *proof.Parts
}

func (l *sentLane) listed() api.SentLane {
	l.Ranges = append([][2]uint64{}, l.seqs.All()...)
	l.Parts = l.parts.All()
	return l.SentLane
}

// readRefused finds the ids of what the far side could never take.
func (s *sentScan) readRefused(ctx context.Context, sp *spool.Spool, id string) error {
	s.refused = map[string]bool{}
	t, err := sp.Stream(uplink.RefusedStream)
	if err != nil {
		return nil //nolint:nilerr // where there is no such stream nothing is in it
	}
	for _, sh := range t.Shards() {
		err := passed(ctx, t, sh.ID, max(sh.First, 1), sh.Next, func(r *record.Record) error {
			if r.Attrs["uplink"] == id && len(s.refused) < maxRefused {
				s.refused[strings.Clone(r.Attrs["id"])] = true
			}
			return nil
		}, func(uint64) {})
		if err != nil {
			return fmt.Errorf("read the refused records: %w", err)
		}
	}
	return nil
}

// passed gives the records of a shard from one sequence number up to another,
// and how many it has lost in between.
func passed(ctx context.Context, t *spool.Stream, id record.ShardID, from, to uint64, each func(*record.Record) error, lost func(n uint64)) error {
	if from >= to {
		return nil
	}
	rd, err := t.Reader(id, spool.After(from-1))
	if err != nil {
		return err
	}
	defer func() { _ = rd.Close() }() // it only ends a waiting Next
	for at := from; at < to; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b, err := rd.Poll(ctx, 4096)
		for i := range b.Recs {
			if b.Recs[i].Pos.Seq < to {
				if err := each(&b.Recs[i]); err != nil {
					return err
				}
			}
		}
		next := rd.Pos()
		switch {
		case err == nil && next == at:
			return nil // a log that was cut off under us
		case err != nil && !isLoss(err):
			return err
		case err != nil && next > at:
			lost(min(next, to) - at - min(uint64(len(b.Recs)), min(next, to)-at))
		}
		at = next
	}
	return nil
}

func isLoss(err error) bool {
	var trimmed *record.TrimmedError
	var corrupt *record.CorruptError
	return errors.As(err, &trimmed) || errors.As(err, &corrupt)
}

// shard reads what one cursor has passed.
func (s *sentScan) shard(ctx context.Context, t *spool.Stream, sh spool.Shard, cl spool.Claim, c uplink.Config) error {
	s.out.Shards = append(s.out.Shards, api.SentShard{
		Stream: cl.Stream, Far: c.Far(lane.Lane{Stream: cl.Stream}).Stream, Number: uint32(cl.Shard), ID: localapi.ShardName(sh.Index),
		Start: cl.Start, Next: cl.Next, First: sh.First, Delivered: cl.Delivered, Filtered: cl.Filtered, Refused: cl.Refused,
		Expired: cl.Expired, Corrupt: cl.Corrupt, Waiting: sh.Next - min(max(cl.Next, sh.First), sh.Next), Oldest: moment(sh.Oldest),
	})
	out := &s.out.Shards[len(s.out.Shards)-1]
	s.last = nil
	return passed(ctx, t, sh.ID, max(cl.Start, sh.First, 1), cl.Next, func(r *record.Record) error {
		if !s.ask.From.IsZero() && r.Arrived.Before(s.ask.From) || !s.ask.To.IsZero() && !r.Arrived.Before(s.ask.To) {
			out.Outside++
			return nil
		}
		return s.take(out, r)
	}, func(n uint64) { out.Unreadable += n })
}

// take adds the ids by which a record is known at the far side.
func (s *sentScan) take(out *api.SentShard, r *record.Record) error {
	if len(s.refused) > 0 && s.refused[s.id.Of(r)] {
		out.RefusedKnown++
		return nil
	}
	if in := kpl.Open(r.Data); in != nil { // as the sinks do
		out.Aggregates++
		one, forwarded := *r, false
		for i, x := range in.All() {
			one.Data = x.Data
			name, at, theirs := s.named(&one)
			if !theirs {
				at.Part = uint64(i + 1)
			}
			forwarded = forwarded || theirs
			if err := s.add(out, name, at, r); err != nil {
				return err
			}
		}
		if forwarded {
			out.Forwarded++
		}
		return nil
	}
	name, at, theirs := s.named(r)
	if theirs {
		out.Forwarded++
	}
	return s.add(out, name, at, r)
}

// named is the lane by which a record is known, and its place there. theirs
// says that another gateway has named it. The lane is valid until the next call.
func (s *sentScan) named(r *record.Record) (name []byte, at envelope.Place, theirs bool) {
	if envelope.Forwarded(r) {
		if name, at, ok := envelope.LaneOf(r.Data); ok {
			return name, at, true
		}
	}
	s.key = append(s.key[:0], r.Origin.Gateway...)
	s.key = fmt.Appendf(s.key, "/%s/%d", r.Origin.Epoch, r.Pos.Shard)
	return s.key, envelope.Place{Seq: r.Pos.Seq}, false
}

func (s *sentScan) add(out *api.SentShard, name []byte, at envelope.Place, r *record.Record) error {
	l := s.last
	if l == nil || s.was != string(name) {
		key := fmt.Sprintf("%d %s", out.Number, name)
		if l = s.lanes[key]; l == nil {
			l = &sentLane{SentLane: api.SentLane{Lane: string(name), Stream: out.Stream, Shard: out.Number}, seqs: s.budget.NewSpans(), parts: s.budget.NewParts()}
			s.lanes[key] = l
			s.order = append(s.order, key)
		}
		s.last, s.was = l, l.Lane
	}
	if !s.ask.Keeps.IsZero() && r.Arrived.Before(s.ask.Keeps) {
		l.Old = max(l.Old, at.Seq)
	}
	if at.Part > 0 {
		return l.parts.Add(at.Seq, at.Part)
	}
	_, err := l.seqs.Add(at.Seq)
	return err
}
