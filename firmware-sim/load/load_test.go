package load_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/firmware-sim/load"
	"forebay/firmware-sim/mqtt"
)

// responder acknowledges everything. keep says that it looks at what came.
type responder struct {
	t    testing.TB
	lis  net.Listener
	wg   sync.WaitGroup
	keep bool
	mute int    // stops acknowledging after so many, 0 never
	id   uint16 // if not 0, the id of every acknowledgement

	mu   sync.Mutex
	got  map[string][]uint64
	pads map[string]bool // if not nil, what payloads were filled with
}

func newResponder(t testing.TB) *responder {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &responder{t: t, lis: lis, got: map[string][]uint64{}}
	return r
}

func (r *responder) start() {
	r.wg.Go(func() {
		for {
			c, err := r.lis.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.serve(c) })
		}
	})
	r.t.Cleanup(func() {
		if err := r.lis.Close(); err != nil {
			r.t.Error(err)
		}
		r.wg.Wait()
	})
}

func (r *responder) serve(c net.Conn) {
	defer c.Close()
	in, have, acked := make([]byte, 256<<10), 0, 0
	var out []byte
	for {
		n, err := c.Read(in[have:])
		if err != nil {
			return
		}
		have += n
		at := 0
		out = out[:0]
		for {
			p, n, err := mqtt.Decode(in[at:have], 1<<21)
			if err != nil {
				r.t.Error(err)
				return
			}
			if n == 0 {
				break
			}
			at += n
			switch p.Type {
			case mqtt.Connect:
				out = mqtt.AppendConnack(out, false, 0)
			case mqtt.Publish:
				if r.keep {
					r.take(p)
				}
				if acked++; r.mute > 0 && acked > r.mute {
					continue
				}
				id := p.ID
				if r.id != 0 {
					id = r.id
				}
				out = mqtt.AppendAck(out, mqtt.Puback, id)
			}
		}
		have = copy(in, in[at:have])
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

func (r *responder) take(p mqtt.Packet) {
	var m struct {
		Device string
		Seq    uint64
		Pad    string
	}
	if err := json.Unmarshal(p.Payload, &m); err != nil || len(p.Payload) != 100 || p.QoS != 1 {
		r.t.Errorf("payload %s: %v", p.Payload, err)
	}
	if !strings.HasPrefix(string(p.Topic), "bench/") || !strings.HasSuffix(m.Device, strings.TrimPrefix(string(p.Topic), "bench/")) {
		r.t.Errorf("%s publishes to %s", m.Device, p.Topic)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got[m.Device] = append(r.got[m.Device], m.Seq)
	if r.pads != nil {
		r.pads[m.Pad] = true
	}
}

func config(r *responder, count int) load.Config {
	return load.Config{Addr: r.lis.Addr().String(), Publishers: 8, Window: 100, Count: count, Size: 100, Topic: "bench"}
}

func TestEveryMessageOnce(t *testing.T) {
	r := newResponder(t)
	r.keep = true
	r.start()
	const count = 20_003
	res, err := load.Run(t.Context(), config(r, count))
	if err != nil {
		t.Fatal(err)
	}
	if res.Messages != count || res.PerSecond <= 0 || res.P50 <= 0 || res.P50 > res.P99 || res.P99 > res.Max {
		t.Errorf("%+v", res)
	}
	total := 0
	r.mu.Lock()
	defer r.mu.Unlock()
	for device, seqs := range r.got {
		total += len(seqs)
		for i, s := range seqs {
			if s != uint64(i) {
				t.Fatalf("%s: number %d at place %d", device, s, i)
			}
		}
	}
	if total != count || len(r.got) != 8 {
		t.Errorf("%d messages of %d devices", total, len(r.got))
	}
}

// Payloads filled by chance are JSON of the same size, and no two are alike.
func TestRandomPayloads(t *testing.T) {
	r := newResponder(t)
	r.keep, r.pads = true, map[string]bool{}
	r.start()
	c := config(r, 2000)
	c.Random = true
	if _, err := load.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pads) != 2000 {
		t.Errorf("%d kinds of payload", len(r.pads))
	}
}

func TestFailures(t *testing.T) {
	silent := newResponder(t)
	silent.mute = 10
	silent.start()
	c := config(silent, 10_000)
	c.Stall = 50 * time.Millisecond
	if _, err := load.Run(t.Context(), c); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a broker that stops acknowledging: %v", err)
	}
	wrong := newResponder(t)
	wrong.id = 101
	wrong.start()
	if _, err := load.Run(t.Context(), config(wrong, 1000)); err == nil || !strings.Contains(err.Error(), "not in flight") {
		t.Errorf("a broker that acknowledges what was not sent: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := load.Run(ctx, config(wrong, 1000)); err == nil {
		t.Error("a cancelled run passed")
	}
	for name, c := range map[string]load.Config{
		"no publishers": {Window: 1, Count: 1, Size: 100, Topic: "t"},
		"small":         {Publishers: 1, Window: 1, Count: 1, Size: 10, Topic: "t"},
		"wide":          {Publishers: 1, Window: 70000, Count: 1, Size: 100, Topic: "t"},
	} {
		if _, err := load.Run(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func BenchmarkGenerator(b *testing.B) {
	r := newResponder(b)
	r.start()
	res, err := load.Run(b.Context(), config(r, max(b.N, 8)))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(res.PerSecond, "msgs/s")
}
