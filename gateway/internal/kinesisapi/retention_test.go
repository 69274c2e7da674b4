package kinesisapi_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

// TestReadBehindTheTrimHorizon: what an iterator points to has gone; the
// reader goes on at the oldest record that is kept, as Kinesis does.
func TestReadBehindTheTrimHorizon(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{Segment: 256 << 10})
	st, err := b.sp.CreateStream(t.Context(), spool.StreamConfig{Name: "s", Class: record.ClassTelemetry, MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	cl, ctx := b.client(), t.Context()
	in := kinesis.GetShardIteratorInput{StreamName: aws.String("s"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon}
	oldest := b.iter(cl, in)
	first, err := cl.PutRecord(ctx, putRecord("s", "k", "first"))
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("x"), 100<<10)
	eventually(t, "the end of the first record", func() bool {
		if _, err := cl.PutRecord(ctx, putRecord("s", "k", string(data))); err != nil {
			t.Fatal(err)
		}
		return st.Shards()[0].First > 1
	})
	for name, it := range map[string]*string{
		"an old iterator":   oldest,
		"the first's place": b.iter(cl, kinesis.GetShardIteratorInput{StreamName: in.StreamName, ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, StartingSequenceNumber: first.SequenceNumber}),
		"the trim horizon":  b.iter(cl, in),
	} {
		out := b.get(cl, it, 0)
		if len(out.Records) == 0 || string(out.Records[0].Data) == "first" {
			t.Errorf("%s: %d records, and the first is not gone", name, len(out.Records))
		}
		if *out.MillisBehindLatest != 0 {
			t.Errorf("%s: read to the end, yet %d ms behind", name, *out.MillisBehindLatest)
		}
	}
}

// TestFullSpool: a stream that holds its producers back answers as Kinesis
// does when it is told too much.
func TestFullSpool(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{Quota: 8 << 20, Segment: 256 << 10})
	cl, ctx := b.client(), t.Context()
	st, err := b.sp.CreateStream(ctx, spool.StreamConfig{Name: "held", Class: record.ClassEvidence})
	if err != nil {
		t.Fatal(err)
	}
	// An uplink that has delivered nothing is what keeps the records.
	uplink, err := st.Cursor(ctx, "uplink", st.Shards()[0].ID, spool.Oldest())
	if err != nil {
		t.Fatal(err)
	}
	defer uplink.Close()
	data := bytes.Repeat([]byte("x"), 500<<10)
	acked := 0
	for err == nil && acked < 100 {
		if _, err = cl.PutRecord(ctx, putRecord("held", "k", string(data))); err == nil {
			acked++
		}
	}
	if _, ok := errors.AsType[*types.ProvisionedThroughputExceededException](err); !ok {
		t.Fatalf("after %d records of 500 kB into 8 MB: %v", acked, err)
	}
	out, err := cl.PutRecords(ctx, &kinesis.PutRecordsInput{StreamName: aws.String("held"), Records: []types.PutRecordsRequestEntry{entry("k", data)}})
	if err != nil || *out.FailedRecordCount != 1 || *out.Records[0].ErrorCode != "ProvisionedThroughputExceededException" {
		t.Errorf("full: %v, %v", out, err)
	}
	// What was acknowledged is there, and reading goes on.
	got, it := 0, b.iter(cl, kinesis.GetShardIteratorInput{StreamName: aws.String("held"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
	for {
		out := b.get(cl, it, 0)
		got += len(out.Records)
		if it = out.NextShardIterator; *out.MillisBehindLatest == 0 {
			break
		}
	}
	if got != acked {
		t.Errorf("%d records read, %d acknowledged", got, acked)
	}
}
