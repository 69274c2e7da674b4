package factory_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/firmware-sim/factory"
	"forebay/firmware-sim/ledger"
	"forebay/firmware-sim/mqtt"
	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
)

// broker acknowledges everything.
type broker struct {
	lis net.Listener
	wg  sync.WaitGroup
	n   atomic.Int64
}

func newBroker(t *testing.T) *broker {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{lis: lis}
	b.wg.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.serve(c) })
		}
	})
	return b
}

func (b *broker) serve(c net.Conn) {
	defer c.Close()
	var in []byte
	chunk := make([]byte, 4096)
	for {
		p, n, err := mqtt.Decode(in, 1<<20)
		if err != nil {
			return
		}
		if n == 0 {
			k, err := c.Read(chunk)
			if err != nil {
				return
			}
			in = append(in, chunk[:k]...)
			continue
		}
		in = in[n:]
		var out []byte
		switch {
		case p.Type == mqtt.Connect:
			out = mqtt.AppendConnack(nil, false, 0)
		case p.Type == mqtt.Publish && p.QoS == 1:
			out = mqtt.AppendAck(nil, mqtt.Puback, p.ID)
		case p.Type == mqtt.Publish && p.QoS == 2:
			out = mqtt.AppendAck(nil, mqtt.Pubrec, p.ID)
		case p.Type == mqtt.Pubrel:
			out = mqtt.AppendAck(nil, mqtt.Pubcomp, p.ID)
		}
		if p.Type == mqtt.Publish {
			b.n.Add(1)
		}
		if len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("did not happen: %s", what)
		}
		runtime.Gosched()
	}
}

// TestWholeFloor runs fleet, instruments and camera against stand-ins, and
// reads the ledger back.
func TestWholeFloor(t *testing.T) {
	before := runtime.NumGoroutine()
	b := newBroker(t)
	var pushes atomic.Int64
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil || !strings.HasPrefix(r.URL.Path, "/video/cam1/") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		pushes.Add(1)
		w.WriteHeader(http.StatusCreated)
	}))
	p, err := plant.Load("builtin")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	f, err := factory.New(factory.Config{
		Plant: p, Devices: 20, MQTT: b.lis.Addr().String(), API: api.URL, Ledger: path, Seed: 1, Rate: 50, QoS: "mix",
		Faults: []signals.Fault{{Kind: signals.Ramp, Point: "press1/temperature", At: 100 * time.Millisecond, For: time.Second, By: 40}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	eventually(t, "messages and pictures are acknowledged", func() bool {
		s := f.Stats()
		return s.Fleet.Acked > 500 && s.Fleet.Sent > 10 && s.Chunks > 1 && s.Fleet.Connected == 20
	})
	if err := f.Inject(signals.Fault{Kind: signals.Stuck, Point: "coolant/flow", For: time.Second}); err != nil {
		t.Error(err)
	}
	if err := f.Inject(signals.Fault{Kind: signals.Stuck, Point: "nobody/flow", For: time.Second}); err == nil {
		t.Error("a fault for nobody was taken")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := b.lis.Close(); err != nil {
		t.Fatal(err)
	}
	b.wg.Wait()
	api.Close()
	eventually(t, "every goroutine ends", func() bool { return runtime.NumGoroutine() <= before })

	s := f.Stats()
	acks := map[string]int{}
	last := ""
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := ledger.Read(file, func(e ledger.Event) error {
		last = e.Event
		acks[e.Event+" "+e.Kind]++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if acks["ack mqtt"] != int(s.Fleet.Acked) || acks["sent mqtt"] != int(s.Fleet.Sent) || acks["ack camera"] != int(s.Chunks) || acks["fault ramp"] != 1 {
		t.Errorf("the ledger holds %v, the factory counts %+v", acks, s)
	}
	if n := b.n.Load(); n != int64(s.Fleet.Acked+s.Fleet.Sent) {
		t.Errorf("the broker saw %d messages, the factory counts %+v", n, s.Fleet)
	}
	if last != ledger.End || s.Fleet.Waiting != 0 {
		t.Errorf("last event %q, %d waiting", last, s.Fleet.Waiting)
	}
}

func TestBadConfig(t *testing.T) {
	p, err := plant.Load("builtin")
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]factory.Config{
		"qos":    {Plant: p, QoS: "3", MQTT: "x"},
		"fault":  {Plant: p, MQTT: "x", Devices: 1, Faults: []signals.Fault{{Kind: signals.Stuck, Point: "motor3/vibration"}}},
		"ledger": {Plant: p, Ledger: filepath.Join(t.TempDir(), "no", "where")},
	} {
		if cfg.Ledger == "" {
			cfg.Ledger = filepath.Join(t.TempDir(), "l")
		}
		if _, err := factory.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
