package kinesisapi_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/conf"
	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// policyKeys have the name of what they may do for a secret too.
func policyKeys() []kinesisapi.Key {
	key := func(name string, read, write, admin []string) kinesisapi.Key {
		return kinesisapi.Key{AccessKey: name, SecretKey: conf.NewSecret("secret of " + name), Read: read, Write: write, Admin: admin}
	}
	return []kinesisapi.Key{
		key("ALL", nil, nil, nil),
		key("READER", []string{"line-*"}, nil, nil),
		key("WRITER", nil, []string{"line-1", "line-?x"}, nil),
		key("ADMIN", nil, nil, []string{"new-*", "line-1"}),
		key("STAR", []string{"*"}, []string{"line-2"}, nil),
	}
}

func (b *box) as(name string) *kinesis.Client {
	return b.client(func(o *kinesis.Options) {
		o.Credentials = credentials.NewStaticCredentialsProvider(name, "secret of "+name, "")
	})
}

// TestPolicy asks everything of every stream with every key.
func TestPolicy(t *testing.T) {
	b := start(t, kinesisapi.Config{Keys: policyKeys()}, spool.Config{})
	streams := []string{"line-1", "line-2", "line-3x", "other"}
	for _, name := range streams {
		b.create(name, 1)
	}
	for key, want := range map[string]struct{ describe, read, write []string }{
		"ALL":    {streams, streams, streams},
		"READER": {[]string{"line-1", "line-2", "line-3x"}, []string{"line-1", "line-2", "line-3x"}, nil},
		"WRITER": {[]string{"line-1", "line-3x"}, nil, []string{"line-1", "line-3x"}},
		"ADMIN":  {[]string{"line-1"}, nil, nil},
		"STAR":   {streams, streams, []string{"line-2"}},
	} {
		cl := b.as(key)
		for _, name := range streams {
			for _, c := range []struct {
				action  string
				allowed []string
				do      func(stream *string) error
			}{
				{"DescribeStream", want.describe, func(stream *string) error {
					_, err := cl.DescribeStream(t.Context(), &kinesis.DescribeStreamInput{StreamName: stream})
					return err
				}},
				{"DescribeStreamSummary", want.describe, func(stream *string) error {
					_, err := cl.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamARN: aws.String("arn:aws:kinesis:us-east-1:000000000000:stream/" + *stream)})
					return err
				}},
				{"ListShards", want.describe, func(stream *string) error {
					_, err := cl.ListShards(t.Context(), &kinesis.ListShardsInput{StreamName: stream})
					return err
				}},
				{"GetShardIterator", want.read, func(stream *string) error {
					_, err := cl.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{StreamName: stream, ShardId: aws.String("shardId-000000000000"), ShardIteratorType: types.ShardIteratorTypeLatest})
					return err
				}},
				{"GetRecords", want.read, func(stream *string) error {
					it, err := b.as("ALL").GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{StreamName: stream, ShardId: aws.String("shardId-000000000000"), ShardIteratorType: types.ShardIteratorTypeLatest})
					if err != nil {
						return err
					}
					_, err = cl.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: it.ShardIterator})
					return err
				}},
				{"PutRecord", want.write, func(stream *string) error {
					_, err := cl.PutRecord(t.Context(), putRecord(*stream, "k", "x"))
					return err
				}},
				{"PutRecords", want.write, func(stream *string) error {
					_, err := cl.PutRecords(t.Context(), &kinesis.PutRecordsInput{StreamName: stream, Records: []types.PutRecordsRequestEntry{entry("k", []byte("x"))}})
					return err
				}},
			} {
				err := c.do(aws.String(name))
				if slices.Contains(c.allowed, name) {
					if err != nil {
						t.Errorf("%s may not %s %s: %v", key, c.action, name, err)
					}
					continue
				}
				refused(t, err, "AccessDeniedException", "User: arn:aws:iam::000000000000:user/"+key+" is not authorized to perform: kinesis:"+c.action+
					" on resource: arn:aws:kinesis:us-east-1:000000000000:stream/"+name+" because no identity-based policy allows the kinesis:"+c.action+" action")
			}
		}
		out, err := cl.ListStreams(t.Context(), &kinesis.ListStreamsInput{})
		if err != nil || !slices.Equal(out.StreamNames, want.describe) {
			t.Errorf("%s lists %v, %v; want %v", key, out.StreamNames, err, want.describe)
		}
	}
}

