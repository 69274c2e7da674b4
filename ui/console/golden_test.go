package console_test

import (
	"bytes"
	"flag"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"forebay/ui/console"
	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/test"
)

var update = flag.Bool("update", false, "write the golden files anew")

type look struct {
	name   string
	choice hmi.Choice
}

var (
	looks = []look{{"dark", hmi.DarkOnly}, {"light", hmi.LightOnly}}
	sizes = []fyne.Size{{Width: 1440, Height: 900}, {Width: 1024, Height: 600}}
)

// open shows a snapshot in a window of the software painter.
func open(t testing.TB, choice hmi.Choice, size fyne.Size, s view.Snapshot) (*console.Console, fyne.Window) {
	t.Helper()
	app := test.NewTempApp(t)
	th := hmi.NewTheme(choice)
	app.Settings().SetTheme(th)
	c, err := console.New(th)
	if err != nil {
		t.Fatal(err)
	}
	w := test.NewTempWindow(t, c.Content())
	w.SetPadded(false)
	w.Resize(size)
	c.Bind(w.Canvas())
	c.Apply(s)
	return c, w
}

func TestOverviewMatchesItsGoldens(t *testing.T) {
	// Markup for every case; pictures for those that a person must look at.
	pictures := map[string]bool{
		"dark-1440x900-normal": true, "dark-1440x900-alarm": true, "dark-1440x900-gatewaylost": true, "dark-1440x900-uplinklost": true,
		"light-1440x900-normal": true, "light-1440x900-alarm": true,
		"dark-1024x600-alarm": true, "light-1024x600-uplinklost": true, "light-1024x600-gatewaylost": true,
	}
	for name, sc := range scenes {
		s := play(t, sc)
		for _, l := range looks {
			for _, z := range sizes {
				id := fmt.Sprintf("%s-%dx%d-%s", l.name, int(z.Width), int(z.Height), name)
				t.Run(id, func(t *testing.T) {
					_, w := open(t, l.choice, z, s)
					golden(t, id+".xml", []byte(test.RenderToMarkup(w.Canvas())+words(w.Content())))
					if pictures[id] {
						goldenPicture(t, filepath.Join("testdata", id+".png"), w.Canvas().Capture())
					}
					if id == "dark-1440x900-alarm" { // the picture in the README
						goldenPicture(t, filepath.Join("..", "..", "docs", "console.png"), w.Canvas().Capture())
					}
				})
			}
		}
	}
}

func TestAlarmPageMatchesItsGolden(t *testing.T) {
	c, w := open(t, hmi.DarkOnly, sizes[0], play(t, scenes["alarm"]))
	c.Go(console.Alarms)
	golden(t, "dark-1440x900-alarmpage.xml", []byte(test.RenderToMarkup(w.Canvas())+words(w.Content())))
	goldenPicture(t, filepath.Join("testdata", "dark-1440x900-alarmpage.png"), w.Canvas().Capture())
}

// words lists the text inside rasters, which the markup cannot show.
func words(root fyne.CanvasObject) string {
	var b strings.Builder
	b.WriteString("<!-- drawn text\n")
	walk(root, func(o fyne.CanvasObject, at fyne.Position) {
		d, ok := o.(interface{ Words() []hmi.Word })
		if !ok {
			return
		}
		for _, w := range d.Words() {
			fmt.Fprintf(&b, "%6.0f %6.0f %5.0f  %2.0f  %02x%02x%02x  %s\n", at.X+w.X, at.Y+w.Y, w.W, w.Size, w.Color.R, w.Color.G, w.Color.B, w.Text)
		}
	})
	b.WriteString("-->\n")
	return b.String()
}

// walk visits every object that can be seen with its place in the window.
func walk(root fyne.CanvasObject, visit func(fyne.CanvasObject, fyne.Position)) {
	walkAt(root, fyne.Position{}, fyne.NewSize(1e6, 1e6), visit)
}

// walkAt stops where scrolling hides the middle of an object; low is the
// corner of what can be seen.
func walkAt(o fyne.CanvasObject, at fyne.Position, low fyne.Size, visit func(fyne.CanvasObject, fyne.Position)) {
	at = at.Add(o.Position())
	if !o.Visible() || at.Y+o.Size().Height/2 > low.Height && o.Size().Height < 200 {
		return
	}
	visit(o, at)
	switch v := o.(type) {
	case *fyne.Container:
		for _, c := range v.Objects {
			walkAt(c, at, low, visit)
		}
	case fyne.Widget:
		if _, ok := o.(*container.Scroll); ok {
			low.Height = min(low.Height, at.Y+o.Size().Height)
		}
		for _, c := range test.WidgetRenderer(v).Objects() {
			walkAt(c, at, low, visit)
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		write(t, path, got)
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read the golden (run with -update to make it): %v", err)
	}
	if !bytes.Equal(got, want) {
		g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				t.Fatalf("%s line %d:\n got %s\nwant %s", name, i+1, g[i], w[i])
			}
		}
		t.Fatalf("%s has %d lines, want %d", name, len(g), len(w))
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// goldenPicture compares pixels; a thousandth of them may differ by more than
// rounding, because float arithmetic differs between processors.
func goldenPicture(t *testing.T, path string, got image.Image) {
	t.Helper()
	if *update {
		var b bytes.Buffer
		enc := png.Encoder{CompressionLevel: png.BestCompression}
		if err := enc.Encode(&b, got); err != nil {
			t.Fatal(err)
		}
		write(t, path, b.Bytes())
		return
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatalf("open the golden (run with -update to make it): %v", err)
	}
	defer f.Close()
	want, err := png.Decode(f)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	if got.Bounds() != want.Bounds() {
		t.Fatalf("%s is %v, want %v", path, got.Bounds(), want.Bounds())
	}
	b, bad := got.Bounds(), 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			r0, g0, b0, _ := got.At(x, y).RGBA()
			r1, g1, b1, _ := want.At(x, y).RGBA()
			if apart(r0, r1) || apart(g0, g1) || apart(b0, b1) {
				bad++
			}
		}
	}
	if limit := b.Dx() * b.Dy() / 1000; bad > limit {
		t.Errorf("%s: %d pixels differ, at most %d may; run with -update and look at it", path, bad, limit)
	}
}

func apart(a, b uint32) bool { return max(a, b)-min(a, b) > 12<<8 }
