package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"forebay/firmware-sim/demo"
	"forebay/firmware-sim/factory"
	"forebay/firmware-sim/link"
	"forebay/firmware-sim/load"
	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
	"forebay/firmware-sim/witness"
)

type runCmd struct {
	Plant    string        `help:"Plant file (TOML), or builtin." default:"builtin" placeholder:"FILE"`
	MQTT     string        `help:"Address of the MQTT broker, host:port; none leaves the MQTT devices out." default:"127.0.0.1:1883" placeholder:"ADDR"`
	Username string        `help:"MQTT user." env:"FOREBAY_SIM_USERNAME"`
	Password string        `help:"MQTT password." env:"FOREBAY_SIM_PASSWORD"`
	API      string        `help:"Gateway's API, to which cameras push; without it there are none." placeholder:"URL"`
	Token    string        `help:"Token of the API." env:"FOREBAY_TOKEN"`
	Serial   string        `help:"Directory for the serial ports, one symlink each (DIR/scale1); without it there are none." placeholder:"DIR"`
	Ledger   string        `help:"File in which the factory writes down what was acknowledged and which faults it injected. One that exists is continued." required:"" placeholder:"FILE"`
	Duration time.Duration `help:"How long to measure; 0 is until SIGTERM or Ctrl-C." default:"0s"`
	Seed     uint64        `help:"Seed of the signals." default:"1"`
	Devices  int           `help:"MQTT devices; beyond the plant's table, further copies of it." default:"20"`
	Rate     float64       `help:"Readings per second of every point; 0 is the plant's own." placeholder:"HZ"`
	QoS      string        `name:"qos" help:"0, 1, 2, or mix: each device as the plant says." enum:"0,1,2,mix" default:"mix"`
	Fault    []string      `help:"Inject a fault: KIND:DEVICE/POINT@AT+FOR[=BY], for example ramp:press1/temperature@20s+20s=40. Kinds: ramp, stuck, spike, dropout, duplicate; unplug for a serial device (unplug:scale1/port@10s+3s). Can be repeated." sep:"none" placeholder:"FAULT"`
	Grace    time.Duration `help:"How long to wait at the end for acknowledgements under way." default:"5s"`
}

func (c runCmd) Run(ctx context.Context, e *env) error {
	p, err := plant.Load(c.Plant)
	if err != nil {
		return err
	}
	if c.Devices < 0 || c.Rate < 0 || c.Rate > 100_000 {
		return errors.New("--devices must not be negative, and --rate must lie between 0 and 100000")
	}
	cfg := factory.Config{
		Plant: p, Devices: c.Devices, MQTT: c.MQTT, Username: c.Username, Password: c.Password, API: strings.TrimRight(c.API, "/"),
		Token: c.Token, SerialDir: c.Serial, Ledger: c.Ledger, Seed: c.Seed, Rate: c.Rate, QoS: c.QoS, Grace: c.Grace, Log: e.log,
	}
	if c.MQTT == "none" {
		cfg.MQTT = ""
	}
	for _, s := range c.Fault {
		f, err := signals.ParseFault(s)
		if err != nil {
			return err
		}
		cfg.Faults = append(cfg.Faults, f)
	}
	f, err := factory.New(cfg)
	if err != nil {
		return err
	}
	if c.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Duration)
		defer cancel()
	}
	if err := f.Run(ctx); err != nil {
		return err
	}
	s := f.Stats()
	_, err = fmt.Fprintf(e.out, "mqtt: %d measured, %d acknowledged, %d sent at QoS 0, %d waiting, %d dropped, %d connections; serial: %d lines, %d acknowledged; cameras: %d pushes acknowledged\n",
		s.Fleet.Produced, s.Fleet.Acked, s.Fleet.Sent, s.Fleet.Waiting, s.Fleet.Dropped, s.Fleet.Connects, s.Serial, s.SerialAck, s.Chunks)
	return err
}

type verifyCmd struct {
	Ledger       string        `help:"The factory's ledger." required:"" placeholder:"FILE"`
	Endpoint     string        `help:"The far end's Kinesis endpoint." required:"" placeholder:"URL"`
	Stream       []string      `help:"Streams to read; all that the ledger's records may be in." required:"" placeholder:"NAME"`
	Region       string        `help:"AWS region." default:"us-east-1" env:"AWS_REGION"`
	AccessKey    string        `help:"Access key; any will do where the far end has none." env:"AWS_ACCESS_KEY_ID"`
	SecretKey    string        `help:"Secret key." env:"AWS_SECRET_ACCESS_KEY"`
	SessionToken string        `help:"Session token." env:"AWS_SESSION_TOKEN"`
	Wait         time.Duration `help:"Poll until everything acknowledged is there, at most so long." default:"60s"`
	JSON         bool          `name:"json" help:"Print the report as JSON."`
}

func (c verifyCmd) Run(ctx context.Context, e *env) error {
	r, err := witness.Verify(ctx, witness.Options{
		Ledger: c.Ledger, Endpoint: c.Endpoint, Region: c.Region, Streams: c.Stream, Wait: c.Wait,
		AccessKey: c.AccessKey, SecretKey: c.SecretKey, SessionToken: c.SessionToken,
	})
	if err != nil {
		return err
	}
	if c.JSON {
		enc := json.NewEncoder(e.out)
		enc.SetIndent("", "  ")
		err = enc.Encode(r)
	} else {
		err = r.Write(e.out)
	}
	if err == nil && !r.OK() {
		err = exitCode(exitLost)
	}
	return err
}

