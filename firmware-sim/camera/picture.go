package camera

import (
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"math/rand/v2"
	"time"
)

// The picture's size in pixels; both are whole macroblocks of 16.
const (
	Width  = 320
	Height = 192
)

// A Picture is one frame in YCbCr 4:2:0 with luma 16 to 235 and chroma 16 to
// 240 (ITU-R BT.601, studio range), as a decoder gives it out.
type Picture struct {
	Y      [Width * Height]byte
	Cb, Cr [Width / 2 * Height / 2]byte
}

type colour struct{ y, cb, cr byte }

var (
	wall   = colour{60, 128, 128}
	belt   = colour{35, 130, 126}
	roller = colour{110, 128, 128}
	sign   = colour{20, 128, 128}
	light  = colour{225, 128, 128}
	boxes  = []colour{{150, 90, 160}, {130, 80, 175}, {170, 100, 145}, {120, 110, 150}}
	lampOn = colour{180, 60, 90}
)

func (p *Picture) fill(x, y, w, h int, c colour) {
	x0, x1 := max(x, 0), min(x+w, Width)
	if x0 >= x1 {
		return
	}
	for j := max(y, 0); j < min(y+h, Height); j++ {
		paint(p.Y[j*Width+x0:j*Width+x1], c.y)
		half := j / 2 * (Width / 2)
		paint(p.Cb[half+x0/2:half+(x1+1)/2], c.cb)
		paint(p.Cr[half+x0/2:half+(x1+1)/2], c.cr)
	}
}

func paint(row []byte, v byte) {
	row[0] = v
	for n := 1; n < len(row); n *= 2 {
		copy(row[n:], row[:n])
	}
}

// glyphs are 3 blocks wide and 5 high, a row in three bits.
var glyphs = map[rune][5]byte{
	'0': {7, 5, 5, 5, 7}, '1': {2, 6, 2, 2, 7}, '2': {7, 1, 7, 4, 7}, '3': {7, 1, 7, 1, 7}, '4': {5, 5, 7, 1, 1},
	'5': {7, 4, 7, 1, 7}, '6': {7, 4, 7, 5, 7}, '7': {7, 1, 1, 1, 1}, '8': {7, 5, 7, 5, 7}, '9': {7, 5, 7, 1, 7},
	':': {0, 2, 0, 2, 0}, ' ': {},
}

// A cell of text is one macroblock, so that a digit that changes costs one.
const cell, blockW, blockH = 16, 4, 3

func (p *Picture) text(col, row int, s string) {
	for _, r := range s {
		for j, bits := range glyphs[r] {
			for i := range 3 {
				if bits>>(2-i)&1 == 1 {
					p.fill(col*cell+2+i*blockW, row*cell+j*blockH, blockW, blockH, light)
				}
			}
		}
		col++
	}
}

// Where the texts stand, in cells.
const (
	numberCol, numberRow = 1, 1
	clockCol, clockRow   = 11, 1
	digits               = 8
)

// FrameNumber reads the burned-in frame number off a decoded picture; false if
// what stands there is not one.
func FrameNumber(p *Picture) (uint64, bool) {
	var n uint64
	for d := range digits {
		var seen [5]byte
		for j := range 5 {
			for i := range 3 {
				x := (numberCol+d)*cell + 2 + i*blockW + blockW/2
				y := numberRow*cell + j*blockH + blockH/2
				if p.Y[y*Width+x] > 128 {
					seen[j] |= 1 << (2 - i)
				}
			}
		}
		found := false
		for r, g := range glyphs {
			if r >= '0' && r <= '9' && g == seen {
				n, found = n*10+uint64(r-'0'), true
			}
		}
		if !found {
			return 0, false
		}
	}
	return n, true
}

// A Scene is what a camera sees: a conveyor with boxes on it. What it shows
// depends on the seed and the frame's number and time alone.
type Scene struct{ gaps []int }

const (
	beltTop, beltHeight = 96, 64
	boxSize             = 32
	speed               = 2 // pixels a frame
	boxCount            = 4
)

// NewScene makes a scene; the seed places the boxes.
func NewScene(seed int64) *Scene {
	rng := rand.New(rand.NewPCG(uint64(seed), 0x5ce9e))
	s := &Scene{}
	const pitch = (Width + 2*boxSize) / boxCount
	for i := range boxCount {
		s.gaps = append(s.gaps, i*pitch+2*rng.IntN((pitch-boxSize)/2))
	}
	return s
}

// Draw draws frame n, taken at the time t, into p.
func (s *Scene) Draw(p *Picture, n uint64, t time.Time) {
	p.fill(0, 0, Width, Height, wall)
	p.fill(0, beltTop, Width, beltHeight, belt)
	for x := 8; x < Width; x += 32 {
		p.fill(x, beltTop+beltHeight, 16, 8, roller)
	}
	const loop = Width + 2*boxSize
	for i, gap := range s.gaps {
		x := int((uint64(gap)+n*speed)%loop) - boxSize
		p.fill(x, beltTop+beltHeight/2-boxSize/2, boxSize, boxSize, boxes[i%len(boxes)])
	}
	if n/10%2 == 0 {
		p.fill(Width-32, 48, 16, 16, lampOn)
	}
	p.fill((numberCol-1)*cell, 0, (digits+1)*cell, 3*cell, sign)
	p.text(numberCol, numberRow, fmt.Sprintf("%08d", n%1e8))
	p.fill(clockCol*cell, 0, (digits+1)*cell, 3*cell, sign)
	p.text(clockCol, clockRow, t.UTC().Format("15:04:05"))
}

// JPEG is the picture as a JPEG file. JPEG's luma runs from 0 to 255 (JFIF), so
// the levels are stretched.
func (p *Picture) JPEG() ([]byte, error) {
	img := image.NewYCbCr(image.Rect(0, 0, Width, Height), image.YCbCrSubsampleRatio420)
	stretch(img.Y, p.Y[:], 16, 219, 0)
	stretch(img.Cb, p.Cb[:], 128, 224, 128)
	stretch(img.Cr, p.Cr[:], 128, 224, 128)
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 85}); err != nil {
		return nil, fmt.Errorf("encode a still picture: %w", err)
	}
	return b.Bytes(), nil
}

func stretch(to, from []byte, zero, span, add int) {
	for i, v := range from {
		to[i] = byte(min(max((int(v)-zero)*255/span+add, 0), 255))
	}
}
