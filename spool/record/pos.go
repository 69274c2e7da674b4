package record

import (
	"fmt"
	"strconv"
)

// A ShardID numbers a shard within one spool. It is given once and never
// again, across all streams, so that (epoch, shard, sequence) is one record.
type ShardID uint32

// A Pos is a place in the log: a shard and a sequence number in it. Sequence
// numbers start at 1 and have no gaps: seq 0 is "not stored".
type Pos struct {
	Shard ShardID
	Seq   uint64
}

// IsZero reports whether the position is unset.
func (p Pos) IsZero() bool { return p.Seq == 0 }

// An Epoch is new whenever a spool is created, restored from a backup, or
// wakes on another machine, so that a cloned disk's new records never pass
// for duplicates of the original's.
type Epoch uint64

// String is the epoch as 16 hexadecimal digits.
func (e Epoch) String() string { return fmt.Sprintf("%016x", uint64(e)) }

// An Identity is what a spool signs its records with.
type Identity struct {
	Gateway string
	Epoch   Epoch
	Boot    BootID
}

// An Origin says under which name and epoch a record was stored. It is part of
// the record's id for ever, while a spool's own Identity may change.
type Origin struct {
	Gateway string
	Epoch   Epoch
}

// Of is the id of a record that was read from the log: it begins with the
// record's Origin, so that it stays the same when the spool gets a new epoch.
func (i Identity) Of(r *Record) string {
	if r.Origin != nil {
		i.Gateway, i.Epoch = r.Origin.Gateway, r.Origin.Epoch
	}
	return i.ID(r.Pos)
}

// ID is a record's name in the whole world:
// gateway/epoch/shard/sequence, the epoch in hexadecimal. It is that of a
// record stored now; Of is the one for records that were read.
func (i Identity) ID(p Pos) string { return string(i.AppendID(nil, p)) }

// AppendID appends ID(p) to b.
func (i Identity) AppendID(b []byte, p Pos) []byte {
	b = append(b, i.Gateway...)
	b = append(b, '/')
	b = fmt.Appendf(b, "%016x", uint64(i.Epoch))
	b = append(b, '/')
	b = strconv.AppendUint(b, uint64(p.Shard), 10)
	b = append(b, '/')
	return strconv.AppendUint(b, p.Seq, 10)
}

// A ChunkRef says where the bytes of a Blob lie: in the chunk file that
// belongs to a segment. It is opaque outside the spool.
type ChunkRef struct {
	Log     uint32 // number of the log's directory
	Segment uint64
	Off     int64  // bytes from the start of the chunk file
	Len     int64  // bytes
	CRC     uint32 // of the bytes as stored
	Key     uint32 // that they are encrypted under, 0: they are not
}

// IsZero reports whether there is no chunk.
func (c ChunkRef) IsZero() bool { return c.Len == 0 && c.Segment == 0 }

// A Class orders streams by what they are worth when the disk is full. Lower
// classes go first; see docs/guarantees.md.
//
// The zero Class is "not said"; a stream's config then means telemetry.
type Class uint8

const (
	ClassDebug Class = iota + 1
	ClassVideo
	ClassTelemetry
	ClassAudit
	ClassAlarm
	ClassEvidence
)

// Classes lists the classes, lowest first.
func Classes() []Class {
	return []Class{ClassDebug, ClassVideo, ClassTelemetry, ClassAudit, ClassAlarm, ClassEvidence}
}

func (c Class) String() string {
	switch c {
	case ClassDebug:
		return "debug"
	case ClassVideo:
		return "video"
	case ClassTelemetry:
		return "telemetry"
	case ClassAudit:
		return "audit"
	case ClassAlarm:
		return "alarm"
	case ClassEvidence:
		return "evidence"
	}
	return "class " + strconv.Itoa(int(c))
}

// ParseClass is the inverse of String.
func ParseClass(s string) (Class, error) {
	for _, c := range Classes() {
		if c.String() == s {
			return c, nil
		}
	}
	return 0, fmt.Errorf("class %q is not one of debug, video, telemetry, audit, alarm, evidence", s)
}

// UnmarshalText reads a class from a config file.
func (c *Class) UnmarshalText(b []byte) error {
	v, err := ParseClass(string(b))
	if err != nil {
		return err
	}
	*c = v
	return nil
}

// MarshalText writes the class's name.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// HoldsBack reports what happens when undelivered records of the class fill
// the quota: true, the producer gets ErrFull and no acknowledgement; false,
// the oldest are dropped and counted. They are dropped for records of their own
// class or a higher one only: where nothing but higher classes is left, the
// producer gets ErrFull here too.
func (c Class) HoldsBack() bool { return c >= ClassAudit }
