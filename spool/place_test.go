package spool_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// ids is the id of every record that is kept.
func ids(t *testing.T, s *spool.Spool) map[string]record.Pos {
	t.Helper()
	out := map[string]record.Pos{}
	for _, st := range s.Streams() {
		for _, sh := range st.Shards() {
			recs, _ := scan(t, st, sh.ID, spool.Oldest())
			for i := range recs {
				out[s.Identity().Of(&recs[i])] = recs[i].Pos
			}
		}
		for _, span := range []spool.Span{{}, {HeadsOnly: true}} { // a scanner names them alike
			sc, err := st.Scanner(span)
			if err != nil {
				t.Fatal(err)
			}
			for p, err := sc.Next(t.Context()); !errors.Is(err, io.EOF); p, err = sc.Next(t.Context()) {
				if _, lost := errors.AsType[*record.CorruptError](err); err != nil && !lost {
					t.Fatal(err)
				}
				for seq := p.First; seq < p.Next; seq++ {
					id := record.Identity{Gateway: p.Origin.Gateway, Epoch: p.Origin.Epoch}.ID(record.Pos{Shard: p.Shard, Seq: seq})
					if out[id] != (record.Pos{Shard: p.Shard, Seq: seq}) {
						t.Fatalf("%+v: a scanner calls a record %s", span, id)
					}
				}
			}
		}
	}
	return out
}

func openAt(t *testing.T, dir string, cfg spool.Config) (*spool.Spool, *spool.Stream) {
	t.Helper()
	s, err := spool.Open(t.Context(), dir, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	st, err := s.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt", Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	return s, st
}

// A copy goes on with the same numbers as what it was copied from; the ids
// must differ all the same, and those of what both hold must not.
func TestACopyHasANewEpochForNewRecordsOnly(t *testing.T) {
	first := filepath.Join(t.TempDir(), "spool")
	s, st := openAt(t, first, spool.Config{Gateway: "edge"})
	fill(t, st, 250, 30)
	epoch := s.Identity().Epoch
	closed := func(s *spool.Spool) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	closed(s)
	s, st = openAt(t, first, spool.Config{Gateway: "edge"})
	if s.Identity().Epoch != epoch {
		t.Fatalf("opened again at its place the epoch is %s, was %s", s.Identity().Epoch, epoch)
	}
	fill(t, st, 50, 30)
	common := ids(t, s)
	if len(common) != 300 {
		t.Fatalf("%d ids", len(common))
	}
	closed(s)

	for name, make := range map[string]func(t *testing.T, dir string) spool.Config{
		"copied": func(t *testing.T, dir string) spool.Config {
			if err := os.CopyFS(dir, os.DirFS(first)); err != nil {
				t.Fatal(err)
			}
			return spool.Config{Gateway: "edge"}
		},
		"moved": func(t *testing.T, dir string) spool.Config {
			between := filepath.Join(t.TempDir(), "between")
			if err := os.CopyFS(between, os.DirFS(first)); err != nil {
				t.Fatal(err)
			}
			s, _ := openAt(t, between, spool.Config{})
			closed(s)
			if err := os.Rename(between, dir); err != nil {
				t.Fatal(err)
			}
			return spool.Config{}
		},
		"another machine": func(t *testing.T, dir string) spool.Config {
			if err := os.CopyFS(dir, os.DirFS(first)); err != nil {
				t.Fatal(err)
			}
			s, _ := openAt(t, dir, spool.Config{})
			closed(s)
			edit(t, filepath.Join(dir, "state.db"), "UPDATE meta SET value='elsewhere' WHERE key='machine'")
			return spool.Config{}
		},
		"put back in its place": func(t *testing.T, dir string) spool.Config {
			if err := os.CopyFS(dir, os.DirFS(first)); err != nil {
				t.Fatal(err)
			}
			s, _ := openAt(t, dir, spool.Config{})
			closed(s)
			kept := copyTree(t, dir)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir, os.DirFS(kept)); err != nil {
				t.Fatal(err)
			}
			return spool.Config{}
		},
		"renamed gateway": func(t *testing.T, dir string) spool.Config {
			if err := os.CopyFS(dir, os.DirFS(first)); err != nil {
				t.Fatal(err)
			}
			return spool.Config{Gateway: "edge-2"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "copy")
			cfg := make(t, dir)
			s, st := openAt(t, dir, cfg)
			if s.Identity().Epoch == epoch {
				t.Error("the copy has the epoch of the original")
			}
			fill(t, st, 60, 30)
			for range 2 { // in memory, and from the disk
				now := ids(t, s)
				if len(now) != 360 {
					t.Fatalf("%d ids", len(now))
				}
				fresh := 0
				for id := range now {
					if _, ok := common[id]; ok {
						continue
					}
					fresh++
					if !strings.HasPrefix(id, s.Identity().Gateway+"/"+s.Identity().Epoch.String()+"/") {
						t.Fatalf("a new record has the id %s", id)
					}
				}
				if fresh != 60 {
					t.Fatalf("%d ids are new, want 60", fresh)
				}
				spool.DropCache(st)
			}
			closed(s)
			if r, err := spool.Check(t.Context(), dir); err != nil || len(r.Problems) > 0 {
				t.Errorf("check: %v, %v", r.Problems, err)
			}
		})
	}
}
