package kinesisapi_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/conf"
	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

func arnOf(stream string) *string {
	return aws.String("arn:aws:kinesis:us-east-1:000000000000:stream/" + stream)
}

func hours(n int) conf.Duration { return conf.Duration(time.Duration(n) * time.Hour) }

func TestCreateInFull(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	cl, ctx := b.client(), t.Context()
	tags := map[string]string{"site": "Halle 7", "empty": ""}
	_, err := cl.CreateStream(ctx, &kinesis.CreateStreamInput{
		StreamName: aws.String("s"), StreamModeDetails: &types.StreamModeDetails{StreamMode: types.StreamModeOnDemand},
		MaxRecordSizeInKiB: aws.Int32(5000), Tags: tags, RecordDistributionStrategy: types.RecordDistributionStrategyUserPartitionKey,
	})
	if err != nil {
		t.Fatal(err)
	}
	sum, err := cl.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("s")})
	if err != nil {
		t.Fatal(err)
	}
	ss := sum.StreamDescriptionSummary
	if ss.StreamModeDetails.StreamMode != types.StreamModeOnDemand || *ss.MaxRecordSizeInKiB != 5000 || *ss.OpenShardCount != 4 || *ss.ConsumerCount != 0 {
		t.Errorf("created as %+v", ss)
	}
	if got := b.tags(cl, "s"); !maps.Equal(got, tags) {
		t.Errorf("tags %v", got)
	}
	lim, err := cl.DescribeLimits(ctx, nil)
	if err != nil || *lim.OnDemandStreamCount != 1 || *lim.OpenShardCount != 4 {
		t.Errorf("limits %+v: %v", lim, err)
	}
	// Back again: nothing is left of it.
	if _, err := cl.UpdateStreamMode(ctx, &kinesis.UpdateStreamModeInput{StreamARN: arnOf("s"), StreamModeDetails: &types.StreamModeDetails{StreamMode: types.StreamModeProvisioned}}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.UpdateMaxRecordSize(ctx, &kinesis.UpdateMaxRecordSizeInput{StreamARN: arnOf("s"), MaxRecordSizeInKiB: aws.Int32(1024)}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.RemoveTagsFromStream(ctx, &kinesis.RemoveTagsFromStreamInput{StreamName: aws.String("s"), TagKeys: []string{"site", "empty", "none"}}); err != nil {
		t.Fatal(err)
	}
	st, err := b.sp.Stream("s")
	if err != nil || st.Note() != "" {
		t.Errorf("a stream like any other has the note %q: %v", st.Note(), err)
	}
}

// tags gives a stream's tags, asked for in pages of one and all at once.
func (b *box) tags(cl *kinesis.Client, stream string) map[string]string {
	b.t.Helper()
	ctx := b.t.Context()
	paged, in := map[string]string{}, &kinesis.ListTagsForStreamInput{StreamName: &stream, Limit: aws.Int32(1)}
	for {
		p, err := cl.ListTagsForStream(ctx, in)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, tag := range p.Tags {
			paged[*tag.Key] = *tag.Value
			in.ExclusiveStartTagKey = tag.Key
		}
		if !*p.HasMoreTags {
			break
		}
	}
	all, err := cl.ListTagsForResource(ctx, &kinesis.ListTagsForResourceInput{ResourceARN: arnOf(stream)})
	if err != nil {
		b.t.Fatal(err)
	}
	whole := map[string]string{}
	for _, tag := range all.Tags {
		whole[*tag.Key] = *tag.Value
	}
	if !maps.Equal(paged, whole) {
		b.t.Errorf("one by one the tags are %v, all at once %v", paged, whole)
	}
	return whole
}

func TestTags(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx, p := b.client(), t.Context(), aws.String
	s := p("s")
	if _, err := cl.AddTagsToStream(ctx, &kinesis.AddTagsToStreamInput{StreamName: s, Tags: map[string]string{"a": "1", "b": "2"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.TagResource(ctx, &kinesis.TagResourceInput{ResourceARN: arnOf("s"), Tags: map[string]string{"b": "3", "c/ü:x": "= @"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.UntagResource(ctx, &kinesis.UntagResourceInput{ResourceARN: arnOf("s"), TagKeys: []string{"a", "nothing"}}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"b": "3", "c/ü:x": "= @"}
	if got := b.tags(cl, "s"); !maps.Equal(got, want) {
		t.Errorf("tags %v, want %v", got, want)
	}
	tag := func(tags map[string]string) func() error {
		return func() error {
			_, err := cl.AddTagsToStream(ctx, &kinesis.AddTagsToStreamInput{StreamName: s, Tags: tags})
			return err
		}
	}
	many := map[string]string{}
	for i := range 49 {
		many[fmt.Sprint("k", i)] = ""
	}
	b.refuses(t, []refusal{
		{"too many", tag(many), "InvalidArgumentException", "more than 50 tags"},
		{"none", tag(map[string]string{}), "ValidationException", "Value '{}' at 'tags' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"other characters", tag(map[string]string{"a!": "b"}), "InvalidArgumentException", "Some tags contain invalid characters."},
		{"other characters in a value", tag(map[string]string{"a": "b^"}), "InvalidArgumentException", "Some tags contain invalid characters."},
		{"a reserved key", tag(map[string]string{"aws:x": "b"}), "InvalidArgumentException", "reserved"},
		{"no key", tag(map[string]string{"": "b"}), "ValidationException", "'tags'"},
		{"a long key", tag(map[string]string{strings.Repeat("k", 129): "b"}), "ValidationException", "less than or equal to 128"},
		{"a long value", tag(map[string]string{"k": strings.Repeat("v", 257)}), "ValidationException", "less than or equal to 256"},
		{"remove none", func() error {
			_, err := cl.RemoveTagsFromStream(ctx, &kinesis.RemoveTagsFromStreamInput{StreamName: s, TagKeys: []string{}})
			return err
		}, "ValidationException", "Value '[]' at 'tagKeys'"},
		{"remove other characters", func() error {
			_, err := cl.RemoveTagsFromStream(ctx, &kinesis.RemoveTagsFromStreamInput{StreamName: s, TagKeys: []string{"a!"}})
			return err
		}, "InvalidArgumentException", "invalid characters"},
		{"list too many", func() error {
			_, err := cl.ListTagsForStream(ctx, &kinesis.ListTagsForStreamInput{StreamName: s, Limit: aws.Int32(51)})
			return err
		}, "ValidationException", "Value '51' at 'limit'"},
		{"no resource", func() error {
			_, err := cl.ListTagsForResource(ctx, &kinesis.ListTagsForResourceInput{ResourceARN: arnOf("none")})
			return err
		}, "ResourceNotFoundException", "Stream none under account"},
		{"no ARN", func() error {
			_, err := cl.ListTagsForResource(ctx, &kinesis.ListTagsForResourceInput{ResourceARN: s})
			return err
		}, "ValidationException", "'resourceARN'"},
	})
	if got := b.tags(cl, "s"); !maps.Equal(got, want) {
		t.Errorf("after refusals the tags are %v, want %v", got, want)
	}
}

// TestTagsFromManyClients: nobody's change is lost.
func TestTagsFromManyClients(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				_, err := cl.AddTagsToStream(ctx, &kinesis.AddTagsToStreamInput{StreamName: aws.String("s"), Tags: map[string]string{fmt.Sprint(i, "-", j): "x"}})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := b.tags(cl, "s"); len(got) != 40 {
		t.Errorf("%d tags of 40: %v", len(got), slices.Sorted(maps.Keys(got)))
	}
}

// TestConsumersNote: consumers are kept in the stream's note; their tags are
// changed there, what a newer program wrote stays, and they hold the stream.
func TestConsumersNote(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	const made = `2026-11-23T04:00:00Z` // 1795406400
	note := `{"consumers":[{"name":"c","created":"` + made + `"},{"name":"d","created":"` + made + `"}],"later":{"x":[1,2.50]}}`
	if err := b.sp.SetNote(ctx, st, note); err != nil {
		t.Fatal(err)
	}
	consumer := func(rest string) *string { return aws.String(*arnOf("s") + "/consumer/" + rest) }
	if _, err := cl.TagResource(ctx, &kinesis.TagResourceInput{ResourceARN: consumer("d:1795406400"), Tags: map[string]string{"k": "v"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.TagResource(ctx, &kinesis.TagResourceInput{ResourceARN: consumer("c:1795406400"), Tags: map[string]string{"k": "v"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.UntagResource(ctx, &kinesis.UntagResourceInput{ResourceARN: consumer("c:1795406400"), TagKeys: []string{"k"}}); err != nil {
		t.Fatal(err)
	}
	out, err := cl.ListTagsForResource(ctx, &kinesis.ListTagsForResourceInput{ResourceARN: consumer("d:1795406400")})
	if err != nil || len(out.Tags) != 1 || *out.Tags[0].Key != "k" || *out.Tags[0].Value != "v" {
		t.Errorf("tags of the consumer: %+v, %v", out, err)
	}
	const want = `{"consumers":[{"name":"c","created":"` + made + `"},{"name":"d","created":"` + made + `","tags":{"k":"v"}}],"later":{"x":[1,2.50]}}`
	if got := st.Note(); got != want {
		t.Errorf("the note is %s, want %s", got, want)
	}
	if got := b.tags(cl, "s"); len(got) != 0 {
		t.Errorf("the stream has the tags %v", got)
	}
	for _, bad := range []string{"c:1795406401", "e:1795406400"} {
		_, err := cl.ListTagsForResource(ctx, &kinesis.ListTagsForResourceInput{ResourceARN: consumer(bad)})
		refused(t, err, "ResourceNotFoundException", bad)
	}
	_, err = cl.ListTagsForResource(ctx, &kinesis.ListTagsForResourceInput{ResourceARN: consumer("c")})
	refused(t, err, "InvalidArgumentException", "neither a stream nor a consumer")

	sum, err := cl.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("s")})
	if err != nil || *sum.StreamDescriptionSummary.ConsumerCount != 2 {
		t.Errorf("summary %+v: %v", sum, err)
	}
	_, err = cl.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: aws.String("s")})
	refused(t, err, "ResourceInUseException", "has 2 registered consumers")
	if _, err := cl.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: aws.String("s"), EnforceConsumerDeletion: aws.Bool(true)}); err != nil {
		t.Error(err)
	}
}

func TestBrokenNote(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	if err := b.sp.SetNote(t.Context(), b.create("s", 1), `{"tags":`); err != nil {
		t.Fatal(err)
	}
	cl, ctx := b.client(), t.Context()
	_, err := cl.AddTagsToStream(ctx, &kinesis.AddTagsToStreamInput{StreamName: aws.String("s"), Tags: map[string]string{"k": "v"}})
	refused(t, err, "InternalFailureException", "")
	if n := b.srv.Errors(); n != 1 {
		t.Errorf("%d errors of our own, want 1", n)
	}
	// It hides neither the others nor itself.
	b.create("t", 1)
	all, err := cl.ListStreams(ctx, nil)
	if err != nil || !slices.Equal(all.StreamNames, []string{"s", "t"}) {
		t.Errorf("listed %v, %v", all, err)
	}
	if _, err := cl.DescribeLimits(ctx, nil); err != nil {
		t.Error(err)
	}
}

func TestDeleteStream(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 2)
	cl, ctx, s := b.client(), t.Context(), aws.String("s")
	old, err := cl.PutRecord(ctx, putRecord("s", "k", "old"))
	if err != nil {
		t.Fatal(err)
	}
	it := b.iter(cl, kinesis.GetShardIteratorInput{StreamName: s, ShardId: old.ShardId, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
	if _, err := cl.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamARN: arnOf("s")}); err != nil {
		t.Fatal(err)
	}
	_, err = cl.DescribeStream(ctx, &kinesis.DescribeStreamInput{StreamName: s})
	refused(t, err, "ResourceNotFoundException", "Stream s under account 000000000000 not found.")
	_, err = cl.PutRecord(ctx, putRecord("s", "k", "lost"))
	refused(t, err, "ResourceNotFoundException", "Stream s")
	_, err = cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: it})
	refused(t, err, "ResourceNotFoundException", "Stream s")

	b.clock.Move(2 * time.Second)
	if _, err := cl.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: s, ShardCount: aws.Int32(2)}); err != nil {
		t.Fatal(err)
	}
	_, err = cl.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: it})
	refused(t, err, "ResourceNotFoundException", "Stream s")
	_, err = cl.GetShardIterator(ctx, &kinesis.GetShardIteratorInput{StreamName: s, ShardId: old.ShardId, ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, StartingSequenceNumber: old.SequenceNumber})
	refused(t, err, "InvalidArgumentException", "is invalid")
	again, err := cl.PutRecord(ctx, putRecord("s", "k", "new"))
	if err != nil {
		t.Fatal(err)
	}
	if *again.SequenceNumber <= *old.SequenceNumber {
		t.Errorf("the namesake's number %s is not behind %s", *again.SequenceNumber, *old.SequenceNumber)
	}
	got := datas(b.get(cl, b.iter(cl, kinesis.GetShardIteratorInput{StreamName: s, ShardId: again.ShardId, ShardIteratorType: types.ShardIteratorTypeTrimHorizon}), 0))
	if !slices.Equal(got, []string{"new"}) {
		t.Errorf("the namesake holds %v", got)
	}
}

// TestDeclaredStreams: what the next start would undo is refused, the rest not.
func TestDeclaredStreams(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{}, kinesisapi.Declared(func(stream string) bool { return stream == "s" }))
	b.create("s", 1)
	b.create("own", 1)
	cl, ctx, s := b.client(), t.Context(), aws.String("s")
	_, err := cl.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: s})
	refused(t, err, "AccessDeniedException", "take its [[stream]] out of the config file")
	_, err = cl.DecreaseStreamRetentionPeriod(ctx, &kinesis.DecreaseStreamRetentionPeriodInput{StreamName: s, RetentionPeriodHours: aws.Int32(24)})
	refused(t, err, "AccessDeniedException", "set retention in its [[stream]]")
	if _, err := cl.AddTagsToStream(ctx, &kinesis.AddTagsToStreamInput{StreamName: s, Tags: map[string]string{"k": "v"}}); err != nil {
		t.Error(err)
	}
	if _, err := cl.UpdateMaxRecordSize(ctx, &kinesis.UpdateMaxRecordSizeInput{StreamARN: arnOf("s"), MaxRecordSizeInKiB: aws.Int32(2048)}); err != nil {
		t.Error(err)
	}
	b.split(cl, "s", 0, hashHalf)
	if _, err := cl.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: aws.String("own")}); err != nil {
		t.Error(err)
	}
}

