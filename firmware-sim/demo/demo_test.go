package demo_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"forebay/firmware-sim/demo"
	"forebay/firmware-sim/plant"
)

// TestMain lets the test's own program stand in for a gateway: the demo
// starts it as `PROGRAM run --config FILE`.
func TestMain(m *testing.M) {
	if order := os.Getenv("FOREBAY_SIM_STAND_IN"); order != "" {
		os.Exit(standIn(order, os.Args[len(os.Args)-1]))
	}
	os.Exit(m.Run())
}

// standIn serves what the demo asks a gateway for, until SIGTERM, and writes
// down when it came and went.
func standIn(order, config string) int {
	b, err := os.ReadFile(config)
	if err != nil {
		return 1
	}
	var c struct {
		Gateway struct{ Name string }
		API     struct{ Listen string }
	}
	if err := toml.Unmarshal(b, &c); err != nil {
		return 1
	}
	if os.Getenv("FOREBAY_SIM_STAND_IN_FAILS") == c.Gateway.Name {
		fmt.Fprintln(os.Stderr, "the stand-in fails as it was told")
		return 7
	}
	note := func(what string) {
		f, err := os.OpenFile(order, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			fmt.Fprintln(f, c.Gateway.Name, what)
			err = f.Close()
		}
		if err != nil {
			os.Exit(3)
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	mux := http.NewServeMux()
	answer := func(path string, v any) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) })
	}
	answer("/healthz", "ok")
	answer("/v1/status", map[string]any{"gateway": c.Gateway.Name, "title": "Press shop"})
	answer("/v1/uplinks", []any{map[string]any{"id": "site", "state": "up"}})
	answer("/v1/alarms", []any{})
	answer("/v1/points", []any{})
	lis, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", c.API.Listen)
	if err != nil {
		return 1
	}
	go func() { _ = http.Serve(lis, mux) }() // ends with the program
	note("up")
	<-stop
	note("down")
	return 0
}

func freePorts(t *testing.T) demo.Ports {
	t.Helper()
	var held []net.Listener
	next := func() string {
		lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, lis)
		return lis.Addr().String()
	}
	p := demo.Ports{MQTT: next(), Kinesis: next(), API: next(), FarKinesis: next(), FarAPI: next(), Link: next()}
	for _, lis := range held {
		if err := lis.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// text is an output that is read while it is written.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (x *text) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(b)
}

func (x *text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.String()
}

func setUp(t *testing.T) (cfg demo.Config, order string, out *text) {
	t.Helper()
	p, err := plant.Load("builtin")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	order, out = filepath.Join(dir, "order"), &text{}
	t.Setenv("FOREBAY_SIM_STAND_IN", order)
	return demo.Config{Gateway: self, Dir: filepath.Join(dir, "demo"), Plant: p, Ports: freePorts(t), Seed: 1, Out: out}, order, out
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

func TestStartsAndStopsInOrder(t *testing.T) {
	before := runtime.NumGoroutine()
	cfg, order, _ := setUp(t)
	for range 2 { // the second finds what the first left, and clears it
		out := &text{}
		cfg.Out = out
		if err := os.RemoveAll(order); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := demo.Run(ctx, cfg)
			ended <- err
		}()
		eventually(t, "the status is shown", func() bool { return strings.Contains(out.String(), "in 0.0 records/s, backlog 0, alarms 0, link up") })
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(order)
		if err != nil {
			t.Fatal(err)
		}
		if want := "site up\nedge-07 up\nedge-07 down\nsite down\n"; string(b) != want {
			t.Errorf("order:\n%swant:\n%s", b, want)
		}
	}
	eventually(t, "every goroutine ends", func() bool { return runtime.NumGoroutine() <= before })
	for _, name := range []string{"near.toml", "far.toml", "near.log", "far.log", "ledger.jsonl"} {
		if _, err := os.Stat(filepath.Join(cfg.Dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestAGatewayThatDoesNotStart(t *testing.T) {
	for _, name := range []string{"site", "edge-07"} {
		cfg, order, _ := setUp(t)
		t.Setenv("FOREBAY_SIM_STAND_IN_FAILS", name)
		_, err := demo.Run(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), "ended by itself") || !strings.Contains(err.Error(), "fails as it was told") {
			t.Errorf("%s: %v", name, err)
		}
		if b, _ := os.ReadFile(order); name == "edge-07" && string(b) != "site up\nsite down\n" {
			t.Errorf("the far gateway was left alone: %q", b)
		}
	}
}

func TestTakenPort(t *testing.T) {
	cfg, order, _ := setUp(t)
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", cfg.Ports.MQTT)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	_, err = demo.Run(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), cfg.Ports.MQTT+" is needed for the gateway's MQTT broker") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(order); err == nil {
		t.Error("something was started")
	}
}

func TestSomebodyElsesDirectory(t *testing.T) {
	cfg, _, _ := setUp(t)
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "near"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := demo.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "not a demo's directory") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "near")); err != nil {
		t.Error("it was cleared all the same")
	}
}

// TestConfigs reads the generated files back.
func TestConfigs(t *testing.T) {
	cfg, _, out := setUp(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := demo.Run(ctx, cfg)
		ended <- err
	}()
	eventually(t, "it runs", func() bool { return strings.Contains(out.String(), "link up") })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(cfg.Dir, "near.toml"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Gateway struct{ Name, Title, Data string }
		Uplink  []struct {
			Streams []string
			Kinesis struct{ Endpoint, Stream string }
		}
		Serial []struct{ ID, Port, Query, Interval string }
		Camera []struct{ ID, Label string }
		Rule   []struct{ ID, When, Match, Severity string }
		Point  []struct {
			ID, Key, Label string
			NormalLow      *float64 `toml:"normal_low"`
			Limit          *float64
		}
	}
	if err := toml.Unmarshal(b, &c); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if c.Gateway.Name != "edge-07" || c.Gateway.Title != "Press shop" || !filepath.IsAbs(c.Gateway.Data) {
		t.Errorf("%+v", c.Gateway)
	}
	if len(c.Uplink) != 1 || c.Uplink[0].Kinesis.Endpoint != "http://"+cfg.Ports.Link || len(c.Uplink[0].Streams) != 4 {
		t.Errorf("%+v", c.Uplink)
	}
	if len(c.Serial) != 2 || c.Serial[0].Query != "READ\r\n" || c.Serial[1].Query != "" || filepath.Base(c.Serial[0].Port) != "scale1" {
		t.Errorf("%+v", c.Serial)
	}
	if len(c.Rule) != 2 || len(c.Point) != 8 || len(c.Camera) != 1 || c.Rule[0].Severity != "1" {
		t.Errorf("%+v %+v %+v", c.Rule, c.Point, c.Camera)
	}
	for _, p := range c.Point {
		if p.NormalLow == nil || strings.Count(p.Key, "/") != 4 || p.Label == "" {
			t.Errorf("%+v", p)
		}
	}
}
