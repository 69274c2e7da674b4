package console

import (
	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/theme"
)

// deskKind is what the operator does with one uplink.
type deskKind int

const (
	deskShut deskKind = iota
	deskReplay
	deskRefused
)

// deskPage takes the place of the list of uplinks while the operator orders a
// replay, or goes through what a target refused. It covers neither the status
// line nor the alarms.
type deskPage struct {
	c       *Console
	kind    deskKind
	uplink  string
	box     *fyne.Container
	see     *container.Scroll
	back    *hmi.Button
	head    *hmi.Numeral
	replay  *replayForm
	refused *refusedList
	errands *errandRows
	under   *panel
	high    float32 // of the body, when it was laid out
}

func newDeskPage(c *Console) *deskPage {
	d := &deskPage{c: c, head: hmi.NewNumeral(c.ink, verbHigh, hmi.Leading)}
	d.back = hmi.NewButton("All uplinks  Esc", theme.NavigateBackIcon(), verbHigh, func() { c.links.shut() })
	d.back.OnPass = c.TypedKey
	d.replay, d.refused, d.errands = newReplayForm(c), newRefusedList(c), newErrandRows(c)
	d.under = newPanel(c.ink, "UNDER WAY", d.errands.box)
	d.box = container.New(deskLayout{d}, d.back, d.head, d.replay.panel, d.refused.panel, d.under)
	d.see = container.NewVScroll(d.box)
	d.see.Hide()
	return d
}

// open turns to an uplink.
func (d *deskPage) open(kind deskKind, u view.Uplink) {
	d.kind, d.uplink = kind, u.ID
	d.replay.open(u.ID)
	d.refused.open(u.ID)
	show(d.replay.panel, kind == deskReplay)
	show(d.refused.panel, kind == deskRefused)
	d.of(u)
	d.see.ScrollToTop()
	d.layOut()
}

// of shows the uplink's own line and errands.
func (d *deskPage) of(u view.Uplink) {
	label, value := hmi.Style{Size: 13}, hmi.Style{Size: 13, Bold: true}
	tone := hmi.Plain
	if u.Backlog.Old {
		value, tone = hmi.Style{Size: 13, Italic: true}, hmi.Quiet
	}
	d.head.Set(
		hmi.Group{Runs: []hmi.Run{{Text: "Uplink", Style: label, Tone: hmi.Quiet}, {Text: u.Backlog.Title, Style: value, Tone: tone}}},
		hmi.Group{Runs: []hmi.Run{{Text: u.Backlog.State, Style: value, Tone: tone, Badge: u.Backlog.Severity}}, Rank: 1},
	)
	d.errands.set(u.Errands)
	show(d.under, len(u.Errands) > 0)
}

func (d *deskPage) set(s view.Snapshot) {
	if d.kind == deskShut {
		return
	}
	desk := s.Desk
	if desk.Uplink != d.uplink { // a frame from before it was opened
		desk = view.Desk{Uplink: d.uplink, By: desk.By, Now: desk.Now, Live: desk.Live, ZoneText: desk.ZoneText, Replay: view.Replay{Say: "Asking the gateway for its streams"}, Refused: view.Refused{Head: "asking the gateway"}}
	}
	var u view.Uplink
	for _, v := range s.Uplinks {
		if v.ID == d.uplink {
			u = v
		}
	}
	if u.ID == "" {
		u = view.Uplink{Backlog: view.Backlog{Title: d.uplink, State: "not in the gateway's config any more"}}
		desk.Live = false
	}
	d.of(u)
	if d.kind == deskReplay {
		d.replay.set(desk)
	} else {
		d.refused.set(desk)
	}
	d.layOut()
}

// layOut places everything anew where the height has changed.
func (d *deskPage) layOut() {
	if h := d.min(d.see.Size().Width); h != d.high {
		d.high = h
		d.box.Refresh()
		d.see.Refresh()
	}
}

func (d *deskPage) touch(on bool) { d.refused.touch(on) }

// underHigh is what the errands need.
func (d *deskPage) underHigh() float32 {
	if !d.under.Visible() {
		return 0
	}
	return gap + panelHead + 2 + d.errands.high() + panelPad
}

// min is the least height of the page at the width w.
func (d *deskPage) min(w float32) float32 {
	h := float32(verbHigh+gap) + d.underHigh() + 2*bleed
	switch d.kind {
	case deskReplay:
		h += d.replay.high(w - 2*bleed)
	case deskRefused:
		h += d.refused.least(w - 2*bleed)
	}
	return h
}

type deskLayout struct{ d *deskPage }

func (l deskLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(100, l.d.min(l.d.see.Size().Width))
}

func (l deskLayout) Layout(_ []fyne.CanvasObject, s fyne.Size) {
	d := l.d
	s = s.SubtractWidthHeight(2*bleed, 2*bleed)
	back := d.back.MinSize().Width + 12
	inset(d.back, 0, 0, back, verbHigh)
	inset(d.head, back+14, 0, s.Width-back-14, verbHigh)
	y := float32(verbHigh + gap)
	if d.kind == deskReplay {
		h := d.replay.high(s.Width)
		inset(d.replay.panel, 0, y, s.Width, h)
		y += h
	} else {
		h := s.Height - y - d.underHigh()
		inset(d.refused.panel, 0, y, s.Width, h)
		y += h
	}
	if u := d.underHigh(); u > 0 {
		inset(d.under, 0, y+gap, s.Width, u-gap)
	}
}
