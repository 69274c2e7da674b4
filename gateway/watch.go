package main

import (
	"fmt"
	"strings"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/gateway/internal/rules"
	"forebay/uplink"
)

const (
	uplinkGrace = 5 * time.Second // how long an uplink may be down before it is an alarm
	// lastingGrace is the same where no time mends it: as long as it takes to
	// read renewed credentials and to try once more.
	lastingGrace = 2 * time.Second
	sourceGrace  = 5 * time.Second
	refusedFor   = time.Hour       // how long a refused record is shown
	clockLimit   = 2 * time.Second // a wall clock that is off by more is an alarm
)

// Uplinks lists the uplinks as they are configured.
func (p *plant) Uplinks() []api.Uplink {
	out := []api.Uplink{}
	for _, pump := range p.g.pumps {
		out = append(out, p.uplinkOf(pump.Status()))
	}
	return out
}

// uplinkOf shows an uplink.
func (p *plant) uplinkOf(s uplink.Status) api.Uplink {
	u := api.Uplink{
		ID: s.ID, Kind: s.Kind, Target: s.Target, State: s.State, Since: s.Since.UTC(), Error: s.Error, Class: s.Class, Advice: s.Advice,
		Waiting: s.Waiting.Records, WaitBytes: s.Waiting.Bytes, Out: api.Rate{Records: s.OutRecords, Bytes: s.OutBytes, Total: s.Delivered},
		DrainBps: s.Drain, Delivered: s.Delivered, Filtered: s.Filtered, Refused: s.Refused, Retries: s.Retries, WireBytes: s.WireBytes,
	}
	u.Errands = p.g.errands.list(s.ID)
	u.LimitKbit, u.Capped = s.LimitKbit, s.Capped
	u.Used, u.Cost = usageOf(s.Used), costOf(s.Cost)
	u.ClockOff = milliseconds(s.ClockOffset)
	if s.Commands {
		u.CommandsRefused = &s.CommandsRefused
	}
	if by, ok := p.g.pauses.of(s.ID); ok {
		u.PausedBy, u.Since = by.By, by.At // of before the last start, maybe
	}
	if !s.RetryAt.IsZero() {
		at := s.RetryAt.UTC()
		u.RetryAt = &at
	}
	if !s.Waiting.Oldest.IsZero() {
		at := s.Waiting.Oldest.UTC()
		u.Oldest = &at
	}
	if s.ETAKnown {
		eta := s.ETA.Seconds()
		u.ETA = &eta
	}
	return u
}

// Cameras lists the cameras.
func (p *plant) Cameras() []api.Camera {
	out := []api.Camera{}
	for _, c := range p.g.cams.Snapshot() {
		out = append(out, api.Camera{
			ID: c.ID, Label: c.Label, LastChunk: c.LastChunk, LastFrame: c.LastFrame, FPS: c.FPS, Codec: c.Codec,
			Chunks: c.Chunks, Bytes: c.Bytes, Gaps: c.Gaps, FrameURL: c.FrameURL, StaleAfter: c.StaleAfter,
		})
	}
	return out
}

// A trouble is a condition, and how long it lasts before it is reported.
type trouble struct {
	rules.Condition
	grace time.Duration
}

// lasts reports whether an error's class is one that no time mends.
func lasts(class string) bool {
	return class == "auth" || class == "misconfigured" || class == "clock-skew"
}

// why is what is wrong with an uplink and what to do, behind a text.
func why(u api.Uplink) string {
	if u.Error == "" {
		return ""
	}
	text := ": " + u.Error
	if u.Advice != "" {
		text += ". What to do: " + u.Advice
	}
	return text
}

// uplinkTroubles are those of an uplink, as they are now. p.mu is held.
func (p *plant) uplinkTroubles(u api.Uplink) (out []trouble) {
	add := func(name string, severity int, grace time.Duration, text string) {
		out = append(out, trouble{rules.Condition{Source: "uplink/" + u.ID, Name: name, Severity: severity, Active: true, Text: "Uplink " + u.ID + text}, grace})
	}
	switch {
	case u.State == uplink.StatePaused:
		add("paused", 3, sourceGrace, fmt.Sprintf(" is paused since %s by %s, records are kept here", u.Since.Local().Format("2006-01-02 15:04"), u.PausedBy))
	case u.State == uplink.StateDown && (lasts(u.Class) || time.Since(u.Since) > uplinkGrace):
		grace := sourceGrace
		if lasts(u.Class) {
			grace = lastingGrace
		}
		add("down", 2, grace, fmt.Sprintf(" is down since %s, records are kept here%s", u.Since.Local().Format("15:04"), why(u)))
	case u.State != uplink.StateDown && lasts(u.Class):
		add("held", 2, lastingGrace, " hands on only a part, records are kept here"+why(u))
	}
	r := p.refused[u.ID]
	if u.Refused > r.n {
		r = refusal{n: u.Refused, at: time.Now()}
		p.refused[u.ID] = r
	}
	if n := p.g.errands.unmended(u.ID, u.Refused); n > 0 && time.Since(r.at) < refusedFor {
		add("refused", 2, 0, fmt.Sprintf(": the far side can never take %s kept in the stream refused. What to do: \"forebay uplink refused %s\" says why; mend that, and send them again with \"forebay uplink redrive %s --all\"",
			count(n, "record; it is", "records; they are"), u.ID, u.ID))
	}
	return out
}

