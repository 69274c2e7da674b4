package hmi_test

import (
	"image"
	"image/color"
	"math"
	"testing"
	"time"

	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/test"
)

func ink(t testing.TB) *hmi.Ink {
	t.Helper()
	k, err := hmi.NewInk()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// shoot draws one object of the given size with the software painter.
func shoot(t testing.TB, choice hmi.Choice, o fyne.CanvasObject, w, h float32) image.Image {
	t.Helper()
	test.NewTempApp(t).Settings().SetTheme(hmi.NewTheme(choice))
	win := test.NewTempWindow(t, o)
	win.SetPadded(false)
	win.Resize(fyne.NewSize(w, h))
	o.Resize(fyne.NewSize(w, h))
	o.Refresh()
	return win.Canvas().Capture()
}

func luminance(c color.NRGBA) float64 {
	f := func(v uint8) float64 {
		x := float64(v) / 255
		if x <= 0.03928 {
			return x / 12.92
		}
		return math.Pow((x+0.055)/1.055, 2.4)
	}
	return 0.2126*f(c.R) + 0.7152*f(c.G) + 0.0722*f(c.B)
}

func contrast(a, b color.NRGBA) float64 {
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

var palettes = map[string]hmi.Palette{"dark": hmi.Dark(), "light": hmi.Light()}

func TestTextHasContrast(t *testing.T) {
	for name, p := range palettes {
		pairs := map[string][2]color.NRGBA{
			"text on panel": {p.Text, p.Panel}, "text on base": {p.Text, p.Base}, "text on button": {p.Text, p.Button},
			"muted on panel": {p.Muted, p.Panel}, "muted on base": {p.Muted, p.Base}, "muted on scale": {p.Muted, p.Scale},
			"live on panel": {p.Live, p.Panel}, "panel on text (lost gateway)": {p.Panel, p.Text},
		}
		for i := 1; i <= 4; i++ {
			pairs["digit on badge "+string(rune('0'+i))] = [2]color.NRGBA{p.OnBadge[i], p.Priority[i]}
		}
		for what, c := range pairs {
			if got := contrast(c[0], c[1]); got < 4.5 {
				t.Errorf("%s: %s has a contrast of %.2f, want 4.5", name, what, got)
			}
		}
	}
}

func grey(c color.NRGBA) float64 {
	return 0.299*float64(c.R) + 0.587*float64(c.G) + 0.114*float64(c.B)
}

func TestPrioritiesDifferWithoutColour(t *testing.T) {
	for name, p := range palettes {
		for i := 1; i <= 4; i++ {
			for j := i + 1; j <= 4; j++ {
				if d := math.Abs(grey(p.Priority[i]) - grey(p.Priority[j])); d < 18 {
					t.Errorf("%s: priorities %d and %d are only %.0f apart in grey", name, i, j, d)
				}
			}
		}
	}
	// The shapes: how many pixels of a 40 pixel square each fills, and whether
	// its corners and edges are filled, differ pairwise.
	masks := map[int][]bool{}
	for sev := 1; sev <= 4; sev++ {
		b := hmi.NewBadge(ink(t), 40)
		b.Set(sev)
		img := shoot(t, hmi.DarkOnly, b, 40, 40)
		base := hmi.Dark().Base
		for y := range 40 {
			for x := range 40 {
				masks[sev] = append(masks[sev], !near(img.At(x, y), base, 40))
			}
		}
	}
	for i := 1; i <= 4; i++ {
		for j := i + 1; j <= 4; j++ {
			diff := 0
			for k := range masks[i] {
				if masks[i][k] != masks[j][k] {
					diff++
				}
			}
			if diff < 100 {
				t.Errorf("the shapes of %d and %d differ in %d of 1600 pixels only", i, j, diff)
			}
		}
	}
}

func near(c color.Color, want color.NRGBA, tol uint32) bool {
	r, g, b, _ := c.RGBA()
	d := func(v uint32, w uint8) uint32 { v >>= 8; return max(v, uint32(w)) - min(v, uint32(w)) }
	return d(r, want.R) <= tol && d(g, want.G) <= tol && d(b, want.B) <= tol
}

func nothingGreen(c color.NRGBA) bool {
	return int(c.G) <= int(max(c.R, c.B))+12
}

func TestNothingIsGreen(t *testing.T) {
	for name, p := range palettes {
		all := append([]color.NRGBA{p.Base, p.Panel, p.Edge, p.Grid, p.Text, p.Muted, p.Live, p.Scale, p.Band, p.Waiting, p.Button}, p.Pens[:]...)
		for _, c := range append(all, p.Priority[:]...) {
			if !nothingGreen(c) {
				t.Errorf("%s: %v is green", name, c)
			}
		}
	}
	th := hmi.NewTheme(hmi.DarkOnly)
	for _, n := range []fyne.ThemeColorName{"success", "primary", "focus", "selection", "hover"} {
		r, g, b, _ := th.Color(n, 0).RGBA()
		if g > max(r, b)+0x1000 {
			t.Errorf("the toolkit's %q is green", n)
		}
	}
}

func nans(n int) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = float32(math.NaN())
	}
	return s
}

