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
type unit []part

type part struct {
	lane []byte // a view of the record's data
	at   envelope.Place
}

// unitOf takes a record apart; false where something in it is of no lane.
func unitOf(data []byte) (unit, bool) {
	if !kpl.IsAggregate(data) {
		lane, at, ok := envelope.LaneOf(data)
		return unit{{lane, at}}, ok
	}
	a, err := kpl.Decode(data)
	if err != nil || a.Len() == 0 {
		return nil, false
	}
	u := make(unit, 0, a.Len())
	for _, r := range a.All() {
		lane, at, ok := envelope.LaneOf(r.Data)
		if !ok {
			return nil, false
		}
		u = append(u, part{lane, at})
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

// putRising is putWith for the records of another gateway: what is stored
// already of its lanes is left out, and counts as stored.
func (s *Server) putRising(ctx context.Context, c *call, st *spool.Stream, recs []record.Record, p *putResult) {
	m, err := s.marksOf(ctx, st)
	if err != nil {
		s.log.Warn("lanes are not known; what comes twice is stored twice", "stream", st.Name(), "error", err)
		s.putWith(ctx, st, recs, p)
		return
	}
	units, names := make([]unit, len(recs)), map[string]bool{}
	for i := range recs {
		u, ok := unitOf(recs[i].Data)
		if !ok {
			continue // it is stored as it is
		}
		units[i] = u
		for _, x := range u {
			if !names[string(x.lane)] {
				names[string(x.lane)] = true
			}
		}
	}
	f, err := m.take(ctx, slices.Sorted(maps.Keys(names)), s.now())
	if err != nil {
		p.refused = err
		return
	}
	w := &rising{s: s, st: st, f: f, units: units}
	if c.key != nil {
		w.key = c.key.AccessKey
	}
	left := w.sift(recs)
	p.results = w.put(ctx, left, p)
}

// rising is one put of lanes.
type rising struct {
	s     *Server
	st    *spool.Stream
	f     *flight
	key   string
	units []unit
	at    []int           // places in the request of the records that are put
	done  []record.Result // of all the request's records
}

// sift gives the records that are to be put.
func (w *rising) sift(recs []record.Record) []record.Record {
	w.done = make([]record.Result, len(recs))
	high := map[string]envelope.Place{} // with what this request holds
	var left []record.Record
	for i := range recs {
		u := w.units[i]
		stored, again := make([]bool, len(u)), 0
		for k, x := range u {
			at, seen := high[string(x.lane)]
			mk := w.f.marks[string(x.lane)]
			if !seen && (mk.key == "" || mk.key == w.key) {
				at = mk.high
			}
			if stored[k] = !x.at.After(at); stored[k] {
				again++
				w.done[i].Pos = mk.pos
				continue
			}
			high[string(x.lane)] = x.at
		}
		w.s.repeated.Add(uint64(again))
		r := recs[i]
		switch {
		case len(u) > 0 && again == len(u):
			continue
		case again > 0:
			data, err := without(r.Data, stored)
			if err != nil { // it was taken apart a moment ago
				w.done[i].Err = err
				continue
			}
			r.Data = data
		}
		if len(u) > 0 {
			r.Type = TypeLanes
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
		w.f.passed(w.units[i], w.key, rs[k].Pos, now)
	}
}
