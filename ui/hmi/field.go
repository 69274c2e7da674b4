package hmi

import (
	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/widget"
)

// Field is the toolkit's line of typed text, as high as a finger needs, that
// hands on the keys it does not use.
type Field struct {
	widget.Entry
	OnPass func(ev *fyne.KeyEvent)
	least  float32
}

// NewField makes an empty field of at least the given height.
func NewField(hint string, least float32) *Field {
	f := &Field{least: least}
	f.PlaceHolder = hint
	f.Wrapping, f.Scroll = fyne.TextWrapOff, fyne.ScrollNone
	f.ExtendBaseWidget(f)
	return f
}

// MinSize is the toolkit's, but at least as high as asked for.
func (f *Field) MinSize() fyne.Size {
	s := f.Entry.MinSize()
	return fyne.NewSize(max(s.Width, f.least), max(s.Height, f.least))
}

// TypedKey hands on the keys of the window.
func (f *Field) TypedKey(ev *fyne.KeyEvent) { passOr(ev, f.OnPass, f.Entry.TypedKey) }

// Picker is the toolkit's choice of one among a few, as high as a finger
// needs, that hands on the keys it does not use.
type Picker struct {
	widget.Select
	OnPass func(ev *fyne.KeyEvent)
	least  float32
}

// NewPicker makes one without options.
func NewPicker(hint string, least float32, changed func(string)) *Picker {
	p := &Picker{least: least}
	p.PlaceHolder, p.OnChanged = hint, changed
	p.ExtendBaseWidget(p)
	return p
}

// MinSize is the toolkit's, but at least as high as asked for.
func (p *Picker) MinSize() fyne.Size {
	s := p.Select.MinSize()
	return fyne.NewSize(max(s.Width, p.least), max(s.Height, p.least))
}

// TypedKey hands on the keys of the window.
func (p *Picker) TypedKey(ev *fyne.KeyEvent) { passOr(ev, p.OnPass, p.Select.TypedKey) }

// passOr gives the keys that work everywhere to pass, and the others to own.
func passOr(ev *fyne.KeyEvent, pass, own func(*fyne.KeyEvent)) {
	switch ev.Name {
	case fyne.KeyF2, fyne.KeyF11, fyne.KeyEscape:
		if pass != nil {
			pass(ev)
		}
	default:
		own(ev)
	}
}
