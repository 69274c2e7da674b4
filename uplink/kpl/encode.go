package kpl

import (
	"crypto/md5"
	"encoding/binary"
	"math/bits"
)

// An Encoder gathers user records and appends them as one aggregate. The zero
// value is ready for use. An Encoder keeps its memory over Reset; it copies
// the data it is given, and holds on to the key strings until Reset.
type Encoder struct {
	keys, hashes table
	recs         []byte // field 3 of AggregatedRecord, encoded
	n            int
}

// A table is field 1 or 2 of AggregatedRecord: strings that records refer to
// by their index.
type table struct {
	index map[string]uint64
	list  []string
	size  int // encoded, with tags and lengths

	last   string // the string looked up last: keys come in runs
	lastIx uint64
}

func (t *table) reset() {
	clear(t.index)
	clear(t.list)
	t.list, t.size, t.last, t.lastIx = t.list[:0], 0, "", 0
}

// find gives the index of s, and how many bytes the table grows if s has to
// be added under that index.
func (t *table) find(s string) (ix uint64, grow int) {
	if len(t.list) > 0 && t.last == s {
		return t.lastIx, 0
	}
	if ix, ok := t.index[s]; ok {
		t.last, t.lastIx = s, ix
		return ix, 0
	}
	return uint64(len(t.list)), 1 + uvarintLen(uint64(len(s))) + len(s)
}

func (t *table) add(s string) uint64 {
	ix, grow := t.find(s)
	if grow == 0 {
		return ix
	}
	if t.index == nil {
		t.index = make(map[string]uint64)
	}
	t.index[s] = ix
	t.list = append(t.list, s)
	t.size += grow
	t.last, t.lastIx = s, ix
	return ix
}

func (t *table) appendTo(dst []byte, tag byte) []byte {
	for _, s := range t.list {
		dst = append(dst, tag)
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	return dst
}

// Reset empties the encoder.
func (e *Encoder) Reset() {
	e.keys.reset()
	e.hashes.reset()
	e.recs, e.n = e.recs[:0], 0
}

// Len is the number of user records added.
func (e *Encoder) Len() int { return e.n }

// Size is the length of the aggregate of what was added so far, in bytes;
// AppendTo appends exactly as many.
func (e *Encoder) Size() int { return Overhead + e.keys.size + e.hashes.size + len(e.recs) }

// SizeWith is what Size would be after Add(key, hashKey, data) with n bytes of
// data.
func (e *Encoder) SizeWith(key, hashKey string, n int) int {
	size := e.Size()
	kix, grow := e.keys.find(key)
	size += grow
	body := 1 + uvarintLen(kix) + 1 + uvarintLen(uint64(n)) + n
	if hashKey != "" {
		hix, grow := e.hashes.find(hashKey)
		size += grow
		body += 1 + uvarintLen(hix)
	}
	return size + 1 + uvarintLen(uint64(body)) + body
}

// Add adds a user record. hashKey is the explicit hash key in decimal, or ""
// for none. Consumers of AWS's make drop a user record whose hash lies outside
// the shard on which the aggregate arrived, so whoever sends the aggregate to
// an explicit hash key gives the same one to every record in it.
func (e *Encoder) Add(key, hashKey string, data []byte) {
	kix := e.keys.add(key)
	body := 1 + uvarintLen(kix) + 1 + uvarintLen(uint64(len(data))) + len(data)
	var hix uint64
	if hashKey != "" {
		hix = e.hashes.add(hashKey)
		body += 1 + uvarintLen(hix)
	}
	b := append(e.recs, 3<<3|2)
	b = binary.AppendUvarint(b, uint64(body))
	b = append(b, 1<<3)
	b = binary.AppendUvarint(b, kix)
	if hashKey != "" {
		b = append(b, 2<<3)
		b = binary.AppendUvarint(b, hix)
	}
	b = append(b, 3<<3|2)
	b = binary.AppendUvarint(b, uint64(len(data)))
	e.recs = append(b, data...)
	e.n++
}

// AppendTo appends the aggregate to dst. An aggregate of no records is valid
// too. The encoder is left as it was.
func (e *Encoder) AppendTo(dst []byte) []byte {
	dst = append(dst, magic...)
	body := len(dst)
	dst = e.keys.appendTo(dst, 1<<3|2)
	dst = e.hashes.appendTo(dst, 2<<3|2)
	dst = append(dst, e.recs...)
	sum := md5.Sum(dst[body:])
	return append(dst, sum[:]...)
}

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }
