package kinesisapi_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// over serves a spool that lies in dir, until end is called.
func over(t *testing.T, dir string) (b *box, end func()) {
	t.Helper()
	sp, err := spool.Open(t.Context(), dir, spool.Config{Gateway: "test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b = &box{t: t, sp: sp, in: &inlet{sp: sp}}
	if b.srv, err = kinesisapi.New(kinesisapi.Config{Listen: "127.0.0.1:0"}, sp, b.in, time.Now, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.srv.Run(ctx) }()
	return b, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := sp.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A spool that was set back gives the same places again to other records. Their
// sequence numbers are others all the same, those of the records that it kept
// are as they were, and a number of a record that was lost is told from both.
func TestNumbersOfASpoolThatWasSetBack(t *testing.T) {
	dir, copied := filepath.Join(t.TempDir(), "spool"), filepath.Join(t.TempDir(), "spool")
	var numbers []string
	put := func(b *box, data string) string {
		out, err := b.client().PutRecord(t.Context(), &kinesis.PutRecordInput{StreamName: aws.String("s"), PartitionKey: aws.String("k"), Data: []byte(data)})
		if err != nil {
			t.Fatal(err)
		}
		return *out.SequenceNumber
	}
	b, end := over(t, dir)
	b.create("s", 1)
	numbers = append(numbers, put(b, "one"), put(b, "two"))
	end()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	b, end = over(t, dir)
	lost := put(b, "lost")
	end()

	if err := spool.NewEpoch(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	b, end = over(t, copied)
	defer end()
	numbers = append(numbers, put(b, "three"))
	if numbers[2] == lost || numbers[2] <= numbers[1] {
		t.Errorf("the third record has the number %s; the lost one had %s, the second has %s", numbers[2], lost, numbers[1])
	}
	iterator := func(kind types.ShardIteratorType, number *string) (string, error) {
		out, err := b.client().GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{
			StreamName: aws.String("s"), ShardId: aws.String("shardId-000000000000"), ShardIteratorType: kind, StartingSequenceNumber: number,
		})
		if err != nil {
			return "", err
		}
		return *out.ShardIterator, nil
	}
	it, err := iterator(types.ShardIteratorTypeTrimHorizon, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.client().GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: &it})
	if err != nil || len(got.Records) != 3 {
		t.Fatalf("%d records: %v", len(got.Records), err)
	}
	for i, r := range got.Records {
		if *r.SequenceNumber != numbers[i] {
			t.Errorf("record %q has the number %s, and was put under %s", r.Data, *r.SequenceNumber, numbers[i])
		}
		for _, kind := range []types.ShardIteratorType{types.ShardIteratorTypeAtSequenceNumber, types.ShardIteratorTypeAfterSequenceNumber} {
			if _, err := iterator(kind, r.SequenceNumber); err != nil {
				t.Errorf("%s %q: %v", kind, r.Data, err)
			}
		}
	}
	_, err = iterator(types.ShardIteratorTypeAfterSequenceNumber, &lost)
	refused(t, err, "InvalidArgumentException", "is invalid")
}
