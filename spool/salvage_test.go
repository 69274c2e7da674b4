package spool_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// lostStates are the ways in which a state.db can be lost.
func lostStates() map[string]func(t *testing.T, path string) {
	return map[string]func(t *testing.T, path string){
		"missing": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"empty": func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
		"no header": func(t *testing.T, path string) { patch(t, path, 0, 'x') },
		"cut off": func(t *testing.T, path string) {
			if err := os.Truncate(path, 5000); err != nil {
				t.Fatal(err)
			}
		},
		"schema": func(t *testing.T, path string) { patch(t, path, 100, 0xff) },
	}
}

func TestALostStateIsMadeAgain(t *testing.T) {
	for name, lose := range lostStates() {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, spool.Config{Gateway: "edge"})
			configs := []spool.StreamConfig{{Name: "mqtt", Shards: 4}, {Name: "serial"}, {Name: "alarms", Class: record.ClassAlarm}}
			want := map[string]string{}
			for _, c := range configs {
				st := b.stream(c)
				for i := range 20 {
					for _, sh := range st.Shards() {
						res := put(t, st, record.Record{Key: "k", HashKey: &sh.From, Source: "src", SourceSeq: uint64(i + 1), Data: fmt.Append(nil, c.Name, i)})
						want[fmt.Sprint(res[0].Pos)] = fmt.Sprint(c.Name, i)
					}
					if i == 10 && c.Name == "alarms" {
						if err := spool.Roll(st); err != nil {
							t.Fatal(err)
						}
					}
				}
				cur := cursor(t, st, "up", spool.Oldest())
				if _, err := cur.Next(t.Context(), 5); err != nil {
					t.Fatal(err)
				}
				if err := cur.Commit(5, record.Tally{Delivered: 5}); err != nil {
					t.Fatal(err)
				}
			}
			old := map[string][]spool.Shard{}
			for _, st := range b.Streams() {
				old[st.Name()] = st.Shards()
			}
			epoch := b.Identity().Epoch
			b.close()
			lose(t, filepath.Join(b.dir, "state.db"))
			before := tree(t, b.dir)
			report, err := spool.Check(t.Context(), b.dir)
			if err != nil || !slices.ContainsFunc(report.Problems, func(p string) bool {
				return strings.Contains(p, "made again") && strings.Contains(p, "serial") && strings.Contains(p, "oldest")
			}) {
				t.Errorf("check: %v, %v", report.Problems, err)
			}
			for path, sum := range tree(t, b.dir) {
				if before[path] != sum {
					t.Errorf("check changed %s", path)
				}
			}
			b.open()
			if !has(b.Spool, "salvaged") || b.Identity().Epoch == epoch || b.Identity().Gateway != "edge" {
				t.Errorf("conditions %v, identity %+v", b.Stats().Conditions, b.Identity())
			}
			if _, err := os.Stat(filepath.Join(b.dir, "state.db.damaged-1")); (err == nil) != (name != "missing") {
				t.Errorf("the damaged file: %v", err)
			}
			spool.Keep(b.Spool)
			for _, c := range configs {
				st := b.stream(c)
				if st.Config().Class != c.WithDefaults().Class {
					t.Errorf("stream %s is of class %v", c.Name, st.Config().Class)
				}
				for i, sh := range st.Shards() {
					o := old[st.Name()][i]
					if sh.ID != o.ID || sh.From != o.From || sh.To != o.To || sh.Next != o.Next || sh.First != o.First {
						t.Errorf("shard %+v, was %+v", sh, o)
					}
					recs, losses := scan(t, st, sh.ID, spool.After(0))
					if len(recs) != 20 || len(losses) > 0 {
						t.Errorf("%d records, losses %v", len(recs), losses)
					}
					for _, r := range recs {
						if want[fmt.Sprint(r.Pos)] != string(r.Data) {
							t.Fatalf("record %v is %q", r.Pos, r.Data)
						}
					}
				}
				cur := cursor(t, st, "up", spool.Newest())
				if cur.Committed() != 1 || !cur.Again() {
					t.Errorf("the cursor begins at %d, again %t", cur.Committed(), cur.Again())
				}
				if res := put(t, st, record.Record{Key: "k", HashKey: &st.Shards()[0].From, Source: "src", Data: []byte("later")}); res[0].Pos.Seq != 21 {
					t.Errorf("the next number is %d", res[0].Pos.Seq)
				}
			}
			steps, err := b.Steps(t.Context(), 0)
			if err != nil || len(steps) == 0 || steps[0].Kind != spool.StepEpoch || !strings.Contains(steps[0].Reason, "made again") {
				t.Errorf("the ledger begins with %+v, %v", steps, err)
			}
			b.reopen()
			if b.Identity().Epoch == epoch {
				t.Error("the old epoch is back")
			}
			if cur := cursor(t, b.stream(configs[0]), "up", spool.Newest()); !cur.Again() {
				t.Error("after a restart the cursor does not say that it began again")
			}
			if err := b.DropCursor(t.Context(), "up"); !errors.Is(err, record.ErrInUse) {
				t.Errorf("drop a cursor in use: %v", err)
			}
			b.reopen()
			if err := b.DropCursor(t.Context(), "up"); err != nil {
				t.Fatal(err)
			}
			if n := spool.Again(b.Spool); n != 0 {
				t.Errorf("state.db keeps %d notes of cursors that are dropped", n)
			}
		})
	}
}

