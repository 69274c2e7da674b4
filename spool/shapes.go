package spool

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"forebay/spool/record"
)

// Which shards a stream was split and merged into stands in state.db and, so
// that it survives the loss of that, in shapes.json: segments do not tell it.
// The file is a copy that is read only where state.db is lost; a spool whose
// streams all are as they were made has none.

const shapesFile = "shapes.json"

// maxShapes bounds the file as it is read, bytes.
const maxShapes = 64 << 20

type shapes struct {
	Streams []streamShape    `json:"streams"`
	Deleted []record.ShardID `json:"deleted"` // shards of streams that were deleted
}

// A streamShape is a stream that is not as it was made.
type streamShape struct {
	Name   string       `json:"name"`
	Note   string       `json:"note,omitempty"`
	Shards []shardShape `json:"shards"` // by index
}

type shardShape struct {
	ID      record.ShardID   `json:"id"`
	From    string           `json:"from"` // hex
	To      string           `json:"to"`
	Opened  int64            `json:"opened"` // wall clock, nanoseconds
	Closed  int64            `json:"closed,omitempty"`
	Next    uint64           `json:"next,omitempty"` // of a closed one
	Parents []record.ShardID `json:"parents,omitempty"`
}

// shapesNow is what the file should hold.
func (s *Spool) shapesNow() shapes {
	var out shapes
	for _, t := range s.Streams() {
		at := t.shape.Load()
		if len(at.all) == len(at.open) && t.Note() == "" {
			continue
		}
		one := streamShape{Name: t.name, Note: t.Note()}
		t.log.mu.RLock()
		for _, sh := range at.all {
			d := shardShape{ID: sh.id, From: hex.EncodeToString(sh.from[:]), To: hex.EncodeToString(sh.to[:]), Opened: sh.opened, Closed: sh.closed, Parents: sh.parents}
			if sh.closed != 0 {
				d.Next = sh.next
			}
			one.Shards = append(one.Shards, d)
		}
		t.log.mu.RUnlock()
		out.Streams = append(out.Streams, one)
	}
	for _, l := range s.allLogs() {
		l.mu.RLock()
		for _, sh := range l.slots {
			if sh.stream.shape.Load().gone {
				out.Deleted = append(out.Deleted, sh.id)
			}
		}
		l.mu.RUnlock()
	}
	slices.Sort(out.Deleted)
	return out
}

// writeShapes brings the copy up to date. What it tells stands in state.db
// already, so a failure is only logged.
func (s *Spool) writeShapes() {
	b, err := json.Marshal(s.shapesNow())
	if err == nil {
		err = s.seam.replace(filepath.Join(s.dir, shapesFile), b)
	}
	s.tellShapes(err)
}

// mendShapes brings the copy up to date at opening: a crash may have come
// before it was written, a backup does not hold it.
func (s *Spool) mendShapes() {
	now := s.shapesNow()
	b, err := json.Marshal(now)
	if err != nil {
		s.tellShapes(err)
		return
	}
	path := filepath.Join(s.dir, shapesFile)
	switch old, err := os.ReadFile(path); {
	case err == nil && bytes.Equal(old, b):
	case errors.Is(err, fs.ErrNotExist) && len(now.Streams)+len(now.Deleted) == 0:
	default: // also where it cannot be read
		s.tellShapes(s.seam.replace(path, b))
	}
}

func (s *Spool) tellShapes(err error) {
	if err != nil {
		s.log.Warn("copy of the streams' shapes could not be written", "file", shapesFile, "error", err)
	}
}

// readShapes reads the copy, as far as it can be had.
func readShapes(dir string) shapes {
	var out shapes
	path := filepath.Join(dir, shapesFile)
	if n := fileSize(path); n == 0 || n > maxShapes {
		return out
	}
	b, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(b, &out) != nil {
		return shapes{} // then it is as if it was not there
	}
	return out
}

// forget takes the shards of deleted streams out of what a log's segments tell,
// and lists them under the names that their streams had.
func (f shapes) forget(num uint32, names map[record.ShardID]headName, met map[record.ShardID]bool) (out []salvagedStream) {
	by := map[string]int{}
	for _, id := range f.Deleted {
		name, named := names[id]
		if !named && !met[id] {
			continue
		}
		if name.stream == "" {
			name.stream = fmt.Sprintf("recovered-shard-%d", id)
		}
		i, ok := by[name.stream]
		if !ok {
			i = len(out)
			by[name.stream], out = i, append(out, salvagedStream{name: name.stream, log: num, deleted: true})
		}
		out[i].shards = append(out[i].shards, id)
		delete(names, id)
		delete(met, id)
	}
	return out
}

// name gives the shards that blocks of a log hold and no head names the names
// that they have in the copy, where their stream is in the log.
func (f shapes) name(names map[record.ShardID]headName, met map[record.ShardID]bool) {
	here := map[string]bool{}
	for _, n := range names {
		here[n.stream] = true
	}
	for _, one := range f.Streams {
		for i, d := range one.Shards {
			if _, named := names[d.ID]; !named && met[d.ID] && here[one.Name] {
				names[d.ID] = headName{one.Name, i}
			}
		}
	}
}

// of is the shape of a stream that was found in the segments, nil where it was
// not written down or cannot be.
func (f shapes) of(t salvagedStream) *streamShape {
	for i := range f.Streams {
		one := &f.Streams[i]
		if one.Name != t.name {
			continue
		}
		known := map[record.ShardID]bool{}
		var open []*shard
		for _, d := range one.Shards {
			known[d.ID] = true
			sh, ok := d.shard()
			if !ok {
				return nil
			}
			if d.Closed == 0 {
				open = append(open, sh)
			}
		}
		slices.SortFunc(open, func(a, b *shard) int { return a.from.Compare(b.from) })
		if !covers(open) || slices.ContainsFunc(t.shards, func(id record.ShardID) bool { return !known[id] }) {
			return nil
		}
		return one
	}
	return nil
}

func (d shardShape) shard() (*shard, bool) {
	from, err1 := hex.DecodeString(d.From)
	to, err2 := hex.DecodeString(d.To)
	sh := &shard{id: d.ID, opened: d.Opened, closed: d.Closed}
	if err1 != nil || err2 != nil || len(from) != len(sh.from) || len(to) != len(sh.to) || len(d.Parents) > 2 {
		return nil, false
	}
	copy(sh.from[:], from)
	copy(sh.to[:], to)
	return sh, true
}

// fill writes the stream's shards into a new state.db.
func (one *streamShape) fill(ctx context.Context, st *stateDB, stream int64) error {
	if err := st.exec(ctx, "UPDATE streams SET note=? WHERE id=?", one.Note, stream); err != nil {
		return err
	}
	for i, d := range one.Shards {
		sh, _ := d.shard() // of looked at it
		var parents [2]record.ShardID
		copy(parents[:], d.Parents)
		err := st.exec(ctx, "INSERT INTO shards(id, stream, idx, hash_from, hash_to, next, opened, closed, parent, adjacent) VALUES(?,?,?,?,?,?,?,?,?,?)",
			d.ID, stream, i, sh.from[:], sh.to[:], int64(max(d.Next, 1)), d.Opened, d.Closed, parents[0], parents[1])
		if err != nil {
			return err
		}
	}
	return nil
}
