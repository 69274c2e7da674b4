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
	if err := p.g.pauses.pause(id, pause{At: p.g.clock.now().UTC(), By: by}, pump.Pause); err != nil {
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
	if err := p.g.pauses.resume(id, pump.Resume); err != nil {
		return api.Uplink{}, err
	}
	p.g.log.Warn("uplink was resumed by an operator", "uplink", id, "by", by)
	return p.acted(ctx, pump, act{Event: "uplink-resumed", Object: "uplink/" + id, By: by})
}

// RetryUplink makes the uplink try at once.
func (p *plant) RetryUplink(ctx context.Context, id, by string) (api.Uplink, error) {
	pump, err := p.pump(id)
	if err != nil {
		return api.Uplink{}, err
	}
	if _, paused := p.g.pauses.of(id); paused {
		return api.Uplink{}, fmt.Errorf("retry uplink %s: %w", id, localapi.ErrPaused)
	}
	pump.RetryNow()
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
	fmt.Fprintf(&b, ", %d records wait", u.Waiting)
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
		return fmt.Sprintf("%.1fd", d.Hours()/24)
	}
	return conf.Duration(d).String()
}

// usageOf shows what price lists count.
func usageOf(u uplink.Usage) api.UplinkUsage {
	return api.UplinkUsage{
		Requests: u.Requests, PayloadBytes: u.PayloadBytes, WirePerPayload: u.WirePerPayload(), Units: u.Units, PlainUnits: u.PlainUnits,
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
		Model: c.Model, Currency: c.Currency, Month: bill(c.Hour), MonthPlain: bill(c.HourPlain), MonthByDay: bill(c.Day), MonthByDayPlain: bill(c.DayPlain),
	}
}

type uplinksCmd struct {
	door
	JSON bool `help:"Print JSON."`
}

func (c uplinksCmd) Run(ctx context.Context, e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	st, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, st.Uplinks)
	}
	err = table(e.out, "UPLINK\tSTATE\tWAITING\tOLDEST\tOUT/S\tOUT\tDONE IN\tLIMIT\tWIRE/PAYLOAD\tUNITS\tMONTH\tPLAIN", func(row func(string, ...any)) {
		for _, u := range st.Uplinks {
			row("%s\t%s\t%d\t%s\t%.0f\t%s/s\t%s\t%s\t%s\t%s\t%s\t%s", u.ID, u.State, u.Waiting, oldest(u, st.Now), u.Out.Records, size(int64(u.Out.Bytes)),
				doneIn(u), limited(u), ratio(u.Used.WirePerPayload), unitCount(u.Used), money(u.Cost.Month, u.Cost.Currency), money(u.Cost.MonthPlain, u.Cost.Currency))
		}
	})
	if err != nil {
		return err
	}
	for _, u := range st.Uplinks {
		switch {
		case u.PausedBy != "":
			fmt.Fprintf(e.out, "\n%s: paused by %s; \"forebay uplink resume %s\" goes on\n", u.ID, printable(u.PausedBy), u.ID)
		case u.Error != "":
			fmt.Fprintf(e.out, "\n%s: %s\n  %s\n", u.ID, printable(u.Error), u.Advice)
		}
	}
	return nil
}

func oldest(u api.Uplink, now time.Time) string {
	if u.Oldest == nil {
		return "-"
	}
	return span(now.Sub(*u.Oldest))
}

func doneIn(u api.Uplink) string {
	switch {
	case u.Waiting == 0:
		return "-"
	case u.ETA == nil:
		return "unknown"
	}
	return about(*u.ETA)
}

func limited(u api.Uplink) string {
	if u.LimitKbit == 0 {
		return "-"
	}
	return fmt.Sprintf("%d kbit/s", u.LimitKbit)
}

func ratio(r float64) string {
	if r == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

// unitCount is the units with what they would be without aggregation.
func unitCount(u api.UplinkUsage) string {
	if u.Units == 0 {
		return "-"
	}
	return fmt.Sprintf("%d (plain %d)", u.Units, u.PlainUnits)
}

func money(b *api.UplinkBill, currency string) string {
	if b == nil || b.Sum == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f %s", b.Sum, currency)
}

type uplinkCmd struct {
	Pause  uplinkPauseCmd  `cmd:"" help:"Stop handing on, until resume, also over a restart; records are kept."`
	Resume uplinkResumeCmd `cmd:"" help:"End a pause."`
	Retry  uplinkRetryCmd  `cmd:"" help:"Try at once instead of at the next turn."`
}

// uplinkVerb is what the commands that change an uplink have in common.
type uplinkVerb struct {
	door
	ID   string `arg:"" help:"Id of the uplink."`
	By   string `help:"Who asks; it stands in the stream audit." env:"USER" default:"operator"`
	JSON bool   `help:"Print JSON."`
}

type (
	uplinkPauseCmd  struct{ uplinkVerb }
	uplinkResumeCmd struct{ uplinkVerb }
	uplinkRetryCmd  struct{ uplinkVerb }
)

func (c uplinkPauseCmd) Run(ctx context.Context, e *env) error {
	return c.do(ctx, e, "paused", (*api.Client).PauseUplink)
}

func (c uplinkResumeCmd) Run(ctx context.Context, e *env) error {
	return c.do(ctx, e, "resumed", (*api.Client).ResumeUplink)
}

func (c uplinkRetryCmd) Run(ctx context.Context, e *env) error {
	return c.do(ctx, e, "tries now", (*api.Client).RetryUplink)
}

func (c uplinkVerb) do(ctx context.Context, e *env, done string, verb func(*api.Client, context.Context, string, string) (api.Uplink, error)) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	u, err := verb(cl, ctx, c.ID, c.By)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, u)
	}
	_, err = fmt.Fprintf(e.out, "uplink %s: %s; %d records wait\n", u.ID, done, u.Waiting)
	return err
}
