package kinesisapi_test

import (
	"cmp"
	"fmt"
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

func shardID(i int) *string { return aws.String(fmt.Sprintf("shardId-%012d", i)) }

// shards lists a stream's, as a request with a filter and pages of the given
// size gives them; 0 is one page.
func (b *box) shards(cl *kinesis.Client, stream string, filter *types.ShardFilter, page int32) []types.Shard {
	b.t.Helper()
	in := &kinesis.ListShardsInput{StreamName: &stream, ShardFilter: filter}
	var out []types.Shard
	for {
		if page > 0 {
			in.MaxResults = &page
		}
		p, err := cl.ListShards(b.t.Context(), in)
		if err != nil {
			b.t.Fatal(err)
		}
		if page > 0 && len(p.Shards) > int(page) {
			b.t.Errorf("%d shards on a page of %d", len(p.Shards), page)
		}
		out = append(out, p.Shards...)
		if p.NextToken == nil {
			return out
		}
		in = &kinesis.ListShardsInput{NextToken: p.NextToken}
	}
}

// numbers are the shards' numbers, a space before each.
func numbers(shards []types.Shard) string {
	var out strings.Builder
	for _, sh := range shards {
		n := strings.TrimLeft(strings.TrimPrefix(*sh.ShardId, "shardId-"), "0")
		out.WriteString(" " + cmp.Or(n, "0"))
	}
	return out.String()
}

func (b *box) split(cl *kinesis.Client, stream string, shard int, at string) {
	b.t.Helper()
	_, err := cl.SplitShard(b.t.Context(), &kinesis.SplitShardInput{StreamName: &stream, ShardToSplit: shardID(shard), NewStartingHashKey: &at})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) merge(cl *kinesis.Client, stream string, lower, upper int) {
	b.t.Helper()
	_, err := cl.MergeShards(b.t.Context(), &kinesis.MergeShardsInput{StreamName: &stream, ShardToMerge: shardID(lower), AdjacentShardToMerge: shardID(upper)})
	if err != nil {
		b.t.Fatal(err)
	}
}

const (
	hashEnd  = "340282366920938463463374607431768211455"
	hashHalf = "170141183460469231731687303715884105728"
	hashLow  = "85070591730234615865843651857942052864" // a quarter
)

// TestSplitAndMerge changes shards in the second of the stream's creation,
// where sequence numbers would meet first.
func TestSplitAndMerge(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 2)
	cl, ctx := b.client(), t.Context()
	put := func(hash string) (shard, sequence string) {
		t.Helper()
		in := putRecord("s", "k", "x")
		in.ExplicitHashKey = &hash
		out, err := cl.PutRecord(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return *out.ShardId, *out.SequenceNumber
	}
	_, before := put(hashLow)
	_, right := put(hashEnd)
	b.split(cl, "s", 0, hashLow)
	in, between := put(hashLow)
	if in != *shardID(3) {
		t.Errorf("after the split a record of the upper half went to %s", in)
	}
	if low, _ := put("0"); low != *shardID(2) {
		t.Errorf("after the split a record of the lower half went to %s", low)
	}
	b.merge(cl, "s", 3, 1)
	in, after := put(hashLow)
	if in != *shardID(4) {
		t.Errorf("after the merge the record went to %s", in)
	}
	if before >= between || between >= after || right >= after {
		t.Errorf("sequence numbers %s, %s and %s, %s do not rise over the reshard", before, between, right, after)
	}
	d, err := cl.DescribeStream(ctx, &kinesis.DescribeStreamInput{StreamName: aws.String("s")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, sh := range d.StreamDescription.Shards {
		got = append(got, fmt.Sprint(*sh.ShardId, " ", aws.ToString(sh.ParentShardId), "+", aws.ToString(sh.AdjacentParentShardId), " ",
			*sh.HashKeyRange.StartingHashKey, "-", *sh.HashKeyRange.EndingHashKey, " ", sh.SequenceNumberRange.EndingSequenceNumber != nil))
	}
	p := func(i int) string { return *shardID(i) }
	want := []string{
		p(0) + " + 0-170141183460469231731687303715884105727 true",
		p(1) + " + " + hashHalf + "-" + hashEnd + " true",
		p(2) + " " + p(0) + "+ 0-85070591730234615865843651857942052863 false",
		p(3) + " " + p(0) + "+ " + hashLow + "-170141183460469231731687303715884105727 true",
		p(4) + " " + p(3) + "+" + p(1) + " " + hashLow + "-" + hashEnd + " false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("shards\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	b.checkNumbers(cl, d.StreamDescription.Shards, map[int]string{0: before, 1: right, 3: between, 4: after})
	// A number of a closed shard still orders what comes after it.
	next := putRecord("s", "k", "x")
	next.SequenceNumberForOrdering = &before
	if _, err := cl.PutRecord(ctx, next); err != nil {
		t.Error(err)
	}
	sum, err := cl.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("s")})
	if err != nil || *sum.StreamDescriptionSummary.OpenShardCount != 2 {
		t.Errorf("summary %+v: %v", sum, err)
	}
}

// checkNumbers holds the numbers that a shard's description begins and ends
// with against those of its records and of its children, and asks for iterators
// at them. records are the last of some shards.
func (b *box) checkNumbers(cl *kinesis.Client, shards []types.Shard, records map[int]string) {
	b.t.Helper()
	byID := map[string]types.Shard{}
	for i, sh := range shards {
		byID[*sh.ShardId] = sh
		from, to := *sh.SequenceNumberRange.StartingSequenceNumber, sh.SequenceNumberRange.EndingSequenceNumber
		if last, ok := records[i]; ok && (last <= from || to != nil && last >= *to) {
			b.t.Errorf("%s: record %s is not between %s and %s", *sh.ShardId, last, from, aws.ToString(to))
		}
		for _, parent := range []*string{sh.ParentShardId, sh.AdjacentParentShardId} {
			if parent == nil {
				continue
			}
			if end := *byID[*parent].SequenceNumberRange.EndingSequenceNumber; len(end) != 56 || end >= from {
				b.t.Errorf("%s ends at %s and its child begins at %s", *parent, end, from)
			}
		}
		for _, n := range []*string{&from, to} {
			for _, kind := range []types.ShardIteratorType{types.ShardIteratorTypeAtSequenceNumber, types.ShardIteratorTypeAfterSequenceNumber} {
				if n != nil {
					b.iter(cl, kinesis.GetShardIteratorInput{StreamName: aws.String("s"), ShardId: sh.ShardId, ShardIteratorType: kind, StartingSequenceNumber: n})
				}
			}
		}
	}
}

func TestReshardRefusals(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 3)
	b.create("demand", 1)
	cl, ctx, p := b.client(), t.Context(), aws.String
	_, err := cl.UpdateStreamMode(ctx, &kinesis.UpdateStreamModeInput{
		StreamARN: p("arn:aws:kinesis:us-east-1:000000000000:stream/demand"), StreamModeDetails: &types.StreamModeDetails{StreamMode: types.StreamModeOnDemand},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.split(cl, "s", 2, "300000000000000000000000000000000000000") // 3 and 4
	split := func(stream string, shard *string, at string) func() error {
		return func() error {
			_, err := cl.SplitShard(ctx, &kinesis.SplitShardInput{StreamName: &stream, ShardToSplit: shard, NewStartingHashKey: &at})
			return err
		}
	}
	merge := func(stream string, a, b int) func() error {
		return func() error {
			_, err := cl.MergeShards(ctx, &kinesis.MergeShardsInput{StreamName: &stream, ShardToMerge: shardID(a), AdjacentShardToMerge: shardID(b)})
			return err
		}
	}
	scale := func(stream string, n int32, kind types.ScalingType) func() error {
		return func() error {
			_, err := cl.UpdateShardCount(ctx, &kinesis.UpdateShardCountInput{StreamName: &stream, TargetShardCount: &n, ScalingType: kind})
			return err
		}
	}
	const outside = "is not both greater than one plus the shard's StartingHashKey 113427455640312821154458202477256070485 and less than the shard's EndingHashKey 226854911280625642308916404954512140969."
	const apart = "are not an adjacent pair of shards eligible for merging"
	const done = "Shard shardId-000000000002 in stream s under account 000000000000 has already been merged or split, and thus is not eligible for merging or splitting."
	b.refuses(t, []refusal{
		{"split at the start", split("s", shardID(1), "113427455640312821154458202477256070485"), "InvalidArgumentException", outside},
		{"split behind the start", split("s", shardID(1), "113427455640312821154458202477256070486"), "InvalidArgumentException", outside},
		{"split at the end", split("s", shardID(1), "226854911280625642308916404954512140969"), "InvalidArgumentException", outside},
		{"split outside", split("s", shardID(1), "5"), "InvalidArgumentException", outside},
		{"split beyond all", split("s", shardID(1), "340282366920938463463374607431768211456"), "InvalidArgumentException", outside},
		{"split at no hash", split("s", shardID(1), "abc"), "ValidationException", "Value 'abc' at 'newStartingHashKey' failed to satisfy constraint: Member must satisfy regular expression pattern: 0|([1-9]\\d{0,38})"},
		{"split a closed shard", split("s", shardID(2), "320000000000000000000000000000000000000"), "ResourceInUseException", done},
		{"split no shard", split("s", shardID(9), "5"), "ResourceNotFoundException", "Could not find shard shardId-000000000009 in stream s under account 000000000000."},
		{"split nothing", split("none", shardID(0), "5"), "ResourceNotFoundException", "Stream none"},
		{"split on demand", split("demand", shardID(0), "5"), "ValidationException", "ON_DEMAND"},
		{"merge with itself", merge("s", 0, 0), "InvalidArgumentException", apart},
		{"merge what does not meet", merge("s", 0, 3), "InvalidArgumentException", apart},
		{"merge the upper first", merge("s", 1, 0), "InvalidArgumentException", apart},
		{"merge a closed shard", merge("s", 1, 2), "ResourceInUseException", done},
		{"merge with no shard", merge("s", 1, 8), "ResourceNotFoundException", "shardId-000000000008"},
		{"merge on demand", merge("demand", 0, 0), "ValidationException", "ON_DEMAND"},
		{"scale to none", scale("s", 0, types.ScalingTypeUniformScaling), "ValidationException", "Value '0' at 'targetShardCount'"},
		{"scale too far", scale("s", 1025, types.ScalingTypeUniformScaling), "LimitExceededException", "Current shard count for the account: 5. Limit: 1024. Number of additional shards that would have resulted from this request: 1021."},
		{"scale otherwise", scale("s", 4, "OTHER"), "ValidationException", "Member must satisfy enum value set: [UNIFORM_SCALING]"},
		{"scale on demand", scale("demand", 4, types.ScalingTypeUniformScaling), "ValidationException", "ON_DEMAND"},
	})
	if got := numbers(b.shards(cl, "s", nil, 0)); got != " 0 1 2 3 4" {
		t.Errorf("shards after refusals:%s", got)
	}
}

func TestSplitAtTheEdges(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl := b.client()
	b.split(cl, "s", 0, "2")
	b.split(cl, "s", 2, "340282366920938463463374607431768211454")
	if got := numbers(b.shards(cl, "s", &types.ShardFilter{Type: types.ShardFilterTypeAtLatest}, 0)); got != " 1 3 4" {
		t.Errorf("open shards:%s", got)
	}
}

// TestUpdateShardCount: whatever a stream was, it is then divided as a new
// stream of as many shards is.
func TestUpdateShardCount(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 3)
	cl, ctx := b.client(), t.Context()
	b.split(cl, "s", 1, "113427455640312821154458202477256079999")
	have := int32(4)
	for _, n := range []int32{5, 5, 1, 16, 3} {
		out, err := cl.UpdateShardCount(ctx, &kinesis.UpdateShardCountInput{StreamName: aws.String("s"), TargetShardCount: &n, ScalingType: types.ScalingTypeUniformScaling})
		if err != nil {
			t.Fatal(err)
		}
		if *out.StreamName != "s" || *out.CurrentShardCount != have || *out.TargetShardCount != n || !strings.HasSuffix(*out.StreamARN, ":stream/s") {
			t.Errorf("scaled: %+v", out)
		}
		have = n
		even := fmt.Sprint("even-", n)
		if _, err := b.sp.Stream(even); err != nil {
			b.create(even, int(n))
		}
		got, want := ranges(b.shards(cl, "s", &types.ShardFilter{Type: types.ShardFilterTypeAtLatest}, 0)), ranges(b.shards(cl, even, nil, 0))
		if !slices.Equal(got, want) {
			t.Errorf("%d shards are divided\n%s\nwant\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	all := b.shards(cl, "s", nil, 0)
	records := map[int]string{}
	b.checkNumbers(cl, all, records)
}

func ranges(shards []types.Shard) []string {
	var out []string
	for _, sh := range shards {
		out = append(out, fmt.Sprintf("%39s-%39s", *sh.HashKeyRange.StartingHashKey, *sh.HashKeyRange.EndingHashKey))
	}
	slices.Sort(out)
	return out
}

// TestShardFilters: a stream is split after an hour and merged after two.
func TestShardFilters(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	cl, ctx := b.client(), t.Context()
	if _, err := cl.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: aws.String("s"), ShardCount: aws.Int32(2)}); err != nil {
		t.Fatal(err)
	}
	b.clock.Move(time.Second)
	first := b.clock.Now()
	b.clock.Move(time.Hour)
	b.split(cl, "s", 0, hashLow) // 2 and 3
	b.clock.Move(time.Second)
	second := b.clock.Now()
	b.clock.Move(time.Hour)
	b.merge(cl, "s", 3, 1) // 4
	b.clock.Move(time.Second)
	third := b.clock.Now()

	at := func(kind types.ShardFilterType, when time.Time) *types.ShardFilter {
		return &types.ShardFilter{Type: kind, Timestamp: &when}
	}
	const atTime, fromTime = types.ShardFilterTypeAtTimestamp, types.ShardFilterTypeFromTimestamp
	check := func(filter *types.ShardFilter, want string) {
		t.Helper()
		for _, page := range []int32{0, 1, 2} {
			if got := numbers(b.shards(cl, "s", filter, page)); got != want {
				t.Errorf("filter %s %v, pages of %d:%s, want%s", filter.Type, filter.Timestamp, page, got, want)
			}
		}
	}
	check(&types.ShardFilter{Type: types.ShardFilterTypeAtLatest}, " 2 4")
	check(&types.ShardFilter{Type: types.ShardFilterTypeAtTrimHorizon}, " 0 1")
	check(&types.ShardFilter{Type: types.ShardFilterTypeFromTrimHorizon}, " 0 1 2 3 4")
	check(&types.ShardFilter{Type: types.ShardFilterTypeAfterShardId, ShardId: shardID(1)}, " 2 3 4")
	check(at(atTime, time.Unix(1, 0)), " 0 1")
	check(at(atTime, first), " 0 1")
	check(at(atTime, second), " 1 2 3")
	check(at(atTime, third), " 2 4")
	check(at(fromTime, time.Unix(1, 0)), " 0 1 2 3 4")
	check(at(fromTime, first), " 0 1 2 3 4")
	check(at(fromTime, second), " 1 2 3 4")
	check(at(fromTime, third), " 2 4")

	// The retention is 24 hours, and nothing was ever put: first 0 goes, then
	// what was merged.
	b.clock.Move(22*time.Hour + 30*time.Minute)
	check(&types.ShardFilter{Type: types.ShardFilterTypeFromTrimHorizon}, " 0 1 2 3 4")
	b.clock.Move(time.Hour)
	check(&types.ShardFilter{Type: types.ShardFilterTypeFromTrimHorizon}, " 1 2 3 4")
	check(&types.ShardFilter{Type: types.ShardFilterTypeAtTrimHorizon}, " 1 2 3")
	check(at(atTime, first), " 1 2 3")
	b.clock.Move(time.Hour)
	check(&types.ShardFilter{Type: types.ShardFilterTypeFromTrimHorizon}, " 2 4")
	check(at(atTime, first), " 2 4")
	d, err := cl.DescribeStream(ctx, &kinesis.DescribeStreamInput{StreamName: aws.String("s")})
	if err != nil || numbers(d.StreamDescription.Shards) != " 2 4" {
		t.Errorf("described: %+v, %v", d, err)
	}
	// Whoever still knows a shard's id may read it.
	b.iter(cl, kinesis.GetShardIteratorInput{StreamName: aws.String("s"), ShardId: shardID(0), ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
}

// TestClosedShardWithRecords stays as long as they do, and its children with it.
func TestClosedShardWithRecords(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	if _, err := cl.PutRecord(ctx, putRecord("s", "k", "x")); err != nil {
		t.Fatal(err)
	}
	b.split(cl, "s", 0, hashHalf)
	b.merge(cl, "s", 1, 2)
	b.clock.Move(9000 * time.Hour)
	if got := numbers(b.shards(cl, "s", nil, 0)); got != " 0 1 2 3" {
		t.Errorf("listed:%s", got)
	}
	if got := numbers(b.shards(cl, "s", &types.ShardFilter{Type: types.ShardFilterTypeAtTrimHorizon}, 0)); got != " 0" {
		t.Errorf("at the trim horizon:%s", got)
	}
}

func TestListShardsOfAnotherStream(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 3)
	cl, ctx := b.client(), t.Context()
	p, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: aws.String("s"), MaxResults: aws.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.sp.Delete(ctx, "s", ""); err != nil {
		t.Fatal(err)
	}
	_, err = cl.ListShards(ctx, &kinesis.ListShardsInput{NextToken: p.NextToken})
	refused(t, err, "ResourceNotFoundException", "Stream s under account")
	b.create("s", 3)
	_, err = cl.ListShards(ctx, &kinesis.ListShardsInput{NextToken: p.NextToken})
	refused(t, err, "ResourceNotFoundException", "Stream s under account")
}
