package shape_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/shape"
)

// era is how many records of a shard a lane's memory lasts for.
const era = 1 << 18

// A shard is records whose numbers begin anywhere, with a durable place.
type shard struct {
	t     *testing.T
	recs  []record.Record
	base  uint64 // of recs[0]
	next  uint64 // to be read
	place uint64 // committed
	tally record.Tally
}

func (s *shard) Poll(_ context.Context, limit int) (record.Batch, error) {
	from := s.next - s.base
	to := min(from+uint64(limit), uint64(len(s.recs)))
	b := record.Batch{Recs: slices.Clone(s.recs[from:to]), Next: s.base + to}
	for i := range b.Recs {
		b.Recs[i].Data = bytes.Clone(b.Recs[i].Data)
	}
	s.next = b.Next
	return b, nil
}

func (s *shard) Next(ctx context.Context, limit int) (record.Batch, error) { return s.Poll(ctx, limit) }

func (s *shard) Backlog() record.Backlog { return record.Backlog{} }
func (s *shard) Close() error            { return nil }

func (s *shard) Commit(upTo uint64, t record.Tally) error {
	if upTo < s.place || upTo >= s.next || upTo+1-s.place != t.Sum() {
		s.t.Fatalf("Commit(%d, %+v) at %d, read up to %d", upTo, t, s.place, s.next)
	}
	s.place = upTo + 1
	s.tally.Delivered += t.Delivered
	s.tally.Filtered += t.Filtered
	return nil
}

func (s *shard) past(_ context.Context, after uint64) (shape.History, error) {
	if after+1 < s.base {
		return nil, errors.New("not kept")
	}
	return &shard{t: s.t, recs: s.recs, base: s.base, next: after + 1}, nil
}

// walk makes records of a few keys whose values wander; some clocks jump, some
// payloads have no value, or are not JSON.
func walk(g *rand.Rand, base uint64, n int) []record.Record {
	var out []record.Record
	at := time.Unix(1_800_000_000, 0)
	values := make([]float64, 1+g.IntN(12))
	for i := range n {
		at = at.Add(time.Duration(g.IntN(2000)) * time.Millisecond)
		k := g.IntN(len(values))
		values[k] += math.Round(g.NormFloat64()*10) / 10
		r := record.Record{Key: fmt.Sprint("p/", k), Arrived: at, Pos: record.Pos{Shard: 1, Seq: base + uint64(i)}}
		if k%3 == 0 {
			r.At = at.Add(-time.Duration(k) * 10 * time.Minute)
		}
		if g.IntN(100) == 0 {
			at = at.Add(time.Duration(g.IntN(8000)-4000) * time.Second)
		}
		quality := "good"
		if g.IntN(20) == 0 {
			quality = "bad"
		}
		switch g.IntN(30) {
		case 0:
			r.Data = []byte("no JSON")
		case 1:
			r.Data = []byte(`{"other":1}`)
		default:
			r.Data = fmt.Appendf(nil, `{"value":%v,"quality":%q,"n":%d}`, values[k], quality, i)
		}
		out = append(out, r)
	}
	return out
}

// anyShape makes entries.
func anyShape(g *rand.Rand) []shape.Config {
	one := func() (c shape.Config) {
		if g.IntN(2) == 0 {
			c.When = []string{`value > -1`, `quality == "good"`, `n < 2000 or value > 0`, `key != "p/1"`}[g.IntN(4)]
			if g.IntN(2) == 0 {
				c.Unsure = "send"
			}
		}
		if g.IntN(3) > 0 {
			c.Deadband = map[string]shape.Band{"value": {By: g.Float64() * 2}}
			if g.IntN(3) == 0 {
				c.Deadband["value"] = shape.Band{By: g.Float64() * 100, Percent: true}
			}
			if g.IntN(2) == 0 {
				c.MaxSilence = 60_000_000_000
			}
		}
		if g.IntN(3) == 0 {
			c.Every = 5_000_000_000
		}
		if g.IntN(2) == 0 {
			c.Fields, c.Set = []string{"value", "n"}, map[string]any{"site": "graz"}
		}
		return c
	}
	first := one()
	first.Keys = []string{"p/0", "p/3", "p/7"}
	return []shape.Config{first, one()}
}

