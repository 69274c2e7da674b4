// Package demo is what `make demo` runs: a gateway in a simulated plant, a
// second gateway as the cloud end of its uplink, a link between them that can
// be cut, and the operators' console or a status on the terminal.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"forebay/firmware-sim/factory"
	"forebay/firmware-sim/link"
	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
)

// Config of a demo.
type Config struct {
	Gateway  string        // program of the gateway
	Console  string        // program of the console; "" shows the status on the terminal only
	Dir      string        // everything that the demo writes is in it
	Script   bool          // run by itself, then verify
	Duration time.Duration // of a script (a third each: normal, cut, restored; 0 is 60 s); else stop by itself after so long (0 is never)
	Plant    *plant.Plant
	Ports    Ports
	Seed     uint64
	Devices  int // 0 is the plant's own number
	Out      io.Writer
}

// marker tells a demo's directory from any other: only such a directory is
// cleared.
const marker = ".forebay-demo"

// demo is a running demo.
type demo struct {
	cfg     Config
	dir     string // absolute
	far     *child
	near    *child
	console *child
	link    *link.Link
	factory *factory.Factory
	started time.Time

	stopFactory context.CancelFunc
	factoryEnd  chan struct{} // closed when the factory has ended and factoryErr is set
	factoryErr  error
	factoryOver bool
}

// Run runs the demo until ctx ends, its time is up, or an operator stops it.
// The code is 0, or in a script what verify found: 1 where something was lost
// or out of order, or where the alarm did not come.
func Run(ctx context.Context, cfg Config) (code int, err error) {
	d := &demo{cfg: cfg}
	if d.dir, err = filepath.Abs(cfg.Dir); err != nil {
		return 0, fmt.Errorf("demo: %w", err)
	}
	if err := prepare(d.dir); err != nil {
		return 0, err
	}
	if err := free(cfg.Ports); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.start(ctx); err != nil {
		if ctx.Err() != nil {
			return 0, nil // it was stopped while it started
		}
		return 0, err
	}
	if cfg.Script {
		return d.script(ctx)
	}
	return 0, d.watch(ctx)
}

// prepare makes the directory, and clears what an earlier demo left in it.
func prepare(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("demo: make its directory: %w", err)
		}
	case err != nil:
		return fmt.Errorf("demo: look at its directory: %w", err)
	case len(entries) > 0:
		if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
			return fmt.Errorf("demo: %s is not empty and not a demo's directory: give an empty or a new one with --dir", dir)
		}
	}
	for _, name := range []string{"near", "far", "serial", "ledger.jsonl", "near.toml", "far.toml", "near.log", "far.log", "console.log"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("demo: clear its directory: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, marker), []byte("made by forebay-sim demo, which clears this directory\n"), 0o644); err != nil {
		return fmt.Errorf("demo: mark its directory: %w", err)
	}
	return nil
}

// free checks every port before anything starts.
func free(p Ports) error {
	var taken []error
	for _, a := range []struct{ addr, what string }{
		{p.MQTT, "the gateway's MQTT broker"},
		{p.Kinesis, "the gateway's Kinesis endpoint"},
		{p.API, "the gateway's API"},
		{p.FarKinesis, "the far gateway's Kinesis endpoint"},
		{p.FarAPI, "the far gateway's API"},
		{p.Link, "the link"},
	} {
		lis, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", a.addr)
		if err == nil {
			err = lis.Close()
		}
		if err != nil {
			taken = append(taken, fmt.Errorf("%s is needed for %s: %w", a.addr, a.what, err))
		}
	}
	if len(taken) > 0 {
		return fmt.Errorf("demo: %w\nIs another demo, a gateway or a broker such as mosquitto running? Stop it and start again", errors.Join(taken...))
	}
	return nil
}

