package kinesisapi_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"github.com/fxamacker/cbor/v2"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

func TestSubscribe(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	putter := b.client()
	arn := b.register(putter, "s", "app")
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			b.put(putter, "s", "before")
			all := b.subscribed(how, arn, shard0, horizon)
			e, ok, err := all.next()
			if !ok || len(e.Records) == 0 {
				t.Fatalf("first event %+v, %v", e, err)
			}
			last := e.Records[len(e.Records)-1]
			if *e.ContinuationSequenceNumber != *last.SequenceNumber || *e.MillisBehindLatest != 0 || len(e.ChildShards) != 0 {
				t.Errorf("event goes on at %s, %d ms behind, children %v", *e.ContinuationSequenceNumber, *e.MillisBehindLatest, e.ChildShards)
			}
			if *last.PartitionKey != "k" || string(last.Data) != "before" || last.EncryptionType != types.EncryptionTypeNone ||
				b.clock.Now().Sub(*last.ApproximateArrivalTimestamp).Abs() > time.Minute {
				t.Errorf("last record %+v", last)
			}
			for _, d := range numbered(0, 20) { // pushed one by one as they are put
				seq := b.put(putter, "s", d)
				if got := all.data(1); got[0] != d || *all.last.ContinuationSequenceNumber != seq[0] {
					t.Fatalf("pushed %q up to %s, put %q as %s", got, *all.last.ContinuationSequenceNumber, d, seq)
				}
			}
			b.clock.Move(5 * time.Second)
		})
	}
}

func TestStartingPositions(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	b.create("empty", 1)
	cl := b.client()
	arn := b.register(cl, "s", "app")
	seq := b.put(cl, "s", numbered(0, 5)...)
	b.clock.Move(time.Hour)
	since := b.clock.Now().Add(-time.Minute)
	seq = append(seq, b.put(cl, "s", numbered(5, 10)...)...)
	old := since.Add(-1000 * time.Hour)
	ends := []string{"end"} // every case puts one more
	for name, c := range map[string]struct {
		at   types.StartingPosition
		want []string
	}{
		"horizon":        {horizon, numbered(0, 10)},
		"at":             {types.StartingPosition{Type: types.ShardIteratorTypeAtSequenceNumber, SequenceNumber: &seq[3]}, numbered(3, 10)},
		"after":          {behind(seq[3]), numbered(4, 10)},
		"after the last": {behind(seq[9]), nil},
		"at a time":      {types.StartingPosition{Type: types.ShardIteratorTypeAtTimestamp, Timestamp: &since}, numbered(5, 10)},
		"at an old time": {types.StartingPosition{Type: types.ShardIteratorTypeAtTimestamp, Timestamp: &old}, numbered(0, 10)},
		"latest":         {latest, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := b.subscribed(ways["h2"], arn, shard0, c.at)
			b.put(cl, "s", "end")
			want := append(c.want, ends...)
			if c.at == latest {
				want = ends[:1]
			}
			if got := f.data(len(want)); strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("got %v, want %v", got, want)
			}
			f.close()
			b.clock.Move(5 * time.Second)
		})
		ends = append(ends, "end")
	}
	// A shard in which nothing was ever put has a number to go on from too.
	empty := b.register(cl, "empty", "app")
	kinesisapi.SetTerms(b.srv, time.Minute, time.Millisecond)
	f := b.subscribed(ways["h2"], empty, shard0, latest)
	e, ok, err := f.next()
	if !ok || len(e.Records) != 0 {
		t.Fatalf("%+v, %v", e, err)
	}
	f.close()
	b.clock.Move(5 * time.Second)
	b.put(cl, "empty", "first")
	if got := b.subscribed(ways["h2"], empty, shard0, behind(*e.ContinuationSequenceNumber)).data(1); got[0] != "first" {
		t.Errorf("got %v", got)
	}
}

