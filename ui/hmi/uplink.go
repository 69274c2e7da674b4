package hmi

import (
	"forebay/ui/view"

	"fyne.io/fyne/v2"
)

// Uplink shows one uplink: its backlog, what is wrong in words, and its numbers.
type Uplink struct {
	drawn
	back   Backlog
	uplink view.Uplink
}

// NewUplink makes an empty one.
func NewUplink(ink *Ink) *Uplink {
	u := &Uplink{}
	u.setup(u, ink, fyne.NewSize(280, backlogHeight+2*backlogLine), u.paintUplink)
	return u
}

// Set shows an uplink.
func (u *Uplink) Set(v view.Uplink) {
	u.uplink, u.back.backlog = v, v.Backlog
	u.Refresh()
}

// A sentence is a line below the numbers.
type sentence struct {
	text  string
	style Style
	loud  bool
}

// sentences are what is said below the numbers, broken to the width w.
func (u *Uplink) sentences(w float32) (out []sentence) {
	v := u.uplink
	body, strong := Style{Size: 12}, Style{Size: 12, Bold: true}
	add := func(t string, st Style, loud bool) {
		for _, line := range u.ink.wrap(t, st, w, maxLines) {
			out = append(out, sentence{line, st, loud})
		}
	}
	switch {
	case v.Backlog.Old:
		add(v.Cause, body, false)
	default:
		add(v.Cause, strong, true)
	}
	add(v.Advice, body, false)
	if v.Failed {
		add(v.Said, strong, true)
	} else {
		add(v.Said, body, true)
	}
	return out
}

// Height is what it needs at the width w.
func (u *Uplink) Height(w float32) float32 {
	return u.back.Height() + 4 + float32(len(u.sentences(w))+u.factRows(w))*backlogLine
}

// columns is in how many columns the numbers stand.
func (u *Uplink) columns(w float32) int {
	if w < 720 {
		return 3
	}
	return 4
}

func (u *Uplink) factRows(w float32) int {
	n := u.columns(w)
	return (len(u.uplink.Facts) + n - 1) / n
}

func (u *Uplink) paintUplink(s *surface) {
	u.back.paintBacklog(s)
	v := u.uplink
	body := Style{Size: 12}
	value, tone := Style{Size: 12, Bold: true}, Plain
	if v.Backlog.Old {
		value, tone = Style{Size: 12, Italic: true}, Quiet
	}
	y := u.back.Height() + 4
	half := u.columns(s.w)
	for i, f := range v.Facts {
		row, col := i/half, i%half
		x := float32(int(s.w * float32(col) / float32(half)))
		top := y + float32(row)*backlogLine
		end := float32(int(s.w*float32(col+1)/float32(half))) - 12
		x = s.text(f.Name, body, x, top, s.pal.Muted) + 8
		s.text(s.fit(f.Value, value, end-x), value, x, top, s.pal.tone(tone))
	}
	y += float32(u.factRows(s.w)) * backlogLine
	for _, t := range u.sentences(s.w) {
		c := s.pal.Muted
		if t.loud {
			c = s.pal.Text
		}
		s.text(s.fit(t.text, t.style, s.w), t.style, 0, y, c)
		y += backlogLine
	}
}
