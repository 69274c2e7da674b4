package hmi

import (
	"image"
	"image/color"
	"time"

	"forebay/ui/view"

	"fyne.io/fyne/v2"
)

// Trend is the plot of the last minutes: one raster, column by column, the
// least and the greatest value of each, so that a spike of one sample is seen.
type Trend struct {
	drawn
	trend view.Trend
	pens  plotter
}

// NewTrend makes an empty plot.
func NewTrend(ink *Ink) *Trend {
	t := &Trend{trend: view.Trend{Window: 10 * time.Minute, End: "now"}}
	t.setup(t, ink, fyne.NewSize(200, 90), func(s *surface) { t.pens.plot(s, t.trend) })
	return t
}

// Set shows a plot.
func (t *Trend) Set(v view.Trend) {
	t.trend = v
	t.Refresh()
}

// plotter draws pens. It keeps its scratch between frames.
type plotter struct {
	labels []label
}

type label struct {
	y, want float32
	pen     int
}

var percentText = [5]string{"100", "75", "50", "25", "0"}

// minuteTexts are the marks of the time axis, per window.
var minuteTexts = [5]string{"–10 min", "–8", "–6", "–4", "–2"}

const (
	axisLeft   = 26
	axisBottom = 16
)

// labelWidth is the room for the pens' names at the right.
func labelWidth(s *surface, t view.Trend) float32 {
	w := float32(40)
	for i := range t.Pens {
		st, mark := nameStyle, float32(12)
		if t.Pens[i].Severity > 0 {
			st, mark = nameBold, 32
		}
		w = max(w, mark+s.width(t.Pens[i].Label, st))
	}
	return min(w, s.w*0.3)
}

var (
	nameStyle = Style{Size: 11}
	nameBold  = Style{Size: 11, Bold: true}
)

// plot draws the whole trend into s: grid, axes, pens, names.
func (p *plotter) plot(s *surface, t view.Trend) {
	s.clear(s.pal.Panel)
	small := Style{Size: 11}
	x, y := float32(axisLeft), float32(6)
	w, h := s.w-axisLeft-labelWidth(s, t)-4, s.h-axisBottom-y
	if w < 20 || h < 20 {
		return
	}
	half := s.cap(small) / 2
	for i, txt := range percentText {
		gy := y + h*float32(i)/4
		s.fill(x, gy-0.5, w, 1, s.pal.Grid)
		s.right(txt, small, x-5, min(gy, y+h)-half, s.pal.Muted)
	}
	for i, txt := range minuteTexts {
		gx := x + w*float32(i)/5
		s.fill(gx-0.5, y, 1, h, s.pal.Grid)
		tx := gx - s.width(txt, small)/2
		if i == 0 {
			tx = x - 4
		}
		s.text(txt, small, tx, y+h+6, s.pal.Muted)
	}
	s.fill(x+w-0.5, y, 1, h, s.pal.Grid)
	s.text(t.End, small, x+w-s.width(t.End, small)/2, y+h+6, s.pal.Muted)

	area := image.Rect(s.px(x), s.px(y), s.px(x+w), s.px(y+h))
	for i := range t.Pens {
		if t.Pens[i].Severity == 0 {
			c := s.pal.Pens[i%len(s.pal.Pens)]
			p.series(s.img, area, t.Pens[i], c, 1.3*s.scale)
		}
	}
	for sev := 4; sev >= 1; sev-- {
		for i := range t.Pens {
			pen := &t.Pens[i]
			if pen.Severity != sev {
				continue
			}
			if pen.Limit == pen.Limit && pen.Limit >= 0 && pen.Limit <= 1 {
				p.dashes(s, area, pen.Limit, s.pal.Priority[sev])
			}
			p.series(s.img, area, *pen, s.pal.Priority[sev], 2.2*s.scale)
		}
	}
	p.names(s, t, x+w, y, h)
}

// dashes draws a limit as a broken line.
func (p *plotter) dashes(s *surface, area image.Rectangle, limit float32, c color.NRGBA) {
	y := area.Max.Y - int(limit*float32(area.Dy()))
	c.A = 170
	step := max(2, s.px(5))
	for x := area.Min.X; x < area.Max.X; x += 2 * step {
		s.pixels(x, y, min(x+step, area.Max.X), y+max(1, s.px(1)), c)
	}
}

// names writes each pen's name beside its end, moved apart so that none
// covers another; abnormal ones get the mark of their priority and keep
// their place, and normal ones give way.
func (p *plotter) names(s *surface, t view.Trend, x, y, h float32) {
	const row = 15
	p.labels = p.labels[:0]
	for i := range t.Pens {
		last, ok := t.Pens[i].Last()
		if !ok {
			continue
		}
		want := y + h*(1-min(1, max(0, last)))
		p.labels = append(p.labels, label{y: want, want: want, pen: i})
	}
	ls := p.labels
	for i := 1; i < len(ls); i++ { // insertion sort: few, and no allocation
		for k := i; k > 0 && ls[k].want < ls[k-1].want; k-- {
			ls[k], ls[k-1] = ls[k-1], ls[k]
		}
	}
	for fits := int((h + row) / row); len(ls) > fits; {
		drop := -1
		for i := range ls {
			if drop < 0 || rankOf(t.Pens[ls[i].pen]) >= rankOf(t.Pens[ls[drop].pen]) {
				drop = i
			}
		}
		ls = append(ls[:drop], ls[drop+1:]...)
	}
	for i := 1; i < len(ls); i++ {
		ls[i].y = max(ls[i].y, ls[i-1].y+row)
	}
	limit := y + h
	for i := len(ls) - 1; i >= 0; i-- {
		ls[i].y = min(ls[i].y, limit)
		limit = ls[i].y - row
	}
	for i := range ls {
		pen := &t.Pens[ls[i].pen]
		st, c, tx := nameStyle, s.pal.Muted, x+10
		tick := s.pal.Pens[ls[i].pen%len(s.pal.Pens)]
		if pen.Severity > 0 {
			st, c, tick = nameBold, s.pal.Text, s.pal.Priority[pen.Severity]
		}
		// A short leader ties a moved name to its line.
		steps := 7 + int(max(ls[i].y-ls[i].want, ls[i].want-ls[i].y))
		for k := range steps {
			f := float32(k) / float32(steps-1)
			s.fill(x+1+f*6, ls[i].want+(ls[i].y-ls[i].want)*f-0.5, 1.6, 1.2, tick)
		}
		if pen.Severity > 0 {
			s.badge(tx, ls[i].y-7, 14, pen.Severity)
			tx += 18
		}
		s.text(s.fit(pen.Label, st, s.w-tx-2), st, tx, ls[i].y-s.cap(st)/2, c)
	}
}

