package kinesisapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"forebay/spool/record"
)

// scan is scanPuts with an arena of its own.
func scan(c codec, body []byte) (*batch, bool) {
	b := &batch{arena: make([]byte, 0, c.putArena(len(body)))}
	return b, c.scanPuts(body, b)
}

// agree holds the scanner of PutRecords against the decoder: what the scanner
// takes, the decoder and its checks take too, and both make the same records
// of it. It reports whether the scanner took it.
func agree(t *testing.T, c codec, body []byte) bool {
	t.Helper()
	before := bytes.Clone(body)
	b, ok := scan(c, body)
	if !bytes.Equal(body, before) {
		t.Fatal("the scanner changed the body")
	}
	if !ok {
		return false
	}
	var in putRecordsInput
	if err := c.decode(body, &in); err != nil {
		t.Fatalf("the scanner takes what the decoder does not: %v", err)
	}
	var f faults
	f.stream(b.ref)
	got, want := fmt.Sprint(f.err()), fmt.Sprint(in.check())
	if got != want {
		t.Fatalf("the scanner's request has the fault %s, the decoder's %s", got, want)
	}
	if f.n > 0 {
		return true
	}
	if !reflect.DeepEqual(b.ref, in.streamRef) || in.DryRun {
		t.Fatalf("the scanner reads the stream %v, the decoder %v", b.ref, in.streamRef)
	}
	recs, err := in.records(nil)
	if err != nil {
		t.Fatalf("the scanner takes records that are refused: %v", err)
	}
	if len(recs) != len(b.recs) {
		t.Fatalf("the scanner reads %d records, the decoder %d", len(b.recs), len(recs))
	}
	for i := range recs {
		g, w := b.recs[i], recs[i]
		if g.Key != w.Key || (g.Data == nil) != (w.Data == nil) || !bytes.Equal(g.Data, w.Data) || !reflect.DeepEqual(g.HashKey, w.HashKey) {
			t.Fatalf("record %d: the scanner reads %+v, the decoder %+v", i, g, w)
		}
	}
	return true
}

// scannedJSON are requests that clients send, with what the scanner is to do
// with them.
var scannedJSON = []struct {
	body  string
	taken bool
}{
	{`{"Records":[{"Data":"aGk=","PartitionKey":"k"}],"StreamName":"s"}`, true},
	{`{"StreamName": "s", "Records": [{"Data": "", "PartitionKey": "k", "ExplicitHashKey": "0"}, {"PartitionKey": "k2", "Data": "aGk="}]}`, true},
	{" {\n\t\"StreamARN\" : \"arn:aws:kinesis:eu-north-1:000000000000:stream/s\" , \"Records\":\r\n[ { \"Data\":\"AAAA\" , \"PartitionKey\":\"k\" } ] } ", true},
	{`{"StreamName":"s","Records":[{"Data":"\/\/\/\/","PartitionKey":"\u00e4\ud83d\ude00\n\"\\\/\b\f\r\t"}]}`, true},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"\ud83d"},{"Data":"AAA=","PartitionKey":"\ud83dx\ude00"},{"Data":"AAA=","PartitionKey":"\ud83d\u0041"}]}`, true},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"ä😀\u007f"}]}`, true},
	{`{"StreamName":"not a name","Records":[{"Data":"AA==","PartitionKey":"k"}]}`, true},
	{`{"Records":[{"Data":"AA==","PartitionKey":"k"}]}`, true},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"` + strings.Repeat("ä", 256) + `"}]}`, true},
	// From here on the decoder has the word.
	{`{"StreamName":"s","Records":[]}`, false},
	{`{"StreamName":"s"}`, false},
	{``, false},
	{`{}`, false},
	{`[]`, false},
	{`{"StreamName":"s","Records":null}`, false},
	{`{"StreamName":null,"Records":[{"Data":"AA==","PartitionKey":"k"}]}`, false},
	{`{"StreamName":"s","DryRun":true,"Records":[{"Data":"AA==","PartitionKey":"k"}]}`, false},
	{`{"StreamName":"s","streamname":"t","Records":[{"Data":"AA==","PartitionKey":"k"}]}`, false},
	{`{"StreamName":"s","StreamName":"t","Records":[{"Data":"AA==","PartitionKey":"k"}]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"k"}],"Records":[]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"k","Data":"AAA="}]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":""}]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"` + strings.Repeat("ä", 257) + `"}]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"k","ExplicitHashKey":"340282366920938463463374607431768211456"}]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"k","ExplicitHashKey":"\u0031"}]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"A\nA==","PartitionKey":"k"}]}`, false},
	{"{\"StreamName\":\"s\",\"Records\":[{\"Data\":\"AA\n==\",\"PartitionKey\":\"k\"}]}", false},
	{"{\"StreamName\":\"s\",\"Records\":[{\"Data\":\"AA==\",\"PartitionKey\":\"\xff\"}]}", false},
	{"{\"StreamName\":\"s\",\"Records\":[{\"Data\":\"AA==\",\"PartitionKey\":\"a\x01\"}]}", false},
	{`{"StreamName":"s","Records":[{"Data":"AA=","PartitionKey":"k"}]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"\u12g4"}]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"\x"}]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"k"},]}`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"k"}]}x`, false},
	{"{\"StreamName\":\"s\",\"Records\":[{\"Data\":\"AA==\",\"PartitionKey\":\"k\"}]}\x00", false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"k"}]`, false},
	{`{"StreamName":"s","Records":[{"Data":"AA==","PartitionKey":"k\"}]}`, false},
	{`{"StreamName":"s" "Records":[{"Data":"AA==","PartitionKey":"k"}]}`, false},
}

