//go:build peers

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

// A reading is what a consumer took of a stream, in its order by key.
type reading struct {
	mu      sync.Mutex
	next    map[string]int // of each key, the number that comes next
	records int
	wrong   []string
	last    map[string]string   // of each shard, the last sequence number
	ended   map[string][]string // of each shard that was read to its end, its children
	started map[string]bool
}

func newReading() *reading {
	return &reading{next: map[string]int{}, last: map[string]string{}, ended: map[string][]string{}, started: map[string]bool{}}
}

// take notes records of a shard.
func (r *reading) take(shard string, recs []types.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range recs {
		key, number, _ := strings.Cut(string(x.Data), "#")
		n, err := strconv.Atoi(number)
		if err != nil || key != *x.PartitionKey || n != r.next[key] {
			r.wrong = append(r.wrong, fmt.Sprintf("%s: %s after %d", shard, x.Data, r.next[key]-1))
		}
		r.next[key] = n + 1
		r.records++
		r.last[shard] = *x.SequenceNumber
	}
}

func (r *reading) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records
}

// A shardReader reads a stream as a consumer of Kinesis does: a child once all
// its parents are read to their ends.
type shardReader struct {
	client *kinesis.Client
	stream string
	got    *reading
	wg     sync.WaitGroup
	errs   chan error
}

// start begins with a shard, unless somebody has.
func (f *shardReader) start(ctx context.Context, shard string) {
	f.got.mu.Lock()
	again := f.got.started[shard]
	f.got.started[shard] = true
	f.got.mu.Unlock()
	if again {
		return
	}
	f.wg.Go(func() {
		if err := f.read(ctx, shard); err != nil && ctx.Err() == nil {
			f.errs <- fmt.Errorf("read %s: %w", shard, err)
		}
	})
}

