package view

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"forebay/gateway/api"
)

var (
	// ErrNotSent marks an error of a request that did not reach the gateway.
	ErrNotSent = errors.New("the gateway cannot be reached; nothing was sent")
	// ErrNoAnswer marks an error of a request that may have been done: it was
	// sent, and the answer did not come.
	ErrNoAnswer = errors.New("no answer from the gateway")
)

// Order is a replay as an operator wants it. A zero From is the oldest record,
// a zero To is now, an empty As is the gateway's own choice.
type Order struct {
	Uplink, Stream string
	From, To       time.Time // UTC
	As             string
}

// Desk is what the gateway has said to what the operator does with one uplink:
// a replay, or what the target refused. It is that of the uplink that was
// opened last.
type Desk struct {
	Uplink   string
	By       string // under whose name things are ordered
	Replay   Replay
	Refused  Refused
	Now      time.Time // the gateway's clock, in the operator's zone
	Live     bool      // there is a gateway to tell
	Offline  string    // what cannot be done without it; "" while there is one
	ZoneText string    // of the times that are typed and shown
}

// Replay is the state of a replay that is being ordered.
type Replay struct {
	Streams []Kept
	Say     string // why there are none
	Asked   Order  // that the rest is about
	Busy    bool   // the gateway has not answered yet
	Ready   bool   // it was checked, and can be started
	Start   Order  // what is started then: the bounds and the name of the check
	Count   string // "241,300 records"
	Lines   []Line
	Order   bool // the lines are about the order itself, not about a check
	Done    bool // it was ordered
	Version int  // grows with every answer
}

// Kept is a stream that an uplink hands on, and what is kept of it.
type Kept struct{ Name, Text string }

// Line is a sentence; Loud ones are those to be read.
type Line struct {
	Text string
	Loud bool
}

// Refused is the list of what a target refused.
type Refused struct {
	Rows    []Letter // newest first
	Total   uint64   // how many there are
	Head    string   // how many are shown, and as of when
	Busy    bool     // the gateway has not answered yet
	More    int      // how many to ask for to see more; 0 where there are none
	Lines   []Line   // what became of the last redrive, or why there is no list
	Sending bool     // a redrive was asked for, and not answered yet
	Version int      // grows with every answer to a redrive
}

// Letter is a refused record.
type Letter struct {
	ID, Time, Stream, Size, Reason string
	Key, Type                      string
}

const (
	// FirstLetters is how many refused records are shown first.
	FirstLetters = 100
	mostLetters  = 10_000 // that the gateway lists, and that one redrive takes
)

// desk is what is known for the page that the operator has open.
type desk struct {
	uplink   string
	streams  []api.Stream
	gotNames bool
	nameErr  error

	asked    Order
	busy     bool
	starting bool
	check    *api.Errand
	started  *api.Errand
	err      error
	version  int

	rows     []Letter
	letters  api.Refused
	limit    int
	listing  bool
	listed   time.Time // gateway's clock; zero where there is no list
	listErr  error
	sending  int // letters; 0 for none
	redrive  *api.Errand
	sendErr  error
	sendings int
}

// Open says that the operator turns to an uplink; what was known for another
// one is forgotten.
func (m *Model) Open(uplink string) {
	if m.desk.uplink != uplink {
		m.desk = desk{uplink: uplink, version: m.desk.version, sendings: m.desk.sendings}
	}
	d := &m.desk
	d.streams, d.gotNames, d.nameErr = nil, false, nil
	if !d.busy {
		d.asked, d.check, d.started, d.err, d.starting = Order{}, nil, nil, nil, false
	}
}

// Streams takes the gateway's streams.
func (m *Model) Streams(uplink string, all []api.Stream, err error) {
	if d := &m.desk; d.uplink == uplink {
		d.streams, d.gotNames, d.nameErr = all, true, err
	}
}

// Checking says that a preview of an order was asked for, Starting that the
// order itself was given.
func (m *Model) Checking(o Order) {
	if d := &m.desk; d.uplink == o.Uplink {
		d.asked, d.busy, d.starting, d.check, d.started, d.err = o, true, false, nil, nil, nil
	}
}

// Starting is that, of the order itself.
func (m *Model) Starting(o Order) {
	if d := &m.desk; d.uplink == o.Uplink {
		d.busy, d.starting, d.started, d.err = true, true, nil, nil
	}
}

// Ordered says how the last of the two ended.
func (m *Model) Ordered(o Order, e api.Errand, err error) {
	d := &m.desk
	if err == nil && e.State != "preview" {
		m.placed = append(m.placed, placed{e, o.Uplink})
	}
	if d.uplink != o.Uplink || !d.busy {
		return
	}
	d.busy, d.err = false, err
	d.version++
	switch {
	case err != nil:
	case d.starting:
		d.started, d.check = &e, nil
	default:
		d.check = &e
	}
}

