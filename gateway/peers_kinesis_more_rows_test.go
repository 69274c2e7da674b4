//go:build peers

package main

import (
	"bytes"
	"maps"
	"math/big"
	"slices"
)

// retention moves between an hour and a year.
func (r *column) retention() {
	hours := func() float64 {
		return num(sub(r.ok("DescribeStreamSummary", "", obj{"StreamName": r.stream}), "StreamDescriptionSummary"), "RetentionPeriodHours")
	}
	r.ok("IncreaseStreamRetentionPeriod", "", obj{"StreamName": r.stream, "RetentionPeriodHours": 8760})
	r.check(hours() == 8760, "IncreaseStreamRetentionPeriod", "it is %v hours", hours())
	r.refused("IncreaseStreamRetentionPeriod", "to less", "InvalidArgumentException", obj{"StreamName": r.stream, "RetentionPeriodHours": 30})
	r.ok("IncreaseStreamRetentionPeriod", "until the quota", obj{"StreamName": r.stream, "RetentionPeriodHours": 8761})
	r.check(hours() == 8761, "IncreaseStreamRetentionPeriod: until the quota", "it is %v hours", hours())
	r.refused("IncreaseStreamRetentionPeriod", "more than that", "InvalidArgumentException", obj{"StreamName": r.stream, "RetentionPeriodHours": 8762})
	r.ok("DecreaseStreamRetentionPeriod", "to an hour", obj{"StreamName": r.stream, "RetentionPeriodHours": 1})
	r.check(hours() == 1, "DecreaseStreamRetentionPeriod: to an hour", "it is %v hours", hours())
	r.ok("IncreaseStreamRetentionPeriod", "", obj{"StreamName": r.stream, "RetentionPeriodHours": 8760})
	r.ok("DecreaseStreamRetentionPeriod", "", obj{"StreamName": r.stream, "RetentionPeriodHours": 24})
	r.check(hours() == 24, "DecreaseStreamRetentionPeriod", "it is %v hours", hours())
	r.refused("DecreaseStreamRetentionPeriod", "to more", "InvalidArgumentException", obj{"StreamName": r.stream, "RetentionPeriodHours": 48})
}

// tagSet reads either form of a list of tags.
func tagSet(o obj) map[string]string {
	out := map[string]string{}
	for _, v := range list(o, "Tags") {
		out[str(v.(obj), "Key")] = str(v.(obj), "Value")
	}
	return out
}

func (r *column) tags() {
	want := map[string]string{"line": "7", "überschrift": "Halle Süd", "a/b+c=d": ""}
	in := obj{}
	for k, v := range want {
		in[k] = v
	}
	r.ok("AddTagsToStream", "", obj{"StreamName": r.stream, "Tags": in})
	got := tagSet(r.ok("ListTagsForStream", "", obj{"StreamName": r.stream}))
	r.check(maps.Equal(got, want), "ListTagsForStream", "%v", got)
	page := r.ok("ListTagsForStream", "a page of 1", obj{"StreamName": r.stream, "Limit": 1})
	r.check(len(list(page, "Tags")) == 1 && page["HasMoreTags"] == true, "ListTagsForStream: a page of 1", "%v", page)
	r.ok("RemoveTagsFromStream", "", obj{"StreamName": r.stream, "TagKeys": []any{"line"}})
	delete(want, "line")
	got = tagSet(r.ok("ListTagsForStream", "", obj{"StreamName": r.stream}))
	r.check(maps.Equal(got, want), "RemoveTagsFromStream", "%v", got)
	if r.ok("TagResource", "", obj{"ResourceARN": r.arn, "Tags": obj{"shift": "late"}}) == nil {
		r.table.put("ListTagsForResource", r.peer, "-")
		r.table.put("UntagResource", r.peer, "-")
		return
	}
	want["shift"] = "late"
	got = tagSet(r.ok("ListTagsForResource", "", obj{"ResourceARN": r.arn}))
	r.check(maps.Equal(got, want), "ListTagsForResource", "%v", got)
	r.ok("UntagResource", "", obj{"ResourceARN": r.arn, "TagKeys": []any{"shift"}})
	delete(want, "shift")
	got = tagSet(r.ok("ListTagsForResource", "", obj{"ResourceARN": r.arn}))
	r.check(maps.Equal(got, want), "UntagResource", "%v", got)
}

