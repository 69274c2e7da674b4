package camera_test

import (
	"bytes"
	"image"
	"image/jpeg"
	"math/rand/v2"
	"testing"
	"time"

	"forebay/firmware-sim/camera"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// shots draws frames of a scene at ten a second.
func shots(seed int64, n int) []camera.Picture {
	s := camera.NewScene(seed)
	out := make([]camera.Picture, n)
	for i := range out {
		s.Draw(&out[i], uint64(i), noon.Add(time.Duration(i)*100*time.Millisecond))
	}
	return out
}

// What is decoded is what was drawn, pixel by pixel, over more frames than
// frame_num can count.
func TestEncoderIsLossless(t *testing.T) {
	pics := shots(7, 300)
	var enc camera.Encoder
	var dec decoder
	var keyBytes, otherBytes int
	for i := range pics {
		nal, key := enc.Encode(&pics[i], i == 290)
		if want := i == 0 || i == 290; key != want {
			t.Fatalf("frame %d: key is %v", i, key)
		}
		if key {
			keyBytes += len(nal)
		} else {
			otherBytes += len(nal)
		}
		gotKey, err := dec.slice(nal)
		if err != nil || gotKey != key {
			t.Fatalf("frame %d: key %v, %v", i, gotKey, err)
		}
		if dec.pic != pics[i] {
			t.Fatalf("frame %d is not what was drawn", i)
		}
		if n, ok := camera.FrameNumber(&dec.pic); !ok || n != uint64(i) {
			t.Fatalf("frame %d reads as %d, %v", i, n, ok)
		}
	}
	if otherBytes/298 > keyBytes/2/4 {
		t.Errorf("a P frame has %d bytes, a key frame %d: nothing is saved", otherBytes/298, keyBytes/2)
	}
}

// Samples that look like start codes are kept too.
func TestEncoderKeepsAnySamples(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var enc camera.Encoder
	var dec decoder
	var p camera.Picture
	for i := range 20 {
		for j := range p.Y {
			if rng.IntN(4) == 0 {
				p.Y[j] = byte(rng.IntN(5))
			}
		}
		for j := range p.Cb {
			p.Cb[j], p.Cr[j] = byte(rng.IntN(4)), byte(rng.IntN(256))
		}
		nal, _ := enc.Encode(&p, i%7 == 0)
		if _, err := dec.slice(nal); err != nil {
			t.Fatalf("picture %d: %v", i, err)
		}
		if dec.pic != p {
			t.Fatalf("picture %d is not what was drawn", i)
		}
	}
	// Nothing changed at all, and only the last macroblock changed.
	for range 2 {
		nal, _ := enc.Encode(&p, false)
		if _, err := dec.slice(nal); err != nil || dec.pic != p {
			t.Fatalf("still picture: %v", err)
		}
		p.Y[len(p.Y)-1] ^= 1
	}
}

func FuzzEncoder(f *testing.F) {
	f.Add([]byte{0, 0, 1}, uint16(300))
	f.Add(bytes.Repeat([]byte{0}, 400), uint16(0))
	f.Fuzz(func(t *testing.T, patch []byte, at uint16) {
		pics := shots(1, 2)
		copy(pics[1].Y[int(at)%len(pics[1].Y):], patch)
		copy(pics[1].Cr[int(at)%len(pics[1].Cr):], patch)
		var enc camera.Encoder
		var dec decoder
		for i := range pics {
			nal, _ := enc.Encode(&pics[i], false)
			if _, err := dec.slice(nal); err != nil || dec.pic != pics[i] {
				t.Fatalf("picture %d: %v", i, err)
			}
		}
	})
}

func TestSceneIsOfItsSeed(t *testing.T) {
	a, b, c := shots(3, 20), shots(3, 20), shots(4, 20)
	for i := range a {
		if a[i] != b[i] {
			t.Fatalf("frame %d: one seed, two pictures", i)
		}
	}
	if a[10] == c[10] {
		t.Error("two seeds, one picture")
	}
	if a[10] == a[11] {
		t.Error("nothing moves")
	}
}

// The burned-in number survives JPEG.
func TestStill(t *testing.T) {
	pics := shots(5, 43)
	raw, err := pics[42].JPEG()
	if err != nil {
		t.Fatal(err)
	}
	img, err := jpeg.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	ycc, ok := img.(*image.YCbCr)
	if !ok || img.Bounds().Dx() != camera.Width || img.Bounds().Dy() != camera.Height {
		t.Fatalf("still is %T, %v", img, img.Bounds())
	}
	var back camera.Picture
	worst := 0
	for i := range back.Y {
		x, y := i%camera.Width, i/camera.Width
		back.Y[i] = byte(int(ycc.Y[ycc.YOffset(x, y)])*219/255 + 16)
		worst = max(worst, int(back.Y[i])-int(pics[42].Y[i]), int(pics[42].Y[i])-int(back.Y[i]))
	}
	if n, ok := camera.FrameNumber(&back); !ok || n != 42 {
		t.Errorf("still reads as %d, %v", n, ok)
	}
	if worst > 60 {
		t.Errorf("luma is off by %d", worst)
	}
	if _, ok := camera.FrameNumber(&camera.Picture{}); ok {
		t.Error("an empty picture has a number")
	}
}
