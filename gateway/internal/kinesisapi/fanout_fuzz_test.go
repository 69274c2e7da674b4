package kinesisapi

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

// FuzzEventStream: whatever is in a record, the SDK's decoder reads our frames,
// and in them the record.
func FuzzEventStream(f *testing.F) {
	inCBOR, err := newCBOR()
	if err != nil {
		f.Fatal(err)
	}
	for _, binary := range []bool{false, true} {
		f.Add([]byte("data"), "key", uint64(7), int64(1459799926480), 1, "InternalFailureException", "text", binary)
		f.Add([]byte(nil), "\x00\"\\\u2028é", uint64(0), int64(-5), 3, "", "", binary)
		f.Add(bytes.Repeat([]byte{0xff}, 5000), "\xff\xfe", uint64(1<<62), int64(0), 40, "x", "\x1f", binary)
	}
	f.Fuzz(func(t *testing.T, data []byte, key string, seq uint64, ms int64, n int, code, text string, binary bool) {
		var in codec = jsonCodec{}
		if binary { // in which text is text, and not mended
			in, key = inCBOR, strings.ToValidUTF8(key, "?")
		}
		seq = min(seq, maxCounter-1)
		n = min(max(n, 0), 50)
		ms = min(max(ms, -1<<40), 1<<40)
		p := &pusher{codec: in, num: place{index: 3, created: time.Unix(1e9, 0)}.numbered(), next: 1}
		p.begin()
		recs := make([]record.Record, n)
		for i := range recs {
			recs[i] = record.Record{Key: key, Data: data, Arrived: time.UnixMilli(ms), Pos: record.Pos{Seq: seq}}
		}
		if !p.add(recs) {
			t.Fatalf("%d records of %d bytes do not fit", n, len(data))
		}
		if err := p.finishEvent(true); err != nil {
			t.Fatal(err)
		}
		p.frame = closeFrame(p.frame)
		exception := closeFrame(append(beginException(nil, code[:min(len(code), 1000)], jsonType), text...))
		rd := io.MultiReader(bytes.NewReader(p.frame), bytes.NewReader(exception))

		dec := eventstream.NewDecoder()
		m, err := dec.Decode(rd, nil)
		if err != nil {
			t.Fatal(err)
		}
		if e := m.Headers.Get(":event-type").String(); e != eventRecords || !binary && !utf8.Valid(m.Payload) {
			t.Errorf("event %q of %q", e, m.Payload)
		}
		var got struct {
			Records []struct {
				SequenceNumber, PartitionKey string
				Data                         []byte
				ApproximateArrivalTimestamp  epoch
			}
			ContinuationSequenceNumber string
		}
		if err := in.decode(m.Payload, &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Records) != n {
			t.Fatalf("%d records, want %d", len(got.Records), n)
		}
		for _, r := range got.Records {
			q, err := parseSequence(r.SequenceNumber)
			if err != nil || q.seq != seq || !bytes.Equal(r.Data, data) || r.PartitionKey != strings.ToValidUTF8(key, "\ufffd") && utf8.ValidString(key) ||
				time.Time(r.ApproximateArrivalTimestamp).UnixMilli() != ms {
				t.Fatalf("record %+v, want %q, %q, %d, %d", r, key, data, seq, ms)
			}
		}
		if m, err = dec.Decode(rd, nil); err != nil {
			t.Fatal(err)
		}
		if m.Headers.Get(":message-type").String() != "exception" || m.Headers.Get(":exception-type").String() != code[:min(len(code), 1000)] || string(m.Payload) != text {
			t.Errorf("exception %v %q", m.Headers, m.Payload)
		}
		if _, err := dec.Decode(rd, nil); !errors.Is(err, io.EOF) {
			t.Errorf("behind the last frame: %v", err)
		}
	})
}

