package load

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A fakeStream is an endpoint with one shard that knows the operations of the
// generator.
type fakeStream struct {
	mu      sync.Mutex
	made    bool
	records [][]byte
	refuse  bool // one record of every request
	last    bool // the shard is closed
	live    chan []byte
}

func (f *fakeStream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=key/") {
		http.Error(w, "not signed", http.StatusForbidden)
		return
	}
	var in struct {
		Records       []struct{ Data []byte }
		Data          []byte
		ShardIterator string
	}
	if err := json.Unmarshal(body, &in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "Kinesis_20131202."); op {
	case "CreateStream":
		if f.made {
			http.Error(w, `{"__type":"ResourceInUseException"}`, http.StatusBadRequest)
		}
		f.made = true
	case "DescribeStreamSummary":
		fmt.Fprint(w, `{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE","StreamARN":"arn"}}`)
	case "ListShards":
		fmt.Fprint(w, `{"Shards":[{"ShardId":"shardId-0"}]}`)
	case "GetShardIterator":
		fmt.Fprint(w, `{"ShardIterator":"0"}`)
	case "PutRecords":
		for _, r := range in.Records {
			f.records = append(f.records, r.Data)
		}
		failed := 0
		if f.refuse {
			failed = 1
		}
		fmt.Fprintf(w, `{"FailedRecordCount":%d,"Records":[]}`, failed)
	case "GetRecords":
		f.get(w, in.ShardIterator)
	case "RegisterStreamConsumer":
		fmt.Fprint(w, `{"Consumer":{"ConsumerARN":"reader"}}`)
	case "DescribeStreamConsumer":
		fmt.Fprint(w, `{"ConsumerDescription":{"ConsumerStatus":"ACTIVE"}}`)
	case "DeregisterStreamConsumer":
	case "PutRecord":
		f.live <- in.Data
	case "SubscribeToShard":
		f.mu.Unlock()
		f.push(w, r)
		f.mu.Lock()
	default:
		http.Error(w, op, http.StatusNotFound)
	}
}

func (f *fakeStream) get(w io.Writer, iterator string) {
	var at int
	if _, err := fmt.Sscan(iterator, &at); err != nil {
		panic(err)
	}
	n := min(len(f.records)-at, 70)
	fmt.Fprint(w, `{"Records":[`)
	for i, r := range f.records[at : at+n] {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		fmt.Fprintf(w, `{"PartitionKey":"\"Data\":\"","Data":%q,"SequenceNumber":"1"}`, base64.StdEncoding.EncodeToString(r))
	}
	if f.last && at+n == len(f.records) {
		fmt.Fprint(w, `],"NextShardIterator":null}`)
		return
	}
	fmt.Fprintf(w, `],"NextShardIterator":"%d","MillisBehindLatest":0}`, at+n)
}

// push sends the initial response and then what is put.
func (f *fakeStream) push(w http.ResponseWriter, r *http.Request) {
	frame := func(headers, payload []byte) {
		b := binary.BigEndian.AppendUint32(nil, uint32(16+len(headers)+len(payload)))
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(headers))), 0, 0, 0, 0)
		b = append(append(append(b, headers...), payload...), 0, 0, 0, 0)
		if _, err := w.Write(b); err == nil {
			w.(http.Flusher).Flush()
		}
	}
	frame([]byte("headers"), []byte("{}"))
	for {
		select {
		case data := <-f.live:
			b, err := json.Marshal(map[string]any{"Records": []any{map[string]any{"Data": data}}})
			if err != nil {
				panic(err)
			}
			frame(nil, b)
		case <-r.Context().Done():
			return
		}
	}
}

func fakeEndpoint(t *testing.T, f *fakeStream) KinesisConfig {
	t.Helper()
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return KinesisConfig{Endpoint: srv.URL, Region: "us-east-1", AccessKey: "key", SecretKey: "secret", Stream: "s", Shards: 1}
}

