package hmi

import (
	"slices"

	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/widget"
)

// BannerHeight is that of the alarm strip, and the least size of its button:
// a finger in a glove needs 44 pixels.
const BannerHeight = 44

// Banner is the strip that shows the top unacknowledged alarm with the button
// to acknowledge it directly beside the text, or that the console has lost
// the gateway.
type Banner struct {
	widget.BaseWidget
	OnAck func(ids []string)

	text   *strip
	button *Button
	banner view.Banner
}

// NewBanner makes a quiet strip.
func NewBanner(ink *Ink) *Banner {
	b := &Banner{text: newStrip(ink)}
	b.button = NewButton("Acknowledge  F2", nil, BannerHeight, b.Acknowledge)
	b.button.Hide()
	b.ExtendBaseWidget(b)
	return b
}

// Button is the acknowledge button; hidden where nothing can be acknowledged.
func (b *Banner) Button() *Button { return b.button }

// Acknowledge hands the shown alarm to OnAck, as the button does.
func (b *Banner) Acknowledge() {
	if len(b.banner.AlarmIDs) > 0 && b.OnAck != nil {
		b.OnAck(slices.Clone(b.banner.AlarmIDs))
	}
}

// Set shows a banner.
func (b *Banner) Set(v view.Banner) {
	hadButton := len(b.banner.AlarmIDs) > 0
	b.banner = v
	b.text.set(v)
	if has := len(v.AlarmIDs) > 0; has != hadButton {
		if has {
			b.button.Show()
		} else {
			b.button.Hide()
		}
	}
	b.place(b.Size())
}

// CreateRenderer is the toolkit's.
func (b *Banner) CreateRenderer() fyne.WidgetRenderer {
	return widget.NewSimpleRenderer(container.New(bannerLayout{b}, b.text, b.button))
}

type bannerLayout struct{ b *Banner }

func (l bannerLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(l.b.button.MinSize().Width+240, BannerHeight)
}

func (l bannerLayout) Layout(_ []fyne.CanvasObject, s fyne.Size) {
	l.b.text.Resize(s)
	l.b.place(s)
}

// place puts the button right behind the text, but never nearer than a fixed
// place, so that for most alarms it stays where the hand remembers it.
func (b *Banner) place(s fyne.Size) {
	if s.Width <= 0 {
		return
	}
	w := max(b.button.MinSize().Width+16, BannerHeight)
	x := max(stripText+b.text.wide()+20, min(s.Width*0.4, 400))
	x = float32(int(min(x, s.Width-w)))
	b.text.room = s.Width
	if len(b.banner.AlarmIDs) > 0 {
		b.text.room = x - 8
	}
	size, pos := fyne.NewSize(w, s.Height), fyne.NewPos(x, 0)
	if b.button.Size() != size {
		b.button.Resize(size)
	}
	if b.button.Position() != pos {
		b.button.Move(pos)
	}
}

// stripText is where the strip's text begins, right of its mark.
const stripText = 46

// strip draws the ground, the mark and the two lines of a banner.
type strip struct {
	drawn
	banner view.Banner
	room   float32
}

func newStrip(ink *Ink) *strip {
	t := &strip{}
	t.framed = func(p Palette) frame {
		switch t.banner.Kind {
		case view.BannerAlarm:
			return frame{fill: p.Panel, stroke: p.Priority[t.banner.Severity], width: 2}
		case view.BannerLost:
			// Black on white, or white on black: a fault of the console's own
			// view, not of the plant, so it takes no alarm's colour.
			return frame{fill: p.Text, stroke: p.Text, width: 2}
		}
		return frame{fill: p.Panel, stroke: p.Edge, width: 1}
	}
	t.setup(t, ink, fyne.NewSize(240, BannerHeight), t.paintStrip)
	return t
}

func (t *strip) set(v view.Banner) {
	t.banner = v
	t.Refresh()
}

var (
	stripBold  = Style{Size: 15, Bold: true}
	stripSmall = Style{Size: 12}
)

// wide is the width of the text.
func (t *strip) wide() float32 {
	return max(t.ink.Width(t.banner.Text, stripBold), t.ink.Width(t.banner.Detail, stripSmall))
}

func (t *strip) paintStrip(s *surface) {
	v := t.banner
	room := t.room
	if room <= 0 {
		room = s.w
	}
	text, quiet := s.pal.Text, s.pal.Muted
	x := float32(stripText)
	switch v.Kind {
	case view.BannerAlarm:
		s.badge(10, s.h/2-13, 26, v.Severity)
	case view.BannerLost:
		text, quiet = s.pal.Panel, s.pal.Panel
		lineCut(s, 12, s.h/2-8, s.pal.Panel)
	default:
		text = s.pal.Muted
		x = 12
		st := Style{Size: 13}
		end := s.text(s.fit(v.Text, st, room-2*x), st, x, s.h/2-s.cap(st)/2, text)
		if v.Detail != "" {
			s.text(s.fit(v.Detail, st, room-end-24), st, end+18, s.h/2-s.cap(st)/2, s.pal.Text)
		}
		return
	}
	s.text(s.fit(v.Text, stripBold, room-x-4), stripBold, x, 9, text)
	s.text(s.fit(v.Detail, stripSmall, room-x-4), stripSmall, x, 27, quiet)
}

// Badge is the mark of a priority as a part of its own.
type Badge struct {
	drawn
	severity int
}

// NewBadge makes a badge of the given size that shows nothing.
func NewBadge(ink *Ink, size float32) *Badge {
	b := &Badge{}
	b.setup(b, ink, fyne.NewSize(size, size), func(s *surface) {
		side := min(s.h, size)
		s.badge((s.w-side)/2, (s.h-side)/2, side, b.severity)
	})
	return b
}

// Set shows a severity, 1..4; 0 shows nothing.
func (b *Badge) Set(severity int) {
	if b.severity != severity {
		b.severity = severity
		b.Refresh()
	}
}
