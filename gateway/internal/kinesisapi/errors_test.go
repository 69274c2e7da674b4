package kinesisapi_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// A refusal is a call that must fail, with the error's name and a part of its
// text.
type refusal struct {
	name       string
	call       func() error
	code, text string
}

func (b *box) refuses(t *testing.T, cases []refusal) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { refused(t, c.call(), c.code, c.text) })
	}
	// Nothing of all this was stored.
	for _, st := range b.sp.Streams() {
		for _, sh := range st.Shards() {
			if sh.Next > 1 {
				t.Errorf("stream %s has records up to %d", st.Name(), sh.Next-1)
			}
		}
	}
	if _, err := b.sp.Stream("n"); err == nil {
		t.Error("a refused stream was created")
	}
}

func TestCreateRefusals(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 2)
	cl, ctx, p := b.client(), t.Context(), aws.String
	s := p("s")
	create := func(in kinesis.CreateStreamInput) func() error {
		return func() error { _, err := cl.CreateStream(ctx, &in); return err }
	}
	b.refuses(t, []refusal{
		{"create twice", create(kinesis.CreateStreamInput{StreamName: s, ShardCount: aws.Int32(1)}), "ResourceInUseException", "Stream s under account 000000000000 already exists."},
		{"create a bad name", create(kinesis.CreateStreamInput{StreamName: p("a b"), ShardCount: aws.Int32(1)}), "ValidationException", "1 validation error detected: Value 'a b' at 'streamName' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+"},
		{"create a long name", create(kinesis.CreateStreamInput{StreamName: p(strings.Repeat("n", 129))}), "ValidationException", "Member must have length less than or equal to 128"},
		{"create an empty name", create(kinesis.CreateStreamInput{StreamName: p("")}), "ValidationException", "2 validation errors detected: Value '' at 'streamName' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"create no shards", create(kinesis.CreateStreamInput{StreamName: p("n"), ShardCount: aws.Int32(0)}), "ValidationException", "Value '0' at 'shardCount' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		{"create too many shards", create(kinesis.CreateStreamInput{StreamName: p("n"), ShardCount: aws.Int32(5000)}), "LimitExceededException", "shard limit"},
		{"provisioned without shards", create(kinesis.CreateStreamInput{StreamName: p("n"), StreamModeDetails: &types.StreamModeDetails{StreamMode: types.StreamModeProvisioned}}), "InvalidArgumentException", "ShardCount must be specified"},
		{"on demand with shards", create(kinesis.CreateStreamInput{StreamName: p("n"), ShardCount: aws.Int32(1), StreamModeDetails: &types.StreamModeDetails{StreamMode: types.StreamModeOnDemand}}), "InvalidArgumentException", "ShardCount must not be specified"},
		{"create with a mode unknown", create(kinesis.CreateStreamInput{StreamName: p("n"), StreamModeDetails: &types.StreamModeDetails{StreamMode: "OTHER"}}), "ValidationException", "Value 'OTHER' at 'streamModeDetails.streamMode' failed to satisfy constraint: Member must satisfy enum value set: [PROVISIONED, ON_DEMAND]"},
		{"create with tags of other characters", create(kinesis.CreateStreamInput{StreamName: p("n"), Tags: map[string]string{"a": "b^"}}), "InvalidArgumentException", "invalid characters"},
		{"create with larger records", create(kinesis.CreateStreamInput{StreamName: p("n"), MaxRecordSizeInKiB: aws.Int32(10241)}), "ValidationException", "Value '10241' at 'maxRecordSizeInKiB'"},
		{"create with warm throughput", create(kinesis.CreateStreamInput{StreamName: p("n"), WarmThroughputMiBps: aws.Int32(1)}), "InvalidArgumentException", "WarmThroughputMiBps"},
		{"create without keys", create(kinesis.CreateStreamInput{StreamName: p("n"), RecordDistributionStrategy: types.RecordDistributionStrategyAuto}), "InvalidArgumentException", "RecordDistributionStrategy"},
		{"delete nothing", func() error {
			_, err := cl.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: p("none")})
			return err
		}, "ResourceNotFoundException", "Stream none under account 000000000000 not found."},
	})
}

