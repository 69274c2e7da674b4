package kinesisapi_test

import (
	"context"
	"fmt"
	"log/slog"
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
)

const streamARN = "arn:aws:kinesis:us-east-1:000000000000:stream/"

// register registers a consumer and gives its ARN.
func (b *box) register(cl *kinesis.Client, stream, name string) string {
	b.t.Helper()
	out, err := cl.RegisterStreamConsumer(b.t.Context(), &kinesis.RegisterStreamConsumerInput{
		StreamARN: aws.String(streamARN + stream), ConsumerName: &name,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return *out.Consumer.ConsumerARN
}

func TestConsumers(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	b.create("other", 1)
	cl, ctx := b.client(), t.Context()
	arn := b.register(cl, "s", "app")
	if want := fmt.Sprintf("%ss/consumer/app:", streamARN); !strings.HasPrefix(arn, want) {
		t.Fatalf("consumer ARN %s, want %s and a time", arn, want)
	}
	for name, in := range map[string]*kinesis.DescribeStreamConsumerInput{
		"by ARN":    {ConsumerARN: &arn},
		"by name":   {StreamARN: aws.String(streamARN + "s"), ConsumerName: aws.String("app")},
		"by all":    {StreamARN: aws.String(streamARN + "s"), ConsumerName: aws.String("app"), ConsumerARN: &arn},
		"elsewhere": {ConsumerARN: aws.String(strings.Replace(arn, "us-east-1:000000000000", "eu-north-1:123456789012", 1))},
	} {
		out, err := cl.DescribeStreamConsumer(ctx, in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d := out.ConsumerDescription
		if *d.ConsumerARN != arn || *d.ConsumerName != "app" || *d.StreamARN != streamARN+"s" || d.ConsumerStatus != types.ConsumerStatusActive {
			t.Errorf("%s: %+v", name, d)
		}
		if age := b.clock.Now().Sub(*d.ConsumerCreationTimestamp); age < -time.Second || age > time.Minute {
			t.Errorf("%s: registered %v ago", name, age)
		}
	}
	for name, c := range map[string]struct {
		in         kinesis.DescribeStreamConsumerInput
		code, text string
	}{
		"nothing":         {kinesis.DescribeStreamConsumerInput{}, "InvalidArgumentException", "Either ConsumerARN or both"},
		"name alone":      {kinesis.DescribeStreamConsumerInput{ConsumerName: aws.String("app")}, "InvalidArgumentException", "Either ConsumerARN or both"},
		"not an ARN":      {kinesis.DescribeStreamConsumerInput{ConsumerARN: aws.String("app")}, "ValidationException", "'consumerARN'"},
		"two names":       {kinesis.DescribeStreamConsumerInput{ConsumerARN: &arn, ConsumerName: aws.String("x")}, "InvalidArgumentException", "do not name the same consumer"},
		"two streams":     {kinesis.DescribeStreamConsumerInput{ConsumerARN: &arn, StreamARN: aws.String(streamARN + "other")}, "InvalidArgumentException", "do not name the same stream"},
		"another time":    {kinesis.DescribeStreamConsumerInput{ConsumerARN: aws.String(arn + "0")}, "ResourceNotFoundException", "Consumer app under stream s not found"},
		"another name":    {kinesis.DescribeStreamConsumerInput{StreamARN: aws.String(streamARN + "s"), ConsumerName: aws.String("no")}, "ResourceNotFoundException", "Consumer no under stream s not found"},
		"of another":      {kinesis.DescribeStreamConsumerInput{StreamARN: aws.String(streamARN + "other"), ConsumerName: aws.String("app")}, "ResourceNotFoundException", "Consumer app under stream other not found"},
		"no such stream":  {kinesis.DescribeStreamConsumerInput{StreamARN: aws.String(streamARN + "none"), ConsumerName: aws.String("app")}, "ResourceNotFoundException", "Stream none under account"},
		"no stream's ARN": {kinesis.DescribeStreamConsumerInput{StreamARN: aws.String("s"), ConsumerName: aws.String("app")}, "ValidationException", "'streamARN'"},
	} {
		_, err := cl.DescribeStreamConsumer(ctx, &c.in)
		t.Run(name, func(t *testing.T) { refused(t, err, c.code, c.text) })
		_, err = cl.DeregisterStreamConsumer(ctx, &kinesis.DeregisterStreamConsumerInput{
			ConsumerARN: c.in.ConsumerARN, ConsumerName: c.in.ConsumerName, StreamARN: c.in.StreamARN,
		})
		t.Run(name+", deregistered", func(t *testing.T) { refused(t, err, c.code, c.text) })
	}
	_, err := cl.RegisterStreamConsumer(ctx, &kinesis.RegisterStreamConsumerInput{StreamARN: aws.String(streamARN + "s"), ConsumerName: aws.String("app")})
	refused(t, err, "ResourceInUseException", "Consumer app under stream s already exists")

	if _, err := cl.DeregisterStreamConsumer(ctx, &kinesis.DeregisterStreamConsumerInput{ConsumerARN: &arn}); err != nil {
		t.Fatal(err)
	}
	b.clock.Move(2 * time.Second)
	if again := b.register(cl, "s", "app"); again == arn {
		t.Error("a consumer that was registered again has the ARN of the one before")
	}
	_, err = cl.DescribeStreamConsumer(ctx, &kinesis.DescribeStreamConsumerInput{ConsumerARN: &arn})
	refused(t, err, "ResourceNotFoundException", "Consumer app under stream s not found")
}

// another is a second endpoint over the same spool: what it knows is what the
// spool keeps.
func (b *box) another() *box { return b.anotherWith(slog.New(slog.DiscardHandler)) }

func (b *box) anotherWith(log *slog.Logger) *box {
	b.t.Helper()
	srv, err := kinesisapi.New(kinesisapi.Config{Listen: "127.0.0.1:0"}, b.sp, b.in, b.clock.Now, log)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	c := &box{t: b.t, sp: b.sp, in: b.in, srv: srv, clock: b.clock}
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			b.t.Errorf("run: %v", err)
		}
	})
	b.t.Cleanup(c.stop)
	return c
}

