package spool_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/faultdisk"
	"forebay/spool/record"
)

// scratch is a directory for images: in memory where the system has such a
// place, since nothing in it needs a real disk.
func scratch(t *testing.T) string {
	t.Helper()
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		if dir, err := os.MkdirTemp("/dev/shm", "forebay-"); err == nil { //nolint:usetesting // not where TempDir is
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			return dir
		}
	}
	return t.TempDir()
}

// number is what the environment says, for the long form of a test.
func number(t *testing.T, name string, short int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return short
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q", name, s)
	}
	return n
}

func newFaultDisk(t *testing.T, record bool) *faultdisk.Disk {
	t.Helper()
	d, err := faultdisk.New(record)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

var ecma = crc64.MakeTable(crc64.ECMA)

// fingerprint is over everything of a record that its producer gave.
func fingerprint(r *record.Record, blob []byte) uint64 {
	h := crc64.New(ecma)
	fmt.Fprintf(h, "%s|%s|%d|%s|%v|", r.Key, r.Source, r.SourceSeq, r.Type, r.Attrs)
	_, _ = h.Write(r.Data)
	_, _ = h.Write([]byte("|"))
	_, _ = h.Write(blob)
	return h.Sum64()
}

// Notes of a workload between the events of its disk.
type (
	ackedNote map[record.ShardID]uint64 // the greatest number of each shard in a result
	firstNote map[record.ShardID]uint64 // where the shards begin
	movesNote placeNote                 // a cursor is about to be committed
	movedNote []placeNote               // all cursors are durable at least here
	shapeNote struct {                  // a stream has at least so many shards
		stream string
		shards int
	}
	deletedNote record.ShardID // the stream of that shard is deleted
	placeNote   struct {
		shard record.ShardID
		next  uint64
	}
)

// A truth is what a workload stored: what every record under a number must be.
type truth struct {
	mu   sync.Mutex
	recs map[record.Pos]uint64
	seq  map[string]uint64 // greatest acknowledged number of a source
}

func newTruth() *truth { return &truth{recs: map[record.Pos]uint64{}, seq: map[string]uint64{}} }

// took notes the results of an append; the error is that of a record which was
// not stored.
func (u *truth) took(recs []record.Record, prints []uint64, res []record.Result) (ackedNote, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	note := ackedNote{}
	var failed error
	for i, r := range res {
		if r.Err != nil {
			failed = r.Err
			continue
		}
		if _, twice := u.recs[r.Pos]; twice {
			return note, fmt.Errorf("number %v was given twice", r.Pos)
		}
		u.recs[r.Pos] = prints[i]
		note[r.Pos.Shard] = max(note[r.Pos.Shard], r.Pos.Seq)
		u.seq[recs[i].Source] = max(u.seq[recs[i].Source], recs[i].SourceSeq)
	}
	return note, failed
}

// smallSpool keeps images small and lets segments roll often.
func smallSpool() spool.Config {
	return spool.Config{Quota: 4 << 20, FreeFloor: 1 << 20, Gateway: "edge"}
}

var workloadStreams = []spool.StreamConfig{
	{Name: "mqtt", Shards: 4, MaxBytes: conf.Size(768 << 10)},
	{Name: "alarms", Class: record.ClassAlarm},
	{Name: "video", Class: record.ClassVideo, MaxBytes: conf.Size(512 << 10)},
}

// A workload drives a spool as a gateway does: producers of large and small
// batches, a cursor that follows, retention that removes, segments that roll.
type workload struct {
	*truth
	s       *spool.Spool
	mark    func(any)
	streams []*spool.Stream
	marking sync.Mutex
	onError func(error) // a record that was not stored; nil: it is an error of run
}

func startWorkload(ctx context.Context, s *spool.Spool, u *truth, mark func(any)) (*workload, error) {
	w := &workload{truth: u, s: s, mark: mark}
	for _, c := range workloadStreams {
		st, err := s.Ensure(ctx, c)
		if err != nil {
			return nil, err
		}
		w.streams = append(w.streams, st)
	}
	return w, nil
}

// run appends rounds batches to every stream, one after the other, and waits.
func (w *workload) run(ctx context.Context, rounds int, seed uint64) error {
	var parts sync.WaitGroup
	errs := make([]error, len(w.streams)+2)
	for i, st := range w.streams {
		parts.Go(func() { errs[i] = w.produce(ctx, st, rounds, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	parts.Go(func() { errs[len(w.streams)] = w.follow(ctx, w.streams[0], rounds) })
	parts.Go(func() {
		errs[len(w.streams)+1] = w.reshape(ctx, w.streams[0], rounds/12, rand.New(rand.NewPCG(seed, 99)))
	})
	parts.Wait()
	return errors.Join(errs...)
}

// reshape gives the first stream other shards now and then, and makes and
// deletes one.
func (w *workload) reshape(ctx context.Context, st *spool.Stream, rounds int, rng *rand.Rand) error {
	for range rounds {
		err := w.s.Rescale(ctx, st, 1+rng.IntN(6))
		if err == nil {
			w.mark(shapeNote{st.Name(), len(st.Shards())})
			err = w.makeAndDelete(ctx)
		}
		if err != nil && w.onError != nil {
			w.onError(err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (w *workload) makeAndDelete(ctx context.Context) error {
	if _, err := w.s.Stream(temporary); err == nil { // that could not be deleted
		return w.s.Delete(ctx, temporary, "test")
	}
	st, err := w.s.CreateStream(ctx, spool.StreamConfig{Name: temporary, MaxBytes: conf.Size(768 << 10)})
	if err != nil {
		return err
	}
	id := st.Shards()[0].ID
	if _, err := st.Put(ctx, []record.Record{{Key: "a", Data: []byte("a")}, {Key: "b", Data: []byte("b")}}); err != nil {
		return err
	}
	if err := w.s.Delete(ctx, temporary, "test"); err != nil {
		return err
	}
	w.mark(deletedNote(id))
	return nil
}

// temporary is a stream that is made and deleted, again and again.
const temporary = "temporary"

func (w *workload) produce(ctx context.Context, st *spool.Stream, rounds int, rng *rand.Rand) error {
	source := "to-" + st.Name()
	seq := w.s.SourceSeq(source)
	for range rounds {
		n := 1
		if rng.IntN(3) == 0 {
			n += rng.IntN(30)
		}
		recs, prints := make([]record.Record, n), make([]uint64, n)
		for i := range recs {
			seq++
			r := record.Record{Key: fmt.Sprint(source, rng.IntN(9)), Source: source, SourceSeq: seq, Data: noise(rng, rng.IntN(200))}
			if rng.IntN(40) == 0 && st.Name() == "mqtt" {
				r.Data = noise(rng, 2000+rng.IntN(6000))
			}
			if st.Name() == "video" {
				r.Blob, r.Type = noise(rng, 1+rng.IntN(3000)), "video/mp4"
			}
			recs[i], prints[i] = r, fingerprint(&r, r.Blob)
		}
		done := make(chan error, 1)
		err := st.Append(ctx, recs, func(res []record.Result) {
			note, err := w.took(recs, prints, res)
			w.mark(note)
			done <- err
		})
		if err == nil {
			err = <-done
		}
		if err != nil && w.onError != nil {
			w.onError(err)
			seq = w.s.SourceSeq(source)
		} else if err != nil {
			return err
		}
		w.markFirst()
	}
	return nil
}

// markFirst notes where the shards begin. What a note says was so before it
// came into the record, and after the note before it did.
func (w *workload) markFirst() {
	w.marking.Lock()
	defer w.marking.Unlock()
	first := firstNote{}
	for _, st := range w.streams {
		for _, sh := range st.Shards() {
			first[sh.ID] = sh.First
		}
	}
	w.mark(first)
}

// follow moves a cursor along, as an uplink does, and makes it durable now and
// then.
func (w *workload) follow(ctx context.Context, st *spool.Stream, rounds int) error {
	var cursors []*spool.Cursor
	for _, sh := range st.Shards()[:2] {
		c, err := st.Cursor(ctx, "uplink", sh.ID, spool.Oldest())
		if err != nil {
			return err
		}
		defer c.Close()
		cursors = append(cursors, c)
	}
	for i := range rounds {
		for k, c := range cursors {
			b, err := c.Poll(ctx, 20)
			if _, end := errors.AsType[*record.ShardEndError](err); end || isTrimmed(err) || err == nil && len(b.Recs) == 0 {
				continue
			}
			if err == nil {
				w.mark(movesNote{st.Shards()[k].ID, b.Next})
				err = c.Commit(b.Next-1, record.Tally{Delivered: uint64(len(b.Recs))})
			}
			if err != nil {
				return err
			}
		}
		if i%8 != 7 {
			continue
		}
		var durable movedNote
		for k, c := range cursors {
			durable = append(durable, placeNote{st.Shards()[k].ID, c.Committed()})
		}
		if err := spool.FlushState(w.s); err == nil {
			w.mark(durable)
		} else if w.onError == nil {
			return err
		}
	}
	return nil
}

func isTrimmed(err error) bool {
	_, ok := errors.AsType[*record.TrimmedError](err)
	return ok
}

func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// A history is what must hold after each event of a record.
type history struct {
	*truth
	acked, first, moves, moved map[record.ShardID][]step
	shapes                     map[string][]step
	deleted                    map[record.ShardID]int // the event
}

type step struct {
	at int
	n  uint64
}

func newHistory(u *truth, events []faultdisk.Event) *history {
	h := &history{truth: u, acked: map[record.ShardID][]step{}, first: map[record.ShardID][]step{}, moves: map[record.ShardID][]step{}, moved: map[record.ShardID][]step{}, shapes: map[string][]step{}, deleted: map[record.ShardID]int{}}
	for at, e := range events {
		switch note := e.Note.(type) {
		case ackedNote:
			for id, n := range note {
				rise(h.acked, id, at, n)
			}
		case firstNote:
			for id, n := range note {
				rise(h.first, id, at, n)
			}
		case shapeNote:
			rise(h.shapes, note.stream, at, uint64(note.shards))
		case deletedNote:
			h.deleted[record.ShardID(note)] = at
		case movesNote:
			rise(h.moves, note.shard, at, note.next)
		case movedNote:
			for _, p := range note {
				rise(h.moved, p.shard, at, p.next)
			}
		}
	}
	return h
}

func rise[K comparable](m map[K][]step, id K, at int, n uint64) {
	if s := m[id]; len(s) > 0 {
		n = max(n, s[len(s)-1].n)
	}
	m[id] = append(m[id], step{at, n})
}

// before is the figure of the last step before an event, 0 if none; after one
// that was taken later than it, the last there is if none.
func before(s []step, at int) uint64 {
	if i := sort.Search(len(s), func(i int) bool { return s[i].at >= at }); i > 0 {
		return s[i-1].n
	}
	return 0
}

func after(s []step, at int) uint64 {
	if len(s) == 0 {
		return 0
	}
	i := sort.Search(len(s), func(i int) bool { return s[i].at >= at }) // may have been taken before
	return s[min(i+1, len(s)-1)].n
}

// verify opens what a crash after the first at events left in dir and says what
// is wrong with it; nothing may be.
func (h *history) verify(ctx context.Context, dir string, cfg spool.Config, at int) error {
	if _, err := os.Stat(filepath.Join(dir, "state.db")); err == nil {
		if err := checkClean(ctx, dir); err != nil {
			return fmt.Errorf("check before opening: %w", err)
		}
	}
	kept, err := oldest(dir)
	if err != nil {
		return err
	}
	s, err := spool.Open(ctx, dir, cfg, nil)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	err = h.verifyOpen(ctx, s, at)
	closed := s.Close()
	now, listed := oldest(dir)
	if e, ok := errors.AsType[*trimmedTooFar](err); ok && now[e.log] != kept[e.log] {
		err = nil // retention has been at work since it was opened
	}
	if err = errors.Join(err, closed, listed); err != nil {
		return err
	}
	if err := checkClean(ctx, dir); err != nil {
		return fmt.Errorf("check after closing: %w", err)
	}
	return nil
}

// A trimmedTooFar is a shard that begins later than retention had come.
type trimmedTooFar struct {
	log          string
	first, limit uint64
}

func (e *trimmedTooFar) Error() string {
	return fmt.Sprintf("begins at %d, but retention had removed up to %d only", e.first, e.limit)
}

// oldest is the oldest segment of each log.
func oldest(dir string) (map[string]string, error) {
	logs, err := filepath.Glob(filepath.Join(dir, "log-*"))
	out := map[string]string{}
	for _, l := range logs {
		segs, e := spool.SegmentFiles(l)
		if err = errors.Join(err, e); len(segs) > 0 {
			out[l] = segs[0]
		}
	}
	return out, err
}

func checkClean(ctx context.Context, dir string) error {
	r, err := spool.Check(ctx, dir)
	if err == nil && len(r.Problems) > 0 {
		err = errors.New(strings.Join(r.Problems, "\n"))
	}
	return err
}

func (h *history) verifyOpen(ctx context.Context, s *spool.Spool, at int) error {
	if err := s.Ledger().Balanced(); err != nil {
		return err
	}
	next := map[record.ShardID]uint64{}
	for _, st := range s.Streams() {
		if n := before(h.shapes[st.Name()], at); uint64(len(st.Shards())) < n {
			return fmt.Errorf("stream %s has %d shards, and had %d", st.Name(), len(st.Shards()), n)
		}
		for _, sh := range st.Shards() {
			if when, deleted := h.deleted[sh.ID]; deleted && when < at {
				return fmt.Errorf("stream %s with shard %d is back", st.Name(), sh.ID)
			}
			next[sh.ID] = sh.Next
			if st.Name() == temporary {
				continue
			}
			if err := h.verifyShard(ctx, st, sh, at); err != nil {
				return fmt.Errorf("stream %s, shard %d: %w", st.Name(), sh.ID, err)
			}
		}
	}
	for id, steps := range h.acked {
		if n := before(steps, at); n > 0 && next[id] <= n {
			return fmt.Errorf("shard %d ends at %d, but %d was acknowledged", id, next[id], n)
		}
	}
	for _, c := range s.Stats().Conditions {
		if c.Kind == "corrupt" {
			return fmt.Errorf("condition %s: %s", c.Kind, c.Text)
		}
	}
	for _, st := range s.Streams() { // it goes on where it was
		res, err := st.Put(ctx, []record.Record{{Key: "on", Data: []byte("on")}})
		if err != nil {
			return err
		}
		if r := res[0]; r.Err != nil || r.Pos.Seq != next[r.Pos.Shard] {
			return fmt.Errorf("stream %s goes on with %+v; the next number was %d", st.Name(), r, next[r.Pos.Shard])
		}
	}
	return s.Ledger().Balanced()
}

func (h *history) verifyShard(ctx context.Context, st *spool.Stream, sh spool.Shard, at int) error {
	if limit := max(after(h.first[sh.ID], at), 1); sh.First > limit {
		return &trimmedTooFar{spool.LogDir(st), sh.First, limit}
	}
	want := sh.First
	for b, err := range st.Scan(ctx, sh.ID, spool.Oldest()) {
		if e, ok := errors.AsType[*record.TrimmedError](err); ok {
			return &trimmedTooFar{spool.LogDir(st), e.To, want}
		}
		if err != nil {
			return fmt.Errorf("read at %d: %w", want, err)
		}
		for i := range b.Recs {
			r := &b.Recs[i]
			if r.Pos.Seq != want {
				return fmt.Errorf("record %d where %d should be", r.Pos.Seq, want)
			}
			want++
			if err := h.verifyRecord(st, r, want <= before(h.acked[sh.ID], at)+1); err != nil {
				return fmt.Errorf("record %d: %w", r.Pos.Seq, err)
			}
		}
	}
	if want != sh.Next {
		return fmt.Errorf("ends at %d, but was said to end at %d", want, sh.Next)
	}
	if lines := h.moves[sh.ID]; len(lines) > 0 {
		return h.verifyCursor(ctx, st, sh, at)
	}
	return nil
}

// verifyRecord reads all of a record. One that was not acknowledged yet may be
// what was refused later, when its sync failed; its number then went to another.
func (h *history) verifyRecord(st *spool.Stream, r *record.Record, acked bool) error {
	var blob []byte
	if !r.Chunk.IsZero() {
		c, err := st.OpenChunk(r.Chunk)
		if err != nil {
			return err
		}
		blob, err = io.ReadAll(c)
		if err = errors.Join(err, c.Close()); err != nil {
			return err
		}
	}
	h.mu.Lock()
	print, known := h.recs[r.Pos]
	h.mu.Unlock()
	if acked && known && print != fingerprint(r, blob) {
		return errors.New("it is not the record that was stored under this number")
	}
	return nil
}

func (h *history) verifyCursor(ctx context.Context, st *spool.Stream, sh spool.Shard, at int) error {
	c, err := st.Cursor(ctx, "uplink", sh.ID, spool.Oldest())
	if err != nil {
		return err
	}
	defer c.Close()
	got, low, high := c.Committed(), before(h.moved[sh.ID], at), before(h.moves[sh.ID], at)
	if got < low || got > max(high, sh.First, 1) {
		return fmt.Errorf("the cursor stands at %d; durable was %d, passed %d", got, low, high)
	}
	return nil
}
