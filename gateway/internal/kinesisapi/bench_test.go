package kinesisapi_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
	"forebay/spool/record"
)

const (
	jsonType = "application/x-amz-json-1.1"
	cborType = "application/x-amz-cbor-1.1"

	// benchAuth is well formed, which is all that an endpoint without keys asks.
	benchAuth = "AWS4-HMAC-SHA256 Credential=AK/20261123/us-east-1/kinesis/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature=" +
		"0000000000000000000000000000000000000000000000000000000000000000"
)

// rawHeaders are those of every request; benchmarks of the server do not pay
// for a client's signing.
func rawHeaders(op, media string) http.Header {
	return http.Header{
		"Content-Type":  {media},
		"X-Amz-Target":  {"Kinesis_20131202." + op},
		"X-Amz-Date":    {"20261123T000000Z"},
		"Authorization": {benchAuth},
	}
}

// putsBody is a PutRecords request.
func putsBody(tb testing.TB, media string, records, size int) []byte {
	tb.Helper()
	type rec struct {
		Data         []byte
		PartitionKey string
	}
	in := struct {
		Records    []rec
		StreamName string
	}{StreamName: "s"}
	for i := range records {
		in.Records = append(in.Records, rec{bytes.Repeat([]byte{byte(i), 'a', 0xfe}, size/3+1)[:size], "sensor-" + strconv.Itoa(i%97)})
	}
	marshal := json.Marshal
	if media == cborType {
		marshal = cbor.Marshal
	}
	b, err := marshal(in)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// A sink is a ResponseWriter that keeps the size of an answer and, if asked,
// the answer.
type sink struct {
	h      http.Header
	status int
	n      int
	keep   bool
	b      []byte
}

func (s *sink) Header() http.Header                { return s.h }
func (s *sink) WriteHeader(status int)             { s.status = status }
func (s *sink) SetReadDeadline(time.Time) error    { return nil }
func (s *sink) SetWriteDeadline(t time.Time) error { return nil }
func (s *sink) Write(b []byte) (int, error) {
	s.n += len(b)
	if s.keep {
		s.b = append(s.b, b...)
	}
	return len(b), nil
}

// direct makes a request of the server without a network. The request and the
// body are the same every time.
type direct struct {
	srv  *kinesisapi.Server
	req  *http.Request
	body *bytes.Reader
	all  []byte
	out  sink
}

func newDirect(tb testing.TB, srv *kinesisapi.Server, op, media string, body []byte) *direct {
	tb.Helper()
	d := &direct{srv: srv, all: body, body: bytes.NewReader(body)}
	var err error
	if d.req, err = http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://127.0.0.1/", nil); err != nil {
		tb.Fatal(err)
	}
	d.req.Header, d.req.RequestURI, d.req.Body, d.req.ContentLength = rawHeaders(op, media), "/", io.NopCloser(d.body), int64(len(body))
	d.out.h = http.Header{}
	return d
}

func (d *direct) do(tb testing.TB) {
	d.body.Reset(d.all)
	d.out.n, d.out.b = 0, d.out.b[:0]
	d.srv.ServeHTTP(&d.out, d.req)
	if d.out.status != http.StatusOK {
		tb.Fatalf("answered %d", d.out.status)
	}
}

// benchBox is a box whose stream "s" has some shards.
func benchBox(b *testing.B, shards int) *box {
	x := start(b, kinesisapi.Config{}, spool.Config{})
	x.create("s", shards)
	return x
}

// An instant inlet says at once that everything is stored, so that what is
// measured is this package.
func instant(_ context.Context, _ string, recs []record.Record, done func([]record.Result)) (bool, error) {
	rs := make([]record.Result, len(recs))
	for i := range rs {
		rs[i].Pos = record.Pos{Shard: 1, Seq: uint64(i + 1)}
	}
	done(rs)
	return true, nil
}

// BenchmarkPutRecords is one request of 500 records of 100 bytes, without a
// network: into the log, and with a log that costs nothing.
func BenchmarkPutRecords(b *testing.B) {
	for _, media := range []string{jsonType, cborType} {
		for _, log := range []string{"instant", "durable"} {
			b.Run(strings.TrimPrefix(media, "application/x-amz-")+"/"+log, func(b *testing.B) {
				x := benchBox(b, 4)
				if log == "instant" {
					x.in.before = instant
				}
				d := newDirect(b, x.srv, "PutRecords", media, putsBody(b, media, 500, 100))
				d.do(b)
				perRecord(b, 500, func() {
					for b.Loop() {
						d.do(b)
					}
				})
			})
		}
	}
}

