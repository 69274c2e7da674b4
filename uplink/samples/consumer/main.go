// Command consumer is a sample: it reads a Kinesis stream that a gateway fills,
// takes KPL aggregates apart and prints each record once, its key and its
// envelope, tab between. AWS_ENDPOINT_URL points it at another endpoint.
//
//	consumer STREAM
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/awslabs/kinesis-aggregation/go/v2/deaggregator"
)

func main() {
	ctx, stream := context.Background(), &os.Args[1]
	// seen holds the highest sequence number of each lane, GATEWAY/EPOCH/SHARD, in
	// which numbers only rise. Keep it with your results if a restart is not to
	// print again.
	seen := map[string]uint64{}
	cl := kinesis.NewFromConfig(must(config.LoadDefaultConfig(ctx)))
	page := must(cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: stream}))
	shards := page.Shards // parents come before their children
	for page.NextToken != nil {
		page = must(cl.ListShards(ctx, &kinesis.ListShardsInput{NextToken: page.NextToken}))
		shards = append(shards, page.Shards...)
	}
	for _, shard := range shards {
		it := must(cl.GetShardIterator(ctx, &kinesis.GetShardIteratorInput{StreamName: stream, ShardId: shard.ShardId, ShardIteratorType: "TRIM_HORIZON"})).ShardIterator
		for it != nil {
			out := must(cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: it}))
			for _, r := range must(deaggregator.DeaggregateRecords(out.Records)) {
				var envelope struct{ ID string } // GATEWAY/EPOCH/SHARD/SEQUENCE
				must(0, json.Unmarshal(r.Data, &envelope))
				cut := strings.LastIndexByte(envelope.ID, '/')
				lane, seq := envelope.ID[:cut], must(strconv.ParseUint(envelope.ID[cut+1:], 10, 64))
				if seq > seen[lane] {
					seen[lane] = seq
					fmt.Printf("%s\t%s\n", *r.PartitionKey, r.Data)
				}
			}
			if it = out.NextShardIterator; len(out.Records) == 0 && *out.MillisBehindLatest == 0 {
				break // the sample ends where the stream does; a consumer goes on
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