func TestRetention(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	cl, ctx, s := b.client(), t.Context(), aws.String("s")
	if _, err := cl.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: s, ShardCount: aws.Int32(1)}); err != nil {
		t.Fatal(err)
	}
	longer := func(hours int32) error {
		_, err := cl.IncreaseStreamRetentionPeriod(ctx, &kinesis.IncreaseStreamRetentionPeriodInput{StreamName: s, RetentionPeriodHours: &hours})
		return err
	}
	shorter := func(hours int32) error {
		_, err := cl.DecreaseStreamRetentionPeriod(ctx, &kinesis.DecreaseStreamRetentionPeriodInput{StreamName: s, RetentionPeriodHours: &hours})
		return err
	}
	for _, c := range []struct {
		name  string
		set   func(int32) error
		hours int32
		keeps time.Duration // 0 is until the quota
	}{
		{"the same", longer, 24, 24 * time.Hour},
		{"the same again", shorter, 24, 24 * time.Hour},
		{"one hour", shorter, 1, time.Hour},
		{"a year", longer, 8760, 8760 * time.Hour},
		{"until the quota", longer, 8761, 0},
		{"until the quota again", longer, 8761, 0},
		{"two days", shorter, 48, 48 * time.Hour},
	} {
		if err := c.set(c.hours); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		d, err := cl.DescribeStream(ctx, &kinesis.DescribeStreamInput{StreamName: s})
		if err != nil || *d.StreamDescription.RetentionPeriodHours != c.hours {
			t.Errorf("%s: described as %v, %v", c.name, d, err)
		}
		st, err := b.sp.Stream("s")
		if err != nil || st.Config().MaxAge.D() != c.keeps {
			t.Errorf("%s: the stream keeps %v, want %v", c.name, st.Config().MaxAge, c.keeps)
		}
	}
	for _, c := range []struct {
		err  error
		text string
	}{
		{longer(47), "Requested retention period (47 hours) for stream s can not be shorter than existing retention period (48 hours). Use DecreaseRetentionPeriod API."},
		{shorter(49), "Requested retention period (49 hours) for stream s can not be longer than existing retention period (48 hours). Use IncreaseRetentionPeriod API."},
		{shorter(0), "Minimum allowed retention period is 1 hours. Requested retention period (0 hours) is too short."},
		{longer(8762), "Maximum allowed retention period is 8760 hours"},
	} {
		refused(t, c.err, "InvalidArgumentException", c.text)
	}
	// A legal limit of the stream's own holds.
	if _, err := b.sp.CreateStream(ctx, spool.StreamConfig{Name: "legal", Class: record.ClassTelemetry, MaxAge: hours(2), MaxAgeHard: hours(5)}); err != nil {
		t.Fatal(err)
	}
	_, err := cl.IncreaseStreamRetentionPeriod(ctx, &kinesis.IncreaseStreamRetentionPeriodInput{StreamName: aws.String("legal"), RetentionPeriodHours: aws.Int32(6)})
	refused(t, err, "InvalidArgumentException", "max_age_hard")
}

