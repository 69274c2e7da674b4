package lane

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"forebay/spool/record"
)

// A Place is what the log knows of a lane and of the uplink's cursor in it.
type Place interface {
	// Began is the sequence number at which the cursor began when it was new.
	Began() uint64
	// Since is the sequence number from which on the uplink has gone on as it
	// does now, with this shape and to this far side; Began or behind it.
	Since() uint64
	// Again reports whether the cursor was new because where it stood was lost,
	// and so began at the oldest record, whatever the uplink is to begin with.
	Again() bool
	// End is the sequence number that the next record will get.
	End() uint64
	// Arrived is when the record of a sequence number arrived; false where it
	// is not there, or not any more. An error says that nobody can tell now.
	Arrived(seq uint64) (time.Time, bool, error)
}

// A Cover says of which records a far side's watermark speaks: of those from
// Began up to it, as Shape made them. What is zero is not known.
type Cover struct {
	Began uint64 `json:"began,omitempty"`
	Shape string `json:"shape,omitempty"`
	// Arrived is the arrival of the record at the watermark, in nanoseconds
	// since 1970.
	Arrived int64 `json:"arrived,omitempty"`
}

// String is the cover on one line of ASCII without controls.
func (c Cover) String() string {
	shape := c.Shape
	if shape == "" {
		shape = "-"
	}
	return strconv.FormatUint(c.Began, 10) + " " + shape + " " + strconv.FormatInt(c.Arrived, 10)
}

// MaxCover is how long the text of a cover is at most.
const MaxCover = 20 + 1 + 32 + 1 + 20

// ParseCover is the inverse of String; anything else is the cover that knows
// nothing.
func ParseCover(s string) Cover {
	f := strings.Split(s, " ")
	if len(f) != 3 {
		return Cover{}
	}
	began, err1 := strconv.ParseUint(f[0], 10, 64)
	arrived, err2 := strconv.ParseInt(f[2], 10, 64)
	if err1 != nil || err2 != nil {
		return Cover{}
	}
	c := Cover{Began: began, Shape: f[1], Arrived: arrived}
	if c.Shape == "-" {
		c.Shape = ""
	}
	return c
}

// Cover is the cover of a watermark that moves on from upTo, where it had the
// cover was, to the record last; first is the first one behind it. Where the
// uplink did not go on where the watermark stood, makes other records of the
// lane now, or brought some to another far side on the way, it speaks of the
// new ones only, and goes on to do so.
func (b *Batch) Cover(h *Home, was Cover, upTo uint64, first, last *record.Record) Cover {
	c := Cover{Shape: h.Shape}
	if !last.Arrived.IsZero() {
		c.Arrived = last.Arrived.UnixNano()
	}
	if b.Place == nil {
		return c
	}
	c.Began = b.Place.Began()
	switch since := b.Place.Since(); {
	case was.Shape != "" && was.Shape != h.Shape:
		c.Began = max(c.Began, first.Pos.Seq)
	case since > upTo+1:
		c.Began = since
	case was.Began > 0:
		c.Began = was.Began
	}
	return c
}

// Doubt says why records of the batch, from the one with sequence number seq
// on, must not be counted as delivered for lying at or below a watermark upTo
// with the cover c; nil: they are. own says that the watermark is of the
// gateway's present epoch. remedy ends the text: what the operator may change
// so that the far side is another one.
func (b *Batch) Doubt(h *Home, c Cover, upTo, seq uint64, own bool, remedy string) *Error {
	no := func(format string, args ...any) *Error {
		where := fmt.Sprintf("the target says that it holds the records of stream %s, shard %d, up to number %d", b.Lane.Stream, b.Lane.Shard, upTo)
		return &Error{Class: Misconfigured, Text: where + ", " + fmt.Sprintf(format, args...)}
	}
	const copied = "the data directory is an older copy of itself, or another gateway has its name. Nothing was passed or sent. " +
		"Stop the gateway and give the spool a new epoch (forebay spool new-epoch), so that new records have ids of their own, " +
		"and replay under another name what was stored since the copy was put back, as its numbers are taken there"
	if b.Place != nil && own {
		if end := b.Place.End(); upTo >= end {
			return no("and the newest that is here is %d: %s", end-1, copied)
		}
		at, ok, err := b.Place.Arrived(upTo)
		if err != nil {
			return &Error{Class: Transient, Text: "what the target says that it holds cannot be compared with what is here", Err: err}
		}
		if ok && c.Arrived != 0 && at.UnixNano() != c.Arrived {
			return no("and that one arrived at %s there, at %s here: %s",
				time.Unix(0, c.Arrived).UTC().Format(time.RFC3339Nano), at.UTC().Format(time.RFC3339Nano), copied)
		}
	}
	switch {
	case b.unwanted(h, c, seq):
	case c.Began > seq && b.Place != nil && b.Place.Again():
		return no("but only from %d on, and state.db was lost, so that nobody knows what became of those from %d on. "+
			"To have them there too, %s; or let the uplink begin with the newest (from = \"newest\"), and those in front of %d count as left out",
			c.Began, seq, remedy, c.Began)
	case c.Began > seq:
		return no("but only from %d on: the uplink began there then (from = \"newest\"), and is to send from %d on now. "+
			"To have the older ones there too, %s; or replay them under another name and let the uplink begin with the newest", c.Began, seq, remedy)
	}
	if c.Shape != "" && h.Shape != "" && c.Shape != h.Shape {
		return no("but as another shape made them: what that left out is not there, and %d and those behind it would not be sent. "+
			"Put the shape back until the uplink is past %d, or %s", seq, upTo, remedy)
	}
	return nil
}

// Unwanted is how many of the records, which lie at or below a watermark with
// the cover c, the uplink was never to send: it begins with the newest, which
// c.Began was then, and was set back to the oldest because its place was lost.
func (b *Batch) Unwanted(h *Home, c Cover, recs []record.Record) (n int) {
	for n < len(recs) && b.unwanted(h, c, recs[n].Pos.Seq) {
		n++
	}
	return n
}

func (b *Batch) unwanted(h *Home, c Cover, seq uint64) bool {
	return seq < c.Began && h.Newest && b.Place != nil && b.Place.Again()
}
