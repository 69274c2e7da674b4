package kinesisapi_test

import (
	"bytes"
	"context"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink/kpl"
)

func putRecord(stream, key, data string) *kinesis.PutRecordInput {
	return &kinesis.PutRecordInput{StreamName: &stream, PartitionKey: &key, Data: []byte(data)}
}

func entry(key string, data []byte) types.PutRecordsRequestEntry {
	return types.PutRecordsRequestEntry{PartitionKey: &key, Data: data}
}

func TestCreateAndDescribe(t *testing.T) {
	b := start(t, kinesisapi.Config{Region: "eu-west-1", Account: "123456789012"}, spool.Config{})
	cl, ctx := b.client(), t.Context()
	if _, err := cl.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: aws.String("three"), ShardCount: aws.Int32(3)}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.CreateStream(ctx, &kinesis.CreateStreamInput{
		StreamName: aws.String("demand"), StreamModeDetails: &types.StreamModeDetails{StreamMode: types.StreamModeOnDemand},
	}); err != nil {
		t.Fatal(err)
	}
	const arn = "arn:aws:kinesis:eu-west-1:123456789012:stream/three"
	d, err := cl.DescribeStream(ctx, &kinesis.DescribeStreamInput{StreamARN: aws.String(arn)})
	if err != nil {
		t.Fatal(err)
	}
	sd := d.StreamDescription
	if *sd.StreamName != "three" || *sd.StreamARN != arn || sd.StreamStatus != types.StreamStatusActive || *sd.HasMoreShards ||
		*sd.RetentionPeriodHours != 24 || sd.EncryptionType != types.EncryptionTypeNone || len(sd.EnhancedMonitoring) != 1 {
		t.Errorf("described as %+v", sd)
	}
	if age := b.clock.Now().Sub(*sd.StreamCreationTimestamp); age < -time.Second || age > time.Minute {
		t.Errorf("created %v ago", age)
	}
	// The division of a three-shard stream as AWS publishes it.
	want := []string{
		"0", "113427455640312821154458202477256070484",
		"113427455640312821154458202477256070485", "226854911280625642308916404954512140969",
		"226854911280625642308916404954512140970", "340282366920938463463374607431768211455",
	}
	var got []string
	for i, sh := range sd.Shards {
		got = append(got, *sh.HashKeyRange.StartingHashKey, *sh.HashKeyRange.EndingHashKey)
		if w := fmt.Sprintf("shardId-%012d", i); *sh.ShardId != w {
			t.Errorf("shard %d is called %s", i, *sh.ShardId)
		}
		if n := *sh.SequenceNumberRange.StartingSequenceNumber; len(n) != 56 || sh.SequenceNumberRange.EndingSequenceNumber != nil {
			t.Errorf("shard %d starts at %s", i, n)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("hash ranges %v, want %v", got, want)
	}
	sum, err := cl.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("demand")})
	if err != nil {
		t.Fatal(err)
	}
	if ss := sum.StreamDescriptionSummary; *ss.OpenShardCount != 4 || *ss.MaxRecordSizeInKiB != 1024 || ss.StreamStatus != types.StreamStatusActive {
		t.Errorf("summary %+v", ss)
	}
	page, err := cl.DescribeStream(ctx, &kinesis.DescribeStreamInput{StreamName: aws.String("three"), Limit: aws.Int32(1), ExclusiveStartShardId: aws.String("shardId-000000000000")})
	if err != nil {
		t.Fatal(err)
	}
	if p := page.StreamDescription; len(p.Shards) != 1 || *p.Shards[0].ShardId != "shardId-000000000001" || !*p.HasMoreShards {
		t.Errorf("a page of one shard: %+v", p)
	}
	lim, err := cl.DescribeLimits(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if *lim.OpenShardCount < 7 || *lim.ShardLimit < *lim.OpenShardCount {
		t.Errorf("limits %+v", lim)
	}
}