func TestScanJSON(t *testing.T) {
	for _, c := range scannedJSON {
		if got := agree(t, jsonCodec{}, []byte(c.body)); got != c.taken {
			t.Errorf("%q: taken %v, want %v", c.body, got, c.taken)
		}
	}
	// As many records as there may be, and one more.
	for n, taken := range map[int]bool{maxPutRecords: true, maxPutRecords + 1: false} {
		body := `{"StreamName":"s","Records":[` + strings.Repeat(`{"Data":"AA==","PartitionKey":"k"},`, n-1) + `{"Data":"AA==","PartitionKey":"k"}]}`
		if got := agree(t, jsonCodec{}, []byte(body)); got != taken {
			t.Errorf("%d records: taken %v", n, got)
		}
	}
}

// cborSeeds are requests in CBOR; those that the scanner takes come first.
func cborSeeds(t testing.TB) (taken, left [][]byte) {
	c := testCBOR(t)
	enc := func(v any) []byte {
		b, err := c.encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	type m = map[string]any
	rec := m{"Data": []byte("hi"), "PartitionKey": "kä"}
	taken = [][]byte{
		unhex(t, javaPuts),
		enc(m{"StreamName": "s", "Records": []m{rec, {"Data": []byte{}, "PartitionKey": "k", "ExplicitHashKey": "17"}}}),
		enc(m{"StreamARN": "no arn", "Records": []m{rec}}),
		enc(m{"Records": []m{rec}}),
	}
	left = [][]byte{
		{},
		{0xa0},
		{0x80},
		enc(m{"StreamName": "s"}),
		enc(m{"StreamName": "s", "Records": []m{}}),
		enc(m{"StreamName": nil, "Records": []m{rec}}),
		enc(m{"StreamName": "s", "DryRun": true, "Records": []m{rec}}),
		enc(m{"StreamName": "s", "Records": []m{{"Data": "text", "PartitionKey": "k"}}}),
		enc(m{"StreamName": "s", "Records": []m{{"Data": nil, "PartitionKey": "k"}}}),
		enc(m{"StreamName": "s", "Records": []m{{"Data": []byte("x"), "PartitionKey": ""}}}),
		enc(m{"StreamName": "s", "Records": []m{{"Data": []byte("x"), "PartitionKey": "k", "ExplicitHashKey": "01"}}}),
		append(enc(m{"Records": []m{rec}}), 0),
		unhex(t, "a1 675265636f726473 81 a2 6444617461 5f 4161 4162 ff 6c506172746974696f6e4b6579 616b"),      // data in chunks
		unhex(t, "a1 675265636f726473 81 a2 6444617461 4161 6c506172746974696f6e4b6579 61ff"),                 // no UTF-8
		unhex(t, "a1 675265636f726473 81 a3 6444617461 4161 6444617461 4161 6c506172746974696f6e4b6579 616b"), // twice
	}
	return taken, left
}

func TestScanCBOR(t *testing.T) {
	taken, left := cborSeeds(t)
	c := testCBOR(t)
	for _, body := range taken {
		if !agree(t, c, body) {
			t.Errorf("%x is not taken", body)
		}
	}
	for _, body := range left {
		if agree(t, c, body) {
			t.Errorf("%x is taken", body)
		}
	}
}

func FuzzScanPuts(f *testing.F) {
	for _, c := range scannedJSON {
		f.Add(false, []byte(c.body))
	}
	taken, left := cborSeeds(f)
	for _, b := range append(taken, left...) {
		f.Add(true, b)
	}
	c := testCBOR(f)
	f.Fuzz(func(t *testing.T, inCBOR bool, body []byte) {
		if inCBOR {
			agree(t, c, body)
			return
		}
		agree(t, jsonCodec{}, body)
	})
}

// inputs are the members of every request that is decoded into a type of its
// own.
func inputs() []any {
	return []any{
		new(createStreamInput), new(deleteStreamInput), new(describeStreamInput), new(describeStreamSummaryInput),
		new(getRecordsInput), new(getShardIteratorInput), new(listShardsInput), new(listStreamsInput),
		new(putRecordInput), new(putRecordsInput),
	}
}

// FuzzCodecs: what either decoder takes says the same when it is written and
// read again, in both encodings.
func FuzzCodecs(f *testing.F) {
	c := testCBOR(f)
	for i, body := range []string{
		`{"StreamName":"s","ShardCount":3,"StreamModeDetails":{"StreamMode":"PROVISIONED"},"MaxRecordSizeInKiB":1024,"Tags":{"a":"b","c":null}}`,
		`{"StreamName":"s"}`,
		`{"StreamName":"s","Limit":7,"ExclusiveStartShardId":"shardId-000000000000"}`,
		`{"StreamARN":"arn:aws:kinesis:eu-north-1:000000000000:stream/s"}`,
		`{"ShardIterator":"AAAA","Limit":10000,"DryRun":false}`,
		`{"StreamName":"s","ShardId":"shardId-000000000000","ShardIteratorType":"AT_TIMESTAMP","Timestamp":1459800831.952}`,
		`{"StreamName":"s","MaxResults":1,"ShardFilter":{"Type":"AT_TIMESTAMP","Timestamp":-1.5}}`,
		`{"Limit":1,"NextToken":"x"}`,
		`{"StreamName":"s","Data":"aGk=","PartitionKey":"k","SequenceNumberForOrdering":"1"}`,
		`{"StreamName":"s","Records":[{"Data":"","PartitionKey":"k"},{"Data":null}]}`,
	} {
		f.Add(false, uint8(i), []byte(body))
		into := inputs()[i]
		if err := (jsonCodec{}).decode([]byte(body), into); err != nil {
			f.Fatal(err)
		}
		b, err := c.encode(into)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(true, uint8(i), b)
	}
	f.Add(true, uint8(9), unhex(f, javaPuts))
	f.Fuzz(func(t *testing.T, inCBOR bool, kind uint8, body []byte) {
		first, others := codec(jsonCodec{}), inputs()
		if inCBOR {
			first = c
		}
		in := others[int(kind)%len(others)]
		if err := first.decode(body, in); err != nil {
			return
		}
		for _, codec := range []codec{jsonCodec{}, c} {
			b, err := codec.encode(in)
			if err != nil {
				t.Fatalf("%+v has no form as %s: %v", in, codec.mediaType(), err)
			}
			again := inputs()[int(kind)%len(others)]
			if err := codec.decode(b, again); err != nil {
				t.Fatalf("%q is not read again: %v", b, err)
			}
			if !reflect.DeepEqual(in, again) {
				t.Fatalf("%s makes %+v of %+v", codec.mediaType(), again, in)
			}
		}
	})
}

// TestAppendString holds it against encoding/json, which reads what it writes.
func TestAppendString(t *testing.T) {
	all := ""
	for c := range rune(0x180) {
		all += string(c)
	}
	for _, s := range []string{"", "plain", all, "\u2028\u2029\ufffd😀", "</script>&"} {
		b := appendString(nil, s)
		var got string
		if err := json.Unmarshal(b, &got); err != nil || got != s {
			t.Errorf("%q is written %s, which is read as %q, %v", s, b, got, err)
		}
		if raw, ok := appendUnescaped(nil, b[1:len(b)-1]); !ok || string(raw) != s {
			t.Errorf("%s is read as %q, %v", b, raw, ok)
		}
	}
	if got := string(appendString(nil, "a\xffb")); got != "\"a\ufffdb\"" {
		t.Errorf("what is not UTF-8 is written %s", got)
	}
}

// TestRoomIsEnough: no record needs more than what it is said to need.
func TestRoomIsEnough(t *testing.T) {
	at := place{index: 1 << 30, created: created(t)}.numbered()
	for _, key := range []string{"k", strings.Repeat("\x01", 256), strings.Repeat("😀", 256), strings.Repeat("\\", 256)} {
		for _, n := range []int{0, 1, 2, 3, 100, 70000} {
			r := record.Record{Key: key, Data: make([]byte, n), Pos: record.Pos{Seq: maxCounter}, Arrived: created(t)}
			for _, c := range []codec{jsonCodec{}, testCBOR(t)} {
				if b := c.getRecord(nil, 1, at, &r); len(b) > c.getRoom(&r) {
					t.Errorf("%s: %d bytes of data take %d bytes, %d were said", c.mediaType(), n, len(b), c.getRoom(&r))
				}
				if b := c.putStored(nil, 1, at, maxCounter); len(b) > putResultRoom {
					t.Errorf("%s: a result takes %d bytes", c.mediaType(), len(b))
				}
				if b := c.putsTail(c.putsHead(nil, maxPutRecords), maxPutRecords); len(b) > putResultRoom {
					t.Errorf("%s: head and tail take %d bytes", c.mediaType(), len(b))
				}
			}
		}
	}
}

// BenchmarkDecodePuts reads a request of 500 records of 100 bytes, by the
// scanner and by the decoder.
func BenchmarkDecodePuts(b *testing.B) {
	type rec struct {
		Data         []byte
		PartitionKey string
	}
	in := struct {
		Records    []rec
		StreamName string
	}{StreamName: "s"}
	for i := range 500 {
		in.Records = append(in.Records, rec{bytes.Repeat([]byte{byte(i), 'x'}, 50), fmt.Sprint("sensor-", i%97)})
	}
	for name, c := range map[string]codec{"json": jsonCodec{}, "cbor": testCBOR(b)} {
		body, err := c.encode(in)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/scanner", func(b *testing.B) {
			var p batches
			arena := make([]byte, 0, c.putArena(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				x := p.get()
				x.arena = arena[:0]
				if !c.scanPuts(body, x) {
					b.Fatal("not taken")
				}
				p.reset(x)
			}
		})
		b.Run(name+"/decoder", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var in putRecordsInput
				if err := c.decode(body, &in); err != nil {
					b.Fatal(err)
				}
				if _, err := in.records(nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSequenceNumber(b *testing.B) {
	at, buf := place{index: 3, created: created(b)}, make([]byte, 0, 64)
	b.Run("numbering", func(b *testing.B) {
		n, seq := at.numbering(), uint64(1<<40)
		for b.Loop() {
			seq++
			buf = n.append(buf[:0], seq)
		}
	})
	b.Run("alone", func(b *testing.B) {
		seq := uint64(1 << 40)
		for b.Loop() {
			seq++
			buf = at.sequence(seq).appendTo(buf[:0])
		}
	})
}

func TestAppendBase64(t *testing.T) {
	data := make([]byte, 300)
	for i := range data {
		data[i] = byte(i * 151)
	}
	for n := range data {
		want := base64.StdEncoding.EncodeToString(data[:n])
		if got := string(appendBase64([]byte("x"), data[:n])); got != "x"+want {
			t.Fatalf("%d bytes are written %s, want %s", n, got[1:], want)
		}
	}
}

func BenchmarkBase64(b *testing.B) {
	for _, n := range []int{100, 10000} {
		src, dst := make([]byte, n), make([]byte, 0, 2*n)
		b.Run(fmt.Sprint("ours/", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				dst = appendBase64(dst[:0], src)
			}
		})
		b.Run(fmt.Sprint("library/", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				dst = base64.StdEncoding.AppendEncode(dst[:0], src)
			}
		})
	}
}
