package kinesisapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/firehose"
	fhtypes "github.com/aws/aws-sdk-go-v2/service/firehose/types"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/gateway/conf"
	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

// firehose is the real SDK's client: over h2c with retries off, as client does,
// or over HTTP/1.1 with the SDK's own retries (see client for why).
func (b *box) firehose(h1 bool) *firehose.Client {
	b.t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(h1)
	tr.Protocols.SetUnencryptedHTTP2(!h1)
	b.t.Cleanup(tr.CloseIdleConnections)
	o := firehose.Options{
		BaseEndpoint: aws.String(b.url()),
		Region:       "eu-central-1",
		Credentials:  credentials.NewStaticCredentialsProvider("AKIDTEST", "secret", ""),
		HTTPClient:   &http.Client{Transport: tr},
	}
	if !h1 {
		o.RetryMaxAttempts = 1
	}
	return firehose.New(o)
}

func batch(data ...string) []fhtypes.Record {
	var recs []fhtypes.Record
	for _, d := range data {
		recs = append(recs, fhtypes.Record{Data: []byte(d)})
	}
	return recs
}

// all reads a stream's shards to their ends, with each record's id.
func (b *box) all(name string) (recs []record.Record, ids []string) {
	b.t.Helper()
	st, err := b.sp.Stream(name)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, sh := range st.Shards() {
		for got, err := range st.Scan(b.t.Context(), sh.ID, spool.Oldest()) {
			if err != nil {
				b.t.Fatal(err)
			}
			for i := range got.Recs {
				r := got.Recs[i]
				r.Data = bytes.Clone(r.Data)
				recs = append(recs, r)
				ids = append(ids, b.sp.Identity().Of(&r))
			}
		}
	}
	return recs, ids
}

// A batch comes back in its order from one shard, under the stream's name, and
// a RecordId is the record's id.
func TestFirehosePuts(t *testing.T) {
	for name, h1 := range map[string]bool{"HTTP/1.1": true, "h2c": false} {
		t.Run(name, func(t *testing.T) {
			key := kinesisapi.Key{AccessKey: "AKIDTEST", SecretKey: conf.NewSecret("secret")}
			b := start(t, kinesisapi.Config{Keys: []kinesisapi.Key{key}}, spool.Config{})
			b.create("logs", 4)
			cl, ctx := b.firehose(h1), t.Context()
			one, err := cl.PutRecord(ctx, &firehose.PutRecordInput{DeliveryStreamName: aws.String("logs"), Record: &fhtypes.Record{Data: []byte("first")}})
			if err != nil {
				t.Fatal(err)
			}
			ids := []string{*one.RecordId}
			want := []string{"first"}
			for n := range 3 {
				in := &firehose.PutRecordBatchInput{DeliveryStreamName: aws.String("logs")}
				for i := range 500 {
					d := fmt.Sprintf("%d-%03d\n", n, i)
					want = append(want, d)
					in.Records = append(in.Records, batch(d)...)
				}
				out, err := cl.PutRecordBatch(ctx, in)
				if err != nil {
					t.Fatal(err)
				}
				if *out.FailedPutCount != 0 || len(out.RequestResponses) != 500 || *out.Encrypted || *one.Encrypted {
					t.Fatalf("%d failed of %d, encrypted %v", *out.FailedPutCount, len(out.RequestResponses), *out.Encrypted)
				}
				for _, r := range out.RequestResponses {
					if r.ErrorCode != nil || r.ErrorMessage != nil {
						t.Fatalf("a stored record has the error %s", *r.ErrorCode)
					}
					ids = append(ids, *r.RecordId)
				}
			}
			recs, have := b.all("logs")
			at := map[string]int{}
			for i, id := range have {
				at[id] = i
			}
			shards, last := map[record.ShardID]bool{}, -1
			for i, id := range ids {
				j, ok := at[id]
				if !ok || j <= last || string(recs[j].Data) != want[i] || recs[j].Key != "logs" {
					t.Fatalf("record %d (%s) is at %d behind %d, found %v", i, id, j, last, ok)
				}
				shards[recs[j].Pos.Shard], last = true, j
			}
			// Over HTTP/1.1 the SDK may have sent a batch twice.
			if len(shards) != 1 || !h1 && len(recs) != len(want) {
				t.Errorf("%d records in %d shards, want %d in one", len(recs), len(shards), len(want))
			}
		})
	}
}