type linkCmd struct {
	Listen  string `help:"Address of the near end." required:"" placeholder:"ADDR"`
	To      string `help:"Address of the far end." required:"" placeholder:"ADDR"`
	Control string `help:"Address of the control: POST /cut, /slow?bps=N&delay=D, /half-open, /up; GET / for the state. host:port, or unix:PATH." placeholder:"ADDR"`
}

func (c linkCmd) Run(ctx context.Context, e *env) error {
	l, err := link.Listen(c.Listen, c.To, e.log)
	if err != nil {
		return err
	}
	if c.Control == "" {
		return l.Run(ctx)
	}
	network, addr := "tcp", c.Control
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, l.Close())
		}
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, network, addr)
	if err != nil {
		return errors.Join(fmt.Errorf("link control: %w", err), l.Close())
	}
	srv := &http.Server{Handler: l.Control(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	select {
	case <-ctx.Done():
		err = srv.Close()
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
	case err = <-served:
	}
	return errors.Join(err, l.Close())
}

type benchCmd struct {
	MQTT    benchMQTTCmd    `cmd:"" name:"mqtt" help:"Rate and latency from QoS 1 PUBLISH to PUBACK."`
	Kinesis benchKinesisCmd `cmd:"" name:"kinesis" help:"Rates and latencies of a Kinesis endpoint."`
}

type benchMQTTCmd struct {
	Addr       string `help:"Address of the broker." default:"127.0.0.1:1883"`
	Publishers int    `help:"Connections." default:"8"`
	Window     int    `help:"Messages in flight on each." default:"100"`
	Count      int    `help:"Messages in all." default:"1000000"`
	Size       int    `help:"Bytes of a payload." default:"100"`
	Topic      string `help:"Topic; publisher N publishes to TOPIC/N." default:"bench"`
	Fill       string `help:"What fills a payload up: x, or random letters, which do not compress." enum:"x,random" default:"x"`
	Username   string `help:"MQTT user." env:"FOREBAY_SIM_USERNAME"`
	Password   string `help:"MQTT password." env:"FOREBAY_SIM_PASSWORD"`
	JSON       bool   `name:"json" help:"Print the result as JSON."`
}

func (c benchMQTTCmd) Run(ctx context.Context, e *env) error {
	r, err := load.Run(ctx, load.Config{
		Addr: c.Addr, Publishers: c.Publishers, Window: c.Window, Count: c.Count, Size: c.Size, Topic: c.Topic, Random: c.Fill == "random",
		Username: c.Username, Password: c.Password,
	})
	if err != nil {
		return fmt.Errorf("bench mqtt: %w", err)
	}
	if c.JSON {
		return json.NewEncoder(e.out).Encode(r)
	}
	_, err = fmt.Fprintf(e.out, "%.0f messages/s (%d of %d bytes in %.2f s, %d publishers x window %d); PUBACK after p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, at most %.2f ms\n",
		r.PerSecond, r.Messages, r.Size, r.Seconds, r.Publishers, r.Window, r.P50, r.P90, r.P99, r.Max)
	return err
}

type demoCmd struct {
	Script   bool          `help:"Run by itself: normal, link cut with an alarm, restored, drained; then verify, whose code it ends with."`
	Gateway  string        `help:"The gateway's program; default forebay beside this program, else in PATH." placeholder:"BIN"`
	Console  string        `help:"The console's program; without it, or without a display, the status is shown on the terminal." placeholder:"BIN"`
	Dir      string        `help:"Directory for everything that the demo writes; an earlier demo's is cleared." default:"forebay-demo" placeholder:"DIR"`
	Duration time.Duration `help:"Of a script, a third each normal, cut and restored (default 60s); else stop by itself after so long." default:"0s"`
	Plant    string        `help:"Plant file (TOML), or builtin." default:"builtin" placeholder:"FILE"`
	Seed     uint64        `help:"Seed of the signals." default:"1"`
}

func (c demoCmd) Run(ctx context.Context, e *env) error {
	p, err := plant.Load(c.Plant)
	if err != nil {
		return err
	}
	gateway, err := program(c.Gateway, "forebay")
	if err != nil {
		return err
	}
	console := c.Console
	if console != "" {
		if console, err = program(console, ""); err != nil {
			return err
		}
	}
	code, err := demo.Run(ctx, demo.Config{
		Gateway: gateway, Console: console, Dir: c.Dir, Script: c.Script, Duration: c.Duration, Plant: p,
		Ports: demo.DefaultPorts(), Seed: c.Seed, Out: e.out,
	})
	if err != nil {
		return err
	}
	if code != exitOK {
		return exitCode(code)
	}
	return nil
}

// program finds a program: the one given, or one of a name beside ours, or in
// PATH.
func program(given, name string) (string, error) {
	if given != "" {
		path, err := exec.LookPath(given)
		if err != nil {
			return "", fmt.Errorf("the program %s: %w", given, err)
		}
		return filepath.Abs(path)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if runtime.GOOS == "windows" {
			beside += ".exe"
		}
		if _, err := os.Stat(beside); err == nil {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("the program %s is not beside this one and not in PATH: build it (make build), or give it with --gateway", name)
	}
	return filepath.Abs(path)
}