func TestListStreams(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	cl, ctx := b.client(), t.Context()
	var want []string
	for _, st := range b.sp.Streams() {
		want = append(want, st.Name())
	}
	for i := range 7 {
		want = append(want, b.create(fmt.Sprintf("zz-%d", i), 5).Name())
	}
	slices.Sort(want)

	var got []string
	pg := kinesis.NewListStreamsPaginator(cl, &kinesis.ListStreamsInput{Limit: aws.Int32(3)})
	for pg.HasMorePages() {
		p, err := pg.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.StreamNames) > 3 || *p.HasMoreStreams != (p.NextToken != nil) || len(p.StreamSummaries) != len(p.StreamNames) {
			t.Errorf("page %v, more %v, token %v", p.StreamNames, *p.HasMoreStreams, p.NextToken)
		}
		got = append(got, p.StreamNames...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	rest, err := cl.ListStreams(ctx, &kinesis.ListStreamsInput{ExclusiveStartStreamName: aws.String("zz-4")})
	if err != nil || !slices.Equal(rest.StreamNames, []string{"zz-5", "zz-6"}) || *rest.HasMoreStreams {
		t.Errorf("after zz-4: %v, %v", rest, err)
	}

	pg = kinesis.NewListStreamsPaginator(cl, &kinesis.ListStreamsInput{Limit: aws.Int32(1)})
	if _, err := pg.NextPage(ctx); err != nil {
		t.Fatal(err)
	}
	b.clock.Move(6 * time.Minute)
	_, err = pg.NextPage(ctx)
	refused(t, err, "ExpiredNextTokenException", "expired")
}

func TestListShards(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	cl, ctx := b.client(), t.Context()
	b.create("zz-0", 5)
	var got []string
	in := &kinesis.ListShardsInput{StreamName: aws.String("zz-0"), MaxResults: aws.Int32(2)}
	for {
		p, err := cl.ListShards(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		for _, sh := range p.Shards {
			got = append(got, *sh.ShardId)
		}
		if p.NextToken == nil {
			break
		}
		in = &kinesis.ListShardsInput{NextToken: p.NextToken, MaxResults: aws.Int32(2)}
	}
	if len(got) != 5 || !slices.IsSorted(got) || got[4] != "shardId-000000000004" {
		t.Errorf("shards %v", got)
	}
	_, err := cl.ListShards(ctx, &kinesis.ListShardsInput{NextToken: in.NextToken, StreamName: aws.String("zz-0")})
	refused(t, err, "InvalidArgumentException", "cannot be provided together")
	b.clock.Move(6 * time.Minute)
	_, err = cl.ListShards(ctx, in)
	refused(t, err, "ExpiredNextTokenException", "expired")
	_, err = cl.ListStreams(ctx, &kinesis.ListStreamsInput{NextToken: in.NextToken})
	refused(t, err, "InvalidArgumentException", "NextToken")

	for _, f := range []struct {
		filter types.ShardFilter
		want   int
	}{
		{types.ShardFilter{Type: types.ShardFilterTypeAfterShardId, ShardId: aws.String("shardId-000000000001")}, 3},
		{types.ShardFilter{Type: types.ShardFilterTypeAtLatest}, 5},
		{types.ShardFilter{Type: types.ShardFilterTypeAtTrimHorizon}, 5},
		{types.ShardFilter{Type: types.ShardFilterTypeFromTrimHorizon}, 5},
		{types.ShardFilter{Type: types.ShardFilterTypeAtTimestamp, Timestamp: aws.Time(time.Now())}, 5},
		{types.ShardFilter{Type: types.ShardFilterTypeFromTimestamp, Timestamp: aws.Time(time.Now())}, 5},
	} {
		p, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: aws.String("zz-0"), ShardFilter: &f.filter})
		if err != nil || len(p.Shards) != f.want {
			t.Errorf("filter %s: %v, %v; want %d shards", f.filter.Type, p, err, f.want)
		}
	}
	d, err := cl.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("zz-0")})
	if err != nil {
		t.Fatal(err)
	}
	created := d.StreamDescriptionSummary.StreamCreationTimestamp
	if _, err := cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: aws.String("zz-0"), StreamCreationTimestamp: created}); err != nil {
		t.Error(err)
	}
	_, err = cl.ListShards(ctx, &kinesis.ListShardsInput{StreamName: aws.String("zz-0"), StreamCreationTimestamp: aws.Time(created.Add(-time.Hour))})
	refused(t, err, "ResourceNotFoundException", "zz-0")
}

// iter asks for an iterator on the first shard.
func (b *box) iter(cl *kinesis.Client, in kinesis.GetShardIteratorInput) *string {
	b.t.Helper()
	if in.ShardId == nil {
		in.ShardId = aws.String("shardId-000000000000")
	}
	out, err := cl.GetShardIterator(b.t.Context(), &in)
	if err != nil {
		b.t.Fatal(err)
	}
	return out.ShardIterator
}

