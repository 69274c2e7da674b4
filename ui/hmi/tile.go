package hmi

import (
	"math"

	"forebay/ui/view"

	"fyne.io/fyne/v2"
)

// Least size of a tile.
const (
	TileWidth  = 150
	TileHeight = 84
)

// Tile shows a measured value: a bar with its normal band and limit, the
// number, the last ten minutes. Its frame has a colour only in alarm.
type Tile struct {
	drawn
	tile view.Tile
	pens plotter
}

// NewTile makes an empty tile.
func NewTile(ink *Ink) *Tile {
	t := &Tile{tile: view.Tile{Value: "—", Limit: math.NaN()}}
	t.framed = func(p Palette) frame {
		if sev := t.tile.Severity; sev > 0 {
			return frame{fill: p.Panel, stroke: p.Priority[sev], width: 2}
		}
		return frame{fill: p.Panel, stroke: p.Edge, width: 1}
	}
	t.setup(t, ink, fyne.NewSize(TileWidth, 60), t.paintTile)
	return t
}

// Set shows a value.
func (t *Tile) Set(v view.Tile) {
	t.tile = v
	t.Refresh()
}

// Severity is that of the frame, 0 for none.
func (t *Tile) Severity() int { return t.tile.Severity }

func (t *Tile) paintTile(s *surface) {
	v := t.tile
	const pad, bar = 8, 12
	t.paintBar(s, pad, pad, bar, s.h-2*pad)
	x := float32(pad + bar + 8)
	right := s.w - pad
	small := Style{Size: 12}
	top := float32(10)
	if v.Severity > 0 {
		s.badge(right-18, 6, 18, v.Severity)
		right -= 24
	}
	s.text(s.fit(v.Label, small, right-x), small, x, top, s.pal.Muted)
	right = s.w - pad

	num, tone := Style{Size: 24, Bold: true}, s.pal.Live
	if v.Old {
		num, tone = Style{Size: 24, Italic: true}, s.pal.Muted
	}
	y := top + 21
	end := s.text(v.Value, num, x, y, tone)
	base := y + s.cap(num)
	end = s.text(v.Unit, small, end+4, base-s.cap(small), s.pal.Muted)
	// At the right, on the number's line: why it is not to be trusted, else
	// the limit; a number alone makes people remember limits.
	note := v.LimitText
	switch {
	case v.Quality != "" && v.Age != "":
		note = v.Quality + ", " + v.Age
	case v.Quality != "":
		note = v.Quality
	case v.Age != "":
		note = v.Age
	}
	tiny := Style{Size: 11, Italic: note != v.LimitText}
	if w := s.width(note, tiny); note != "" && end+8+w <= right {
		s.right(note, tiny, right, base-s.cap(tiny), s.pal.Muted)
		note = ""
	}
	bottom := s.h - pad
	sparkTop := base + 8
	if note != "" && s.h-base > 24 && note != v.LimitText {
		s.text(s.fit(note, tiny, right-x), tiny, x, base+7, s.pal.Muted)
		sparkTop = base + 7 + s.cap(tiny) + 6
	}
	if bottom-sparkTop >= 8 {
		t.pens.spark(s, v.Spark, x, sparkTop, right-x, bottom-sparkTop, v.Severity, v.Old)
	}
}

// paintBar draws the scale: ground, normal band, limit line, value.
func (t *Tile) paintBar(s *surface, x, y, w, h float32) {
	v := t.tile
	s.fill(x, y, w, h, s.pal.Edge)
	s.fill(x+1, y+1, w-2, h-2, s.pal.Scale)
	at := func(p float64) float32 {
		return y + 1 + (h-2)*float32(1-math.Min(1, math.Max(0, p)))
	}
	if v.Band.Has {
		hi, lo := at(v.Band.High), at(v.Band.Low)
		s.fill(x+1, hi, w-2, lo-hi, s.pal.Band)
	}
	if v.Limit == v.Limit {
		ly := at(v.Limit)
		s.fill(x-3, ly-1, w+6, 2, s.pal.Text)
	}
	if v.Has {
		c := s.pal.Live
		switch {
		case v.Old:
			c = s.pal.Muted
		case v.Severity > 0:
			c = s.pal.Priority[v.Severity]
		}
		vy := at(v.Position)
		s.fill(x-1, vy-2, w+2, 4, c)
	}
}
