package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"forebay/gateway/internal/config"
	"forebay/gateway/internal/powertest"
	"forebay/gateway/internal/proof"
)

type proveCmd struct {
	Config  string        `help:"Config file of the gateway." required:"" type:"path" placeholder:"FILE"`
	Target  string        `help:"The uplink to test, by its id." required:"" placeholder:"UPLINK"`
	Out     string        `help:"Directory for the report; made where it is not there." default:"." type:"path" placeholder:"DIR"`
	Data    string        `help:"Directory, on the disk to be tested, below which the test keeps its data. Default: the data directory of the config." type:"path" placeholder:"DIR"`
	Keep    bool          `help:"Keep the test's data. It is removed otherwise, unless the test failed."`
	Minutes float64       `help:"How long records are written, in minutes; draining comes on top." default:"2"`
	Records uint64        `help:"How many records are written at most, evenly over the time." default:"60000"`
	Drain   time.Duration `help:"How long to wait at most until everything is delivered." default:"15m"`
	ByHand  bool          `help:"Do not cut the link here; ask for the cable to be pulled."`
	Far     string        `name:"far-stream" help:"Use this stream, topic or prefix at the target, kept for tests, instead of creating one." placeholder:"NAME"`
	Quick   bool          `help:"Measure the disk for three seconds instead of ten."`
	JSON    bool          `help:"Print the report as JSON too."`
}

// Help is printed below the flags.
func (proveCmd) Help() string {
	return "It works in a directory of its own and with streams of its own, whose names begin with prove-. " +
		"Exit codes: 0 passed; 1 failed; 2 it could not be done. See docs/verify.md."
}

const (
	maxProveMinutes = 24 * 60
	maxProveRecords = 5_000_000
)

func (c proveCmd) Run(ctx context.Context, e *env) error {
	switch {
	case !(c.Minutes >= 0.05 && c.Minutes <= maxProveMinutes):
		return notDone(fmt.Errorf("%w: --minutes is not between 0.05 and %d", errUsage, maxProveMinutes))
	case c.Records < 100 || c.Records > maxProveRecords:
		return notDone(fmt.Errorf("%w: --records is not between 100 and %d", errUsage, maxProveRecords))
	case c.Drain <= 0:
		return notDone(fmt.Errorf("%w: --drain is above 0", errUsage))
	}
	rep, err := c.prove(ctx, e)
	if err != nil {
		return notDone(err)
	}
	text, sum, err := rep.JSON()
	if err == nil {
		if err = c.write(rep, text, sum); err != nil && !c.JSON { // at least it is to be seen
			c.print(e.out, rep, sum)
		}
	}
	if err != nil {
		return notDone(err)
	}
	if c.JSON {
		if _, err := e.out.Write(text); err != nil {
			return notDone(err)
		}
	} else {
		c.print(e.out, rep, sum)
	}
	if rep.Result == proof.Failed {
		return &endError{exitGap, nil}
	}
	return nil
}

