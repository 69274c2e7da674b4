package uplink_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/firehose"
	"forebay/uplink/http"
	"forebay/uplink/kafka"
	"forebay/uplink/kinesis"
	"forebay/uplink/lane"
	"forebay/uplink/nats"
	"forebay/uplink/opensearch"
	"forebay/uplink/s3"
)

var identity = record.Identity{Gateway: "edge-07", Epoch: 0x1234}

// A far is the far side of a sink under test.
type far struct {
	// payloads gives what arrived of a lane, in order.
	payloads func(l lane.Lane) []string
	// flaky makes the far side fail now and then, in its own ways; off ends it.
	flaky func(on bool)
	// gone makes it unreachable.
	gone func()
	// largest is the largest payload that it takes for sure, tooLarge one that
	// it never takes.
	largest, tooLarge int
	cloud             *cloud // behind a Kinesis
}

// sinks are all there are; a new one joins the contract here.
func sinks() map[string]func(t *testing.T) (uplink.Sink, *far) {
	return map[string]func(t *testing.T) (uplink.Sink, *far){
		"kinesis":              func(t *testing.T) (uplink.Sink, *far) { return kinesisFar(t, kinesis.Config{}) },
		"kinesis-off":          func(t *testing.T) (uplink.Sink, *far) { return kinesisFar(t, kinesis.Config{Aggregate: "off"}) },
		"kinesis-json":         func(t *testing.T) (uplink.Sink, *far) { return kinesisFar(t, kinesis.Config{Wire: "json"}) },
		"kinesis-without-cbor": withoutCBOR,
		"firehose":             func(t *testing.T) (uplink.Sink, *far) { return firehoseFar(t, firehose.Config{}) },
		"firehose-gzip": func(t *testing.T) (uplink.Sink, *far) {
			return firehoseFar(t, firehose.Config{Compression: "gzip", PerRecord: 50})
		},
		"kafka":       func(t *testing.T) (uplink.Sink, *far) { return kafkaFar(t, kafka.Config{}) },
		"kafka-off":   func(t *testing.T) (uplink.Sink, *far) { return kafkaFar(t, kafka.Config{Transactions: "off"}) },
		"s3":          func(t *testing.T) (uplink.Sink, *far) { return s3Far(t, s3.Config{}) },
		"s3-parquet":  func(t *testing.T) (uplink.Sink, *far) { return s3Far(t, s3.Config{Objects: "parquet"}) },
		"nats":        func(t *testing.T) (uplink.Sink, *far) { return natsFar(t, nats.Config{}, true) },
		"nats-raw":    func(t *testing.T) (uplink.Sink, *far) { return natsFar(t, nats.Config{Format: "raw"}, true) },
		"nats-single": func(t *testing.T) (uplink.Sink, *far) { return natsFar(t, nats.Config{}, false) },
		"http":        func(t *testing.T) (uplink.Sink, *far) { return httpFar(t, http.Config{}) },
		"http-json": func(t *testing.T) (uplink.Sink, *far) {
			return httpFar(t, http.Config{Body: "json", Compression: "zstd"})
		},
		"http-single": func(t *testing.T) (uplink.Sink, *far) {
			return httpFar(t, http.Config{Body: "single", Compression: "gzip"})
		},
		"opensearch": func(t *testing.T) (uplink.Sink, *far) { return opensearchFar(t, opensearch.Config{}) },
		"opensearch-index": func(t *testing.T) (uplink.Sink, *far) {
			return opensearchFar(t, opensearch.Config{Op: "index", Compression: "off"})
		},
		"mqtt":      mqttFar,
		"sparkplug": sparkplugFar,
	}
}

func kinesisConfig(c *cloud, cfg kinesis.Config) *kinesis.Config {
	cfg.Endpoint, cfg.Region = c.srv.URL, "eu-central-1"
	cfg.AccessKey, cfg.SecretKey = "AKIDTEST", conf.NewSecret("secret")
	if cfg.Stream == "" {
		cfg.Stream = "target"
	}
	return &cfg
}

