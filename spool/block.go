package spool

import (
	"cmp"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"slices"

	"forebay/spool/record"
)

// The block's format is written down in docs/format.md; the two change
// together.
const (
	blockMagic   = "FBK1"
	blockVersion = 2
	headFixed    = 124
	headFixed1   = 80 // of version 1
	// maxBlock is the size a block's body is cut at.
	maxBlock = 1 << 20
	// maxInline is the largest Data that lies in a block; more goes to the
	// chunk file.
	maxInline = 256 << 10
	// maxHead and maxBody are what the decoder accepts. They are above what
	// the encoder makes, because one record may exceed maxBlock by its attributes.
	maxHead = 16 << 20
	maxBody = 4 << 20
	// minRecord is the least a record takes in a body: flags, arrival, source,
	// key length and data length.
	minRecord = 5
)

// Flags of a block. Unknown bits make it unreadable.
const (
	blockEncrypted = 1 << 0
	blockBeside    = 1 << 1 // the body lies in the chunk file
	blockFlags     = blockEncrypted | blockBeside
)

// Flags of a record in a block. Unknown bits make the block unreadable.
const (
	flagTimeQ   = 3 // two bits
	flagAt      = 1 << 2
	flagSrcSeq  = 1 << 3
	flagType    = 1 << 4
	flagMono    = 1 << 5
	flagAttrs   = 1 << 6
	flagHash    = 1 << 7
	flagBlob    = 1 << 8
	flagOutside = 1 << 9 // Data lies in the chunk file
	flagsKnown  = 1<<10 - 1
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errShort    = errors.New("block is cut short")
	errChecksum = errors.New("checksum is wrong")
)

// A group is one shard's part of a block.
type group struct {
	shard record.ShardID
	first uint64 // sequence number of its first record
	count uint32
	off   uint32 // of its first record in the body
	// outside is how many bytes of its records lie in the chunk file: Data that
	// is large, and blobs. Version 1 did not tell.
	outside int64
}

// A sourceRow counts a source's records in a block.
type sourceRow struct {
	name        string
	count       uint64
	quarantined uint64
	base        uint64 // SourceSeq that the records' numbers are relative to
	last        uint64 // greatest SourceSeq in the block
}

// A block is one committed group of records, as bytes and as the decoded
// head. It never changes once made, so readers share it without a lock.
type block struct {
	seg     uint64
	id      int64
	version uint8
	codec   uint8
	flags   uint16
	boot    record.BootID
	origin  *record.Origin // of the segment it was read from; nil: stored since the spool was opened
	minArr  int64          // wall clock, nanoseconds since 1970
	maxArr  int64
	minEvt  int64 // event times: the sender's, or the arrival where it gave none
	maxEvt  int64
	mono    int64  // of the record at minArr's base; see docs/format.md
	key     uint32 // that the body is encrypted under, 0 for none
	nonce   [12]byte
	bodyCRC uint32 // of the body as stored
	bodyLen uint32 // as stored
	rawLen  uint32 // of the body itself
	bodyOff int64  // in the chunk file, where it lies there
	count   uint32
	groups  []group // by shard, rising
	sources []sourceRow
	types   []string
	head    []byte
	body    []byte // the records
	stored  []byte // the body as it is written; nil once it is
}

// size is about what the block takes in memory, and not less than what it
// takes on the disk.
func (b *block) size() int64 { return int64(len(b.head) + len(b.body)) }

// row is what the block takes in its table, bytes.
func (b *block) row() int64 {
	if b.beside() {
		return int64(len(b.head))
	}
	return int64(len(b.head) + len(b.stored))
}

// beside reports whether the body lies in the chunk file.
func (b *block) beside() bool { return b.flags&blockBeside != 0 }

// raw is how long the n-th group is in the body.
func (b *block) raw(n int) int64 {
	end := b.rawLen
	if n+1 < len(b.groups) {
		end = b.groups[n+1].off
	}
	return int64(end - b.groups[n].off)
}

// group finds a shard's part.
func (b *block) group(s record.ShardID) (group, bool) {
	g, _, ok := b.groupAt(s)
	return g, ok
}

