package spool_test

import (
	"context"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"forebay/spool"
	"forebay/spool/faultdisk"
	"forebay/spool/record"
)

// A change whose commit failed was not made, also where the disk holds it after
// all when the machine goes down: what was acknowledged after it is there.
func TestAChangeThatFailedDoesNotComeBack(t *testing.T) {
	for what, change := range map[string]func(context.Context, *spool.Spool, *spool.Stream) error{
		"delete": func(ctx context.Context, s *spool.Spool, st *spool.Stream) error { return s.Delete(ctx, st.Name(), "") },
		"split": func(ctx context.Context, s *spool.Spool, st *spool.Stream) error {
			return s.Split(ctx, st, only(st), record.HashKey{0x80})
		},
	} {
		t.Run(what, func(t *testing.T) {
			d := newFaultDisk(t, false)
			var armed atomic.Bool
			var pages atomic.Int64 // written since
			d.SetFault(func(e faultdisk.Event) error {
				if !armed.Load() || !strings.HasSuffix(e.Path, "state.db-wal") {
					return nil
				}
				switch {
				case e.Op == faultdisk.Write && e.Size+int64(len(e.Data)) >= 4096:
					pages.Add(1)
				case e.Op == faultdisk.Sync && pages.Load() > 0:
					armed.Store(false)
					return syscall.EIO
				}
				return nil
			})
			b := newBox(t, spool.Config{}, spool.Faults(d))
			st := b.stream(spool.StreamConfig{Name: "mqtt"})
			put(t, st, record.Record{Key: "a"})
			armed.Store(true)
			err := change(t.Context(), b.Spool, st)
			if err == nil || armed.Load() {
				t.Fatal("it did not fail: that was no test")
			}
			put(t, st, record.Record{Key: "a"}, record.Record{Key: "b"})
			killed, err := spool.Open(t.Context(), copyTree(t, b.dir), spool.Config{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer killed.Close()
			again, err := killed.Stream("mqtt")
			if err != nil {
				t.Fatal(err)
			}
			if n := len(again.Shards()); n != 1 {
				t.Errorf("there are %d shards", n)
			}
			if got, losses := scan(t, again, only(again), spool.Oldest()); len(got) != 3 || len(losses) > 0 {
				t.Errorf("%d records, %v", len(got), losses)
			}
			if err := change(t.Context(), b.Spool, st); err != nil {
				t.Errorf("once more: %v", err)
			}
		})
	}
}
