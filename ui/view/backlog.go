package view

import (
	"math"
	"strconv"
	"strings"
	"time"

	"forebay/gateway/api"
)

// worstUplink is the one that needs most attention: down before throttled
// before connecting before up, then by what waits.
func (m *Model) worstUplink() api.Uplink {
	rank := map[string]int{"up": 0, "connecting": 1, "paused": 2, "throttled": 3}
	var worst api.Uplink
	best := -1
	for _, u := range m.status.Uplinks {
		r, ok := rank[u.State]
		if !ok {
			r = 4
		}
		if r > best || r == best && u.Waiting > worst.Waiting {
			worst, best = u, r
		}
	}
	return worst
}

func (m *Model) backlog(at time.Time) Backlog {
	if !m.heard {
		return Backlog{Waiting: "not known yet", Old: true}
	}
	if len(m.status.Uplinks) == 0 {
		return Backlog{Waiting: "none configured: records stay on this gateway until its quota is reached", Old: m.link != Live}
	}
	u := m.worstUplink()
	b := m.backlogOf(u, m.shownAt(at))
	b.Others = m.others(u.ID)
	return b
}

// shownAt is the gateway's time for which is shown what is shown.
func (m *Model) shownAt(at time.Time) time.Time {
	if m.link == Lost {
		return m.gateway(m.confirmed)
	}
	return m.gateway(at)
}

// backlogOf is what waits for one uplink.
func (m *Model) backlogOf(u api.Uplink, now time.Time) Backlog {
	b := Backlog{Has: true, Old: m.link != Live, Title: u.ID}
	if u.Target != "" && u.Target != u.ID {
		b.Title += "  " + u.Target
	}
	b.Empty = u.Waiting == 0
	b.State, b.Severity = m.uplinkState(u, now)
	if b.Old {
		b.State = "last known: " + b.State
	}
	if d := m.status.Disk.DaysLeft; d != nil {
		b.Space = "space for " + days(*d)
	}
	if u.State == "paused" && m.link == Live {
		b.Headline = "Paused by an operator — records are kept here"
		if u.PausedBy != "" {
			b.Headline = "Paused by " + u.PausedBy + " — records are kept here"
		}
	} else if b.Severity > 0 && u.State != "throttled" && m.link == Live {
		b.Cut = true
		b.Headline = "Gateway cannot reach the cloud — spooling"
		if d := m.status.Disk.DaysLeft; d != nil {
			b.Headline += ", " + days(*d) + " of space"
		}
	}
	b.Waiting = "nothing waiting"
	if !b.Empty {
		b.Waiting = Count(u.Waiting) + " " + one(u.Waiting, "record", "records")
		if u.WaitBytes > 0 {
			b.Waiting += "  " + Bytes(u.WaitBytes)
		}
		var age time.Duration
		if u.Oldest != nil {
			age = max(0, now.Sub(*u.Oldest))
			b.Oldest = Span(age)
		}
		// What is on its way is no backlog to speak of.
		if u.State != "up" || age >= 5*time.Second {
			b.Drain = m.drain(u, age, now)
		}
		b.Span = axis(age)
	} else {
		delete(m.etas, u.ID)
		b.Span = axis(0)
	}
	b.Span.End = m.axisEnd()
	return b
}

func one(n uint64, a, b string) string {
	if n == 1 {
		return a
	}
	return b
}

func (m *Model) uplinkState(u api.Uplink, now time.Time) (string, int) {
	word, sev := uplinkWord(u)
	if sev == 0 && u.State == "up" {
		return "up", 0
	}
	s := word
	if !u.Since.IsZero() {
		c := m.clock(u.Since, now)
		if len(c) == len("15:04:05") {
			c = c[:5]
		}
		s += " since " + c
	}
	if m.link == Live && u.RetryAt != nil {
		if d := u.RetryAt.Sub(now); d >= time.Second {
			s += ", next try in " + Span(d)
		} else {
			s += ", trying now"
		}
	}
	return s, sev
}

