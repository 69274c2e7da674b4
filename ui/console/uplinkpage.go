package console

import (
	"time"

	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
)

const (
	verbWide  = 146
	verbsWide = 2*verbWide + gap
	verbHigh  = 44
	verbGap   = 12
	// confirmFor is how long a first tap on Pause waits for the second.
	confirmFor = 5 * time.Second
)

// uplinkPage shows every uplink with what an operator can do about it.
type uplinkPage struct {
	c     *Console
	box   *fyne.Container // the list, or the desk
	see   *container.Scroll
	desk  *deskPage
	list  *fyne.Container
	rows  []*uplinkRow
	head  *hmi.Numeral
	highs float32
}

// uplinkRow is one uplink: what is drawn, its buttons, and its errands.
type uplinkRow struct {
	panel   *panel
	part    *hmi.Uplink
	pause   *hmi.Button // Pause, or Resume
	retry   *hmi.Button
	replay  *hmi.Button
	refused *hmi.Button
	errands *errandRows
	now     view.Uplink
	first   time.Time // first tap on Pause; zero where none waits for its second
}

func newUplinkPage(c *Console) *uplinkPage {
	p := &uplinkPage{c: c, head: hmi.NewNumeral(c.ink, panelHead, hmi.Leading)}
	p.list = container.New(uplinkLayout{p})
	p.see = container.NewVScroll(p.list)
	p.list.Add(p.head)
	p.desk = newDeskPage(c)
	p.box = container.NewStack(p.see, p.desk.see)
	return p
}

func (p *uplinkPage) newRow() *uplinkRow {
	r := &uplinkRow{part: hmi.NewUplink(p.c.ink)}
	r.pause = hmi.NewButton("Pause", nil, verbHigh, func() { p.tapped(r) })
	r.retry = hmi.NewButton("Retry now", nil, verbHigh, func() { p.verb(r, "retry") })
	r.replay = hmi.NewButton("Replay…", nil, verbHigh, func() { p.open(deskReplay, r.now) })
	r.refused = hmi.NewButton("Refused…", nil, verbHigh, func() { p.open(deskRefused, r.now) })
	r.errands = newErrandRows(p.c)
	verbs := container.New(verbLayout{}, r.pause, r.retry, r.replay, r.refused)
	for _, b := range []*hmi.Button{r.pause, r.retry, r.replay, r.refused} {
		b.OnPass = p.c.TypedKey
	}
	r.panel = newPanel(p.c.ink, "", container.New(rowLayout{r}, r.part, verbs, r.errands.box))
	return r
}

// open turns from the list to one uplink.
func (p *uplinkPage) open(kind deskKind, u view.Uplink) {
	p.desk.open(kind, u)
	p.see.Hide()
	p.desk.see.Show()
	if p.c.OnOpen != nil {
		p.c.OnOpen(u.ID)
	}
	if kind == deskRefused {
		if p.c.OnRefused != nil {
			p.c.OnRefused(u.ID, view.FirstLetters)
		}
		p.c.focus(p.desk.refused.table())
		return
	}
	p.c.focus(p.desk.replay.focus())
}

// shut goes back to the list; it reports whether that changed anything. What
// was typed stays.
func (p *uplinkPage) shut() bool {
	if p.desk.kind == deskShut {
		return false
	}
	p.desk.kind = deskShut
	p.desk.see.Hide()
	p.see.Show()
	p.c.focus(nil)
	return true
}

// tapped is a tap on Pause or Resume. A pause stops an uplink for everybody
// until somebody ends it, so it takes a second tap.
func (p *uplinkPage) tapped(r *uplinkRow) {
	if r.now.Paused {
		p.verb(r, "resume")
		return
	}
	now := p.c.Now()
	if r.first.IsZero() || now.Sub(r.first) > confirmFor {
		r.first = now
		r.arm(now)
		return
	}
	r.first = time.Time{}
	p.verb(r, "pause")
}

// verb hands out a verb once: until a frame says how it is, the buttons wait.
func (p *uplinkPage) verb(r *uplinkRow, verb string) {
	id := r.now.ID
	r.now.Asked = true
	r.arm(p.c.Now())
	p.c.verb(id, verb)
}

