package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
	"unsafe"

	"forebay/spool/record"
)

// decodeHead reads and verifies a block's head. The block keeps h.
func decodeHead(h []byte) (*block, error) {
	le := binary.LittleEndian
	switch {
	case len(h) < headFixed1, h[4] >= 2 && len(h) < headFixed:
		return nil, errShort
	case len(h) > maxHead:
		return nil, fmt.Errorf("block's head has %d bytes; at most %d are possible", len(h), maxHead)
	case string(h[:4]) != blockMagic:
		return nil, errors.New("block does not begin with " + blockMagic)
	case le.Uint32(h[8:]) != uint32(len(h)):
		return nil, errShort
	case le.Uint32(h[76:]) != headCRC(h):
		return nil, errChecksum
	case h[4] < 1 || h[4] > blockVersion:
		return nil, fmt.Errorf("block has version %d; this program reads 1 to %d", h[4], blockVersion)
	case h[5] > codecSnappy:
		return nil, fmt.Errorf("block has codec %d; this program reads 0 and 1", h[5])
	case le.Uint16(h[6:])&^blockFlags != 0:
		return nil, fmt.Errorf("block has flags %#x, which this program does not know", le.Uint16(h[6:]))
	}
	b := &block{
		version: h[4], codec: h[5], flags: le.Uint16(h[6:]), bodyLen: le.Uint32(h[12:]), count: le.Uint32(h[16:]),
		minArr: int64(le.Uint64(h[48:])), maxArr: int64(le.Uint64(h[56:])), mono: int64(le.Uint64(h[64:])),
		minEvt: math.MinInt64, maxEvt: math.MaxInt64, bodyCRC: le.Uint32(h[72:]), head: h,
	}
	copy(b.boot[:], h[32:48])
	fixed := headFixed1
	b.rawLen = b.bodyLen
	if b.version >= 2 {
		fixed = headFixed
		b.minEvt, b.maxEvt = int64(le.Uint64(h[80:])), int64(le.Uint64(h[88:]))
		b.key, b.bodyOff, b.rawLen = le.Uint32(h[96:]), int64(le.Uint64(h[112:])), le.Uint32(h[120:])
		copy(b.nonce[:], h[100:112])
	}
	if (b.flags&blockEncrypted != 0) != (b.key != 0) {
		return nil, errors.New("block's key and flags do not agree")
	}
	ng, ns, nt := le.Uint32(h[20:]), le.Uint32(h[24:]), le.Uint32(h[28:])
	d := &decoder{b: h, off: fixed}
	// Each entry takes at least so many bytes, so a claim beyond the head is
	// refused before anything is allocated for it.
	if uint64(ng)*4+uint64(ns)*5+uint64(nt) > uint64(len(h)-fixed) {
		return nil, errShort
	}
	if b.bodyLen > maxBody || b.rawLen > maxBody || b.bodyOff < 0 || uint64(b.count)*minRecord > uint64(b.rawLen) {
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
		if d.bad || shard > math.MaxUint32 || count == 0 || count > uint64(b.count) || off >= uint64(b.rawLen) ||
			first == 0 || first+count < first {
			return errors.New("block's directory is damaged")
		}
		var outside uint64
		if b.version >= 2 {
			if outside = d.uvarint(); outside > math.MaxInt64 {
				return errors.New("block's directory is damaged")
			}
		}
		b.groups[i] = group{record.ShardID(shard), first, uint32(count), uint32(off), int64(outside)}
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

// setBody verifies the body as it was stored against the head, unpacks it and
// keeps it.
func (b *block) setBody(stored []byte) (err error) {
	if err := b.verifyBody(stored); err != nil {
		return err
	}
	b.body, err = unpack(stored, b.codec, b.rawLen)
	return err
}

// verifyBody verifies the body as it was stored against the head.
func (b *block) verifyBody(stored []byte) error {
	if uint32(len(stored)) != b.bodyLen {
		return errShort
	}
	if crc32.Checksum(stored, castagnoli) != b.bodyCRC {
		return errChecksum
	}
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
	key    uint32 // that it is encrypted under, 0 for none
}

// A groupReader decodes the records of one shard in a block, in order.
type groupReader struct {
	b    *block
	g    group
	d    decoder
	done uint32
	log  uint32

	origin *record.Origin
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
		Origin:  r.origin,
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
		rec.Chunk = record.ChunkRef{Log: r.log, Segment: b.seg, Off: off, Len: n, CRC: crc, Key: b.key}
	}
	if flags&flagOutside != 0 {
		out.off, out.n, out.crc = d.chunk()
		out.key = b.key
	} else {
		rec.Data = d.bytes()
	}
	if d.bad {
		return out, errors.New("record is damaged")
	}
	r.done++
	return out, nil
}
