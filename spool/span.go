package spool

import (
	"math"
	"time"

	"forebay/spool/record"
)

// A Span says which records a Scanner yields. The zero Span is all of them.
// Every bound is exact and inclusive.
type Span struct {
	// Shards are the shards wanted; nil is every shard of the stream.
	Shards []record.ShardID
	// Since and Until bound the arrival, by our wall clock; zero is no bound.
	Since, Until time.Time
	// SinceEvent and UntilEvent bound the event time: the record's own time
	// (At), or its arrival where the sender gave none. Zero is no bound.
	SinceEvent, UntilEvent time.Time
	// FirstSeq and LastSeq bound the sequence number; 0 is no bound.
	FirstSeq, LastSeq uint64
	// HeadsOnly is for a reader that only counts: blocks that lie wholly within
	// the span are told by their heads and their bodies are not read, so that a
	// damaged body is not noticed.
	HeadsOnly bool
	// WithoutData leaves Data nil where it lies in the chunk file.
	WithoutData bool
}

// A Part is what one step of a Scanner yields: records of one shard with rising
// sequence numbers. With HeadsOnly Recs may be nil; the part is then First to
// Next-1.
type Part struct {
	record.Batch
	First  uint64
	Origin record.Origin // what the ids of its records begin with
}

// Len is how many records the part tells of.
func (p *Part) Len() int {
	if p.Recs != nil {
		return len(p.Recs)
	}
	return int(p.Next - p.First)
}

// ScanProgress says how far a Scanner is.
type ScanProgress struct {
	Records uint64  // yielded
	Blocks  uint64  // read, or counted by their heads
	Skipped uint64  // blocks passed over by their heads; those of segments passed over are not counted
	Share   float64 // of the segments to pass, 0 to 1
}

// bounds is a Span's times in nanoseconds.
type bounds struct {
	since, until           int64
	sinceEvent, untilEvent int64
	arrival, event         bool // there are any
}

func boundsOf(s Span) bounds {
	b := bounds{since: minTime, until: math.MaxInt64, sinceEvent: minTime, untilEvent: math.MaxInt64}
	if !s.Since.IsZero() {
		b.since, b.arrival = nanos(s.Since), true
	}
	if !s.Until.IsZero() {
		b.until, b.arrival = nanos(s.Until), true
	}
	if !s.SinceEvent.IsZero() {
		b.sinceEvent, b.event = nanos(s.SinceEvent), true
	}
	if !s.UntilEvent.IsZero() {
		b.untilEvent, b.event = nanos(s.UntilEvent), true
	}
	return b
}

// nanos is the time in nanoseconds since 1970, at most what an int64 holds.
func nanos(t time.Time) int64 {
	switch y := t.Year(); {
	case y < 1700:
		return minTime
	case y > 2250:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// eventTime is the record's own time, else its arrival.
func eventTime(r *record.Record) time.Time {
	if r.At.IsZero() {
		return r.Arrived
	}
	return r.At
}
