package view

import (
	"math"
	"slices"
	"strconv"
	"time"

	"forebay/gateway/api"
)

// statusLine says how the gateway does: link, inflow, uplink, disk, clock.
func (m *Model) statusLine(at time.Time) []StatusItem {
	items := make([]StatusItem, 0, 5)
	switch m.link {
	case Live:
		items = append(items, StatusItem{Name: "Gateway", Value: "connected", Rank: 1})
	case Lost:
		items = append(items, StatusItem{Name: "Gateway", Value: "LOST " + Stopwatch(at.Sub(m.since)), Severity: 2, Rank: 1})
	default:
		items = append(items, StatusItem{Name: "Gateway", Value: "connecting", Rank: 1})
	}
	if !m.heard {
		return items
	}
	if m.link == Live {
		in := m.status.In
		items = append(items, StatusItem{Name: "In", Value: Count(uint64(math.Max(0, in.Records)+0.5)) + " rec/s  " + ByteRate(in.Bytes), Rank: 3})
		items = append(items, m.uplinkItem(at))
		items = append(items, m.diskItem())
		clock := m.gateway(at).In(m.cfg.Location).Format("15:04:05")
		if off := m.status.ClockOff; off != nil {
			clock += " ±" + offset(*off)
		}
		items = append(items, StatusItem{Name: "Clock", Value: clock, Rank: 5})
	}
	return items
}

func offset(ms float64) string {
	ms = math.Abs(ms)
	if ms < 1000 {
		return strconv.FormatFloat(math.Ceil(ms), 'f', 0, 64) + " ms"
	}
	return Span(time.Duration(ms * float64(time.Millisecond)))
}

func (m *Model) uplinkItem(at time.Time) StatusItem {
	it := StatusItem{Name: "Uplink", Value: "none", Rank: 2}
	up := 0
	for _, u := range m.status.Uplinks {
		if u.State == "up" {
			up++
		}
	}
	n := len(m.status.Uplinks)
	switch {
	case n == 0:
		return it
	case up == n && n == 1:
		it.Value = "up"
		return it
	case up == n:
		it.Value = "all " + strconv.Itoa(n) + " up"
		return it
	}
	u := m.worstUplink()
	it.Value, it.Severity = uplinkWord(u)
	if !u.Since.IsZero() {
		it.Value += " " + Span(m.gateway(at).Sub(u.Since))
	}
	if n > 1 {
		it.Name = "Uplink " + u.ID
	}
	return it
}

// uplinkWord names an uplink's state and how bad it is.
func uplinkWord(u api.Uplink) (word string, severity int) {
	switch u.State {
	case "up":
		return "up", 0
	case "throttled":
		return "throttled", 3
	case "connecting":
		return "connecting", 0
	case "paused":
		return "paused", 3
	}
	return "DOWN", 2
}

// spooling says that some uplink does not take what is kept for it.
func (m *Model) spooling() bool {
	return slices.ContainsFunc(m.status.Uplinks, func(u api.Uplink) bool { return u.State != "up" })
}

func (m *Model) diskItem() StatusItem {
	d := m.status.Disk
	it := StatusItem{Name: "Disk", Rank: 4}
	switch {
	case m.status.ReadOnly:
		it.Value, it.Severity, it.Rank = "TAKES NO WRITES", 1, 1
	case d.Full:
		it.Value, it.Severity, it.Rank = "FULL, producers held back", 1, 1
	default:
		it.Value = Bytes(d.Used)
		if d.Quota > 0 {
			it.Value += " of " + Bytes(d.Quota)
		}
		if d.DaysLeft != nil {
			it.Value += "  " + days(*d.DaysLeft) + " left"
			// While everything is delivered, a full quota only means that the
			// oldest delivered records go.
			if *d.DaysLeft < 1 && m.spooling() {
				it.Severity, it.Rank = 3, 2
			}
		}
	}
	return it
}

// notice is the worst problem that is not said elsewhere: uplinks stand in
// the status line and in the backlog, a full disk in the status line.
func (m *Model) notice() Notice {
	var n Notice
	for _, p := range m.status.Problems {
		if p.Kind == "uplink" || p.Kind == "disk" && (m.status.Disk.Full || m.status.ReadOnly) {
			continue
		}
		if n.Text == "" {
			n.Text = p.Text
		} else {
			n.More++
		}
	}
	return n
}