// write writes the two files of a report.
func (c proveCmd) write(rep *proof.Report, text []byte, sum string) error {
	if err := os.WriteFile(filepath.Join(c.Out, rep.Name+".json"), text, 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	f, err := os.Create(filepath.Join(c.Out, rep.Name+".html"))
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := errors.Join(rep.HTML(f, sum), f.Close()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (c proveCmd) print(w io.Writer, r *proof.Report, sum string) {
	f := r.Figures
	fmt.Fprintf(w, "%s\n", r.Result)
	for _, why := range r.Why {
		fmt.Fprintf(w, "  %s\n", why)
	}
	fmt.Fprintf(w, "%d records acknowledged, %d lost in the log, %d lost at the target; %d twice at the target; half acknowledged within %.2f ms, 99 %% within %.2f ms\n",
		f.Acknowledged, f.LostHere, f.LostThere, f.TwiceThere, f.AckP50, f.AckP99)
	drained := "drained"
	if !f.Drained {
		drained = "had not drained"
	}
	fmt.Fprintf(w, "%d kills; %.1f s without a link, and its backlog %s %.2f s after the link's return\n", f.Kills, f.CutFor, drained, f.Drain)
	if k := f.DrainKill; k != nil && k.Shown {
		fmt.Fprintf(w, "killed while the backlog drained: %d waited when the link came back, %d delivered and %d waiting at the kill, %d delivered after it\n", k.Waited, k.Before, k.Waiting, k.Rest)
	}
	fmt.Fprintf(w, "left at the target: %s\n", r.Left)
	if r.Kept != "" {
		fmt.Fprintf(w, "data of the test: %s\n", r.Kept)
	}
	fmt.Fprintf(w, "report: %s and .json, SHA-256 %s\n", filepath.Join(c.Out, r.Name+".html"), sum)
}

// prove runs the test.
func (c proveCmd) prove(ctx context.Context, e *env) (rep *proof.Report, err error) {
	cfg, err := loadConfig(c.Config)
	if err != nil {
		return nil, err
	}
	up, err := uplinkNamed(cfg, c.Target)
	if err != nil {
		return nil, err
	}
	digest, err := digestOf(cfg)
	if err != nil {
		return nil, err
	}
	if err := reportDir(c.Out); err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "a host without a name"
	}
	rep = &proof.Report{
		Format: 1, Name: "prove-" + time.Now().UTC().Format("20060102-150405"), Began: time.Now().UTC(), Version: version, System: runtime.GOOS + "/" + runtime.GOARCH,
		Host: host, Gateway: string(cfg.Gateway.Name), Config: digest, Uplink: string(up.ID), Kind: up.Kind(), Target: up.Target(), Why: []string{}, Events: []proof.Event{},
	}
	base := c.Data
	if base == "" {
		base = cfg.Gateway.Data // the disk that counts is the one that the spool is on
	}
	place, err := newTestPlace(base, rep.Name)
	if err != nil {
		return nil, err
	}
	dir := place.dir
	defer func() {
		kept := c.Keep || rep != nil && rep.Kept != ""
		err = errors.Join(err, place.remove(kept, filepath.Join(dir, testConfig)))
	}()
	sockets, err := os.MkdirTemp("", "forebay-") // a socket's path is short
	if err != nil {
		return nil, fmt.Errorf("make a directory for the test: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(sockets)) }()
	setup, err := setUp(ctx, c.Config, dir, sockets, rep.Name, c.Far, c.ByHand, up)
	if err != nil {
		return nil, err
	}
	if setup.link != nil {
		defer func() { err = errors.Join(err, setup.link.close()) }()
	}
	rep.Left, rep.FarStream = setup.left, c.Far

	fmt.Fprintf(e.err, "measuring the disk of %s\n", dir)
	opt := powertest.Options{Dir: dir}
	if c.Quick {
		opt.Slice, opt.Sync, opt.Sustain, opt.Bytes = 200*time.Millisecond, time.Second, time.Second, 64<<20
	}
	if rep.Disk, err = powertest.Measure(ctx, opt); err != nil {
		return nil, err
	}
	rep.Disk.Dir = filepath.Dir(rep.Disk.Dir) // the test's own goes
	rep.Findings = powertest.JudgeForReport(rep.Disk)
	p := &prover{cmd: c, say: e.err, setup: setup, rep: rep}
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	rep.Ended = time.Now().UTC()
	rep.Judge()
	if c.Keep || rep.Result == proof.Failed {
		rep.Kept = filepath.Join(dir, "data")
	}
	return rep, nil
}

// digestOf is the SHA-256 of a config as `config print` shows it.
func digestOf(cfg config.Config) (string, error) {
	text, err := cfg.Print()
	if err != nil {
		return "", fmt.Errorf("print the config: %w", err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(text)), nil
}