// groupAt is group, and which it is.
func (b *block) groupAt(s record.ShardID) (group, int, bool) {
	i, ok := slices.BinarySearchFunc(b.groups, s, func(g group, s record.ShardID) int {
		return cmp.Compare(g.shard, s)
	})
	if !ok {
		return group{}, 0, false
	}
	return b.groups[i], i, true
}

// A pending record is one that waits to be written: the record, where its
// result goes, and what the log filled in for it.
type pending struct {
	rec  *record.Record
	res  *record.Result
	arr  int64
	mono int64
	out  *placed // nil where nothing of it lies in the chunk file
	slot int32   // index of the shard within the log
	most int32   // bound, reckoned once
}

// placed says where Data and Blob of a record lie in the chunk file.
type placed struct {
	off  int64
	crc  uint32
	blob record.ChunkRef
}

func (p *pending) placed() *placed {
	if p.out == nil {
		p.out = &placed{}
	}
	return p.out
}

// outside reports whether the record's Data goes to the chunk file.
func (p *pending) outside() bool { return len(p.rec.Data) > maxInline }

// beside is how many bytes of the record go to the chunk file.
func (p *pending) beside() int64 {
	n := int64(len(p.rec.Blob))
	if p.outside() {
		n += int64(len(p.rec.Data))
	}
	return n
}

// event is the record's own time: the sender's, or its arrival. Times that
// nanoseconds since 1970 do not reach count as the first or last that they do.
func (p *pending) event() int64 {
	if p.rec.At.IsZero() {
		return p.arr
	}
	switch y := p.rec.At.Year(); {
	case y < 1700:
		return math.MinInt64
	case y > 2250:
		return math.MaxInt64
	}
	return p.rec.At.UnixNano()
}

// need is not less than what the record takes on the disk while it is
// committed.
func (p *pending) need() int64 {
	n := 2 * int64(p.most) // blocks go through the WAL
	if beside := p.beside(); beside > 0 {
		n += beside + beside/chunkPiece*tagBytes + 2*(sealedHeader+tagBytes)
	}
	return n
}

// bound is not less than what the record takes in a body.
func (p *pending) bound() int {
	r := p.rec
	n := 2 + 10 + 3 + 3 + len(r.Key) + 4
	if !p.outside() {
		n += len(r.Data)
	} else {
		n += 24
	}
	if !r.At.IsZero() {
		n += 15
	}
	if r.SourceSeq != 0 {
		n += 10
	}
	if r.Type != "" {
		n += 3
	}
	if r.HashKey != nil {
		n += 16
	}
	if len(r.Blob) > 0 {
		n += 24
	}
	n += 6 // mono, where it differs
	if len(r.Attrs) > 0 {
		n += 2
		for k, v := range r.Attrs {
			n += len(k) + len(v) + 6
		}
	}
	return n
}

// An encoder builds blocks. It belongs to one writer and keeps its scratch
// memory between blocks; what it returns is new memory.
type encoder struct {
	boot     record.BootID
	order    []*pending
	starts   []int32
	srcIndex map[string]int
	typIndex map[string]int
	pack     packer
	maxRow   int // stored bodies up to this lie in their row, bytes
}