func (b *box) get(cl *kinesis.Client, it *string, limit int32) *kinesis.GetRecordsOutput {
	b.t.Helper()
	in := &kinesis.GetRecordsInput{ShardIterator: it}
	if limit > 0 {
		in.Limit = &limit
	}
	out, err := cl.GetRecords(b.t.Context(), in)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func datas(out *kinesis.GetRecordsOutput) []string {
	s := []string{}
	for _, r := range out.Records {
		s = append(s, string(r.Data))
	}
	return s
}

func TestPutAndRead(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	name := aws.String("s")
	latest := b.iter(cl, kinesis.GetShardIteratorInput{StreamName: name, ShardIteratorType: types.ShardIteratorTypeLatest})

	var seqs []string
	var between time.Time
	for i := range 6 {
		out, err := cl.PutRecord(ctx, putRecord("s", "kéy \"1\"", fmt.Sprint("r", i)))
		if err != nil {
			t.Fatal(err)
		}
		if *out.ShardId != "shardId-000000000000" || out.EncryptionType != types.EncryptionTypeNone {
			t.Errorf("put: %+v", out)
		}
		if i > 0 && *out.SequenceNumber <= seqs[i-1] {
			t.Errorf("%s does not rise over %s", *out.SequenceNumber, seqs[i-1])
		}
		seqs = append(seqs, *out.SequenceNumber)
		if i == 2 {
			b.clock.Move(time.Second)
			between = b.clock.Now().Truncate(time.Millisecond)
			b.clock.Move(time.Second)
		}
	}
	all := []string{"r0", "r1", "r2", "r3", "r4", "r5"}
	start := *b.firstSequence(cl, "s")
	for _, c := range []struct {
		name string
		in   kinesis.GetShardIteratorInput
		want []string
	}{
		{"trim horizon", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeTrimHorizon}, all},
		{"latest", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeLatest}, all[6:]},
		{"at sequence", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, StartingSequenceNumber: &seqs[2]}, all[2:]},
		{"after sequence", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeAfterSequenceNumber, StartingSequenceNumber: &seqs[2]}, all[3:]},
		{"at the shard's start", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, StartingSequenceNumber: &start}, all},
		{"after the shard's start", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeAfterSequenceNumber, StartingSequenceNumber: &start}, all},
		{"after the newest", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeAfterSequenceNumber, StartingSequenceNumber: &seqs[5]}, all[6:]},
		{"at a time", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeAtTimestamp, Timestamp: &between}, all[3:]},
		{"at a time before all", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeAtTimestamp, Timestamp: aws.Time(time.Unix(1, 0))}, all},
		{"now", kinesis.GetShardIteratorInput{ShardIteratorType: types.ShardIteratorTypeAtTimestamp, Timestamp: aws.Time(b.clock.Now().Add(-time.Millisecond))}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.StreamName = name
			if c.want == nil {
				b.clock.Move(time.Second)
				c.in.Timestamp = aws.Time(b.clock.Now().Add(-100 * time.Millisecond))
			}
			out := b.get(cl, b.iter(cl, c.in), 0)
			if got := datas(out); !slices.Equal(got, append([]string{}, c.want...)) {
				t.Errorf("read %v, want %v", got, c.want)
			}
			if *out.MillisBehindLatest != 0 {
				t.Errorf("at the newest, yet %d ms behind", *out.MillisBehindLatest)
			}
			for i, r := range out.Records {
				if *r.PartitionKey != "kéy \"1\"" || *r.SequenceNumber != seqs[len(seqs)-len(out.Records)+i] || r.EncryptionType != types.EncryptionTypeNone {
					t.Errorf("record %+v", r)
				}
				if d := b.clock.Now().Sub(*r.ApproximateArrivalTimestamp); d < 0 || d > time.Minute {
					t.Errorf("arrived %v ago", d)
				}
			}
			// The place behind what was read holds.
			if again := b.get(cl, out.NextShardIterator, 0); len(again.Records) != 0 {
				t.Errorf("read twice: %v", datas(again))
			}
		})
	}
	if got := datas(b.get(cl, latest, 0)); !slices.Equal(got, all) {
		t.Errorf("an iterator from before the puts reads %v", got)
	}
}

