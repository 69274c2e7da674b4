package kinesisapi

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
)

// A unit is what one record of a request holds: records of lanes, in order.
type unit struct {
	parts []part // none: it is stored as it is
	by    string // the series that brings it
}

type part struct {
	lane []byte // a view of the record's data
	at   envelope.Place
}

// unitOf takes a record apart; false where something in it is of no lane.
func unitOf(data []byte) (unit, bool) {
	a := kpl.Open(data)
	if a == nil {
		lane, at, ok := envelope.LaneOf(data)
		return unit{parts: []part{{lane, at}}}, ok
	}
	u := unit{parts: make([]part, 0, a.Len())}
	for _, r := range a.All() {
		lane, at, ok := envelope.LaneOf(r.Data)
		if !ok {
			return unit{}, false
		}
		u.parts = append(u.parts, part{lane, at})
	}
	return u, true
}

// without is an aggregate without the parts that are stored already.
func without(data []byte, stored []bool) ([]byte, error) {
	a, err := kpl.Decode(data)
	if err != nil {
		return nil, err
	}
	var enc kpl.Encoder
	for i, r := range a.All() {
		if !stored[i] {
			enc.Add(r.Key, r.HashKey, r.Data)
		}
	}
	return enc.AppendTo(nil), nil
}

var errVia = errors.New("the request does not tell of each record by which way it came")

// putRising is putWith for the records of another gateway: what is stored
// already of its lanes is left out, and counts as stored.
func (s *Server) putRising(ctx context.Context, c *call, st *spool.Stream, recs []record.Record, p *putResult) {
	m, err := s.marksOf(ctx, st)
	if err == nil && c.lanes.via != nil && len(c.lanes.via) != len(recs) {
		err = errVia
	}
	if err != nil {
		s.unchecked(st, len(recs), err)
		s.putWith(ctx, st, recs, p)
		return
	}
	key := ""
	if c.key != nil {
		key = c.key.AccessKey
	}
	units, names := make([]unit, len(recs)), map[laneBy]bool{}
	for i := range recs {
		by, ok := c.lanes.seriesOf(key, i)
		if !ok {
			continue
		}
		u, ok := unitOf(recs[i].Data)
		if !ok {
			continue // it is stored as it is
		}
		u.by = by
		units[i] = u
		for _, x := range u.parts {
			if !names[laneBy{string(x.lane), by}] {
				names[laneBy{string(x.lane), by}] = true
			}
		}
	}
	f, err := m.take(ctx, slices.SortedFunc(maps.Keys(names), compareLanes), s.now())
	if err != nil {
		p.refused = err
		return
	}
	w := &rising{s: s, st: st, f: f, units: units}
	left := w.sift(recs)
	p.results = w.put(ctx, left, p)
}

// rising is one put of lanes.
type rising struct {
	s     *Server
	st    *spool.Stream
	f     *flight
	units []unit
	at    []int           // places in the request of the records that are put
	done  []record.Result // of all the request's records
}

// sift gives the records that are to be put.
func (w *rising) sift(recs []record.Record) []record.Record {
	w.done = make([]record.Result, len(recs))
	spans := map[laneBy]span{} // with what this request holds
	var left []record.Record
	for i := range recs {
		u := w.units[i]
		stored, again := make([]bool, len(u.parts)), 0
		for k, x := range u.parts {
			l := laneBy{string(x.lane), u.by}
			mk := w.f.marks[l]
			sp, seen := spans[l]
			if !seen {
				sp = mk.span
			}
			if stored[k] = sp.has(x.at); stored[k] {
				again++
				w.done[i].Pos = mk.pos
				continue
			}
			sp.add(x.at)
			spans[l] = sp
		}
		w.s.repeated.Add(uint64(again))
		r := recs[i]
		switch {
		case again > 0 && again == len(u.parts):
			continue
		case again > 0:
			data, err := without(r.Data, stored)
			if err != nil { // it was taken apart a moment ago
				w.done[i].Err = err
				continue
			}
			r.Data = data
		}
		if len(u.parts) > 0 {
			r.Type = envelope.LanesType(u.by)
		}
		w.at = append(w.at, i)
		left = append(left, r)
	}
	return left
}

// put stores what is left and gives the results of all. Where it must stop
// waiting, the lanes stay taken until the log has answered.
func (w *rising) put(ctx context.Context, left []record.Record, p *putResult) []record.Result {
	s := w.s
	if len(left) == 0 {
		w.f.release()
		return append(p.results[:0], w.done...)
	}
	admit, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	answered := make(chan []record.Result, 1)
	err := s.inlet.PutTo(admit, w.st.Name(), left, func(rs []record.Result) { answered <- slices.Clone(rs) })
	if err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = errBusy
		}
		w.f.release()
		p.refused = err
		s.count(p, len(w.done), w.st)
		return p.results[:0]
	}
	wait := time.NewTimer(commitTimeout)
	defer wait.Stop()
	select {
	case rs := <-answered:
		w.settle(left, rs)
		p.results = append(p.results[:0], w.done...)
	case <-ctx.Done():
		p.refused, p.abandoned = ctx.Err(), true
	case <-wait.C:
		p.refused, p.abandoned = errUnknown, true
	}
	if p.abandoned {
		s.lanes.flights.Go(func() { w.settle(left, <-answered) })
	}
	s.count(p, len(w.done), w.st)
	return p.results
}

// settle sets the marks of what is stored, and ends the flight.
func (w *rising) settle(left []record.Record, rs []record.Result) {
	defer w.f.release()
	now := w.s.now()
	for k, i := range w.at {
		if len(rs) != len(left) {
			w.done[i].Err = errResults
			continue
		}
		w.done[i] = rs[k]
		if rs[k].Err != nil {
			continue
		}
		if kpl.IsAggregate(left[k].Data) {
			w.s.aggregates.Add(1)
		}
		w.f.passed(w.units[i], rs[k].Pos, now)
	}
}