// Until a config has named a stream again, nothing of it is removed.
func TestAStreamMadeAgainKeepsAllUntilItIsNamed(t *testing.T) {
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	fill(t, st, 300, 1000)
	if err := spool.Roll(st); err != nil {
		t.Fatal(err)
	}
	fill(t, st, 2000, 1000)
	b.close()
	if err := os.Remove(filepath.Join(b.dir, "state.db")); err != nil {
		t.Fatal(err)
	}
	b.open()
	spool.Keep(b.Spool)
	// Nor before uplinks had time to come back.
	st = b.stream(spool.StreamConfig{Name: "mqtt", MaxBytes: 512 << 10})
	spool.Keep(b.Spool)
	if sh := st.Shards()[0]; sh.First != 1 || sh.Next != 2301 {
		t.Errorf("%+v", sh)
	}
}

func TestWhatCannotBeMadeAgainIsRefused(t *testing.T) {
	t.Run("encrypted", func(t *testing.T) {
		b := newBox(t, spool.Config{KeyFile: keyFile(t, 1)})
		st := b.stream(spool.StreamConfig{Name: "video", Encrypt: true})
		put(t, st, record.Record{Key: "k", Data: []byte("x")})
		b.close()
		state := filepath.Join(b.dir, "state.db")
		content, err := os.ReadFile(state)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(state); err != nil {
			t.Fatal(err)
		}
		var wrong *record.FormatError
		if _, err := spool.Open(t.Context(), b.dir, b.cfg, nil); !errors.As(err, &wrong) || !strings.Contains(wrong.Reason, "encrypted") || wrong.Hint == "" {
			t.Errorf("open answers %v", err)
		}
		if err := os.WriteFile(state, content, 0o600); err != nil { // so that it closes in order
			t.Fatal(err)
		}
	})
	t.Run("another program's", func(t *testing.T) {
		src, _ := writeSample(t)
		patch(t, filepath.Join(src, "state.db"), 68, 1)
		var wrong *record.FormatError
		if _, err := spool.Open(t.Context(), src, spool.Config{}, nil); !errors.As(err, &wrong) {
			t.Errorf("open answers %v", err)
		}
	})
	t.Run("a newer format", func(t *testing.T) {
		src, _ := writeSample(t)
		if err := os.Remove(filepath.Join(src, "state.db")); err != nil {
			t.Fatal(err)
		}
		patch(t, filepath.Join(src, "log-00001", "0000000003.seg"), 63, 99)
		var wrong *record.FormatError
		if _, err := spool.Open(t.Context(), src, spool.Config{}, nil); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "99") {
			t.Errorf("open answers %v", err)
		}
	})
}