// drain says when nothing will wait any more. It never speaks of an end that
// is not backed by a rate at which the backlog shrinks.
func (m *Model) drain(u api.Uplink, age time.Duration, now time.Time) string {
	const unknown = "time to drain not known yet"
	grew := m.grew(u, now)
	if m.link != Live {
		return ""
	}
	if u.State == "up" || u.State == "throttled" {
		if u.ETA == nil || *u.ETA < 0 || math.IsNaN(*u.ETA) || math.IsInf(*u.ETA, 0) {
			delete(m.etas, u.ID)
			if grew && u.Out.Bytes > 0 {
				return "growing, though " + ByteRate(u.Out.Bytes) + " leave"
			}
			return unknown
		}
		return "drains in " + ETA(m.steady(u.ID, seconds(*u.ETA)))
	}
	delete(m.etas, u.ID)
	if age < 10*time.Second {
		return unknown
	}
	// What arrives for this uplink is what has gathered since it went down;
	// the gateway's inflow counts streams that this uplink does not carry.
	net := u.DrainBps - float64(u.WaitBytes)/age.Seconds()
	if net <= u.DrainBps/10 {
		return "time to drain known once up"
	}
	return "drains in " + ETA(seconds(float64(u.WaitBytes)/net)) + " once up (" + ByteRate(u.DrainBps) + ")"
}

// mark is how much waited some time ago.
type mark struct {
	at   time.Time
	n    uint64
	grew bool
}

// grew compares what waits with what waited about ten seconds ago.
func (m *Model) grew(u api.Uplink, now time.Time) bool {
	k, ok := m.marks[u.ID]
	if d := now.Sub(k.at); !ok || d < 0 {
		m.marks[u.ID] = mark{at: now, n: u.Waiting}
	} else if d >= 10*time.Second {
		k = mark{at: now, n: u.Waiting, grew: u.Waiting > k.n}
		m.marks[u.ID] = k
	}
	return k.grew
}

func seconds(s float64) time.Duration {
	if s > 1e9 {
		s = 1e9
	}
	return time.Duration(s * float64(time.Second))
}

// steady keeps the wording of an ETA from going up and down with noise: it
// follows downwards, and upwards only when the estimate is a quarter past
// what is shown.
func (m *Model) steady(id string, est time.Duration) time.Duration {
	q := quantum(est)
	shown, ok := m.etas[id]
	if ok && q > shown && est < shown+max(shown/4, time.Minute) {
		return shown
	}
	m.etas[id] = q
	return q
}

func (m *Model) others(id string) string {
	var parts []string
	for _, u := range m.status.Uplinks {
		if u.ID == id {
			continue
		}
		word, _ := uplinkWord(u)
		s := u.ID + " " + word
		if u.Waiting > 0 {
			s += ", " + Count(u.Waiting) + " waiting"
		}
		parts = append(parts, s)
	}
	if len(parts) > 3 {
		parts = append(parts[:3], strconv.Itoa(len(parts)-3)+" more")
	}
	return strings.Join(parts, "  ·  ")
}

// axis picks a time axis that ends now and holds a backlog of the given age.
func axis(age time.Duration) BarSpan {
	const day = 24 * time.Hour
	for _, a := range []struct {
		window time.Duration
		ticks  []time.Duration
	}{
		{5 * time.Minute, []time.Duration{time.Minute, 2 * time.Minute, 3 * time.Minute, 4 * time.Minute}},
		{15 * time.Minute, []time.Duration{5 * time.Minute, 10 * time.Minute}},
		{time.Hour, []time.Duration{15 * time.Minute, 30 * time.Minute, 45 * time.Minute}},
		{3 * time.Hour, []time.Duration{time.Hour, 2 * time.Hour}},
		{6 * time.Hour, []time.Duration{2 * time.Hour, 4 * time.Hour}},
		{12 * time.Hour, []time.Duration{3 * time.Hour, 6 * time.Hour, 9 * time.Hour}},
		{day, []time.Duration{6 * time.Hour, 12 * time.Hour, 18 * time.Hour}},
		{3 * day, []time.Duration{day, 2 * day}},
		{7 * day, []time.Duration{2 * day, 4 * day, 6 * day}},
		{30 * day, []time.Duration{10 * day, 20 * day}},
		{365 * day, []time.Duration{100 * day, 200 * day, 300 * day}},
	} {
		if age <= a.window*9/10 {
			s := BarSpan{Window: a.window, Oldest: age}
			for _, t := range a.ticks {
				s.Ticks = append(s.Ticks, Tick{Age: t, Text: "–" + tickText(t)})
			}
			return s
		}
	}
	return BarSpan{Window: age, Oldest: age}
}

func tickText(d time.Duration) string {
	switch {
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 24*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " d"
}
