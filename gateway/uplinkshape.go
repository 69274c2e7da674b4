package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"sync/atomic"

	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/shape"
)

// shaping is what an uplink does to records before they are sent. Its file
// says, for every shard, from which record on this has been done in the very
// same way: so far back a restart may conclude from the log what was sent. What
// the file does not say is not known, and then nothing is concluded.
type shaping struct {
	*shape.Shape
	log      *slog.Logger
	path     string
	print    string
	since    map[record.ShardID]uint64
	changed  bool
	said     bool // that the file cannot be written
	cursors  map[record.ShardID]shapedCursor
	filtered atomic.Uint64
}

type shapedCursor struct {
	of  *spool.Cursor
	cur *shape.Cursor
}

// sinceFile is the file.
type sinceFile struct {
	Shape string                    `json:"shape"` // which one
	Since map[record.ShardID]uint64 `json:"since"`
}

// shapeWith gives the uplink the shape of its config; path is where its file is
// kept. It is called before the first Lanes.
func (l *forUplink) shapeWith(path string) error {
	if len(l.cfg.Shape) == 0 {
		return forgetShape(path)
	}
	of, err := shape.New(l.cfg.Shape)
	if err != nil {
		return err
	}
	print, err := of.Print()
	if err != nil {
		return err
	}
	s := &shaping{Shape: of, log: l.log, path: path, print: print, since: map[record.ShardID]uint64{}, cursors: map[record.ShardID]shapedCursor{}}
	was := sinceFile{}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &was)
	}
	switch {
	case err == nil && was.Shape == print && was.Since != nil:
		s.since = was.Since
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		l.log.Warn("what the uplink sent before is not known; of every key the next record is sent", "uplink", string(l.cfg.ID), "error", err)
		fallthrough
	default:
		// It is another shape: what it let pass must not be taken for sent
		// when it comes back.
		if err := forgetShape(path); err != nil {
			return err
		}
	}
	l.shape = s
	return nil
}

func forgetShape(path string) error {
	if err := forgetNote(path); err != nil {
		return fmt.Errorf("forget how records were shaped before: %w", err)
	}
	return nil
}

// shaped is a lane's cursor with what the config does to its records.
func (l *forUplink) shaped(t *spool.Stream, shard record.ShardID, cur *spool.Cursor) uplink.Cursor {
	s := l.shape
	if s == nil || s.Empty(t.Name()) {
		return cur
	}
	if have, ok := s.cursors[shard]; ok && have.of == cur {
		return have.cur
	}
	since, known := s.since[shard]
	if !known {
		since = cur.Committed()
		s.since[shard], s.changed = since, true
	}
	past := func(_ context.Context, after uint64) (shape.History, error) {
		return t.Reader(shard, spool.After(after))
	}
	wrapped := s.Cursor(t.Name(), cur, shape.Options{
		Next: cur.Committed(), Since: max(since, cur.Began()), Past: past, Filtered: &s.filtered, Logger: l.log.With("uplink", string(l.cfg.ID)),
	})
	s.cursors[shard] = shapedCursor{cur, wrapped}
	return wrapped
}

// save writes the file where something changed, and forgets shards that are
// not there. Where it cannot be written less is known after a restart, which
// stops nothing.
func (s *shaping) save(there map[record.ShardID]bool) {
	if s == nil {
		return
	}
	maps.DeleteFunc(s.cursors, func(id record.ShardID, _ shapedCursor) bool { return !there[id] })
	if !s.changed {
		return
	}
	maps.DeleteFunc(s.since, func(id record.ShardID, _ uint64) bool { return !there[id] })
	if err := writeNote(s.path, sinceFile{s.print, s.since}); err != nil {
		if !s.said {
			s.log.Warn("cannot note from where on records are shaped; after a restart the next record of every key is sent", "file", s.path, "error", err)
		}
		s.said = true
		return
	}
	s.changed, s.said = false, false
}

// Filtered is how many records were left out since the start.
func (l *forUplink) Filtered() uint64 {
	if l.shape == nil {
		return 0
	}
	return l.shape.filtered.Load()
}

// openChunk opens what lies beside a record of a stream, by the name that the
// stream has at the far side.
func (l *forUplink) openChunk(stream string, ref record.ChunkRef) (io.ReadSeekCloser, error) {
	var errs []error
	for _, t := range l.sp.Streams() {
		if shape.Far(l.cfg.Shape, t.Name()) != stream || !l.cfg.Match(t.Name()) {
			continue
		}
		c, err := t.OpenChunk(ref)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, fmt.Errorf("open a chunk of stream %q: %w", stream, record.ErrNoStream)
	}
	return nil, errors.Join(errs...)
}