func TestSubscribeRefuses(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl := b.client()
	arn := b.register(cl, "s", "app")
	b.put(cl, "s", "x")
	foreign := b.put(cl, "s", "y")[0]
	later := b.clock.Now().Add(time.Hour)
	at := func(kind types.ShardIteratorType, sequence *string, ts *time.Time) types.StartingPosition {
		return types.StartingPosition{Type: kind, SequenceNumber: sequence, Timestamp: ts}
	}
	b.create("other", 2)
	b.register(cl, "other", "app")
	for name, c := range map[string]struct {
		arn, shard string
		at         types.StartingPosition
		code, text string
	}{
		"no ARN":           {"app", shard0, latest, "ValidationException", "'consumerARN'"},
		"no consumer":      {arn + "1", shard0, latest, "ResourceNotFoundException", "Consumer app under stream s not found"},
		"no stream":        {strings.Replace(arn, "/s/", "/none/", 1), shard0, latest, "ResourceNotFoundException", "Stream none"},
		"no shard":         {arn, "shardId-000000000009", latest, "ResourceNotFoundException", "Could not find shard shardId-000000000009"},
		"not a shard":      {arn, "!", latest, "ValidationException", "'shardId'"},
		"unknown type":     {arn, shard0, at("SOON", nil, nil), "ValidationException", "'startingPosition.type'"},
		"no number":        {arn, shard0, at(types.ShardIteratorTypeAfterSequenceNumber, nil, nil), "InvalidArgumentException", "Must specify parameter SequenceNumber"},
		"not a number":     {arn, shard0, at(types.ShardIteratorTypeAtSequenceNumber, aws.String("x"), nil), "ValidationException", "'startingPosition.sequenceNumber'"},
		"number for time":  {arn, shard0, at(types.ShardIteratorTypeLatest, &foreign, nil), "InvalidArgumentException", "Request has SequenceNumber"},
		"unknown number":   {arn, shard0, at(types.ShardIteratorTypeAtSequenceNumber, aws.String("123"), nil), "InvalidArgumentException", "StartingSequenceNumber 123"},
		"no time":          {arn, shard0, at(types.ShardIteratorTypeAtTimestamp, nil, nil), "InvalidArgumentException", "Must specify parameter Timestamp"},
		"time for horizon": {arn, shard0, at(types.ShardIteratorTypeTrimHorizon, nil, &later), "InvalidArgumentException", "Request has Timestamp"},
		"future":           {arn, shard0, at(types.ShardIteratorTypeAtTimestamp, nil, &later), "InvalidArgumentException", "timestampInMillis"},
	} {
		_, err := b.subscribe(c.arn, c.shard, c.at)
		t.Run(name, func(t *testing.T) { refused(t, err, c.code, c.text) })
	}
	_, err := cl.SubscribeToShard(t.Context(), &kinesis.SubscribeToShardInput{ConsumerARN: &arn, ShardId: aws.String(shard0), StartingPosition: &latest, DryRun: aws.Bool(true)})
	refused(t, err, "DryRunOperationException", "would have succeeded")
	if resp, body := b.do(h2c(), b.request("SubscribeToShard", `{}`, b.clock.Now(), nil)); resp.StatusCode != 400 ||
		!strings.Contains(body, "3 validation errors") {
		t.Errorf("%s: %s", resp.Status, body)
	}
	if n := b.srv.Subscriptions(); n != 0 {
		t.Errorf("%d subscriptions after refusals", n)
	}
}

