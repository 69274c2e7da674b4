// Package kpl reads and writes the aggregate format of the Kinesis Producer
// Library: many user records in one Kinesis record.
//
//	F3 89 9A C2 | protobuf AggregatedRecord | MD5 of the protobuf (16 bytes)
//
//	message AggregatedRecord { repeated string partition_key_table     = 1;
//	                           repeated string explicit_hash_key_table = 2;
//	                           repeated Record records                 = 3; }
//	message Record           { required uint64 partition_key_index     = 1;
//	                           optional uint64 explicit_hash_key_index = 2;
//	                           required bytes  data                    = 3;
//	                           repeated Tag    tags                    = 4; }
//
// The format is described in aggregation-format.md of awslabs'
// amazon-kinesis-producer.
package kpl

import (
	"bytes"
	"crypto/md5"
	"errors"
)

const (
	// Overhead is what every aggregate has beside its protobuf message, in
	// bytes: the magic number and the checksum.
	Overhead = len(magic) + md5.Size
	// MaxSize is the largest aggregate that Decode takes, in bytes: 10 MiB,
	// the largest Kinesis record there is.
	MaxSize = 10 << 20

	magic = "\xf3\x89\x9a\xc2"
)

var (
	// ErrNotAggregate is returned for bytes that do not begin with the magic
	// number, or are too short to be an aggregate.
	ErrNotAggregate = errors.New("not a KPL aggregate")
	// ErrChecksum is returned where the MD5 at the end does not match. Stock
	// consumers then take the bytes as one plain record; so should a caller.
	ErrChecksum = errors.New("KPL aggregate: checksum does not match")
	// ErrTooLarge is returned for more than MaxSize bytes.
	ErrTooLarge = errors.New("KPL aggregate: larger than 10 MiB")
)

// A Record is one user record of an aggregate.
type Record struct {
	Key string // partition key
	// HashKey is the explicit hash key in decimal, "" if the record has none.
	HashKey string
	// Data is a view into the aggregate that was decoded.
	Data []byte
}

// MaxParts is how many user records Open takes. Six bytes make one, so that an
// aggregate of 10 MiB could hold 1.7 million, and a sender could make hundreds
// of megabytes of work of one record.
const MaxParts = 100_000

// Open is Decode for a target that hands out single records: nil for what is
// no aggregate, is damaged or empty, or holds more than MaxParts records. That
// travels as the one record that it was stored as.
func Open(data []byte) *Aggregate {
	if !IsAggregate(data) {
		return nil
	}
	a, err := Decode(data)
	if err != nil || a.Len() == 0 || a.Len() > MaxParts {
		return nil
	}
	return a
}

// IsAggregate reports whether data begins as an aggregate does and is long
// enough to be one. It does not check the sum; Decode does.
func IsAggregate(data []byte) bool {
	return len(data) >= Overhead && bytes.HasPrefix(data, []byte(magic))
}