// Listing says that refused records were asked for.
func (m *Model) Listing(uplink string, limit int) {
	if d := &m.desk; d.uplink == uplink {
		d.listing, d.limit = true, limit
	}
}

// Listed takes them, at the console's time at.
func (m *Model) Listed(at time.Time, uplink string, r api.Refused, err error) {
	d := &m.desk
	if d.uplink != uplink {
		return
	}
	d.listing, d.listErr = false, err
	if err != nil {
		return
	}
	now := m.gateway(at)
	d.letters, d.listed, d.rows = r, now, make([]Letter, 0, len(r.Letters))
	for _, l := range r.Letters {
		d.rows = append(d.rows, Letter{
			ID: l.ID, Time: m.clock(l.Arrived, now), Stream: l.Stream, Size: Bytes(int64(l.Bytes)), Reason: l.Reason, Key: l.Key, Type: l.Type,
		})
	}
}

// Relist says whether the list of an uplink is open, and how much of it: what
// a redrive has brought back is in it then.
func (m *Model) Relist(uplink string) (limit int, open bool) {
	d := &m.desk
	return max(FirstLetters, d.limit), d.uplink == uplink && !d.listed.IsZero() && !d.listing
}

// Sending says that n letters are to be sent again.
func (m *Model) Sending(uplink string, n int) {
	if d := &m.desk; d.uplink == uplink {
		d.sending, d.redrive, d.sendErr = max(1, n), nil, nil
	}
}

// Redriven says how that ended.
func (m *Model) Redriven(uplink string, e api.Errand, err error) {
	d := &m.desk
	if err == nil {
		m.placed = append(m.placed, placed{e, uplink})
	}
	if d.uplink != uplink {
		return
	}
	d.sending, d.sendErr = 0, err
	d.sendings++
	if err == nil {
		d.redrive = &e
	}
}

// deskOf is the desk in words.
func (m *Model) deskOf(at time.Time) Desk {
	d := &m.desk
	now := m.gateway(at).In(m.cfg.Location)
	v := Desk{Uplink: d.uplink, By: m.cfg.By, Now: now, Live: m.link == Live, ZoneText: Zone(now)}
	if d.uplink == "" {
		return v
	}
	if !v.Live {
		v.Offline = "The console does not hear the gateway: nothing can be ordered now. What is typed stays, and what was ordered goes on there"
	}
	v.Replay, v.Refused = m.replay(now), m.refused()
	return v
}

func (m *Model) replay(now time.Time) Replay {
	d := &m.desk
	v := Replay{Asked: d.asked, Busy: d.busy, Order: d.starting, Version: d.version}
	switch {
	case d.nameErr != nil:
		v.Say = "The streams cannot be listed: " + inWords(d.nameErr)
	case !d.gotNames:
		v.Say = "Asking the gateway for its streams"
	default:
		if v.Streams = m.kept(now); len(v.Streams) == 0 {
			v.Say = "This uplink hands on no stream that has records"
		}
	}
	switch {
	case d.busy && d.starting:
		v.Lines = []Line{{"The order is sent", true}}
	case d.busy:
		v.Lines = []Line{{"Asking the gateway what that would be", false}}
	case d.started != nil:
		v.Done = true
		v.Lines = []Line{
			{fmt.Sprintf("Ordered: %s, %s. Its progress is below; it goes on without this window", errandTitle(*d.started), plural(int(d.started.Total), "record", "records")), true},
			{"Noted in the stream audit under " + d.started.By, false},
		}
	case d.err != nil:
		v.Lines = m.failure(d)
	}
	if d.check != nil && !d.busy && !v.Done {
		m.checked(&v, *d.check, now)
	}
	return v
}

// failure says why a check or an order came to nothing.
func (m *Model) failure(d *desk) []Line {
	switch {
	case !d.starting:
		return []Line{{"Not possible: " + inWords(d.err), true}}
	case errors.Is(d.err, ErrNoAnswer):
		return []Line{
			{"No answer from the gateway: the replay may have been ordered. It stands below when it was", true},
			{"To start it once more is safe: the gateway takes a name for one replay only", false},
		}
	}
	return []Line{{"Not started: " + inWords(d.err), true}}
}

