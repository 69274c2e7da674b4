package kpl

import (
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"iter"
)

// An Aggregate is what Decode found: checked to the last byte, so that reading
// its records cannot fail. It is a view of the bytes given to Decode.
type Aggregate struct {
	msg          []byte // the protobuf message
	keys, hashes []span
	n            int
}

// A span is a piece of Aggregate.msg; MaxSize keeps it within 32 bits.
type span struct{ off, len uint32 }

// Decode checks data's magic number, its MD5 and its shape, all of it. It
// takes eight bytes of memory for each string in the tables, and none for each
// record. Unknown fields and tags are passed over, as protobuf demands.
//
// Errors: ErrNotAggregate, ErrTooLarge, ErrChecksum, or one that says what is
// wrong with the message.
func Decode(data []byte) (*Aggregate, error) {
	if !IsAggregate(data) {
		return nil, ErrNotAggregate
	}
	if len(data) > MaxSize {
		return nil, ErrTooLarge
	}
	a := &Aggregate{msg: data[len(magic) : len(data)-md5.Size]}
	if sum := md5.Sum(a.msg); string(sum[:]) != string(data[len(data)-md5.Size:]) {
		return nil, ErrChecksum
	}
	if err := a.tables(); err != nil {
		return nil, fmt.Errorf("KPL aggregate: %w", err)
	}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("KPL aggregate: %w", err)
	}
	return a, nil
}

// tables finds the two tables; protobuf lets their fields stand anywhere in
// the message, behind the records too.
func (a *Aggregate) tables() error {
	for off := 0; off < len(a.msg); {
		f, next, err := readField(a.msg, off)
		if err != nil {
			return err
		}
		off = next
		switch f.num {
		case 1, 2, 3:
			if f.wire != 2 {
				return fmt.Errorf("field %d has wire type %d", f.num, f.wire)
			}
		}
		s := span{uint32(f.off), uint32(f.len)}
		switch f.num {
		case 1:
			a.keys = append(a.keys, s)
		case 2:
			a.hashes = append(a.hashes, s)
		case 3:
			a.n++
		}
	}
	return nil
}

// check reads every record once, so that All need not.
func (a *Aggregate) check() error {
	i := 0
	for off := 0; off < len(a.msg); {
		f, next, err := readField(a.msg, off)
		if err != nil {
			return err
		}
		off = next
		if f.num != 3 {
			continue
		}
		r, err := readRecord(a.msg[f.off : f.off+f.len])
		if err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
		if r.key >= uint64(len(a.keys)) {
			return fmt.Errorf("record %d names partition key %d of %d", i, r.key, len(a.keys))
		}
		if r.hasHash && r.hash >= uint64(len(a.hashes)) {
			return fmt.Errorf("record %d names explicit hash key %d of %d", i, r.hash, len(a.hashes))
		}
		i++
	}
	return nil
}

// Len is the number of user records.
func (a *Aggregate) Len() int { return a.n }

// All yields the user records in order, with their index from 0. Data is a
// view of the bytes given to Decode; Key and HashKey are copies, one per run
// of the same.
func (a *Aggregate) All() iter.Seq2[int, Record] {
	return func(yield func(int, Record) bool) {
		var out Record
		key, hash := ^uint64(0), ^uint64(0) // indexes that out holds now
		i := 0
		for off := 0; off < len(a.msg); {
			f, next, err := readField(a.msg, off)
			if err != nil {
				return // cannot be: Decode has read it
			}
			off = next
			if f.num != 3 {
				continue
			}
			r, err := readRecord(a.msg[f.off : f.off+f.len])
			if err != nil {
				return // cannot be: Decode has read it
			}
			if r.key != key {
				out.Key, key = a.text(a.keys[r.key]), r.key
			}
			switch {
			case !r.hasHash:
				out.HashKey, hash = "", ^uint64(0)
			case r.hash != hash:
				out.HashKey, hash = a.text(a.hashes[r.hash]), r.hash
			}
			out.Data = r.data
			if !yield(i, out) {
				return
			}
			i++
		}
	}
}

func (a *Aggregate) text(s span) string { return string(a.msg[s.off : s.off+s.len]) }

// A field is one field of a protobuf message. For wire type 2, off and len
// say where in the message its bytes lie; for wire type 0, v is its value.
type field struct {
	num  uint64
	wire uint8
	v    uint64
	off  int
	len  int
}

// readField reads the field at off and gives the offset behind it.
func readField(msg []byte, off int) (f field, next int, err error) {
	tag, n := binary.Uvarint(msg[off:])
	if n <= 0 {
		return f, 0, fmt.Errorf("bad tag at byte %d", off)
	}
	at := off
	off += n
	f.num, f.wire = tag>>3, uint8(tag&7)
	if f.num == 0 {
		return f, 0, fmt.Errorf("field number 0 at byte %d", at)
	}
	switch f.wire {
	case 0:
		if f.v, n = binary.Uvarint(msg[off:]); n <= 0 {
			return f, 0, fmt.Errorf("bad number at byte %d", off)
		}
		return f, off + n, nil
	case 1, 5:
		size := 8
		if f.wire == 5 {
			size = 4
		}
		if len(msg)-off < size {
			return f, 0, fmt.Errorf("field at byte %d is cut off", at)
		}
		return f, off + size, nil
	case 2:
		size, n := binary.Uvarint(msg[off:])
		if n <= 0 || size > uint64(len(msg)-off-n) {
			return f, 0, fmt.Errorf("field at byte %d is longer than the message", at)
		}
		f.off, f.len = off+n, int(size)
		return f, f.off + f.len, nil
	}
	return f, 0, fmt.Errorf("field at byte %d has wire type %d", at, f.wire)
}

type rawRecord struct {
	key, hash                uint64
	hasKey, hasHash, hasData bool
	data                     []byte
}

// readRecord reads a Record message. Where a field is repeated the last one
// counts, as protobuf demands.
func readRecord(msg []byte) (r rawRecord, err error) {
	for off := 0; off < len(msg); {
		f, next, err := readField(msg, off)
		if err != nil {
			return r, err
		}
		off = next
		want := uint8(0)
		if f.num == 3 || f.num == 4 {
			want = 2
		}
		if f.num <= 4 && f.wire != want {
			return r, fmt.Errorf("field %d has wire type %d", f.num, f.wire)
		}
		switch f.num {
		case 1:
			r.key, r.hasKey = f.v, true
		case 2:
			r.hash, r.hasHash = f.v, true
		case 3:
			r.data, r.hasData = msg[f.off:f.off+f.len:f.off+f.len], true
		}
	}
	if !r.hasKey || !r.hasData {
		return r, fmt.Errorf("partition key or data is missing")
	}
	return r, nil
}
