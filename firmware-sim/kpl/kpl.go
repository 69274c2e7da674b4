// Package kpl reads the aggregated records of the Kinesis Producer Library.
// It is the witness's own decoder, written from the published format and not
// from the gateway's encoder:
//
//	F3 89 9A C2 | protobuf AggregatedRecord | MD5 of the protobuf, 16 bytes
//	AggregatedRecord { 1: repeated string partition_key_table
//	                   2: repeated string explicit_hash_key_table
//	                   3: repeated Record { 1: partition_key_index
//	                                        2: optional explicit_hash_key_index
//	                                        3: data
//	                                        4: repeated Tag } }
package kpl

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
)

// Record is one user record of an aggregate.
type Record struct {
	Key     string
	HashKey string // explicit hash key, "" where there is none
	Data    []byte // points into the decoder's input
}

var magic = []byte{0xF3, 0x89, 0x9A, 0xC2}

// ErrMalformed is returned for bytes whose frame and checksum are right and
// whose message is not.
var ErrMalformed = errors.New("malformed aggregate")

// Decode returns the user records of an aggregate in order. ok is false where
// b is not an aggregate (no magic, or a checksum that does not match): it is
// then a record like any other, as the Kinesis Client Library treats it.
func Decode(b []byte) (recs []Record, ok bool, err error) {
	if len(b) < len(magic)+md5.Size || !bytes.HasPrefix(b, magic) {
		return nil, false, nil
	}
	msg, sum := b[len(magic):len(b)-md5.Size], b[len(b)-md5.Size:]
	if got := md5.Sum(msg); !bytes.Equal(got[:], sum) {
		return nil, false, nil
	}
	var keys, hashes []string
	var raw [][]byte
	err = fields(msg, func(num uint64, _ uint64, data []byte) error {
		switch num {
		case 1:
			keys = append(keys, string(data))
		case 2:
			hashes = append(hashes, string(data))
		case 3:
			if data == nil {
				return fmt.Errorf("record is not a message: %w", ErrMalformed)
			}
			raw = append(raw, data)
		}
		return nil
	})
	if err != nil {
		return nil, true, err
	}
	recs = make([]Record, 0, len(raw))
	for i, m := range raw {
		r, err := record(m, keys, hashes)
		if err != nil {
			return nil, true, fmt.Errorf("record %d: %w", i, err)
		}
		recs = append(recs, r)
	}
	return recs, true, nil
}

func record(m []byte, keys, hashes []string) (Record, error) {
	var r Record
	var hasKey, hasData bool
	err := fields(m, func(num, v uint64, data []byte) error {
		switch num {
		case 1:
			if data != nil || v >= uint64(len(keys)) {
				return fmt.Errorf("partition key index %d of %d: %w", v, len(keys), ErrMalformed)
			}
			r.Key, hasKey = keys[v], true
		case 2:
			if data != nil || v >= uint64(len(hashes)) {
				return fmt.Errorf("explicit hash key index %d of %d: %w", v, len(hashes), ErrMalformed)
			}
			r.HashKey = hashes[v]
		case 3:
			if data == nil {
				return fmt.Errorf("data is not bytes: %w", ErrMalformed)
			}
			r.Data, hasData = data, true
		}
		return nil
	})
	if err == nil && (!hasKey || !hasData) {
		err = fmt.Errorf("a required field is missing: %w", ErrMalformed)
	}
	return r, err
}

// fields walks a protobuf message: v is a varint's value, data is not nil for
// a length-delimited field. Fixed fields, which the format does not have, are
// passed over as an unknown field must be.
func fields(m []byte, each func(num, v uint64, data []byte) error) error {
	for len(m) > 0 {
		tag, n := binary.Uvarint(m)
		if n <= 0 || tag>>3 == 0 {
			return fmt.Errorf("field tag: %w", ErrMalformed)
		}
		m = m[n:]
		var v uint64
		var data []byte
		switch tag & 7 {
		case 0:
			if v, n = binary.Uvarint(m); n <= 0 {
				return fmt.Errorf("varint: %w", ErrMalformed)
			}
		case 1:
			n = 8
		case 5:
			n = 4
		case 2:
			size, k := binary.Uvarint(m)
			if k <= 0 || size > uint64(len(m)-k) {
				return fmt.Errorf("length: %w", ErrMalformed)
			}
			n = k + int(size)
			data = m[k:n:n]
		default:
			return fmt.Errorf("wire type %d: %w", tag&7, ErrMalformed)
		}
		if n > len(m) {
			return fmt.Errorf("the message ends within a field: %w", ErrMalformed)
		}
		m = m[n:]
		if tag&7 == 1 || tag&7 == 5 {
			continue
		}
		if err := each(tag>>3, v, data); err != nil {
			return err
		}
	}
	return nil
}