func TestKinesisPutAndGet(t *testing.T) {
	for _, closed := range []bool{false, true} {
		f := &fakeStream{last: closed}
		cfg := fakeEndpoint(t, f)
		for range 2 { // the second finds the stream
			r, err := RunKinesisPut(t.Context(), KinesisPut{KinesisConfig: cfg, Connections: 3, Batch: 10, Size: 33, Count: 1005})
			if err != nil {
				t.Fatal(err)
			}
			if r.Records != 1000 || r.PerSecond <= 0 || r.P50 <= 0 || r.Max < r.P99 {
				t.Errorf("%+v", r)
			}
		}
		different := map[string]bool{}
		for _, data := range f.records {
			different[string(data)] = true
		}
		if len(f.records) != 2000 || len(different) < 400 || len(f.records[0]) != 33 {
			t.Errorf("%d records, %d different", len(f.records), len(different))
		}
		g, err := RunKinesisGet(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if g.Records != 2000 || g.Bytes != 2000*33 || g.Calls < 2000/70 {
			t.Errorf("closed %v: %+v", closed, g)
		}
	}
}

func TestKinesisPutAtARate(t *testing.T) {
	cfg := fakeEndpoint(t, &fakeStream{})
	r, err := RunKinesisPut(t.Context(), KinesisPut{KinesisConfig: cfg, Connections: 4, Batch: 5, Size: 10, Count: 400, Rate: 2000})
	if err != nil {
		t.Fatal(err)
	}
	// 20 requests of each connection, 10 ms apart, the last not waited behind.
	if r.Seconds < 0.19 || r.PerSecond > 2000/0.95 {
		t.Errorf("faster than it was asked for: %+v", r)
	}
}

func TestKinesisRefusals(t *testing.T) {
	cfg := fakeEndpoint(t, &fakeStream{refuse: true})
	put := KinesisPut{KinesisConfig: cfg, Connections: 2, Batch: 10, Size: 10, Count: 100}
	if _, err := RunKinesisPut(t.Context(), put); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a refused record: %v", err)
	}
	put.AccessKey = "another"
	if _, err := RunKinesisPut(t.Context(), put); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("a refused request: %v", err)
	}
	for _, bad := range []KinesisPut{
		{KinesisConfig: cfg, Connections: 0, Batch: 1, Size: 1, Count: 1},
		{KinesisConfig: cfg, Connections: 1, Batch: 501, Size: 1, Count: 1000},
		{KinesisConfig: cfg, Connections: 1, Batch: 500, Size: 1 << 20, Count: 1000},
		{KinesisConfig: cfg, Connections: 1, Batch: 10, Size: 1, Count: 9},
		{KinesisConfig: KinesisConfig{Endpoint: "x", Stream: "s", Shards: 1}, Connections: 1, Batch: 1, Size: 1, Count: 1},
	} {
		if err := bad.Check(); err == nil {
			t.Errorf("%+v passes", bad)
		}
	}
}

func TestKinesisPush(t *testing.T) {
	f := &fakeStream{live: make(chan []byte, 1000)}
	r, err := RunKinesisPush(t.Context(), KinesisPush{KinesisConfig: fakeEndpoint(t, f), Count: 100, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Records != 100 || r.PutP50 <= 0 || r.Max < r.P50 || r.Early > 100 {
		t.Errorf("%+v", r)
	}
}

func TestCBORBodies(t *testing.T) {
	long := strings.Repeat("x", 70_000)
	b := putCBOR("s", []benchRecord{{"k", []byte("Data")}, {"key", []byte(long)}, {"k", nil}})
	n, size, err := scanCBOR(b)
	if n != 3 || size != 4+70_000 || err != nil {
		t.Errorf("%d records with %d bytes, %v", n, size, err)
	}
	if _, _, err := scanCBOR(b[:1000]); err == nil {
		t.Error("a cut body passes")
	}
	for _, want := range []string{"", "a", strings.Repeat("i", 300)} {
		b := appendCBORText(slices.Clip(cborNext), want)
		if got, err := nextCBOR(b); got != want || err != nil {
			t.Errorf("%q, %v instead of %q", got, err, want)
		}
		if want != "" {
			if _, err := nextCBOR(b[:len(b)-1]); err == nil {
				t.Error("a cut iterator passes")
			}
		}
	}
}