// settings: what is taken as it is, and records of up to 10 MiB.
func (r *column) settings() {
	r.ok("UpdateStreamMode", "", obj{"StreamARN": r.arn, "StreamModeDetails": obj{"StreamMode": "PROVISIONED"}})
	r.ok("DescribeAccountSettings", "", obj{})
	if r.ok("UpdateMaxRecordSize", "", obj{"StreamARN": r.arn, "MaxRecordSizeInKiB": 6144}) == nil {
		return
	}
	r.active("DescribeStreamSummary")
	size := num(sub(r.ok("DescribeStreamSummary", "", obj{"StreamName": r.stream}), "StreamDescriptionSummary"), "MaxRecordSizeInKiB")
	r.check(size == 6144 || size == -1, "UpdateMaxRecordSize", "the summary says %v", size)
	big := rec{data: bytes.Repeat([]byte("0123456789abcdef"), 5<<16), key: "large"}
	in := big.entry()
	in["StreamName"] = r.stream
	o := r.ok("PutRecord", "5 MiB after UpdateMaxRecordSize", in)
	if o == nil {
		return
	}
	got := r.readShard(str(o, "ShardId"), obj{"ShardIteratorType": "AT_SEQUENCE_NUMBER", "StartingSequenceNumber": str(o, "SequenceNumber")}, 0)
	r.check(len(got) == 1 && str(got[0], "Data") == in["Data"], "PutRecord: 5 MiB after UpdateMaxRecordSize", "it is not read back: %d records", len(got))
	r.refused("UpdateMaxRecordSize", "over 10 MiB", "ValidationException", obj{"StreamARN": r.arn, "MaxRecordSizeInKiB": 10241})
}

// dryRuns do nothing but say that they would.
func (r *column) dryRuns() {
	const would = "DryRunOperationException"
	last := r.readShard(shardName(0), obj{"ShardIteratorType": "TRIM_HORIZON"}, 0)
	in := rec{data: []byte("never"), key: "k", hash: "0"}.entry()
	in["StreamName"], in["DryRun"] = r.stream, true
	r.refused("PutRecord", "DryRun", would, in)
	r.refused("PutRecords", "DryRun", would, obj{"StreamName": r.stream, "DryRun": true, "Records": []any{rec{data: []byte("never"), key: "k", hash: "0"}.entry()}})
	r.refused("GetShardIterator", "DryRun", would, obj{"StreamName": r.stream, "ShardId": shardName(0), "ShardIteratorType": "LATEST", "DryRun": true})
	it := str(r.ok("GetShardIterator", "LATEST", obj{"StreamName": r.stream, "ShardId": shardName(0), "ShardIteratorType": "LATEST"}), "ShardIterator")
	r.refused("GetRecords", "DryRun", would, obj{"ShardIterator": it, "DryRun": true})
	now := r.readShard(shardName(0), obj{"ShardIteratorType": "TRIM_HORIZON"}, 0)
	r.check(len(now) == len(last), "PutRecords: DryRun", "%d records became %d", len(last), len(now))
}

