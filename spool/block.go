package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"
	"unsafe"

	"forebay/spool/record"
)

// The block's format is written down in docs/format.md; the two change
// together.
const (
	blockMagic   = "FBK1"
	blockVersion = 1
	headFixed    = 80
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
	codec   uint8
	boot    record.BootID
	minArr  int64 // wall clock, nanoseconds since 1970
	maxArr  int64
	mono    int64 // of the record at minArr's base; see docs/format.md
	bodyCRC uint32
	bodyLen uint32
	count   uint32
	groups  []group // by shard, rising
	sources []sourceRow
	types   []string
	head    []byte
	body    []byte
}

func (b *block) size() int64 { return int64(len(b.head) + len(b.body)) }

// group finds a shard's part.
func (b *block) group(s record.ShardID) (group, bool) {
	i, ok := slices.BinarySearchFunc(b.groups, s, func(g group, s record.ShardID) int {
		return int(int64(g.shard) - int64(s))
	})
	if !ok {
		return group{}, false
	}
	return b.groups[i], true
}

// A pending record is one that waits to be written: the record, where its
// result goes, and what the log filled in for it.
type pending struct {
	rec    *record.Record
	res    *record.Result
	slot   int32 // index of the shard within the log
	arr    int64
	mono   int64
	outOff int64 // offset of Data in the chunk file, where it lies there
	outCRC uint32
	blob   record.ChunkRef
}

// outside reports whether the record's Data goes to the chunk file.
func (p *pending) outside() bool { return len(p.rec.Data) > maxInline }

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
}

// encode builds the block of recs. next holds the next sequence number of
// each slot and is moved on; shards maps slots to shards, rising; quarantine
// tells the slots of the stream that holds what did not decode. Results get
// their positions.
func (e *encoder) encode(recs []pending, next []uint64, shards []record.ShardID, quarantine func(slot int32) bool) *block {
	b := &block{boot: e.boot, count: uint32(len(recs)), minArr: math.MaxInt64, maxArr: math.MinInt64}
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
		bound += p.bound()
	}
	e.sortBySlot(recs, len(shards))
	body := make([]byte, 0, bound)
	lastSource, lastIndex := "", -1
	for i, p := range e.order {
		if i == 0 || e.order[i-1].slot != p.slot {
			b.groups = append(b.groups, group{shard: shards[p.slot], first: next[p.slot], off: uint32(len(body))})
		}
		g := &b.groups[len(b.groups)-1]
		p.res.Pos = record.Pos{Shard: g.shard, Seq: g.first + uint64(g.count)}
		g.count++
		next[p.slot]++
		if lastIndex < 0 || p.rec.Source != lastSource {
			lastSource, lastIndex = p.rec.Source, e.source(b, p.rec)
		}
		s := &b.sources[lastIndex]
		s.count++
		s.last = max(s.last, p.rec.SourceSeq)
		if quarantine(p.slot) {
			s.quarantined++
		}
		body = e.appendRecord(body, b, p, lastIndex)
	}
	b.body = body
	b.bodyLen = uint32(len(body))
	b.bodyCRC = crc32.Checksum(body, castagnoli)
	b.head = b.appendHead(make([]byte, 0, headFixed+len(b.groups)*12+len(b.sources)*32+len(b.types)*24))
	return b
}