func TestListRefusals(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 2)
	cl, ctx, p := b.client(), t.Context(), aws.String
	s := p("s")
	b.refuses(t, []refusal{
		{"describe nothing", func() error {
			_, err := cl.DescribeStream(ctx, &kinesis.DescribeStreamInput{StreamName: p("none")})
			return err
		}, "ResourceNotFoundException", "Stream none under account 000000000000 not found."},
		{"describe no name", func() error {
			_, err := cl.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{})
			return err
		}, "InvalidArgumentException", "StreamName or StreamARN"},
		{"a bad ARN", func() error {
			_, err := cl.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamARN: p("arn:nonsense")})
			return err
		}, "ValidationException", "'streamARN'"},
		{"list a bad limit", func() error {
			_, err := cl.ListStreams(ctx, &kinesis.ListStreamsInput{Limit: aws.Int32(0)})
			return err
		}, "ValidationException", "Value '0' at 'limit'"},
		{"filter without a shard", func() error {
			_, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: s, ShardFilter: &types.ShardFilter{Type: types.ShardFilterTypeAfterShardId}})
			return err
		}, "InvalidArgumentException", "ShardId must be specified"},
		{"filter without a time", func() error {
			_, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: s, ShardFilter: &types.ShardFilter{Type: types.ShardFilterTypeAtTimestamp}})
			return err
		}, "InvalidArgumentException", "Timestamp must be specified"},
		{"filter with a time too many", func() error {
			_, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: s, ShardFilter: &types.ShardFilter{Type: types.ShardFilterTypeAtLatest, Timestamp: aws.Time(time.Now())}})
			return err
		}, "InvalidArgumentException", "Timestamp must not be specified"},
	})
}

func TestPutRefusals(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 2)
	cl, ctx, p := b.client(), t.Context(), aws.String
	s, x := p("s"), []byte("x")
	long, mib := strings.Repeat("k", 257), bytes.Repeat([]byte("x"), 1<<20)
	tooMany := slices.Repeat([]types.PutRecordsRequestEntry{entry("k", x)}, 501)
	elevenMB := slices.Repeat([]types.PutRecordsRequestEntry{entry("k", mib[:1<<20-1])}, 11)
	put := func(in kinesis.PutRecordInput) func() error {
		return func() error { _, err := cl.PutRecord(ctx, &in); return err }
	}
	puts := func(e ...types.PutRecordsRequestEntry) func() error {
		return func() error {
			_, err := cl.PutRecords(ctx, &kinesis.PutRecordsInput{StreamName: s, Records: e})
			return err
		}
	}
	b.refuses(t, []refusal{
		{"two names", put(kinesis.PutRecordInput{StreamName: p("t"), StreamARN: p("arn:aws:kinesis:us-east-1:000000000000:stream/s"), Data: x, PartitionKey: p("k")}), "InvalidArgumentException", "do not name the same stream"},
		{"put to nothing", put(kinesis.PutRecordInput{StreamName: p("none"), Data: x, PartitionKey: p("k")}), "ResourceNotFoundException", "Stream none under account 000000000000 not found."},
		{"put with an empty key", put(kinesis.PutRecordInput{StreamName: s, Data: x, PartitionKey: p("")}), "ValidationException", "Value '' at 'partitionKey' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"put with a long key", put(kinesis.PutRecordInput{StreamName: s, Data: x, PartitionKey: &long}), "ValidationException", "Member must have length less than or equal to 256"},
		{"put with a bad hash key", put(kinesis.PutRecordInput{StreamName: s, Data: x, PartitionKey: p("k"), ExplicitHashKey: p("01")}), "ValidationException", "Value '01' at 'explicitHashKey' failed to satisfy constraint: Member must satisfy regular expression pattern: 0|([1-9]\\d{0,38})"},
		{"put with a hash key too large", put(kinesis.PutRecordInput{StreamName: s, Data: x, PartitionKey: p("k"), ExplicitHashKey: p("340282366920938463463374607431768211456")}), "InvalidArgumentException", "[0, 2^128-1]"},
		{"put too much", put(kinesis.PutRecordInput{StreamName: s, Data: mib, PartitionKey: p("k")}), "InvalidArgumentException", "exceeds the maximum record size of 1048576 bytes"},
		{"put after nonsense", put(kinesis.PutRecordInput{StreamName: s, Data: x, PartitionKey: p("k"), SequenceNumberForOrdering: p("12")}), "InvalidArgumentException", "SequenceNumberForOrdering 12"},
		{"put, dry", put(kinesis.PutRecordInput{StreamName: s, Data: x, PartitionKey: p("k"), DryRun: aws.Bool(true)}), "DryRunOperationException", "would have succeeded"},
		{"put none", puts([]types.PutRecordsRequestEntry{}...), "ValidationException", "'records' failed to satisfy constraint: Member must"},
		{"put 501", puts(tooMany...), "ValidationException", "Value at 'records' failed to satisfy constraint: Member must have length less than or equal to 500"},
		{"put eleven megabytes", puts(elevenMB...), "InvalidArgumentException", "Records size exceeds 10 MB limit"},
		{"put one too large", puts(entry("k", x), entry("k", mib)), "InvalidArgumentException", "maximum record size"},
		{"put one with a long key", puts(entry("k", x), entry(long, x)), "ValidationException", "at 'records.2.member.partitionKey' failed to satisfy constraint"},
		{"puts, dry", func() error {
			_, err := cl.PutRecords(ctx, &kinesis.PutRecordsInput{StreamName: s, Records: tooMany[:1], DryRun: aws.Bool(true)})
			return err
		}, "DryRunOperationException", ""},
	})
	if _, err := cl.PutRecord(ctx, &kinesis.PutRecordInput{
		StreamName: s, Data: mib[:1<<20-256*4], PartitionKey: p(strings.Repeat("\U0001F600", 256)), ExplicitHashKey: p("340282366920938463463374607431768211455"),
	}); err != nil {
		t.Errorf("a record at every limit: %v", err)
	}
}

