package record

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	// ErrFull is returned when the spool's quota or the disk is used up by
	// records that must not be dropped. The record is not stored; the producer
	// must not be acknowledged. It passes by itself when there is room.
	ErrFull = errors.New("spool is full")
	// ErrClosed is returned after the spool or the reader was closed.
	ErrClosed = errors.New("spool is closed")
	// ErrNoStream is returned for the name of a stream that does not exist.
	ErrNoStream = errors.New("no such stream")
	// ErrStreamExists is returned when a stream is created twice.
	ErrStreamExists = errors.New("stream exists")
	// ErrNoShard is returned for a shard that the stream does not have.
	ErrNoShard = errors.New("no such shard")
	// ErrShardClosed is returned for a shard that was split or merged already.
	ErrShardClosed = errors.New("shard is closed")
	// ErrNoCursor is returned for the name of a cursor that does not exist.
	ErrNoCursor = errors.New("no such cursor")
	// ErrInUse is returned for a cursor that somebody has open.
	ErrInUse = errors.New("cursor is in use")
	// ErrReadOnly is returned when the disk no longer takes writes; what is
	// stored can still be read.
	ErrReadOnly = errors.New("spool is read-only")
	// ErrErased is what an *ErasedError is.
	ErrErased = errors.New("records were erased")
	// ErrCannotStore is returned when the log could not be written or synced
	// (an fsync error, an I/O error). Nothing of the batch was acknowledged.
	ErrCannotStore = errors.New("log cannot be written")
)

// An InvalidError is returned for a record that is outside the limits.
type InvalidError struct {
	Field    string
	Reason   string
	TooLarge bool
}

func (e *InvalidError) Error() string { return "record's " + e.Field + " " + e.Reason }

// A TrimmedError is returned to a reader that asks for records which retention
// has removed. The reader goes on at To.
type TrimmedError struct {
	Shard ShardID
	From  uint64 // first sequence number missed
	To    uint64 // first sequence number still there
}

func (e *TrimmedError) Error() string {
	return fmt.Sprintf("records %d to %d of shard %d are no longer kept", e.From, e.To-1, e.Shard)
}

// An ErasedError is returned to a reader that asks for records of an encrypted
// stream whose key was deleted. It is a *TrimmedError too (errors.As), for a
// reader that need not tell the two apart, and ErrErased. The reader goes on at
// To.
type ErasedError struct {
	Shard ShardID
	From  uint64    // first sequence number missed
	To    uint64    // first sequence number behind
	At    time.Time // when the key was deleted
	Hint  string
}

func (e *ErasedError) Error() string {
	return fmt.Sprintf("records %d to %d of shard %d were erased at %s (%s)", e.From, e.To-1, e.Shard, e.At.UTC().Format(time.RFC3339), e.Hint)
}

// Unwrap makes it ErrErased and a *TrimmedError.
func (e *ErasedError) Unwrap() []error {
	return []error{ErrErased, &TrimmedError{Shard: e.Shard, From: e.From, To: e.To}}
}

// A ShardEndError is returned at the end of a shard that was split or merged.
type ShardEndError struct {
	Shard    ShardID
	Children []ShardID
}

func (e *ShardEndError) Error() string {
	return fmt.Sprintf("shard %d is closed and has %d children", e.Shard, len(e.Children))
}

// A CorruptError is returned for a block whose checksum or shape is wrong.
// Records before and after it are served.
type CorruptError struct {
	File  string
	Block int64
	Shard ShardID
	From  uint64 // first sequence number lost; 0 where it cannot be told
	To    uint64 // first sequence number after the loss
	Err   error
	Hint  string
}

func (e *CorruptError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "block %d of %s is damaged", e.Block, e.File)
	if e.From > 0 {
		fmt.Fprintf(&b, ": records %d to %d of shard %d are lost", e.From, e.To-1, e.Shard)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

func (e *CorruptError) Unwrap() error { return e.Err }

// A FormatError is returned for a spool that this program does not read: a
// newer version, or not a spool at all. Nothing was written to it.
type FormatError struct {
	Path   string
	Reason string
	Hint   string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s: %s (%s)", e.Path, e.Reason, e.Hint)
}
