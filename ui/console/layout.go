package console

import (
	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"
)

const (
	gap        = 5
	statusHigh = 26
	navWide    = 112
	navNarrow  = 50
	bleed      = 2 // a scroll cuts what it holds; frames at its edge keep this far inside
)

// compactBelow is the least window that has room for two columns.
var compactBelow = fyne.NewSize(1180, 680)

// rootLayout places status line, banner, navigation and the page.
type rootLayout struct{ c *Console }

func (rootLayout) MinSize([]fyne.CanvasObject) fyne.Size { return fyne.NewSize(760, 420) }

func (l rootLayout) Layout(_ []fyne.CanvasObject, s fyne.Size) {
	c := l.c
	compact := s.Width < compactBelow.Width || s.Height < compactBelow.Height
	c.status.Move(fyne.NewPos(gap, 2))
	c.status.Resize(fyne.NewSize(s.Width-2*gap, statusHigh))
	y := float32(statusHigh + 4)
	c.banner.Move(fyne.NewPos(gap, y))
	c.banner.Resize(fyne.NewSize(s.Width-2*gap, hmi.BannerHeight))
	y += hmi.BannerHeight + gap
	nav := float32(navWide)
	if compact {
		nav = navNarrow
	}
	c.nav.narrow(compact)
	c.nav.box.Move(fyne.NewPos(gap, y))
	c.nav.box.Resize(fyne.NewSize(nav, s.Height-y-gap))
	x := gap + nav + gap
	pos, size := fyne.NewPos(x, y), fyne.NewSize(s.Width-x-gap, s.Height-y-gap)
	c.over.compact, c.over.room = compact, size
	c.over.scroll.Move(pos.SubtractXY(bleed, bleed))
	c.over.scroll.Resize(size.AddWidthHeight(2*bleed, 2*bleed))
	c.over.scroll.Content.Refresh()
	c.links.desk.touch(compact)
	c.links.box.Move(pos.SubtractXY(bleed, bleed))
	c.links.box.Resize(size.AddWidthHeight(2*bleed, 2*bleed))
	c.alarms.touch(compact)
	c.alarms.box.Move(pos)
	c.alarms.box.Resize(size)
}

// statusLine is the first line of the window: where one is, and how the
// gateway does.
type statusLine struct {
	widget.BaseWidget
	title, items *hmi.Numeral
}

func newStatusLine(ink *hmi.Ink) *statusLine {
	l := &statusLine{
		title: hmi.NewNumeral(ink, statusHigh, hmi.Leading),
		items: hmi.NewNumeral(ink, statusHigh, hmi.Trailing),
	}
	l.ExtendBaseWidget(l)
	return l
}

func (l *statusLine) set(s view.Snapshot) {
	label, value := hmi.Style{Size: 13}, hmi.Style{Size: 13, Bold: true}
	title := []hmi.Group{{Runs: []hmi.Run{{Text: s.Title, Style: hmi.Style{Size: 15, Bold: true}}}}}
	if s.Notice.Text != "" {
		t := s.Notice.Text
		if s.Notice.More > 0 {
			t += "  (+" + view.Count(uint64(s.Notice.More)) + " more)"
		}
		title = append(title, hmi.Group{Runs: []hmi.Run{{Text: t, Style: value}}, Rank: 1})
	}
	l.title.Set(title...)
	groups := make([]hmi.Group, 0, len(s.Status))
	for _, it := range s.Status {
		groups = append(groups, hmi.Group{Rank: it.Rank, Runs: []hmi.Run{
			{Text: it.Name, Style: label, Tone: hmi.Quiet},
			{Text: it.Value, Style: value, Badge: it.Severity},
		}})
	}
	l.items.Set(groups...)
	l.place(l.Size())
}

func (l *statusLine) CreateRenderer() fyne.WidgetRenderer {
	return widget.NewSimpleRenderer(container.New(statusLayout{l}, l.title, l.items))
}

type statusLayout struct{ l *statusLine }

