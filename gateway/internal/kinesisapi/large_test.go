package kinesisapi_test

import (
	"bytes"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// TestLargeRecords: what UpdateMaxRecordSize allows goes in and comes out, what
// is one byte more does not.
func TestLargeRecords(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	for _, kib := range []int32{2048, 10240, 1024} {
		if _, err := cl.UpdateMaxRecordSize(ctx, &kinesis.UpdateMaxRecordSizeInput{StreamARN: arnOf("s"), MaxRecordSizeInKiB: &kib}); err != nil {
			t.Fatal(err)
		}
		data := bytes.Repeat([]byte{0xa5}, int(kib)<<10-1) // with its key of one byte exactly the limit
		out, err := cl.PutRecord(ctx, &kinesis.PutRecordInput{StreamName: aws.String("s"), PartitionKey: aws.String("k"), Data: data})
		if err != nil {
			t.Fatalf("a record of %d KiB: %v", kib, err)
		}
		_, err = cl.PutRecord(ctx, &kinesis.PutRecordInput{StreamName: aws.String("s"), PartitionKey: aws.String("kk"), Data: data})
		refused(t, err, "InvalidArgumentException", "maximum record size")
		got := b.get(cl, b.iter(cl, kinesis.GetShardIteratorInput{
			StreamName: aws.String("s"), ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, StartingSequenceNumber: out.SequenceNumber,
		}), 0)
		if len(got.Records) != 1 || !bytes.Equal(got.Records[0].Data, data) {
			t.Errorf("a record of %d KiB did not come back as it was put", kib)
		}
	}
}
