package view

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"forebay/gateway/api"
)

func unacked(a api.Alarm) bool { return a.State == "unacked" || a.State == "rtn-unacked" }

// alarmRows sorts what stands: unacknowledged first, then severity, then the
// newest. An alarm that is back to normal and acknowledged is gone.
func (m *Model) alarmRows() []Alarm {
	now := m.status.Now
	rows := make([]Alarm, 0, len(m.alarms))
	for _, a := range m.alarms {
		if a.State == "normal" {
			continue
		}
		r := Alarm{
			ID: a.ID, Severity: min(4, max(1, a.Severity)), Source: a.Key, Text: a.Text,
			Time: m.clock(a.Raised, now), Unacked: unacked(a),
			Active: a.State == "unacked" || a.State == "acked", raised: a.Raised,
		}
		if r.Source == "" {
			r.Source = a.Rule
		}
		switch a.State {
		case "unacked":
			r.State = "UNACK"
		case "rtn-unacked":
			r.State = "RTN"
		default:
			r.State = "ACK"
		}
		if _, sent := m.acking[a.ID]; sent && r.Unacked {
			r.State = "ACK sent"
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b Alarm) int {
		if a.Unacked != b.Unacked {
			if a.Unacked {
				return -1
			}
			return 1
		}
		if c := cmp.Compare(a.Severity, b.Severity); c != 0 {
			return c
		}
		if c := b.raised.Compare(a.raised); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return rows
}

// asOf is the time of the last word of the gateway, by its own clock.
func (m *Model) asOf() string {
	return m.confirmed.Add(m.offset).In(m.cfg.Location).Format("15:04:05")
}

// axisEnd names the right end of a time axis: it is now only while the
// gateway is heard.
func (m *Model) axisEnd() string {
	if m.link == Lost {
		return m.asOf()
	}
	return "now"
}

func (m *Model) counts(rows []Alarm) string {
	n := 0
	for _, r := range rows {
		if r.Unacked {
			n++
		}
	}
	s := plural(len(rows), "alarm", "alarms")
	if n > 0 {
		s += ", " + Count(uint64(n)) + " unacknowledged"
	}
	return s
}

// alarmHead never says that there are none without saying as of when, and
// never while the link is not live.
func (m *Model) alarmHead(rows []Alarm) string {
	switch {
	case m.confirmed.IsZero():
		return "not known yet"
	case m.link != Live:
		return "last known at " + m.asOf() + ": " + m.counts(rows)
	case len(rows) == 0:
		return "no alarms as of " + m.asOf()
	}
	return m.counts(rows) + " as of " + m.asOf()
}

// banner decides what the strip under the status line says.
func (m *Model) banner(at time.Time, rows []Alarm) Banner {
	switch m.link {
	case Connecting:
		b := Banner{Kind: BannerLost, Text: "Connecting to the gateway for " + Stopwatch(at.Sub(m.since)), Detail: m.cause}
		if b.Detail == "" {
			b.Detail = "nothing has been heard from it yet"
		}
		return b
	case Lost:
		d := "last known at " + m.asOf() + ": " + m.counts(rows)
		if m.cause != "" {
			d += "  ·  " + m.cause
		}
		return Banner{
			Kind: BannerLost,
			Text: "Console lost the gateway " + Stopwatch(at.Sub(m.since)) + " ago — gateway keeps recording", Detail: d,
		}
	}
	fail := ""
	if m.ackFail != "" && at.Sub(m.failAt) < 15*time.Second {
		fail = m.ackFail
	}
	var top *Alarm
	more := 0
	for i := range rows {
		if !rows[i].Unacked || rows[i].State == "ACK sent" {
			continue
		}
		if top == nil {
			top = &rows[i]
		} else {
			more++
		}
	}
	if top == nil {
		b := Banner{Text: "No alarms as of " + m.asOf(), Detail: fail}
		if len(rows) > 0 {
			b.Text = "Nothing to acknowledge as of " + m.asOf()
			if b.Detail == "" {
				b.Detail = m.counts(rows)
			}
		}
		return b
	}
	d := top.Time + "  " + top.Source
	if !top.Active {
		d += "  ·  back to normal"
	}
	if more > 0 {
		d += "  ·  " + Count(uint64(more)) + " more unacknowledged"
	}
	if fail != "" {
		d = fail
	}
	return Banner{Kind: BannerAlarm, AlarmIDs: []string{top.ID}, Severity: top.Severity, Text: top.Text, Detail: d}
}
