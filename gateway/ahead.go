package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
)

// aheadFile is where an uplink with order = "live-first" keeps what it has
// delivered ahead of its cursors. Lost, those records go out again.
func aheadFile(uplink string) string { return "ahead-" + uplink + ".json" }

// An aheadNote is the file. It counts for the epoch in which it was written: in
// another one the numbers may belong to other records.
type aheadNote struct {
	Epoch string         `json:"epoch"`
	Lanes []uplink.Ahead `json:"lanes"`
}

// Follow reads a lane without a durable place.
func (l *forUplink) Follow(ln lane.Lane, from uint64) (uplink.Follower, error) {
	t, err := l.sp.Stream(ln.Stream)
	if err != nil {
		return nil, err
	}
	start := spool.Newest()
	if from > 0 {
		start = spool.After(from - 1)
	}
	r, err := t.Reader(ln.Shard, start)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// LoadAhead reads the file.
func (l *forUplink) LoadAhead() ([]uplink.Ahead, error) {
	b, err := os.ReadFile(l.ahead)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was delivered ahead: %w", err)
	}
	var n aheadNote
	if err := json.Unmarshal(b, &n); err != nil {
		return nil, fmt.Errorf("read what was delivered ahead: %s: %w", l.ahead, err)
	}
	if n.Epoch != l.sp.Identity().Epoch.String() {
		l.log.Info("what was delivered ahead is of another epoch of the spool; it goes out again", "uplink", string(l.cfg.ID))
		return nil, nil
	}
	ends := map[record.ShardID]uint64{}
	for _, t := range l.sp.Streams() {
		for _, sh := range t.Shards() {
			ends[sh.ID] = sh.Next
		}
	}
	for _, a := range n.Lanes {
		for i, s := range a.Spans {
			if s.From > s.To || s.To > ends[a.Shard] || i > 0 && s.From < a.Spans[i-1].To {
				return nil, fmt.Errorf("read what was delivered ahead: %s: shard %d has no records %d to %d", l.ahead, a.Shard, s.From, s.To)
			}
		}
	}
	return n.Lanes, nil
}

// SaveAhead writes the file.
func (l *forUplink) SaveAhead(a []uplink.Ahead) error {
	b, err := json.Marshal(aheadNote{Epoch: l.sp.Identity().Epoch.String(), Lanes: a})
	if err == nil {
		err = replaceFile(l.ahead, append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep what was delivered ahead: %w", err)
	}
	return nil
}
