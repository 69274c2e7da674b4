package kinesisapi_test

import (
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// TestShardsAtATimeOfQuickChanges: shards that follow each other within a second
// count as created a second apart, also later than now. At any time those that
// AT_TIMESTAMP gives cover every hash key once, as a client checks that begins
// there, and lead to all that arrived from that time on.
func TestShardsAtATimeOfQuickChanges(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	begin := b.clock.Now()
	b.create("s", 3)
	cl, ctx := b.client(), t.Context()
	arrived := map[string][]time.Time{} // by shard
	step := func() {
		for _, hash := range []string{"0", hashLow, hashHalf, hashEnd} {
			in := putRecord("s", "k", "x")
			in.ExplicitHashKey = &hash
			out, err := cl.PutRecord(ctx, in)
			if err != nil {
				t.Fatal(err)
			}
			arrived[*out.ShardId] = append(arrived[*out.ShardId], b.clock.Now())
		}
		b.clock.Move(130 * time.Millisecond)
	}
	step()
	for _, count := range []int32{5, 2, 3, 1, 2} {
		in := &kinesis.UpdateShardCountInput{StreamName: aws.String("s"), TargetShardCount: &count, ScalingType: types.ScalingTypeUniformScaling}
		if _, err := cl.UpdateShardCount(ctx, in); err != nil {
			t.Fatal(err)
		}
		step()
	}
	all := b.shards(cl, "s", nil, 0)
	for at := begin.Add(-time.Second); at.Before(begin.Add(30 * time.Second)); at = at.Add(53 * time.Millisecond) {
		listed := b.shards(cl, "s", &types.ShardFilter{Type: types.ShardFilterTypeAtTimestamp, Timestamp: &at}, 0)
		if !coverOnce(listed) {
			t.Errorf("%v after the start the shards%s do not cover every hash key once", at.Sub(begin), numbers(listed))
		}
		reached := reach(all, listed)
		for shard, times := range arrived {
			if !reached[shard] && slices.ContainsFunc(times, func(a time.Time) bool { return !a.Before(at) }) {
				t.Errorf("%v after the start the shards%s do not lead to %s, where records came later", at.Sub(begin), numbers(listed), shard)
			}
		}
	}
}

func coverOnce(shards []types.Shard) bool {
	number := func(s *string) *big.Int { n, _ := new(big.Int).SetString(*s, 10); return n }
	slices.SortFunc(shards, func(a, b types.Shard) int {
		return number(a.HashKeyRange.StartingHashKey).Cmp(number(b.HashKeyRange.StartingHashKey))
	})
	next := new(big.Int)
	for _, sh := range shards {
		if number(sh.HashKeyRange.StartingHashKey).Cmp(next) != 0 {
			return false
		}
		next.Add(number(sh.HashKeyRange.EndingHashKey), big.NewInt(1))
	}
	return next.Cmp(new(big.Int).Lsh(big.NewInt(1), 128)) == 0
}

// reach gives the ids of the shards listed and of all that come behind them.
func reach(all, listed []types.Shard) map[string]bool {
	out := map[string]bool{}
	for _, sh := range listed {
		out[*sh.ShardId] = true
	}
	for _, sh := range all { // parents come first
		if out[aws.ToString(sh.ParentShardId)] || out[aws.ToString(sh.AdjacentParentShardId)] {
			out[*sh.ShardId] = true
		}
	}
	return out
}

// TestParentsGoTogether: an empty shard that was merged stays listed as long as
// the one that it was merged with, so that the oldest shards cover every key.
func TestParentsGoTogether(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 2)
	cl := b.client()
	in := putRecord("s", "k", "x")
	in.ExplicitHashKey = aws.String(hashEnd)
	if _, err := cl.PutRecord(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	b.split(cl, "s", 0, hashLow) // 2 and 3
	b.merge(cl, "s", 3, 1)       // 4
	b.clock.Move(9000 * time.Hour)
	oldest := b.shards(cl, "s", &types.ShardFilter{Type: types.ShardFilterTypeAtTrimHorizon}, 0)
	if !coverOnce(oldest) {
		t.Errorf("the oldest shards%s do not cover every hash key once", numbers(oldest))
	}
	if got := numbers(b.shards(cl, "s", nil, 0)); got != " 1 2 3 4" {
		t.Errorf("listed:%s", got)
	}
}
