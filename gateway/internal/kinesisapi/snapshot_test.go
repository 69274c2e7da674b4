package kinesisapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// The SDK's module ships, for each operation, the body that its client sends
// with every member set, and an answer with every member set.

const snapARN = "arn:aws:kinesis:us-east-1:000000000000:stream/snap"

// snapshotAnswers is what the endpoint answers to the requests, once their
// placeholders name a stream that is there: an error's name, or "" for a 200.
// What is refused for a value of the snapshot says so behind it.
var snapshotAnswers = map[string]string{
	"AddTagsToStream":                        "",
	"CreateChannel":                          "InvalidArgumentException",
	"CreateStream":                           "ValidationException", // MaxRecordSizeInKiB 1
	"DecreaseStreamRetentionPeriod":          "",
	"DeleteChannel":                          "ResourceNotFoundException",
	"DeleteResourcePolicy":                   "ResourceNotFoundException",
	"DeleteStream":                           "",
	"DeregisterStreamConsumer":               "ResourceNotFoundException",
	"DescribeAccountSettings":                "",
	"DescribeChannel":                        "ResourceNotFoundException",
	"DescribeLimits":                         "",
	"DescribeStream":                         "",
	"DescribeStreamConsumer":                 "ResourceNotFoundException",
	"DescribeStreamSummary":                  "",
	"DisableEnhancedMonitoring":              "",
	"EnableEnhancedMonitoring":               "",
	"GetRecords":                             "InvalidArgumentException", // ShardIterator
	"GetResourcePolicy":                      "ResourceNotFoundException",
	"GetShardIterator":                       "InvalidArgumentException", // AT_SEQUENCE_NUMBER with a Timestamp
	"IncreaseStreamRetentionPeriod":          "InvalidArgumentException", // 1 hour
	"ListChannels":                           "",
	"ListShards":                             "InvalidArgumentException", // NextToken with StreamName
	"ListStreamConsumers":                    "InvalidArgumentException", // NextToken
	"ListStreams":                            "InvalidArgumentException", // NextToken with ExclusiveStartStreamName
	"ListTagsForResource":                    "",
	"ListTagsForStream":                      "",
	"MergeShards":                            "InvalidArgumentException", // a shard with itself
	"PutRecord":                              "DryRunOperationException",
	"PutRecords":                             "DryRunOperationException",
	"PutResourcePolicy":                      "AccessDeniedException",
	"RegisterStreamConsumer":                 "",
	"RemoveTagsFromStream":                   "",
	"SplitShard":                             "",
	"StartStreamEncryption":                  "KMSNotFoundException",
	"StopStreamEncryption":                   "InvalidArgumentException",
	"TagResource":                            "",
	"UntagResource":                          "",
	"UpdateAccountSettings":                  "InvalidArgumentException", // ENABLED
	"UpdateChannel":                          "ResourceNotFoundException",
	"UpdateMaxRecordSize":                    "ValidationException", // 1
	"UpdateShardCount":                       "",
	"UpdateStreamMode":                       "InvalidArgumentException", // WarmThroughputMiBps
	"UpdateStreamRecordDistributionStrategy": "InvalidArgumentException", // AUTO
	"UpdateStreamWarmThroughput":             "InvalidArgumentException",
}

// snapshots gives the operations' bodies, by name.
func snapshots(t *testing.T, kind string) map[string]string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/kinesis").Output()
	if err != nil {
		t.Fatalf("find the SDK's module: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), kind+"_snapshot", "*."+kind+".snap"))
	if err != nil || len(files) < 40 {
		t.Fatalf("%d snapshots of kind %s in %s: %v", len(files), kind, dir, err)
	}
	out := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, body, ok := bytes.Cut(text, []byte("\n\n"))
		if kind == "request" { // the line with the method has a blank one behind it
			_, body, ok = bytes.Cut(body, []byte("\n\n"))
		}
		if !ok {
			t.Fatalf("%s has no body", f)
		}
		op, _, _ := strings.Cut(filepath.Base(f), ".")
		out[op] = string(bytes.TrimSpace(body))
	}
	return out
}

