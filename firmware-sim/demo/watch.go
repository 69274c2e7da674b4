package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"forebay/firmware-sim/link"
)

// watch shows the status and obeys keys until ctx ends, the time is up, an
// operator stops it, or a part that the demo needs has ended.
func (d *demo) watch(ctx context.Context) error {
	if d.cfg.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.cfg.Duration)
		defer cancel()
	}
	term, err := openTerminal()
	if err != nil {
		return d.report(ctx) // not on a terminal: lines instead of a screen
	}
	keys := make(chan byte)
	var reading sync.WaitGroup
	reading.Go(func() { term.read(keys) })
	err = d.screens(ctx, term, keys)
	err = errors.Join(err, term.close())
	for range keys { // the reader may hold one more
	}
	reading.Wait()
	return err
}

// screens draws four times a second.
func (d *demo) screens(ctx context.Context, term *terminal, keys <-chan byte) error {
	_, _ = io.WriteString(d.cfg.Out, "\x1b[2J") // clear once; later frames are drawn over
	defer func() { _, _ = io.WriteString(d.cfg.Out, "\r\n") }()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	note := "logs and data: " + d.dir
	for {
		if err := d.check(); err != nil {
			return err
		}
		if d.console != nil && d.console.ended() {
			d.console, note = nil, "the console was closed; q stops the demo"
		}
		lines := screen(look(ctx, d.nearURL()), d.link.Stats(), d.factory.Stats(), time.Now(), d.started, note, term.width())
		frame := "\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\x1b[J"
		if _, err := io.WriteString(d.cfg.Out, frame); err != nil {
			return fmt.Errorf("draw the status: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case k := <-keys:
			if k == 'q' || k == 'Q' || k == 3 {
				_, _ = io.WriteString(d.cfg.Out, "\r\n  stopping: factory, gateway, link, far gateway …\r\n")
				return nil
			}
			var err error
			if note, err = d.press(k, note); err != nil {
				note = "that did not work: " + err.Error()
			}
		}
	}
}

// press obeys a key.
func (d *demo) press(k byte, note string) (string, error) {
	switch k {
	case 'c', 'C':
		if d.link.Stats().State == link.Cut {
			return "the link is restored", d.link.Restore()
		}
		return "the link is cut", d.link.Cut()
	case 'r', 'R':
		point, err := d.overheat(30 * time.Second)
		return point + " overheats for 30 s", err
	}
	return note, nil
}

// report prints a line every five seconds where there is no terminal.
func (d *demo) report(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		if err := d.check(); err != nil {
			return err
		}
		v := look(ctx, d.nearURL())
		if v.err == nil {
			waiting, _ := v.waiting()
			open := 0
			for _, a := range v.alarms {
				if a.State != "normal" {
					open++
				}
			}
			d.tell("in %.1f records/s, backlog %d, alarms %d, link %s", v.status.In.PerSecond, waiting, open, d.link.Stats().State)
		} else if ctx.Err() == nil {
			d.tell("gateway not reached: %v", v.err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
