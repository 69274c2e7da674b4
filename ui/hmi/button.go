package hmi

import (
	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/widget"
)

// Button is the toolkit's button that also obeys Enter and hands on the keys
// it does not use, so that F2 works wherever the focus is.
type Button struct {
	widget.Button
	OnPass func(ev *fyne.KeyEvent)
	least  float32
}

// NewButton makes a button that is at least least pixels high.
func NewButton(text string, icon fyne.Resource, least float32, tapped func()) *Button {
	b := &Button{least: least}
	b.Text, b.Icon, b.OnTapped = text, icon, tapped
	b.ExtendBaseWidget(b)
	return b
}

// MinSize is the toolkit's, but at least as high as asked for.
func (b *Button) MinSize() fyne.Size {
	s := b.Button.MinSize()
	return fyne.NewSize(max(s.Width, b.least), max(s.Height, b.least))
}

// TypedKey activates on Space and Enter and hands on everything else.
func (b *Button) TypedKey(ev *fyne.KeyEvent) {
	switch ev.Name {
	case fyne.KeySpace:
		b.Button.TypedKey(ev)
	case fyne.KeyReturn, fyne.KeyEnter:
		if b.OnTapped != nil && !b.Disabled() {
			b.OnTapped()
		}
	default:
		if b.OnPass != nil {
			b.OnPass(ev)
		}
	}
}
