package console_test

import (
	"image/color"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/ui/console"
	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/driver/desktop"
	"fyne.io/fyne/v2/test"
)

// warm tells a saturated red, orange or yellow, which only what is wrong may
// have.
func warm(c color.Color) bool {
	r, g, b, _ := c.RGBA()
	hi, lo := max(r, g, b), min(r, g, b)
	return hi > 0x5000 && float64(hi-lo)/float64(hi) > 0.35 && r == hi && b == lo
}

// cameras lists the rectangles of the camera tiles.
func cameras(root fyne.CanvasObject) (rects [][4]float32) {
	walk(root, func(o fyne.CanvasObject, at fyne.Position) {
		if c, ok := o.(*hmi.Camera); ok {
			rects = append(rects, [4]float32{at.X, at.Y, at.X + c.Size().Width, at.Y + c.Size().Height})
		}
	})
	return rects
}

func warmShare(w fyne.Window) float64 {
	img := w.Canvas().Capture()
	cams := cameras(w.Content())
	b, n := img.Bounds(), 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
	pixel:
		for x := b.Min.X; x < b.Max.X; x++ {
			for _, r := range cams {
				if fx, fy := float32(x), float32(y); fx >= r[0] && fx < r[2] && fy >= r[1] && fy < r[3] {
					continue pixel
				}
			}
			if warm(img.At(x, y)) {
				n++
			}
		}
	}
	return float64(n) / float64(b.Dx()*b.Dy())
}

func TestColourOnlyForWhatIsWrong(t *testing.T) {
	normal, alarm := play(t, scenes["normal"]), play(t, scenes["alarm"])
	for _, l := range looks {
		for _, z := range sizes {
			_, w := open(t, l.choice, z, normal)
			if s := warmShare(w); s >= 0.005 {
				t.Errorf("%s %v: %.2f %% of the pixels are warm though all is normal", l.name, z, 100*s)
			}
			_, w = open(t, l.choice, z, alarm)
			if s := warmShare(w); s < 0.0015 {
				t.Errorf("%s %v: only %.3f %% of the pixels are warm with two alarms: the measure sees nothing", l.name, z, 100*s)
			}
		}
	}
}

func TestOnlyTheTilesInAlarmHaveAColouredFrame(t *testing.T) {
	for name, want := range map[string]int{"normal": 0, "alarm": 2, "uplinklost": 0} {
		for _, l := range looks {
			s := play(t, scenes[name])
			_, w := open(t, l.choice, sizes[0], s)
			tile, framed := 0, 0
			walk(w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
				tl, ok := o.(*hmi.Tile)
				if !ok {
					return
				}
				rect, ok := test.WidgetRenderer(tl).Objects()[0].(*canvas.Rectangle)
				if !ok {
					t.Fatal("a tile has no frame")
				}
				coloured := saturated(rect.StrokeColor)
				if coloured != (s.Tiles[tile].Severity > 0) {
					t.Errorf("%s %s: tile %q has the frame %v", l.name, name, s.Tiles[tile].Label, rect.StrokeColor)
				}
				if coloured {
					framed++
				}
				tile++
			})
			if tile != len(s.Tiles) || framed != want {
				t.Errorf("%s %s: %d of %d tiles framed, want %d of %d", l.name, name, framed, tile, want, len(s.Tiles))
			}
		}
	}
}

func saturated(c color.Color) bool {
	r, g, b, _ := c.RGBA()
	hi, lo := max(r, g, b), min(r, g, b)
	return hi > 0 && float64(hi-lo)/float64(hi) > 0.3
}

// Tile, trend and alarm list tell of the same points.
func TestTilesAndAlarmsAgree(t *testing.T) {
	s := play(t, scenes["alarm"])
	for i, tile := range s.Tiles {
		named := slices.ContainsFunc(s.Alarms, func(a view.Alarm) bool {
			return strings.HasSuffix(a.Source, "/"+tile.ID) && a.Severity == tile.Severity
		})
		if named != (tile.Severity > 0) {
			t.Errorf("tile %q has severity %d, the alarm list says %v", tile.Label, tile.Severity, named)
		}
		if pen := s.Trend.Pens[i]; pen.ID != tile.ID || pen.Severity != tile.Severity {
			t.Errorf("pen %d is %q with severity %d", i, pen.ID, pen.Severity)
		}
		if tile.Severity > 0 && tile.Position < tile.Limit {
			t.Errorf("tile %q is in alarm at %v below its limit %v", tile.Label, tile.Position, tile.Limit)
		}
	}
}