// perRecord reports what a record costs.
func perRecord(b *testing.B, records int, run func()) {
	b.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run()
	runtime.ReadMemStats(&after)
	n := float64(b.N) * float64(records)
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/n, "B/record")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/record")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/record")
	b.ReportMetric(n/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(0, "ns/op")
}

// load fills the stream "s" with about n bytes in records of a size.
func (b *box) load(tb testing.TB, n, size int) {
	tb.Helper()
	st, err := b.sp.Stream("s")
	if err != nil {
		tb.Fatal(err)
	}
	data := bytes.Repeat([]byte{0, 'b', 0xfd, 7}, size/4+1)[:size]
	per := max(min(500, (4<<20)/size), 1)
	for range max(n/size/per, 1) {
		recs := make([]record.Record, per)
		for i := range recs {
			recs[i] = record.Record{Key: "sensor-" + strconv.Itoa(i%97), Data: data, Source: "test"}
		}
		if _, err := st.Put(context.Background(), recs); err != nil {
			tb.Fatal(err)
		}
	}
}

// iterator is a GetRecords request from the start of the first shard.
func (b *box) iterator(tb testing.TB, media string) []byte {
	tb.Helper()
	d := newDirect(tb, b.srv, "GetShardIterator", jsonType, []byte(`{"StreamName":"s","ShardId":"shardId-000000000000","ShardIteratorType":"TRIM_HORIZON"}`))
	d.out.keep = true
	d.do(tb)
	var in struct{ ShardIterator string }
	if err := json.Unmarshal(d.out.b, &in); err != nil {
		tb.Fatal(err)
	}
	marshal := json.Marshal
	if media == cborType {
		marshal = cbor.Marshal
	}
	body, err := marshal(in)
	if err != nil {
		tb.Fatal(err)
	}
	return body
}

var getSizes = []int{100, 1000, 10_000, 1_000_000}

// BenchmarkGetRecords reads the same records of a shard again and again,
// without a network.
func BenchmarkGetRecords(b *testing.B) {
	for _, media := range []string{jsonType, cborType} {
		for _, size := range getSizes {
			b.Run(fmt.Sprintf("%s/%d", strings.TrimPrefix(media, "application/x-amz-"), size), func(b *testing.B) {
				x := benchBox(b, 1)
				x.load(b, 12<<20, size)
				d := newDirect(b, x.srv, "GetRecords", media, x.iterator(b, media))
				d.out.keep = true
				d.do(b)
				records := countRecords(b, media, d.out.b)
				d.out.keep, d.out.b = false, nil
				b.SetBytes(int64(records * size))
				perRecord(b, records, func() {
					for b.Loop() {
						d.do(b)
					}
				})
			})
		}
	}
}

func countRecords(tb testing.TB, media string, answer []byte) int {
	tb.Helper()
	unmarshal := json.Unmarshal
	if media == cborType {
		unmarshal = cbor.Unmarshal
	}
	var out struct {
		Records []struct{ SequenceNumber string }
	}
	if err := unmarshal(answer, &out); err != nil {
		tb.Fatal(err)
	}
	return len(out.Records)
}

// rawClient sends the same request over one connection of HTTP/1.1 and throws
// the answers away: as little of the machine as a client can take.
type rawClient struct {
	conn net.Conn
	rd   *bufio.Reader
	req  []byte
}

func newRaw(tb testing.TB, addr, op, media string, body []byte) *rawClient {
	tb.Helper()
	var d net.Dialer
	conn, err := d.DialContext(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", addr, len(body))
	if err := rawHeaders(op, media).Write(&head); err != nil {
		tb.Fatal(err)
	}
	head.WriteString("\r\n")
	return &rawClient{conn, bufio.NewReaderSize(conn, 256<<10), append(head.Bytes(), body...)}
}

// do gives the size of the answer's body.
func (c *rawClient) do() (int, error) {
	if _, err := c.conn.Write(c.req); err != nil {
		return 0, err
	}
	size, ok := 0, false
	for {
		line, err := c.rd.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if v, is := bytes.CutPrefix(line, []byte("HTTP/1.1 ")); is {
			ok = bytes.HasPrefix(v, []byte("200"))
		}
		if v, is := bytes.CutPrefix(line, []byte("Content-Length: ")); is {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return 0, err
			}
		}
		if len(line) == 2 {
			break
		}
	}
	if !ok {
		return 0, fmt.Errorf("not answered with 200")
	}
	_, err := c.rd.Discard(size)
	return size, err
}

