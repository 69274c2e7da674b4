package kinesisapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

// cborRequest is request in CBOR.
func (b *box) cborRequest(op string, members any, change func(*http.Request)) *http.Request {
	b.t.Helper()
	body, err := cbor.Marshal(members)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.request(op, string(body), b.clock.Now(), func(r *http.Request) {
		r.Header.Set("Content-Type", cborType)
		if change != nil {
			change(r)
		}
	})
}

type members = map[string]any

// TestCBOR goes through the front door: records put in one encoding are read in
// the other, and an error has the encoding of its request.
func TestCBOR(t *testing.T) {
	b := start(t, kinesisapi.Config{Keys: testKeys()}, spool.Config{})
	b.create("s", 1)
	for _, tr := range []*http.Transport{{}, h2c()} {
		resp, answer := b.do(tr, b.cborRequest("PutRecords", members{"StreamName": "s", "Records": []members{{"Data": []byte{0, 0xff}, "PartitionKey": "ä"}}}, nil))
		var put struct {
			FailedRecordCount int
			Records           []struct{ ShardID, SequenceNumber string } `cbor:"Records"`
		}
		if err := cbor.Unmarshal([]byte(answer), &put); err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != cborType ||
			put.FailedRecordCount != 0 || len(put.Records) != 1 || len(put.Records[0].SequenceNumber) != 56 {
			t.Fatalf("%s: %q, %v", resp.Status, answer, err)
		}
		_, answer = b.do(tr, b.cborRequest("GetShardIterator", members{
			"StreamName": "s", "ShardId": "shardId-000000000000", "ShardIteratorType": "AT_TIMESTAMP",
			"Timestamp": cbor.Tag{Number: 1, Content: b.clock.Now().Add(-time.Hour).UnixMilli()},
		}, nil))
		var it struct{ ShardIterator string }
		if err := cbor.Unmarshal([]byte(answer), &it); err != nil {
			t.Fatal(err)
		}
		type got struct {
			Records []struct {
				Data         []byte
				PartitionKey string
			}
		}
		var inJSON, inCBOR got
		_, answer = b.do(tr, b.request("GetRecords", fmt.Sprintf(`{"ShardIterator":%q}`, it.ShardIterator), b.clock.Now(), nil))
		if err := json.Unmarshal([]byte(answer), &inJSON); err != nil {
			t.Fatal(err)
		}
		_, answer = b.do(tr, b.cborRequest("GetRecords", it, nil))
		if err := cbor.Unmarshal([]byte(answer), &inCBOR); err != nil {
			t.Fatal(err)
		}
		for _, g := range []got{inJSON, inCBOR} {
			if len(g.Records) == 0 || g.Records[0].PartitionKey != "ä" || !bytes.Equal(g.Records[0].Data, []byte{0, 0xff}) {
				t.Errorf("read %+v", g)
			}
		}
	}
	for code, r := range map[string]*http.Request{
		"ResourceNotFoundException": b.cborRequest("DescribeStream", members{"StreamName": "none"}, nil),
		"ValidationException":       b.cborRequest("PutRecords", members{"StreamName": "s"}, nil),
		"SerializationException":    b.cborRequest("PutRecords", []int{}, nil),
		"UnknownOperationException": b.cborRequest("Nothing", members{}, nil),
		"InvalidSignatureException": func() *http.Request {
			r := b.cborRequest("ListStreams", members{}, nil)
			r.Header.Set("X-Amz-Target", "Kinesis_20131202.DescribeLimits")
			return r
		}(),
	} {
		resp, answer := b.do(&http.Transport{}, r)
		var e struct {
			Type    string `cbor:"__type"`
			Message string `cbor:"message"`
		}
		if err := cbor.Unmarshal([]byte(answer), &e); err != nil || e.Type != code || e.Message == "" ||
			resp.StatusCode != 400 || resp.Header.Get("X-Amzn-Errortype") != code || resp.Header.Get("Content-Type") != cborType {
			t.Errorf("%s: answered %s %q, %v", code, resp.Status, answer, err)
		}
	}
}

