package kinesisapi

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// An appending inlet puts straight into the spool.
type appending struct{ sp *spool.Spool }

func (in appending) PutTo(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error {
	st, err := in.sp.Stream(stream)
	if err != nil {
		return err
	}
	return st.Append(ctx, recs, done)
}

// closedDoor is a server that no network reaches, over a spool with the stream
// "s" of two shards.
func closedDoor(t testing.TB) *Server {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	sp, err := spool.Open(t.Context(), t.TempDir(), spool.Config{Gateway: "test"}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sp.Close(); err != nil {
			t.Errorf("close the spool: %v", err)
		}
	})
	s, err := New(Config{Listen: "off"}, sp, appending{sp}, time.Now, log)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sp.CreateStream(t.Context(), spool.StreamConfig{Name: conf.Stream("s"), Shards: 2, Class: record.ClassTelemetry}); err != nil {
		t.Fatal(err)
	}
	return s
}

// run is one operation in an encoding; the answer is encoded if the operation
// has not done it.
func (s *Server) run(t testing.TB, op string, codec codec, body []byte) (any, error) {
	t.Helper()
	o, ok := s.ops["Kinesis_20131202."+op]
	if !ok {
		t.Fatalf("there is no operation %s", op)
	}
	return o.run(t.Context(), &call{s: s, op: o, body: body, codec: codec, loan: &loan{held: &s.held}})
}

// whole is an answer in one piece.
func whole(t testing.TB, codec codec, answer any) []byte {
	t.Helper()
	switch a := answer.(type) {
	case nil:
		return nil
	case encoded:
		return a
	case *pieces:
		defer a.release()
		return append(bytes.Join(a.full, nil), a.last...)
	}
	b, err := codec.encode(answer)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// plain decodes an answer into maps and lists: blobs as base64, times as whole
// milliseconds.
func plain(t testing.TB, media string, b []byte) any {
	t.Helper()
	if len(b) == 0 {
		return nil
	}
	var v any
	var err error
	if media == jsonType {
		err = json.Unmarshal(b, &v)
	} else {
		err = cbor.Unmarshal(b, &v)
	}
	if err != nil {
		t.Fatalf("the answer %q is not %s: %v", b, media, err)
	}
	return normal("", v)
}

func normal(name string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = normal(k, e)
		}
		return v
	case map[any]any:
		out := map[string]any{}
		for k, e := range v {
			out[fmt.Sprint(k)] = normal(fmt.Sprint(k), e)
		}
		return out
	case []any:
		for i := range v {
			v[i] = normal(name, v[i])
		}
		return v
	case []byte:
		b, _ := json.Marshal(v)
		return strings.Trim(string(b), `"`)
	case time.Time: // tag 1, which the decoder takes for seconds
		return float64(v.Unix())
	case uint64:
		return float64(v)
	case int64:
		return float64(v)
	case float64:
		if strings.HasSuffix(name, "Timestamp") { // JSON's seconds
			return math.Round(v * 1000)
		}
	case string:
		switch name {
		case "NextShardIterator", "ShardIterator", "NextToken":
			return "sealed at " + fmt.Sprint(len(v)) // with the time of sealing
		}
	}
	return v
}

// TestEveryAnswerInBothEncodings runs every operation and compares what its
// answer says in JSON with what it says in CBOR.
func TestEveryAnswerInBothEncodings(t *testing.T) {
	s := closedDoor(t)
	put := `{"StreamName":"s","Records":[{"Data":"","PartitionKey":"ä\"<"},{"Data":"AP9h","PartitionKey":"k","ExplicitHashKey":"340282366920938463463374607431768211455"}]}`
	for range 2 {
		if _, err := s.run(t, "PutRecords", jsonCodec{}, []byte(put)); err != nil {
			t.Fatal(err)
		}
	}
	iterator := func(shard int) string {
		a, err := s.run(t, "GetShardIterator", jsonCodec{}, fmt.Appendf(nil, `{"StreamName":"s","ShardId":"shardId-%012d","ShardIteratorType":"TRIM_HORIZON"}`, shard))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimPrefix(string(whole(t, jsonCodec{}, a)), `{`)
	}
	bodies := map[string][]string{
		"CreateStream":          {`{"StreamName":"t","ShardCount":1}`},
		"DeleteStream":          {`{"StreamName":"t"}`, `{"StreamName":"none"}`},
		"GetRecords":            {`{` + iterator(0), `{"Limit":1,` + iterator(1), `{"Limit":2,` + iterator(1)},
		"GetShardIterator":      {`{"StreamName":"s","ShardId":"shardId-000000000000","ShardIteratorType":"LATEST"}`},
		"ListShards":            {`{"StreamName":"s","MaxResults":1}`, `{"StreamName":"s"}`},
		"ListStreams":           {`{"Limit":1}`, `{}`},
		"DescribeStream":        {`{"StreamName":"s"}`, `{"StreamName":"none"}`},
		"DescribeStreamSummary": {`{"StreamARN":"arn:aws:kinesis:us-east-1:000000000000:stream/s"}`},
		"PutRecord":             {`{"StreamName":"s","Data":"AP9h","PartitionKey":"k"}`},
		"PutRecords":            {put},
	}
	for target := range s.ops {
		op, ours := strings.CutPrefix(target, "Kinesis_20131202.")
		if !ours {
			continue
		}
		cases := bodies[op]
		if cases == nil {
			cases = []string{`{"StreamName":"s"}`}
		}
		for _, body := range cases {
			compareAnswers(t, s, op, body)
		}
	}
}

