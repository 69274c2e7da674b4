package main

import (
	"bytes"
	"flag"
	"image"
	"image/color"
	"image/png"
	"os"
	"testing"

	"golang.org/x/image/draw"
	"golang.org/x/image/vector"
)

var update = flag.Bool("update", false, "draw the icons anew")

// drawIcon draws a basin that is full and hands its water on in a steady
// stream: a forebay.
func drawIcon(size int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, size, size))
	k := float32(size) / 512
	fill := func(c color.Color, path func(r *vector.Rasterizer)) {
		r := vector.NewRasterizer(size, size)
		path(r)
		r.Draw(img, img.Rect, image.NewUniform(c), image.Point{})
	}
	box := func(x0, y0, x1, y1, rad float32) func(*vector.Rasterizer) {
		return func(r *vector.Rasterizer) {
			x0, y0, x1, y1, rad := x0*k, y0*k, x1*k, y1*k, rad*k
			r.MoveTo(x0+rad, y0)
			r.LineTo(x1-rad, y0)
			r.QuadTo(x1, y0, x1, y0+rad)
			r.LineTo(x1, y1-rad)
			r.QuadTo(x1, y1, x1-rad, y1)
			r.LineTo(x0+rad, y1)
			r.QuadTo(x0, y1, x0, y1-rad)
			r.LineTo(x0, y0+rad)
			r.QuadTo(x0, y0, x0+rad, y0)
			r.ClosePath()
		}
	}
	fill(color.NRGBA{R: 0x21, G: 0x25, B: 0x28, A: 255}, box(16, 16, 496, 496, 96))
	water := color.NRGBA{R: 0xa0, G: 0xc4, B: 0xff, A: 255}
	wall := color.NRGBA{R: 0xe8, G: 0xea, B: 0xec, A: 255}
	// Inflow in drops of different size, as it comes.
	fill(water, box(112, 92, 148, 128, 16))
	fill(water, box(190, 76, 214, 142, 12))
	fill(water, box(262, 100, 286, 124, 10))
	// The basin with a level surface.
	fill(wall, box(84, 168, 112, 336, 8))
	fill(wall, box(84, 316, 352, 344, 8))
	fill(water, func(r *vector.Rasterizer) {
		r.MoveTo(120*k, 206*k)
		r.QuadTo(160*k, 186*k, 204*k, 206*k)
		r.QuadTo(248*k, 226*k, 292*k, 206*k)
		r.QuadTo(322*k, 194*k, 344*k, 202*k)
		r.LineTo(344*k, 308*k)
		r.LineTo(120*k, 308*k)
		r.ClosePath()
	})
	// Outflow: one steady stream, down to the turbine.
	fill(water, func(r *vector.Rasterizer) {
		r.MoveTo(344*k, 264*k)
		r.LineTo(368*k, 264*k)
		r.QuadTo(412*k, 264*k, 412*k, 308*k)
		r.LineTo(412*k, 436*k)
		r.LineTo(368*k, 436*k)
		r.LineTo(368*k, 318*k)
		r.QuadTo(368*k, 308*k, 358*k, 308*k)
		r.LineTo(344*k, 308*k)
		r.ClosePath()
	})
	fill(wall, box(344, 168, 372, 248, 8))
	return img
}

func TestIconsAreDrawnByThisCode(t *testing.T) {
	big := drawIcon(512)
	small := image.NewRGBA(image.Rect(0, 0, 128, 128))
	draw.CatmullRom.Scale(small, small.Rect, big, big.Rect, draw.Src, nil)
	for path, want := range map[string]*image.RGBA{"../Icon.png": big, "icon.png": small} {
		if *update {
			var b bytes.Buffer
			if err := png.Encode(&b, want); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := png.Decode(f)
		f.Close()
		if err != nil || got.Bounds() != want.Bounds() {
			t.Fatalf("%s: %v, %v", path, err, got)
		}
		bad := 0
		for y := range want.Rect.Dy() {
			for x := range want.Rect.Dx() {
				r0, g0, b0, a0 := got.At(x, y).RGBA()
				r1, g1, b1, a1 := want.At(x, y).RGBA()
				for _, d := range [][2]uint32{{r0, r1}, {g0, g1}, {b0, b1}, {a0, a1}} {
					if max(d[0], d[1])-min(d[0], d[1]) > 4<<8 {
						bad++
						break
					}
				}
			}
		}
		if bad > 20 {
			t.Errorf("%s differs in %d pixels from what the code draws; run with -update", path, bad)
		}
	}
}
