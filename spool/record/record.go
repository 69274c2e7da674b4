// Package record says what a record is, where it sits in the log, and which
// errors the log answers with. Everything that takes, keeps or hands on data
// speaks in these words; the package knows nothing of how they are stored.
package record

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a record. They are Kinesis's own (API reference, PutRecord), so
// that whatever a box takes in can be handed on.
const (
	// MaxKey is the longest partition key, in Unicode characters.
	MaxKey = 256
	// MaxData is the largest Data, in bytes: 10 MiB.
	MaxData = 10 << 20
	// MaxBlob is the largest Blob, in bytes: 64 MiB.
	MaxBlob = 64 << 20
	// MaxAttrs is how many attributes a record may carry.
	MaxAttrs = 32
	// MaxAttrBytes bounds the keys and values of Attrs together, in bytes.
	MaxAttrBytes = 64 << 10
)

// A HashKey is a point on the ring of 2^128 that shards divide among them,
// big endian.
type HashKey [16]byte

// HashOf is the point of a partition key: its MD5, as Kinesis does.
func HashOf(key string) HashKey { return md5.Sum([]byte(key)) }

// KeyOf makes a partition key of a name of any length, such as an MQTT topic:
// the name itself or, where it has more than MaxKey characters, the MD5 of it
// in hexadecimal digits; long says so.
func KeyOf(name string) (key string, long bool) {
	if len(name) <= MaxKey || utf8.RuneCountInString(name) <= MaxKey {
		return name, false
	}
	sum := md5.Sum([]byte(name))
	return hex.EncodeToString(sum[:]), true
}

// Compare orders hash keys as 128-bit unsigned numbers.
func (h HashKey) Compare(o HashKey) int { return strings.Compare(string(h[:]), string(o[:])) }

// A BootID names one run of the machine. Monotonic times compare only within
// one BootID.
type BootID [16]byte

func (b BootID) String() string { return hex.EncodeToString(b[:]) }

// TimeQuality says how far a record's times can be trusted.
type TimeQuality uint8

const (
	// TimeArrival: the sender gave no time; only Arrived is known.
	TimeArrival TimeQuality = iota
	// TimeDevice: At is the sender's own clock.
	TimeDevice
	// TimeUnsynchronised: our own clock was not known to be right when the
	// record arrived.
	TimeUnsynchronised
)

func (q TimeQuality) String() string {
	switch q {
	case TimeArrival:
		return "arrival"
	case TimeDevice:
		return "device"
	case TimeUnsynchronised:
		return "unsynchronised"
	}
	return "time quality " + strconv.Itoa(int(q))
}

// A Record is one message as it was taken from its sender.
//
// Who owns the bytes: a record handed to the log belongs to the log until its
// Result is delivered; a record read from the log is a view that is valid
// until the reader's next step. Copy what must live longer.
type Record struct {
	// Key is the partition key, 1 to MaxKey characters of UTF-8. It picks the
	// shard by its MD5.
	Key string
	// HashKey is the explicit hash key, if the producer gave one; it then
	// picks the shard instead of Key.
	HashKey *HashKey
	// At is when it happened by the sender's clock; zero if the sender has none.
	At time.Time
	// Arrived is when we took it, by our wall clock; the log stamps it if zero.
	Arrived time.Time
	// Mono is the time since boot when we took it. With the block's BootID it
	// orders and re-anchors records taken under a wrong clock.
	Mono time.Duration
	// Boot is the run of the machine that took it; stored once a block.
	Boot BootID
	// TimeQ says how far the times can be trusted.
	TimeQ TimeQuality
	// Source is the id of the configured device or door that took it.
	Source string
	// SourceSeq is the record's running number within Source, from 1; the
	// inlet gives it. Zero where nothing counts.
	SourceSeq uint64
	// Type is the media type of Data, "" where it is not known.
	Type string
	// Attrs are a few named strings (an MQTT topic that is too long for Key,
	// a user property). Not for data.
	Attrs map[string]string
	// Data is the payload, byte for byte as the sender gave it, at most
	// MaxData bytes. It may be empty.
	Data []byte
	// Blob is bytes that belong to the record but lie beside the log (a video
	// chunk), at most MaxBlob. It is set by whoever appends; on reading it is
	// nil and Chunk says where the bytes lie.
	Blob []byte
	// Chunk is where Blob lies once it is stored; zero if there is none.
	Chunk ChunkRef
	// Pos is the place in the log; zero until stored.
	Pos Pos
	// Origin is what the spool was called when it stored the record, shared by
	// many records; nil until read from the log.
	Origin *Origin
}

