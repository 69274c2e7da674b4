package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/proof"
	"forebay/spool"
	"forebay/spool/record"
)

// startWithin is how long the gateway under test may take to serve.
const startWithin = 2 * time.Minute

// A prover runs an acceptance test: it is the producer, the hand that kills,
// and the hand that cuts.
type prover struct {
	cmd   proveCmd
	say   io.Writer // what is under way, for the operator
	setup *proofSetup
	rep   *proof.Report

	client *api.Client
	child  *testedGateway
	feed   *feeder

	cutAt  time.Time // when the link was cut
	killed uint64    // records that had been delivered at the kill in the drain
}

// event notes what was done.
func (p *prover) event(format string, args ...any) {
	ev := proof.Event{At: time.Now().UTC(), What: fmt.Sprintf(format, args...)}
	p.rep.Events = append(p.rep.Events, ev)
	fmt.Fprintf(p.say, "%s  %s\n", ev.At.Local().Format(time.TimeOnly), ev.What)
}

// run is the whole test but for the disk.
func (p *prover) run(ctx context.Context) (err error) {
	if p.client, err = api.NewClient(p.setup.socket, ""); err != nil {
		return err
	}
	defer p.client.Close()
	if err := p.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.child.kill()) }()
	p.event("the gateway under test serves; numbered records are written")
	p.feed = newFeeder(p.client, p.setup.name, p.cmd.Records, time.Duration(p.cmd.Minutes*float64(time.Minute)))
	feeding, stop := context.WithCancel(ctx)
	defer stop()
	p.feed.start(feeding)
	over, err := p.disturb(ctx)
	if err == nil {
		err = p.write(ctx, over)
	}
	if err != nil {
		stop()
		<-p.feed.over
		return err
	}
	if err := p.drain(ctx, over); err != nil {
		return err
	}
	return p.compare(ctx)
}

// disturb kills the gateway and cuts its link while records are written.
func (p *prover) disturb(ctx context.Context) (o outage, err error) {
	at := func(share float64) error {
		return p.until(ctx, p.feed.began.Add(time.Duration(share*float64(p.feed.length))))
	}
	steps := []struct {
		share float64
		do    func() error
	}{
		{0.2, func() error { return p.killNow(ctx, "records are delivered") }},
		{0.35, func() error { return p.cut(ctx) }},
		{0.5, func() error { return p.killNow(ctx, "the link is cut") }},
		{0.7, func() error {
			if o, err = p.mend(ctx); err != nil {
				return err
			}
			return p.killDraining(ctx, o)
		}},
	}
	for _, s := range steps {
		if err := at(s.share); err != nil {
			return o, err
		}
		if err := s.do(); err != nil {
			return o, err
		}
	}
	return o, nil
}

// until waits, and looks at the backlog meanwhile.
func (p *prover) until(ctx context.Context, t time.Time) error {
	for {
		wait := time.Until(t)
		if wait <= 0 {
			return nil
		}
		if err := linger(ctx, min(wait, 500*time.Millisecond)); err != nil {
			return err
		}
		if _, err := p.flow(ctx); err != nil {
			continue // what it does not say now it says later
		}
	}
}

func linger(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// start starts the gateway and waits until it serves.
func (p *prover) start(ctx context.Context) error {
	c, err := startTested(p.setup.config, filepath.Join(p.cmd.Out, p.rep.Name+".log"))
	if err != nil {
		return err
	}
	p.child = c
	deadline := time.Now().Add(startWithin)
	for {
		asked, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := p.client.Status(asked)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("the gateway under test ended: %w; it said: %s", errors.Join(c.err, err), c.tail())
		default:
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("the gateway under test does not serve within %s: %w", startWithin, err), c.kill())
		}
		if err := linger(ctx, 20*time.Millisecond); err != nil {
			return errors.Join(err, c.kill())
		}
	}
}

// killNow kills at whatever is under way.
func (p *prover) killNow(ctx context.Context, while string) error {
	f, err := p.flowNow(ctx)
	if err != nil {
		return err
	}
	if f.delivered == 0 {
		while += " (nothing was delivered yet)"
		p.rep.Figures.EarlyKill = p.rep.Figures.EarlyKill || p.rep.Figures.Kills == 0
	}
	return p.kill(ctx, f, while)
}

// kill is kill -9 and a new start. f was seen just before.
func (p *prover) kill(ctx context.Context, f passage, while string) error {
	if err := p.child.kill(); err != nil {
		return err
	}
	began := time.Now()
	if err := p.start(ctx); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	p.rep.Figures.Kills++
	p.rep.Figures.Restart = max(p.rep.Figures.Restart, took)
	p.event("killed without warning while %s; %d delivered and %d waiting at that time; it served again after %.2f s", while, f.delivered, f.pending, took)
	return nil
}