// The one shard of a delivery stream may be split under its producers: who
// reads parents first sees the order of the requests.
func TestFirehoseOrderOverSplits(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("logs", 1)
	cl := b.firehose(false)
	hash := record.HashOf("logs")
	var want []string
	for round := range 4 {
		for i := range 5 {
			want = append(want, fmt.Sprint(round, ".", i))
			in := &firehose.PutRecordBatchInput{DeliveryStreamName: aws.String("logs"), Records: batch(want[len(want)-1]+"a", want[len(want)-1]+"b")}
			if out, err := cl.PutRecordBatch(t.Context(), in); err != nil || *out.FailedPutCount != 0 {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		for _, sh := range st.Shards() {
			if !sh.Open() || hash.Compare(sh.From) < 0 || hash.Compare(sh.To) > 0 {
				continue
			}
			from, to := new(big.Int).SetBytes(sh.From[:]), new(big.Int).SetBytes(sh.To[:])
			var at record.HashKey
			from.Add(from, to).Add(from, big.NewInt(1)).Rsh(from, 1).FillBytes(at[:])
			if err := b.sp.Split(t.Context(), st, sh.ID, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	recs, _ := b.all("logs") // by index: parents stand before their children
	shards := map[record.ShardID]bool{}
	for i, r := range recs {
		if w := want[i/2] + string("ab"[i%2]); string(r.Data) != w {
			t.Fatalf("record %d is %s, want %s", i, r.Data, w)
		}
		shards[r.Pos.Shard] = true
	}
	if len(recs) != 2*len(want) || len(shards) != 4 {
		t.Errorf("%d records in %d shards, want %d in 4", len(recs), len(shards), 2*len(want))
	}
}

func TestFirehoseAndKinesisSeeTheSame(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	if _, err := b.firehose(false).PutRecord(t.Context(), &firehose.PutRecordInput{DeliveryStreamName: aws.String("s"), Record: &fhtypes.Record{Data: []byte{}}}); err != nil {
		t.Fatal(err) // an empty record is one
	}
	cl := b.client()
	out := b.get(cl, b.iter(cl, kinesis.GetShardIteratorInput{StreamName: aws.String("s"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon}), 0)
	if len(out.Records) != 1 || len(out.Records[0].Data) != 0 || *out.Records[0].PartitionKey != "s" {
		t.Errorf("read %+v", out.Records)
	}
}

func TestFirehosePartialFailure(t *testing.T) {
	b := start(t, kinesisapi.Config{Account: "123456789012"}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.firehose(false), t.Context()
	b.in.before = func(_ context.Context, _ string, recs []record.Record, done func([]record.Result)) (bool, error) {
		rs := make([]record.Result, len(recs))
		rs[0].Err = record.ErrFull
		if len(rs) > 1 {
			rs[1].Pos = b.pos("s", 41)
			rs[2].Err = fmt.Errorf("commit: %w", record.ErrCannotStore)
		}
		done(rs)
		return true, nil
	}
	out, err := cl.PutRecordBatch(ctx, &firehose.PutRecordBatchInput{DeliveryStreamName: aws.String("s"), Records: batch("a", "b", "c")})
	if err != nil {
		t.Fatal(err)
	}
	r := out.RequestResponses
	if *out.FailedPutCount != 2 || len(r) != 3 {
		t.Fatalf("%d failed of %d", *out.FailedPutCount, len(r))
	}
	if r[0].RecordId != nil || *r[0].ErrorCode != "ServiceUnavailableException" || *r[0].ErrorMessage != "Slow down." {
		t.Errorf("the one there was no room for: %+v", r[0])
	}
	if r[1].ErrorCode != nil || *r[1].RecordId != b.sp.Identity().ID(b.pos("s", 41)) {
		t.Errorf("the stored one: %+v", r[1])
	}
	if r[2].RecordId != nil || *r[2].ErrorCode != "InternalFailure" || *r[2].ErrorMessage != "Internal Service Failure" {
		t.Errorf("the one that could not be stored: %+v", r[2])
	}
	one := &firehose.PutRecordInput{DeliveryStreamName: aws.String("s"), Record: &fhtypes.Record{Data: []byte("a")}}
	_, err = cl.PutRecord(ctx, one)
	refused(t, err, "ServiceUnavailableException", "Slow down.")
	b.in.before = func(context.Context, string, []record.Record, func([]record.Result)) (bool, error) {
		return true, record.ErrFull
	}
	if out, err = cl.PutRecordBatch(ctx, &firehose.PutRecordBatchInput{DeliveryStreamName: aws.String("s"), Records: batch("a", "b")}); err != nil || *out.FailedPutCount != 2 {
		t.Errorf("a batch that has no room at all: %v", err)
	}
	b.in.before = func(context.Context, string, []record.Record, func([]record.Result)) (bool, error) {
		return true, record.ErrNoStream
	}
	_, err = cl.PutRecord(ctx, one)
	refused(t, err, "ResourceNotFoundException", "Firehose s under account 123456789012 not found.")
	_, err = cl.PutRecordBatch(ctx, &firehose.PutRecordBatchInput{DeliveryStreamName: aws.String("s"), Records: batch("a")})
	refused(t, err, "ResourceNotFoundException", "Firehose s under account 123456789012 not found.")
}

func TestFirehoseLimits(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.firehose(false), t.Context()
	largest := bytes.Repeat([]byte{0xa5}, 1000<<10)
	put := func(recs ...fhtypes.Record) error {
		_, err := cl.PutRecordBatch(ctx, &firehose.PutRecordBatchInput{DeliveryStreamName: aws.String("s"), Records: recs})
		return err
	}
	big := fhtypes.Record{Data: largest}
	if err := put(big, big, big, big, fhtypes.Record{Data: largest[:4<<20-4*len(largest)]}); err != nil {
		t.Errorf("four megabytes: %v", err)
	}
	err := put(big, big, big, big, fhtypes.Record{Data: largest[:4<<20-4*len(largest)+1]})
	refused(t, err, "InvalidArgumentException", "4 MB")
	err = put(fhtypes.Record{Data: []byte("a")}, fhtypes.Record{Data: append(slices.Clone(largest), 0)})
	refused(t, err, "ValidationException", "at 'records.2.member.data' failed to satisfy constraint: Member must have length less than or equal to 1024000")
	err = put(batch(make([]string, 501)...)...)
	refused(t, err, "ValidationException", "at 'records' failed to satisfy constraint: Member must have length less than or equal to 500")
	err = put([]fhtypes.Record{}...)
	refused(t, err, "ValidationException", "at 'records' failed to satisfy constraint: Member must have length greater than or equal to 1")
	_, err = cl.PutRecord(ctx, &firehose.PutRecordInput{DeliveryStreamName: aws.String("s"), Record: &fhtypes.Record{Data: append(slices.Clone(largest), 0)}})
	refused(t, err, "ValidationException", "at 'record.data'")
	if _, err = cl.PutRecord(ctx, &firehose.PutRecordInput{DeliveryStreamName: aws.String("s"), Record: &big}); err != nil {
		t.Errorf("a thousand kilobytes: %v", err)
	}
	for _, name := range []string{"", "not a name", strings.Repeat("n", 65)} {
		_, err = cl.PutRecord(ctx, &firehose.PutRecordInput{DeliveryStreamName: &name, Record: &fhtypes.Record{Data: []byte("a")}})
		refused(t, err, "ValidationException", "at 'deliveryStreamName' failed to satisfy constraint")
	}
	if recs, _ := b.all("s"); len(recs) != 6 {
		t.Errorf("%d records on disk, want the 6 that were right", len(recs))
	}
}

func TestFirehoseDescribe(t *testing.T) {
	b := start(t, kinesisapi.Config{Region: "eu-west-1", Account: "123456789012"}, spool.Config{})
	st := b.create("logs", 2)
	cl, ctx := b.firehose(false), t.Context()
	in := &firehose.DescribeDeliveryStreamInput{DeliveryStreamName: aws.String("logs")}
	out, err := cl.DescribeDeliveryStream(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	d := out.DeliveryStreamDescription
	if *d.DeliveryStreamName != "logs" || *d.DeliveryStreamARN != "arn:aws:firehose:eu-west-1:123456789012:deliverystream/logs" ||
		d.DeliveryStreamStatus != fhtypes.DeliveryStreamStatusActive || d.DeliveryStreamType != fhtypes.DeliveryStreamTypeDirectPut ||
		*d.VersionId != "1" || *d.HasMoreDestinations || d.DeliveryStreamEncryptionConfiguration.Status != fhtypes.DeliveryStreamEncryptionStatusDisabled {
		t.Errorf("described as %+v", d)
	}
	if off := d.CreateTimestamp.Sub(st.Created()).Abs(); off.Seconds() > 1 {
		t.Errorf("created %v off", off)
	}
	if len(d.Destinations) != 1 || *d.Destinations[0].DestinationId != "destinationId-000000000001" ||
		*d.Destinations[0].HttpEndpointDestinationDescription.EndpointConfiguration.Name != "stream logs" {
		t.Errorf("destinations %+v", d.Destinations)
	}
	in.ExclusiveStartDestinationId = d.Destinations[0].DestinationId
	if out, err = cl.DescribeDeliveryStream(ctx, in); err != nil || len(out.DeliveryStreamDescription.Destinations) != 0 {
		t.Errorf("behind the last destination: %v", err)
	}
	in.DeliveryStreamName = aws.String("absent")
	_, err = cl.DescribeDeliveryStream(ctx, in)
	refused(t, err, "ResourceNotFoundException", "Firehose absent under account 123456789012 not found.")
}

func TestFirehoseList(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	var want []string
	for i := range 23 {
		name := fmt.Sprintf("zz-%02d", i)
		b.create(name, 1)
		want = append(want, name)
	}
	b.create("zz-"+strings.Repeat("x", 62), 1) // a stream that Firehose cannot name
	cl, ctx := b.firehose(false), t.Context()
	for _, limit := range []int32{0, 1, 5, 23} {
		in := &firehose.ListDeliveryStreamsInput{ExclusiveStartDeliveryStreamName: aws.String("zz"), DeliveryStreamType: fhtypes.DeliveryStreamTypeDirectPut}
		if limit > 0 {
			in.Limit = &limit
		}
		var got []string
		pages := 0
		for more := true; more; pages++ {
			out, err := cl.ListDeliveryStreams(ctx, in)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, out.DeliveryStreamNames...)
			if more = *out.HasMoreDeliveryStreams; more {
				in.ExclusiveStartDeliveryStreamName = &got[len(got)-1]
			}
		}
		size := int(limit)
		if size == 0 {
			size = 10
		}
		if !slices.Equal(got, want) || pages != (len(want)+size-1)/size {
			t.Errorf("limit %d: %d pages of %v", limit, pages, got)
		}
	}
	out, err := cl.ListDeliveryStreams(ctx, &firehose.ListDeliveryStreamsInput{DeliveryStreamType: fhtypes.DeliveryStreamTypeKinesisStreamAsSource})
	if err != nil || len(out.DeliveryStreamNames) != 0 || *out.HasMoreDeliveryStreams {
		t.Errorf("streams that read from Kinesis: %v, %v", out, err)
	}
	_, err = cl.ListDeliveryStreams(ctx, &firehose.ListDeliveryStreamsInput{DeliveryStreamType: "Other"})
	refused(t, err, "ValidationException", "at 'deliveryStreamType' failed to satisfy constraint: Member must satisfy enum value set")
}

// What makes and changes delivery streams is refused with an error that the
// SDK has a type for, and does not try again.
func TestFirehoseRefusals(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx, name := b.firehose(false), t.Context(), aws.String("s")
	tag := fhtypes.Tag{Key: aws.String("k"), Value: aws.String("v")}
	for op, call := range map[string]func() error{
		"CreateDeliveryStream": func() error {
			_, err := cl.CreateDeliveryStream(ctx, &firehose.CreateDeliveryStreamInput{DeliveryStreamName: name})
			return err
		},
		"DeleteDeliveryStream": func() error {
			_, err := cl.DeleteDeliveryStream(ctx, &firehose.DeleteDeliveryStreamInput{DeliveryStreamName: name})
			return err
		},
		"UpdateDestination": func() error {
			_, err := cl.UpdateDestination(ctx, &firehose.UpdateDestinationInput{DeliveryStreamName: name, CurrentDeliveryStreamVersionId: aws.String("1"), DestinationId: aws.String("d")})
			return err
		},
		"TagDeliveryStream": func() error {
			_, err := cl.TagDeliveryStream(ctx, &firehose.TagDeliveryStreamInput{DeliveryStreamName: name, Tags: []fhtypes.Tag{tag}})
			return err
		},
		"UntagDeliveryStream": func() error {
			_, err := cl.UntagDeliveryStream(ctx, &firehose.UntagDeliveryStreamInput{DeliveryStreamName: name, TagKeys: []string{"k"}})
			return err
		},
		"ListTagsForDeliveryStream": func() error {
			_, err := cl.ListTagsForDeliveryStream(ctx, &firehose.ListTagsForDeliveryStreamInput{DeliveryStreamName: name})
			return err
		},
		"StartDeliveryStreamEncryption": func() error {
			_, err := cl.StartDeliveryStreamEncryption(ctx, &firehose.StartDeliveryStreamEncryptionInput{DeliveryStreamName: name})
			return err
		},
		"StopDeliveryStreamEncryption": func() error {
			_, err := cl.StopDeliveryStreamEncryption(ctx, &firehose.StopDeliveryStreamEncryptionInput{DeliveryStreamName: name})
			return err
		},
	} {
		code := "InvalidArgumentException"
		if op == "DeleteDeliveryStream" {
			code = "ResourceInUseException"
		}
		refused(t, call(), code, op+" is not supported by this endpoint.")
	}
	_, err := cl.DeleteDeliveryStream(ctx, &firehose.DeleteDeliveryStreamInput{DeliveryStreamName: aws.String("absent")})
	refused(t, err, "ResourceNotFoundException", "Firehose absent under account 000000000000 not found.")
}

// A signature for one of the services does not open the other.
func TestFirehoseScope(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	tr := &http.Transport{}
	for target, service := range map[string]string{"Firehose_20150804.ListDeliveryStreams": "firehose", "Kinesis_20131202.ListStreams": "kinesis"} {
		r := b.request("", "{}", b.clock.Now(), func(r *http.Request) { r.Header.Set("X-Amz-Target", target) }) // signed for kinesis
		a, body := b.do(tr, r)
		if service == "kinesis" && a.StatusCode != http.StatusOK || service != "kinesis" && (a.StatusCode != http.StatusBadRequest ||
			!strings.Contains(body, "Credential should be scoped to correct service: 'firehose'.")) {
			t.Errorf("%s signed for kinesis: %s %s", target, a.Status, body)
		}
	}
	cl := b.firehose(false)
	if _, err := cl.ListDeliveryStreams(t.Context(), nil); err != nil {
		t.Errorf("signed for firehose: %v", err)
	}
	r := b.request("", "{}", b.clock.Now(), nil)
	r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "/kinesis/", "/firehose/", 1))
	r.Header.Set("X-Amz-Target", "Kinesis_20131202.ListStreams")
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "'kinesis'") {
		t.Errorf("Kinesis scoped to firehose: %s %s %v", resp.Status, body, err)
	}
	tr.CloseIdleConnections()
}

// A key's policy counts for Firehose as it does for Kinesis.
func TestFirehosePolicy(t *testing.T) {
	key := kinesisapi.Key{AccessKey: "AKIDTEST", SecretKey: conf.NewSecret("secret"), Write: []string{"log-*"}}
	b := start(t, kinesisapi.Config{Keys: []kinesisapi.Key{key}}, spool.Config{})
	b.create("log-a", 1)
	b.create("other", 1)
	cl, ctx := b.firehose(false), t.Context()
	put := func(name string) error {
		_, err := cl.PutRecordBatch(ctx, &firehose.PutRecordBatchInput{DeliveryStreamName: &name, Records: batch("x")})
		return err
	}
	if err := put("log-a"); err != nil {
		t.Error(err)
	}
	refused(t, put("other"), "AccessDeniedException", "perform: firehose:PutRecordBatch on resource: arn:aws:firehose:us-east-1:000000000000:deliverystream/other")
	refused(t, put("absent"), "AccessDeniedException", "deliverystream/absent") // it does not say which streams there are
	_, err := cl.DescribeDeliveryStream(ctx, &firehose.DescribeDeliveryStreamInput{DeliveryStreamName: aws.String("other")})
	refused(t, err, "AccessDeniedException", "firehose:DescribeDeliveryStream")
	_, err = cl.CreateDeliveryStream(ctx, &firehose.CreateDeliveryStreamInput{DeliveryStreamName: aws.String("log-b")})
	refused(t, err, "AccessDeniedException", "firehose:CreateDeliveryStream")
	out, err := cl.ListDeliveryStreams(ctx, nil)
	if err != nil || !slices.Equal(out.DeliveryStreamNames, []string{"log-a"}) {
		t.Errorf("lists %v, %v", out, err)
	}
}
