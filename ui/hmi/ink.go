package hmi

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"unicode/utf8"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/theme"
	"golang.org/x/image/font"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

// Style is how a piece of text looks. Size is in device-independent pixels.
type Style struct {
	Size         float32
	Bold, Italic bool
}

// Ink draws text into rasters with the toolkit's bundled fonts. It keeps the
// glyphs that it has drawn, so that a frame allocates nothing. One Ink serves
// a whole console, on the toolkit's goroutine.
type Ink struct {
	fonts [4]*sfnt.Font
	faces map[faceKey]*face
}

type faceKey struct {
	font int
	px   int // quarters of a pixel
}

type face struct {
	src    font.Face
	glyphs map[glyphKey]glyph
	ascent float32
}

type glyphKey struct {
	r    rune
	frac uint8 // quarter of a pixel to the right
}

type glyph struct {
	mask    *image.Alpha // nil for a blank
	off     image.Point  // of the mask from the dot
	advance fixed.Int26_6
}

// maxGlyphs bounds the glyphs kept per size.
const maxGlyphs = 2048

// NewInk parses the bundled fonts. An error means a broken build.
func NewInk() (*Ink, error) {
	k := &Ink{faces: make(map[faceKey]*face)}
	for i := range k.fonts {
		res := theme.DefaultTheme().Font(fyne.TextStyle{Bold: i&1 != 0, Italic: i&2 != 0})
		f, err := opentype.Parse(res.Content())
		if err != nil {
			return nil, fmt.Errorf("parse the font %s: %w", res.Name(), err)
		}
		k.fonts[i] = f
	}
	return k, nil
}

func (k *Ink) face(st Style, scale float32) *face {
	key := faceKey{px: int(math.Round(float64(st.Size * scale * 4)))}
	if st.Bold {
		key.font |= 1
	}
	if st.Italic {
		key.font |= 2
	}
	if f := k.faces[key]; f != nil {
		return f
	}
	src, err := opentype.NewFace(k.fonts[key.font], &opentype.FaceOptions{Size: max(1, float64(key.px)/4), DPI: 72, Hinting: font.HintingNone})
	if err != nil {
		return nil // NewFace only fails on options that are never given here
	}
	f := &face{src: src, glyphs: make(map[glyphKey]glyph), ascent: float32(src.Metrics().CapHeight) / 64}
	k.faces[key] = f
	return f
}

func (f *face) glyph(r rune, frac uint8) glyph {
	key := glyphKey{r, frac}
	if g, ok := f.glyphs[key]; ok {
		return g
	}
	if len(f.glyphs) >= maxGlyphs {
		clear(f.glyphs)
	}
	dr, mask, at, adv, ok := f.src.Glyph(fixed.Point26_6{X: fixed.Int26_6(frac) * 16}, r)
	g := glyph{advance: adv}
	if ok && !dr.Empty() {
		g.off = dr.Min
		g.mask = image.NewAlpha(image.Rect(0, 0, dr.Dx(), dr.Dy()))
		for y := range dr.Dy() {
			for x := range dr.Dx() {
				_, _, _, a := mask.At(at.X+x, at.Y+y).RGBA()
				g.mask.Pix[y*g.mask.Stride+x] = uint8(a >> 8)
			}
		}
	}
	f.glyphs[key] = g
	return g
}

// width measures s in pixels.
func (k *Ink) width(s string, st Style, scale float32) float32 {
	f := k.face(st, scale)
	if f == nil {
		return 0
	}
	var w fixed.Int26_6
	for _, r := range s {
		w += f.glyph(r, 0).advance
	}
	return float32(w) / 64
}

// Width measures s in device-independent pixels at scale 1.
func (k *Ink) Width(s string, st Style) float32 { return k.width(s, st, 1) }

// text draws s with its baseline's start at x, y (pixels) and returns where
// it ends.
func (k *Ink) text(dst *image.RGBA, s string, st Style, scale, x, y float32, c color.NRGBA) float32 {
	f := k.face(st, scale)
	if f == nil {
		return x
	}
	dot := fixed.Int26_6(x * 64)
	base := int(math.Round(float64(y)))
	for _, r := range s {
		q := (dot + 8) >> 4 // quarters, rounded
		g := f.glyph(r, uint8(q&3))
		if g.mask != nil {
			blendMask(dst, g.mask, int(q>>2)+g.off.X, base+g.off.Y, c)
		}
		dot += g.advance
	}
	return float32(dot) / 64
}

// fit cuts s so that it is at most w pixels wide, with an ellipsis.
func (k *Ink) fit(s string, st Style, scale, w float32) string {
	if k.width(s, st, scale) <= w {
		return s
	}
	dots := k.width("…", st, scale)
	for len(s) > 0 {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
		for len(s) > 0 && s[len(s)-1] == ' ' {
			s = s[:len(s)-1]
		}
		if k.width(s, st, scale)+dots <= w {
			return s + "…"
		}
	}
	return ""
}

// fitEnd is fit that keeps the end of s: of a path the last part tells most.
func (k *Ink) fitEnd(s string, st Style, scale, w float32) string {
	if k.width(s, st, scale) <= w {
		return s
	}
	for dots := k.width("…", st, scale); len(s) > 0; {
		_, n := utf8.DecodeRuneInString(s)
		s = s[n:]
		if k.width(s, st, scale)+dots <= w {
			return "…" + s
		}
	}
	return ""
}

// blendMask puts a colour through a mask over dst, which holds premultiplied
// colours.
func blendMask(dst *image.RGBA, m *image.Alpha, x0, y0 int, c color.NRGBA) {
	r := image.Rect(x0, y0, x0+m.Rect.Dx(), y0+m.Rect.Dy()).Intersect(dst.Rect)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		src := m.Pix[(y-y0)*m.Stride+(r.Min.X-x0):]
		row := dst.Pix[dst.PixOffset(r.Min.X, y):]
		for i := range r.Dx() {
			if a := uint32(src[i]); a != 0 {
				over(row[i*4:i*4+4:i*4+4], c, a)
			}
		}
	}
}

// over puts c with the coverage a (0..255) over one premultiplied pixel.
func over(p []uint8, c color.NRGBA, a uint32) {
	a = a * uint32(c.A) / 255
	if a >= 255 {
		p[0], p[1], p[2], p[3] = c.R, c.G, c.B, 255
		return
	}
	ia := 255 - a
	p[0] = uint8((uint32(c.R)*a + uint32(p[0])*ia + 127) / 255)
	p[1] = uint8((uint32(c.G)*a + uint32(p[1])*ia + 127) / 255)
	p[2] = uint8((uint32(c.B)*a + uint32(p[2])*ia + 127) / 255)
	p[3] = uint8((255*a + uint32(p[3])*ia + 127) / 255)
}
