package spool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"time"

	"forebay/spool/record"
)

// Kinds of steps of the ledger.
const (
	StepEpoch         = "epoch"          // the spool began, or woke as another one; who is the epoch
	StepExpired       = "expired"        // older than retention
	StepMaxAge        = "max-age"        // older than max_age_hard, the legal limit
	StepDropped       = "dropped"        // made room: quota, free floor or max_bytes
	StepGone          = "gone"           // found missing at opening
	StepKept          = "kept"           // entered as removed, but still there after a crash
	StepCorrupt       = "corrupt"        // damaged on the disk
	StepRefused       = "refused"        // the far side can never take them; who is the cursor
	StepShed          = "shed"           // lost before the log; who is the source
	StepCursorDropped = "cursor-dropped" // an operator gave up a cursor's claim; who is the cursor
	StepDeleted       = "deleted"        // their stream was deleted; who is the operator
	StepErased        = "erased"         // made unreadable by destroying a key
	StepFolded        = "folded"         // older steps were added up; who is the hash of the last one
	StepBroken        = "broken"         // the chain was found broken at opening
)

const (
	// maxSteps bounds the ledger's steps in state.db; keepSteps is how many
	// stay when the oldest are folded into sums.
	maxSteps  = 4096
	keepSteps = 3072
	// maxReason bounds a step's words, bytes.
	maxReason = 512
)

// A Step is one entry of the loss ledger: something was lost or set aside. The
// steps form a chain: each carries a SHA-256 over its own words and the hash
// of the one before, so that none can be changed or taken out unseen.
type Step struct {
	ID          uint64    // from 1, without gaps
	At          time.Time // wall clock
	Clock       int64     // retention clock, nanoseconds
	Kind        string
	Stream      string         // "" where it is about no stream
	Shard       record.ShardID // 0 where it is about no shard
	First, Past uint64         // sequence numbers, Past not included; 0 where it is about none
	Count       uint64         // records
	Undelivered uint64         // of them, how many a cursor had not passed
	Who         string         // cursor, source, operator or epoch, by kind
	Reason      string
	Prev, Hash  [sha256.Size]byte
}

// removals are the kinds of steps that end the range of what is kept.
var removals = [...]string{StepExpired, StepMaxAge, StepDropped, StepGone, StepDeleted}

const stepColumns = "id, at, clock, kind, stream, shard, first, past, count, undelivered, who, reason, prev"

// text is what the hash is over: the columns as SQLite's quote() writes them,
// with commas between.
func (s *Step) text() []byte {
	var b []byte
	num := func(n int64) { b = append(strconv.AppendInt(b, n, 10), ',') }
	word := func(w string) {
		b = append(b, '\'')
		b = append(b, strings.ReplaceAll(w, "'", "''")...)
		b = append(b, '\'', ',')
	}
	num(int64(s.ID))
	num(s.At.UnixNano())
	num(s.Clock)
	word(s.Kind)
	word(s.Stream)
	num(int64(s.Shard))
	num(int64(s.First))
	num(int64(s.Past))
	num(int64(s.Count))
	num(int64(s.Undelivered))
	word(s.Who)
	word(s.Reason)
	return fmt.Appendf(b, "X'%X'", s.Prev)
}

// follow puts the step behind another.
func (s *Step) follow(head chainHead) {
	s.ID, s.Prev = head.id+1, head.hash
	s.Hash = sha256.Sum256(s.text())
}

// chainHead is the newest step.
type chainHead struct {
	id   uint64
	hash [sha256.Size]byte
	rows int // steps in the table
}

func (h chainHead) String() string { return fmt.Sprintf("%d:%x", h.id, h.hash) }

// A stepKey is what steps are added up by.
type stepKey struct {
	kind, stream string
	shard        record.ShardID
	who          string
}

type stepSum struct{ steps, count, undelivered uint64 }

