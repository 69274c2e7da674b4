package hmi

import (
	"image/color"
	"slices"

	"fyne.io/fyne/v2"
)

// Tone is a text's part in the picture; the palette gives it a colour.
type Tone int

const (
	Plain Tone = iota // what a person reads
	Quiet             // labels, and what is old
	Now               // live data
)

func (p Palette) tone(t Tone) color.NRGBA {
	switch t {
	case Quiet:
		return p.Muted
	case Now:
		return p.Live
	}
	return p.Text
}

// Run is a piece of a line in one style. With a Badge (1..4) the mark of that
// priority is drawn before the text.
type Run struct {
	Text  string
	Style Style
	Tone  Tone
	Badge int
}

// Group is a few runs that stay together. Where the room is short, groups of
// the greatest Rank are left out first.
type Group struct {
	Runs []Run
	Rank int
}

// Align is the side that a line is drawn from.
type Align int

const (
	Leading Align = iota
	Trailing
)

const (
	runGap   = 6  // between the runs of a group
	groupGap = 18 // between groups
)

// Numeral is a line of live text in one raster: numbers may change at any
// rate and cost no texture of their own.
type Numeral struct {
	drawn
	align  Align
	groups []Group
}

// NewNumeral makes an empty line of the given height.
func NewNumeral(ink *Ink, height float32, align Align) *Numeral {
	n := &Numeral{align: align}
	n.setup(n, ink, fyne.NewSize(8, height), n.paintLine)
	return n
}

// Set shows the groups; it draws only when something changed.
func (n *Numeral) Set(groups ...Group) {
	if slices.EqualFunc(n.groups, groups, func(a, b Group) bool {
		return a.Rank == b.Rank && slices.Equal(a.Runs, b.Runs)
	}) {
		return
	}
	n.groups = groups
	n.Refresh()
}

// SetText shows one run.
func (n *Numeral) SetText(t string, st Style, tone Tone) {
	n.Set(Group{Runs: []Run{{Text: t, Style: st, Tone: tone}}})
}

// Wide is the width that all groups need, in device-independent pixels.
func (n *Numeral) Wide() float32 {
	var w float32
	for i, g := range n.groups {
		if i > 0 {
			w += groupGap
		}
		w += groupWidth(n.ink, g)
	}
	return w
}

func groupWidth(k *Ink, g Group) float32 {
	var w float32
	for i, r := range g.Runs {
		if i > 0 {
			w += runGap
		}
		if r.Badge > 0 {
			w += r.Style.Size*1.2 + 4
		}
		w += k.Width(r.Text, r.Style)
	}
	return w
}

func (n *Numeral) paintLine(s *surface) {
	drawGroups(s, n.groups, n.align, 0, s.w, s.h/2)
}

// drawGroups draws a line between x0 and x1 around the height mid.
func drawGroups(s *surface, groups []Group, align Align, x0, x1, mid float32) {
	groups = slices.Clone(groups)
	total := func() float32 {
		var w float32
		for i, g := range groups {
			if i > 0 {
				w += groupGap
			}
			w += groupWidth(s.ink, g)
		}
		return w
	}
	for len(groups) > 1 && total() > x1-x0 {
		last := 0
		for i, g := range groups {
			if g.Rank >= groups[last].Rank {
				last = i
			}
		}
		groups = slices.Delete(groups, last, last+1)
	}
	x := x0
	if align == Trailing {
		x = max(x0, x1-total())
	}
	for i, g := range groups {
		if i > 0 {
			x += groupGap
		}
		for j, r := range g.Runs {
			if j > 0 {
				x += runGap
			}
			if r.Badge > 0 {
				b := r.Style.Size * 1.2
				s.badge(x, mid-b/2, b, r.Badge)
				x += b + 4
			}
			t := s.fit(r.Text, r.Style, x1-x+0.5)
			x = s.text(t, r.Style, x, mid-s.cap(r.Style)/2, s.pal.tone(r.Tone))
		}
	}
}