func flat(v float32) view.Pen {
	p := view.Pen{ID: "p", Label: "Pump", Min: make([]float32, view.Columns), Max: make([]float32, view.Columns), Limit: float32(math.NaN())}
	for i := range p.Min {
		p.Min[i], p.Max[i] = v, v
	}
	return p
}

func TestTrendGapIsPanelColour(t *testing.T) {
	p := flat(0.5)
	for i := 200; i < 400; i++ {
		p.Min[i], p.Max[i] = float32(math.NaN()), float32(math.NaN())
	}
	p.Min[500], p.Max[500] = 0.1, 0.98 // a spike of one sample
	p.Severity = 1
	tr := hmi.NewTrend(ink(t))
	tr.Set(view.Trend{Window: 10 * time.Minute, End: "now", Pens: []view.Pen{p}})
	const w, h = 800, 300
	img := shoot(t, hmi.DarkOnly, tr, w, h)
	pal := hmi.Dark()
	// The plot's right edge is where the grid's outermost vertical line is.
	left, right := 26, 0
	for x := w - 1; x > 0 && right == 0; x-- {
		if near(img.At(x, 40), pal.Grid, 2) && near(img.At(x, 250), pal.Grid, 2) {
			right = x
		}
	}
	if right < 500 {
		t.Fatalf("no plot found, right edge %d", right)
	}
	colour := func(c int) (n int) { // pixels of the pen in column c of 600
		x := left + (right-left)*c/view.Columns
		for y := 6; y < h-16; y++ {
			if near(img.At(x, y), pal.Priority[1], 60) {
				n++
			}
		}
		return n
	}
	for c := 203; c < 397; c++ {
		x := left + (right-left)*c/view.Columns
		for y := 6; y < h-16; y++ {
			if px := img.At(x, y); !near(px, pal.Panel, 2) && !near(px, pal.Grid, 2) {
				t.Fatalf("column %d of the gap has the colour %v at %d", c, px, y)
			}
		}
	}
	if n := colour(100); n < 1 || n > 5 {
		t.Errorf("a flat line is %d pixels high", n)
	}
	tall := 0
	for c := 496; c <= 504; c++ {
		tall = max(tall, colour(c))
	}
	if tall < 200 {
		t.Errorf("the spike is %d pixels high, want about 240", tall)
	}
}

// pens makes n wavy series of 600 columns.
func pens(n int) view.Trend {
	tr := view.Trend{Window: 10 * time.Minute, End: "now"}
	for i := range n {
		p := flat(0)
		for c := range p.Min {
			v := float32(0.5 + 0.4*math.Sin(float64(c)/(20+float64(i))+float64(i)))
			p.Min[c], p.Max[c] = v-0.004, v+0.004
		}
		if i == 3 {
			p.Severity, p.Limit = 2, 0.7
		}
		tr.Pens = append(tr.Pens, p)
	}
	return tr
}