// cut cuts the link, or asks for that.
func (p *prover) cut(ctx context.Context) error {
	p.rep.Figures.Cuts++
	if _, up, err := p.look(ctx); err == nil && up.State == "down" {
		p.rep.Figures.DownAtCut = true
		p.event("the uplink is down already%s", why(up))
	}
	if l := p.setup.link; l != nil {
		l.cut()
		p.cutAt = time.Now()
		p.event("the link is cut")
		return nil
	}
	p.event("PULL THE CABLE of the uplink now")
	if err := p.when(ctx, 10*time.Minute, 100*time.Millisecond, func(_ passage, up api.Uplink) bool { return up.State == "down" }); err != nil {
		return fmt.Errorf("wait for the cable to be pulled: %w", err)
	}
	p.cutAt = time.Now()
	p.event("the uplink is down")
	return nil
}

// provedEnd is the gateway under test, whose target is named by its real
// address where it is read back.
type provedEnd struct{ runningEnd }

func (e provedEnd) identity(ctx context.Context, up string) (record.Identity, string, error) {
	id, _, err := e.runningEnd.identity(ctx, up)
	return id, "", err
}

// compare holds the log against what was acknowledged and the target against
// the log, then stops the gateway and checks its spool.
func (p *prover) compare(ctx context.Context) error {
	f := &p.rep.Figures
	if err := p.readLog(ctx); err != nil {
		return err
	}
	v, err := verify(ctx, provedEnd{runningEnd{p.client}}, p.setup.direct, window{}, slog.New(slog.NewTextHandler(p.say, &slog.HandlerOptions{Level: slog.LevelWarn})))
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case err != nil: // the report says that it was not verified
		p.event("the target could not be read back: %v", err)
	default:
		p.rep.Verdict = v
		f.LostThere, f.TwiceThere = v.Missing, v.Again
		p.event("the target was read back: %s, %d of %s found", v.Result, v.Found, count(v.Compared, "record", "records"))
	}
	l, err := p.client.Ledger(ctx)
	if err != nil {
		return err
	}
	f.Balanced = l.Balance && l.Chain.Holds
	if err := p.child.stop(ctx); err != nil {
		return err
	}
	rep, err := spool.Check(ctx, spoolDir(p.setup.data))
	if err != nil {
		return err
	}
	f.Problems = len(rep.Problems)
	p.event("the gateway was stopped and its spool read to the end: %s, %s", count(rep.Records, "record", "records"), count(f.Problems, "problem", "problems"))
	return nil
}

// readLog compares the log with what was acknowledged.
func (p *prover) readLog(ctx context.Context) error {
	f := &p.rep.Figures
	var b proof.Budget
	have := b.NewSet()
	for r, err := range p.client.Records(ctx, api.Tail{Stream: p.setup.name}) {
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		var in numbered
		if err := json.Unmarshal(r.Data, &in); err != nil {
			return fmt.Errorf("read record %s of the log: %w", r.ID, err)
		}
		fresh, err := have.Add(in.N)
		if err != nil {
			return err
		}
		if !fresh {
			f.TwiceHere++
		}
	}
	f.LostHere = p.feed.lost(have)
	return p.feed.err
}

// A testedGateway is the child process.
type testedGateway struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error // valid after done
}

func startTested(config, log string) (*testedGateway, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the program: %w", err)
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the test's log: %w", err)
	}
	c := &testedGateway{cmd: exec.CommandContext(context.Background(), self, "run", "--config", config), log: f, done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = f, f
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the gateway under test: %w", err), f.Close())
	}
	go func() { // kill and stop wait for it
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// kill is SIGKILL, and waits. One that has ended is no error.
func (c *testedGateway) kill() error {
	err := c.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("kill the gateway under test: %w", err)
	}
	<-c.done
	if err := c.log.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close the test's log: %w", err)
	}
	return nil
}

// stop asks it to end. Windows knows no such question.
func (c *testedGateway) stop(ctx context.Context) error {
	if runtime.GOOS == "windows" {
		return c.kill()
	}
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil {
		return fmt.Errorf("stop the gateway under test: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return errors.Join(errors.New("the gateway under test does not stop"), c.kill())
	}
}

// tail is the last that it said.
func (c *testedGateway) tail() string {
	b, err := os.ReadFile(c.log.Name())
	if err != nil {
		return err.Error()
	}
	if len(b) > 2000 {
		b = b[len(b)-2000:]
	}
	return string(bytes.TrimSpace(b))
}
