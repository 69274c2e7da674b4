package kinesisapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

const shard0 = "shardId-000000000000"

var (
	latest  = types.StartingPosition{Type: types.ShardIteratorTypeLatest}
	horizon = types.StartingPosition{Type: types.ShardIteratorTypeTrimHorizon}
)

func behind(sequence string) types.StartingPosition {
	return types.StartingPosition{Type: types.ShardIteratorTypeAfterSequenceNumber, SequenceNumber: &sequence}
}

// A feed is one subscription.
type feed struct {
	t      testing.TB
	events chan types.SubscribeToShardEvent
	err    error // of the end, once events is closed
	close  func()
	last   types.SubscribeToShardEvent
}

// A way is how a test subscribes.
type way func(b *box, arn, shard string, at types.StartingPosition) (*feed, error)

// ways are the SDK over HTTP/2, and a client of our own with the SDK's decoder
// over HTTP/1.1 (see client for why not the SDK).
var ways = map[string]way{"h1": (*box).subscribeRaw, "h2": (*box).subscribe}

func (b *box) subscribe(arn, shard string, at types.StartingPosition) (*feed, error) {
	b.t.Helper()
	out, err := b.client().SubscribeToShard(b.t.Context(), &kinesis.SubscribeToShardInput{ConsumerARN: &arn, ShardId: &shard, StartingPosition: &at})
	if err != nil {
		return nil, err
	}
	stream := out.GetStream()
	f := &feed{t: b.t, events: make(chan types.SubscribeToShardEvent), close: func() { stream.Close() }}
	b.t.Cleanup(f.close)
	go func() {
		defer close(f.events)
		for e := range stream.Events() {
			if e, ok := e.(*types.SubscribeToShardEventStreamMemberSubscribeToShardEvent); ok {
				select {
				case f.events <- e.Value:
				case <-b.t.Context().Done():
					return
				}
			}
		}
		f.err = stream.Err()
	}()
	return f, nil
}

// rawEvent is an event as it stands in JSON.
type rawEvent struct {
	Records []struct {
		SequenceNumber              string
		ApproximateArrivalTimestamp float64
		Data                        []byte
		PartitionKey                string
		EncryptionType              types.EncryptionType
	}
	ContinuationSequenceNumber *string
	MillisBehindLatest         *int64
	ChildShards                []types.ChildShard
	Message                    *string `json:"message"`
}

func (e *rawEvent) event() types.SubscribeToShardEvent {
	out := types.SubscribeToShardEvent{ContinuationSequenceNumber: e.ContinuationSequenceNumber, MillisBehindLatest: e.MillisBehindLatest, ChildShards: e.ChildShards}
	for _, r := range e.Records {
		at := time.UnixMilli(int64(r.ApproximateArrivalTimestamp * 1000))
		out.Records = append(out.Records, types.Record{
			SequenceNumber: &r.SequenceNumber, ApproximateArrivalTimestamp: &at, Data: r.Data, PartitionKey: &r.PartitionKey, EncryptionType: r.EncryptionType,
		})
	}
	return out
}

func (b *box) subscribeRaw(arn, shard string, at types.StartingPosition) (*feed, error) {
	b.t.Helper()
	body := fmt.Sprintf(`{"ConsumerARN":%q,"ShardId":%q,"StartingPosition":{"Type":%q`, arn, shard, at.Type)
	if at.SequenceNumber != nil {
		body += fmt.Sprintf(`,"SequenceNumber":%q`, *at.SequenceNumber)
	}
	tr := &http.Transport{}
	resp, err := tr.RoundTrip(b.request("SubscribeToShard", body+"}}", b.clock.Now(), nil)) //nolint:bodyclose // by the feed
	if err != nil {
		return nil, err
	}
	f := &feed{t: b.t, events: make(chan types.SubscribeToShardEvent), close: func() { resp.Body.Close() }}
	b.t.Cleanup(f.close)
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || ct != "application/vnd.amazon.eventstream" {
		all, err := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s, %s: %s, %w", resp.Status, ct, all, err)
	}
	go func() {
		defer close(f.events)
		f.err = decodeEvents(resp.Body, func(e types.SubscribeToShardEvent) bool {
			select {
			case f.events <- e:
				return true
			case <-b.t.Context().Done():
				return false
			}
		})
	}()
	return f, nil
}

// decodeEvents reads events until the end of a subscription.
func decodeEvents(from io.Reader, yield func(types.SubscribeToShardEvent) bool) error {
	dec := eventstream.NewDecoder()
	for first := true; ; first = false {
		m, err := dec.Decode(from, nil)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var e rawEvent
		if err := json.Unmarshal(m.Payload, &e); err != nil {
			return err
		}
		if kind := m.Headers.Get(":exception-type"); kind != nil {
			switch kind.String() {
			case "ResourceInUseException":
				return &types.ResourceInUseException{Message: e.Message}
			case "ResourceNotFoundException":
				return &types.ResourceNotFoundException{Message: e.Message}
			}
			return fmt.Errorf("%s: %s", kind, *e.Message)
		}
		if event := m.Headers.Get(":event-type"); first && (event == nil || event.String() != "initial-response") {
			return fmt.Errorf("the first event is %v", event)
		}
		if !first && !yield(e.event()) {
			return nil
		}
	}
}

func (b *box) subscribed(how way, arn, shard string, at types.StartingPosition) *feed {
	b.t.Helper()
	f, err := how(b, arn, shard, at)
	if err != nil {
		b.t.Fatal(err)
	}
	return f
}

// next gives the next event; false at the end of the stream, whose error is
// the second.
func (f *feed) next() (types.SubscribeToShardEvent, bool, error) {
	f.t.Helper()
	select {
	case e, ok := <-f.events:
		if !ok {
			return e, false, f.err
		}
		f.last = e
		return e, true, nil
	case <-time.After(20 * time.Second):
		f.t.Fatal("no event within 20 s")
	}
	return types.SubscribeToShardEvent{}, false, nil
}

// data reads n records, and fails on the end of the stream.
func (f *feed) data(n int) (data []string) {
	f.t.Helper()
	for len(data) < n {
		e, ok, err := f.next()
		if !ok {
			f.t.Fatalf("the stream ended after %d of %d records: %v", len(data), n, err)
		}
		for _, r := range e.Records {
			data = append(data, string(r.Data))
		}
	}
	if len(data) != n {
		f.t.Fatalf("%d records, want %d", len(data), n)
	}
	return data
}

// end reads to the end of the stream.
func (f *feed) end() error {
	f.t.Helper()
	for {
		if _, ok, err := f.next(); !ok {
			return err
		}
	}
}

func (b *box) put(cl *kinesis.Client, stream string, data ...string) (sequences []string) {
	b.t.Helper()
	for _, d := range data {
		out, err := cl.PutRecord(b.t.Context(), putRecord(stream, "k", d))
		if err != nil {
			b.t.Fatal(err)
		}
		sequences = append(sequences, *out.SequenceNumber)
	}
	return sequences
}

func numbered(from, to int) (s []string) {
	for i := from; i < to; i++ {
		s = append(s, fmt.Sprint(i))
	}
	return s
}
