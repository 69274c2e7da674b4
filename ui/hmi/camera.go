package hmi

import (
	"image"
	"image/color"

	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"golang.org/x/image/draw"
)

// Camera shows a still, cut to the tile's shape, with its age always on it.
// A picture that does not show what is so now is dimmed and says so.
type Camera struct {
	drawn
	cam    view.Camera
	scaled *image.RGBA
	from   *image.RGBA // what scaled was made from
}

// NewCamera makes an empty tile.
func NewCamera(ink *Ink) *Camera {
	c := &Camera{}
	c.setup(c, ink, fyne.NewSize(120, 72), c.paintCamera)
	return c
}

// Set shows a camera.
func (c *Camera) Set(v view.Camera) {
	c.cam = v
	c.Refresh()
}

func (c *Camera) paintCamera(s *surface) {
	v := c.cam
	s.clear(s.pal.Scale)
	if v.Image != nil {
		c.scale(v.Image, s.img.Rect)
		draw.Draw(s.img, s.img.Rect, c.scaled, image.Point{}, draw.Src)
		if v.Stale {
			dim(s.img)
		}
	}
	s.fill(0, 0, s.w, 1, s.pal.Edge)
	s.fill(0, s.h-1, s.w, 1, s.pal.Edge)
	s.fill(0, 0, 1, s.h, s.pal.Edge)
	s.fill(s.w-1, 0, 1, s.h, s.pal.Edge)

	// The caption lies on a strip of its own, so that it reads on any picture.
	const strip = 20
	white, grey := color.NRGBA{R: 0xf0, G: 0xf2, B: 0xf4, A: 255}, color.NRGBA{R: 0xc2, G: 0xc8, B: 0xcd, A: 255}
	s.fill(1, s.h-strip-1, s.w-2, strip, color.NRGBA{R: 0x12, G: 0x15, B: 0x17, A: 205})
	name, small := Style{Size: 12, Bold: true}, Style{Size: 12}
	mid := s.h - 1 - strip/2 - s.cap(small)/2
	age := s.fit(v.Age, small, s.w-60)
	right := s.right(age, small, s.w-7, mid, white)
	x := s.text(s.fit(v.Label, name, right-14), name, 7, mid, white)
	if w := s.width(v.Rate, small); v.Rate != "" && x+8+w+10 <= right {
		s.text(v.Rate, small, x+8, mid, grey)
	}
	if v.Warn == "" {
		return
	}
	big := Style{Size: 14, Bold: true}
	t := s.fit(v.Warn, big, s.w-24)
	w, h := s.width(t, big)+16, float32(26)
	y := (s.h-strip)/2 - h/2
	if v.Stale || v.Image != nil {
		s.fill((s.w-w)/2, y, w, h, color.NRGBA{R: 0x12, G: 0x15, B: 0x17, A: 225})
		s.text(t, big, (s.w-w)/2+8, y+h/2-s.cap(big)/2, white)
		return
	}
	s.text(t, small, (s.w-s.width(t, small))/2, y+h/2-s.cap(small)/2, s.pal.Muted)
}

// scale fits the picture to r so that it fills it, cutting what is over at
// the longer side; done once per picture and size.
func (c *Camera) scale(img *image.RGBA, r image.Rectangle) {
	if c.from == img && c.scaled != nil && c.scaled.Rect == r {
		return
	}
	if c.scaled == nil || c.scaled.Rect != r {
		c.scaled = image.NewRGBA(r)
	}
	c.from = img
	b := img.Rect
	src := b
	if b.Dx()*r.Dy() > r.Dx()*b.Dy() {
		w := b.Dy() * r.Dx() / r.Dy()
		src.Min.X += (b.Dx() - w) / 2
		src.Max.X = src.Min.X + w
	} else {
		h := b.Dx() * r.Dy() / r.Dx()
		src.Min.Y += (b.Dy() - h) / 2
		src.Max.Y = src.Min.Y + h
	}
	draw.ApproxBiLinear.Scale(c.scaled, r, img, src, draw.Src, nil)
}

// dim takes the colour and two thirds of the light away.
func dim(img *image.RGBA) {
	p := img.Pix
	for i := 0; i+3 < len(p); i += 4 {
		g := (uint32(p[i])*77 + uint32(p[i+1])*150 + uint32(p[i+2])*29) >> 8
		v := uint8(g*36/100 + 14)
		p[i], p[i+1], p[i+2] = v, v, v
	}
}
