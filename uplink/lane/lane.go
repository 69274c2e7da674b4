// Package lane holds the words in which a pump and a sink talk: a lane, a
// batch of it, and the outcome of sending one. A lane is the unit of order:
// its records go out one batch at a time, in sequence, and a later record
// never overtakes an earlier one.
package lane

import (
	"io"
	"log/slog"
	"time"

	"forebay/spool/record"
)

// A Lane is one shard of one local stream on its way to one target.
type Lane struct {
	Stream string
	Shard  record.ShardID
	// Hash is a point within the shard's range; sinks that route by hash send
	// everything of the lane there, so that a lane stays on one target shard.
	Hash record.HashKey
}

// A Batch is consecutive records of one lane. At most one is in flight. The
// records belong to the pump; a sink copies what it keeps beyond Send.
type Batch struct {
	Lane Lane
	Recs []record.Record
	// Place is what the log knows of the lane; nil where nobody can tell, as
	// where records are sent beside an uplink.
	Place Place
	// Backlog reports that more records are waiting behind this batch, so a
	// sink may choose larger units over lower delay.
	Backlog bool
	// Urgent reports that the lane's records are alarms: a sink that does a few
	// things at a time does not have them wait for others. It is the same for
	// all batches of a lane, until the next start.
	Urgent bool
}

// A Class says what kind of failure an outcome is, and so what the pump does.
type Class uint8

const (
	// OK: nothing failed.
	OK Class = iota
	// Throttled: the target asked for less; the pump slows the lane down.
	Throttled
	// Transient: not committed, worth trying again.
	Transient
	// Ambiguous: it may have been committed; it is sent again with the same ids.
	Ambiguous
	// Auth: credentials are refused; tried again, slowly, and shown.
	Auth
	// ClockSkew: the target says our clock is wrong.
	ClockSkew
	// Misconfigured: no such stream, no permission; tried again, slowly, and shown.
	Misconfigured
	// Poison: the record at the front can never be taken. The pump moves it to
	// the stream "refused" and goes on.
	Poison
	// Offline: the target cannot be reached.
	Offline
)

func (c Class) String() string {
	return [...]string{"ok", "throttled", "transient", "ambiguous", "auth", "clock-skew", "misconfigured", "poison", "offline"}[c]
}

// An Outcome says how many records from the front of a batch are safe at the
// far side, and why the rest is not.
type Outcome struct {
	// Done counts the records from the front that the far side acknowledged.
	Done int
	// Left counts those of Done that the uplink was not to send, and that the
	// far side need not have.
	Left int
	// Class and Err tell about the first record that is not done; OK and nil
	// when Done is the whole batch.
	Class Class
	Err   error
	// Again counts the records from there on that the far side may have as one
	// batch, which it knows again only as a whole: the pump offers them together
	// next, no fewer, and nothing else of the lane before. 0: none.
	Again int
	// RetryAfter is the target's own wish, if it gave one.
	RetryAfter time.Duration
	// Bytes is what went over the link for this batch, headers not counted.
	Bytes int
	// Plain is what Bytes would be had each record travelled as a record of its
	// own, without aggregation; 0 where that is the same.
	Plain int
	// Requests is how many requests it took, or its share of them, and Units
	// what the target's price list counts of it (PUT payload units at Kinesis);
	// 0 where there is nothing to count.
	Requests, Units int
	// Billed is how many bytes the price list counts of what was taken, where it
	// rounds each record up (Kinesis on demand); 0 where it does not.
	Billed int
}

// A Home is what a sink may use of the gateway that it works for.
type Home struct {
	// Uplink is the uplink's id in the config, for names at the far side.
	Uplink string
	// ID signs envelopes, and tells gateways and their epochs apart.
	ID record.Identity
	// Rising says that what a lane sends again is at or below what it sent last:
	// a far side may drop by a watermark.
	Rising bool
	// Apart says that what is sent was sent before, under another name. A far
	// side must not drop it by an id that it has seen.
	Apart bool
	// Series names what this uplink makes of its lanes: one that leaves out or
	// changes other records, or has another id, has another name. A far side
	// that drops by a watermark keeps one for each. It has letters and digits
	// alone.
	Series string
	// Shape names what this uplink leaves out and changes, "" where that is not
	// known. It has letters and digits alone, 32 of them at most.
	Shape string
	// Newest says that the uplink is to begin with the newest records.
	Newest bool
	// Chunk opens the bytes that belong to a record and lie beside the log.
	// Reading them to the end fails with a *record.CorruptError where they are
	// damaged; fs.ErrNotExist means that they are kept no longer. nil where
	// there are none.
	Chunk func(stream string, ref record.ChunkRef) (io.ReadSeekCloser, error)
	Log   *slog.Logger
}

// An Error says why a far side did not do what was asked, in words for an
// operator. It never holds a secret.
type Error struct {
	Class Class
	// Code is the far side's own word for it, "" where it gave none.
	Code string
	// Text says what is wrong, and what to do where a person can help.
	Text string
	// RetryAfter is the far side's wish, 0 if it has none.
	RetryAfter time.Duration
	Err        error
}

func (e *Error) Error() string {
	s := e.Text
	switch {
	case e.Code != "" && s != "":
		s = e.Code + ": " + s
	case e.Code != "":
		s = e.Code
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// LaneClass is Class.
func (e *Error) LaneClass() Class { return e.Class }