// TestAbandonedPut: the records of a client that went away before the commit
// stay as they are for as long as the log may read them, whatever comes behind
// them.
func TestAbandonedPut(t *testing.T) {
	for _, media := range []string{jsonType, cborType} {
		b := start(t, kinesisapi.Config{}, spool.Config{})
		b.create("s", 1)
		held := make(chan []record.Record, 1)
		var settle func([]record.Result)
		b.in.before = func(_ context.Context, _ string, recs []record.Record, done func([]record.Result)) (bool, error) {
			settle = done
			held <- recs
			return true, nil
		}
		body := putsBody(t, media, 500, 100)
		ctx, cancel := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url()+"/", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header = rawHeaders("PutRecords", media)
		gone := make(chan error, 1)
		tr := &http.Transport{}
		defer tr.CloseIdleConnections()
		go func() {
			resp, err := tr.RoundTrip(r)
			if err == nil {
				resp.Body.Close()
			}
			gone <- err
		}()
		recs := <-held
		var want []string
		for i := range recs {
			want = append(want, recs[i].Key+" "+string(recs[i].Data))
		}
		cancel()
		if err := <-gone; err == nil {
			t.Fatal("the request was answered")
		}
		// The server notices, and takes other requests of the same size.
		eventually(t, "the end of the connection", func() bool { return b.srv.Clients() == 0 })
		b.in.before = nil
		d := newDirect(t, b.srv, "PutRecords", media, bytes.ReplaceAll(body, []byte("sensor"), []byte("SENSOR")))
		for range 20 {
			d.do(t)
		}
		for i := range recs {
			if got := recs[i].Key + " " + string(recs[i].Data); got != want[i] {
				t.Fatalf("%s: record %d became %q, was %q", media, i, got, want[i])
			}
		}
		settle(make([]record.Result, len(recs)))
		d.do(t)
	}
}

// TestLargestRequest: 10 MiB in 500 records pass even where every character
// that an encoder may escape is escaped.
func TestLargestRequest(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	key := strings.Repeat(`\ud83d\ude00`, 256)
	data := strings.Repeat(`\/`, ((10<<20)/500-4*256)/3*4) // bytes of 0xff
	body := `{"StreamName":"s","Records":[` + strings.Repeat(`{"Data":"`+data+`","PartitionKey":"`+key+`","ExplicitHashKey":"1"},`, 499) +
		`{"Data":"` + data + `","PartitionKey":"` + key + `","ExplicitHashKey":"2"}]}`
	resp, answer := b.do(&http.Transport{}, b.request("PutRecords", body, b.clock.Now(), nil))
	if resp.StatusCode != 200 || !strings.HasSuffix(answer, `"FailedRecordCount":0}`) {
		t.Errorf("%d bytes: %s %.200s", len(body), resp.Status, answer)
	}
	// A little more of the same is more than 10 MiB.
	body = strings.Replace(body, `\/`, strings.Repeat(`\/`, 4*24), 500)
	resp, answer = b.do(&http.Transport{}, b.request("PutRecords", body, b.clock.Now(), nil))
	if resp.StatusCode != 400 || !strings.Contains(answer, "InvalidArgumentException") {
		t.Errorf("more than 10 MiB: %s %.200s", resp.Status, answer)
	}
}

// TestLargestRecordIsRead: a read gives a record at least, however large, and
// its answer is whole.
func TestLargestRecordIsRead(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("s", 1)
	data := bytes.Repeat([]byte("0123456789abcde"), (10<<20)/15)
	for range 2 {
		if _, err := st.Put(t.Context(), []record.Record{{Key: strings.Repeat("k", 256), Data: data[:10<<20-100]}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, media := range []string{jsonType, cborType} {
		d := newDirect(t, b.srv, "GetRecords", media, b.iterator(t, media))
		d.out.keep = true
		d.do(t)
		var out struct {
			Records            []struct{ Data []byte }
			NextShardIterator  string
			MillisBehindLatest int64
		}
		unmarshal := json.Unmarshal
		if media == cborType {
			unmarshal = cbor.Unmarshal
		}
		if err := unmarshal(d.out.b, &out); err != nil {
			t.Fatal(err)
		}
		if len(out.Records) != 1 || !bytes.Equal(out.Records[0].Data, data[:10<<20-100]) || out.NextShardIterator == "" || out.MillisBehindLatest == 0 {
			t.Errorf("%s: %d records, iterator %q, %d ms behind", media, len(out.Records), out.NextShardIterator, out.MillisBehindLatest)
		}
	}
}