// resharding splits, merges and rescales, and reads to the end of what closed.
func (r *column) resharding() {
	shards := func() map[string]obj {
		out := map[string]obj{}
		for _, v := range list(r.ok("ListShards", "", obj{"StreamName": r.stream}), "Shards") {
			out[str(v.(obj), "ShardId")] = v.(obj)
		}
		return out
	}
	middle := new(big.Int).Lsh(big.NewInt(1), 126) // within the first third
	r.refused("SplitShard", "outside of the shard", "InvalidArgumentException", obj{"StreamName": r.stream, "ShardToSplit": shardName(0), "NewStartingHashKey": "340282366920938463463374607431768211455"})
	r.ok("SplitShard", "", obj{"StreamName": r.stream, "ShardToSplit": shardName(0), "NewStartingHashKey": middle.String()})
	r.active("DescribeStreamSummary")
	now := shards()
	r.check(len(now) == 5, "SplitShard", "%d shards", len(now))
	low, high := now[shardName(3)], now[shardName(4)]
	r.check(str(low, "ParentShardId") == shardName(0) && str(high, "ParentShardId") == shardName(0) && str(high, "AdjacentParentShardId") == "", "SplitShard", "parents: %v, %v", low, high)
	r.check(str(sub(low, "HashKeyRange"), "StartingHashKey") == "0" && str(sub(high, "HashKeyRange"), "StartingHashKey") == middle.String() &&
		str(sub(low, "HashKeyRange"), "EndingHashKey") == new(big.Int).Sub(middle, big.NewInt(1)).String() &&
		str(sub(high, "HashKeyRange"), "EndingHashKey") == "113427455640312821154458202477256070484", "SplitShard", "ranges: %v, %v", low, high)
	r.check(str(sub(now[shardName(0)], "SequenceNumberRange"), "EndingSequenceNumber") != "" && str(sub(low, "SequenceNumberRange"), "EndingSequenceNumber") == "", "SplitShard", "ends: %v, %v", now[shardName(0)], low)
	r.endOf(shardName(0), []string{shardName(3), shardName(4)})
	r.refused("SplitShard", "a closed shard", "ResourceInUseException|InvalidArgumentException", obj{"StreamName": r.stream, "ShardToSplit": shardName(0), "NewStartingHashKey": "5"})

	r.refused("MergeShards", "not adjacent", "InvalidArgumentException", obj{"StreamName": r.stream, "ShardToMerge": shardName(3), "AdjacentShardToMerge": shardName(2)})
	r.ok("MergeShards", "", obj{"StreamName": r.stream, "ShardToMerge": shardName(3), "AdjacentShardToMerge": shardName(4)})
	r.active("DescribeStreamSummary")
	merged := shards()[shardName(5)]
	r.check(str(merged, "ParentShardId") == shardName(3) && str(merged, "AdjacentParentShardId") == shardName(4), "MergeShards", "parents: %v", merged)
	r.check(str(sub(merged, "HashKeyRange"), "StartingHashKey") == "0" && str(sub(merged, "HashKeyRange"), "EndingHashKey") == "113427455640312821154458202477256070484", "MergeShards", "range: %v", merged)
	r.endOf(shardName(4), []string{shardName(5)})

	o := r.ok("UpdateShardCount", "", obj{"StreamName": r.stream, "TargetShardCount": 4, "ScalingType": "UNIFORM_SCALING"})
	r.check(o == nil || num(o, "CurrentShardCount") == 3 && num(o, "TargetShardCount") == 4, "UpdateShardCount", "%v", o)
	r.active("DescribeStreamSummary")
	s := sub(r.ok("DescribeStreamSummary", "", obj{"StreamName": r.stream}), "StreamDescriptionSummary")
	r.check(num(s, "OpenShardCount") == 4, "UpdateShardCount", "%v open shards", s["OpenShardCount"])
	open := list(r.ok("ListShards", "filter AT_LATEST", obj{"StreamName": r.stream, "ShardFilter": obj{"Type": "AT_LATEST"}}), "Shards")
	r.check(len(open) == 4, "ListShards: filter AT_LATEST", "%d open shards", len(open))
	r.check(len(list(r.ok("ListShards", "filter FROM_TRIM_HORIZON", obj{"StreamName": r.stream, "ShardFilter": obj{"Type": "FROM_TRIM_HORIZON"}}), "Shards")) > 6, "ListShards: filter FROM_TRIM_HORIZON", "too few")
}

