package view

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"forebay/gateway/api"
)

// Uplink is one uplink on the page of uplinks.
type Uplink struct {
	ID      string
	Backlog Backlog  // its state and what waits for it
	Cause   string   // what is wrong, in the operator's words; "" when nothing is
	Advice  string   // what is done about it, and what a person can do
	Facts   []Fact   // rates, limit, cost
	Errands []Errand // replays and redrives beside it
	Said    string   // what became of what the operator asked for; "" when nothing is to say
	Failed  bool     // it was not done
	Asked   bool     // the gateway has not answered yet
	Paused  bool
	Retry   bool // there is something to try at once
	Live    bool // there is a gateway to tell
}

// Fact is a name and what it is now.
type Fact struct{ Name, Value string }

// asked is what an operator asked of an uplink.
type asked struct {
	verb string
	at   time.Time
	done bool
	err  string
}

// askedFor is how long an answer is shown.
const askedFor = 10 * time.Second

// Asking says that an operator asked for a verb of an uplink: pause, resume,
// retry; or of an errand: cancel.
func (m *Model) Asking(at time.Time, id, verb string) { m.asked[id] = asked{verb: verb, at: at} }

// Asked says how that ended.
func (m *Model) Asked(at time.Time, id string, err error) {
	a := m.asked[id]
	a.at, a.done = at, true
	switch {
	case err == nil:
	case errors.Is(err, ErrNoAnswer):
		a.err = ": no answer from the gateway; whether it was done shows when it is heard again"
	default:
		a.err = " failed: " + inWords(err)
	}
	m.asked[id] = a
}

func (m *Model) uplinks(at time.Time) ([]Uplink, string) {
	if !m.heard {
		return nil, "not known yet"
	}
	now := m.shownAt(at)
	out := make([]Uplink, 0, len(m.status.Uplinks))
	for _, u := range m.status.Uplinks {
		v := Uplink{ID: u.ID, Backlog: m.backlogOf(u, now), Paused: u.State == "paused", Live: m.link == Live}
		v.Retry = v.Live && !v.Paused && u.State != "up"
		if u.Error != "" {
			v.Cause, v.Advice = cause(u), u.Advice
			v.Retry = v.Live && !v.Paused // a lane may wait while the others go
		}
		if v.Cause != "" && !v.Paused && u.State != "throttled" {
			v.Backlog.Headline = "" // the cause says more
		}
		v.Facts = facts(u)
		v.Errands = m.errandsOf(at, u)
		v.Said, v.Failed, v.Asked = m.said(at, u.ID)
		out = append(out, v)
	}
	say := m.counted() + m.clockSays()
	if m.link == Lost {
		say += ", as of " + m.clock(m.gateway(m.confirmed), m.gateway(at))
	}
	return out, say
}

// counted is how many uplinks there are, by their states.
func (m *Model) counted() string {
	n := len(m.status.Uplinks)
	if n == 0 {
		return "No uplink is configured: records stay on this gateway until its quota is reached"
	}
	count := map[string]int{}
	for _, u := range m.status.Uplinks {
		word, _ := uplinkWord(u)
		count[word]++
	}
	var parts []string
	for _, word := range []string{"up", "DOWN", "throttled", "connecting", "paused"} {
		if count[word] > 0 {
			parts = append(parts, strconv.Itoa(count[word])+" "+word)
		}
	}
	return plural(n, "uplink", "uplinks") + ": " + strings.Join(parts, ", ")
}

// clockSays is how far the gateway's clock is from the targets', where it
// matters to a person.
func (m *Model) clockSays() string {
	off := m.status.ClockOff
	if off == nil || math.Abs(*off) < 1000 {
		return ""
	}
	side := "behind"
	if *off < 0 {
		side = "ahead of"
	}
	return ". The gateway's clock is " + offset(*off) + " " + side + " the targets'; requests are signed with theirs"
}

// said is what became of what the operator asked for.
func (m *Model) said(at time.Time, id string) (text string, failed, waits bool) {
	a, ok := m.asked[id]
	most := askedFor
	if !a.done {
		most *= 2 // the answer, or that there is none, comes before
	}
	switch d := at.Sub(a.at); {
	case !ok:
		return "", false, false
	case d > most || d < 0:
		delete(m.asked, id)
		return "", false, false
	case !a.done:
		return a.verb + " sent", false, true
	case a.err != "":
		return a.verb + a.err, true, false
	}
	return a.verb + " done", false, false
}

// cause says what is wrong by the error's class.
func cause(u api.Uplink) string {
	words := map[string]string{
		"throttled":     "The target asks for less",
		"transient":     "The target failed; it is tried again",
		"ambiguous":     "No answer; it is sent again with the same ids",
		"auth":          "The target does not accept who we are",
		"clock-skew":    "The target says that this gateway's clock is wrong",
		"misconfigured": "Somebody must mend the config or the target",
		"poison":        "A record cannot be taken, nor set aside",
		"offline":       "The target cannot be reached",
	}[u.Class]
	if words == "" {
		return u.Error
	}
	return words + ": " + strings.TrimPrefix(u.Error, "cannot reach the target: ")
}

// facts are the numbers of an uplink; what is not known keeps its place. Where
// nothing has a price there is no word of a month.
func facts(u api.Uplink) []Fact {
	const none = "—"
	f := []Fact{
		{"Out", Count(uint64(math.Max(0, u.Out.Records)+0.5)) + " rec/s  " + ByteRate(u.Out.Bytes)},
		{"Net drain", none},
		{"Cap", "none"},
		{"On the wire", none},
		{"Refused", Count(u.Refused)},
	}
	if u.ETA != nil && *u.ETA >= 1 && u.WaitBytes > 0 {
		f[1].Value = ByteRate(float64(u.WaitBytes) / *u.ETA)
	}
	if u.LimitKbit > 0 {
		f[2].Value = Count(uint64(u.LimitKbit)) + " kbit/s"
		if u.Capped {
			f[2].Value += ", holds back"
		}
	}
	if w := u.Used.WirePerPayload; w > 0 {
		f[3].Value = strconv.FormatFloat(w, 'f', 2, 64) + " B per byte"
	}
	if !u.Cost.Priced && u.Cost.Month == nil { // a gateway of before says nothing of Priced
		return f
	}
	return append(f, Fact{"A month", cost(u.Cost.Month, u.Cost)}, Fact{"not aggregated", cost(u.Cost.MonthPlain, u.Cost)}, Fact{"A month by day", cost(u.Cost.MonthByDay, u.Cost)})
}

func cost(b *api.UplinkBill, of api.UplinkCost) string {
	if b == nil {
		return "not yet known"
	}
	return money(b.Sum) + " " + of.Currency
}

func money(v float64) string {
	if v >= 1000 {
		return Count(uint64(v + 0.5))
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
