package uplink

import (
	"maps"
	"slices"
	"strings"
	"time"

	"forebay/spool/record"
)

// A hold is records copied from a cursor's views, so that they live until the
// far side has acknowledged them. Its memory is used again.
type hold struct {
	recs  []record.Record
	done  int // records from the front that are settled
	bytes int // of key and data, of all
	extra int // of memory beside that, of all: the records themselves, and their attributes
	since time.Time
	full  bool // it was filled to its limit: more is waiting
	arena []byte
}

func (h *hold) left() []record.Record { return h.recs[h.done:] }
func (h *hold) empty() bool           { return h.done == len(h.recs) }

// reset empties the hold; one that is much too large for what it held gives
// its memory back.
func (h *hold) reset() {
	clear(h.recs)
	h.recs, h.done, h.full, h.since = h.recs[:0], 0, false, time.Time{}
	if cap(h.arena) > 64<<10 && cap(h.arena) > 8*h.bytes {
		h.arena, h.recs = nil, nil
	}
	h.arena, h.bytes, h.extra = h.arena[:0], 0, 0
}

func weight(r *record.Record) int { return len(r.Key) + len(r.Data) }

// each is what a record takes in memory for itself, however small its payload
// is, and spread is how much of that and of attributes a hold may have for a
// byte of payload that it may have.
const each, spread = 256, 4

// A limit is what a hold may have: of key and data, and of memory beside that.
type limit struct{ bytes, extra int }

// holds reports whether the hold has as much as it may.
func (h *hold) holds(l limit) bool { return h.bytes >= l.bytes || h.extra >= l.extra }

// room is how many more records of a mean size it takes, at least one.
func (h *hold) room(l limit, size int) int {
	n := min((l.bytes-h.bytes)/max(size, 1), (l.extra-h.extra)/each)
	return min(max(n+1, 1), maxRead)
}

// rest gives the memory back of a hold that has nothing to do: most lanes wait
// most of the time.
func (h *hold) rest() {
	if cap(h.recs) > 16 {
		*h = hold{}
	}
}

// add copies a record in.
func (h *hold) add(r *record.Record, names *interner) {
	c := *r
	c.Key = names.str(r.Key)
	c.Source = names.str(r.Source)
	c.Type = names.str(r.Type)
	if r.HashKey != nil {
		k := *r.HashKey
		c.HashKey = &k
	}
	h.extra += each
	if len(r.Attrs) > 0 {
		var n int
		c.Attrs, n = names.attrs(r.Attrs)
		h.extra += n
	}
	c.Data = h.bytesOf(r.Data)
	if r.Blob != nil {
		c.Blob = slices.Clone(r.Blob)
	}
	h.recs = append(h.recs, c)
	h.bytes += weight(r)
}

// bytesOf copies b into the arena. A full arena is left to the records in it
// and replaced by a larger one.
func (h *hold) bytesOf(b []byte) []byte {
	if len(b) > cap(h.arena)-len(h.arena) {
		h.arena = make([]byte, 0, max(len(b), min(2*cap(h.arena), maxHold), 4<<10))
	}
	at := len(h.arena)
	h.arena = append(h.arena, b...)
	return h.arena[at:len(h.arena):len(h.arena)]
}

// An interner gives the same string for the same bytes, so that a lane's few
// keys and sources are not copied for each record.
type interner struct {
	seen  map[string]string
	last  [4]string
	turn  int
	lastA map[string]string
}

const maxNames = 4096

// rest forgets names that are many: they may never come again.
func (n *interner) rest() {
	if len(n.seen) > 64 {
		*n = interner{}
	}
}

func (n *interner) str(s string) string {
	if s == "" {
		return ""
	}
	for _, l := range n.last {
		if l == s {
			return l
		}
	}
	own, ok := n.seen[s]
	if !ok {
		if n.seen == nil || len(n.seen) >= maxNames {
			n.seen = make(map[string]string)
		}
		own = strings.Clone(s)
		n.seen[own] = own
	}
	n.last[n.turn%len(n.last)] = own
	n.turn++
	return own
}

// attrs gives attributes, and how many bytes of memory they take anew.
func (n *interner) attrs(a map[string]string) (c map[string]string, size int) {
	if maps.Equal(a, n.lastA) {
		return n.lastA, 0
	}
	c = make(map[string]string, len(a))
	for k, v := range a {
		c[n.str(k)] = strings.Clone(v)
		size += len(k) + len(v)
	}
	n.lastA = c
	return c, size
}