func (p *uplinkPage) set(s view.Snapshot) {
	p.head.SetText(s.UplinkSay, hmi.Style{Size: 12}, hmi.Quiet)
	changed := len(p.rows) != len(s.Uplinks)
	for len(p.rows) < len(s.Uplinks) {
		p.rows = append(p.rows, p.newRow())
	}
	p.rows = p.rows[:len(s.Uplinks)]
	high := float32(0)
	for i, u := range s.Uplinks {
		r := p.rows[i]
		if r.now.ID != u.ID {
			r.first = time.Time{} // another uplink stands there now
		}
		r.now = u
		r.part.Set(u)
		r.errands.set(u.Errands)
		r.arm(p.c.Now())
		high += r.high(p.wide())
	}
	if changed {
		p.list.Objects = p.list.Objects[:1]
		for _, r := range p.rows {
			p.list.Objects = append(p.list.Objects, r.panel)
		}
	}
	if changed || high != p.highs {
		p.highs = high
		p.list.Refresh()
	}
	p.desk.set(s)
}

// arm shows what the buttons would do now.
func (r *uplinkRow) arm(now time.Time) {
	text := "Pause"
	switch {
	case r.now.Paused:
		text = "Resume"
	case !r.first.IsZero() && now.Sub(r.first) <= confirmFor:
		text = "Tap again to pause"
	default:
		r.first = time.Time{}
	}
	if r.pause.Text != text {
		r.pause.SetText(text)
	}
	enable(r.pause, r.now.Live && !r.now.Asked)
	enable(r.retry, r.now.Retry && !r.now.Asked)
	enable(r.replay, r.now.Live)
	enable(r.refused, r.now.Live)
}

func enable(b *hmi.Button, on bool) {
	switch {
	case on && b.Disabled():
		b.Enable()
	case !on && !b.Disabled():
		b.Disable()
	}
}

// high is how high a row of the given width is.
func (r *uplinkRow) high(w float32) float32 {
	h := r.top(w-2*panelPad) + 2*panelPad
	if e := r.errands.high(); e > 0 {
		h += e + gap
	}
	return h
}

// top is the height of a row without its errands.
func (r *uplinkRow) top(w float32) float32 {
	return max(r.part.Height(w-verbsWide-verbGap), 2*verbHigh+gap)
}

// wide is the width of the rows.
func (p *uplinkPage) wide() float32 { return p.see.Size().Width - 2*bleed }

// uplinkLayout places the rows below each other.
type uplinkLayout struct{ p *uplinkPage }

func (l uplinkLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	h := float32(panelHead + 2*bleed)
	for _, r := range l.p.rows {
		h += r.high(l.p.wide()) + gap
	}
	return fyne.NewSize(100, h)
}

func (l uplinkLayout) Layout(_ []fyne.CanvasObject, s fyne.Size) {
	w := s.Width - 2*bleed
	inset(l.p.head, 4, 0, w-4, panelHead)
	y := float32(panelHead)
	for _, r := range l.p.rows {
		inset(r.panel, 0, y, w, r.high(w))
		y += r.high(w) + gap
	}
}

// rowLayout gives the buttons their width, the rest to what is drawn, and the
// errands a line each below.
type rowLayout struct{ r *uplinkRow }

func (l rowLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(280+verbsWide, 2*verbHigh+gap)
}

func (l rowLayout) Layout(objs []fyne.CanvasObject, s fyne.Size) {
	top := l.r.top(s.Width)
	move(objs[0], 0, 0, s.Width-verbsWide-verbGap, top)
	move(objs[1], s.Width-verbsWide, 0, verbsWide, 2*verbHigh+gap)
	move(objs[2], 0, top+gap, s.Width, l.r.errands.high())
}

// verbLayout stands the buttons in two columns.
type verbLayout struct{}

func (verbLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(verbsWide, 2*verbHigh+gap)
}

func (verbLayout) Layout(objs []fyne.CanvasObject, _ fyne.Size) {
	for i, o := range objs {
		move(o, float32(i/2)*(verbWide+gap), float32(i%2)*(verbHigh+gap), verbWide, verbHigh)
	}
}
