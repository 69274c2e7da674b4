//go:build peers

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

// Aggregates that one gateway's uplink made go through another's endpoint as
// they are, and aws-kinesis-agg opens them.
func TestPeerAggregatesThroughTheEndpoint(t *testing.T) {
	site := startGateway(t, "site", kinesisConfig)
	cell := startGateway(t, "cell", kinesisConfig+`
[[uplink]]
id = "site"
streams = ["mqtt"]
[uplink.kinesis]
endpoint = "http://`+site.kinesis+`"
region = "us-east-1"
stream = "plant"
create_shards = 3
access_key = "`+peerAccessKey+`"
secret_key = "`+peerSecretKey+`"
`)
	_, mp := port(t, cell.mqtt)
	const keys, each = 6, 500
	for k := range keys {
		var lines bytes.Buffer
		for i := range each {
			fmt.Fprintf(&lines, "{\"n\": %d}\n", i)
		}
		tool(t, lines.Bytes(), "mosquitto_pub", "-h", "127.0.0.1", "-p", mp, "-q", "1", "-t", fmt.Sprint("line/", k), "-l")
	}
	eventually(t, 60*time.Second, "everything is delivered", func() bool {
		u, err := cell.client.Uplinks(context.Background())
		return err == nil && len(u) == 1 && u[0].Delivered >= keys*each && u[0].Waiting == 0
	})
	client := kinesis.NewFromConfig(h2cConfig(t, site))
	var all []obj
	for i := range 3 {
		for _, r := range readAll(t, client, "plant", shardName(i)) {
			all = append(all, obj{"Data": r.Data, "PartitionKey": *r.PartitionKey, "SequenceNumber": *r.SequenceNumber})
		}
	}
	in, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NODE_PATH", os.Getenv("FOREBAY_NODE_MODULES"))
	next, n := map[string]int{}, 0
	for line := range bytes.Lines(tool(t, in, "node", "testdata/deaggregate.js")) {
		var user struct{ Key, Data string }
		var env struct {
			ID   string
			Data struct{ N int }
		}
		if json.Unmarshal(line, &user) != nil || json.Unmarshal([]byte(user.Data), &env) != nil || env.ID == "" {
			t.Fatalf("not an envelope: %s", line)
		}
		if env.Data.N != next[user.Key] {
			t.Fatalf("%s: record %d after %d", user.Key, env.Data.N, next[user.Key]-1)
		}
		next[user.Key]++
		n++
	}
	if n != keys*each || len(all) >= n/10 {
		t.Errorf("%d Kinesis records hold %d records of %d", len(all), n, keys*each)
	}
	t.Logf("%d Kinesis records at the endpoint hold %d records, in order by key", len(all), n)
	cell.sound(t)
	site.sound(t)
}

// readAll reads a shard to its newest record.
func readAll(t *testing.T, client *kinesis.Client, stream, shard string) []types.Record {
	t.Helper()
	it, err := client.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{StreamName: &stream, ShardId: &shard, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
	if err != nil {
		t.Fatal(err)
	}
	var out []types.Record
	for next := it.ShardIterator; next != nil; {
		res, err := client.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: next})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, res.Records...)
		if next = res.NextShardIterator; *res.MillisBehindLatest == 0 {
			return out
		}
	}
	return out
}
