package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"forebay/spool/record"
)

// checkChain verifies the ledger's steps.
func (c *checker) checkChain(ctx context.Context, st *stateDB) error {
	version, err := versionOf(ctx, st.db)
	if err != nil {
		return err
	}
	if version < 2 {
		for _, sh := range c.shards { // it has no steps to compare with
			sh.old = true
		}
		return nil
	}
	chain, err := readChain(ctx, st.db)
	if err != nil {
		return err
	}
	if chain.broken != nil {
		c.problem("state.db: the ledger's chain does not hold: %v", chain.broken)
	}
	st.sums = chain.sums
	for id, sh := range c.shards {
		sh.gone = st.removedLocked(sh.stream, id)
	}
	return nil
}

// A LedgerReport is the ledger of a spool that nobody has open.
type LedgerReport struct {
	Identity record.Identity // the boot apart
	Ledger   Ledger
	Steps    []Step // not folded, oldest first
}

// ReadLedger reads the ledger of a whole spool directory that no process has
// open, and changes nothing. A spool in use is answered with a *LockedError,
// one of a newer format with a *record.FormatError. After a crash it is what
// the next opening makes of it.
func ReadLedger(ctx context.Context, dir string) (LedgerReport, error) {
	r, err := readLedger(ctx, dir)
	if err != nil {
		return r, fmt.Errorf("read the ledger: %w", err)
	}
	return r, nil
}

func readLedger(ctx context.Context, dir string) (r LedgerReport, err error) {
	there, err := exists(filepath.Join(dir, "state.db"))
	if err == nil && !there {
		err = &record.FormatError{Path: dir, Reason: "is not a spool", Hint: "give the directory that holds state.db"}
	}
	if err == nil {
		err = checkFormats(dir)
	}
	if err != nil {
		return r, err
	}
	unlock, err := lockForCheck(dir)
	if err != nil {
		return r, err
	}
	defer unlock()
	c := &checker{}
	db, done, err := c.snapshot(ctx, filepath.Join(dir, "state.db"))
	if err != nil {
		return r, err
	}
	defer done()
	m, err := readStateMeta(ctx, db)
	if err != nil {
		return r, err
	}
	r.Identity.Gateway = m.gateway
	if _, err := fmt.Sscanf(m.epoch, "%016x", (*uint64)(&r.Identity.Epoch)); err != nil {
		return r, fmt.Errorf("read the epoch %q: %w", m.epoch, err)
	}
	st := &stateDB{db: db, now: time.Now, clock: newClock(m.clock, systemTime(), time.Now()), kick: make(chan struct{}, 1)}
	if err := st.load(ctx); err != nil {
		return r, err
	}
	version, err := versionOf(ctx, db)
	if err != nil {
		return r, err
	}
	begins := version < 2 || m.migrated > 0
	chain := &chain{sums: map[stepKey]stepSum{}}
	if version >= 2 {
		if chain, err = readChain(ctx, db); err != nil {
			return r, err
		}
	}
	st.sums, r.Steps = chain.sums, chain.steps
	r.Ledger, err = c.accounts(ctx, dir, st, m, begins)
	r.Ledger.Chain = ChainLedger{Steps: chain.head.id, Head: fmt.Sprintf("%x", chain.head.hash)}
	if chain.broken != nil {
		r.Ledger.Chain.Broken = chain.broken.Error()
	}
	return r, err
}

// A closedLog is a log as the files of a closed spool tell it.
type closedLog struct {
	num       uint32
	uncounted int64
	shards    []*shard // by rising id
	sources   map[string]sourceTotal
}