func TestMillisBehindLatest(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, name, all := b.client(), aws.String("s"), []string{}
	for i := range 6 {
		all = append(all, fmt.Sprint("r", i))
		if _, err := cl.PutRecord(t.Context(), putRecord("s", "k", all[i])); err != nil {
			t.Fatal(err)
		}
	}
	b.clock.Move(2500 * time.Millisecond)
	it := b.iter(cl, kinesis.GetShardIteratorInput{StreamName: name, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
	var got []string
	for range 3 {
		out := b.get(cl, it, 2)
		got = append(got, datas(out)...)
		if behind := *out.MillisBehindLatest; len(got) < 6 && behind < 2500 || len(got) == 6 && behind != 0 {
			t.Errorf("after %d records %d ms behind", len(got), behind)
		}
		it = out.NextShardIterator
	}
	if !slices.Equal(got, all) {
		t.Errorf("page by page %v", got)
	}
}

func (b *box) firstSequence(cl *kinesis.Client, stream string) *string {
	b.t.Helper()
	out, err := cl.ListShards(b.t.Context(), &kinesis.ListShardsInput{StreamName: &stream})
	if err != nil {
		b.t.Fatal(err)
	}
	return out.Shards[0].SequenceNumberRange.StartingSequenceNumber
}

func TestPutRecordsRoutes(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 4)
	cl, ctx := b.client(), t.Context()
	in := &kinesis.PutRecordsInput{StreamARN: aws.String("arn:aws:kinesis:mars-north-1:999999999999:stream/s")}
	for i := range 500 {
		e := entry(fmt.Sprint("key", i%50), []byte(fmt.Sprint(i)))
		if i%10 == 9 {
			e.ExplicitHashKey = aws.String(new(big.Int).Lsh(big.NewInt(3), 126).String()) // the fourth shard's first point
		}
		in.Records = append(in.Records, e)
	}
	out, err := cl.PutRecords(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if *out.FailedRecordCount != 0 || len(out.Records) != 500 || out.EncryptionType != types.EncryptionTypeNone {
		t.Fatalf("%d failed of %d", *out.FailedRecordCount, len(out.Records))
	}
	stored := map[string]string{} // shard/sequence -> data
	for s := range 4 {
		shard := fmt.Sprintf("shardId-%012d", s)
		it := b.iter(cl, kinesis.GetShardIteratorInput{StreamName: aws.String("s"), ShardId: &shard, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
		for _, r := range b.get(cl, it, 0).Records {
			stored[shard+"/"+*r.SequenceNumber] = string(r.Data)
		}
	}
	for i, r := range out.Records {
		if got := stored[*r.ShardId+"/"+*r.SequenceNumber]; got != fmt.Sprint(i) {
			t.Errorf("record %d is said to be at %s %s, where %q is", i, *r.ShardId, *r.SequenceNumber, got)
		}
		h := record.HashOf(*in.Records[i].PartitionKey)
		want := fmt.Sprintf("shardId-%012d", h[0]>>6)
		if i%10 == 9 {
			want = "shardId-000000000003"
		}
		if *r.ShardId != want {
			t.Errorf("record %d is in %s, want %s", i, *r.ShardId, want)
		}
	}
	if len(stored) != 500 {
		t.Errorf("%d records stored", len(stored))
	}
}

func TestConcurrentProducers(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 2)
	cl, ctx := b.client(), t.Context()
	const producers, puts = 8, 20
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for i := range puts {
				in := &kinesis.PutRecordsInput{StreamName: aws.String("s")}
				for j := range 5 {
					in.Records = append(in.Records, entry(fmt.Sprint("p", p), []byte(fmt.Sprintf("%03d", i*5+j))))
				}
				if out, err := cl.PutRecords(ctx, in); err != nil || *out.FailedRecordCount != 0 {
					t.Errorf("producer %d: %v", p, err)
					return
				}
			}
		})
	}
	wg.Wait()
	byKey := map[string][]string{}
	for s := range 2 {
		it := b.iter(cl, kinesis.GetShardIteratorInput{StreamName: aws.String("s"), ShardId: aws.String(fmt.Sprintf("shardId-%012d", s)), ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
		for {
			out := b.get(cl, it, 100)
			for _, r := range out.Records {
				byKey[*r.PartitionKey] = append(byKey[*r.PartitionKey], string(r.Data))
			}
			if it = out.NextShardIterator; *out.MillisBehindLatest == 0 {
				break
			}
		}
	}
	for p := range producers {
		if got := byKey[fmt.Sprint("p", p)]; len(got) != puts*5 || !slices.IsSorted(got) {
			t.Errorf("producer %d: %d records, in order %v", p, len(got), slices.IsSorted(got))
		}
	}
}

func TestAggregatesAreCounted(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	agg := append([]byte("\xf3\x89\x9a\xc2"), make([]byte, 40)...)
	if !kpl.IsAggregate(agg) {
		t.Fatal("the test's aggregate is none")
	}
	in := &kinesis.PutRecordsInput{StreamName: aws.String("s"), Records: []types.PutRecordsRequestEntry{entry("a", agg), entry("b", []byte("plain")), entry("c", agg)}}
	if _, err := cl.PutRecords(ctx, in); err != nil {
		t.Fatal(err)
	}
	if n := b.srv.Aggregates(); n != 2 {
		t.Errorf("%d aggregates, want 2", n)
	}
	out := b.get(cl, b.iter(cl, kinesis.GetShardIteratorInput{StreamName: aws.String("s"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon}), 0)
	if len(out.Records) != 3 || !bytes.Equal(out.Records[0].Data, agg) {
		t.Error("an aggregate did not come back as it was put")
	}
	b.in.before = func(context.Context, string, []record.Record, func([]record.Result)) (bool, error) {
		return true, record.ErrFull
	}
	if _, err := cl.PutRecords(ctx, in); err != nil || b.srv.Aggregates() != 2 {
		t.Errorf("refused aggregates were counted: %d, %v", b.srv.Aggregates(), err)
	}
}

func TestReadIsBounded(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	big := bytes.Repeat([]byte{0xa5}, 1<<20-1) // with its key of one byte exactly the limit
	for range 3 {
		in := &kinesis.PutRecordsInput{StreamName: aws.String("s")}
		for range 8 {
			in.Records = append(in.Records, entry("k", big))
		}
		if out, err := cl.PutRecords(ctx, in); err != nil || *out.FailedRecordCount != 0 {
			t.Fatalf("put: %v", err)
		}
	}
	it := b.iter(cl, kinesis.GetShardIteratorInput{StreamName: aws.String("s"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
	var counts []int
	for {
		out := b.get(cl, it, 0)
		counts = append(counts, len(out.Records))
		for _, r := range out.Records {
			if !bytes.Equal(r.Data, big) {
				t.Fatal("a large record came back changed")
			}
		}
		if it = out.NextShardIterator; *out.MillisBehindLatest == 0 {
			break
		}
	}
	if !slices.Equal(counts, []int{10, 10, 4}) {
		t.Errorf("answers of %v records, want 10, 10 and 4: ten megabytes each", counts)
	}
}

func TestIteratorsExpire(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	b.create("other", 1)
	cl, ctx := b.client(), t.Context()
	in := kinesis.GetShardIteratorInput{StreamName: aws.String("s"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon}
	it := b.iter(cl, in)
	b.clock.Move(5*time.Minute - time.Second)
	b.get(cl, it, 0)
	b.clock.Move(2 * time.Second)
	_, err := cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: it})
	refused(t, err, "ExpiredIteratorException", "tolerated delay of 300000 milliseconds")

	it = b.iter(cl, in)
	for _, bad := range []string{"x", strings.Repeat("A", 100), (*it)[:len(*it)-4], "A" + (*it)[1:], *it + "AAAA", (*it)[:40] + "BBBB" + (*it)[44:]} {
		_, err := cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: &bad})
		if c := code(err); c != "InvalidArgumentException" {
			t.Errorf("iterator %q: %s", bad, c)
		}
	}
	_, err = cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: it, StreamARN: aws.String("arn:aws:kinesis:us-east-1:000000000000:stream/other")})
	refused(t, err, "InvalidArgumentException", "do not name the same stream")
	// An iterator of an earlier start makes a reader ask for a new one.
	other := start(t, kinesisapi.Config{}, spool.Config{})
	other.create("s", 1)
	_, err = other.client().GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: it})
	refused(t, err, "ExpiredIteratorException", "before the gateway was started")
}