func (s Step) keyOf() stepKey {
	k := stepKey{s.Kind, s.Stream, s.Shard, ""}
	if s.Kind == StepRefused || s.Kind == StepShed {
		k.who = tidy(s.Who)
	}
	return k
}

// tidy makes text fit to be hashed: as SQLite keeps it.
func tidy(w string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(w, "\x00", ""), "\uFFFD")
}

// enter makes steps part of the ledger; they are written with the next flush.
func (s *stateDB) enter(steps ...Step) {
	if len(steps) == 0 {
		return
	}
	s.mu.Lock()
	for i := range steps {
		s.enterLocked(steps[i])
	}
	s.mu.Unlock()
	touch(s.kick)
}

// enterWithin enters steps in the transaction that is open, so that they are
// there when what they tell of is; entered is called when it has ended well.
// disk is held.
func (s *stateDB) enterWithin(ctx context.Context, steps []Step) (entered func(), err error) {
	s.mu.Lock()
	for i := range steps {
		s.stampLocked(&steps[i])
	}
	s.mu.Unlock()
	head := s.head
	if len(steps) > 0 {
		head, err = s.writeSteps(ctx, steps)
	}
	return func() {
		s.head = head
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, st := range steps {
			s.sumLocked(st)
		}
		s.told = head
	}, err
}

// enterLocked is enter with mu held; the caller sees to the flush.
func (s *stateDB) enterLocked(st Step) {
	s.announceLocked(&st)
	s.sumLocked(st)
}

// announceLocked lets the next flush write a step. It counts in the sums only
// after sumLocked.
func (s *stateDB) announceLocked(st *Step) {
	s.stampLocked(st)
	s.steps = append(s.steps, *st)
}

func (s *stateDB) stampLocked(st *Step) {
	st.Who, st.Reason = tidy(st.Who), tidy(st.Reason[:min(len(st.Reason), maxReason)])
	if st.Stream == "" && st.Shard != 0 {
		st.Stream = s.names[st.Shard]
	}
	st.At, st.Clock = s.now().UTC(), s.clock.now()
}

func (s *stateDB) sumLocked(st Step) {
	k := st.keyOf()
	sum := s.sums[k]
	s.sums[k] = stepSum{sum.steps + 1, sum.count + st.Count, sum.undelivered + st.Undelivered}
}

// owe gathers what becomes a step later, because it comes in many small parts:
// refused and shed records. mu is held.
func (s *stateDB) owe(st Step) {
	k := st.keyOf()
	o := s.owed[k]
	if o == nil {
		o = &owedStep{Step: st}
		s.owed[k] = o
		return
	}
	o.Count += st.Count
	o.Past = max(o.Past, st.Past)
}

// An owedStep waits to be entered, since a number of passes of the keeper.
type owedStep struct {
	Step
	passes int
}

// owedPasses is for how many passes small parts are gathered into one step.
const owedPasses = 10

// enterOwed enters what was gathered for long enough; all of it where the
// spool closes.
func (s *stateDB) enterOwed(all bool) {
	s.mu.Lock()
	entered := false
	waits := len(s.steps) >= maxSteps/4 // nothing can be written: gather on rather than fill the memory
	for k, o := range s.owed {
		if o.passes++; all || (o.passes >= owedPasses && !waits) {
			s.enterLocked(o.Step)
			delete(s.owed, k)
			entered = true
		}
	}
	s.mu.Unlock()
	if entered {
		touch(s.kick)
	}
}

// removedLocked is how many sequence numbers of a shard the ledger says are
// gone; mu is held.
func (s *stateDB) removedLocked(stream string, shard record.ShardID) uint64 {
	var n uint64
	for _, kind := range removals {
		n += s.sums[stepKey{kind: kind, stream: stream, shard: shard}].count
	}
	return n - s.sums[stepKey{kind: StepKept, stream: stream, shard: shard}].count
}