// endOf reads a closed shard to its end, where its children are named.
func (r *column) endOf(shard string, children []string) {
	it := str(r.ok("GetShardIterator", "TRIM_HORIZON", obj{"StreamName": r.stream, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"}), "ShardIterator")
	for range 100 {
		o := r.ok("GetRecords", "end of a closed shard", obj{"ShardIterator": it})
		if o == nil {
			return
		}
		if it = str(o, "NextShardIterator"); it != "" {
			continue
		}
		var got []string
		for _, v := range list(o, "ChildShards") {
			got = append(got, str(v.(obj), "ShardId"))
			r.check(slices.Contains(list(v.(obj), "ParentShards"), any(shard)) && str(sub(v.(obj), "HashKeyRange"), "StartingHashKey") != "", "GetRecords: end of a closed shard", "child %v", v)
		}
		r.check(slices.Equal(got, children), "GetRecords: end of a closed shard", "children of %s: %v", shard, got)
		return
	}
	r.check(false, "GetRecords: end of a closed shard", "%s has no end", shard)
}

// notOnABox: what needs a cloud around the stream. Some of it has an answer
// that is true of a box: there are no channels, no policies, no keys, and
// metrics that nobody sends are easily switched on.
func (r *column) notOnABox() {
	const ok, invalid, unknown = "", "InvalidArgumentException", "ResourceNotFoundException"
	channel := "arn:aws:kinesis:us-east-1:000000000000:channel/c"
	key := obj{"StreamName": r.stream, "EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}
	metrics := obj{"StreamName": r.stream, "ShardLevelMetrics": []any{"ALL"}}
	for _, c := range []struct {
		op   string
		in   obj
		code string
	}{
		{"StartStreamEncryption", key, "KMSNotFoundException"},
		{"StopStreamEncryption", key, invalid},
		{"EnableEnhancedMonitoring", metrics, ok},
		{"DisableEnhancedMonitoring", metrics, ok},
		{"PutResourcePolicy", obj{"ResourceARN": r.arn, "Policy": "{}"}, "AccessDeniedException"},
		{"GetResourcePolicy", obj{"ResourceARN": r.arn}, unknown},
		{"DeleteResourcePolicy", obj{"ResourceARN": r.arn}, unknown},
		{"UpdateAccountSettings", obj{"MinimumThroughputBillingCommitment": obj{"Status": "ENABLED"}}, invalid},
		{"UpdateStreamWarmThroughput", obj{"StreamName": r.stream, "WarmThroughputMiBps": 10}, invalid},
		{"UpdateStreamRecordDistributionStrategy", obj{"StreamARN": r.arn, "RecordDistributionStrategy": "AUTO"}, invalid},
		{"CreateChannel", obj{
			"ChannelName": "c", "ServiceExecutionRoleARN": "arn:aws:iam::000000000000:role/r",
			"StreamConfigurationList": []any{obj{"StreamARN": r.arn, "RecordConfiguration": obj{"RecordFormatType": "JSON"}}},
		}, invalid},
		{"DescribeChannel", obj{"ChannelARN": channel}, unknown},
		{"UpdateChannel", obj{"ChannelARN": channel}, unknown},
		{"DeleteChannel", obj{"ChannelARN": channel}, unknown},
		{"ListChannels", obj{}, ok},
	} {
		if c.code == ok {
			r.ok(c.op, "", c.in)
			continue
		}
		r.refused(c.op, "", c.code, c.in)
	}
}

// deleting takes the stream away, with its consumers if asked.
func (r *column) deleting() {
	r.ok("DeleteStream", "", obj{"StreamName": r.stream, "EnforceConsumerDeletion": true})
	for range 200 {
		if a := r.call("DescribeStreamSummary", obj{"StreamName": r.stream}); a.Code != "" {
			break
		}
	}
	r.refused("DescribeStreamSummary", "deleted", "ResourceNotFoundException", obj{"StreamName": r.stream})
	r.refused("DeleteStream", "again", "ResourceNotFoundException", obj{"StreamName": r.stream})
	r.check(!slices.Contains(list(r.ok("ListStreams", "", obj{}), "StreamNames"), any(r.stream)), "DeleteStream", "it is still listed")
}