// A record that the inlet puts into another stream (quarantine, a route) is on
// disk: the client is told so, else it would send it for ever.
func TestRecordStoredElsewhere(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 4)
	quarantine := b.create("quarantine", 1)
	b.in.before = func(ctx context.Context, _ string, recs []record.Record, done func([]record.Result)) (bool, error) {
		return true, quarantine.Append(ctx, recs, done)
	}
	cl, ctx := b.client(), t.Context()
	one, err := cl.PutRecord(ctx, putRecord("s", "key", "not JSON"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := cl.PutRecords(ctx, &kinesis.PutRecordsInput{StreamName: aws.String("s"), Records: []types.PutRecordsRequestEntry{entry("key", []byte("nor this"))}})
	if err != nil || *two.FailedRecordCount != 0 {
		t.Fatalf("%+v: %v", two, err)
	}
	want := fmt.Sprintf("shardId-%012d", record.HashOf("key")[0]>>6)
	if *one.ShardId != want || *two.Records[0].ShardId != want || *one.SequenceNumber >= *two.Records[0].SequenceNumber {
		t.Errorf("answered %s %s and %s %s, want shard %s", *one.ShardId, *one.SequenceNumber, *two.Records[0].ShardId, *two.Records[0].SequenceNumber, want)
	}
	if n := quarantine.Shards()[0].Next; n != 3 {
		t.Errorf("%d records stored", n-1)
	}
}