// writeSteps writes steps in the transaction that is open; disk is held.
func (s *stateDB) writeSteps(ctx context.Context, steps []Step) (chainHead, error) {
	head := s.head
	for i := range steps {
		if err := s.insertStep(ctx, &head, steps[i]); err != nil {
			return head, err
		}
	}
	if head.rows > maxSteps {
		if err := s.fold(ctx, &head); err != nil {
			return head, fmt.Errorf("fold the ledger: %w", err)
		}
	}
	return head, s.setMeta(ctx, "ledger_head", head.String())
}

func (s *stateDB) insertStep(ctx context.Context, head *chainHead, st Step) error {
	st.follow(*head)
	err := s.exec(ctx, "INSERT INTO ledger("+stepColumns+", hash) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)", int64(st.ID), st.At.UnixNano(), st.Clock, st.Kind, st.Stream,
		st.Shard, int64(st.First), int64(st.Past), int64(st.Count), int64(st.Undelivered), st.Who, st.Reason, st.Prev[:], st.Hash[:])
	head.id, head.hash, head.rows = st.ID, st.Hash, head.rows+1
	return err
}

// fold adds the oldest steps up in ledger_sums and enters that as a step of its
// own, which carries the hash of the last one folded and that of the sums: so
// the chain still verifies from its first step on.
func (s *stateDB) fold(ctx context.Context, head *chainHead) error {
	old, err := readSteps(ctx, s.db, "ORDER BY id LIMIT ?", head.rows-keepSteps)
	if err != nil {
		return err
	}
	last := old[len(old)-1]
	for _, st := range old {
		k := st.keyOf()
		err := s.exec(ctx, `INSERT INTO ledger_sums VALUES(?,?,?,?,1,?,?)
			ON CONFLICT DO UPDATE SET steps = steps + 1, count = count + excluded.count, undelivered = undelivered + excluded.undelivered`,
			k.kind, k.stream, k.shard, k.who, int64(st.Count), int64(st.Undelivered))
		if err != nil {
			return err
		}
	}
	if err := s.exec(ctx, "DELETE FROM ledger WHERE id <= ?", int64(last.ID)); err != nil {
		return err
	}
	_, sum, err := readSums(ctx, s.db)
	if err != nil {
		return err
	}
	head.rows -= len(old)
	return s.insertStep(ctx, head, Step{
		At: s.now().UTC(), Clock: s.clock.now(), Kind: StepFolded, First: old[0].ID, Past: last.ID + 1, Count: uint64(len(old)),
		Who: hex.EncodeToString(last.Hash[:]), Reason: "sums " + hex.EncodeToString(sum[:]),
	})
}

// readSteps reads steps; tail is what follows FROM ledger.
func readSteps(ctx context.Context, db *database, tail string, args ...any) ([]Step, error) {
	var out []Step
	err := each(ctx, db, "SELECT "+stepColumns+", hash FROM ledger "+tail, func(scan func(...any) error) error {
		var st Step
		var id, at, first, past, count, undelivered int64
		var prev, sum []byte
		err := scan(&id, &at, &st.Clock, &st.Kind, &st.Stream, &st.Shard, &first, &past, &count, &undelivered, &st.Who, &st.Reason, &prev, &sum)
		st.ID, st.At, st.First, st.Past = uint64(id), time.Unix(0, at).UTC(), uint64(first), uint64(past)
		st.Count, st.Undelivered = uint64(count), uint64(undelivered)
		copy(st.Prev[:], prev)
		copy(st.Hash[:], sum)
		out = append(out, st)
		return err
	}, args...)
	return out, err
}