func rankOf(p view.Pen) int {
	if p.Severity == 0 {
		return 9
	}
	return p.Severity
}

// spark draws one pen without axes, stretched to what it spans.
func (p *plotter) spark(s *surface, pen view.Pen, x, y, w, h float32, severity int, old bool) {
	lo, hi := float32(1e9), float32(-1e9)
	for i := range pen.Min {
		if pen.Min[i] == pen.Min[i] {
			lo, hi = min(lo, pen.Min[i]), max(hi, pen.Max[i])
		}
	}
	if hi < lo {
		return
	}
	// A flat line stays flat: noise below a tenth of the scale is not
	// stretched to the full height.
	if d := 0.1 - (hi - lo); d > 0 {
		lo, hi = lo-d/2, hi+d/2
	}
	area := image.Rect(s.px(x), s.px(y), s.px(x+w), s.px(y+h))
	c, width := s.pal.Pens[0], float32(1.3)
	if severity > 0 && !old {
		c, width = s.pal.Priority[severity], 2
	}
	p.columns(s.img, area, pen.Min, pen.Max, lo, hi, c, width*s.scale)
}

func (p *plotter) series(img *image.RGBA, area image.Rectangle, pen view.Pen, c color.NRGBA, width float32) {
	p.columns(img, area, pen.Min, pen.Max, 0, 1, c, width)
}

// columns draws a min/max series into area, one vertical span per pixel
// column, each reaching half way to its neighbour, with soft ends. A column
// without a value stays as it is.
func (p *plotter) columns(img *image.RGBA, area image.Rectangle, lows, highs []float32, lo, hi float32, c color.NRGBA, width float32) {
	n, w := len(lows), area.Dx()
	if n == 0 || w < 2 || hi <= lo {
		return
	}
	area = area.Intersect(img.Rect)
	h := float32(area.Dy() - 1)
	k := h / (hi - lo)
	base := float32(area.Max.Y) - 0.5
	half := width / 2
	var prevTop, prevBot float32
	prev := false
	for x := range w {
		a, b := x*n/w, (x+1)*n/w
		if b <= a {
			b = a + 1
		}
		mn, mx, any := float32(0), float32(0), false
		for i := a; i < b; i++ {
			if lows[i] != lows[i] {
				continue
			}
			if !any {
				mn, mx, any = lows[i], highs[i], true
			} else {
				mn, mx = min(mn, lows[i]), max(mx, highs[i])
			}
		}
		if !any {
			prev = false
			continue
		}
		top, bot := base-(mx-lo)*k, base-(mn-lo)*k
		t, u := top, bot
		if prev {
			if prevTop > bot {
				u = (prevTop + bot) / 2
			} else if prevBot < top {
				t = (prevBot + top) / 2
			}
			// The neighbour ends half way too: join them.
			if prevTop > bot {
				span(img, area, area.Min.X+x-1, (prevTop+bot)/2, prevTop, c)
			} else if prevBot < top {
				span(img, area, area.Min.X+x-1, prevBot, (prevBot+top)/2, c)
			}
		}
		span(img, area, area.Min.X+x, t-half, u+half, c)
		if width >= 2 && u-t > 2*width { // a steep part of a strong line stays strong
			span(img, area, area.Min.X+x-1, t, u, c)
		}
		prevTop, prevBot, prev = top, bot, true
	}
}

// span draws a vertical line of one pixel's width from y0 to y1 with soft
// ends, cut to area.
func span(img *image.RGBA, area image.Rectangle, x int, y0, y1 float32, c color.NRGBA) {
	y0, y1 = max(y0, float32(area.Min.Y)), min(y1, float32(area.Max.Y))
	if x < area.Min.X || x >= area.Max.X || y1 <= y0 {
		return
	}
	first, last := int(y0), int(y1)
	o := img.PixOffset(x, first)
	if first == last {
		over(img.Pix[o:o+4:o+4], c, uint32((y1-y0)*255))
		return
	}
	over(img.Pix[o:o+4:o+4], c, uint32((float32(first+1)-y0)*255))
	o += img.Stride
	for y := first + 1; y < last; y++ {
		p := img.Pix[o : o+4 : o+4]
		p[0], p[1], p[2], p[3] = c.R, c.G, c.B, 255
		o += img.Stride
	}
	if last < area.Max.Y {
		over(img.Pix[o:o+4:o+4], c, uint32((y1-float32(last))*255))
	}
}