// encode builds the block of recs. next holds the next sequence number of
// each slot and is moved on; shards maps slots to shards, rising; quarantine
// tells the slots of the stream that holds what did not decode. Results get
// their positions.
func (e *encoder) encode(recs []pending, next []uint64, shards []record.ShardID, quarantine func(slot int32) bool) *block {
	b := &block{
		boot: e.boot, count: uint32(len(recs)),
		minArr: math.MaxInt64, maxArr: math.MinInt64, minEvt: math.MaxInt64, maxEvt: math.MinInt64,
	}
	bound := 0
	if e.srcIndex == nil {
		e.srcIndex, e.typIndex = map[string]int{}, map[string]int{}
	}
	clear(e.srcIndex)
	clear(e.typIndex)
	for i := range recs {
		p := &recs[i]
		b.maxArr = max(b.maxArr, p.arr)
		if p.arr < b.minArr {
			b.minArr, b.mono = p.arr, p.mono
		}
		evt := p.event()
		b.minEvt, b.maxEvt = min(b.minEvt, evt), max(b.maxEvt, evt)
		bound += int(p.most)
	}
	e.sortBySlot(recs, len(shards))
	body := make([]byte, 0, bound)
	for from := 0; from < len(recs); {
		slot := e.at(recs, from).slot
		g := group{shard: shards[slot], first: next[slot], off: uint32(len(body))}
		aside := quarantine(slot)
		lastSource, lastIndex := "", -1
		for ; from < len(recs); from++ {
			p := e.at(recs, from)
			if p.slot != slot {
				break
			}
			if lastIndex < 0 || p.rec.Source != lastSource {
				lastSource, lastIndex = p.rec.Source, e.source(b, p.rec)
			}
			s := &b.sources[lastIndex]
			s.count++
			s.last = max(s.last, p.rec.SourceSeq)
			if aside {
				s.quarantined++
			}
			p.res.Pos = record.Pos{Shard: g.shard, Seq: g.first + uint64(g.count)}
			g.count++
			g.outside += p.beside()
			body = e.appendRecord(body, b, p, lastIndex)
		}
		next[slot] += uint64(g.count)
		b.groups = append(b.groups, g)
	}
	b.body, b.rawLen = body, uint32(len(body))
	b.stored, b.codec = e.pack.pack(body)
	if len(b.stored) > e.maxRow {
		b.flags |= blockBeside
	}
	b.bodyLen = uint32(len(b.stored))
	b.bodyCRC = crc32.Checksum(b.stored, castagnoli)
	return b
}

// finish makes the head, once it is known where the body lies.
func (b *block) finish() {
	b.head = b.appendHead(make([]byte, 0, headFixed+len(b.groups)*12+len(b.sources)*32+len(b.types)*24))
}

// at is the i-th record by slot.
func (e *encoder) at(recs []pending, i int) *pending {
	if len(e.order) == 0 {
		return &recs[i]
	}
	return e.order[i]
}

// sortBySlot fills e.order with the records grouped by slot; within a slot
// they keep their order. Where they are grouped already e.order stays empty.
func (e *encoder) sortBySlot(recs []pending, slots int) {
	e.order = e.order[:0]
	sorted := true
	for i := 1; i < len(recs) && sorted; i++ {
		sorted = recs[i-1].slot <= recs[i].slot
	}
	if sorted {
		return
	}
	e.order = slices.Grow(e.order[:0], len(recs))[:len(recs)]
	e.starts = slices.Grow(e.starts[:0], slots+1)[:slots+1]
	clear(e.starts)
	for i := range recs {
		e.starts[recs[i].slot+1]++
	}
	for i := 1; i < len(e.starts); i++ {
		e.starts[i] += e.starts[i-1]
	}
	for i := range recs {
		at := &e.starts[recs[i].slot]
		e.order[*at] = &recs[i]
		*at++
	}
}

func (e *encoder) source(b *block, r *record.Record) int {
	if i, ok := e.srcIndex[r.Source]; ok {
		return i
	}
	i := len(b.sources)
	e.srcIndex[r.Source] = i
	b.sources = append(b.sources, sourceRow{name: r.Source, base: r.SourceSeq})
	return i
}

