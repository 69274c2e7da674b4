package view

import (
	"slices"
	"strings"
	"time"

	"forebay/gateway/api"
)

// Errand is a replay or a redrive beside an uplink.
type Errand struct {
	ID     string
	Title  string  // "Replay 3 of mqtt as replay-3-mqtt"
	Detail string  // how far it is
	Note   string  // what is wrong, or who ordered it
	Share  float64 // of its records that are passed, 0..1
	Cancel bool    // it can be ended before its time
	Asked  bool    // the gateway has not answered yet
	Failed bool    // Note says that something was not done
	Stuck  bool    // Note says what is wrong
	Gone   bool    // it has ended
	Old    bool
}

// goneFor is how long an errand that has ended is still shown.
const goneFor = 5 * time.Minute

// gone is an errand that the gateway lists no more.
type gone struct {
	api.Errand
	uplink string
	at     time.Time
	unseen bool      // it was over before a status had it
	since  time.Time // the end is in the audit from then on, by the gateway's clock
	tries  int       // how often it was looked for there
	end    End
}

// End is how an errand ended, as the stream audit has it.
type End struct {
	ID, By string
	At     time.Time
	Note   string // "done: 9 of 9 records, 0 refused, 0 not kept any more"
}

// Look is an errand whose end is to be looked up in the stream audit, from a
// time on.
type Look struct {
	ID     string
	Uplink string
	Since  time.Time
}

// endTries is how often the audit is asked for an end.
const endTries = 10

// Ends are the ends to look up; each is asked for a few times only.
func (m *Model) Ends() (out []Look) {
	if m.link != Live {
		return nil
	}
	for i := range m.gone {
		if g := &m.gone[i]; g.end.ID == "" && g.tries < endTries {
			g.tries++
			out = append(out, Look{g.ID, g.uplink, g.since})
		}
	}
	return out
}

// Ended takes an end that was found.
func (m *Model) Ended(e End) {
	for i := range m.gone {
		if m.gone[i].ID == e.ID {
			m.gone[i].end = e
		}
	}
}

// unseenAfter is how long after an order a status without the errand says that
// it is over: the status may have been taken while it was ordered.
const unseenAfter = 2 * time.Second

// placed is an errand that was ordered here, and is in no status yet.
type placed struct {
	api.Errand
	uplink string
}

// missErrands keeps the errands that the next status does not have; now is its
// time, by the gateway's clock.
func (m *Model) missErrands(at, now time.Time, next []api.Uplink) {
	if !m.heard {
		return
	}
	m.placed = slices.DeleteFunc(m.placed, func(p placed) bool {
		listed := slices.ContainsFunc(next, func(u api.Uplink) bool {
			return slices.ContainsFunc(u.Errands, func(e api.Errand) bool { return e.ID == p.ID })
		})
		over := !listed && now.Sub(p.At) > unseenAfter
		if over {
			m.gone = append(m.gone, gone{Errand: p.Errand, uplink: p.uplink, at: at, unseen: true, since: p.At})
		}
		return listed || over
	})
	for _, u := range m.status.Uplinks {
		i := slices.IndexFunc(next, func(n api.Uplink) bool { return n.ID == u.ID })
		if i < 0 {
			continue
		}
		for _, e := range u.Errands {
			if !slices.ContainsFunc(next[i].Errands, func(n api.Errand) bool { return n.ID == e.ID }) {
				m.gone = append(m.gone, gone{Errand: e, uplink: u.ID, at: at, since: m.status.Now})
			}
		}
	}
	m.gone = slices.DeleteFunc(m.gone, func(g gone) bool { return at.Sub(g.at) > goneFor })
}

// errandsOf are those of an uplink, those that have ended last.
func (m *Model) errandsOf(at time.Time, u api.Uplink) (out []Errand) {
	for _, e := range u.Errands {
		v := errand(e)
		v.Old = m.link == Lost
		said, failed, asked := m.said(at, e.ID)
		v.Asked, v.Failed = asked, failed
		v.Cancel = m.link == Live && !asked
		if said != "" {
			v.Note = said
		}
		out = append(out, v)
	}
	for _, g := range m.gone {
		if g.uplink != u.ID || at.Sub(g.at) > goneFor {
			continue
		}
		v := errand(g.Errand)
		m.said(at, g.ID) // nobody reads it any more
		v.Gone, v.Stuck, v.Old = true, false, m.link == Lost
		v.Detail = "has ended; when last seen " + counts(g.Errand)
		if g.unseen {
			v.Detail = "has ended, too soon to be seen under way; it had " + plural(int(min(g.Total, 1<<53)), "record", "records")
		}
		v.Note = "The stream audit says how it ended"
		if why, rest, ok := strings.Cut(g.end.Note, ": "); ok {
			v.Detail = why + " at " + m.clock(g.end.At, m.gateway(at)) + ", " + rest
			v.Note = "Ordered by " + g.By
			switch why {
			case "done":
				v.Share = 1
			case "canceled":
				v.Note += ", canceled by " + g.end.By
			}
		}
		out = append(out, v)
	}
	return out
}

// counts is how far an errand is, without the time that it takes.
func counts(e api.Errand) string {
	parts := []string{Count(e.Done) + " of " + plural(int(min(e.Total, 1<<53)), "record", "records")}
	if e.Refuse > 0 {
		parts = append(parts, Count(e.Refuse)+" refused")
	}
	if e.Missed > 0 {
		parts = append(parts, Count(e.Missed)+" not kept any more")
	}
	if e.Left > 0 {
		parts = append(parts, Count(e.Left)+" more for another redrive")
	}
	return strings.Join(parts, ", ")
}

func errandTitle(e api.Errand) string {
	t := map[string]string{"replay": "Replay", "redrive": "Redrive"}[e.Kind] + " " + e.ID[strings.LastIndexByte(e.ID, '-')+1:]
	if e.Stream != "" {
		t += " of " + e.Stream + " as " + e.As
	}
	return t
}

// errand is a replay or a redrive in words.
func errand(e api.Errand) Errand {
	v := Errand{ID: e.ID, Title: errandTitle(e), Detail: counts(e)}
	if e.Total > 0 {
		v.Share = float64(min(e.Done, e.Total)) / float64(e.Total)
	}
	switch {
	case e.State != "up":
		v.Detail += ", " + e.State
	case e.ETA != nil && e.Done < e.Total:
		v.Detail += ", done in " + ETA(seconds(*e.ETA))
	}
	v.Note, v.Stuck = e.Error, e.Error != ""
	if v.Note == "" && e.By != "" {
		v.Note = "Ordered by " + e.By
	}
	return v
}