func luminance(c color.Color) float64 {
	r, g, b, _ := c.RGBA()
	f := func(v uint32) float64 {
		x := float64(v) / 0xffff
		if x <= 0.03928 {
			return x / 12.92
		}
		return math.Pow((x+0.055)/1.055, 2.4)
	}
	return 0.2126*f(r) + 0.7152*f(g) + 0.0722*f(b)
}

// Every text drawn in every scene stands on a ground that it can be read on,
// and inside the part that draws it. The ground is the colour most pixels
// around the text have.
func TestEveryTextCanBeRead(t *testing.T) {
	for name, sc := range scenes {
		s := play(t, sc)
		for _, l := range looks {
			for _, z := range sizes {
				_, w := open(t, l.choice, z, s)
				img := w.Canvas().Capture()
				checked := 0
				walk(w.Content(), func(o fyne.CanvasObject, at fyne.Position) {
					d, ok := o.(interface{ Words() []hmi.Word })
					if !ok {
						return
					}
					size := o.Size()
					for _, word := range d.Words() {
						if word.X < -0.5 || word.Y < -0.5 || word.X+word.W > size.Width+0.6 || word.Y+word.H > size.Height+0.5 {
							t.Errorf("%s %s %v: %q leaves its part: %+v in %v", name, l.name, z, word.Text, word, size)
						}
						x0, y0 := int(at.X+word.X), int(at.Y+word.Y)
						x1, y1 := int(at.X+word.X+word.W), int(at.Y+word.Y+word.H)
						if y1 >= int(z.Height)-4 || x1 >= int(z.Width) {
							continue // below the fold
						}
						votes := map[color.Color]int{}
						for y := y0 - 1; y <= y1+1; y++ {
							for x := x0 - 1; x <= x1; x++ {
								votes[img.At(x, y)]++
							}
						}
						var ground color.Color = color.Black
						most := 0
						for c, n := range votes {
							if n > most && !same(c, word.Color) {
								ground, most = c, n
							}
						}
						a, b := luminance(word.Color), luminance(ground)
						if c := (max(a, b) + 0.05) / (min(a, b) + 0.05); c < 4.5 {
							t.Errorf("%s %s %v: %q in %v on %v: contrast %.1f", name, l.name, z, word.Text, word.Color, ground, c)
						}
						checked++
					}
				})
				if checked < 60 {
					t.Errorf("%s %s %v: only %d texts found", name, l.name, z, checked)
				}
			}
		}
	}
}

func same(a, b color.Color) bool {
	r0, g0, b0, _ := a.RGBA()
	r1, g1, b1, _ := b.RGBA()
	return r0 == r1 && g0 == g1 && b0 == b1
}

func banner(root fyne.CanvasObject) (b *hmi.Banner) {
	walk(root, func(o fyne.CanvasObject, _ fyne.Position) {
		if v, ok := o.(*hmi.Banner); ok {
			b = v
		}
	})
	return b
}

func TestAcknowledgeIsBigAndBesideTheText(t *testing.T) {
	s := play(t, scenes["alarm"])
	for _, z := range sizes {
		c, w := open(t, hmi.DarkOnly, z, s)
		b := banner(w.Content())
		size, pos := b.Button().Size(), b.Button().Position()
		if size.Width < 44 || size.Height < 44 {
			t.Errorf("%v: the button is %v", z, size)
		}
		end := float32(0)
		walk(b, func(o fyne.CanvasObject, _ fyne.Position) {
			if d, ok := o.(interface{ Words() []hmi.Word }); ok {
				for _, word := range d.Words() {
					end = max(end, word.X+word.W)
				}
			}
		})
		if gap := pos.X - end; gap < 0 || gap > 200 {
			t.Errorf("%v: the button is %v pixels from the text", z, gap)
		}
		var got []string
		c.OnAck = func(ids []string) { got = append(got, ids...) }
		c.Now = func() time.Time { return time.Now().Add(time.Hour) }
		test.TapCanvas(w.Canvas(), pos.Add(fyne.NewPos(5, 30)).Add(size.Subtract(fyne.NewSize(20, 20))))
		if !slices.Equal(got, []string{"motor3-vib/high/1"}) {
			t.Errorf("%v: a tap acknowledged %v", z, got)
		}
	}
}

