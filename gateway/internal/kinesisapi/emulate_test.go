package kinesisapi_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

const throttled = "ProvisionedThroughputExceededException"

// putEntries puts n records of size bytes with the key and gives how many were
// stored.
func (b *box) putEntries(cl *kinesis.Client, stream, key string, n, size int) (stored int) {
	b.t.Helper()
	in := &kinesis.PutRecordsInput{StreamName: &stream}
	for range n {
		in.Records = append(in.Records, entry(key, make([]byte, size)))
	}
	out, err := cl.PutRecords(b.t.Context(), in)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, r := range out.Records {
		switch {
		case r.ErrorCode == nil:
			stored++
		case *r.ErrorCode != throttled || !strings.HasPrefix(*r.ErrorMessage, "Rate exceeded for shard shardId-00000000000") ||
			!strings.HasSuffix(*r.ErrorMessage, "in stream "+stream+" under account 000000000000."):
			b.t.Errorf("%s: %s", *r.ErrorCode, *r.ErrorMessage)
		}
	}
	if int(*out.FailedRecordCount) != n-stored {
		b.t.Errorf("%d records failed, and %d say so", n-stored, *out.FailedRecordCount)
	}
	return stored
}

func TestLimitsIn(t *testing.T) {
	b := start(t, kinesisapi.Config{Limits: "aws"}, spool.Config{})
	b.clock.Stop()
	st := b.create("s", 2)
	cl := b.client()
	left, right := "", "" // keys of either shard
	for i := 0; left == "" || right == ""; i++ {
		k := fmt.Sprint(i)
		out, err := cl.PutRecord(t.Context(), putRecord("s", k, ""))
		if err != nil {
			t.Fatal(err)
		}
		if *out.ShardId == shard0 {
			left = k
		} else {
			right = k
		}
	}
	b.clock.Move(time.Minute)
	sum := st.Shards()[0].Next
	// A second's worth of records, and no more until time has passed.
	if n := b.putEntries(cl, "s", left, 500, 10); n != 500 {
		t.Errorf("%d of the first 500", n)
	}
	if n := b.putEntries(cl, "s", left, 499, 10); n != 499 {
		t.Errorf("%d of the next 499", n)
	}
	if n := b.putEntries(cl, "s", left, 20, 10); n != 1 {
		t.Errorf("%d beyond 999 of 1,000 in a second", n)
	}
	_, err := cl.PutRecord(t.Context(), putRecord("s", left, "x"))
	refused(t, err, throttled, "Rate exceeded for shard "+shard0+" in stream s")
	if n := b.putEntries(cl, "s", right, 500, 10); n != 500 {
		t.Errorf("the other shard took %d", n)
	}
	b.clock.Move(100 * time.Millisecond)
	if n := b.putEntries(cl, "s", left, 200, 10); n != 100 {
		t.Errorf("%d after a tenth of a second", n)
	}
	// Bytes: a MiB a second, keys counted.
	b.clock.Move(time.Minute)
	if n := b.putEntries(cl, "s", left, 12, 100<<10-len(left)); n != 10 {
		t.Errorf("%d records of 100 KiB in a second", n)
	}
	b.clock.Move(50 * time.Millisecond)
	if n := b.putEntries(cl, "s", left, 1, 100<<10); n != 0 {
		t.Error("a record beyond the rate was taken")
	}
	b.clock.Move(time.Second)
	if n := b.putEntries(cl, "s", left, 2, 1<<20-len(left)); n != 1 {
		t.Errorf("%d records of a MiB in a second", n)
	}
	if got := st.Shards()[0].Next - sum; got != 1000+100+10+1 {
		t.Errorf("%d records are stored", got)
	}
}

func TestLimitsOut(t *testing.T) {
	b := start(t, kinesisapi.Config{Limits: "aws"}, spool.Config{})
	b.clock.Stop()
	b.create("s", 1)
	cl := b.client()
	for range 11 {
		if n := b.putEntries(cl, "s", "k", 1, 1<<20-1); n != 1 {
			t.Fatal("a MiB was refused")
		}
		b.clock.Move(time.Second)
	}
	iterator := func() *string {
		it, err := cl.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{
			StreamName: aws.String("s"), ShardId: aws.String(shard0), ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
		})
		if err != nil {
			t.Fatal(err)
		}
		return it.ShardIterator
	}
	get := func(limit int32) (int, error) {
		out, err := cl.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: iterator(), Limit: &limit})
		if err != nil {
			return 0, err
		}
		return len(out.Records), nil
	}
	// Ten megabytes, then nothing for five seconds.
	if n, err := get(10000); n != 10 || err != nil {
		t.Fatalf("%d records, %v", n, err)
	}
	for range 4 {
		b.clock.Move(1200 * time.Millisecond)
		_, err := get(1)
		refused(t, err, throttled, "Rate exceeded for shard "+shard0+" in stream s under account 000000000000.")
	}
	b.clock.Move(200 * time.Millisecond)
	if n, err := get(1); n != 1 || err != nil {
		t.Errorf("after five seconds: %d records, %v", n, err)
	}
	// Five calls a second.
	b.clock.Move(10 * time.Second)
	at := iterator()
	call := func() error {
		_, err := cl.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: at, Limit: aws.Int32(1)})
		b.clock.Move(time.Millisecond)
		return err
	}
	for range 3 { // a MiB each: two on credit, and one that has to be paid for
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, call(), throttled, "Rate exceeded")
	b.clock.Move(500 * time.Millisecond)
	if err := call(); err != nil {
		t.Errorf("half a second later: %v", err)
	}
	tip, err := cl.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{
		StreamName: aws.String("s"), ShardId: aws.String(shard0), ShardIteratorType: types.ShardIteratorTypeLatest,
	})
	if err != nil {
		t.Fatal(err)
	}
	at = tip.ShardIterator
	b.clock.Move(10 * time.Second)
	for range 5 {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, call(), throttled, "Rate exceeded")
	b.clock.Move(200 * time.Millisecond)
	if err := call(); err != nil {
		t.Error(err)
	}
}

func TestLimitsOff(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.clock.Stop()
	b.create("s", 1)
	cl := b.client()
	for range 4 {
		if n := b.putEntries(cl, "s", "k", 500, 1000); n != 500 {
			t.Errorf("%d of 500 without limits", n)
		}
	}
	if err := (kinesisapi.Config{Limits: "gcp"}).Check(); err == nil || !strings.HasPrefix(err.Error(), "limits:") {
		t.Errorf("limits = \"gcp\": %v", err)
	}
}
