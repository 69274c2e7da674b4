package hmi

import (
	"forebay/ui/view"

	"fyne.io/fyne/v2"
)

// ErrandHeight is that of a replay or a redrive: as high as its button.
const ErrandHeight = 46

// Errand shows how far a replay or a redrive is: in records, never in per cent.
type Errand struct {
	drawn
	errand view.Errand
}

// NewErrand makes an empty one.
func NewErrand(ink *Ink) *Errand {
	e := &Errand{}
	e.setup(e, ink, fyne.NewSize(280, ErrandHeight), e.paintErrand)
	return e
}

// Set shows an errand.
func (e *Errand) Set(v view.Errand) {
	if e.errand != v {
		e.errand = v
		e.Refresh()
	}
}

func (e *Errand) paintErrand(s *surface) {
	v := e.errand
	title, body := Style{Size: 12, Bold: true}, Style{Size: 12}
	tone := s.pal.Text
	if v.Old {
		title.Bold, title.Italic, body.Italic = false, true, true
	}
	if v.Old || v.Gone {
		tone = s.pal.Muted
	}
	x := s.text(s.fit(v.Title, title, s.w), title, 0, 3, tone) + 12
	s.text(s.fit(v.Detail, body, s.w-x), body, x, 3, tone)
	s.fill(0, 18, s.w, 8, s.pal.Edge)
	s.fill(1, 19, s.w-2, 6, s.pal.Scale)
	fill := s.pal.Waiting
	if v.Old || v.Gone {
		fill = s.pal.Band
	}
	s.fill(1, 19, (s.w-2)*float32(v.Share), 6, fill)
	note, c := body, s.pal.Muted
	switch {
	case v.Failed:
		note, c = title, s.pal.Text
	case v.Stuck && !v.Old:
		c = s.pal.Text
	}
	s.text(s.fit(v.Note, note, s.w), note, 0, 33, c)
}
