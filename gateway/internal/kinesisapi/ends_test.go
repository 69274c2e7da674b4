package kinesisapi_test

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// TestEndsNameTheirChildren: whoever reads to the end of a shard while it is
// split is told what comes after it, and a list of shards never lacks a part of
// the hash keys.
func TestEndsNameTheirChildren(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	cl, ctx := b.client(), t.Context()
	for i := range 40 {
		name := fmt.Sprint("s", i)
		b.create(name, 1)
		it := b.iter(cl, kinesis.GetShardIteratorInput{StreamName: &name, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
		split := make(chan error, 1)
		go func() {
			_, err := cl.SplitShard(ctx, &kinesis.SplitShardInput{StreamName: &name, ShardToSplit: shardID(0), NewStartingHashKey: aws.String(hashHalf)})
			split <- err
		}()
		for it != nil {
			out := b.get(cl, it, 0)
			if it = out.NextShardIterator; it == nil && len(out.ChildShards) != 2 {
				t.Errorf("%s ends with the children %v", name, out.ChildShards)
			}
			open := numbers(b.shards(cl, name, &types.ShardFilter{Type: types.ShardFilterTypeAtLatest}, 0))
			if open != " 0" && open != " 1 2" {
				t.Errorf("%s has the open shards%s", name, open)
			}
		}
		if err := <-split; err != nil {
			t.Fatal(err)
		}
	}
}