// start starts everything, far end first.
func (d *demo) start(ctx context.Context) error {
	p, serialDir := d.cfg.Ports, filepath.Join(d.dir, "serial")
	d.started = time.Now()
	for name, text := range map[string]string{
		"far.toml":  farConfig(d.dir, p),
		"near.toml": nearConfig(d.dir, serialDir, p, d.cfg.Plant),
	} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("demo: write %s: %w", name, err)
		}
	}
	var err error
	if d.far, err = d.gateway(ctx, "far", p.FarAPI); err != nil {
		return err
	}
	if d.link, err = link.Listen(p.Link, p.FarKinesis, nil); err != nil {
		return err
	}
	if d.near, err = d.gateway(ctx, "near", p.API); err != nil {
		return err
	}
	devices := d.cfg.Devices
	if devices == 0 {
		devices = len(d.cfg.Plant.Devices)
	}
	d.factory, err = factory.New(factory.Config{
		Plant: d.cfg.Plant, Devices: devices, MQTT: p.MQTT, API: "http://" + p.API, SerialDir: serialDir,
		Ledger: filepath.Join(d.dir, "ledger.jsonl"), Seed: d.cfg.Seed,
	})
	if err != nil {
		return err
	}
	fctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stopFactory, d.factoryEnd = stop, make(chan struct{})
	go func() {
		d.factoryErr = d.factory.Run(fctx)
		close(d.factoryEnd)
	}()
	return d.openConsole()
}

// gateway starts a gateway and waits until it serves. The child is returned
// even where it does not, so that it is stopped.
func (d *demo) gateway(ctx context.Context, name, api string) (*child, error) {
	file := func(ext string) string { return filepath.Join(d.dir, name+ext) }
	c, err := start("the "+name+" gateway", d.cfg.Gateway, file(".log"), "run", "--config", file(".toml"))
	if err != nil {
		return nil, err
	}
	return c, c.ready(ctx, "http://"+api+"/healthz")
}

// openConsole starts the window where there is a program and a display.
func (d *demo) openConsole() error {
	if d.cfg.Console == "" {
		return nil
	}
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" && needsDisplay {
		d.say("there is no display: the status is shown here instead of the console")
		return nil
	}
	var err error
	d.console, err = start("the console", d.cfg.Console, filepath.Join(d.dir, "console.log"), "--api", "http://"+d.cfg.Ports.API)
	return err
}

func (d *demo) say(format string, args ...any) {
	_, _ = fmt.Fprintf(d.cfg.Out, format+"\n", args...) // a terminal that is gone: nobody to tell
}

// check is an error where a part that the demo needs has ended.
func (d *demo) check() error {
	for _, c := range []*child{d.far, d.near} {
		if c != nil && c.ended() {
			return c.gone()
		}
	}
	select {
	case <-d.factoryEnd:
		if !d.factoryOver {
			return fmt.Errorf("the factory ended by itself: %w", d.factoryErr)
		}
	default:
	}
	return nil
}

// haltFactory stops the factory and waits for it.
func (d *demo) haltFactory() error {
	if d.factory == nil || d.factoryOver || d.stopFactory == nil {
		return nil
	}
	d.factoryOver = true
	d.stopFactory()
	<-d.factoryEnd
	return d.factoryErr
}

// stop ends everything that was started, in the order in which data flows.
func (d *demo) stop() error {
	var errs []error
	if d.console != nil && !d.console.ended() {
		errs = append(errs, d.console.stop())
	}
	errs = append(errs, d.haltFactory(), d.near.stop())
	if d.link != nil {
		errs = append(errs, d.link.Close())
	}
	errs = append(errs, d.far.stop())
	http.DefaultClient.CloseIdleConnections()
	return errors.Join(errs...)
}

// overheat ramps the plant's first press, which raises its alarm.
func (d *demo) overheat(span time.Duration) (point string, err error) {
	dev, pt := hotPoint(d.cfg.Plant)
	if pt.Limit == nil {
		return "", errors.New("no point of the plant has a limit")
	}
	point = dev.ID + "/" + pt.Name
	over := *pt.Limit - pt.Signal.Base + 0.2*(pt.High-pt.Low)
	return point, d.factory.Inject(signals.Fault{Kind: signals.Ramp, Point: point, For: span, By: over})
}

// hotPoint is the first point with a limit.
func hotPoint(p *plant.Plant) (plant.Device, plant.Point) {
	for _, d := range p.Devices {
		for _, pt := range d.Points {
			if pt.Limit != nil {
				return d, pt
			}
		}
	}
	return plant.Device{}, plant.Point{}
}