// read goes to the end of a shard and on to its children.
func (f *shardReader) read(ctx context.Context, shard string) error {
	it, err := f.client.GetShardIterator(ctx, &kinesis.GetShardIteratorInput{StreamName: &f.stream, ShardId: &shard, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
	if err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for next := it.ShardIterator; next != nil; {
		out, err := f.client.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: next})
		if err != nil {
			return err
		}
		f.got.take(shard, out.Records)
		if next = out.NextShardIterator; next == nil {
			f.end(ctx, shard, out.ChildShards)
			return nil
		}
		if len(out.Records) == 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// end notes that a shard is read and starts the children whose parents are.
func (f *shardReader) end(ctx context.Context, shard string, children []types.ChildShard) {
	f.got.mu.Lock()
	names := []string{}
	for _, c := range children {
		names = append(names, *c.ShardId)
	}
	f.got.ended[shard] = names
	var due []string
	for _, c := range children {
		if !slices.ContainsFunc(c.ParentShards, func(p string) bool { _, ok := f.got.ended[p]; return !ok }) {
			due = append(due, *c.ShardId)
		}
	}
	f.got.mu.Unlock()
	for _, c := range due {
		f.start(ctx, c)
	}
}

// writers put numbered records under their own keys until told to stop.
type writers struct {
	client *kinesis.Client
	stream string
	stop   chan struct{}
	wg     sync.WaitGroup
	taken  atomic.Int64
	errs   chan error
}

func (w *writers) start(ctx context.Context, n int) {
	for i := range n {
		w.wg.Go(func() {
			if err := w.write(ctx, i); err != nil {
				w.errs <- fmt.Errorf("writer %d: %w", i, err)
			}
		})
	}
}

// write puts one record of each of its keys in a request, since PutRecords
// does not promise an order within one.
func (w *writers) write(ctx context.Context, number int) error {
	const keys = 12
	next := [keys]int{}
	for {
		select {
		case <-w.stop:
			return nil
		default:
		}
		in := &kinesis.PutRecordsInput{StreamName: &w.stream}
		for k := range keys {
			key := fmt.Sprintf("w%d/k%d", number, k)
			in.Records = append(in.Records, types.PutRecordsRequestEntry{PartitionKey: &key, Data: fmt.Appendf(nil, "%s#%d", key, next[k])})
		}
		out, err := w.client.PutRecords(ctx, in)
		if err != nil {
			return err
		}
		for k, r := range out.Records {
			if r.ErrorCode == nil { // else it is put again with the next request
				next[k]++
				w.taken.Add(1)
			}
		}
	}
}

// reshard changes the shards while records come, waiting in between until the
// consumer has seen some of the new ones.
func reshard(t *testing.T, client *kinesis.Client, stream string, more func(what string)) {
	t.Helper()
	active := func() {
		eventually(t, 20*time.Second, "the stream is ACTIVE", func() bool {
			d, err := client.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: &stream})
			return err == nil && d.StreamDescriptionSummary.StreamStatus == types.StreamStatusActive
		})
	}
	open := func() []types.Shard {
		l, err := client.ListShards(t.Context(), &kinesis.ListShardsInput{StreamName: &stream, ShardFilter: &types.ShardFilter{Type: types.ShardFilterTypeAtLatest}})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(l.Shards, func(a, b types.Shard) int { return start(t, a).Cmp(start(t, b)) })
		return l.Shards
	}
	split := func(i int) {
		sh := open()[i]
		end, _ := new(big.Int).SetString(*sh.HashKeyRange.EndingHashKey, 10)
		at := end.Add(end, start(t, sh))
		at.Rsh(at, 1)
		if _, err := client.SplitShard(t.Context(), &kinesis.SplitShardInput{StreamName: &stream, ShardToSplit: sh.ShardId, NewStartingHashKey: aws.String(at.String())}); err != nil {
			t.Fatal(err)
		}
		active()
		more("a split of " + *sh.ShardId)
	}
	merge := func(i int) {
		sh := open()
		if _, err := client.MergeShards(t.Context(), &kinesis.MergeShardsInput{StreamName: &stream, ShardToMerge: sh[i].ShardId, AdjacentShardToMerge: sh[i+1].ShardId}); err != nil {
			t.Fatal(err)
		}
		active()
		more("a merge of " + *sh[i].ShardId + " and " + *sh[i+1].ShardId)
	}
	scale := func(n int32) {
		if _, err := client.UpdateShardCount(t.Context(), &kinesis.UpdateShardCountInput{StreamName: &stream, TargetShardCount: &n, ScalingType: types.ScalingTypeUniformScaling}); err != nil {
			t.Fatal(err)
		}
		active()
		if got := len(open()); got != int(n) {
			t.Errorf("%d open shards of %d", got, n)
		}
		more(fmt.Sprint("a change to ", n, " shards"))
	}
	split(0)
	split(2)
	merge(1)
	split(0)
	merge(0)
	scale(6)
	merge(2)
	scale(4)
	scale(2)
}

func start(t *testing.T, sh types.Shard) *big.Int {
	t.Helper()
	n, ok := new(big.Int).SetString(*sh.HashKeyRange.StartingHashKey, 10)
	if !ok {
		t.Fatalf("%s starts at %q", *sh.ShardId, *sh.HashKeyRange.StartingHashKey)
	}
	return n
}