func (c *checker) accounts(ctx context.Context, dir string, st *stateDB, m stateMeta, begins bool) (Ledger, error) {
	logs, err := closedLogs(ctx, st.db, begins)
	if err != nil {
		return Ledger{}, err
	}
	a := newAccounts()
	for _, l := range logs {
		for _, sh := range l.shards {
			st.names[sh.id] = sh.stream.name
		}
		if err := c.readEnds(ctx, filepath.Join(dir, logDir(l.num)), l); err != nil {
			return Ledger{}, fmt.Errorf("%s: %w", logDir(l.num), err)
		}
		for _, sh := range l.shards {
			sh.forgetDeleted()
		}
		st.enterMissedRemovals(l.shards, begins)
	}
	if !m.clean || begins {
		st.enterMissedCounts(begins)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, l := range logs {
		if l.uncounted < 0 {
			l.uncounted = uncountedOf(l.shards, l.sources)
		}
		a.log(st, l.num, l.uncounted, l.sources, l.shards)
	}
	a.shed(st)
	return a.ledger(), nil
}

// closedLogs lists logs and shards as state.db has them.
func closedLogs(ctx context.Context, db *database, begins bool) ([]*closedLog, error) {
	var out []*closedLog
	byNum := map[uint32]*closedLog{}
	column := "uncounted"
	if begins {
		column = "-1"
	}
	err := each(ctx, db, "SELECT id, "+column+" FROM logs ORDER BY id", func(scan func(...any) error) error {
		l := &closedLog{sources: map[string]sourceTotal{}}
		err := scan(&l.num, &l.uncounted)
		out, byNum[l.num] = append(out, l), l
		return err
	})
	if err != nil {
		return nil, err
	}
	version, err := versionOf(ctx, db)
	if err != nil {
		return nil, err
	}
	deleted := "0"
	if version >= 3 {
		deleted = "t.deleted<>0"
	}
	err = each(ctx, db, "SELECT s.id, s.next, "+plainNameSQL+", t.log, "+deleted+" FROM shards s JOIN streams t ON t.id = s.stream ORDER BY s.id", func(scan func(...any) error) error {
		sh := &shard{stream: &Stream{}}
		var log uint32
		if err := scan(&sh.id, &sh.next, &sh.stream.name, &log, &sh.stream.isDeleted); err != nil {
			return err
		}
		if byNum[log] == nil {
			return fmt.Errorf("shard %d is damaged", sh.id)
		}
		sh.first = headRow{next: 1, arrived: minTime}
		byNum[log].shards = append(byNum[log].shards, sh)
		return nil
	})
	return out, err
}

// readEnds finds where a log's shards begin and end, and what its sources put
// in.
func (c *checker) readEnds(ctx context.Context, dir string, l *closedLog) error {
	segs, err := listSegments(dir)
	if errors.Is(err, fs.ErrNotExist) || len(segs) == 0 && err == nil {
		for _, sh := range l.shards {
			sh.first.next = sh.next
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range segs {
		m, err := c.head(ctx, dir, l.num, n)
		if err != nil {
			continue // the next one tells where it ended; Check says what is wrong with it
		}
		for _, sh := range l.shards {
			sh.first = m.head(sh.id)
		}
		break
	}
	newest := segs[len(segs)-1]
	db, done, err := c.snapshot(ctx, filepath.Join(dir, segmentFile(newest)))
	if err != nil {
		return err
	}
	defer done()
	m, err := readMeta(ctx, db, l.num, newest)
	if err != nil {
		return fmt.Errorf("read the head of %s: %w", segmentFile(newest), err)
	}
	at := map[record.ShardID]*shard{}
	for _, sh := range l.shards {
		at[sh.id], sh.next = sh, m.head(sh.id).next
	}
	l.sources = m.sources
	_, err = scanHeads(ctx, db, 1, 1<<62, newest, func(st stored) error {
		if st.err != nil {
			return nil // its records are missing in the sums, and Check names the block
		}
		for _, g := range st.blk.groups {
			if sh := at[g.shard]; sh != nil {
				sh.next = g.first + uint64(g.count)
			}
		}
		for _, row := range st.blk.sources {
			t := l.sources[row.name]
			t.taken += row.count
			t.quarantined += row.quarantined
			l.sources[row.name] = t
		}
		return nil
	})
	return err
}

func (c *checker) head(ctx context.Context, dir string, log uint32, n uint64) (*segMeta, error) {
	db, done, err := c.snapshot(ctx, filepath.Join(dir, segmentFile(n)))
	if err != nil {
		return nil, err
	}
	defer done()
	return readMeta(ctx, db, log, n)
}
