package spool_test

import (
	"errors"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// What nobody has delivered does not go by age because it lies in a shard that
// its uplink has not come to yet: the children of a shard with a cursor are
// that cursor's too, also where the gateway is stopped and started in between.
func TestAgeKeepsWhatACursorHasNotPassedInTheChildren(t *testing.T) {
	for _, how := range []string{"split", "rescale", "merge", "killed"} {
		t.Run(how, func(t *testing.T) {
			c := newClocks()
			b := newBox(t, spool.Config{}, c.seam())
			st := b.stream(spool.StreamConfig{Name: "mqtt", Shards: 2, MaxAge: conf.Duration(time.Hour)})
			for _, sh := range st.Shards() {
				cur, err := st.Cursor(t.Context(), "up", sh.ID, spool.Oldest())
				if err != nil {
					t.Fatal(err)
				}
				if err := cur.Close(); err != nil {
					t.Fatal(err)
				}
			}
			all := st.Shards()
			var err error
			switch how {
			case "rescale":
				err = b.Rescale(t.Context(), st, 3)
			case "merge":
				err = b.Merge(t.Context(), st, all[0].ID, all[1].ID)
			default:
				err = b.Split(t.Context(), st, all[0].ID, record.HashKey{0x40})
			}
			if err != nil {
				t.Fatal(err)
			}
			if how == "killed" {
				// The children's cursors are as durable as the children.
				killed, err := spool.OpenWith(t.Context(), copyTree(t, b.dir), b.cfg, nil, c.seam())
				if err != nil {
					t.Fatal(err)
				}
				if st, err = killed.Stream("mqtt"); err != nil {
					t.Fatal(err)
				}
				defer killed.Close()
				b = &box{Spool: killed, t: t}
			}
			for i := range 50 {
				put(t, st, record.Record{Key: string(rune('a' + i)), Data: make([]byte, 100)})
			}
			for range 3 {
				c.pass(2 * time.Hour)
				spool.Keep(b.Spool)
				put(t, st, record.Record{Key: "late"})
				spool.Keep(b.Spool)
			}
			kept := uint64(0)
			for _, sh := range st.Shards() {
				kept += sh.Next - sh.First
			}
			if kept != 53 {
				t.Errorf("%d records are kept, 53 were not delivered", kept)
			}
			if err := b.Ledger().Balanced(); err != nil {
				t.Error(err)
			}
			// Who opens it finds it at the beginning, wherever it asks to begin.
			for _, sh := range st.Shards() {
				if sh.Next == 1 {
					continue
				}
				cur, err := st.Cursor(t.Context(), "up", sh.ID, spool.Newest())
				if err != nil {
					t.Fatal(err)
				}
				if cur.Committed() != 1 {
					t.Errorf("the cursor of shard %d stands at %d", sh.ID, cur.Committed())
				}
				if err := cur.Close(); err != nil {
					t.Error(err)
				}
			}
			// Who has dropped it has dropped it in the children too.
			if err := st.DropCursor(t.Context(), "up", "me"); err != nil {
				t.Fatal(err)
			}
			if err := st.DropCursor(t.Context(), "up", "me"); !errors.Is(err, record.ErrNoCursor) {
				t.Errorf("dropping it again: %v", err)
			}
			for range 2 {
				c.pass(2 * time.Hour)
				spool.Keep(b.Spool)
				put(t, st, record.Record{Key: "later"})
				spool.Keep(b.Spool)
			}
			if kept := firstKeptOf(st); kept > 2 {
				t.Errorf("%d records are kept that nobody wants", kept)
			}
		})
	}
}

func firstKeptOf(st *spool.Stream) (kept uint64) {
	for _, sh := range st.Shards() {
		kept += sh.Next - sh.First
	}
	return kept
}
