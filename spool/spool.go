// Package spool is the log. SKELETON OF SIGNATURES: replaced by the spool's builder.
package spool

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

var errSkeleton = errors.New("skeleton")

// Config is the table [spool] of the config file; zero means the documented default.
type Config struct {
	Quota     conf.Size        `toml:"quota"`         // bytes the spool may use, everything counted; default 20GB or 80 % of the file system, whichever is less
	FreeFloor conf.Size        `toml:"free_floor"`    // bytes to leave free on the file system; default 512MiB, at most 5 % of it
	Segment   conf.Size        `toml:"segment_bytes"` // default 64MiB
	Gateway   string           `toml:"-"`             // signs the records
	Now       func() time.Time `toml:"-"`             // the wall clock; nil is time.Now
}

// StreamConfig describes a stream ([[stream]] in the config file).
type StreamConfig struct {
	Name              conf.Stream   `toml:"name"`
	Shards            int           `toml:"shards"`             // default 1
	Class             record.Class  `toml:"class"`              // default telemetry
	MaxAge            conf.Duration `toml:"retention"`          // delivered records older than this go; 0 keeps until the quota
	MaxBytes          conf.Size     `toml:"max_bytes"`          // of the log it shares; 0 is no limit but the quota
	ExpireUndelivered bool          `toml:"expire_undelivered"` // age removes undelivered records too
}

type Spool struct{}

// Open: dir is created if needed; ctx bounds opening only.
func Open(ctx context.Context, dir string, cfg Config, log *slog.Logger) (*Spool, error) {
	return nil, errSkeleton
}
func (s *Spool) Close() error              { return errSkeleton }
func (s *Spool) Identity() record.Identity { return record.Identity{} }

// CreateStream: record.ErrStreamExists. Durable when it returns.
func (s *Spool) CreateStream(ctx context.Context, c StreamConfig) (*Stream, error) {
	return nil, errSkeleton
}

// Ensure creates it, or takes over changed retention settings of an existing one.
func (s *Spool) Ensure(ctx context.Context, c StreamConfig) (*Stream, error) { return nil, errSkeleton }
func (s *Spool) Stream(name string) (*Stream, error)                         { return nil, record.ErrNoStream }
func (s *Spool) Streams() []*Stream                                          { return nil } // by name
func (s *Spool) Stats() Stats                                                { return Stats{} }
func (s *Spool) Ledger() Ledger                                              { return Ledger{} }

// Shed counts records of a source that were lost before the log; durable within 100 ms.
func (s *Spool) Shed(source string, n uint64) {}

// SourceSeq is the last SourceSeq of the source that is on disk, 0 if none: an inlet goes on from there.
func (s *Spool) SourceSeq(source string) uint64 { return 0 }

type Stream struct{}

func (t *Stream) Name() string         { return "" }
func (t *Stream) Config() StreamConfig { return StreamConfig{} }
func (t *Stream) Created() time.Time   { return time.Time{} }
func (t *Stream) Shards() []Shard      { return nil } // by index
// Append: see design.md. The records belong to the spool until done was called.
// Append blocks while the log's queue is full (back-pressure); ctx cancels that wait only; an error means done will not be called.
// done is called on the log's own goroutine: it must be quick and must not block or call Append.
func (t *Stream) Append(ctx context.Context, recs []record.Record, done func([]record.Result)) error {
	return errSkeleton
}

// Put is Append for a caller that can wait: it returns after the commit.
func (t *Stream) Put(ctx context.Context, recs []record.Record) ([]record.Result, error) {
	return nil, errSkeleton
}

// Scan yields what is stored now and ends at the newest record of the moment it was called.
func (t *Stream) Scan(ctx context.Context, shard record.ShardID, from Start) iter.Seq2[record.Batch, error] {
	return nil
}

// Reader follows a shard without a durable place.
func (t *Stream) Reader(shard record.ShardID, from Start) (*Reader, error) { return nil, errSkeleton }

