package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"

	"forebay/spool"
	"forebay/spool/record"
)

// A way is since when an uplink has gone on in one way, with one shape and to
// one far side, in each shard. Its file outlives a restart: a far side's
// watermark that lies in front of that number must not be taken to speak of
// what the uplink passed in between. What the file does not say began now.
type way struct {
	log     *slog.Logger
	path    string
	print   string
	since   map[record.ShardID]uint64
	places  map[record.ShardID]lanePlace
	changed bool
	said    bool // that the file cannot be written
}

// A lanePlace is a cursor that knows since when the uplink goes on as now.
type lanePlace struct {
	*spool.Cursor
	since uint64
}

// Since is the sequence number from which on it does; the cursor's beginning or
// behind it.
func (p lanePlace) Since() uint64 { return max(p.since, p.Began()) }

// wayFile is the file.
type wayFile struct {
	Way   string                    `json:"way"` // which one
	Since map[record.ShardID]uint64 `json:"since"`
}

// noteWay reads where the file lies what the uplink did before. It is called
// before the first Lanes.
func (l *forUplink) noteWay(path string) error {
	print, err := l.cfg.Way()
	if err != nil {
		return err
	}
	w := &way{log: l.log, path: path, print: print, since: map[record.ShardID]uint64{}, places: map[record.ShardID]lanePlace{}}
	was := wayFile{}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &was)
	}
	switch {
	case err == nil && was.Way == print && was.Since != nil:
		w.since = was.Since
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		l.log.Warn("since when the uplink goes on as it does now is not known; it counts from here", "uplink", string(l.cfg.ID), "error", err)
		fallthrough
	default:
		// When the way of before comes back it must not be taken for one that
		// went on.
		if err := forgetNote(path); err != nil {
			return fmt.Errorf("forget how the uplink went on before: %w", err)
		}
	}
	l.way = w
	return nil
}

// at is the place of a lane's cursor. A cursor that stands in front of what the
// file says was set back. Where nothing is noted the uplink went on as it does
// now all along.
func (w *way) at(shard record.ShardID, cur *spool.Cursor) lanePlace {
	if w == nil {
		return lanePlace{Cursor: cur}
	}
	if p, ok := w.places[shard]; ok && p.Cursor == cur {
		return p
	}
	since, known := w.since[shard]
	if now := cur.Committed(); !known || since > now {
		since = now
		w.since[shard], w.changed = since, true
	}
	p := lanePlace{cur, since}
	w.places[shard] = p
	return p
}

// save writes the file where something changed, and forgets shards that are not
// there. Where it cannot be written less is known after a restart, which stops
// nothing.
func (w *way) save(there map[record.ShardID]bool) {
	if w == nil {
		return
	}
	maps.DeleteFunc(w.places, func(id record.ShardID, _ lanePlace) bool { return !there[id] })
	if !w.changed {
		return
	}
	maps.DeleteFunc(w.since, func(id record.ShardID, _ uint64) bool { return !there[id] })
	if err := writeNote(w.path, wayFile{w.print, w.since}); err != nil {
		if !w.said {
			w.log.Warn("cannot note since when the uplink goes on as it does now; after a restart it counts from there", "file", w.path, "error", err)
		}
		w.said = true
		return
	}
	w.changed, w.said = false, false
}

// writeNote replaces a small file as a whole.
func writeNote(path string, what any) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

// forgetNote removes it.
func forgetNote(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	return err
}