func compareAnswers(t *testing.T, s *Server, op, body string) {
	t.Helper()
	byHand := op == "PutRecords" || op == "GetRecords" // encoded by the operation itself
	answer, err := s.run(t, op, jsonCodec{}, []byte(body))
	if err != nil {
		e, ok := errors.AsType[*apiError](err)
		if !ok {
			t.Errorf("%s %s: %v is no answer", op, body, err)
			return
		}
		answer = errorMembers{e.code, e.message}
	}
	if _, is := answer.(streamed); is {
		return
	}
	second := answer
	if byHand {
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		blobs(v)
		in, err := s.cbor.encode(v)
		if err != nil {
			t.Fatal(err)
		}
		if second, err = s.run(t, op, s.cbor, in); err != nil {
			t.Errorf("%s in CBOR: %v", op, err)
			return
		}
	}
	a := plain(t, jsonType, whole(t, jsonCodec{}, answer))
	b := plain(t, cborType, whole(t, s.cbor, second))
	if op == "PutRecords" {
		maskNumbers(t, a)
		maskNumbers(t, b)
	}
	if m, is := a.(map[string]any); is && op == "GetRecords" { // time goes on between the two
		n := b.(map[string]any)
		if (m["MillisBehindLatest"] == 0.0) != (n["MillisBehindLatest"] == 0.0) {
			t.Errorf("MillisBehindLatest is %v and %v", m["MillisBehindLatest"], n["MillisBehindLatest"])
		}
		delete(m, "MillisBehindLatest")
		delete(n, "MillisBehindLatest")
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("%s %s\nin JSON: %v\nin CBOR: %v", op, body, a, b)
	}
}

// blobs turns the Data of records into bytes, and a Limit into an integer.
func blobs(v any) {
	m, _ := v.(map[string]any)
	if n, ok := m["Limit"].(float64); ok {
		m["Limit"] = int(n)
	}
	records, _ := m["Records"].([]any)
	for _, r := range records {
		r := r.(map[string]any)
		var b []byte
		if err := json.Unmarshal(fmt.Appendf(nil, "%q", r["Data"]), &b); err == nil {
			r["Data"] = b
		}
	}
}

// maskNumbers takes out the sequence numbers of an answer, which have to be
// there.
func maskNumbers(t *testing.T, v any) {
	t.Helper()
	for _, r := range v.(map[string]any)["Records"].([]any) {
		r := r.(map[string]any)
		if n, _ := r["SequenceNumber"].(string); len(n) != sequenceDigits {
			t.Errorf("sequence number %q", n)
		}
		delete(r, "SequenceNumber")
	}
}