func TestSDKRequestSnapshots(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	ctx := t.Context()
	fill := strings.NewReplacer(
		`"StreamName":"__StreamName__"`, `"StreamName":"snap"`,
		`"__StreamARN__"`, `"`+snapARN+`"`, `"__ResourceARN__"`, `"`+snapARN+`"`,
		`"__ConsumerARN__"`, `"`+snapARN+`/consumer/c:1"`, `"__ConsumerName__"`, `"c"`,
		`"__ShardToSplit__"`, `"shardId-000000000000"`, `"__NewStartingHashKey__"`, `"4096"`,
		`"__ShardToMerge__"`, `"shardId-000000000000"`, `"__AdjacentShardToMerge__"`, `"shardId-000000000000"`,
		`"__ShardId__"`, `"shardId-000000000000"`, `"__HashKey__"`, `"0"`, `"__ExplicitHashKey__"`, `"0"`,
		`"__StartingSequenceNumber__"`, `"0"`,
		`,"SequenceNumberForOrdering":"__SequenceNumberForOrdering__"`, ``,
	)
	requests, answered, refusals := snapshots(t, "request"), 0, 0
	for op, body := range requests {
		want, known := snapshotAnswers[op]
		if !known {
			t.Errorf("%s is an operation that nobody here has heard of", op)
			continue
		}
		b.create("snap", 2)
		resp, text := b.do(h2c(), b.request(op, fill.Replace(body), b.clock.Now(), nil))
		var failed struct {
			Type    string `json:"__type"`
			Message string `json:"message"`
		}
		if resp.StatusCode != 200 {
			if err := json.Unmarshal([]byte(text), &failed); err != nil {
				t.Errorf("%s: %s", op, text)
			}
			refusals++
		} else {
			answered++
		}
		if failed.Type != want || (resp.StatusCode == 200) != (want == "") || want != "" && failed.Message == "" {
			t.Errorf("%s answers %q %s, want %q; the request was %s", op, failed.Type, text, want, fill.Replace(body))
		}
		if err := b.sp.Delete(ctx, "snap", ""); err != nil && op != "DeleteStream" {
			t.Fatal(err)
		}
	}
	if len(requests) != len(snapshotAnswers) {
		t.Errorf("%d request snapshots, and %d operations are known", len(requests), len(snapshotAnswers))
	}
	t.Logf("%d operations of the SDK's request snapshots: %d answered, %d refused by an error of theirs", len(requests), answered, refusals)
}

// snapshotCalls is, for the operations that are answered with members, a
// request that is right. They are made in this order.
var snapshotCalls = []struct{ op, body string }{
	{"AddTagsToStream", `{"StreamName":"snap","Tags":{"a":"b","c":""}}`},
	{"ListTagsForStream", `{"StreamName":"snap"}`},
	{"ListTagsForResource", `{"ResourceARN":"` + snapARN + `"}`},
	{"SplitShard", `{"StreamName":"snap","ShardToSplit":"shardId-000000000000","NewStartingHashKey":"4096"}`},
	{"MergeShards", `{"StreamName":"snap","ShardToMerge":"shardId-000000000003","AdjacentShardToMerge":"shardId-000000000001"}`},
	{"SplitShard", `{"StreamName":"snap","ShardToSplit":"shardId-000000000002","NewStartingHashKey":"100"}`},
	{"DescribeStream", `{"StreamName":"snap"}`},
	{"DescribeStreamSummary", `{"StreamName":"snap"}`},
	{"ListShards", `{"StreamName":"snap","MaxResults":6}`},
	{"ListStreams", `{"Limit":1}`},
	{"ListChannels", `{}`},
	{"DescribeLimits", `{}`},
	{"DescribeAccountSettings", `{}`},
	{"UpdateAccountSettings", `{"MinimumThroughputBillingCommitment":{"Status":"DISABLED"}}`},
	{"EnableEnhancedMonitoring", `{"StreamName":"snap","ShardLevelMetrics":["ALL"]}`},
	{"DisableEnhancedMonitoring", `{"StreamName":"snap","ShardLevelMetrics":["ALL"]}`},
	{"PutRecord", `{"StreamName":"snap","PartitionKey":"k","Data":"aGk="}`},
	{"PutRecords", `{"StreamName":"snap","Records":[{"PartitionKey":"k","Data":"aGk="}]}`},
	{"GetShardIterator", `{"StreamName":"snap","ShardId":"shardId-000000000004","ShardIteratorType":"TRIM_HORIZON"}`},
	{"GetRecords", `{"ShardIterator":"<the last answer's>"}`},
	{"RegisterStreamConsumer", `{"StreamARN":"` + snapARN + `","ConsumerName":"one","Tags":{"a":"b"}}`},
	{"RegisterStreamConsumer", `{"StreamARN":"` + snapARN + `","ConsumerName":"two"}`},
	{"DescribeStreamConsumer", `{"StreamARN":"` + snapARN + `","ConsumerName":"one"}`},
	{"ListStreamConsumers", `{"StreamARN":"` + snapARN + `","MaxResults":1}`},
	{"UpdateShardCount", `{"StreamName":"snap","ScalingType":"UNIFORM_SCALING","TargetShardCount":3}`},
}