// overNetwork runs a request over clients connections until the benchmark is
// done, and gives the time that each took. With a rate, in requests a second,
// each has its moment, and its time counts from then on.
func overNetwork(b *testing.B, x *box, proto string, clients, rate int, op, media string, body []byte) []time.Duration {
	var next atomic.Int64
	next.Store(-1)
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	b.ResetTimer()
	start := time.Now()
	for range clients {
		do, closeIt := rawOver(b, x, proto, op, media, body)
		wg.Go(func() {
			defer closeIt()
			var took []time.Duration
			for i := next.Add(1); i < int64(b.N); i = next.Add(1) {
				from := time.Now()
				if rate > 0 {
					from = start.Add(time.Duration(i) * time.Second / time.Duration(rate))
					time.Sleep(time.Until(from))
				}
				if err := do(); err != nil {
					b.Error(err)
					return
				}
				took = append(took, time.Since(from))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(all)
	return all
}

func rawOver(b *testing.B, x *box, proto, op, media string, body []byte) (do func() error, closeIt func()) {
	if proto == "h1" {
		c := newRaw(b, x.srv.Addr(), op, media, body)
		return func() error { _, err := c.do(); return err }, func() { c.conn.Close() }
	}
	tr := h2c()
	return func() error {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, x.url()+"/", bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header = rawHeaders(op, media)
		resp, err := tr.RoundTrip(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("answered %s", resp.Status)
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}, tr.CloseIdleConnections
}

// BenchmarkPutRecordsOverNetwork is 500 records of 100 bytes a request, durable,
// from raw clients on the same machine.
func BenchmarkPutRecordsOverNetwork(b *testing.B) {
	for _, media := range []string{jsonType, cborType} {
		for _, proto := range []string{"h1", "h2c"} {
			b.Run(strings.TrimPrefix(media, "application/x-amz-")+"/"+proto, func(b *testing.B) {
				x := benchBox(b, 4)
				took := overNetwork(b, x, proto, 8, 0, "PutRecords", media, putsBody(b, media, 500, 100))
				reportTimes(b, took)
				b.ReportMetric(float64(b.N)*500/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}

// BenchmarkPutRecordsPaced is 75,000 records a second, half of what the endpoint
// is to take at least: what counts is how long a request takes.
func BenchmarkPutRecordsPaced(b *testing.B) {
	for _, media := range []string{jsonType, cborType} {
		for _, proto := range []string{"h1", "h2c"} {
			b.Run(strings.TrimPrefix(media, "application/x-amz-")+"/"+proto, func(b *testing.B) {
				x := benchBox(b, 4)
				reportTimes(b, overNetwork(b, x, proto, 8, 150, "PutRecords", media, putsBody(b, media, 500, 100)))
			})
		}
	}
}

// BenchmarkLargeBody is a request of 10 MiB.
func BenchmarkLargeBody(b *testing.B) {
	for _, proto := range []string{"h1", "h2c"} {
		b.Run(proto, func(b *testing.B) {
			x := benchBox(b, 4)
			x.in.before = instant
			body := putsBody(b, jsonType, 10, 1<<20-100)
			b.SetBytes(int64(len(body)))
			reportTimes(b, overNetwork(b, x, proto, 1, 0, "PutRecords", jsonType, body))
		})
	}
}

// BenchmarkGetRecordsOverNetwork reads 10 MiB, or 10,000 records, a request.
func BenchmarkGetRecordsOverNetwork(b *testing.B) {
	for _, media := range []string{jsonType, cborType} {
		for _, proto := range []string{"h1", "h2c"} {
			for _, size := range getSizes {
				b.Run(fmt.Sprintf("%s/%s/%d", strings.TrimPrefix(media, "application/x-amz-"), proto, size), func(b *testing.B) {
					x := benchBox(b, 1)
					x.load(b, 12<<20, size)
					body := x.iterator(b, media)
					d := newDirect(b, x.srv, "GetRecords", media, body)
					d.out.keep = true
					d.do(b)
					b.SetBytes(int64(countRecords(b, media, d.out.b) * size))
					reportTimes(b, overNetwork(b, x, proto, 2, 0, "GetRecords", media, body))
				})
			}
		}
	}
}

func reportTimes(b *testing.B, took []time.Duration) {
	if len(took) == 0 {
		return
	}
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
