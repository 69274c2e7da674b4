package kinesis_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"forebay/spool/record"
	"forebay/uplink/kinesis"
	"forebay/uplink/lane"
)

// TestMain lets the test's program be the null server of the benchmark, so that
// its CPU time is not the client's.
func TestMain(m *testing.M) {
	if os.Getenv("FOREBAY_NULL_KINESIS") != "" {
		if err := serveNull(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveNull takes everything and looks at nothing; it prints its address and
// ends with its standard input.
func serveNull() error {
	lis, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var bodies sync.Pool
	json, cbor := nullForm{
		head: []byte(`{"FailedRecordCount":0,"Records":[`), tail: []byte(`]}`), sep: 1,
		count: func(body []byte) int { return bytes.Count(body, []byte("{")) - 1 }, // base64 has none
		one:   []byte(`{"SequenceNumber":"49600000000000000000000000000000000000000000000000000001","ShardId":"shardId-000000000000"},`),
	}, nullForm{
		head: []byte("\xbf\x71FailedRecordCount\x00\x67Records\x9f"), tail: []byte("\xff\xff"),
		count: func(body []byte) int { // what its list says
			at := bytes.Index(body, []byte("Records\x99")) + len("Records\x99")
			return int(binary.BigEndian.Uint16(body[at:]))
		},
		one: []byte("\xa2\x6eSequenceNumber\x78\x3849600000000000000000000000000000000000000000000000000001\x67ShardId\x74shardId-000000000000"),
	}
	json.many, cbor.many = bytes.Repeat(json.one, 500), bytes.Repeat(cbor.one, 500)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), "PutRecords") {
			fmt.Fprint(w, `{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE"}}`)
			return
		}
		body, ok := bodies.Get().(*[]byte)
		if !ok || int64(len(*body)) < r.ContentLength {
			b := make([]byte, r.ContentLength)
			body = &b
		}
		defer bodies.Put(body)
		if _, err := io.ReadFull(r.Body, (*body)[:r.ContentLength]); err != nil {
			return
		}
		form := &json
		if strings.Contains(r.Header.Get("Content-Type"), "cbor") {
			form = &cbor
		}
		many := form.many[:form.count((*body)[:r.ContentLength])*len(form.one)-form.sep]
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("Content-Length", strconv.Itoa(len(form.head)+len(many)+len(form.tail)))
		for _, b := range [][]byte{form.head, many, form.tail} {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	})}
	fmt.Println(lis.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) //nolint:errcheck // its end is all that matters
		_ = srv.Close()                      //nolint:errcheck // the process ends
	}()
	if err := srv.Serve(lis); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// A nullForm is what the server looks for and says in one form.
type nullForm struct {
	count           func(body []byte) int // records of a request
	head, one, tail []byte
	many            []byte
	sep             int // bytes of one that the last lacks
}

