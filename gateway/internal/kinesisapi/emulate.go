package kinesisapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// What a shard of the service takes and gives (API reference, PutRecord,
// PutRecords, GetRecords and SubscribeToShard). A box has no such limits unless
// limits = "aws" asks for them.
const (
	shardBytesIn   = 1 << 20 // a second, data and keys
	shardRecordsIn = 1000    // a second
	shardBytesOut  = 2 << 20 // a second, by GetRecords; by SubscribeToShard for each consumer
	shardReads     = 5       // calls of GetRecords a second
)

// LimitsAWS is the value of Config.Limits that has the service's limits of a
// shard emulated.
const LimitsAWS = "aws"

// An emulation holds shards to the service's limits.
type emulation struct {
	mu     sync.Mutex
	meters map[meterKey]*meter
}

type meterKey struct {
	stream *spool.Stream
	shard  record.ShardID
}

type meter struct {
	bytes, records, reads bucket
	readable              time.Time // when what was read has been paid for
}

// A bucket fills at a rate up to what it gives in a second. One that holds less
// than what is asked gives nothing, except that a full one gives anything and
// owes the rest.
type bucket struct {
	level float64
	at    time.Time
}

func (b *bucket) take(now time.Time, n, rate float64) bool {
	b.fill(now, rate)
	if b.level < min(n, rate) {
		return false
	}
	b.level -= n
	return true
}

func (b *bucket) fill(now time.Time, rate float64) {
	if b.at.IsZero() {
		b.level = rate
	} else if d := now.Sub(b.at); d > 0 {
		b.level = min(rate, b.level+d.Seconds()*rate)
	}
	b.at = now // also where the clock went back
}

// maxMeters is more than there are open shards; beyond it those of deleted
// streams are swept out, with all others.
const maxMeters = 4 * shardLimit

// of is a shard's meter; e.mu is held.
func (e *emulation) of(st *spool.Stream, id record.ShardID) *meter {
	k := meterKey{st, id}
	m := e.meters[k]
	if m == nil {
		if e.meters == nil || len(e.meters) >= maxMeters {
			e.meters = make(map[meterKey]*meter)
		}
		m = &meter{}
		e.meters[k] = m
	}
	return m
}

// admits reports whether the shard takes a record of n bytes now.
func (e *emulation) admits(st *spool.Stream, id record.ShardID, n int, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.of(st, id)
	m.records.fill(now, shardRecordsIn)
	if m.records.level < 1 || !m.bytes.take(now, float64(n), shardBytesIn) {
		return false
	}
	return m.records.take(now, 1, shardRecordsIn)
}

// mayRead reports whether GetRecords may be called on the shard now.
func (e *emulation) mayRead(st *spool.Stream, id record.ShardID, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.of(st, id)
	if now.Before(m.readable) {
		return false
	}
	return m.reads.take(now, 1, shardReads)
}

// hasRead charges for what a call of GetRecords gave. What is read within a
// second's worth is given on credit; after ten megabytes nothing is for five
// seconds.
func (e *emulation) hasRead(st *spool.Stream, id record.ShardID, n int, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.of(st, id)
	from := now
	if credit := now.Add(-time.Second); n <= shardBytesOut && m.readable.Before(now) {
		from = m.readable
		if from.Before(credit) {
			from = credit
		}
	}
	m.readable = from.Add(time.Duration(float64(n) / shardBytesOut * float64(time.Second)))
}

var errThrottled = fmt.Errorf("the shard's emulated limit is reached: %w", errBusy)

// putEmulated is putWith for a shard's limits: what is over them fails by itself.
func (s *Server) putEmulated(ctx context.Context, st *spool.Stream, recs []record.Record, p *putResult) {
	in := make([]record.Record, 0, len(recs))
	refused := make([]bool, len(recs))
	shards, now := st.Shards(), s.now()
	for i := range recs {
		r := &recs[i]
		sh := shardOfHash(shards, r.Hash())
		if refused[i] = !s.emulated.admits(st, sh.ID, len(r.Data)+len(r.Key), now); !refused[i] {
			in = append(in, *r)
		}
	}
	if len(in) == len(recs) {
		s.putAll(ctx, st, recs, p)
		return
	}
	got := new(putResult)
	if len(in) > 0 {
		s.putAll(ctx, st, in, got)
	}
	p.abandoned = got.abandoned
	results, next := p.results[:0], 0
	for i := range recs {
		switch {
		case refused[i]:
			results = append(results, record.Result{Err: errThrottled})
		case got.refused != nil:
			results = append(results, record.Result{Err: got.refused})
		default:
			results = append(results, got.results[next])
			next++
		}
	}
	p.results = results
}

// throttledRead is the answer to a call of GetRecords beyond the limits.
func (s *Server) throttledRead(st *spool.Stream, at place) error {
	return refuse(codeThroughput, "Rate exceeded for shard %s in stream %s under account %s.", shardName(at.index), st.Name(), s.cfg.Account)
}

// pace holds a consumer to the rate that the service pushes a shard at.
func (p *pusher) pace(ctx context.Context) error {
	if p.s.emulated == nil || p.records == 0 {
		return nil
	}
	wait := time.NewTimer(time.Duration(p.bytes-p.records*recordCost) * time.Second / shardBytesOut)
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