// readSums reads what folded steps add up to, and the hash over it: each row's
// columns as SQLite's quote() writes them, with commas between and a newline
// behind, rows by rising key.
func readSums(ctx context.Context, db *database) (map[stepKey]stepSum, [sha256.Size]byte, error) {
	sums := map[stepKey]stepSum{}
	h := sha256.New()
	err := each(ctx, db, "SELECT kind, stream, shard, who, steps, count, undelivered FROM ledger_sums ORDER BY kind, stream, shard, who", func(scan func(...any) error) error {
		var k stepKey
		var steps, count, undelivered int64
		if err := scan(&k.kind, &k.stream, &k.shard, &k.who, &steps, &count, &undelivered); err != nil {
			return err
		}
		sums[k] = stepSum{uint64(steps), uint64(count), uint64(undelivered)}
		sumRow(h, k, steps, count, undelivered)
		return nil
	})
	return sums, [sha256.Size]byte(h.Sum(nil)), err
}

func sumRow(h hash.Hash, k stepKey, steps, count, undelivered int64) {
	q := func(w string) string { return "'" + strings.ReplaceAll(w, "'", "''") + "'" }
	fmt.Fprintf(h, "%s,%s,%d,%s,%d,%d,%d\n", q(k.kind), q(k.stream), k.shard, q(k.who), steps, count, undelivered)
}

// A chain is a ledger's steps as they were read and verified.
type chain struct {
	head   chainHead
	steps  []Step // not folded, oldest first
	sums   map[stepKey]stepSum
	broken error // where the chain does not hold
}

// readChain reads and verifies the whole ledger.
func readChain(ctx context.Context, db *database) (*chain, error) {
	c := &chain{}
	var err error
	if c.steps, err = readSteps(ctx, db, "ORDER BY id"); err != nil {
		return nil, err
	}
	var folded [sha256.Size]byte
	if c.sums, folded, err = readSums(ctx, db); err != nil {
		return nil, err
	}
	var stated string
	err = each(ctx, db, "SELECT value FROM meta WHERE key='ledger_head'", func(scan func(...any) error) error { return scan(&stated) })
	if err != nil {
		return nil, err
	}
	c.broken = c.verify(folded, stated)
	for i := range c.steps {
		k := c.steps[i].keyOf()
		sum := c.sums[k]
		c.sums[k] = stepSum{sum.steps + 1, sum.count + c.steps[i].Count, sum.undelivered + c.steps[i].Undelivered}
	}
	if n := len(c.steps); n > 0 {
		c.head = chainHead{c.steps[n-1].ID, c.steps[n-1].Hash, n}
	}
	return c, nil
}

// verify finds the first place where the chain does not hold.
func (c *chain) verify(sums [sha256.Size]byte, stated string) error {
	if len(c.steps) == 0 {
		if stated != "" || len(c.sums) > 0 {
			return errors.New("all steps are missing")
		}
		return nil
	}
	var fold *Step
	for i := range c.steps {
		st := &c.steps[i]
		if sha256.Sum256(st.text()) != st.Hash {
			return fmt.Errorf("step %d was changed", st.ID)
		}
		if i > 0 && (st.ID != c.steps[i-1].ID+1 || st.Prev != c.steps[i-1].Hash) {
			return fmt.Errorf("step %d does not follow step %d", st.ID, c.steps[i-1].ID)
		}
		if st.Kind == StepFolded {
			fold = st
		}
	}
	first, last := c.steps[0], c.steps[len(c.steps)-1]
	switch {
	case fold == nil && (first.ID != 1 || first.Prev != [sha256.Size]byte{} || len(c.sums) > 0):
		return fmt.Errorf("the steps before step %d are missing", first.ID)
	case fold != nil && (first.ID != fold.Past || hex.EncodeToString(first.Prev[:]) != fold.Who):
		return fmt.Errorf("step %d does not follow what step %d folded", first.ID, fold.ID)
	case fold != nil && fold.Reason != "sums "+hex.EncodeToString(sums[:]):
		return fmt.Errorf("the sums of the steps that step %d folded were changed", fold.ID)
	}
	if head := (chainHead{id: last.ID, hash: last.Hash}).String(); stated != head {
		return fmt.Errorf("steps behind step %d are missing", last.ID)
	}
	return nil
}
