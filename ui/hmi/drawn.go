package hmi

import (
	"image"
	"image/color"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/canvas"
	"fyne.io/fyne/v2/widget"
)

// drawn is a widget that is one raster, with a frame behind it where it has
// one. What embeds it calls setup with its own paint.
type drawn struct {
	widget.BaseWidget
	ink    *Ink
	paint  func(*surface)
	min    fyne.Size
	img    *image.RGBA
	surf   surface             // kept, so that a frame allocates nothing
	framed func(Palette) frame // nil: no frame
}

// frame is the rectangle behind a drawn part.
type frame struct {
	fill, stroke color.NRGBA
	width        float32
}

func (d *drawn) setup(self fyne.Widget, ink *Ink, least fyne.Size, paint func(*surface)) {
	d.ink, d.min, d.paint = ink, least, paint
	d.ExtendBaseWidget(self)
}

// MinSize is fixed: what is drawn is cut to the room there is.
func (d *drawn) MinSize() fyne.Size { return d.min }

// CreateRenderer is the toolkit's.
func (d *drawn) CreateRenderer() fyne.WidgetRenderer {
	r := &drawnRenderer{d: d, raster: canvas.NewRaster(d.render)}
	if d.framed != nil {
		r.frame = canvas.NewRectangle(nil)
		r.apply()
	}
	return r
}

// palette is that of the application's theme: where a part lies changes its
// paddings, never its colours.
func (d *drawn) palette() Palette {
	set := fyne.CurrentApp().Settings()
	if th, ok := set.Theme().(*Theme); ok {
		return th.Palette(set.ThemeVariant())
	}
	return Dark()
}

// render draws w x h pixels. The image is used again for the next frame: the
// toolkit has copied it by then.
func (d *drawn) render(w, h int) image.Image {
	if d.img == nil || d.img.Rect.Dx() != w || d.img.Rect.Dy() != h {
		d.img = image.NewRGBA(image.Rect(0, 0, w, h))
	} else {
		clear(d.img.Pix)
	}
	d.draw(&d.surf, d.img, nil)
	return d.img
}

func (d *drawn) draw(s *surface, img *image.RGBA, log *[]Word) {
	size := d.Size()
	if size.Width <= 0 || size.Height <= 0 || img.Rect.Empty() {
		return
	}
	*s = surface{
		img: img, scale: float32(img.Rect.Dx()) / size.Width,
		w: size.Width, h: size.Height, ink: d.ink, pal: d.palette(), log: log,
	}
	d.paint(s)
}

// Words lists the text that the part draws at its present size.
func (d *drawn) Words() []Word {
	size := d.Size()
	var words []Word
	d.draw(&surface{}, image.NewRGBA(image.Rect(0, 0, max(1, int(size.Width)), max(1, int(size.Height)))), &words)
	return words
}

type drawnRenderer struct {
	d      *drawn
	frame  *canvas.Rectangle
	raster *canvas.Raster
	size   fyne.Size
}

// inset keeps the whole of the frame's line inside the part.
func (r *drawnRenderer) inset() {
	if r.frame == nil {
		return
	}
	w := r.frame.StrokeWidth
	r.frame.Move(fyne.NewPos(w/2, w/2))
	r.frame.Resize(fyne.NewSize(max(0, r.size.Width-w), max(0, r.size.Height-w)))
}

func (r *drawnRenderer) apply() {
	if r.frame == nil {
		return
	}
	f := r.d.framed(r.d.palette())
	r.frame.FillColor, r.frame.StrokeColor, r.frame.StrokeWidth = f.fill, f.stroke, f.width
}

func (r *drawnRenderer) Layout(s fyne.Size) {
	r.size = s
	r.inset()
	r.raster.Resize(s)
}

func (r *drawnRenderer) MinSize() fyne.Size { return r.d.min }

func (r *drawnRenderer) Refresh() {
	if r.frame != nil {
		r.apply()
		r.inset()
		r.frame.Refresh()
	}
	r.raster.Refresh()
}

func (r *drawnRenderer) Objects() []fyne.CanvasObject {
	if r.frame == nil {
		return []fyne.CanvasObject{r.raster}
	}
	return []fyne.CanvasObject{r.frame, r.raster}
}

func (r *drawnRenderer) Destroy() {}