func (statusLayout) MinSize([]fyne.CanvasObject) fyne.Size       { return fyne.NewSize(300, statusHigh) }
func (s statusLayout) Layout(_ []fyne.CanvasObject, z fyne.Size) { s.l.place(z) }

// place gives the items the room they need, as far as the title leaves it.
func (l *statusLine) place(z fyne.Size) {
	if z.Width <= 0 {
		return
	}
	title := min(l.title.Wide()+4, z.Width*0.45)
	items := min(l.items.Wide()+4, z.Width-title-16)
	title = z.Width - items - 16
	move(l.title, 0, 0, title, z.Height)
	move(l.items, z.Width-items, 0, items, z.Height)
}

// move places an object, and draws it anew only where that changes something.
func move(o fyne.CanvasObject, x, y, w, h float32) {
	x, y, w, h = float32(int(x)), float32(int(y)), float32(int(w)), float32(int(h))
	if p := fyne.NewPos(x, y); o.Position() != p {
		o.Move(p)
	}
	if s := fyne.NewSize(w, h); o.Size() != s {
		o.Resize(s)
	}
}

// panel is a titled box.
type panel struct {
	widget.BaseWidget
	title   *canvas.Text
	note    *hmi.Numeral
	ground  *canvas.Rectangle
	content fyne.CanvasObject
	head    float32
}

const (
	panelPad  = 8
	panelHead = 24
)

func newPanel(ink *hmi.Ink, title string, content fyne.CanvasObject) *panel {
	p := &panel{
		title: canvas.NewText(title, nil), note: hmi.NewNumeral(ink, panelHead-4, hmi.Trailing),
		ground: canvas.NewRectangle(nil), content: content, head: panelHead,
	}
	p.title.TextSize, p.title.TextStyle = 12, fyne.TextStyle{Bold: true}
	if title == "" {
		p.head = 0
		p.title.Hide()
		p.note.Hide()
	}
	p.ground.StrokeWidth = 1
	p.ExtendBaseWidget(p)
	return p
}

// say writes at the right of the panel's title.
func (p *panel) say(t string) {
	p.note.SetText(t, hmi.Style{Size: 12}, hmi.Quiet)
}

func (p *panel) CreateRenderer() fyne.WidgetRenderer {
	r := &panelRenderer{p: p}
	r.paint()
	return r
}

type panelRenderer struct{ p *panel }

func (r *panelRenderer) paint() {
	th := r.p.Theme()
	v := fyne.CurrentApp().Settings().ThemeVariant()
	r.p.ground.FillColor = th.Color(theme.ColorNameHeaderBackground, v)
	r.p.ground.StrokeColor = th.Color(theme.ColorNameSeparator, v)
	r.p.title.Color = th.Color(theme.ColorNamePlaceHolder, v)
}

func (r *panelRenderer) Layout(s fyne.Size) {
	p := r.p
	p.ground.Resize(s)
	p.title.Move(fyne.NewPos(panelPad, 4))
	p.title.Resize(p.title.MinSize())
	x := panelPad + p.title.MinSize().Width + 12
	move(p.note, x, 3, max(0, s.Width-x-panelPad), panelHead-4)
	y := max(panelPad, p.head+2)
	move(p.content, panelPad, y, max(0, s.Width-2*panelPad), max(0, s.Height-y-panelPad+2))
}

func (r *panelRenderer) MinSize() fyne.Size {
	m := r.p.content.MinSize()
	return fyne.NewSize(m.Width+2*panelPad, m.Height+max(panelPad, r.p.head+2)+panelPad-2)
}

func (r *panelRenderer) Refresh() {
	r.paint()
	r.p.ground.Refresh()
	r.p.title.Refresh()
	r.p.note.Refresh()
	r.p.content.Refresh()
}

func (r *panelRenderer) Objects() []fyne.CanvasObject {
	return []fyne.CanvasObject{r.p.ground, r.p.title, r.p.note, r.p.content}
}

func (r *panelRenderer) Destroy() {}