// javaPuts is a request as Java's encoder writes it: maps and lists of
// indefinite length, break at their ends.
const javaPuts = "bf 6a53747265616d4e616d65 6173 675265636f726473 9f" +
	" bf 6444617461 43 00ff61 6c506172746974696f6e4b6579 616b 6f4578706c69636974486173684b6579 6137 ff" +
	" bf 6c506172746974696f6e4b6579 616b 6444617461 40 ff" +
	" ff ff"

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testCBOR(t testing.TB) *cborCodec {
	t.Helper()
	c, err := newCBOR()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCBORAsJavaSendsIt(t *testing.T) {
	c := testCBOR(t)
	body := unhex(t, javaPuts)
	var in putRecordsInput
	if err := c.decode(body, &in); err != nil {
		t.Fatal(err)
	}
	if *in.StreamName != "s" || len(*in.Records) != 2 {
		t.Fatalf("decoded %+v", in)
	}
	one, two := (*in.Records)[0], (*in.Records)[1]
	if string(one.Data) != "\x00\xffa" || *one.PartitionKey != "k" || *one.ExplicitHashKey != "7" {
		t.Errorf("first record %+v", one)
	}
	if two.Data == nil || len(two.Data) != 0 {
		t.Errorf("empty data is %v", two.Data)
	}
	b := &batch{}
	if !c.scanPuts(body, b) || len(b.recs) != 2 || !bytes.Equal(b.recs[0].Data, one.Data) || b.recs[1].Data == nil {
		t.Errorf("the scanner reads %+v", b.recs)
	}
}

// TestDecodedIsACopy: a body is used again behind its request, so that nothing
// that was read from it may point into it.
func TestDecodedIsACopy(t *testing.T) {
	c := testCBOR(t)
	java := unhex(t, javaPuts)
	for codec, body := range map[codec][]byte{
		c:           java,
		jsonCodec{}: []byte(`{"StreamName":"s","Records":[{"Data":"AP9h","PartitionKey":"k"}]}`),
	} {
		var in putRecordsInput
		if err := codec.decode(body, &in); err != nil {
			t.Fatal(err)
		}
		for i := range body {
			body[i] = '!'
		}
		if r := (*in.Records)[0]; *in.StreamName != "s" || string(r.Data) != "\x00\xffa" || *r.PartitionKey != "k" {
			t.Errorf("%s: the record became %q %q", codec.mediaType(), *r.PartitionKey, r.Data)
		}
	}
}

// TestCBORTimes: times are milliseconds, whatever number they are written as.
func TestCBORTimes(t *testing.T) {
	c := testCBOR(t)
	for in, ms := range map[string]int64{
		"c1 1b 00000153e2e8f7d0": 1459800831952, // as AWS and its SDKs write it
		"1b 00000153e2e8f7d0":    1459800831952, // without the tag
		"d801 00":                0,
		"c1 20":                  -1,
		"c1 3903e7":              -1000,
		"c1 fb 42753e2e8f7d0000": 1459800831952, // the same as a float
		"fb 42753e2e8f7d0000":    1459800831952,
		"c1 fa 447a0000":         1000,
		"c1 f9 63d0":             1000,
		"f9 8001":                0,
	} {
		var got struct{ T *epoch }
		if err := c.decode(append([]byte{0xa1, 0x61, 'T'}, unhex(t, in)...), &got); err != nil {
			t.Errorf("%s: %v", in, err)
		} else if time.Time(*got.T).UnixMilli() != ms {
			t.Errorf("%s is read as %d ms, want %d", in, time.Time(*got.T).UnixMilli(), ms)
		}
	}
	for _, in := range []string{
		"c1 63 6e6f77", "c0 6a 323032362d31312d3233", "c2 41 01", "f5", "c1 f6", "c1 c1 00", "f9 7e00", "f9 7c00", "fb 7ff8000000000000", "1b ffffffffffffffff",
	} {
		var got struct{ T *epoch }
		err := c.decode(append([]byte{0xa1, 0x61, 'T'}, unhex(t, in)...), &got)
		if e, ok := errors.AsType[*apiError](err); !ok || e.code != "SerializationException" {
			t.Errorf("%s is taken as a time: %v, %v", in, got.T, err)
		}
	}
	for _, null := range []string{"f6", "f7"} {
		var got struct{ T *epoch }
		if err := c.decode(append([]byte{0xa1, 0x61, 'T'}, unhex(t, null)...), &got); err != nil || got.T != nil {
			t.Errorf("%s is read as %v, %v", null, got.T, err)
		}
	}
	for ms, want := range map[int64]string{0: "c100", -1: "c120", 1459800831952: "c11b00000153e2e8f7d0"} {
		b, err := c.encode(epoch(time.UnixMilli(ms)))
		if err != nil || hex.EncodeToString(b) != want {
			t.Errorf("%d ms is written %x, %v; want %s", ms, b, err, want)
		}
	}
}

func TestBadCBOR(t *testing.T) {
	c := testCBOR(t)
	for name, in := range map[string]string{
		"a list":               "80",
		"a number":             "00",
		"cut short":            "a1",
		"two maps":             "a0 a0",
		"a member twice":       "a2 6553747265616d 00 6553747265616d 01",
		"ours twice":           "a2 6a53747265616d4e616d65 6161 6a53747265616d4e616d65 6162",
		"bytes for text":       "a1 6a53747265616d4e616d65 4161",
		"text for bytes":       "a1 6444617461 6161",
		"text that is not":     "a1 6a53747265616d4e616d65 61ff",
		"no end":               "bf 6161",
		"nested":               "a1 6161" + strings.Repeat("81", maxCBORDepth) + "00",
		"a length that is not": "a1 6161 9b 7fffffffffffffff",
		"more than there is":   "a1 6161 9a 00004e21",
	} {
		err := c.decode(unhex(t, in), new(putRecordInput))
		if e, ok := errors.AsType[*apiError](err); !ok || e.code != "SerializationException" {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Members of no meaning are passed over, and names count as they are
	// written.
	var in putRecordInput
	if err := c.decode(unhex(t, "a2 6161 bf 6162 9f f4 f97e00 ff ff 6a73747265616d6e616d65 00"), &in); err != nil || in.StreamName != nil {
		t.Errorf("decoded %+v, %v", in, err)
	}
	if err := c.decode(nil, &in); err != nil {
		t.Errorf("no body: %v", err)
	}
}

// TestValuesAreBounded: a body of millions of values is refused before any
// memory is taken for them.
func TestValuesAreBounded(t *testing.T) {
	many := `{"Records":[` + strings.Repeat(`{},`, maxValues) + `{}]}`
	err := jsonCodec{}.decode([]byte(many), new(putRecordsInput))
	if e, ok := errors.AsType[*apiError](err); !ok || e.code != "SerializationException" {
		t.Errorf("JSON: %v", err)
	}
	in := append([]byte{0xa1, 0x67}, "Records"...)
	in = append(append(append(in, 0x9f), bytes.Repeat([]byte{0xa0}, maxValues+1)...), 0xff)
	err = testCBOR(t).decode(in, new(putRecordsInput))
	if e, ok := errors.AsType[*apiError](err); !ok || e.code != "SerializationException" {
		t.Errorf("CBOR: %v", err)
	}
	// Brackets and commas in strings are none.
	text := `{"StreamName":"` + strings.Repeat(`[,\"{`, maxValues) + `"}`
	if err := (jsonCodec{}).decode([]byte(text), new(putRecordsInput)); err != nil {
		t.Errorf("a long string: %v", err)
	}
	// A legal request is far below.
	var legal []string
	for range maxPutRecords {
		legal = append(legal, `{"Data":"AA==","PartitionKey":"k","ExplicitHashKey":"1"}`)
	}
	if n := jsonValues([]byte(`{"Records":[` + strings.Join(legal, ",") + `]}`)); n > maxValues/8 {
		t.Errorf("a legal request has %d values", n)
	}
}

func TestNumbering(t *testing.T) {
	created := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for _, p := range []place{{index: 0, created: created}, {index: 5, created: time.Unix(0, 0)}, {index: math.MaxInt32, created: time.Unix(1<<36-1, 0)}} {
		n := p.numbering()
		for shift := range 64 {
			for _, d := range []uint64{0, 1, 2, 12345, math.MaxUint64} {
				seq := (uint64(1)<<shift + d) & maxCounter
				if got, want := string(n.append(nil, seq)), p.sequence(seq).String(); got != want {
					t.Fatalf("shard %d, counter %d: %s, want %s", p.index, seq, got, want)
				}
			}
		}
	}
}

func TestHashKeyOf(t *testing.T) {
	most := new(big.Int).Lsh(big.NewInt(1), 128)
	for _, d := range []int64{-2, -1, 0, 1, 1 << 62} {
		for _, v := range []*big.Int{new(big.Int).Add(most, big.NewInt(d)), new(big.Int).Abs(big.NewInt(d)), new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 64), big.NewInt(d))} {
			h, ok := parseHashKey(v.String())
			if ok != (v.Cmp(most) < 0) {
				t.Errorf("%s: taken %v", v, ok)
			}
			if ok && decimal(h) != v.String() {
				t.Errorf("%s is read as %s", v, decimal(h))
			}
		}
	}
	for _, s := range []string{strings.Repeat("9", 39), strings.Repeat("9", 40), "", "01", "-1", "1a"} {
		if h, ok := parseHashKey(s); ok {
			t.Errorf("%q is read as %s", s, decimal(h))
		}
	}
}

func created(t testing.TB) time.Time {
	t.Helper()
	return time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
}
