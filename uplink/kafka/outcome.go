package kafka

import (
	"context"
	"errors"
	"slices"

	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lost stops everything because it is not known what became of the attempt;
// the next one begins with finding out. open says that something may have been
// committed.
func (p *producer) lost(err error, works []*work, open bool) {
	e := classify(err, p.wire, lane.Ambiguous)
	if open {
		e = unsure(e, err)
	}
	p.drop()
	if e.Class == lane.Poison {
		e = &lane.Error{Class: lane.Ambiguous, Code: e.Code, Text: e.Text}
	}
	stopAll(works, e)
}

// settleAborted draws the consequences of records that were not stored: their
// transaction is ended without effect, lanes with such a record stop, or are
// narrowed down, and the others are tried without them.
func (p *producer) settleAborted(ctx context.Context, f *failures, works, in []*work) {
	for i := range in {
		w := in[i]
		_, err := p.firstFailure(w, f)
		if err == nil {
			continue
		}
		p.judge(w, err)
	}
	if e := classify(f.any, p.wire, lane.Ambiguous); !definite(e, f.any) || p.onlyPlaces(f, in) {
		p.lost(f.any, works, false)
		return
	}
	if err := p.cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
		p.drop()
		return
	}
	if id, epoch, err := p.cl.ProducerID(ctx); err == nil {
		p.id, p.epoch = id, epoch
		return
	}
	p.drop()
}

// onlyPlaces reports whether it was a place that could not be stored: that
// concerns every lane.
func (p *producer) onlyPlaces(f *failures, in []*work) bool {
	for _, w := range in {
		if _, err := p.firstFailure(w, f); err != nil {
			return false
		}
	}
	return true
}

// definite reports whether an answer is about the records or their topic and
// not about the way to it.
func definite(e *lane.Error, err error) bool {
	if errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerIDMapping) {
		return false
	}
	switch e.Class {
	case lane.Poison, lane.Auth, lane.Misconfigured, lane.ClockSkew:
		return true
	}
	return false
}

// firstFailure is how many records of the lane are stored before the first
// that is not, and why that is not.
func (p *producer) firstFailure(w *work, f *failures) (int, error) {
	at := 0
	if w.first > 0 {
		at = p.ends[w.first-1]
	}
	for i := range w.n {
		for ; at < p.ends[w.first+i]; at++ {
			if err := f.of[&p.recs[at]]; err != nil {
				return i, err
			}
		}
	}
	return w.n, nil
}

// judge stops a lane whose record was not stored, or has less of it sent next
// where a whole batch was refused for something in it.
func (p *producer) judge(w *work, err error) {
	if !narrows(err) {
		e := classify(err, p.wire, lane.Ambiguous)
		p.s.forget(w.topic)
		w.stop(p.s.about(w.topic, e))
		return
	}
	switch {
	case !w.alone:
		w.alone = true
	case w.n > 1:
		w.most = w.n / 2
	default:
		e := *classify(err, p.wire, lane.Ambiguous)
		if errors.Is(err, kerr.InvalidRecord) && !p.s.takes(w.topic, nil) {
			// As far as we know the topic takes nothing at all.
			e.Class = lane.Misconfigured
		}
		w.stop(p.s.about(w.topic, &e))
	}
}

// settleRound takes what became of a round without transactions.
func (p *producer) settleRound(f *failures, works, in []*work) {
	for _, w := range in {
		n, err := p.firstFailure(w, f)
		w.out.Done += n
		if err != nil {
			w.n -= n
			p.judge(w, err)
		}
	}
	p.s.takes("", slices.DeleteFunc(slices.Clone(in), func(w *work) bool { return w.out.Done == 0 }))
	if f.any != nil && !narrows(f.any) {
		if e := classify(f.any, p.wire, lane.Ambiguous); !definite(e, f.any) {
			if p.wire.bytes.Load() > 0 {
				e = unsure(e, f.any)
			}
			stopAll(works, e)
		}
		p.drop()
	}
}

// account gives each lane its share of what went over the link.
func (p *producer) account(in []*work) {
	bytes, requests, total := int(p.wire.bytes.Load()), int(p.wire.requests.Load()), 0
	for _, w := range in {
		total += w.bytes
	}
	for i, w := range in {
		share := int(int64(bytes) * int64(w.bytes) / int64(max(total, 1)))
		w.out.Bytes += share
		if i == 0 {
			w.out.Requests += requests
		}
	}
}