// conditions are what an operator should know of the gateway itself, as they
// are now. p.mu is held.
func (p *plant) conditions() []trouble {
	out := []trouble{}
	add := func(c rules.Condition) {
		c.Active = true
		out = append(out, trouble{c, sourceGrace})
	}
	for _, c := range p.g.sp.Stats().Conditions {
		out = append(out, trouble{rules.Condition{Source: "spool", Name: c.Kind, Severity: c.Severity, Active: true, Text: c.Text}, 0})
	}
	for _, u := range p.Uplinks() {
		out = append(out, p.uplinkTroubles(u)...)
	}
	for _, s := range p.g.sources {
		if state, reason := s.Health(); state == "down" || state == "degraded" {
			severity := 2
			if state == "degraded" {
				severity = 3
			}
			add(rules.Condition{Source: s.Kind() + "/" + s.ID(), Name: state, Severity: severity, Text: fmt.Sprintf("Source %s is %s: %s", s.ID(), state, reason)})
		}
	}
	for _, c := range p.g.cams.Snapshot() {
		if c.Stale {
			seen := c.LastChunk
			if seen == nil || c.LastFrame != nil && c.LastFrame.After(*seen) {
				seen = c.LastFrame
			}
			add(rules.Condition{Source: "camera/" + c.ID, Name: "stale", Severity: 3, Text: "Camera " + c.ID + " sends nothing since " + seen.Local().Format("15:04:05")})
		}
	}
	for _, pump := range p.g.pumps {
		if s := pump.Status(); s.ClockOffset.Abs() > clockLimit {
			add(rules.Condition{Source: "clock", Name: "wrong", Severity: 3, Text: clockText(s.ID, s.ClockOffset)})
			break
		}
	}
	return out
}

// report hands the rules what began and what ended. A condition that lasts
// shorter than its grace is not reported.
func (p *plant) report() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := map[string]bool{}
	for _, t := range p.conditions() {
		c := t.Condition
		key := c.Source + "/" + c.Name
		now[key] = true
		if p.since[key].IsZero() {
			p.since[key] = p.g.clock.now()
		}
		if time.Since(p.since[key]) < t.grace && p.reported[key].Source == "" {
			continue
		}
		if p.reported[key].Text != c.Text || p.reported[key].Severity != c.Severity {
			p.g.loop.Report(c)
		}
		p.reported[key] = c
	}
	for key, c := range p.reported {
		if !now[key] {
			c.Active = false
			p.g.loop.Report(c)
			delete(p.reported, key)
		}
	}
	for key := range p.since {
		if !now[key] {
			delete(p.since, key)
		}
	}
}

// adopt takes over the conditions that the process before this one reported,
// so that one that has ended meanwhile is cleared.
func (p *plant) adopt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.g.loop.Alarms() {
		i := strings.LastIndexByte(a.Key, '/')
		if a.Rule != rules.SystemRule || !a.Active() || i < 0 {
			continue
		}
		p.reported[a.Key] = rules.Condition{Source: a.Key[:i], Name: a.Key[i+1:], Severity: a.Severity, Text: a.Text}
		p.since[a.Key] = a.Raised
	}
}

// milliseconds is how far a clock is off; nil where it is not known.
func milliseconds(off time.Duration) *float64 {
	if off == 0 {
		return nil
	}
	ms := float64(off.Microseconds()) / 1e3
	return &ms
}

// clockText says how far the box's clock is from that of an uplink's target,
// which is ahead by off.
func clockText(id string, off time.Duration) string {
	side := "behind"
	if off < 0 {
		side = "ahead of"
	}
	return fmt.Sprintf("The clock of this box is %s %s that of the target of uplink %s; set it (NTP, or by hand). Records keep their order", conf.Duration(off.Abs().Round(time.Second)).InWords(), side, id)
}
