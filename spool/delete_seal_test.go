package spool_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"forebay/spool"
	"forebay/spool/record"
)

// With an encrypted stream goes every key that its records were ever sealed
// with, also those of records that came while it was being deleted; and no
// master key is asked for any more where no stream is encrypted.
func TestADeletedStreamTakesItsKeysAlong(t *testing.T) {
	b := secretBox(t)
	st := b.stream(spool.StreamConfig{Name: "secret", Encrypt: true, Shards: 2})
	plain := b.stream(spool.StreamConfig{Name: "plain"})
	put(t, st, record.Record{Key: "a", Data: []byte(canary)}, record.Record{Key: "b", Data: []byte(canary)})
	put(t, plain, record.Record{Key: "a"})
	if _, err := b.Erase(t.Context(), "secret", "anna"); err != nil {
		t.Fatal(err)
	}
	if err := b.Rescale(t.Context(), st, 3); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		put(t, st, record.Record{Key: string(rune('a' + i)), Data: []byte(canary)})
	}
	keys := spool.WrappedKeys(t.Context(), b.Spool)
	var producers sync.WaitGroup
	begun := make(chan struct{}, 2)
	for range 2 {
		producers.Go(func() {
			for n := 0; ; n++ {
				res, err := st.Put(context.Background(), []record.Record{{Key: "x", Data: []byte(canary)}})
				if errors.Is(err, record.ErrNoStream) {
					return
				}
				if err != nil || res[0].Err != nil {
					t.Errorf("%v, %v", err, res)
					return
				}
				if n == 10 {
					begun <- struct{}{}
				}
			}
		})
	}
	<-begun
	<-begun
	if err := b.Delete(t.Context(), "secret", "anna"); err != nil {
		t.Fatal(err)
	}
	producers.Wait()
	if left := spool.WrappedKeys(t.Context(), b.Spool); len(left) != 0 {
		t.Errorf("%d keys are left", len(left))
	}
	if err := b.Ledger().Balanced(); err != nil {
		t.Error(err)
	}
	spool.Keep(b.Spool)
	put(t, plain, record.Record{Key: "b"})
	b.cfg.KeyFile = ""
	b.close()
	for _, k := range keys {
		if in := found(t, b.dir, k); len(in) > 0 {
			t.Errorf("a wrapped key is left in %v", in)
		}
	}
	b.open()
	plain, err := b.Stream("plain")
	if err != nil {
		t.Fatal(err)
	}
	put(t, plain, record.Record{Key: "c"})
	another := b.stream(spool.StreamConfig{Name: "another"})
	put(t, another, record.Record{Key: "d", Data: []byte("in clear")})
	spool.Scrub(b.Spool)
	if has(b.Spool, "corrupt") {
		t.Error("what was deleted counts as damage")
	}
	for _, st := range []*spool.Stream{plain, another} {
		if _, losses := scan(t, st, only(st), spool.Oldest()); len(losses) > 0 {
			t.Errorf("%s: %v", st.Name(), losses)
		}
	}
	b.cfg.KeyFile = keyFile(t, 2) // any key will do from now on
	b.reopen()
	again := b.stream(spool.StreamConfig{Name: "secret", Encrypt: true})
	put(t, again, record.Record{Key: "a", Data: []byte(canary)})
	b.reopen()
	again, err = b.Stream("secret")
	if err != nil {
		t.Fatal(err)
	}
	if got, losses := scan(t, again, only(again), spool.Oldest()); len(got) != 1 || len(losses) > 0 {
		t.Errorf("%d records, %v", len(got), losses)
	}
}