// TestWhatABoxHasNot: it is asked for all the same, and answered in a way that
// clients understand.
func TestWhatABoxHasNot(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx, s := b.client(), t.Context(), aws.String("s")
	enabled, err := cl.EnableEnhancedMonitoring(ctx, &kinesis.EnableEnhancedMonitoringInput{StreamName: s, ShardLevelMetrics: []types.MetricsName{types.MetricsNameAll}})
	if err != nil || len(enabled.CurrentShardLevelMetrics) != 0 || len(enabled.DesiredShardLevelMetrics) != 0 || *enabled.StreamName != "s" {
		t.Errorf("monitoring: %+v, %v", enabled, err)
	}
	acc, err := cl.DescribeAccountSettings(ctx, nil)
	if err != nil || acc.MinimumThroughputBillingCommitment.Status != types.MinimumThroughputBillingCommitmentOutputStatusDisabled {
		t.Errorf("account settings: %+v, %v", acc, err)
	}
	commit := func(st types.MinimumThroughputBillingCommitmentInputStatus) error {
		_, err := cl.UpdateAccountSettings(ctx, &kinesis.UpdateAccountSettingsInput{MinimumThroughputBillingCommitment: &types.MinimumThroughputBillingCommitmentInput{Status: st}})
		return err
	}
	strategy := func(st types.RecordDistributionStrategy) error {
		_, err := cl.UpdateStreamRecordDistributionStrategy(ctx, &kinesis.UpdateStreamRecordDistributionStrategyInput{StreamARN: arnOf("s"), RecordDistributionStrategy: st})
		return err
	}
	if err := commit(types.MinimumThroughputBillingCommitmentInputStatusDisabled); err != nil {
		t.Error(err)
	}
	if err := strategy(types.RecordDistributionStrategyUserPartitionKey); err != nil {
		t.Error(err)
	}
	channels, err := cl.ListChannels(ctx, nil)
	if err != nil || channels.ChannelSummaries == nil || len(channels.ChannelSummaries) != 0 {
		t.Errorf("channels: %+v, %v", channels, err)
	}
	b.refuses(t, []refusal{
		{"commit", func() error { return commit(types.MinimumThroughputBillingCommitmentInputStatusEnabled) }, "InvalidArgumentException", "bills nobody"},
		{"distribute", func() error { return strategy(types.RecordDistributionStrategyAuto) }, "InvalidArgumentException", "RecordDistributionStrategy AUTO"},
		{"encrypt", func() error {
			_, err := cl.StartStreamEncryption(ctx, &kinesis.StartStreamEncryptionInput{StreamName: s, EncryptionType: types.EncryptionTypeKms, KeyId: aws.String("alias/aws/kinesis")})
			return err
		}, "KMSNotFoundException", "There is no key 'alias/aws/kinesis'"},
		{"encrypt nothing", func() error {
			_, err := cl.StartStreamEncryption(ctx, &kinesis.StartStreamEncryptionInput{StreamName: aws.String("none"), EncryptionType: types.EncryptionTypeKms, KeyId: aws.String("k")})
			return err
		}, "ResourceNotFoundException", "Stream none"},
		{"decrypt", func() error {
			_, err := cl.StopStreamEncryption(ctx, &kinesis.StopStreamEncryptionInput{StreamName: s, EncryptionType: types.EncryptionTypeKms, KeyId: aws.String("k")})
			return err
		}, "InvalidArgumentException", "is not encrypted"},
		{"a policy", func() error {
			_, err := cl.PutResourcePolicy(ctx, &kinesis.PutResourcePolicyInput{ResourceARN: arnOf("s"), Policy: aws.String("{}")})
			return err
		}, "AccessDeniedException", "[[kinesis.key]]"},
		{"no policy", func() error {
			_, err := cl.GetResourcePolicy(ctx, &kinesis.GetResourcePolicyInput{ResourceARN: arnOf("s")})
			return err
		}, "ResourceNotFoundException", "No resource policy"},
		{"a policy of nothing", func() error {
			_, err := cl.PutResourcePolicy(ctx, &kinesis.PutResourcePolicyInput{ResourceARN: arnOf("none"), Policy: aws.String("{}")})
			return err
		}, "ResourceNotFoundException", "Stream none"},
		{"warm throughput", func() error {
			_, err := cl.UpdateStreamWarmThroughput(ctx, &kinesis.UpdateStreamWarmThroughputInput{StreamARN: arnOf("s"), WarmThroughputMiBps: aws.Int32(100)})
			return err
		}, "InvalidArgumentException", "WarmThroughputMiBps"},
		{"no such metric", func() error {
			_, err := cl.DisableEnhancedMonitoring(ctx, &kinesis.DisableEnhancedMonitoringInput{StreamName: s, ShardLevelMetrics: []types.MetricsName{"Weather"}})
			return err
		}, "ValidationException", "Value 'Weather' at 'shardLevelMetrics.1.member'"},
		{"no such channel", func() error {
			_, err := cl.DescribeChannel(ctx, &kinesis.DescribeChannelInput{ChannelARN: aws.String("arn:x")})
			return err
		}, "ResourceNotFoundException", "Channel 'arn:x' not found."},
	})
}