func kinesisFar(t *testing.T, cfg kinesis.Config) (uplink.Sink, *far) {
	c := newCloud(t)
	c.add(4)
	s, err := uplink.New(uplink.Config{ID: "x", Kinesis: kinesisConfig(c, cfg)}, lane.Home{ID: identity, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s, &far{
		cloud: c,
		payloads: func(l lane.Lane) (out []string) {
			for _, r := range c.all("target") {
				if r.Stream == l.Stream && strings.Contains(r.ID, fmt.Sprintf("/%d/", l.Shard)) {
					out = append(out, r.Data)
				}
			}
			return out
		},
		flaky: func(on bool) {
			faults := []string{"", "", "", "entries", "500 after", "cut after", "cut before", "throttle", "503", "html", "short answer", "busy shards"}
			rng := rand.New(rand.NewPCG(3, 4))
			c.misbehave(func(op string) string {
				if !on {
					return ""
				}
				return faults[rng.IntN(len(faults))]
			})
		},
		gone:     c.srv.Close,
		largest:  700 << 10, // as base64 in the envelope
		tooLarge: 1 << 20,
	}
}

func laneOf(n int) lane.Lane {
	l := lane.Lane{Stream: "s", Shard: record.ShardID(n)}
	l.Hash = record.HashOf(fmt.Sprint("lane", n))
	return l
}

func batchOf(l lane.Lane, from, n int, data func(i int) []byte) lane.Batch {
	b := lane.Batch{Lane: l}
	for i := range n {
		b.Recs = append(b.Recs, record.Record{
			Key: fmt.Sprintf("k%d", i%7), Source: "test", Data: data(from + i),
			Pos: record.Pos{Shard: l.Shard, Seq: uint64(from + i)},
		})
	}
	return b
}

func numbered(i int) []byte { return fmt.Appendf(nil, `{"n":%d}`, i) }

// TestSinkContract is what every sink promises the pump.
func TestSinkContract(t *testing.T) {
	for name, open := range sinks() {
		t.Run(name, func(t *testing.T) {
			for sub, f := range map[string]func(*testing.T, uplink.Sink, *far){
				"order":      contractOrder,
				"payloads":   contractPayloads,
				"poison":     contractPoison,
				"flaky":      contractFlaky,
				"gone":       contractGone,
				"concurrent": contractConcurrent,
				"cancelled":  contractCancelled,
			} {
				t.Run(sub, func(t *testing.T) {
					s, f2 := open(t)
					f(t, s, f2)
					if err := s.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				})
			}
		})
	}
}

// Every record of every lane arrives, in order; Done is the whole batch.
func contractOrder(t *testing.T, s uplink.Sink, f *far) {
	var batches []lane.Batch
	for i := range 5 {
		batches = append(batches, batchOf(laneOf(i+1), 1, 100*i+1, numbered))
	}
	out := s.Send(t.Context(), batches)
	if len(out) != len(batches) {
		t.Fatalf("%d outcomes for %d lanes", len(out), len(batches))
	}
	for i, b := range batches {
		if o := out[i]; o.Done != len(b.Recs) || o.Class != lane.OK || o.Err != nil || o.Bytes <= 0 {
			t.Fatalf("lane %d: %+v", i, o)
		}
		var want []string
		for _, r := range b.Recs {
			want = append(want, string(r.Data))
		}
		if got := f.payloads(b.Lane); !slices.Equal(got, want) {
			t.Errorf("lane %d: %d records arrived, want %d in order", i, len(got), len(want))
		}
	}
	if p, ok := s.(uplink.Prober); ok {
		if err := p.Probe(t.Context()); err != nil {
			t.Errorf("Probe: %v", err)
		}
	}
	if out := s.Send(t.Context(), nil); len(out) != 0 {
		t.Errorf("a Send of nothing: %v", out)
	}
}

// Any bytes arrive as they are.
func contractPayloads(t *testing.T, s uplink.Sink, f *far) {
	payloads := []string{
		"", "21.5", `{"a":1}`, " {\"a\":1}", "{\"a\":\n1}", "\x00\xff\xfe", "plain", `"<&>"`, "null", "\xf3\x89\x9a\xc2 not an aggregate",
		strings.Repeat("x", f.largest), "after",
	}
	l := laneOf(1)
	b := batchOf(l, 1, len(payloads), func(i int) []byte { return []byte(payloads[i-1]) })
	b.Backlog = true
	if o := s.Send(t.Context(), []lane.Batch{b})[0]; o.Done != len(payloads) {
		t.Fatalf("%+v", o)
	}
	if got := f.payloads(l); !slices.Equal(got, payloads) {
		for i := range got {
			if i >= len(payloads) || got[i] != payloads[i] {
				t.Fatalf("payload %d: %.50q", i, got[i])
			}
		}
		t.Fatalf("%d arrived, want %d", len(got), len(payloads))
	}
}

// A record that is too large stops its lane with Poison, exactly there, and
// its lane only; the rest goes on behind it.
func contractPoison(t *testing.T, s uplink.Sink, f *far) {
	bad := batchOf(laneOf(1), 1, 10, func(i int) []byte {
		if i == 5 {
			return make([]byte, f.tooLarge)
		}
		return numbered(i)
	})
	good := batchOf(laneOf(2), 1, 10, numbered)
	out := s.Send(t.Context(), []lane.Batch{bad, good})
	if out[0].Done != 4 || out[0].Class != lane.Poison || out[0].Err == nil {
		t.Errorf("lane with a large record: %+v", out[0])
	}
	if out[1].Done != 10 {
		t.Errorf("the other lane: %+v", out[1])
	}
	bad.Recs = bad.Recs[5:]
	if o := s.Send(t.Context(), []lane.Batch{bad})[0]; o.Done != 5 {
		t.Errorf("behind it: %+v", o)
	}
	if n := len(f.payloads(bad.Lane)); n != 9 {
		t.Errorf("%d of 9 arrived", n)
	}
}

// Whatever happens, what is Done has arrived, in order, and sending the rest
// again delivers everything.
func contractFlaky(t *testing.T, s uplink.Sink, f *far) {
	f.flaky(true)
	const n = 300
	left := make([]lane.Batch, 4)
	for i := range left {
		left[i] = batchOf(laneOf(i+1), 1, n, numbered)
	}
	done := make([]int, len(left))
	for try := 0; ; try++ {
		if try == 400 {
			f.flaky(false)
		}
		if try > 400+n/40+1 {
			t.Fatalf("after %d tries: %v of %d", try, done, n)
		}
		var send []lane.Batch
		var which []int
		for i, b := range left {
			if len(b.Recs) > 0 {
				b.Recs = b.Recs[:min(len(b.Recs), 40)]
				send, which = append(send, b), append(which, i)
			}
		}
		if len(send) == 0 {
			break
		}
		for k, o := range s.Send(t.Context(), send) {
			if o.Done < 0 || o.Done > len(send[k].Recs) || (o.Done == len(send[k].Recs)) != (o.Class == lane.OK) || (o.Err == nil) != (o.Class == lane.OK) {
				t.Fatalf("outcome %+v of %d records", o, len(send[k].Recs))
			}
			if o.Class == lane.Poison {
				t.Fatalf("sound records are called poison: %v", o.Err)
			}
			i := which[k]
			done[i] += o.Done
			left[i].Recs = left[i].Recs[o.Done:]
		}
	}
	for i := range left {
		next := 1
		for _, p := range f.payloads(laneOf(i + 1)) {
			var k int
			if _, err := fmt.Sscanf(p, `{"n":%d}`, &k); err != nil || k > next {
				t.Fatalf("lane %d: %q before %d", i, p, next)
			}
			if k == next {
				next++
			}
		}
		if next != n+1 {
			t.Errorf("lane %d: %d of %d arrived", i, next-1, n)
		}
	}
}

func contractGone(t *testing.T, s uplink.Sink, f *far) {
	f.gone()
	o := s.Send(t.Context(), []lane.Batch{batchOf(laneOf(1), 1, 3, numbered)})[0]
	if o.Done != 0 || o.Class != lane.Offline || o.Err == nil {
		t.Errorf("%+v, want offline", o)
	}
	if p, ok := s.(uplink.Prober); ok {
		if err := p.Probe(t.Context()); err == nil {
			t.Error("Probe finds it")
		}
	}
}

func contractConcurrent(t *testing.T, s uplink.Sink, f *far) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for k := range 5 {
				b := batchOf(laneOf(i+1), 100*k+1, 100, numbered)
				if o := s.Send(t.Context(), []lane.Batch{b})[0]; o.Done != 100 {
					t.Errorf("%+v", o)
				}
			}
		})
	}
	wg.Wait()
	for i := range 4 {
		for k, p := range f.payloads(laneOf(i + 1)) {
			if p != string(numbered(k+1)) {
				t.Fatalf("lane %d: %s at place %d", i, p, k+1)
			}
		}
	}
}

func contractCancelled(t *testing.T, s uplink.Sink, _ *far) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if o := s.Send(ctx, []lane.Batch{batchOf(laneOf(1), 1, 3, numbered)})[0]; o.Done == 3 || o.Class == lane.OK {
		t.Errorf("%+v", o)
	}
}
