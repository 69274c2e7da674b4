package lane_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

func TestCoverText(t *testing.T) {
	for _, c := range []lane.Cover{
		{},
		{Began: 1, Shape: "0123456789abcdef0123456789abcdef", Arrived: 1763800000000000000},
		{Began: math.MaxUint64, Shape: strings.Repeat("f", 32), Arrived: math.MinInt64},
		{Arrived: -1},
	} {
		text := c.String()
		if got := lane.ParseCover(text); got != c || len(text) > lane.MaxCover {
			t.Errorf("%q (%d bytes): %+v, want %+v", text, len(text), got, c)
		}
	}
	for _, text := range []string{"", "1", "1 a", "x a 1", "1 a x", "1 a 1 1", "-1 a 1"} {
		if got := lane.ParseCover(text); got != (lane.Cover{}) {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// A place is a lane whose cursor began at began, whose uplink goes on in one way
// since since, and which holds 999 records.
type place struct {
	began, since uint64
	again        bool
	err          error
}

func (p place) Began() uint64 { return p.began }
func (p place) Since() uint64 { return max(p.began, p.since) }
func (p place) Again() bool   { return p.again }
func (p place) End() uint64   { return 1000 }
func (p place) Arrived(uint64) (time.Time, bool, error) {
	return time.Time{}, p.err == nil, p.err
}

func at(seq uint64) record.Record { return record.Record{Pos: record.Pos{Seq: seq}} }

// A step is a run of records, and the cover that a watermark has behind it.
type step struct {
	began, since, from, to uint64 // where the cursor began, and the way; the records
	shape                  string
	covers                 uint64
}

func TestACoverIsHandedOn(t *testing.T) {
	for name, steps := range map[string][]step{
		"goes on":                    {{1, 0, 1, 510, "aa", 1}, {1, 0, 511, 520, "aa", 1}, {1, 0, 521, 530, "aa", 1}},
		"another shape":              {{1, 0, 1, 510, "aa", 1}, {1, 0, 511, 520, "bb", 511}, {1, 0, 521, 530, "bb", 511}, {1, 0, 531, 540, "bb", 511}},
		"two other shapes":           {{1, 0, 1, 510, "aa", 1}, {1, 0, 511, 520, "bb", 511}, {1, 0, 521, 530, "aa", 521}, {1, 0, 531, 540, "aa", 521}},
		"a gap":                      {{1, 0, 1, 20, "aa", 1}, {500, 0, 500, 520, "aa", 500}, {500, 0, 521, 530, "aa", 500}, {1, 0, 531, 540, "aa", 500}},
		"newest, then set back":      {{301, 0, 301, 500, "aa", 301}, {1, 0, 501, 510, "aa", 301}, {1, 0, 511, 520, "aa", 301}},
		"what it did not know then":  {{0, 0, 1, 20, "", 0}, {5, 0, 21, 30, "aa", 5}, {5, 0, 31, 40, "aa", 5}},
		"another shape left out all": {{1, 1, 1, 510, "aa", 1}, {1, 601, 601, 610, "aa", 601}, {1, 601, 611, 620, "aa", 601}},
		"left out some at the end":   {{1, 1, 1, 510, "aa", 1}, {1, 1, 601, 610, "aa", 1}},
		"began elsewhere":            {{1, 511, 515, 520, "aa", 511}, {1, 511, 521, 530, "aa", 511}},
		"went elsewhere for nothing": {{1, 1, 1, 510, "aa", 1}, {1, 511, 511, 520, "aa", 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var c lane.Cover
			var upTo uint64
			for _, s := range steps {
				b, h := lane.Batch{Place: place{began: s.began, since: s.since}}, lane.Home{Shape: s.shape}
				first, last := at(s.from), at(s.to)
				c, upTo = b.Cover(&h, c, upTo, &first, &last), s.to
				if c.Began != s.covers {
					t.Errorf("behind %d it covers %d on, want %d", s.to, c.Began, s.covers)
				}
				if s.covers > 1 {
					if e := b.Doubt(&h, c, upTo, s.covers-1, true, "x"); e == nil || e.Class != lane.Misconfigured {
						t.Errorf("%d passes as sent: %v", s.covers-1, e)
					}
				}
				if e := b.Doubt(&h, c, upTo, max(s.covers, 1), true, "x"); e != nil {
					t.Errorf("%d does not pass as sent: %v", s.covers, e)
				}
			}
		})
	}
}

func TestWhatAnUplinkWasNeverToSend(t *testing.T) {
	recs := []record.Record{at(298), at(300), at(301), at(302)}
	for _, c := range []struct {
		name   string
		place  lane.Place
		newest bool
		shape  string
		left   int
		words  string
	}{
		{"set back", place{began: 1, again: true}, true, "aa", 2, ""},
		{"set back, with another shape", place{began: 1, again: true}, true, "bb", 2, "another shape"},
		{"set back, to send the oldest", place{began: 1, again: true}, false, "aa", 0, "state.db was lost"},
		{"made anew", place{began: 1}, true, "aa", 0, "the uplink began there then"},
		{"nobody knows", nil, true, "aa", 0, "the uplink began there then"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, h := lane.Batch{Place: c.place}, lane.Home{Shape: c.shape, Newest: c.newest}
			covers := lane.Cover{Began: 301, Shape: "aa"}
			if n := b.Unwanted(&h, covers, recs); n != c.left {
				t.Errorf("%d are left out, want %d", n, c.left)
			}
			e := b.Doubt(&h, covers, 500, 298, false, "x")
			if (e != nil) != (c.words != "") || e != nil && !strings.Contains(e.Text, c.words) {
				t.Errorf("%v, want %q", e, c.words)
			}
		})
	}
}

// Where the log cannot be read nothing is passed, and it is tried again.
func TestALogThatCannotBeRead(t *testing.T) {
	broken := errors.New("input/output error")
	b := lane.Batch{Place: place{began: 1, err: broken}}
	e := b.Doubt(&lane.Home{}, lane.Cover{Began: 1, Arrived: 7}, 500, 1, true, "x")
	if e == nil || e.Class != lane.Transient || !errors.Is(e, broken) {
		t.Errorf("%v", e)
	}
}