// left are members of the SDK's answers that ours leave out, for they are about
// what a box does not have.
var left = []string{
	"DescribeAccountSettings.MinimumThroughputBillingCommitment.EarliestAllowedEndAt",
	"DescribeAccountSettings.MinimumThroughputBillingCommitment.EndedAt",
	"DescribeAccountSettings.MinimumThroughputBillingCommitment.StartedAt",
	"DescribeStream.StreamDescription.KeyId",
	"DescribeStreamSummary.StreamDescriptionSummary.KeyId",
	"DescribeStreamSummary.StreamDescriptionSummary.RecordDistributionStrategy",
	"DescribeStreamSummary.StreamDescriptionSummary.StreamId",
	"DescribeStreamSummary.StreamDescriptionSummary.WarmThroughput",
	"GetRecords.ChildShards", // of a closed shard
	"ListChannels.NextToken",
	"PutRecords.Records.ErrorCode", // of a record that failed
	"PutRecords.Records.ErrorMessage",
	"UpdateAccountSettings.MinimumThroughputBillingCommitment.EarliestAllowedEndAt",
	"UpdateAccountSettings.MinimumThroughputBillingCommitment.EndedAt",
	"UpdateAccountSettings.MinimumThroughputBillingCommitment.StartedAt",
}

func TestSDKResponseSnapshots(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("snap", 2)
	b.create("other", 1)
	responses := snapshots(t, "response")
	iterator := ""
	var missing []string
	for _, c := range snapshotCalls {
		body := strings.Replace(c.body, "<the last answer's>", iterator, 1)
		resp, text := b.do(h2c(), b.request(c.op, body, b.clock.Now(), nil))
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", c.op, text)
			continue
		}
		var got, want any
		if err := errors.Join(json.Unmarshal([]byte("["+text+"]"), &got), json.Unmarshal([]byte("["+responses[c.op]+"]"), &want)); err != nil {
			t.Fatalf("%s: %v in %s", c.op, err, text)
		}
		if m, ok := got.([]any); ok && c.op == "GetShardIterator" {
			iterator = m[0].(map[string]any)["ShardIterator"].(string)
		}
		missing = append(missing, compare(t, c.op, got, want)...)
	}
	slices.Sort(missing)
	missing = slices.Compact(missing)
	if !slices.Equal(missing, left) {
		t.Errorf("members that our answers leave out:\n%s\nwant:\n%s", strings.Join(missing, "\n"), strings.Join(left, "\n"))
	}
	t.Logf("%d answers have the members of the SDK's response snapshots, without %d that a box has nothing to say about", len(snapshotCalls), len(missing))
}

// compare finds members of got that want does not have, which is an error, and
// gives the paths of those that got lacks. All elements of a list are taken as
// one: together they should have every member.
func compare(t *testing.T, path string, got, want any) (missing []string) {
	t.Helper()
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			t.Errorf("%s is %v, want an object", path, got)
			return nil
		}
		for k := range g {
			if _, ok := w[k]; !ok {
				t.Errorf("%s.%s is no member of the SDK's", path, k)
			}
		}
		for k, v := range w {
			if _, ok := g[k]; !ok {
				missing = append(missing, path+"."+k)
				continue
			}
			missing = append(missing, compare(t, path+"."+k, g[k], v)...)
		}
	case []any:
		g, ok := got.([]any)
		if !ok {
			t.Errorf("%s is %v, want a list", path, got)
			return nil
		}
		all := map[string]any{}
		for _, e := range g {
			m, isObject := e.(map[string]any)
			if !isObject {
				return nil
			}
			merge(all, m)
		}
		if len(g) > 0 && len(w) > 0 {
			missing = compare(t, path, all, w[0])
		}
	default:
		if got == nil {
			t.Errorf("%s is null", path)
		}
	}
	return missing
}

// merge puts the members of one element to those of the others.
func merge(all, m map[string]any) {
	for k, v := range m {
		if old, ok := all[k].(map[string]any); ok {
			if n, ok := v.(map[string]any); ok {
				merge(old, n)
				continue
			}
		}
		all[k] = v
	}
}