// Cursor is a Reader whose place is durable under its name; from counts only when it is new. One user per (name, shard) at a time.
func (t *Stream) Cursor(ctx context.Context, name string, shard record.ShardID, from Start) (*Cursor, error) {
	return nil, errSkeleton
}

// OpenChunk gives the bytes of a record's Blob; CRC is checked as they are read to the end.
func (t *Stream) OpenChunk(ref record.ChunkRef) (*Chunk, error) { return nil, errSkeleton }

type Shard struct {
	ID             record.ShardID
	Index          int
	From, To       record.HashKey // inclusive
	First, Next    uint64         // oldest kept, next to be given
	Oldest, Newest time.Time
	Bytes          int64 // of payload kept, estimate
}

type Start struct {
	kind uint8
	seq  uint64
	at   time.Time
}

func Oldest() Start           { return Start{} }
func Newest() Start           { return Start{kind: 1} }
func After(seq uint64) Start  { return Start{kind: 2, seq: seq} } // After(0) is the first record ever: trimmed ones are reported
func Since(t time.Time) Start { return Start{kind: 3, at: t} }    // by arrival time

type Reader struct{}

// Next waits for records; at most max of them and about 1 MiB. *record.TrimmedError, *record.CorruptError: the reader goes on behind the loss at the next call. record.ErrClosed at close.
func (r *Reader) Next(ctx context.Context, max int) (record.Batch, error) {
	return record.Batch{}, errSkeleton
}

// Poll is Next without waiting: an empty batch means nothing is there now.
func (r *Reader) Poll(ctx context.Context, max int) (record.Batch, error) {
	return record.Batch{}, errSkeleton
}
func (r *Reader) Pos() uint64    { return 0 } // sequence number it reads next
func (r *Reader) Behind() uint64 { return 0 } // records between it and the newest
func (r *Reader) Close() error   { return nil }

// Cursor is a Reader with a durable place.
type Cursor struct{ Reader }

// Commit moves the place behind upTo. Gathered; durable within 100 ms and at Close. The tally's sum must be the number of records passed since the last Commit, less what Next reported as trimmed or corrupt (the spool counts those itself).
func (c *Cursor) Commit(upTo uint64, t record.Tally) error { return errSkeleton }
func (c *Cursor) Committed() uint64                        { return 0 }                // next sequence number after the durable-or-soon-durable place
func (c *Cursor) Backlog() record.Backlog                  { return record.Backlog{} } // between Committed and newest

type Chunk struct {
	io.ReadSeekCloser
	Size int64
}

type Stats struct {
	Dir                                      string
	Used, Quota, Free                        int64
	Full, ReadOnly                           bool
	Conditions                               []Condition // what raises alarms: full, nearly-full, read-only, fsync, corrupt, dropped
	Commits, Fsyncs, Records, Bytes, Written uint64
	LastCommit                               time.Time
	LastFsync                                time.Duration
}
type Condition struct {
	Kind, Text string
	Severity   int
	Since      time.Time
}

type Ledger struct {
	Sources []SourceLedger
	Streams []StreamLedger
	Cursors []CursorLedger
}
type SourceLedger struct {
	Source                   string
	Taken, Shed, Quarantined uint64
}
type StreamLedger struct {
	Stream                     string
	In, Kept, Expired, Corrupt uint64
}
type CursorLedger struct {
	Name, Stream                                                string
	In, Delivered, Filtered, Pending, Expired, Refused, Corrupt uint64
}

// Balanced is nil, or says which line does not add up.
func (l Ledger) Balanced() error { return nil }

// Check reads a whole spool directory that no process has open, and changes nothing.
func Check(ctx context.Context, dir string) (CheckReport, error) { return CheckReport{}, errSkeleton }

type CheckReport struct {
	Dir                       string
	Format                    int
	Streams, Shards, Segments int
	Blocks, Records, Chunks   uint64
	Bytes                     int64
	Problems                  []string
}
