package kinesisapi_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

func TestPartialFailure(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	b.in.before = func(_ context.Context, _ string, recs []record.Record, done func([]record.Result)) (bool, error) {
		rs := make([]record.Result, len(recs))
		rs[0].Pos = b.pos("s", 41)
		rs[1].Err = record.ErrFull
		rs[2].Err = fmt.Errorf("commit: %w", record.ErrCannotStore)
		done(rs)
		return true, nil
	}
	in := &kinesis.PutRecordsInput{StreamName: aws.String("s"), Records: []types.PutRecordsRequestEntry{entry("a", nil), entry("b", nil), entry("c", nil)}}
	for i := range in.Records {
		in.Records[i].Data = []byte{}
	}
	out, err := cl.PutRecords(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	r := out.Records
	if *out.FailedRecordCount != 2 || len(r) != 3 {
		t.Fatalf("%d failed of %d", *out.FailedRecordCount, len(r))
	}
	if r[0].ErrorCode != nil || r[0].SequenceNumber == nil || *r[0].ShardId != "shardId-000000000000" {
		t.Errorf("the stored one: %+v", r[0])
	}
	if *r[1].ErrorCode != "ProvisionedThroughputExceededException" || r[1].SequenceNumber != nil ||
		*r[1].ErrorMessage != "Rate exceeded for shard shardId-000000000000 in stream s under account 000000000000." {
		t.Errorf("the one there was no room for: %s %s", *r[1].ErrorCode, *r[1].ErrorMessage)
	}
	if *r[2].ErrorCode != "InternalFailure" || *r[2].ErrorMessage != "Internal Service Failure" {
		t.Errorf("the one that failed: %s %s", *r[2].ErrorCode, *r[2].ErrorMessage)
	}
	if n := b.srv.Errors(); n != 1 {
		t.Errorf("%d errors of our own, want 1", n)
	}
}

// TestPutRefused: what a put is answered that stores nothing. That a stream was
// deleted or the gateway stops is no fault of ours.
func TestPutRefused(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	in := &kinesis.PutRecordsInput{StreamName: aws.String("s"), Records: slices.Repeat([]types.PutRecordsRequestEntry{entry("a", []byte{})}, 3)}
	for _, c := range []struct {
		err                 error
		entry, single, text string
		faults              uint64
	}{
		{record.ErrFull, "ProvisionedThroughputExceededException", "ProvisionedThroughputExceededException", "Rate exceeded", 0},
		{record.ErrReadOnly, "InternalFailure", "InternalFailureException", "Internal Service Failure", 5},
		{record.ErrCannotStore, "InternalFailure", "InternalFailureException", "Internal Service Failure", 5},
		{record.ErrNoStream, "", "ResourceNotFoundException", "Stream s under account 000000000000 not found.", 0},
		{record.ErrClosed, "", "ServiceUnavailableException", "stopping", 0},
	} {
		before := b.srv.Errors()
		b.in.before = func(context.Context, string, []record.Record, func([]record.Result)) (bool, error) {
			return true, c.err
		}
		out, err := cl.PutRecords(ctx, in)
		if c.entry == "" {
			refused(t, err, c.single, c.text)
		} else if err != nil || *out.FailedRecordCount != 3 || *out.Records[2].ErrorCode != c.entry {
			t.Errorf("%v: %v, %v", c.err, out, err)
		}
		_, err = cl.PutRecord(ctx, putRecord("s", "k", "x"))
		refused(t, err, c.single, c.text)
		b.in.before = func(_ context.Context, _ string, _ []record.Record, done func([]record.Result)) (bool, error) {
			done([]record.Result{{Err: c.err}})
			return true, nil
		}
		_, err = cl.PutRecord(ctx, putRecord("s", "k", "x"))
		refused(t, err, c.single, c.text)
		if n := b.srv.Errors() - before; n != c.faults {
			t.Errorf("%v counts as %d errors of our own, want %d", c.err, n, c.faults)
		}
	}
	// The queue stayed full until the wait was given up.
	b.in.before = func(context.Context, string, []record.Record, func([]record.Result)) (bool, error) {
		return true, fmt.Errorf("wait for room: %w", context.DeadlineExceeded)
	}
	_, err := cl.PutRecord(ctx, putRecord("s", "k", "x"))
	refused(t, err, "ProvisionedThroughputExceededException", "Rate exceeded")
	// A log that answers for too few records is not believed.
	b.in.before = func(_ context.Context, _ string, _ []record.Record, done func([]record.Result)) (bool, error) {
		done([]record.Result{{Pos: b.pos("s", 1)}})
		return true, nil
	}
	if out, err := cl.PutRecords(ctx, in); err != nil || *out.FailedRecordCount != 3 {
		t.Errorf("one result for three records: %v, %v", out, err)
	}
	b.in.before = func(context.Context, string, []record.Record, func([]record.Result)) (bool, error) {
		return true, record.ErrFull
	}
	_, err = cl.PutRecord(ctx, putRecord("s", "k", "x"))
	if _, ok := errors.AsType[*types.ProvisionedThroughputExceededException](err); !ok {
		t.Errorf("a full spool is %v", err)
	}
}

// pos is a place in a stream's first shard.
func (b *box) pos(stream string, seq uint64) record.Pos {
	b.t.Helper()
	st, err := b.sp.Stream(stream)
	if err != nil {
		b.t.Fatal(err)
	}
	return record.Pos{Shard: st.Shards()[0].ID, Seq: seq}
}