func TestLongAlarmTextLeavesTheButtonInTheWindow(t *testing.T) {
	s := play(t, scenes["alarm"])
	s.Banner.Text = strings.Repeat("a very long alarm text ", 20)
	for _, z := range sizes {
		_, w := open(t, hmi.DarkOnly, z, s)
		b := banner(w.Content()).Button()
		if right := b.Position().X + b.Size().Width; right > z.Width-10+0.5 {
			t.Errorf("%v: the button ends at %v", z, right)
		}
	}
}

func TestKeys(t *testing.T) {
	c, w := open(t, hmi.DarkOnly, sizes[0], play(t, scenes["alarm"]))
	var acked []string
	var pages []console.Page
	c.OnAck = func(ids []string) { acked = append(acked, ids...) }
	c.OnPage = func(p console.Page) { pages = append(pages, p) }
	press := func(k fyne.KeyName) {
		if f := w.Canvas().Focused(); f != nil {
			f.TypedKey(&fyne.KeyEvent{Name: k})
			return
		}
		w.Canvas().OnTypedKey()(&fyne.KeyEvent{Name: k})
	}
	press(fyne.KeyF2)
	press(fyne.Key2)
	press(fyne.KeyEscape)
	if !slices.Equal(acked, []string{"motor3-vib/high/1"}) || !slices.Equal(pages, []console.Page{console.Alarms, console.Overview}) {
		t.Errorf("acknowledged %v, pages %v", acked, pages)
	}
	// Wherever Tab puts the focus, F2 still acknowledges and 2 still turns the
	// page; on the alarm page the arrows and Enter acknowledge a row.
	for range 6 {
		w.Canvas().FocusNext()
		n := len(acked)
		press(fyne.KeyF2)
		if len(acked) != n+1 {
			t.Errorf("F2 is lost at %T", w.Canvas().Focused())
		}
	}
	press(fyne.Key2)
	if c.Page() != console.Alarms {
		t.Fatal("2 does not show the alarms")
	}
	acked = nil
	w.Canvas().Unfocus()
	for range 8 {
		w.Canvas().FocusNext()
		if _, ok := w.Canvas().Focused().(*hmi.AlarmTable); ok {
			break
		}
	}
	if _, ok := w.Canvas().Focused().(*hmi.AlarmTable); !ok {
		t.Fatalf("Tab does not reach the table, but %T", w.Canvas().Focused())
	}
	// The mouse passing over another row changes nothing.
	if m, ok := w.Canvas().Focused().(desktop.Hoverable); ok {
		m.MouseMoved(&desktop.MouseEvent{PointEvent: fyne.PointEvent{Position: fyne.NewPos(100, 110)}})
	}
	press(fyne.KeyDown)
	press(fyne.KeyReturn)
	if !slices.Equal(acked, []string{"line1-temp/high/1"}) {
		t.Errorf("Down and Enter acknowledged %v", acked)
	}
}

// A tap that was meant for one alarm does not acknowledge the one that took
// its place in the same moment.
func TestTapOnAChangedAlarmIsIgnored(t *testing.T) {
	s := play(t, scenes["alarm"])
	c, w := open(t, hmi.DarkOnly, sizes[0], s)
	now := time.Unix(1000, 0)
	c.Now = func() time.Time { return now }
	var acked []string
	c.OnAck = func(ids []string) { acked = append(acked, ids...) }
	next := s
	next.Banner.AlarmIDs = []string{"newer"}
	c.Apply(next)
	now = now.Add(100 * time.Millisecond)
	test.Tap(banner(w.Content()).Button())
	if len(acked) != 0 {
		t.Errorf("acknowledged %v", acked)
	}
	now = now.Add(time.Second)
	test.Tap(banner(w.Content()).Button())
	if !slices.Equal(acked, []string{"newer"}) {
		t.Errorf("acknowledged %v a second later", acked)
	}
}

