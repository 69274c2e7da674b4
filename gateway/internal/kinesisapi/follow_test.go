package kinesisapi_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// A follower reads a whole stream as the KCL does: a shard after all of its
// parents, a lease of each after the other, until it has seen enough.
type follower struct {
	b    *box
	how  way
	arn  string
	want int

	mu      sync.Mutex
	wg      sync.WaitGroup
	done    map[string]bool // shards read to their end
	begun   map[string]bool
	keys    map[string][]string // what came, by partition key
	got     int
	leases  int
	enough  chan struct{}
	parents map[string][]string
}

func (f *follower) begin(shard string) { // f.mu is held
	if f.begun[shard] {
		return
	}
	for _, p := range f.parents[shard] {
		if !f.done[p] {
			return
		}
	}
	f.begun[shard] = true
	f.wg.Go(func() { f.follow(shard) })
}

func (f *follower) follow(shard string) {
	from := horizon
	for {
		feed, err := f.how(f.b, f.arn, shard, from)
		if err != nil {
			f.b.t.Errorf("subscribe to %s: %v", shard, err)
			return
		}
		f.mu.Lock()
		f.leases++
		f.mu.Unlock()
		for over := false; !over; {
			select {
			case e, ok := <-feed.events:
				if !ok {
					if feed.err != nil {
						f.b.t.Errorf("shard %s: %v", shard, feed.err)
						return
					}
					over = true
					break
				}
				if f.take(shard, e) {
					return
				}
				from = behind(*e.ContinuationSequenceNumber)
			case <-f.enough:
				feed.close()
				return
			}
		}
		f.b.clock.Move(5 * time.Second)
	}
}

// take keeps an event's records; true at the shard's end.
func (f *follower) take(shard string, e types.SubscribeToShardEvent) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range e.Records {
		f.keys[*r.PartitionKey] = append(f.keys[*r.PartitionKey], string(r.Data))
		if f.got++; f.got == f.want {
			close(f.enough)
		}
	}
	if e.ContinuationSequenceNumber != nil {
		if len(e.ChildShards) > 0 {
			f.b.t.Errorf("shard %s goes on and has children", shard)
		}
		return false
	}
	if len(e.ChildShards) == 0 {
		f.b.t.Errorf("shard %s has ended without children", shard)
	}
	f.done[shard] = true
	for _, c := range e.ChildShards {
		if !slices.Contains(c.ParentShards, shard) {
			f.b.t.Errorf("%s is a child of %s with the parents %v", *c.ShardId, shard, c.ParentShards)
		}
		f.parents[*c.ShardId] = c.ParentShards
		f.begin(*c.ShardId)
	}
	return true
}

// TestFollow: a consumer that follows splits and merges by ChildShards alone,
// over many leases, gets every record once and those of a key in order.
func TestFollow(t *testing.T) {
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			b := start(t, kinesisapi.Config{}, spool.Config{})
			st := b.create("s", 2)
			cl := b.client()
			kinesisapi.SetTerms(b.srv, 100*time.Millisecond, 20*time.Millisecond)
			const keys, each = 8, 60
			f := &follower{
				b: b, how: how, arn: b.register(cl, "s", "app"), want: keys * each,
				done: map[string]bool{}, begun: map[string]bool{}, keys: map[string][]string{}, parents: map[string][]string{}, enough: make(chan struct{}),
			}
			f.mu.Lock()
			f.begin(shard0)
			f.begin("shardId-000000000001")
			f.mu.Unlock()
			for i := range each {
				for k := range keys {
					if _, err := cl.PutRecord(t.Context(), putRecord("s", fmt.Sprint("key-", k), strconv.Itoa(i))); err != nil {
						t.Fatal(err)
					}
				}
				if i%10 == 5 {
					reshard(t, b.sp, st, i/10)
				}
			}
			select {
			case <-f.enough:
			case <-time.After(30 * time.Second):
				f.mu.Lock()
				t.Errorf("%d of %d records within 30 s; shards begun %v, done %v", f.got, f.want, f.begun, f.done)
				f.mu.Unlock()
				return
			}
			f.wg.Wait()
			for k, got := range f.keys {
				if strings.Join(got, " ") != strings.Join(numbered(0, each), " ") {
					t.Errorf("%s came as %v", k, got)
				}
			}
			if len(f.keys) != keys || f.leases < len(f.begun) || len(f.done) < 6 {
				t.Errorf("%d keys over %d leases, shards ended %v", len(f.keys), f.leases, f.done)
			}
		})
	}
}

// reshard splits the first open shard or merges the first two, in turns.
func reshard(t *testing.T, sp *spool.Spool, st *spool.Stream, turn int) {
	t.Helper()
	var open []spool.Shard
	for _, sh := range st.Shards() {
		if sh.Open() {
			open = append(open, sh)
		}
	}
	slices.SortFunc(open, func(a, b spool.Shard) int { return a.From.Compare(b.From) })
	var err error
	if turn%3 == 2 {
		err = sp.Merge(t.Context(), st, open[0].ID, open[1].ID)
	} else {
		at := open[0].To
		at[0] /= 2
		err = sp.Split(t.Context(), st, open[0].ID, at)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestClosedShard: a shard that was closed before tells its end at once, also
// with LATEST, which is how the KCL looks at the end again.
func TestClosedShard(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("s", 2)
	cl := b.client()
	b.put(cl, "s", "x")
	if err := b.sp.Merge(t.Context(), st, st.Shards()[0].ID, st.Shards()[1].ID); err != nil {
		t.Fatal(err)
	}
	arn := b.register(cl, "s", "app")
	for name, how := range ways {
		for _, shard := range []string{shard0, "shardId-000000000001"} {
			f := b.subscribed(how, arn, shard, latest)
			e, ok, err := f.next()
			if !ok || len(e.Records) != 0 || e.ContinuationSequenceNumber != nil || len(e.ChildShards) != 1 || *e.MillisBehindLatest != 0 {
				t.Fatalf("%s, %s: %+v, %v", name, shard, e, err)
			}
			c := e.ChildShards[0]
			if *c.ShardId != "shardId-000000000002" || strings.Join(c.ParentShards, " ") != "shardId-000000000000 shardId-000000000001" ||
				*c.HashKeyRange.StartingHashKey != "0" || *c.HashKeyRange.EndingHashKey != "340282366920938463463374607431768211455" {
				t.Errorf("%s: child %s of %v, %s to %s", name, *c.ShardId, c.ParentShards, *c.HashKeyRange.StartingHashKey, *c.HashKeyRange.EndingHashKey)
			}
			if err := f.end(); err != nil {
				t.Errorf("%s: after the shard's end: %v", name, err)
			}
		}
		b.clock.Move(6 * time.Second)
	}
}

// TestStreamDeleted: who is subscribed to a stream that is deleted is told.
func TestStreamDeleted(t *testing.T) {
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			b := start(t, kinesisapi.Config{}, spool.Config{})
			b.create("s", 1)
			cl := b.client()
			f := b.subscribed(how, b.register(cl, "s", "app"), shard0, latest)
			if err := b.sp.Delete(context.Background(), "s", "test"); err != nil {
				t.Fatal(err)
			}
			var gone *types.ResourceNotFoundException
			if err := f.end(); !errors.As(err, &gone) || !strings.Contains(gone.ErrorMessage(), "Stream s under account") {
				t.Errorf("after the deletion: %v", err)
			}
		})
	}
}