// nullServer starts it as a process of its own.
func nullServer(b *testing.B) string {
	b.Helper()
	cmd := exec.CommandContext(context.Background(), os.Args[0]) // it ends with its input
	cmd.Env = append(os.Environ(), "FOREBAY_NULL_KINESIS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := in.Close(); err != nil {
			b.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return "http://" + strings.TrimSpace(addr)
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A racer puts records until ctx ends and says how many were acknowledged.
type racer struct {
	name string
	run  func(ctx context.Context) uint64
	rate []float64 // records a second, by round
	cost []float64 // CPU of this process in microseconds a record
	unit []float64 // PUT payload units a million records; ours only
}

const racers = 8 // requests under way at a time

// BenchmarkAgainstTheSDK holds the sink against PutRecords of aws-sdk-go-v2, on
// the same null server in a process of its own: 100-byte payloads, 500 records
// a request, eight requests at a time, rounds by turns. It prints medians,
// spreads and ratios.
func BenchmarkAgainstTheSDK(b *testing.B) {
	url := nullServer(b)
	payload := []byte(fmt.Sprintf(`{"name":"temp","value":21.53,"unit":"Cel","quality":"good","time":"2026-11-22T10:00:00.123Z","n":%4d}`, 1))
	ours := func(name, wire, format, aggregate string, lanes, records int) *racer {
		r := &racer{name: name}
		cfg := config(url)
		cfg.Wire, cfg.Format, cfg.Aggregate = wire, format, aggregate
		sink, err := kinesis.New(cfg, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := sink.Close(); err != nil {
				b.Error(err)
			}
		})
		r.run = func(ctx context.Context) uint64 { return race(ctx, b, r, sink, payload, lanes, records) }
		return r
	}
	rivals := []*racer{
		{name: "aws-sdk-go-v2, PutRecords", run: func(ctx context.Context) uint64 { return raceSDK(ctx, b, url, payload) }},
		ours("sink, one by one, raw", "cbor", "raw", "off", 500, 4),
		ours("the same as JSON", "json", "raw", "off", 500, 4),
		ours("sink, aggregates, raw", "cbor", "raw", "on", 2, 4000),
		ours("sink, aggregates, envelope", "cbor", "envelope", "on", 2, 4000),
	}
	const rounds = 5
	for range rounds {
		for _, r := range rivals {
			ctx, cancel := context.WithTimeout(b.Context(), time.Second)
			began, spent := time.Now(), cpu(b)
			n := float64(r.run(ctx))
			cancel()
			r.rate = append(r.rate, n/time.Since(began).Seconds())
			r.cost = append(r.cost, float64((cpu(b)-spent).Microseconds())/n)
		}
	}
	base := rivals[0]
	for _, r := range rivals {
		rate, low, high := spread(r.rate)
		cost, cheap, dear := spread(r.cost)
		line := fmt.Sprintf("%-28s %9.0f records/s [%.0f-%.0f]  %5.2f us CPU [%.2f-%.2f]", r.name, rate, low, high, cost, cheap, dear)
		if r != base {
			was, _, _ := spread(base.rate)
			paid, _, _ := spread(base.cost)
			line += fmt.Sprintf("  %.1f times the rate, 1/%.1f of the CPU", rate/was, paid/cost)
		}
		if len(r.unit) > 0 {
			units, _, _ := spread(r.unit)
			line += fmt.Sprintf("  %.0f PUT units a million", units)
		}
		b.Log(line)
	}
	b.ReportMetric(0, "ns/op")
}

func spread(xs []float64) (median, low, high float64) {
	s := slices.Sorted(slices.Values(xs))
	return s[len(s)/2], s[0], s[len(s)-1]
}

func race(ctx context.Context, b *testing.B, r *racer, sink *kinesis.Sink, payload []byte, lanes, records int) uint64 {
	var n, units atomic.Uint64
	var wg sync.WaitGroup
	for w := range racers {
		wg.Go(func() {
			batches := make([]lane.Batch, lanes)
			for i := range batches {
				shard := record.ShardID(w*lanes + i + 1)
				batches[i] = lane.Batch{Lane: lane.Lane{Stream: "mqtt", Shard: shard, Hash: record.HashOf(fmt.Sprint(shard))}, Backlog: true}
				for k := range records {
					batches[i].Recs = append(batches[i].Recs, record.Record{
						Key: "site/area/press-1/temp", Source: "mqtt", Data: payload, Arrived: time.Now(), Pos: record.Pos{Shard: shard, Seq: uint64(k + 1)},
					})
				}
			}
			for ctx.Err() == nil {
				for _, o := range sink.Send(context.WithoutCancel(ctx), batches) {
					if o.Class != lane.OK {
						b.Errorf("%s: %+v", r.name, o)
						return
					}
					n.Add(uint64(o.Done))
					units.Add(uint64(o.Units))
				}
			}
		})
	}
	wg.Wait()
	if u := units.Load(); u > 0 {
		r.unit = append(r.unit, float64(u)/float64(n.Load())*1e6)
	}
	return n.Load()
}

func raceSDK(ctx context.Context, b *testing.B, url string, payload []byte) uint64 {
	cl := sdk.New(sdk.Options{BaseEndpoint: aws.String(url), Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AKIDTEST", secret, "")})
	var n atomic.Uint64
	var wg sync.WaitGroup
	for range racers {
		wg.Go(func() {
			in := &sdk.PutRecordsInput{StreamName: aws.String("target")}
			for range 500 {
				in.Records = append(in.Records, types.PutRecordsRequestEntry{Data: payload, PartitionKey: aws.String("site/area/press-1/temp")})
			}
			for ctx.Err() == nil {
				if _, err := cl.PutRecords(context.WithoutCancel(ctx), in); err != nil {
					b.Errorf("the SDK: %v", err)
					return
				}
				n.Add(uint64(len(in.Records)))
			}
		})
	}
	wg.Wait()
	return n.Load()
}