func TestNothingIsAcknowledgedWithoutAGateway(t *testing.T) {
	c, w := open(t, hmi.DarkOnly, sizes[0], play(t, scenes["gatewaylost"]))
	c.OnAck = func(ids []string) { t.Errorf("acknowledged %v", ids) }
	w.Canvas().OnTypedKey()(&fyne.KeyEvent{Name: fyne.KeyF2})
	if banner(w.Content()).Button().Visible() {
		t.Error("the button is there")
	}
	c.Go(console.Alarms)
	for range 8 {
		w.Canvas().FocusNext()
		if f, ok := w.Canvas().Focused().(*hmi.AlarmTable); ok {
			f.TypedKey(&fyne.KeyEvent{Name: fyne.KeyDown})
			f.TypedKey(&fyne.KeyEvent{Name: fyne.KeyReturn})
		}
	}
}

// The two faults are told apart by words and by place, in every look.
func TestTwoKindsOfOffline(t *testing.T) {
	lost, cut := "Console lost the gateway 00:42 ago — gateway keeps recording", "Gateway cannot reach the cloud — spooling, 9.4 days of space"
	for _, z := range sizes {
		_, w := open(t, hmi.LightOnly, z, play(t, scenes["gatewaylost"]))
		if txt := words(w.Content()); !strings.Contains(txt, lost) || strings.Contains(txt, cut) {
			t.Errorf("%v: gateway lost is not said, or both are", z)
		}
		_, w = open(t, hmi.LightOnly, z, play(t, scenes["uplinklost"]))
		txt := words(w.Content())
		if !strings.Contains(txt, cut) || strings.Contains(txt, lost) {
			t.Errorf("%v: uplink lost is not said, or both are", z)
		}
		// Said in two places, not in four.
		if n := strings.Count(txt, "DOWN"); n != 2 {
			t.Errorf("%v: DOWN is said %d times", z, n)
		}
	}
}

// What is configured differs: many points, none, no camera, no uplink.
func TestOtherPlants(t *testing.T) {
	at := end
	for name, snap := range map[string]api.Snapshot{
		"empty": {},
		"many": func() (s api.Snapshot) {
			for i := range 40 {
				v := float64(i)
				s.Points = append(s.Points, api.Point{ID: string(rune('A' + i)), Label: "Point", High: 50, Value: &v, At: &at})
			}
			for i := range 9 {
				s.Cameras = append(s.Cameras, api.Camera{ID: string(rune('a' + i))})
			}
			return s
		}(),
	} {
		m := view.New(view.Config{Location: time.UTC}, at)
		m.Event(at, api.Event{Kind: "snapshot", Snapshot: &snap})
		s, ok := m.Frame(at)
		if !ok {
			t.Fatal("no frame")
		}
		for _, z := range sizes {
			c, w := open(t, hmi.DarkOnly, z, play(t, scenes["alarm"]))
			c.Apply(s)
			walk(w.Content(), func(o fyne.CanvasObject, pos fyne.Position) {
				if tr, ok := o.(*hmi.Trend); ok && (tr.Size().Height < 70 || tr.Size().Width < 300) {
					t.Errorf("%s %v: the trend is %v", name, z, tr.Size())
				}
				if sz := o.Size(); sz.Width < 0 || sz.Height < 0 {
					t.Errorf("%s %v: %T is %v", name, z, o, sz)
				}
			})
			txt := words(w.Content())
			if name == "empty" && (!strings.Contains(txt, "No points configured") || !strings.Contains(txt, "none configured")) {
				t.Errorf("%v: an empty gateway does not say what to do", z)
			}
			if name == "many" && !strings.Contains(txt, "8 of 40 points") {
				t.Errorf("%v: it does not say that pens are left out", z)
			}
		}
	}
}

// A window that is resized and a console that runs for long keep working:
// a thousand frames through every scene leave no more objects than one.
func TestFramesDoNotGrowTheTree(t *testing.T) {
	normal, alarm, lost := play(t, scenes["normal"]), play(t, scenes["alarm"]), play(t, scenes["gatewaylost"])
	c, w := open(t, hmi.DarkOnly, sizes[0], alarm)
	count := func() (n int) {
		walk(w.Content(), func(fyne.CanvasObject, fyne.Position) { n++ })
		return n
	}
	before := count()
	for i := range 300 {
		c.Apply([]view.Snapshot{normal, lost, alarm}[i%3])
		if i%50 == 0 {
			w.Resize(sizes[1])
			w.Resize(sizes[0])
		}
	}
	c.Apply(alarm)
	if after := count(); after > before {
		t.Errorf("%d objects after 300 frames, %d before", after, before)
	}
}