// sortBySlot fills e.order with the records grouped by slot; within a slot
// they keep their order.
func (e *encoder) sortBySlot(recs []pending, slots int) {
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
		body = appendChunk(body, p.blob.Off, p.blob.Len, p.blob.CRC)
	}
	if flags&flagOutside != 0 {
		return appendChunk(body, p.outOff, int64(len(r.Data)), p.outCRC)
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
	h = le.AppendUint16(h, 0) // flags, reserved
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
	for _, g := range b.groups {
		h = binary.AppendUvarint(h, uint64(g.shard))
		h = binary.AppendUvarint(h, g.first)
		h = binary.AppendUvarint(h, uint64(g.count))
		h = binary.AppendUvarint(h, uint64(g.off))
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
	return crc32.Update(crc32.Checksum(h[:76], castagnoli), castagnoli, h[headFixed:])
}

// decodeHead reads and verifies a block's head. The block keeps h.
func decodeHead(h []byte) (*block, error) {
	le := binary.LittleEndian
	switch {
	case len(h) < headFixed:
		return nil, errShort
	case len(h) > maxHead:
		return nil, fmt.Errorf("block's head has %d bytes; at most %d are possible", len(h), maxHead)
	case string(h[:4]) != blockMagic:
		return nil, errors.New("block does not begin with " + blockMagic)
	case le.Uint32(h[8:]) != uint32(len(h)):
		return nil, errShort
	case le.Uint32(h[76:]) != headCRC(h):
		return nil, errChecksum
	case h[4] != blockVersion:
		return nil, fmt.Errorf("block has version %d; this program reads %d", h[4], blockVersion)
	case h[5] != 0:
		return nil, fmt.Errorf("block has codec %d; this program reads 0", h[5])
	case le.Uint16(h[6:]) != 0:
		return nil, fmt.Errorf("block has flags %#x, which this program does not know", le.Uint16(h[6:]))
	}
	b := &block{
		codec: h[5], bodyLen: le.Uint32(h[12:]), count: le.Uint32(h[16:]),
		minArr: int64(le.Uint64(h[48:])), maxArr: int64(le.Uint64(h[56:])), mono: int64(le.Uint64(h[64:])),
		bodyCRC: le.Uint32(h[72:]), head: h,
	}
	copy(b.boot[:], h[32:48])
	ng, ns, nt := le.Uint32(h[20:]), le.Uint32(h[24:]), le.Uint32(h[28:])
	d := &decoder{b: h, off: headFixed}
	// Each entry takes at least so many bytes, so a claim beyond the head is
	// refused before anything is allocated for it.
	if uint64(ng)*4+uint64(ns)*5+uint64(nt) > uint64(len(h)-headFixed) {
		return nil, errShort
	}
	if b.bodyLen > maxBody || uint64(b.count)*minRecord > uint64(b.bodyLen) {
		return nil, errShort
	}
	if err := b.decodeTables(d, int(ng), int(ns), int(nt)); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *block) decodeTables(d *decoder, ng, ns, nt int) error {
	var records uint64
	b.groups = make([]group, ng)
	for i := range b.groups {
		shard, first, count, off := d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
		if d.bad || shard > math.MaxUint32 || count == 0 || count > uint64(b.count) || off >= uint64(b.bodyLen) ||
			first == 0 || first+count < first {
			return errors.New("block's directory is damaged")
		}
		b.groups[i] = group{record.ShardID(shard), first, uint32(count), uint32(off)}
		if i > 0 && (b.groups[i-1].shard >= b.groups[i].shard || b.groups[i-1].off >= b.groups[i].off) {
			return errors.New("block's directory is out of order")
		}
		records += count
	}
	b.sources = make([]sourceRow, ns)
	for i := range b.sources {
		b.sources[i] = sourceRow{name: string(d.bytes()), count: d.uvarint(), quarantined: d.uvarint(), base: d.uvarint(), last: d.uvarint()}
	}
	b.types = make([]string, nt)
	for i := range b.types {
		b.types[i] = string(d.bytes())
	}
	if d.bad || d.off != len(d.b) || records != uint64(b.count) {
		return errors.New("block's head does not add up")
	}
	return nil
}

// setBody verifies the body against the head and keeps it.
func (b *block) setBody(body []byte) error {
	if uint32(len(body)) != b.bodyLen {
		return errShort
	}
	if crc32.Checksum(body, castagnoli) != b.bodyCRC {
		return errChecksum
	}
	b.body = body
	return nil
}

// A decoder reads varints and runs of bytes; it goes bad instead of past the
// end.
type decoder struct {
	b   []byte
	off int
	bad bool
}

func (d *decoder) uvarint() uint64 {
	if d.off < len(d.b) && d.b[d.off] < 0x80 {
		d.off++
		return uint64(d.b[d.off-1])
	}
	v, n := binary.Uvarint(d.b[min(d.off, len(d.b)):])
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.off += n
	return v
}

func (d *decoder) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)-d.off) {
		d.bad = true
		return nil
	}
	p := d.b[d.off : d.off+int(n) : d.off+int(n)]
	d.off += int(n)
	return p
}

