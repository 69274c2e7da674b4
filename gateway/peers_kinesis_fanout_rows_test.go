//go:build peers

package main

import (
	"encoding/base64"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
)

// consumers registers one and lets the stream be pushed to it.
func (r *column) consumers() {
	reg := sub(r.ok("RegisterStreamConsumer", "", obj{"StreamARN": r.arn, "ConsumerName": "reader"}), "Consumer")
	arn := str(reg, "ConsumerARN")
	r.check(str(reg, "ConsumerName") == "reader" && len(arn) > len(r.arn), "RegisterStreamConsumer", "%v", reg)
	r.refused("RegisterStreamConsumer", "again", "ResourceInUseException", obj{"StreamARN": r.arn, "ConsumerName": "reader"})
	status := ""
	for range 200 {
		d := sub(r.ok("DescribeStreamConsumer", "", obj{"ConsumerARN": arn}), "ConsumerDescription")
		if status = str(d, "ConsumerStatus"); status != "CREATING" {
			break
		}
	}
	r.check(status == "ACTIVE", "DescribeStreamConsumer", "the consumer is %q", status)
	byName := sub(r.ok("DescribeStreamConsumer", "by name", obj{"StreamARN": r.arn, "ConsumerName": "reader"}), "ConsumerDescription")
	r.check(str(byName, "ConsumerARN") == arn && str(byName, "StreamARN") == r.arn, "DescribeStreamConsumer: by name", "%v", byName)
	r.ok("RegisterStreamConsumer", "a second", obj{"StreamARN": r.arn, "ConsumerName": "second"})
	page := r.ok("ListStreamConsumers", "", obj{"StreamARN": r.arn, "MaxResults": 1})
	names := list(page, "Consumers")
	if next := str(page, "NextToken"); next != "" {
		names = append(names, list(r.ok("ListStreamConsumers", "", obj{"StreamARN": r.arn, "NextToken": next}), "Consumers")...)
	}
	r.check(len(names) == 2, "ListStreamConsumers", "%v", names)
	n := num(sub(r.ok("DescribeStreamSummary", "", obj{"StreamName": r.stream}), "StreamDescriptionSummary"), "ConsumerCount")
	r.check(n == 2, "DescribeStreamSummary", "%v consumers", n)

	r.subscriptions(arn)
	r.ok("DeregisterStreamConsumer", "", obj{"ConsumerARN": arn})
	r.ok("DeregisterStreamConsumer", "by name", obj{"StreamARN": r.arn, "ConsumerName": "second"})
	r.refused("DescribeStreamConsumer", "gone", "ResourceNotFoundException", obj{"ConsumerARN": arn})
	r.refused("SubscribeToShard", "gone", "ResourceNotFoundException", obj{"ConsumerARN": arn, "ShardId": shardName(1), "StartingPosition": obj{"Type": "LATEST"}})
}

// subscriptions takes what is there, then what comes.
func (r *column) subscriptions(consumer string) {
	all := r.readShard(shardName(1), obj{"ShardIteratorType": "TRIM_HORIZON"}, 0)
	ask := func(variant, shard string, from obj, records int, ready func()) []obj {
		k := call{
			Service: "kinesis", Op: "SubscribeToShard", Records: records, ready: ready,
			In: obj{"ConsumerARN": consumer, "ShardId": shard, "StartingPosition": from},
		}
		a := r.c.do(r.T, k)
		// A second one within five seconds takes the place of the first or is
		// told that it is in use.
		for began := time.Now(); a.Code == "ResourceInUseException" && time.Since(began) < 10*time.Second; {
			<-time.After(500 * time.Millisecond)
			a = r.c.do(r.T, k)
		}
		var recs []obj
		for _, e := range list(r.took(row("SubscribeToShard", variant), a), "Events") {
			e := e.(obj)
			r.check(str(e, "ContinuationSequenceNumber") != "" && num(e, "MillisBehindLatest") >= 0, row("SubscribeToShard", variant), "an event without place: %v", keysOf(e))
			for _, v := range list(e, "Records") {
				recs = append(recs, v.(obj))
			}
		}
		return recs
	}
	same := func(variant string, got, want []obj) {
		r.check(len(got) >= len(want), row("SubscribeToShard", variant), "%d records of %d", len(got), len(want))
		for i := range min(len(got), len(want)) {
			for _, m := range []string{"Data", "PartitionKey", "SequenceNumber"} {
				r.check(str(got[i], m) == str(want[i], m), row("SubscribeToShard", variant), "record %d: %s differs from GetRecords'", i, m)
			}
		}
	}
	got := ask("TRIM_HORIZON", shardName(1), obj{"Type": "TRIM_HORIZON"}, len(all), nil)
	if len(got) == 0 { // the client does not offer it, or it failed
		return
	}
	same("TRIM_HORIZON", got, all)
	mid := str(all[len(all)/2], "SequenceNumber")
	same("AT_SEQUENCE_NUMBER", ask("AT_SEQUENCE_NUMBER", shardName(1), obj{"Type": "AT_SEQUENCE_NUMBER", "SequenceNumber": mid}, len(all)-len(all)/2, nil), all[len(all)/2:])

	r.refused("SubscribeToShard", "DryRun", "DryRunOperationException", obj{"ConsumerARN": consumer, "ShardId": shardName(1), "StartingPosition": obj{"Type": "LATEST"}, "DryRun": true})

	newest := str(all[len(all)-1], "SequenceNumber")
	live := rec{data: []byte("while subscribed"), key: "live", hash: "113427455640312821154458202477256070485"}
	recs := ask("a record put meanwhile", shardName(1), obj{"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": newest}, 1, func() {
		if _, err := r.witness.PutRecord(r.Context(), &kinesis.PutRecordInput{StreamName: &r.stream, Data: live.data, PartitionKey: &live.key, ExplicitHashKey: aws.String(live.hash)}); err != nil {
			r.Errorf("put while subscribed: %v", err)
		}
	})
	r.check(len(recs) == 1 && str(recs[0], "Data") == base64.StdEncoding.EncodeToString(live.data), "SubscribeToShard: a record put meanwhile", "%v", recs)
	r.refused("SubscribeToShard", "no such shard", "ResourceNotFoundException", obj{"ConsumerARN": consumer, "ShardId": shardName(77), "StartingPosition": obj{"Type": "LATEST"}})
}

func keysOf(o obj) []string { return slices.Sorted(maps.Keys(o)) }
