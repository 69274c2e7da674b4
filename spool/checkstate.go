package spool

import (
	"context"
	"path/filepath"
	"slices"

	"forebay/spool/record"
)

// planned tells what opening makes of a lost state.db, and goes by that.
func (c *checker) planned(ctx context.Context, dir string, lost *lostState) ([]uint32, error) {
	p, err := planSalvage(ctx, dir, lost.why)
	if err != nil {
		return nil, err
	}
	c.clean, c.shards = false, map[record.ShardID]*checkedShard{}
	if err := p.refusal(dir); err != nil {
		c.problem("%v", err)
	} else {
		c.problem("state.db %s; when the spool is opened it is set aside and made again from the segments, uplinks begin again at the oldest record, and a new ledger begins. %s", p.why, p.describe())
	}
	var logs []uint32
	for i := range p.logs {
		logs = append(logs, i+1)
	}
	for _, t := range slices.Concat(p.streams, p.deleted) {
		for _, id := range t.shards {
			c.shards[id] = &checkedShard{stream: t.name, log: t.log, first: 1, next: 1, old: true}
		}
	}
	c.report.Streams, c.report.Shards = len(p.streams), len(c.shards)
	return logs, nil
}

func (c *checker) readState(ctx context.Context, dir string) ([]uint32, map[cursorKey]*place, error) {
	c.checkWAL(filepath.Join(dir, "state.db"), "state.db")
	db, done, err := c.snapshot(ctx, filepath.Join(dir, "state.db"))
	if err != nil {
		return nil, nil, err
	}
	defer done()
	m, err := readStateMeta(ctx, db)
	if err != nil {
		return nil, nil, err
	}
	c.clean = m.clean
	if c.clean {
		if err := checkState(ctx, db); isDamage(err) {
			c.problem("state.db: %v", err)
		} else if err != nil {
			return nil, nil, err
		}
	}
	var logs []uint32
	err = each(ctx, db, "SELECT id FROM logs ORDER BY id", func(scan func(...any) error) error {
		var n uint32
		err := scan(&n)
		logs = append(logs, n)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = each(ctx, db, "SELECT s.id, s.next, "+plainNameSQL+", t.log FROM shards s JOIN streams t ON t.id = s.stream", func(scan func(...any) error) error {
		var id record.ShardID
		sh := &checkedShard{first: 1, next: 1}
		err := scan(&id, &sh.stated, &sh.stream, &sh.log)
		c.shards[id] = sh
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM streams").Scan(&c.report.Streams); err != nil {
		return nil, nil, err
	}
	c.report.Shards = len(c.shards)
	st := &stateDB{db: db}
	if err := st.load(ctx); err != nil {
		return nil, nil, err
	}
	if err := c.checkChain(ctx, st); err != nil {
		return nil, nil, err
	}
	for id, known := range st.corrupt {
		if sh := c.shards[id]; sh != nil {
			sh.known = known
		}
	}
	return logs, st.cursors, nil
}

func (c *checker) checkCursors(cursors map[cursorKey]*place) {
	for k, p := range cursors {
		sh := c.shards[k.shard]
		if sh == nil {
			c.problem("state.db: cursor %q is on shard %d, which no stream has", k.name, k.shard)
			continue
		}
		if p.start < 1 || p.next < p.start || sh.next > 0 && p.next > sh.next {
			c.problem("state.db: cursor %q on shard %d stands at %d, outside of %d to %d", k.name, k.shard, p.next, p.start, sh.next)
		}
		if sum := p.delivered + p.filtered + p.refused + p.expired + p.corrupt; sum != p.next-p.start {
			c.problem("state.db: cursor %q on shard %d passed %d records but accounts for %d", k.name, k.shard, p.next-p.start, sum)
		}
	}
}