// TestConsumersStay: a consumer is kept with its stream, with its tags, and
// counted where the stream is described.
func TestConsumersStay(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	out, err := b.client().RegisterStreamConsumer(t.Context(), &kinesis.RegisterStreamConsumerInput{
		StreamARN: aws.String(streamARN + "s"), ConsumerName: aws.String("app"), Tags: map[string]string{"a": "b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	again := b.another()
	cl, arn := again.client(), out.Consumer.ConsumerARN
	d, err := cl.DescribeStreamConsumer(t.Context(), &kinesis.DescribeStreamConsumerInput{ConsumerARN: arn})
	if err != nil || !d.ConsumerDescription.ConsumerCreationTimestamp.Equal(*out.Consumer.ConsumerCreationTimestamp) {
		t.Errorf("another endpoint says %+v, %v", d, err)
	}
	tags, err := cl.ListTagsForResource(t.Context(), &kinesis.ListTagsForResourceInput{ResourceARN: arn})
	if err != nil || len(tags.Tags) != 1 || *tags.Tags[0].Key != "a" || *tags.Tags[0].Value != "b" {
		t.Errorf("tags %+v, %v", tags, err)
	}
	sum, err := cl.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("s")})
	if err != nil || *sum.StreamDescriptionSummary.ConsumerCount != 1 {
		t.Errorf("summary %+v, %v", sum, err)
	}
	if _, err := cl.DeregisterStreamConsumer(t.Context(), &kinesis.DeregisterStreamConsumerInput{ConsumerARN: arn}); err != nil {
		t.Fatal(err)
	}
	third := again.another()
	_, err = third.client().DescribeStreamConsumer(t.Context(), &kinesis.DescribeStreamConsumerInput{ConsumerARN: arn})
	refused(t, err, "ResourceNotFoundException", "Consumer app under stream s not found")
}

func TestConsumerLimitAndList(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	b.create("other", 1)
	cl, ctx := b.client(), t.Context()
	var want []string
	for i := range kinesisapi.MaxConsumers {
		want = append(want, b.register(cl, "s", fmt.Sprintf("app-%02d", (i*7)%kinesisapi.MaxConsumers)))
	}
	_, err := cl.RegisterStreamConsumer(ctx, &kinesis.RegisterStreamConsumerInput{StreamARN: aws.String(streamARN + "s"), ConsumerName: aws.String("more")})
	refused(t, err, "LimitExceededException", "limit of 20 registered consumers")
	b.register(cl, "other", "app-00") // a name is unique within its stream

	slices.Sort(want)
	var got []string
	pg := kinesis.NewListStreamConsumersPaginator(cl, &kinesis.ListStreamConsumersInput{StreamARN: aws.String(streamARN + "s"), MaxResults: aws.Int32(7)})
	pages := 0
	var token *string
	for pg.HasMorePages() {
		p, err := pg.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		if p.NextToken != nil {
			token = p.NextToken
		}
		for _, c := range p.Consumers {
			got = append(got, *c.ConsumerARN)
		}
	}
	if !slices.Equal(got, want) || pages != 3 {
		t.Errorf("%d pages list %v, want %v", pages, got, want)
	}
	_, err = cl.ListStreamConsumers(ctx, &kinesis.ListStreamConsumersInput{StreamARN: aws.String(streamARN + "other"), NextToken: token})
	refused(t, err, "InvalidArgumentException", "Invalid NextToken")
	created := b.clock.Now()
	_, err = cl.ListStreamConsumers(ctx, &kinesis.ListStreamConsumersInput{StreamARN: aws.String(streamARN + "s"), NextToken: token, StreamCreationTimestamp: &created})
	refused(t, err, "InvalidArgumentException", "NextToken and StreamCreationTimestamp")
	long := created.Add(-time.Hour)
	_, err = cl.ListStreamConsumers(ctx, &kinesis.ListStreamConsumersInput{StreamARN: aws.String(streamARN + "s"), StreamCreationTimestamp: &long})
	refused(t, err, "ResourceNotFoundException", "Stream s under account")
	b.clock.Move(301 * time.Second)
	_, err = cl.ListStreamConsumers(ctx, &kinesis.ListStreamConsumersInput{StreamARN: aws.String(streamARN + "s"), NextToken: token})
	refused(t, err, "ExpiredNextTokenException", "expired")

	_, err = cl.RegisterStreamConsumer(ctx, &kinesis.RegisterStreamConsumerInput{
		StreamARN: aws.String(streamARN + "other"), ConsumerName: aws.String("tagged"), Tags: map[string]string{"": "x"},
	})
	refused(t, err, "ValidationException", "'tags'")
	tags := map[string]string{}
	for i := range 51 {
		tags[fmt.Sprint(i)] = ""
	}
	_, err = cl.RegisterStreamConsumer(ctx, &kinesis.RegisterStreamConsumerInput{StreamARN: aws.String(streamARN + "other"), ConsumerName: aws.String("tagged"), Tags: tags})
	refused(t, err, "InvalidArgumentException", "more than 50 tags")
}
