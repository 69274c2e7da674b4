package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/smithy-go"
)

const streamsConfig = `
[gateway]
name = "streams"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[stream]]
name = "line"
shards = 2
`

// TestStreamsOverTheKinesisDoor: a client changes what the config does not set,
// and a restart keeps it.
func TestStreamsOverTheKinesisDoor(t *testing.T) {
	g := startGateway(t, "streams", streamsConfig)
	ctx, p := t.Context(), aws.String
	cl := kinesis.New(kinesis.Options{
		BaseEndpoint: p("http://" + g.kinesis), Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", ""),
	})
	for _, stream := range []string{"mqtt", "line"} {
		_, err := cl.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: &stream})
		if api, ok := errors.AsType[smithy.APIError](err); !ok || api.ErrorCode() != "AccessDeniedException" || !strings.Contains(api.ErrorMessage(), "[[stream]]") {
			t.Errorf("delete %s: %v", stream, err)
		}
	}
	_, splitErr := cl.SplitShard(ctx, &kinesis.SplitShardInput{StreamName: p("line"), ShardToSplit: p("shardId-000000000000"), NewStartingHashKey: p("4096")})
	_, tagErr := cl.AddTagsToStream(ctx, &kinesis.AddTagsToStreamInput{StreamName: p("line"), Tags: map[string]string{"hall": "7"}})
	_, createErr := cl.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: p("own"), ShardCount: aws.Int32(1), Tags: map[string]string{"hall": "8"}})
	_, keepErr := cl.DecreaseStreamRetentionPeriod(ctx, &kinesis.DecreaseStreamRetentionPeriodInput{StreamName: p("own"), RetentionPeriodHours: aws.Int32(1)})
	if err := errors.Join(splitErr, tagErr, createErr, keepErr); err != nil {
		t.Fatal(err)
	}
	g.stop()
	g.start(t, "streams again")
	shards, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: p("line")})
	if err != nil || len(shards.Shards) != 4 || shards.Shards[0].SequenceNumberRange.EndingSequenceNumber == nil || *shards.Shards[3].ParentShardId != "shardId-000000000000" {
		t.Errorf("shards after a restart: %+v, %v", shards, err)
	}
	for stream, hall := range map[string]string{"line": "7", "own": "8"} {
		tags, err := cl.ListTagsForStream(ctx, &kinesis.ListTagsForStreamInput{StreamName: &stream})
		if err != nil || len(tags.Tags) != 1 || *tags.Tags[0].Value != hall {
			t.Errorf("tags of %s after a restart: %+v, %v", stream, tags, err)
		}
	}
	d, err := cl.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: p("own")})
	if err != nil || *d.StreamDescriptionSummary.RetentionPeriodHours != 1 {
		t.Errorf("own after a restart: %+v, %v", d, err)
	}
	if _, err := cl.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: p("own")}); err != nil {
		t.Error(err)
	}
	g.sound(t)
}