// painted lays a part out and returns its raster's generator.
func painted(t testing.TB, w fyne.Widget, width, height float32) func(w, h int) image.Image {
	t.Helper()
	test.NewTempApp(t).Settings().SetTheme(hmi.NewTheme(hmi.DarkOnly))
	w.Resize(fyne.NewSize(width, height))
	for _, o := range test.WidgetRenderer(w).Objects() {
		if r, ok := o.(*canvas.Raster); ok {
			return r.Generator
		}
	}
	t.Fatal("the part has no raster")
	return nil
}

func TestTrendFrameAllocatesNothing(t *testing.T) {
	tr := hmi.NewTrend(ink(t))
	draw := painted(t, tr, 800, 300)
	tr.Set(pens(20))
	draw(800, 300)
	if n := testing.AllocsPerRun(20, func() { draw(800, 300) }); n > 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

func BenchmarkTrend20x600(b *testing.B) {
	tr := hmi.NewTrend(ink(b))
	draw := painted(b, tr, 800, 300)
	tr.Set(pens(20))
	b.ReportAllocs()
	for b.Loop() {
		draw(800, 300)
	}
}

func TestSparkOfNothingDrawsNothing(t *testing.T) {
	tile := hmi.NewTile(ink(t))
	tile.Set(view.Tile{Label: "x", Value: "—", Limit: math.NaN(), Old: true, Spark: view.Pen{Min: nans(600), Max: nans(600)}})
	img := shoot(t, hmi.DarkOnly, tile, 180, 88)
	for x := 40; x < 170; x++ {
		for y := 60; y < 80; y++ {
			if !near(img.At(x, y), hmi.Dark().Panel, 2) {
				t.Fatalf("pixel %d,%d is %v", x, y, img.At(x, y))
			}
		}
	}
}

// A value outside its scale stays inside its bar.
func TestTileKeepsOutliersInsideTheBar(t *testing.T) {
	for _, pos := range []float64{-3, 0, 1, 40} {
		tile := hmi.NewTile(ink(t))
		tile.Set(view.Tile{Label: "x", Value: "1", Position: pos, Has: true, Limit: math.NaN()})
		img := shoot(t, hmi.DarkOnly, tile, 180, 88)
		n := 0
		for y := range 88 {
			if near(img.At(12, y), hmi.Dark().Live, 10) {
				n++
			}
		}
		if n < 3 || n > 5 {
			t.Errorf("at %v the mark is %d pixels high", pos, n)
		}
	}
}

func TestCameraFillsAndDims(t *testing.T) {
	src := image.NewRGBA(image.Rect(0, 0, 640, 480)) // 4:3 into 16:9
	for i := 0; i < len(src.Pix); i += 4 {
		src.Pix[i], src.Pix[i+1], src.Pix[i+2], src.Pix[i+3] = 200, 120, 60, 255
	}
	cam := hmi.NewCamera(ink(t))
	cam.Set(view.Camera{ID: "c", Label: "cam", Image: src, Age: "60 ms old"})
	img := shoot(t, hmi.DarkOnly, cam, 320, 180)
	for _, p := range []image.Point{{3, 3}, {316, 3}, {3, 150}, {316, 150}, {160, 90}} {
		if !near(img.At(p.X, p.Y), color.NRGBA{R: 200, G: 120, B: 60}, 6) {
			t.Errorf("pixel %v is %v: the picture does not fill the tile", p, img.At(p.X, p.Y))
		}
	}
	cam.Set(view.Camera{ID: "c", Label: "cam", Image: src, Age: "14 s old", Stale: true, Warn: "NO FRAME for 14 s"})
	img = shoot(t, hmi.DarkOnly, cam, 320, 180)
	r, g, b, _ := img.At(20, 20).RGBA()
	if r>>8 > 90 || r != g || g != b {
		t.Errorf("a stale picture is not dimmed: %v", img.At(20, 20))
	}
	if !says(cam.Words(), "NO FRAME for 14 s") || !says(cam.Words(), "14 s old") {
		t.Errorf("a stale picture says %v", cam.Words())
	}
}

func says(words []hmi.Word, want string) bool {
	for _, w := range words {
		if w.Text == want {
			return true
		}
	}
	return false
}

func TestNumeralLeavesOutWhatDoesNotFit(t *testing.T) {
	test.NewTempApp(t).Settings().SetTheme(hmi.NewTheme(hmi.DarkOnly))
	n := hmi.NewNumeral(ink(t), 24, hmi.Trailing)
	st := hmi.Style{Size: 13}
	g := func(s string, rank int) hmi.Group {
		return hmi.Group{Rank: rank, Runs: []hmi.Run{{Text: s, Style: st}}}
	}
	n.Set(g("first of three", 1), g("second of three", 3), g("third of three", 2))
	n.Resize(fyne.NewSize(n.Wide()+1, 24))
	if len(n.Words()) != 3 {
		t.Fatalf("with room for all: %v", n.Words())
	}
	n.Resize(fyne.NewSize(n.Wide()-10, 24))
	if w := n.Words(); len(w) != 2 || says(w, "second of three") {
		t.Errorf("with less room: %v", w)
	}
	n.Resize(fyne.NewSize(40, 24))
	if w := n.Words(); len(w) != 1 || w[0].X+w[0].W > 41 {
		t.Errorf("with little room: %v", w)
	}
}

func TestFontsHaveEveryCharacterThatTheViewWrites(t *testing.T) {
	k := ink(t)
	for _, st := range []hmi.Style{{Size: 13}, {Size: 13, Bold: true}, {Size: 13, Italic: true}} {
		box := k.Width("\uFFFE", st)
		for _, r := range "0123456789–—½³²µΩ°·…±%ABCabcäöüßéñ" {
			if w := k.Width(string(r), st); w == 0 || w == box && r > 0x7f {
				t.Errorf("%+v has no %q", st, r)
			}
		}
	}
}

func TestTableKeepsItsLastColumnElastic(t *testing.T) {
	th := hmi.NewTheme(hmi.DarkOnly)
	test.NewTempApp(t).Settings().SetTheme(th)
	tab := hmi.NewAlarmTable(ink(t), 28)
	rows := make([]view.Alarm, 100_000)
	for i := range rows {
		rows[i] = view.Alarm{ID: string(rune(i)), Severity: 1 + i%4, Time: "14:31:08", State: "UNACK", Source: "s", Text: "t", Unacked: true}
	}
	made := 0
	create := tab.CreateCell
	tab.CreateCell = func() fyne.CanvasObject { made++; return create() }
	win := test.NewTempWindow(t, tab.Themed(th))
	win.SetPadded(false)
	win.Resize(fyne.NewSize(700, 400))
	tab.Set(rows, false)
	if n := made; n > 400 {
		t.Errorf("%d cells for a table of 400 pixels", n)
	}
	before := made
	tab.Set(rows[1:], false)
	tab.Refresh()
	if made > before+8 {
		t.Errorf("%d cells were made anew by an update", made-before)
	}
	// The alarm column ends at the table's right edge.
	right := float32(0)
	walk(tab, 0, func(o fyne.CanvasObject, x float32) {
		w, ok := o.(interface{ Words() []hmi.Word })
		if !ok {
			return
		}
		if ws := w.Words(); len(ws) == 1 && ws[0].Text == "t" {
			right = max(right, x+o.Size().Width)
		}
	})
	if right < 690 || right > 701 {
		t.Errorf("the last column ends at %v of 700", right)
	}
}

// walk visits every visible object with its place from the left.
func walk(o fyne.CanvasObject, x float32, visit func(fyne.CanvasObject, float32)) {
	if !o.Visible() {
		return
	}
	x += o.Position().X
	visit(o, x)
	switch v := o.(type) {
	case *fyne.Container:
		for _, c := range v.Objects {
			walk(c, x, visit)
		}
	case fyne.Widget:
		for _, c := range test.WidgetRenderer(v).Objects() {
			walk(c, x, visit)
		}
	}
}
