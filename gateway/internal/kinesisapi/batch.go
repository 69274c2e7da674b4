package kinesisapi

import (
	"sync"
	"unicode/utf8"

	"forebay/spool/record"
)

// A batch is the records of one PutRecords on their way from the request to
// the log. It is used again for another request, but only once nobody can hold
// its records any more.
type batch struct {
	ref  streamRef
	recs []record.Record

	// What scanPuts takes apart: where a record's key stands in keys, its hash
	// key, and for JSON the arena that the base64 is decoded into.
	found  []scanned
	keys   []byte
	arena  []byte
	hashes []record.HashKey

	put putResult
}

// A scanned record, all of whose members hold what their checks ask for.
type scanned struct {
	data     []byte
	keyEnd   int // in keys, where the next one begins
	hash     int // in hashes; -1 for none
	haveData bool
	haveKey  bool
}

// keptBatch bounds what a batch keeps between requests.
const keptBatch = 1 << 20

// batches is a stock of them.
type batches struct{ pool sync.Pool }

func (p *batches) get() *batch {
	if b, ok := p.pool.Get().(*batch); ok {
		return b
	}
	return &batch{}
}

// reset takes a batch back. The buffers that its records point to are the
// caller's to give back.
func (p *batches) reset(b *batch) {
	if cap(b.recs) > 2*maxPutRecords || cap(b.keys) > keptBatch { // append rounds up
		return
	}
	clear(b.recs)
	clear(b.found)
	b.ref, b.recs, b.found, b.keys, b.arena, b.hashes = streamRef{}, b.recs[:0], b.found[:0], b.keys[:0], nil, b.hashes[:0]
	b.put = putResult{done: b.put.done, results: b.put.results[:0]}
	p.pool.Put(b)
}

// begin empties what an earlier try left behind.
func (b *batch) begin() {
	b.ref, b.found, b.keys, b.hashes = streamRef{}, b.found[:0], b.keys[:0], b.hashes[:0]
}

// key takes the partition key that was appended to keys from from on.
func (b *batch) key(r *scanned, from int) bool {
	k := b.keys[from:]
	if r.haveKey || len(k) == 0 || len(k) > maxPartitionKey && utf8.RuneCount(k) > maxPartitionKey {
		return false
	}
	r.haveKey = true
	return true
}

// hashKey takes the ExplicitHashKey.
func (b *batch) hashKey(r *scanned, text []byte) bool {
	if r.hash >= 0 || !validHashKey(text) {
		return false
	}
	h, ok := hashKeyOf(text)
	if !ok {
		return false
	}
	r.hash = len(b.hashes)
	b.hashes = append(b.hashes, h)
	return true
}

// add takes a record that has all that it needs.
func (b *batch) add(r *scanned) bool {
	if !r.haveData || !r.haveKey || len(r.data) > maxData || len(b.found) == maxPutRecords {
		return false
	}
	r.keyEnd = len(b.keys)
	b.found = append(b.found, *r)
	return true
}

// finish makes records of what was found. Their keys are parts of one string.
func (b *batch) finish() bool {
	if len(b.found) == 0 {
		return false
	}
	keys, from := string(b.keys), 0
	if cap(b.recs) < len(b.found) {
		b.recs = make([]record.Record, 0, maxPutRecords)
	}
	b.recs = b.recs[:len(b.found)]
	for i := range b.found {
		f, r := &b.found[i], &b.recs[i]
		r.Key, r.Data = keys[from:f.keyEnd], f.data
		if f.hash >= 0 {
			r.HashKey = &b.hashes[f.hash]
		}
		from = f.keyEnd
	}
	return true
}