func (e *encoder) appendRecord(body []byte, b *block, p *pending, source int) []byte {
	r := p.rec
	flags := uint64(r.TimeQ & flagTimeQ)
	arr := uint64(p.arr - b.minArr)
	monoDiff := (p.mono - b.mono) - (p.arr - b.minArr)
	if monoDiff != 0 {
		flags |= flagMono
	}
	if !r.At.IsZero() {
		flags |= flagAt
	}
	if r.SourceSeq != 0 {
		flags |= flagSrcSeq
	}
	if r.Type != "" {
		flags |= flagType
	}
	if len(r.Attrs) > 0 {
		flags |= flagAttrs
	}
	if r.HashKey != nil {
		flags |= flagHash
	}
	if len(r.Blob) > 0 {
		flags |= flagBlob
	}
	if p.outside() {
		flags |= flagOutside
	}
	body = binary.AppendUvarint(body, flags)
	body = binary.AppendUvarint(body, arr)
	body = binary.AppendUvarint(body, uint64(source))
	if flags&flagMono != 0 {
		body = binary.AppendVarint(body, monoDiff)
	}
	if flags&flagAt != 0 {
		body = binary.AppendVarint(body, r.At.Unix()-floorSec(b.minArr))
		body = binary.AppendUvarint(body, uint64(r.At.Nanosecond()))
	}
	if flags&flagSrcSeq != 0 {
		body = binary.AppendVarint(body, int64(r.SourceSeq-b.sources[source].base))
	}
	if flags&flagType != 0 {
		body = binary.AppendUvarint(body, uint64(e.mediaType(b, r.Type)))
	}
	if flags&flagHash != 0 {
		body = append(body, r.HashKey[:]...)
	}
	body = appendString(body, r.Key)
	if flags&flagAttrs != 0 {
		body = binary.AppendUvarint(body, uint64(len(r.Attrs)))
		for k, v := range r.Attrs {
			body = appendString(appendString(body, k), v)
		}
	}
	if flags&flagBlob != 0 {
		body = appendChunk(body, p.out.blob.Off, p.out.blob.Len, p.out.blob.CRC)
	}
	if flags&flagOutside != 0 {
		return appendChunk(body, p.out.off, int64(len(r.Data)), p.out.crc)
	}
	body = binary.AppendUvarint(body, uint64(len(r.Data)))
	return append(body, r.Data...)
}

func (e *encoder) mediaType(b *block, t string) int {
	if i, ok := e.typIndex[t]; ok {
		return i
	}
	i := len(b.types)
	e.typIndex[t] = i
	b.types = append(b.types, t)
	return i
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendChunk(b []byte, off, n int64, crc uint32) []byte {
	b = binary.AppendUvarint(b, uint64(off))
	b = binary.AppendUvarint(b, uint64(n))
	return binary.LittleEndian.AppendUint32(b, crc)
}

func floorSec(ns int64) int64 {
	s := ns / 1e9
	if ns%1e9 < 0 {
		s--
	}
	return s
}

func (b *block) appendHead(h []byte) []byte {
	le := binary.LittleEndian
	h = append(h, blockMagic...)
	h = append(h, blockVersion, b.codec)
	h = le.AppendUint16(h, b.flags)
	h = le.AppendUint32(h, 0) // length of the head, below
	h = le.AppendUint32(h, b.bodyLen)
	h = le.AppendUint32(h, b.count)
	h = le.AppendUint32(h, uint32(len(b.groups)))
	h = le.AppendUint32(h, uint32(len(b.sources)))
	h = le.AppendUint32(h, uint32(len(b.types)))
	h = append(h, b.boot[:]...)
	h = le.AppendUint64(h, uint64(b.minArr))
	h = le.AppendUint64(h, uint64(b.maxArr))
	h = le.AppendUint64(h, uint64(b.mono))
	h = le.AppendUint32(h, b.bodyCRC)
	h = le.AppendUint32(h, 0) // checksum of the head, below
	h = le.AppendUint64(h, uint64(b.minEvt))
	h = le.AppendUint64(h, uint64(b.maxEvt))
	h = le.AppendUint32(h, b.key)
	h = append(h, b.nonce[:]...)
	h = le.AppendUint64(h, uint64(b.bodyOff))
	h = le.AppendUint32(h, b.rawLen)
	for _, g := range b.groups {
		h = binary.AppendUvarint(h, uint64(g.shard))
		h = binary.AppendUvarint(h, g.first)
		h = binary.AppendUvarint(h, uint64(g.count))
		h = binary.AppendUvarint(h, uint64(g.off))
		h = binary.AppendUvarint(h, uint64(g.outside))
	}
	for _, s := range b.sources {
		h = appendString(h, s.name)
		h = binary.AppendUvarint(h, s.count)
		h = binary.AppendUvarint(h, s.quarantined)
		h = binary.AppendUvarint(h, s.base)
		h = binary.AppendUvarint(h, s.last)
	}
	for _, t := range b.types {
		h = appendString(h, t)
	}
	le.PutUint32(h[8:], uint32(len(h)))
	le.PutUint32(h[76:], headCRC(h))
	return h
}

// headCRC is the checksum of a head without its own four bytes.
func headCRC(h []byte) uint32 {
	return crc32.Update(crc32.Checksum(h[:76], castagnoli), castagnoli, h[headFixed1:])
}
