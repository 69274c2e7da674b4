//go:build peers

package main

import (
	"encoding/base64"
	"fmt"
	"slices"
)

// firehose puts onto the same stream under the name of a delivery stream.
func (r *column) firehose() {
	names := list(r.ok("firehose:ListDeliveryStreams", "", obj{"Limit": 1000}), "DeliveryStreamNames")
	r.check(slices.Contains(names, any(r.stream)), "firehose:ListDeliveryStreams", "%v", names)
	d := sub(r.ok("firehose:DescribeDeliveryStream", "", obj{"DeliveryStreamName": r.stream}), "DeliveryStreamDescription")
	r.check(str(d, "DeliveryStreamName") == r.stream && str(d, "DeliveryStreamStatus") == "ACTIVE", "firehose:DescribeDeliveryStream", "%v", d)
	one := r.ok("firehose:PutRecord", "", obj{"DeliveryStreamName": r.stream, "Record": obj{"Data": base64.StdEncoding.EncodeToString([]byte("firehose-one\n"))}})
	r.check(str(one, "RecordId") != "", "firehose:PutRecord", "%v", one)
	var recs []any
	for i := range 500 {
		recs = append(recs, obj{"Data": base64.StdEncoding.EncodeToString(fmt.Appendf([]byte{0, 0xff}, "firehose-%d", i))})
	}
	batch := r.ok("firehose:PutRecordBatch", "500 records", obj{"DeliveryStreamName": r.stream, "Records": recs})
	r.check(num(batch, "FailedPutCount") == 0 && len(list(batch, "RequestResponses")) == 500, "firehose:PutRecordBatch: 500 records", "%v", batch["FailedPutCount"])
	r.refused("firehose:PutRecordBatch", "501 records", "ValidationException", obj{"DeliveryStreamName": r.stream, "Records": append(recs, recs[0])})
	r.refused("firehose:PutRecord", "no such stream", "ResourceNotFoundException", obj{"DeliveryStreamName": "nobody-made-it", "Record": obj{"Data": "eA=="}})
	const invalid = "InvalidArgumentException"
	name := obj{"DeliveryStreamName": r.stream}
	r.refused("firehose:CreateDeliveryStream", "", invalid, obj{"DeliveryStreamName": "made-here"})
	r.refused("firehose:DeleteDeliveryStream", "", "ResourceInUseException", name)
	r.refused("firehose:UpdateDestination", "", invalid, obj{"DeliveryStreamName": r.stream, "CurrentDeliveryStreamVersionId": "1", "DestinationId": "destinationId-000000000001"})
	r.refused("firehose:TagDeliveryStream", "", invalid, obj{"DeliveryStreamName": r.stream, "Tags": []any{obj{"Key": "a", "Value": "b"}}})
	r.refused("firehose:UntagDeliveryStream", "", invalid, obj{"DeliveryStreamName": r.stream, "TagKeys": []any{"a"}})
	r.refused("firehose:ListTagsForDeliveryStream", "", invalid, name)
	r.refused("firehose:StartDeliveryStreamEncryption", "", invalid, name)
	r.refused("firehose:StopDeliveryStreamEncryption", "", invalid, name)
	found := map[string]int{}
	for _, v := range list(r.ok("ListShards", "", obj{"StreamName": r.stream}), "Shards") {
		for _, x := range r.readShard(str(v.(obj), "ShardId"), obj{"ShardIteratorType": "TRIM_HORIZON"}, 0) {
			found[str(x, "Data")]++
		}
	}
	for i, v := range recs {
		r.check(found[str(v.(obj), "Data")] == 1, "firehose:PutRecordBatch: 500 records", "record %d is there %d times", i, found[str(v.(obj), "Data")])
	}
}