// checked says what a replay would be.
func (m *Model) checked(v *Replay, e api.Errand, now time.Time) {
	v.Ready = true
	v.Count = plural(int(min(e.Total, 1<<53)), "record", "records")
	v.Start = Order{Uplink: e.Uplink, Stream: e.Stream, As: e.As}
	from := "the oldest on"
	if e.From != nil {
		v.Start.From = e.From.UTC()
		from = Moment(e.From.In(m.cfg.Location))
	}
	to := now
	if e.To != nil {
		v.Start.To = e.To.UTC()
		to = e.To.In(m.cfg.Location)
	}
	size := "size not known"
	if e.Bytes > 0 {
		size = "about " + Bytes(e.Bytes)
	}
	target, goes := e.Uplink, "go"
	if e.Total == 1 {
		goes = "goes"
	}
	for _, u := range m.status.Uplinks {
		if u.ID == e.Uplink && u.Target != "" {
			target = u.Target
		}
	}
	lines := []Line{
		{fmt.Sprintf("%s of %s, %s, %s to %s again as %s", v.Count, e.Stream, size, goes, target, e.As), true},
		{"Arrived from " + from + " to before " + Moment(to), false},
		{"It goes out behind everything else under the bandwidth caps, with the uplink's filters and maps. It will be noted in the stream audit under " + m.cfg.By, false},
	}
	v.Lines = append(lines, v.Lines...)
}

// kept are the streams that the uplink has a cursor in.
func (m *Model) kept(now time.Time) (out []Kept) {
	for _, s := range m.desk.streams {
		if !slices.ContainsFunc(s.Cursors, func(c api.Cursor) bool { return c.Name == m.desk.uplink }) {
			continue
		}
		var oldest *time.Time
		for _, sh := range s.Shards {
			if sh.Oldest != nil && (oldest == nil || sh.Oldest.Before(*oldest)) {
				oldest = sh.Oldest
			}
		}
		k := Kept{Name: s.Name, Text: "keeps nothing now"}
		if s.Records > 0 {
			k.Text = fmt.Sprintf("keeps %s, %s", plural(int(min(s.Records, 1<<53)), "record", "records"), Bytes(s.Bytes))
			if oldest != nil {
				k.Text += ", since " + m.clock(*oldest, now)
			}
		}
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b Kept) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
	return out
}

func (m *Model) refused() Refused {
	d := &m.desk
	v := Refused{Rows: d.rows, Total: d.letters.Total, Busy: d.listing, Sending: d.sending > 0, Version: d.sendings}
	shown := len(d.rows)
	switch {
	case d.listed.IsZero() && d.listErr == nil:
		v.Head = "asking the gateway"
	case d.listed.IsZero():
		v.Head = "not known"
	default:
		v.Head = plural(int(min(d.letters.Total, 1<<53)), "refused record", "refused records")
		if uint64(shown) < d.letters.Total {
			v.Head = fmt.Sprintf("the newest %s of %s", Count(uint64(shown)), v.Head)
		}
		if d.letters.Redrive > 0 {
			more := " more"
			if d.letters.Total == 0 {
				more = ""
			}
			v.Head += ", " + Count(d.letters.Redrive) + more + " were sent again"
		}
		v.Head += ", as of " + d.listed.In(m.cfg.Location).Format("15:04:05")
	}
	if uint64(shown) < d.letters.Total && shown < mostLetters {
		v.More = min(mostLetters, max(FirstLetters, shown)*10)
	}
	add := func(loud bool, format string, a ...any) {
		v.Lines = append(v.Lines, Line{fmt.Sprintf(format, a...), loud})
	}
	switch {
	case d.sending > 0:
		add(true, "%s: sent to the gateway", plural(d.sending, "record", "records"))
	case errors.Is(d.sendErr, ErrNoAnswer):
		add(true, "No answer from the gateway: they may be on their way again. The list tells, when it is read anew")
		add(false, "To ask once more is safe: what was sent again is not sent a second time")
	case d.sendErr != nil:
		add(true, "Not sent again: %s", inWords(d.sendErr))
	case d.redrive != nil:
		add(true, "Ordered: %s, %s. Its progress is below; it goes on without this window", errandTitle(*d.redrive), plural(int(d.redrive.Total), "record", "records"))
		add(false, "Noted in the stream audit under %s", d.redrive.By)
	}
	if d.listErr != nil {
		add(true, "The list cannot be read: %s", inWords(d.listErr))
	}
	return v
}

// inWords is an error for a person.
func inWords(err error) string {
	if errors.Is(err, ErrNotSent) {
		return ErrNotSent.Error()
	}
	return err.Error()
}

// RedriveText asks whether n letters, or all of them, are to be sent again.
func RedriveText(n uint64, all bool, uplink, by string) []Line {
	what := plural(int(min(n, 1<<53)), "refused record", "refused records")
	first := fmt.Sprintf("Send %s to the target of %s again?", what, uplink)
	if all && n > mostLetters {
		first = fmt.Sprintf("Send the oldest %s of %s to the target of %s again?", Count(mostLetters), what, uplink)
	}
	return []Line{
		{first, true},
		{"Mend the cause first, or they are refused once more. Each gets a new id, with its first one as the attribute redrive.id. It will be noted in the stream audit under " + by, false},
	}
}
