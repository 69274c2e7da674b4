package demo

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"forebay/firmware-sim/witness"
)

// script runs the main job by itself: normal, the link cut with an alarm
// meanwhile, restored and drained; then the witness says what arrived.
func (d *demo) script(ctx context.Context) (code int, err error) {
	total := d.cfg.Duration
	if total == 0 {
		total = time.Minute
	}
	third := total / 3
	d.tell("the factory runs: %d devices, %d serial ports, %d cameras", len(d.cfg.Plant.Devices), len(d.cfg.Plant.Serial), len(d.cfg.Plant.Cameras))
	if err := d.wait(ctx, third, nil); err != nil {
		return 0, err
	}
	v := look(ctx, d.nearURL())
	waiting, _ := v.waiting()
	d.tell("in %.1f records/s, %d wait for the uplink; now the link is cut", v.status.In.PerSecond, waiting)
	if err := d.link.Cut(); err != nil {
		return 0, err
	}
	raised, err := d.outage(ctx, third)
	if err != nil {
		return 0, err
	}
	waiting, _ = look(ctx, d.nearURL()).waiting()
	d.tell("the link is restored with %d records waiting", waiting)
	if err := d.link.Restore(); err != nil {
		return 0, err
	}
	if err := d.wait(ctx, third, nil); err != nil {
		return 0, err
	}
	if err := d.haltFactory(); err != nil {
		return 0, err
	}
	if err := d.drain(ctx); err != nil {
		return 0, err
	}
	report, err := witness.Verify(ctx, witness.Options{
		Ledger: filepath.Join(d.dir, "ledger.jsonl"), Endpoint: "http://" + d.cfg.Ports.FarKinesis, Region: "eu-central-1",
		Streams: farStreams(d.cfg.Plant), Wait: time.Minute,
	})
	if err != nil {
		return 0, err
	}
	d.tell("the witness compares its ledger with the far end:")
	if err := report.Write(d.cfg.Out); err != nil {
		return 0, err
	}
	return d.judge(report, raised), nil
}

// judge is the script's exit code.
func (d *demo) judge(r witness.Report, raised string) int {
	arrived := false
	for _, a := range r.Alarms {
		arrived = arrived || (a.ID == raised && a.Event == "raised")
	}
	switch {
	case raised == "":
		d.say("the ramp raised no alarm")
	case !arrived:
		d.say("the alarm %s did not arrive at the far end", raised)
	case r.OK():
		return 0
	}
	return 1
}

func (d *demo) nearURL() string { return "http://" + d.cfg.Ports.API }

// outage overheats a press while the link is down, and waits for the alarm.
func (d *demo) outage(ctx context.Context, span time.Duration) (raised string, err error) {
	before := map[string]bool{}
	for _, a := range look(ctx, d.nearURL()).alarms {
		before[a.ID] = true
	}
	point, err := d.overheat(span * 3 / 4)
	if err != nil {
		return "", err
	}
	d.tell("%s overheats", point)
	err = d.wait(ctx, span, func(v view) {
		for _, a := range v.alarms {
			if raised == "" && a.active() && !before[a.ID] && a.Rule != "system" {
				raised = a.ID
				waiting, _ := v.waiting()
				d.tell("alarm raised while the link is down (%d records wait): %s", waiting, a.Text)
			}
		}
	})
	return raised, err
}

// drain waits until nothing waits for the uplink.
func (d *demo) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := d.wait(ctx, time.Minute, func(v view) {
		if waiting, _ := v.waiting(); v.err == nil && waiting == 0 {
			cancel()
		}
	})
	if waiting, _ := look(context.WithoutCancel(ctx), d.nearURL()).waiting(); waiting == 0 && errors.Is(err, context.Canceled) {
		d.tell("the backlog is drained")
		return nil
	}
	return err
}

// wait lets time pass, looks at the gateway meanwhile, and fails as soon as a
// part has ended.
func (d *demo) wait(ctx context.Context, span time.Duration, seen func(view)) error {
	end := time.NewTimer(span)
	defer end.Stop()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return nil
		case <-tick.C:
		}
		if err := d.check(); err != nil {
			return err
		}
		if seen != nil {
			seen(look(ctx, d.nearURL()))
		}
	}
}

// tell says what happens, with the demo's own clock.
func (d *demo) tell(format string, args ...any) {
	d.say("%s  %s", clock(time.Since(d.started))[3:], fmt.Sprintf(format, args...))
}