// TestLease: a subscription ends by itself, without an error, and the next one
// goes on where it ended.
func TestLease(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			cl := b.client()
			kinesisapi.SetTerms(b.srv, 50*time.Millisecond, 10*time.Millisecond)
			arn := b.register(cl, "s", "app-"+name[:2])
			f := b.subscribed(how, arn, shard0, latest)
			var got []string
			want, leases, beats := numbered(0, 200), 0, 0
			stop := make(chan struct{})
			putting := make(chan struct{})
			go func() {
				defer close(putting)
				<-stop
				for _, d := range want {
					if _, err := cl.PutRecord(context.Background(), putRecord("s", "k", d)); err != nil {
						t.Error(err)
						return
					}
				}
			}()
			for len(got) < len(want) || leases < 2 || beats < 2 {
				e, ok, err := f.next()
				if !ok {
					if err != nil {
						t.Fatalf("a lease ended with %v", err)
					}
					leases++
					b.clock.Move(5 * time.Second)
					from := latest
					if f.last.ContinuationSequenceNumber != nil {
						from = behind(*f.last.ContinuationSequenceNumber)
					}
					f = b.subscribed(how, arn, shard0, from)
					continue
				}
				if len(e.Records) == 0 {
					if beats++; beats == 1 {
						close(stop)
					}
				}
				for _, r := range e.Records {
					got = append(got, string(r.Data))
				}
			}
			<-putting
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("over %d leases came %v", leases, got)
			}
		})
	}
}

func TestTakeOver(t *testing.T) {
	for name, limits := range map[string]string{"as it is": "", "as AWS": "aws"} {
		t.Run(name, func(t *testing.T) {
			b := start(t, kinesisapi.Config{Limits: limits}, spool.Config{})
			b.create("s", 2)
			cl := b.client()
			arn, second := b.register(cl, "s", "app"), b.register(cl, "s", "second")
			f := b.subscribed(ways["h2"], arn, shard0, latest)
			b.clock.Move(4 * time.Second)
			_, err := b.subscribe(arn, shard0, latest)
			refused(t, err, "ResourceInUseException", "Another active subscription exists for this consumer: 000000000000:s:app:"+shard0)
			b.subscribed(ways["h2"], second, shard0, latest)              // another consumer
			b.subscribed(ways["h2"], arn, "shardId-000000000001", latest) // another shard
			b.clock.Move(2 * time.Second)
			g := b.subscribed(ways["h2"], arn, shard0, latest)
			var inUse *types.ResourceInUseException
			if err := f.end(); !errors.As(err, &inUse) || !strings.Contains(inUse.ErrorMessage(), "took over") {
				t.Errorf("the older subscription ended with %v", err)
			}
			if n := b.srv.Subscriptions(); n != 3 {
				t.Errorf("%d subscriptions, want 3", n)
			}
			g.close()
			eventually(t, "the end of the subscription", func() bool { return b.srv.Subscriptions() == 2 })
			_, err = b.subscribe(arn, shard0, latest) // at once after the end
			want := ""
			if limits == "aws" {
				want = "ResourceInUseException"
			}
			if code(err) != want {
				t.Errorf("a call right after the end of the one before: %v, want %q", err, want)
			}
		})
	}
}

func TestSubscriptionsEnd(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			cl := b.client()
			arn := b.register(cl, "s", "app")
			f := b.subscribed(how, arn, shard0, latest)
			if _, err := cl.DeregisterStreamConsumer(t.Context(), &kinesis.DeregisterStreamConsumerInput{ConsumerARN: &arn}); err != nil {
				t.Fatal(err)
			}
			var gone *types.ResourceNotFoundException
			if err := f.end(); !errors.As(err, &gone) || !strings.Contains(gone.ErrorMessage(), "deregistered") {
				t.Errorf("after the deregistration: %v", err)
			}
			b.clock.Move(6 * time.Second)
		})
	}
	// At the stop they end as if their lease were over, and nothing is waited for.
	cl := b.client()
	one := b.subscribed(ways["h1"], b.register(cl, "s", "one"), shard0, latest)
	two := b.subscribed(ways["h2"], b.register(cl, "s", "two"), shard0, latest)
	b.stop()
	if err := one.end(); err != nil {
		t.Errorf("at the stop, over HTTP/1.1: %v", err)
	}
	if err := two.end(); err != nil {
		t.Errorf("at the stop, over HTTP/2: %v", err)
	}
	if n := b.srv.Subscriptions(); n != 0 {
		t.Errorf("%d subscriptions after the stop", n)
	}
	if requests, events := kinesisapi.Held(b.srv); requests != 0 || events != 0 {
		t.Errorf("%d and %d bytes are held after the stop", requests, events)
	}
}

