package hmi

import (
	"image"
	"image/color"
	"math"
)

// Word is a piece of text as it was drawn, in device-independent pixels. Y is
// the top of a capital letter.
type Word struct {
	Text       string
	X, Y, W, H float32
	Size       float32
	Color      color.NRGBA
}

// surface is what a drawn part draws on: a raster of pixels addressed in
// device-independent units.
type surface struct {
	img   *image.RGBA
	scale float32
	w, h  float32
	ink   *Ink
	pal   Palette
	log   *[]Word // where set, every text drawn is noted
}

func (s *surface) px(v float32) int { return int(math.Round(float64(v * s.scale))) }

// fill paints a rectangle.
func (s *surface) fill(x, y, w, h float32, c color.NRGBA) {
	s.pixels(s.px(x), s.px(y), s.px(x+w), s.px(y+h), c)
}

// pixels fills a half-open pixel rectangle; corners in the wrong order fill
// nothing (image.Rect would swap them, and paint gaps as data).
func (s *surface) pixels(x0, y0, x1, y1 int, c color.NRGBA) {
	b := s.img.Rect
	x0, y0, x1, y1 = max(x0, b.Min.X), max(y0, b.Min.Y), min(x1, b.Max.X), min(y1, b.Max.Y)
	for y := y0; y < y1; y++ {
		row := s.img.Pix[s.img.PixOffset(x0, y):]
		for i := 0; i < (x1-x0)*4; i += 4 {
			over(row[i:i+4:i+4], c, 255)
		}
	}
}

// clear fills everything, fast.
func (s *surface) clear(c color.NRGBA) {
	pix := s.img.Pix
	if len(pix) < 4 {
		return
	}
	pix[0], pix[1], pix[2], pix[3] = c.R, c.G, c.B, c.A
	if c.A != 255 {
		pix[0], pix[1], pix[2] = uint8(uint32(c.R)*uint32(c.A)/255), uint8(uint32(c.G)*uint32(c.A)/255), uint8(uint32(c.B)*uint32(c.A)/255)
	}
	for n := 4; n < len(pix); n *= 2 {
		copy(pix[n:], pix[:n])
	}
}

// text draws s with its capitals' top at y and returns where it ends.
func (s *surface) text(t string, st Style, x, y float32, c color.NRGBA) float32 {
	f := s.ink.face(st, s.scale)
	if f == nil || t == "" {
		return x
	}
	base := y*s.scale + f.ascent
	end := s.ink.text(s.img, t, st, s.scale, x*s.scale, base, c) / s.scale
	if s.log != nil {
		*s.log = append(*s.log, Word{Text: t, X: x, Y: y, W: end - x, H: f.ascent / s.scale, Size: st.Size, Color: c})
	}
	return end
}

// right draws s so that it ends at x and returns where it starts.
func (s *surface) right(t string, st Style, x, y float32, c color.NRGBA) float32 {
	x -= s.width(t, st)
	s.text(t, st, x, y, c)
	return x
}

func (s *surface) width(t string, st Style) float32 {
	return s.ink.width(t, st, s.scale) / s.scale
}

func (s *surface) fit(t string, st Style, w float32) string {
	return s.ink.fit(t, st, s.scale, w*s.scale)
}

func (s *surface) fitEnd(t string, st Style, w float32) string {
	return s.ink.fitEnd(t, st, s.scale, w*s.scale)
}

// cap is the height of a capital letter.
func (s *surface) cap(st Style) float32 {
	if f := s.ink.face(st, s.scale); f != nil {
		return f.ascent / s.scale
	}
	return st.Size * 0.7
}

// polygon fills a convex polygon given by its corners; edges are smoothed by
// sampling every pixel 4x4 times.
func (s *surface) polygon(c color.NRGBA, pts ...[2]float32) {
	if len(pts) < 3 {
		return
	}
	x0, y0, x1, y1 := pts[0][0], pts[0][1], pts[0][0], pts[0][1]
	for _, p := range pts {
		x0, y0, x1, y1 = min(x0, p[0]), min(y0, p[1]), max(x1, p[0]), max(y1, p[1])
	}
	s.shape(x0, y0, x1, y1, c, func(x, y float32) bool {
		sign := 0
		for i := range pts {
			a, b := pts[i], pts[(i+1)%len(pts)]
			d := (b[0]-a[0])*(y-a[1]) - (b[1]-a[1])*(x-a[0])
			switch {
			case d > 0 && sign < 0, d < 0 && sign > 0:
				return false
			case d > 0:
				sign = 1
			case d < 0:
				sign = -1
			}
		}
		return true
	})
}

// disc fills a circle.
func (s *surface) disc(cx, cy, r float32, c color.NRGBA) {
	s.shape(cx-r, cy-r, cx+r, cy+r, c, func(x, y float32) bool {
		return (x-cx)*(x-cx)+(y-cy)*(y-cy) <= r*r
	})
}

func (s *surface) shape(x0, y0, x1, y1 float32, c color.NRGBA, in func(x, y float32) bool) {
	b := s.img.Rect
	px0, py0 := max(b.Min.X, int(x0*s.scale)), max(b.Min.Y, int(y0*s.scale))
	px1, py1 := min(b.Max.X, int(x1*s.scale)+1), min(b.Max.Y, int(y1*s.scale)+1)
	for y := py0; y < py1; y++ {
		for x := px0; x < px1; x++ {
			n := uint32(0)
			for k := range 16 {
				fx := (float32(x) + (float32(k%4)+0.5)/4) / s.scale
				fy := (float32(y) + (float32(k/4)+0.5)/4) / s.scale
				if in(fx, fy) {
					n++
				}
			}
			if n > 0 {
				o := s.img.PixOffset(x, y)
				over(s.img.Pix[o:o+4:o+4], c, n*255/16)
			}
		}
	}
}

// badge draws the mark of a priority in a square of the given size: 1 a
// square, 2 a triangle, 3 a diamond, 4 a disc, each with its digit.
func (s *surface) badge(x, y, size float32, severity int) {
	if severity < 1 || severity > 4 {
		return
	}
	c := s.pal.Priority[severity]
	m := size / 2
	drop := float32(0)
	digit := size * 0.62
	switch severity {
	case 1:
		s.polygon(c, [2]float32{x + 1, y + 1}, [2]float32{x + size - 1, y + 1}, [2]float32{x + size - 1, y + size - 1}, [2]float32{x + 1, y + size - 1})
	case 2:
		s.polygon(c, [2]float32{x + m, y}, [2]float32{x + size, y + size - 1}, [2]float32{x, y + size - 1})
		drop, digit = size*0.13, size*0.54
	case 3:
		s.polygon(c, [2]float32{x + m, y - 0.5}, [2]float32{x + size + 0.5, y + m}, [2]float32{x + m, y + size + 0.5}, [2]float32{x - 0.5, y + m})
		digit = size * 0.56
	case 4:
		s.disc(x+m, y+m, m, c)
	}
	st := Style{Size: digit, Bold: true}
	t := digitText[severity]
	s.text(t, st, x+m-s.width(t, st)/2, y+m-s.cap(st)/2+drop, s.pal.OnBadge[severity])
}

var digitText = [5]string{"", "1", "2", "3", "4"}