func (d *decoder) bytes() []byte { return d.take(d.uvarint()) }

// text is bytes as a string that shares the block's memory, which never
// changes.
func (d *decoder) text() string {
	p := d.bytes()
	return unsafe.String(unsafe.SliceData(p), len(p))
}

func (d *decoder) chunk() (off, n int64, crc uint32) {
	o, l, c := d.uvarint(), d.uvarint(), d.take(4)
	if d.bad || o > math.MaxInt64 || l > math.MaxInt64 {
		d.bad = true
		return 0, 0, 0
	}
	return int64(o), int64(l), binary.LittleEndian.Uint32(c)
}

// outsideData says where a record's Data lies in the chunk file.
type outsideData struct {
	off, n int64
	crc    uint32
}

// A groupReader decodes the records of one shard in a block, in order.
type groupReader struct {
	b    *block
	g    group
	d    decoder
	done uint32
	log  uint32
}

func newGroupReader(b *block, g group, log uint32) groupReader {
	return groupReader{b: b, g: g, log: log, d: decoder{b: b.body, off: int(g.off)}}
}

func (r *groupReader) left() uint32 { return r.g.count - r.done }

// next decodes a record into rec, all fields of it. Strings and Data share
// the block's memory. Where Data lies in the chunk file, out says where.
func (r *groupReader) next(rec *record.Record) (out outsideData, err error) {
	d, b := &r.d, r.b
	flags, arr, src := d.uvarint(), d.uvarint(), d.uvarint()
	if d.bad || flags&^flagsKnown != 0 || src >= uint64(len(b.sources)) {
		return out, errors.New("record is damaged")
	}
	*rec = record.Record{
		Boot: b.boot, TimeQ: record.TimeQuality(flags & flagTimeQ), Source: b.sources[src].name,
		Arrived: time.Unix(0, b.minArr+int64(arr)).UTC(),
		Mono:    time.Duration(b.mono + int64(arr)),
		Pos:     record.Pos{Shard: r.g.shard, Seq: r.g.first + uint64(r.done)},
	}
	if flags&flagMono != 0 {
		rec.Mono += time.Duration(d.varint())
	}
	if flags&flagAt != 0 {
		sec := d.varint()
		rec.At = time.Unix(floorSec(b.minArr)+sec, int64(d.uvarint()%1e9)).UTC()
	}
	if flags&flagSrcSeq != 0 {
		rec.SourceSeq = b.sources[src].base + uint64(d.varint())
	}
	if flags&flagType != 0 {
		t := d.uvarint()
		if t >= uint64(len(b.types)) {
			return out, errors.New("record's media type is damaged")
		}
		rec.Type = b.types[t]
	}
	if flags&flagHash != 0 {
		if p := d.take(16); p != nil {
			rec.HashKey = (*record.HashKey)(p)
		}
	}
	rec.Key = d.text()
	if flags&flagAttrs != 0 {
		n := d.uvarint()
		if n > record.MaxAttrs {
			return out, errors.New("record's attributes are damaged")
		}
		rec.Attrs = make(map[string]string, n)
		for range n {
			k := d.text()
			rec.Attrs[k] = d.text()
		}
	}
	if flags&flagBlob != 0 {
		off, n, crc := d.chunk()
		rec.Chunk = record.ChunkRef{Log: r.log, Segment: b.seg, Off: off, Len: n, CRC: crc}
	}
	if flags&flagOutside != 0 {
		out.off, out.n, out.crc = d.chunk()
	} else {
		rec.Data = d.bytes()
	}
	if d.bad {
		return out, errors.New("record is damaged")
	}
	r.done++
	return out, nil
}
