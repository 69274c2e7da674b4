package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/gateway/internal/localapi"
	"forebay/uplink"
)

// pump finds an uplink by its id.
func (p *plant) pump(id string) (*uplink.Pump, error) {
	for i, c := range p.g.cfg.Uplinks {
		if string(c.ID) == id && i < len(p.g.pumps) {
			return p.g.pumps[i], nil
		}
	}
	return nil, fmt.Errorf("uplink %q: %w", id, localapi.ErrNoUplink)
}

// PauseUplink stops an uplink until somebody resumes it; a restart changes
// nothing of that.
func (p *plant) PauseUplink(ctx context.Context, id, by string) (api.Uplink, error) {
	pump, err := p.pump(id)
	if err != nil {
		return api.Uplink{}, err
	}
	if err := p.g.pauses.pause(id, pause{At: p.g.clock.now().UTC(), By: by}, func() {
		pump.Pause()
		for _, e := range p.g.errands.pumps(id) {
			e.Pause()
		}
	}); err != nil {
		return api.Uplink{}, err
	}
	p.g.log.Warn("uplink was paused by an operator", "uplink", id, "by", by)
	return p.acted(ctx, pump, act{Event: "uplink-paused", Object: "uplink/" + id, By: by})
}

// ResumeUplink ends a pause.
func (p *plant) ResumeUplink(ctx context.Context, id, by string) (api.Uplink, error) {
	pump, err := p.pump(id)
	if err != nil {
		return api.Uplink{}, err
	}
	if err := p.g.pauses.resume(id, func() {
		pump.Resume()
		for _, e := range p.g.errands.pumps(id) {
			e.Resume()
		}
	}); err != nil {
		return api.Uplink{}, err
	}
	p.g.log.Warn("uplink was resumed by an operator", "uplink", id, "by", by)
	return p.acted(ctx, pump, act{Event: "uplink-resumed", Object: "uplink/" + id, By: by})
}

// RetryUplink makes the uplink try at once, and what is sent beside it; the id
// may be that of a replay or a redrive.
func (p *plant) RetryUplink(ctx context.Context, id, by string) (api.Uplink, error) {
	id, _, _ = strings.Cut(id, "~")
	pump, err := p.pump(id)
	if err != nil {
		return api.Uplink{}, err
	}
	if _, paused := p.g.pauses.of(id); paused {
		return api.Uplink{}, fmt.Errorf("retry uplink %s: %w", id, localapi.ErrPaused)
	}
	pump.RetryNow()
	for _, e := range p.g.errands.pumps(id) {
		e.RetryNow()
	}
	return p.acted(ctx, pump, act{Event: "uplink-retried", Object: "uplink/" + id, By: by})
}

// acted notes what was done to an uplink, and shows it. It is done, whether
// the note could be kept or not.
func (p *plant) acted(ctx context.Context, pump *uplink.Pump, a act) (api.Uplink, error) {
	if err := p.audit(ctx, a); err != nil {
		return api.Uplink{}, fmt.Errorf("it is done, but no trace of it could be kept: %w", err)
	}
	return p.uplinkOf(pump.Status()), nil
}

// uplinkLine is an uplink in a line of text.
func uplinkLine(u api.Uplink, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s: %s since %s", u.ID, u.Target, u.State, u.Since.Local().Format(time.TimeOnly))
	if u.PausedBy != "" {
		b.WriteString(" by " + printable(u.PausedBy))
	}
	b.WriteString(", " + count(u.Waiting, "record waits", "records wait"))
	if u.Oldest != nil {
		fmt.Fprintf(&b, ", oldest %s", span(now.Sub(*u.Oldest)))
	}
	if u.ETA != nil && u.Waiting > 0 {
		fmt.Fprintf(&b, ", done in about %s", about(*u.ETA))
	}
	if u.Capped {
		fmt.Fprintf(&b, " at %d kbit/s", u.LimitKbit)
	}
	if u.Error != "" {
		fmt.Fprintf(&b, " (%s)", u.Error)
	}
	return b.String()
}

// about is a time span as far as an ETA can be trusted.
func about(secs float64) string {
	d := time.Duration(secs * float64(time.Second))
	switch {
	case d < time.Minute:
		d = d.Round(time.Second)
	case d < time.Hour:
		d = d.Round(10 * time.Second)
	case d < 24*time.Hour:
		d = d.Round(5 * time.Minute)
	default:
		return fmt.Sprintf("%.1f d", d.Hours()/24)
	}
	return conf.Duration(d).InWords()
}

// usageOf shows what price lists count.
func usageOf(u uplink.Usage) api.UplinkUsage {
	return api.UplinkUsage{
		Requests: u.Requests, PayloadBytes: u.PayloadBytes, WirePerPayload: u.WirePerPayload(), Units: u.Units, PlainUnits: u.PlainUnits, PlainWire: u.PlainWire,
		BilledBytes: u.BilledBytes, PlainBilled: u.PlainBilled,
	}
}

func costOf(c uplink.Cost) api.UplinkCost {
	bill := func(b *uplink.Bill) *api.UplinkBill {
		if b == nil {
			return nil
		}
		return &api.UplinkBill{Units: b.Units, ShardHours: b.ShardHours, StreamHours: b.StreamHours, Data: b.Data, Link: b.Link, Sum: b.Sum()}
	}
	return api.UplinkCost{
		Model: c.Model, Currency: c.Currency, Priced: c.Priced, Month: bill(c.Hour), MonthPlain: bill(c.HourPlain), MonthByDay: bill(c.Day), MonthByDayPlain: bill(c.DayPlain),
	}
}
