package console

import (
	"time"

	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
)

const (
	verbWide = 150
	verbHigh = 44
	verbGap  = 12
	// confirmFor is how long a first tap on Pause waits for the second.
	confirmFor = 5 * time.Second
)

// uplinkPage shows every uplink with what an operator can do about it.
type uplinkPage struct {
	c     *Console
	see   *container.Scroll
	list  *fyne.Container
	rows  []*uplinkRow
	head  *hmi.Numeral
	highs float32
}

// uplinkRow is one uplink: what is drawn, and its two buttons.
type uplinkRow struct {
	panel *panel
	part  *hmi.Uplink
	pause *hmi.Button // Pause, or Resume
	retry *hmi.Button
	now   view.Uplink
	first time.Time // first tap on Pause; zero where none waits for its second
}

func newUplinkPage(c *Console) *uplinkPage {
	p := &uplinkPage{c: c, head: hmi.NewNumeral(c.ink, panelHead, hmi.Leading)}
	p.list = container.New(uplinkLayout{p})
	p.see = container.NewVScroll(p.list)
	p.list.Add(p.head)
	return p
}

func (p *uplinkPage) newRow() *uplinkRow {
	r := &uplinkRow{part: hmi.NewUplink(p.c.ink)}
	r.pause = hmi.NewButton("Pause", nil, verbHigh, func() { p.tapped(r) })
	r.retry = hmi.NewButton("Retry now", nil, verbHigh, func() { p.c.verb(r.now.ID, "retry") })
	r.pause.OnPass, r.retry.OnPass = p.c.TypedKey, p.c.TypedKey
	verbs := container.New(verbLayout{}, r.pause, r.retry)
	r.panel = newPanel(p.c.ink, "", container.New(rowLayout{r}, r.part, verbs))
	return r
}

// tapped is a tap on Pause or Resume. A pause stops an uplink for everybody
// until somebody ends it, so it takes a second tap.
func (p *uplinkPage) tapped(r *uplinkRow) {
	if r.now.Paused {
		p.c.verb(r.now.ID, "resume")
		return
	}
	now := p.c.Now()
	if r.first.IsZero() || now.Sub(r.first) > confirmFor {
		r.first = now
		r.arm(now)
		return
	}
	r.first = time.Time{}
	r.arm(now)
	p.c.verb(r.now.ID, "pause")
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
	return max(r.part.Height(w-2*panelPad-verbWide-verbGap), 2*verbHigh+gap) + 2*panelPad
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

// rowLayout gives the buttons their width, and the rest to what is drawn.
type rowLayout struct{ r *uplinkRow }

func (rowLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(280+verbWide, 2*verbHigh+gap)
}

func (rowLayout) Layout(objs []fyne.CanvasObject, s fyne.Size) {
	move(objs[0], 0, 0, s.Width-verbWide-verbGap, s.Height)
	move(objs[1], s.Width-verbWide, 0, verbWide, 2*verbHigh+gap)
}

// verbLayout stands the buttons below each other.
type verbLayout struct{}

func (verbLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(verbWide, 2*verbHigh+gap)
}

func (verbLayout) Layout(objs []fyne.CanvasObject, s fyne.Size) {
	for i, o := range objs {
		move(o, 0, float32(i)*(verbHigh+gap), s.Width, verbHigh)
	}
}