// TestPolicyHidesStreams: a key is not told whether a stream is there that it
// has no business with, and makes none but its own.
func TestPolicyHidesStreams(t *testing.T) {
	b := start(t, kinesisapi.Config{Keys: policyKeys()}, spool.Config{})
	_, err := b.as("READER").DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("none")})
	refused(t, err, "AccessDeniedException", "stream/none")
	_, err = b.as("READER").DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("line-none")})
	refused(t, err, "ResourceNotFoundException", "line-none")
	create := func(key, stream string) error {
		_, err := b.as(key).CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: aws.String(stream), ShardCount: aws.Int32(1)})
		return err
	}
	refused(t, create("STAR", "s"), "AccessDeniedException", "kinesis:CreateStream on resource")
	refused(t, create("ADMIN", "s"), "AccessDeniedException", "stream/s")
	if err := create("ADMIN", "new-s"); err != nil {
		t.Error(err)
	}
	if err := create("ALL", "s"); err != nil {
		t.Error(err)
	}
	for _, list := range []string{"Kinesis_20131202.ListStreams", "Firehose_20150804.ListDeliveryStreams"} {
		if !slices.Contains(kinesisapi.Targets(b.srv), list) {
			continue // not offered
		}
		resp, answer := b.do(&http.Transport{}, b.signedAs(aws.Credentials{AccessKeyID: "READER", SecretAccessKey: "secret of READER"}, list, "{}"))
		if resp.StatusCode != http.StatusOK || strings.Contains(answer, "new-s") {
			t.Errorf("%s: answered %s %s", list, resp.Status, answer)
		}
	}
	// A list is paged as if the others were not there.
	for _, name := range []string{"line-1", "m", "line-2", "n", "line-3"} {
		b.create(name, 1)
	}
	var seen []string
	in := &kinesis.ListStreamsInput{Limit: aws.Int32(1)}
	for range 4 {
		out, err := b.as("READER").ListStreams(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, out.StreamNames...)
		if in.NextToken = out.NextToken; in.NextToken == nil {
			break
		}
	}
	if want := []string{"line-1", "line-2", "line-3"}; !slices.Equal(seen, want) {
		t.Errorf("listed %v, want %v", seen, want)
	}
}

// TestEveryOperationHasAPolicy sends every operation of the table with a key
// that may do nothing with the stream: none may answer 200 about it.
func TestEveryOperationHasAPolicy(t *testing.T) {
	b := start(t, kinesisapi.Config{Keys: policyKeys()}, spool.Config{})
	b.create("other", 1)
	reader := aws.Credentials{AccessKeyID: "READER", SecretAccessKey: "secret of READER"}
	members := map[string]any{
		"StreamName": "other", "StreamARN": "arn:aws:kinesis:us-east-1:000000000000:stream/other", "ResourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/other",
		"ShardId": "shardId-000000000000", "ShardIteratorType": "LATEST", "PartitionKey": "k", "Data": "aGk=",
		"Records": []any{map[string]any{"PartitionKey": "k", "Data": "aGk="}}, "ShardCount": 1, "RetentionPeriodHours": 48,
		"ShardToSplit": "shardId-000000000000", "NewStartingHashKey": "1000", "ShardToMerge": "shardId-000000000000", "AdjacentShardToMerge": "shardId-000000000001",
		"TargetShardCount": 2, "ScalingType": "UNIFORM_SCALING", "Tags": map[string]string{"a": "b"}, "TagKeys": []string{"a"}, "ConsumerName": "c",
	}
	body, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, op := range kinesisapi.Targets(b.srv) {
		switch _, name, _ := strings.Cut(op, "."); name {
		case "ListStreams", "ListChannels", "DescribeLimits", "DescribeAccountSettings", // of no stream
			"UpdateAccountSettings", "ListDeliveryStreams",
			"GetRecords", "SubscribeToShard": // of what only another call gives
			continue
		}
		asked++
		resp, answer := b.do(&http.Transport{}, b.signedAs(reader, op, string(body)))
		if resp.StatusCode == http.StatusOK || strings.Contains(answer, "ResourceNotFoundException") {
			t.Errorf("%s: answered %s %s", op, resp.Status, answer)
		}
	}
	if asked < 8 {
		t.Errorf("only %d operations asked", asked)
	}
}
