//go:build peers

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

// The sample in Python prints every record once, under every botocore there is.
func TestPeerPythonSample(t *testing.T) {
	far := startGateway(t, "far", farConfig)
	cl, taken := kinesisAt(far.kinesis), map[string]string{}
	near := record.Identity{Gateway: "edge-07", Epoch: 7}
	w := envelope.NewBeside(near)
	unit := func(shard record.ShardID, from, to uint64) []byte {
		var enc kpl.Encoder
		for seq := from; seq <= to; seq++ {
			r := record.Record{Key: fmt.Sprint("press-", seq%3), Source: "mqtt", Data: fmt.Appendf(nil, `{"n":%d}`, seq), Pos: record.Pos{Shard: shard, Seq: seq}}
			enc.Add(r.Key, "7", w.Append(nil, "mqtt", &r))
			taken[near.ID(r.Pos)] = r.Key
		}
		return enc.AppendTo(nil)
	}
	alone := record.Record{Key: "alone", Source: "mqtt", Data: []byte("21.5"), Pos: record.Pos{Shard: 3, Seq: 1}}
	taken[near.ID(alone.Pos)] = alone.Key
	for _, data := range [][]byte{unit(1, 1, 300), unit(1, 1, 300), unit(2, 1, 10), unit(1, 200, 400), w.Append(nil, "mqtt", &alone), unit(2, 11, 11), w.Append(nil, "mqtt", &alone)} {
		_, err := cl.PutRecords(t.Context(), &kinesis.PutRecordsInput{
			StreamName: aws.String("press-shop"),
			Records:    []types.PutRecordsRequestEntry{{Data: data, PartitionKey: aws.String("alone"), ExplicitHashKey: aws.String("7")}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, python := range filepath.SplitList(os.Getenv("FOREBAY_PYTHONS")) {
		cmd := exec.CommandContext(t.Context(), python, "../uplink/samples/consumer/consumer.py", "press-shop")
		cmd.Env = append(os.Environ(), "AWS_ENDPOINT_URL=http://"+inPages(t, far.kinesis), "AWS_DEFAULT_REGION=us-east-1", "AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", python, err)
		}
		printed(t, out, taken)
	}
	sample(t, far, taken)
}