// all is what is sent where nothing is ever interrupted: number to payload.
func all(t *testing.T, s *shape.Shape, log *shard) map[uint64]string {
	t.Helper()
	out := map[uint64]string{}
	src := &shard{t: t, recs: log.recs, base: log.base, next: log.base, place: log.base}
	cur := s.Cursor("mqtt", src, shape.Options{Next: log.base, Since: log.base})
	for src.next < src.base+uint64(len(src.recs)) {
		b, err := cur.Poll(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range b.Recs {
			out[r.Pos.Seq] = string(r.Data)
		}
	}
	return out
}

// A got is a record as the far side has it.
type got struct {
	seq  uint64
	data string
}

// disturbed hands a log on, with crashes at any moment: what was delivered last
// may not be committed, and what was left out neither.
func disturbed(t *testing.T, g *rand.Rand, s *shape.Shape, log *shard, past bool) (far []got) {
	t.Helper()
	end := log.base + uint64(len(log.recs))
	for log.place < end {
		log.next = log.place // a new process
		o := shape.Options{Next: log.place, Since: log.base}
		if past {
			o.Past = log.past
		}
		cur := s.Cursor("mqtt", log, o)
		var held []got
		for life := g.IntN(60); log.place < end && (life > 0 || g.IntN(4) > 0); life-- {
			if len(held) == 0 {
				b, err := cur.Poll(t.Context(), 1+g.IntN(100))
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range b.Recs {
					held = append(held, got{r.Pos.Seq, string(r.Data)})
				}
				if len(held) == 0 && log.next == end { // what is left is left out
					if err := cur.Commit(0, record.Tally{}); err != nil {
						t.Fatal(err)
					}
				}
				continue
			}
			n := 1 + g.IntN(len(held))
			far = append(far, held[:n]...)
			if g.IntN(3) == 0 {
				break // the crash comes before the commit
			}
			if err := cur.Commit(held[n-1].seq, record.Tally{Delivered: uint64(n)}); err != nil {
				t.Fatal(err)
			}
			held = held[n:]
		}
	}
	return far
}

// rounds are so many seeds, a fifth of them in the short form.
func rounds(n uint64) uint64 {
	if testing.Short() {
		return n / 5
	}
	return n
}

// TestCrashes: however often a gateway dies, the records that are sent are those
// of one that never did: each with the same payload, none missing, none beside
// them; and the counts add up.
func TestCrashes(t *testing.T) {
	for seed := range rounds(50) {
		g := rand.New(rand.NewPCG(seed, 5))
		base := []uint64{1, era - 700, 3*era + 12345}[g.IntN(3)]
		log := &shard{t: t, recs: walk(g, base, 2000), base: base, place: base}
		entries := anyShape(g)
		s := newShape(t, entries...)
		want := all(t, s, log)
		far := disturbed(t, g, s, log, true)
		seen, top := map[uint64]string{}, uint64(0)
		for _, r := range far {
			if have, again := seen[r.seq]; again && have != r.data {
				t.Fatalf("seed %d: record %d was sent as %s, then as %s", seed, r.seq, have, r.data)
			} else if !again && r.seq < top {
				t.Fatalf("seed %d: record %d comes first behind %d", seed, r.seq, top)
			}
			seen[r.seq], top = r.data, max(top, r.seq)
		}
		for seq, data := range want {
			if seen[seq] != data {
				t.Fatalf("seed %d, %+v: record %d is sent as %q, want %q", seed, entries, seq, seen[seq], data)
			}
		}
		if len(seen) != len(want) {
			t.Fatalf("seed %d: %d records are sent, want %d", seed, len(seen), len(want))
		}
		if log.tally != (record.Tally{Delivered: uint64(len(want)), Filtered: uint64(2000 - len(want))}) {
			t.Fatalf("seed %d: counted %+v of %d", seed, log.tally, len(want))
		}
	}
}

// TestCrashesWithoutPast: where nothing is known of what was sent, more may be
// sent, but the far side has, of every key and for every record that it did
// not get, one before it that is as good.
func TestCrashesWithoutPast(t *testing.T) {
	const by = 0.7
	for seed := range rounds(60) {
		g := rand.New(rand.NewPCG(seed, 6))
		log := &shard{t: t, recs: walk(g, era-900, 2000), base: era - 900, place: era - 900}
		s := newShape(t, shape.Config{When: `quality == "good"`, Deadband: map[string]shape.Band{"value": {By: by}}, MaxSilence: 60_000_000_000})
		far := disturbed(t, g, s, log, false)
		if log.tally.Sum() != 2000 {
			t.Fatalf("seed %d: counted %+v", seed, log.tally)
		}
		has := map[uint64]bool{}
		for _, r := range far {
			has[r.seq] = true
		}
		type sent struct {
			value   float64
			arrived time.Time
		}
		before := map[string][]sent{}
		for _, r := range log.recs {
			var v float64
			var n int
			if _, err := fmt.Sscanf(string(r.Data), `{"value":%g,"quality":"good","n":%d}`, &v, &n); err != nil {
				continue // the condition does not hold
			}
			ok := has[r.Pos.Seq]
			if ok {
				before[r.Key] = append(before[r.Key], sent{v, r.Arrived})
			}
			for _, b := range before[r.Key] {
				ok = ok || math.Abs(b.value-v) <= by && r.Arrived.Sub(b.arrived).Abs() < time.Minute
			}
			if !ok {
				t.Fatalf("seed %d: record %d (%s) is missing", seed, r.Pos.Seq, r.Data)
			}
		}
	}
}

// What cannot be read again is no reason to stop, nor to trust it.
func TestPastIsLost(t *testing.T) {
	recs := numbers(5, 5, 5, 5)
	s := newShape(t, shape.Config{Deadband: map[string]shape.Band{"value": {By: 1}}})
	for name, past := range map[string]func(context.Context, uint64) (shape.History, error){
		"gone": func(context.Context, uint64) (shape.History, error) { return nil, errors.New("not kept") },
		"trimmed": func(context.Context, uint64) (shape.History, error) {
			return &list{recs: recs, errs: map[int]error{1: &record.TrimmedError{}}}, nil
		},
		"short": func(context.Context, uint64) (shape.History, error) { return &list{recs: recs[:1]}, nil },
		"there": func(context.Context, uint64) (shape.History, error) { return &list{recs: recs}, nil },
	} {
		src := &list{recs: recs, read: 2, done: 2}
		b, err := s.Cursor("mqtt", src, shape.Options{Next: 3, Since: 1, Past: past, Logger: slog.New(slog.DiscardHandler)}).Poll(t.Context(), 10)
		want := 1
		if name == "there" {
			want = 0
		}
		if err != nil || len(b.Recs) != want {
			t.Errorf("%s: %v, %v", name, seqs(b), err)
		}
	}
}

// More keys than are remembered: more is sent, and memory stays bounded.
func TestManyKeys(t *testing.T) {
	src := &list{}
	const keys = 10_000 // more than 8192
	for i := range 3 * keys {
		src.recs = append(src.recs, record.Record{Key: fmt.Sprint("k", i%keys), Data: []byte("7"), Arrived: time.Unix(1_800_000_000, 0), Pos: record.Pos{Shard: 1, Seq: uint64(i + 1)}})
	}
	cur := newShape(t, shape.Config{Deadband: map[string]shape.Band{"value": {By: 1}}}).Cursor("mqtt", src, shape.Options{})
	sent := 0
	for src.read < len(src.recs) {
		b, err := cur.Poll(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		sent += len(b.Recs)
	}
	if sent != 3*keys {
		t.Errorf("%d of %d are sent", sent, 3*keys)
	}
}
