package hmi

import (
	"image/color"

	"forebay/ui/view"

	"fyne.io/fyne/v2"
)

// backlogHeight is that of the backlog part without its sentence.
const backlogHeight, backlogLine = 64, 17

// Backlog shows what waits for an uplink on a time axis that ends now: how
// much, how old, and when it will be gone. It never shows a per cent.
type Backlog struct {
	drawn
	backlog view.Backlog
}

// NewBacklog makes an empty one.
func NewBacklog(ink *Ink) *Backlog {
	b := &Backlog{}
	b.setup(b, ink, fyne.NewSize(280, backlogHeight), b.paintBacklog)
	return b
}

// Height is what it needs: a line more where there is a sentence to say.
func (b *Backlog) Height() float32 {
	if b.backlog.Headline != "" || b.backlog.Others != "" {
		return backlogHeight + backlogLine
	}
	return backlogHeight
}

// Set shows a backlog.
func (b *Backlog) Set(v view.Backlog) {
	b.backlog = v
	b.Refresh()
}

func (b *Backlog) paintBacklog(s *surface) {
	v := b.backlog
	head, body := Style{Size: 12, Bold: true}, Style{Size: 12}
	if !v.Has {
		s.text("UPLINK", head, 0, 2, s.pal.Muted)
		s.text(s.fit(v.Waiting, body, s.w), body, 0, 24, s.pal.Muted)
		return
	}
	// First line: which uplink, and its state.
	right := s.w
	st, tone := body, s.pal.Text
	switch {
	case v.Old:
		st, tone = Style{Size: 12, Italic: true}, s.pal.Muted
	case v.Severity > 0:
		st = head
	}
	if w := s.width(v.State, st); w < s.w-80 {
		right = s.right(v.State, st, s.w, 2, tone) - 6
	}
	if v.Severity > 0 && !v.Old {
		s.badge(right-15, -1, 15, v.Severity)
		right -= 22
	}
	x := s.text("UPLINK", head, 0, 2, s.pal.Muted)
	s.text(s.fit(v.Title, body, right-x-18), body, x+8, 2, s.pal.Muted)

	y := float32(20)
	if v.Headline != "" {
		x := float32(0)
		if v.Cut {
			cloudCut(s, 0, y-2, s.pal.Text)
			x = 24
		}
		s.text(s.fit(v.Headline, head, s.w-x), head, x, y, s.pal.Text)
	} else {
		s.text(s.fit(v.Others, body, s.w), body, 0, y, s.pal.Muted)
	}
	if v.Headline != "" || v.Others != "" {
		y += backlogLine
	}
	b.paintAxis(s, y)
	y += 31
	b.paintNumbers(s, y)
}

// paintAxis draws the bar: pale where records wait, an outline elsewhere.
func (b *Backlog) paintAxis(s *surface, y float32) {
	v := b.backlog
	const h = 10
	tiny := Style{Size: 11}
	s.fill(0, y, s.w, h, s.pal.Edge)
	s.fill(1, y+1, s.w-2, h-2, s.pal.Scale)
	if v.Span.Window <= 0 {
		return
	}
	at := func(age float64) float32 { return s.w - 1 - (s.w-2)*float32(age/float64(v.Span.Window)) }
	if !v.Empty {
		x := min(at(float64(v.Span.Oldest)), s.w-3)
		c := s.pal.Waiting
		if v.Old {
			c = s.pal.Band
		}
		s.fill(x, y+1, s.w-1-x, h-2, c)
	}
	for _, t := range v.Span.Ticks {
		x := at(float64(t.Age))
		s.fill(x, y, 1, h+3, s.pal.Muted)
		w := s.width(t.Text, tiny)
		s.text(t.Text, tiny, max(0, x-w/2), y+h+5, s.pal.Muted)
	}
	s.right(v.Span.End, tiny, s.w, y+h+5, s.pal.Muted)
}

func (b *Backlog) paintNumbers(s *surface, y float32) {
	v := b.backlog
	label, value := Style{Size: 12}, Style{Size: 12, Bold: true}
	tone := Plain
	if v.Old {
		value, tone = Style{Size: 12, Italic: true}, Quiet
	}
	var g []Group
	add := func(name, val string, rank int) {
		if val != "" {
			g = append(g, Group{Rank: rank, Runs: []Run{{Text: name, Style: label, Tone: Quiet}, {Text: val, Style: value, Tone: tone}}})
		}
	}
	if v.Empty {
		g = append(g, Group{Runs: []Run{{Text: v.Waiting, Style: value, Tone: tone}}})
	} else {
		add("Waiting", v.Waiting, 0)
		add("oldest", v.Oldest, 2)
	}
	if v.Drain != "" {
		g = append(g, Group{Rank: 1, Runs: []Run{{Text: v.Drain, Style: value, Tone: tone}}})
	}
	if v.Space != "" && v.Headline == "" {
		g = append(g, Group{Rank: 3, Runs: []Run{{Text: v.Space, Style: label, Tone: Quiet}}})
	}
	drawGroups(s, g, Leading, 0, s.w, y+s.cap(label)/2)
}

// cloudCut is the mark of the uplink that is down: a cloud, struck through.
// The console's own lost link has the mark of a broken line instead.
func cloudCut(s *surface, x, y float32, c color.NRGBA) {
	s.disc(x+5, y+9, 4, c)
	s.disc(x+10, y+6, 5, c)
	s.disc(x+14.5, y+9, 3.5, c)
	s.fill(x+5, y+9, 10, 4, c)
	s.polygon(s.pal.Panel, [2]float32{x + 2, y - 1}, [2]float32{x + 4.5, y - 1}, [2]float32{x + 18, y + 14}, [2]float32{x + 15.5, y + 14})
	s.polygon(c, [2]float32{x + 3.2, y - 1}, [2]float32{x + 4.5, y - 1}, [2]float32{x + 18, y + 14}, [2]float32{x + 16.7, y + 14})
}

// lineCut is the mark of the console's lost link: two ends that do not meet.
func lineCut(s *surface, x, y float32, c color.NRGBA) {
	s.fill(x, y+6, 7, 3, c)
	s.fill(x+15, y+6, 7, 3, c)
	s.fill(x+7, y+2, 2.5, 11, c)
	s.fill(x+12.5, y+2, 2.5, 11, c)
}