func TestReadRefusals(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 2)
	cl, ctx, p := b.client(), t.Context(), aws.String
	s, shard := p("s"), p("shardId-000000000000")
	atSeq, trim, atTime := types.ShardIteratorTypeAtSequenceNumber, types.ShardIteratorTypeTrimHorizon, types.ShardIteratorTypeAtTimestamp
	first := b.firstSequence(cl, "s")
	shards, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: s})
	if err != nil {
		t.Fatal(err)
	}
	second := shards.Shards[1].SequenceNumberRange.StartingSequenceNumber
	changed := (*first)[:55] + string('0'+((*first)[55]-'0'+1)%10)
	good := b.iter(cl, kinesis.GetShardIteratorInput{StreamName: s, ShardIteratorType: trim})
	iter := func(in kinesis.GetShardIteratorInput) func() error {
		return func() error { _, err := cl.GetShardIterator(ctx, &in); return err }
	}
	b.refuses(t, []refusal{
		{"iterator on nothing", iter(kinesis.GetShardIteratorInput{StreamName: p("none"), ShardId: shard, ShardIteratorType: trim}), "ResourceNotFoundException", "Stream none"},
		{"iterator on no shard", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: p("shardId-000000000002"), ShardIteratorType: trim}), "ResourceNotFoundException", "Could not find shard shardId-000000000002 in stream s under account 000000000000."},
		{"iterator of no type", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: "SOON"}), "ValidationException", "Value 'SOON' at 'shardIteratorType' failed to satisfy constraint: Member must satisfy enum value set: [AFTER_SEQUENCE_NUMBER, LATEST, AT_TIMESTAMP, AT_SEQUENCE_NUMBER, TRIM_HORIZON]"},
		{"sequence missing", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: atSeq}), "InvalidArgumentException", "startingSequenceNumber"},
		{"sequence too many", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: trim, StartingSequenceNumber: first}), "InvalidArgumentException", "startingSequenceNumber"},
		{"sequence malformed", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: atSeq, StartingSequenceNumber: p("x1")}), "ValidationException", "'startingSequenceNumber' failed to satisfy constraint"},
		{"sequence of another shard", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: atSeq, StartingSequenceNumber: second}), "InvalidArgumentException", "used in GetShardIterator on shard shardId-000000000000 in stream s under account 000000000000 is invalid."},
		{"sequence changed", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: atSeq, StartingSequenceNumber: &changed}), "InvalidArgumentException", "is invalid"},
		{"time missing", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: atTime}), "InvalidArgumentException", "timestamp"},
		{"time too many", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: trim, Timestamp: aws.Time(time.Now())}), "InvalidArgumentException", "timestamp"},
		{"time to come", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: atTime, Timestamp: aws.Time(time.Now().Add(time.Hour))}), "InvalidArgumentException", "cannot be greater than the currentTimestampInMillis"},
		{"iterator, dry", iter(kinesis.GetShardIteratorInput{StreamName: s, ShardId: shard, ShardIteratorType: trim, DryRun: aws.Bool(true)}), "DryRunOperationException", ""},
		{"read too many", func() error {
			_, err := cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: good, Limit: aws.Int32(10001)})
			return err
		}, "InvalidArgumentException", "at most 10000"},
		{"read none", func() error {
			_, err := cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: good, Limit: aws.Int32(0)})
			return err
		}, "ValidationException", "Value '0' at 'limit'"},
		{"read, dry", func() error {
			_, err := cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: good, DryRun: aws.Bool(true)})
			return err
		}, "DryRunOperationException", ""},
	})
}