// TestReplay: a large backlog comes in order, in events of bounded size, also
// with a record as large as the log takes.
func TestReplay(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("s", 1)
	n, bytesIn := 0, 0
	for _, size := range []int{100, 10, 30_000, 700_000, 10 << 20, 5, 5} {
		for left := max(3<<20, size); left > 0; {
			var recs []record.Record
			for batch := 0; batch < 8<<20 && len(recs) < 20_000 && left > 0; batch += size {
				recs = append(recs, record.Record{Key: "k", Data: padded(n, size), Source: "test"})
				n, left, bytesIn = n+1, left-size-300, bytesIn+size
			}
			done := make(chan error, 1)
			if err := st.Append(t.Context(), recs, func(rs []record.Result) { done <- errors.Join(errOf(rs)...) }); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			cl := b.client()
			f := b.subscribed(how, b.register(cl, "s", "app-"+name[:2]), shard0, horizon)
			got, events := 0, 0
			for got < n {
				e, ok, err := f.next()
				if !ok {
					t.Fatalf("the stream ended after %d of %d records: %v", got, n, err)
				}
				events++
				size := 0
				for _, r := range e.Records {
					if !bytes.Equal(r.Data, padded(got, len(r.Data))) {
						t.Fatalf("record %d begins %.30q, has %d bytes", got, r.Data, len(r.Data))
					}
					size += len(r.Data)
					got++
				}
				if size > 2<<20 && len(e.Records) > 1 {
					t.Errorf("an event of %d records and %d bytes", len(e.Records), size)
				}
				if (*e.MillisBehindLatest == 0) != (got == n) {
					t.Errorf("%d ms behind after %d of %d records", *e.MillisBehindLatest, got, n)
				}
			}
			if events > bytesIn/(400<<10)+20 {
				t.Errorf("%d events for %d records", events, n)
			}
		})
	}
}

// padded is a number with zeros before it.
func padded(n, size int) []byte {
	digits := strconv.Itoa(n)
	return append(bytes.Repeat([]byte("0"), max(size-len(digits), 0)), digits...)
}

func errOf(rs []record.Result) (all []error) {
	for _, r := range rs {
		all = append(all, r.Err)
	}
	return all
}

// TestFrames reads the bytes of a subscription with the SDK's decoder.
func TestFrames(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl := b.client()
	arn := b.register(cl, "s", "app")
	b.put(cl, "s", "hello")
	kinesisapi.SetTerms(b.srv, 30*time.Millisecond, time.Hour)
	body := fmt.Sprintf(`{"ConsumerARN":%q,"ShardId":%q,"StartingPosition":{"Type":"TRIM_HORIZON"}}`, arn, shard0)
	resp, raw := b.do(&http.Transport{}, b.request("SubscribeToShard", body, b.clock.Now(), nil))
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || ct != "application/vnd.amazon.eventstream" {
		t.Fatalf("%s, %s", resp.Status, ct)
	}
	var got []string
	dec, rd := eventstream.NewDecoder(), strings.NewReader(raw)
	for {
		m, err := dec.Decode(rd, nil)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []string{":message-type", ":event-type", ":content-type"} {
			got = append(got, m.Headers.Get(h).String())
		}
		payload, _, _ := bytes.Cut(m.Payload, []byte(`,"ApproximateArrival`))
		got = append(got, string(payload[:min(len(payload), 30)]))
	}
	want := []string{
		"event", "initial-response", "application/x-amz-json-1.1", "{}",
		"event", "SubscribeToShardEvent", "application/x-amz-json-1.1", `{"Records":[{"SequenceNumber":`,
	}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("frames %q, want %q", got, want)
	}
}