// Size is what a record weighs in limits and queues, in bytes: its payload,
// its key, its attributes and a fixed charge for the rest.
func (r *Record) Size() int {
	n := 64 + len(r.Key) + len(r.Data) + len(r.Blob) + len(r.Source) + len(r.Type)
	if len(r.Attrs) > 0 { // ranging over an empty map is not free
		for k, v := range r.Attrs {
			n += len(k) + len(v) + 2
		}
	}
	return n
}

// Check says whether the record is within the limits; nil, or an
// *InvalidError that names the field.
func (r *Record) Check() error {
	switch {
	case r.Key == "":
		return &InvalidError{Field: "partition key", Reason: "is empty; 1 to 256 characters are allowed"}
	case len(r.Key) > MaxKey && utf8.RuneCountInString(r.Key) > MaxKey:
		return &InvalidError{Field: "partition key", Reason: fmt.Sprintf("has %d characters; at most %d are allowed", utf8.RuneCountInString(r.Key), MaxKey)}
	case !utf8.ValidString(r.Key):
		return &InvalidError{Field: "partition key", Reason: "is not valid UTF-8"}
	case len(r.Data) > MaxData:
		return &InvalidError{Field: "data", Reason: fmt.Sprintf("has %d bytes; at most %d are allowed", len(r.Data), MaxData), TooLarge: true}
	case len(r.Blob) > MaxBlob:
		return &InvalidError{Field: "chunk", Reason: fmt.Sprintf("has %d bytes; at most %d are allowed", len(r.Blob), MaxBlob), TooLarge: true}
	case len(r.Attrs) > MaxAttrs:
		return &InvalidError{Field: "attributes", Reason: fmt.Sprintf("are %d; at most %d are allowed", len(r.Attrs), MaxAttrs)}
	}
	if len(r.Attrs) > 0 {
		n := 0
		for k, v := range r.Attrs {
			n += len(k) + len(v)
		}
		if n > MaxAttrBytes {
			return &InvalidError{Field: "attributes", Reason: fmt.Sprintf("have %d bytes; at most %d are allowed", n, MaxAttrBytes)}
		}
	}
	return nil
}

// Hash is the point that picks the record's shard.
func (r *Record) Hash() HashKey {
	if r.HashKey != nil {
		return *r.HashKey
	}
	return HashOf(r.Key)
}

// A Result tells the sender of a record what became of it. Err nil means: on
// disk, at Pos.
type Result struct {
	Pos Pos
	Err error
}

// A Batch is what one step of a reader yields: records of one shard with
// rising sequence numbers. It is a view, valid until the reader's next step.
type Batch struct {
	Shard ShardID
	Recs  []Record
	// Next is the sequence number after the last record that the step passed;
	// a reader that wants to go on starts there.
	Next uint64
}

// A Tally says what became of the records that a cursor passes.
type Tally struct {
	Delivered uint64 // acknowledged by the far side
	Filtered  uint64 // left out on purpose, by the uplink's filter
	Refused   uint64 // can never be taken; copied to the stream "refused"
}

// Sum is the number of records the tally accounts for.
func (t Tally) Sum() uint64 { return t.Delivered + t.Filtered + t.Refused }

// A Backlog is what lies between a cursor and the newest record.
type Backlog struct {
	Records uint64
	Bytes   int64     // of payload, estimate
	Oldest  time.Time // arrival of the oldest waiting record; zero if none
}