// FuzzConsumerARN: what is taken as an ARN names a stream and a consumer that
// the service's model allows, and is written as it was read.
func FuzzConsumerARN(f *testing.F) {
	f.Add("arn:aws:kinesis:us-east-1:000000000000:stream/s/consumer/app:1459799926")
	f.Add("arn:aws-cn:kinesis::123456789012:stream/a.b/consumer/stream:0")
	f.Add("arn:aws:kinesis:us-east-1:000000000000:stream/x/stream/s/consumer/app:01")
	f.Add("arn:aws:kinesis:us-east-1:000000000000:stream/s/consumer/app:99999999999999999999")
	f.Add("arn:aws:kinesis:us-east-1:000000000000:stream/s")
	f.Fuzz(func(t *testing.T, arn string) {
		c, ok := parseConsumerARN(arn)
		if !ok {
			return
		}
		if !conf.ValidStream(c.stream) || !nameRE.MatchString(c.name) || len(c.name) > maxName || c.created < 0 {
			t.Errorf("%q is read as %+v", arn, c)
		}
		_, tail, _ := strings.Cut(new(Server).consumerARN(c.stream, consumer{Name: c.name, Created: time.Unix(c.created, 0)}), ":stream/")
		if !strings.HasSuffix(arn, "stream/"+tail) {
			t.Errorf("%q is read as %q", arn, tail)
		}
	})
}

// TestFrameLimit: no event has a payload that the SDKs' decoders refuse (16 MiB),
// however its records are made.
func TestFrameLimit(t *testing.T) {
	const most = 16 << 20
	for name, r := range map[string]record.Record{
		"no data":      {Key: "k"},
		"bytes":        {Key: "k", Data: []byte("x")},
		"control keys": {Key: strings.Repeat("\x01", 256)},
		"wide keys":    {Key: strings.Repeat("\u2028", 256), Data: []byte("x")},
		"large":        {Key: strings.Repeat("\x01", 256), Data: make([]byte, 10<<20)},
		"half":         {Key: "k", Data: make([]byte, frameEnough-recordCost-2)},
	} {
		p := &pusher{codec: jsonCodec{}, num: place{created: time.Unix(1e9, 0)}.numbered(), next: 1}
		p.begin()
		for p.bytes < frameEnough && p.add(slices.Repeat([]record.Record{r}, 1)) {
		}
		p.add(slices.Repeat([]record.Record{r}, frameMost/recordCost)) // as many as go in
		if err := p.finishEvent(true); err != nil {
			t.Fatal(err)
		}
		p.frame = closeFrame(p.frame)
		if m, err := eventstream.NewDecoder().Decode(bytes.NewReader(p.frame), nil); err != nil || len(m.Payload) > most {
			t.Errorf("%s: %d records make a frame of %d bytes, payload %d: %v", name, p.records, len(p.frame), len(m.Payload), err)
		}
	}
}

// BenchmarkFrame compares the writer with the SDK's.
func BenchmarkFrame(b *testing.B) {
	recs := slices.Repeat([]record.Record{{Key: "key-0001", Data: make([]byte, 100), Arrived: time.Now(), Pos: record.Pos{Seq: 1}}}, 500)
	p := &pusher{codec: jsonCodec{}, num: place{created: time.Unix(1e9, 0)}.numbered(), next: 1}
	build := func() {
		p.begin()
		p.add(recs)
		if err := p.finishEvent(true); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			build()
			p.frame = closeFrame(p.frame)
		}
		b.SetBytes(int64(len(p.frame)))
	})
	b.Run("sdk", func(b *testing.B) {
		b.ReportAllocs()
		enc := eventstream.NewEncoder()
		for b.Loop() {
			build()
			m := eventstream.Message{Payload: p.frame[framePrelude:]}
			m.Headers.Set(":message-type", eventstream.StringValue("event"))
			m.Headers.Set(":event-type", eventstream.StringValue(eventRecords))
			m.Headers.Set(":content-type", eventstream.StringValue(jsonType))
			if err := enc.Encode(io.Discard, m); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(int64(len(p.frame)))
	})
}