// TestSubscribeInCBOR: a call in CBOR gets its events in CBOR.
func TestSubscribeInCBOR(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl := b.client()
	arn := b.register(cl, "s", "app")
	seq := b.put(cl, "s", "hello", "\x00\xff")
	kinesisapi.SetTerms(b.srv, 30*time.Millisecond, 10*time.Millisecond)
	body, err := cbor.Marshal(map[string]any{"ConsumerARN": arn, "ShardId": shard0, "StartingPosition": map[string]any{"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": seq[0]}})
	if err != nil {
		t.Fatal(err)
	}
	_, raw := b.do(h2c(), b.request("SubscribeToShard", string(body), b.clock.Now(), func(r *http.Request) { r.Header.Set("Content-Type", cborType) }))
	dec, rd := eventstream.NewDecoder(), strings.NewReader(raw)
	var data []string
	events := 0
	for {
		m, err := dec.Decode(rd, nil)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if ct := m.Headers.Get(":content-type").String(); ct != cborType {
			t.Errorf("an event in %s", ct)
		}
		var e struct {
			Records []struct {
				SequenceNumber, PartitionKey string
				Data                         []byte
			}
			ContinuationSequenceNumber string
			MillisBehindLatest         *int64
		}
		if err := cbor.Unmarshal(m.Payload, &e); err != nil {
			t.Fatal(err)
		}
		if events++; events == 1 {
			continue // initial-response
		}
		if e.ContinuationSequenceNumber != seq[1] || e.MillisBehindLatest == nil || *e.MillisBehindLatest != 0 {
			t.Errorf("event %+v", e)
		}
		for _, r := range e.Records {
			data = append(data, string(r.Data))
		}
	}
	if len(data) != 1 || data[0] != "\x00\xff" || events < 3 {
		t.Errorf("%d events with %q", events, data)
	}
	// An error before the stream begins is in CBOR as well.
	resp, raw := b.do(h2c(), b.request("SubscribeToShard", "\xa0", b.clock.Now(), func(r *http.Request) { r.Header.Set("Content-Type", cborType) }))
	var failed struct {
		Type string `cbor:"__type"`
	}
	if err := cbor.Unmarshal([]byte(raw), &failed); err != nil || resp.StatusCode != 400 || failed.Type != "ValidationException" {
		t.Errorf("%s: %+v, %v", resp.Status, failed, err)
	}
}

// TestSubscribeOverTLS: the SDK, signed, over HTTP/2 as AWS has it.
func TestSubscribeOverTLS(t *testing.T) {
	cert, key, pool := certificate(t)
	b := start(t, kinesisapi.Config{Keys: testKeys(), TLSCert: cert, TLSKey: key}, spool.Config{})
	b.create("s", 1)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	cl := b.client(func(o *kinesis.Options) { o.HTTPClient = &http.Client{Transport: tr} })
	arn := b.register(cl, "s", "app")
	out, err := cl.SubscribeToShard(t.Context(), &kinesis.SubscribeToShardInput{ConsumerARN: &arn, ShardId: aws.String(shard0), StartingPosition: &latest})
	if err != nil {
		t.Fatal(err)
	}
	stream := out.GetStream()
	defer stream.Close()
	b.put(cl, "s", "x")
	e, ok := (<-stream.Events()).(*types.SubscribeToShardEventStreamMemberSubscribeToShardEvent)
	if !ok || len(e.Value.Records) != 1 || string(e.Value.Records[0].Data) != "x" {
		t.Errorf("event %+v, %v", e, stream.Err())
	}
	b.stop()
	for range stream.Events() { // to the end
	}
	if err := stream.Err(); err != nil {
		t.Errorf("at the stop: %v", err)
	}
}
