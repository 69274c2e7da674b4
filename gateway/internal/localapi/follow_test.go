package localapi_test

import (
	"context"
	"fmt"
	"testing"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
	"forebay/spool"
	"forebay/spool/record"
)

// Who follows a stream gets every key's records in order while its shards are
// split and merged, the first ones too; who follows one shard is told its end.
func TestFollowOverSplitsAndMerges(t *testing.T) {
	w := serve(t, localapi.Config{})
	st, err := w.sp.Stream("mqtt")
	if err != nil {
		t.Fatal(err)
	}
	const keys, rounds = 20, 12
	put := func(n int) {
		t.Helper()
		var recs []record.Record
		for k := range keys {
			recs = append(recs, record.Record{Key: fmt.Sprintf("k%d", k), Data: fmt.Append(nil, n)})
		}
		if _, err := st.Put(t.Context(), recs); err != nil {
			t.Fatal(err)
		}
	}
	put(0)
	if err := w.sp.Rescale(t.Context(), st, 2); err != nil { // there is a past, too
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	met := make(chan int)
	end := make(chan error, 1)
	go func() {
		next := map[string]int{}
		for r, err := range w.client.Records(ctx, api.Tail{Stream: "mqtt", Follow: true}) {
			if err != nil {
				end <- err
				return
			}
			if string(r.Data) != fmt.Sprint(next[r.Key]) {
				end <- fmt.Errorf("key %s has %s behind %d, in %s", r.Key, r.Data, next[r.Key]-1, r.Shard)
				return
			}
			next[r.Key]++
			met <- next[r.Key]
		}
		end <- nil
	}()
	wait := func(n int) {
		t.Helper()
		for ; n > 0; n-- {
			select {
			case <-met:
			case err := <-end:
				t.Fatal(err)
			}
		}
	}
	wait(keys)
	for n := 1; n < rounds; n++ {
		put(n)
		if n%3 == 0 { // else the follower is behind the change
			wait(3 * keys)
		}
		if err := w.sp.Rescale(t.Context(), st, 1+n%5); err != nil {
			t.Fatal(err)
		}
	}
	wait((rounds - 1) % 3 * keys)

	shards := st.Shards()
	first := 0
	for r, err := range w.client.Records(ctx, api.Tail{Stream: "mqtt", Follow: true, Shard: "0"}) {
		if err != nil || r.Shard != localapi.ShardName(0) {
			t.Errorf("of the first shard: %+v, %v", r, err)
		}
		first++
	}
	if first != int(shards[0].Next-1) {
		t.Errorf("%d records of the first shard, want %d", first, shards[0].Next-1)
	}
	all := 0
	next := map[string]int{}
	for r, err := range w.client.Records(ctx, api.Tail{Stream: "mqtt"}) {
		if err != nil || string(r.Data) != fmt.Sprint(next[r.Key]) {
			t.Fatalf("listed behind %d: %+v, %v", next[r.Key]-1, r, err)
		}
		next[r.Key]++
		all++
	}
	if all != keys*rounds {
		t.Errorf("%d records are listed", all)
	}

	if err := w.sp.Delete(t.Context(), "mqtt", ""); err != nil {
		t.Fatal(err)
	}
	if err := <-end; err == nil {
		t.Error("the end of the stream is not told")
	}
	if _, err := w.sp.Ensure(t.Context(), spool.StreamConfig{Name: "mqtt"}); err != nil {
		t.Fatal(err)
	}
	res, err := w.client.Put(t.Context(), "mqtt", "k", []byte("new"))
	if err != nil || res.Shard != localapi.ShardName(0) || res.Seq != 1 {
		t.Errorf("put to the namesake: %+v, %v", res, err)
	}
}