// A consumer follows splits and merges to the end while producers write: every
// record once, and every key in its order. Another that comes afterwards reads
// the same.
func TestPeerConsumerFollowsReshards(t *testing.T) {
	g := startGateway(t, "edge", kinesisConfig)
	client := kinesis.NewFromConfig(h2cConfig(t, g))
	const stream = "reshard"
	makeStream(t, client, stream, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	errs := make(chan error, 100)

	w := &writers{client: client, stream: stream, stop: make(chan struct{}), errs: errs}
	w.start(ctx, 4)
	f := &shardReader{client: client, stream: stream, got: newReading(), errs: errs}
	reads, stopReading := context.WithCancel(ctx)
	for i := range 2 {
		f.start(reads, shardName(i))
	}
	reshard(t, client, stream, func(what string) {
		from := f.got.count()
		eventually(t, 60*time.Second, "records arrive after "+what, func() bool { return f.got.count() >= from+2000 || len(errs) > 0 })
	})
	close(w.stop)
	w.wg.Wait()
	taken := int(w.taken.Load())
	eventually(t, 60*time.Second, "everything is read", func() bool { return f.got.count() >= taken || len(errs) > 0 })
	stopReading()
	f.wg.Wait()

	late := &shardReader{client: client, stream: stream, got: newReading(), errs: errs}
	reads, stopReading = context.WithCancel(ctx)
	for i := range 2 {
		late.start(reads, shardName(i))
	}
	eventually(t, 60*time.Second, "everything is read again", func() bool { return late.got.count() >= taken || len(errs) > 0 })
	stopReading()
	late.wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	for what, r := range map[string]*reading{"while they wrote": f.got, "afterwards": late.got} {
		if r.records != taken || len(r.wrong) > 0 {
			t.Errorf("%s: %d records of %d; out of order: %d: %v", what, r.records, taken, len(r.wrong), r.wrong[:min(len(r.wrong), 10)])
		}
	}
	if !maps.Equal(f.got.next, late.got.next) {
		t.Error("the two readings differ")
	}
	shards := lineage(t, client, stream, f.got)
	t.Logf("%d records of %d keys over %d shards, %d of them closed: each once and every key in order, while they were written and afterwards", taken, len(f.got.next), shards, len(f.got.ended))
	g.sound(t)
}

// lineage compares what the consumer went through with what ListShards says.
func lineage(t *testing.T, client *kinesis.Client, stream string, got *reading) int {
	t.Helper()
	l, err := client.ListShards(t.Context(), &kinesis.ListShardsInput{StreamName: aws.String(stream)})
	if err != nil {
		t.Fatal(err)
	}
	for _, sh := range l.Shards {
		id := *sh.ShardId
		children, ended := got.ended[id]
		if !got.started[id] {
			t.Errorf("%s was not read", id)
		}
		if closed := sh.SequenceNumberRange.EndingSequenceNumber != nil; closed != ended {
			t.Errorf("%s is closed: %v, was read to its end: %v", id, closed, ended)
		}
		if ended && number(t, *sh.SequenceNumberRange.EndingSequenceNumber).Cmp(number(t, got.last[id])) < 0 {
			t.Errorf("%s ends at %s, before its last record %s", id, *sh.SequenceNumberRange.EndingSequenceNumber, got.last[id])
		}
		for _, parent := range []*string{sh.ParentShardId, sh.AdjacentParentShardId} {
			if parent == nil {
				continue
			}
			if !slices.Contains(got.ended[*parent], id) {
				t.Errorf("%s is a child of %s, whose end names %v", id, *parent, got.ended[*parent])
			}
			if got.last[*parent] != "" && number(t, *sh.SequenceNumberRange.StartingSequenceNumber).Cmp(number(t, got.last[*parent])) <= 0 {
				t.Errorf("%s starts at %s, not behind its parent's last record %s", id, *sh.SequenceNumberRange.StartingSequenceNumber, got.last[*parent])
			}
		}
		for _, c := range children {
			if !slices.ContainsFunc(l.Shards, func(x types.Shard) bool { return *x.ShardId == c }) {
				t.Errorf("%s has a child %s that is not listed", id, c)
			}
		}
	}
	return len(l.Shards)
}

func number(t *testing.T, s string) *big.Int {
	t.Helper()
	if s == "" {
		return new(big.Int)
	}
	n, ok := new(big.Int).SetString(s, 10)
	if !ok {
		t.Fatal(errors.New("not a sequence number: " + s))
	}
	return n
}
