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
		for _, line := range u.wrap(t, st, w) {
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
	for _, t := range v.Errands {
		add(t, body, false)
	}
	if v.Failed {
		add(v.Said, strong, true)
	} else {
		add(v.Said, body, true)
	}
	return out
}

// maxLines bounds what one sentence may take; the rest of it is cut.
const maxLines = 3

// wrap breaks a sentence between its words.
func (u *Uplink) wrap(t string, st Style, w float32) (lines []string) {
	s := surface{scale: 1, ink: u.ink}
	for t != "" && len(lines) < maxLines-1 && s.width(t, st) > w {
		cut := 0
		for i, c := range t {
			if c == ' ' && i > 0 {
				if s.width(t[:i], st) > w {
					break
				}
				cut = i
			}
		}
		if cut == 0 {
			break // one long word
		}
		lines, t = append(lines, t[:cut]), t[cut+1:]
	}
	if t != "" {
		lines = append(lines, t)
	}
	return lines
}

// Height is what it needs at the width w.
func (u *Uplink) Height(w float32) float32 {
	return u.back.Height() + 4 + float32(len(u.sentences(w))+2)*backlogLine
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
	half := (len(v.Facts) + 1) / 2
	for i, f := range v.Facts {
		row, col := i/max(half, 1), i%max(half, 1)
		x := float32(int(s.w * float32(col) / float32(max(half, 1))))
		top := y + float32(row)*backlogLine
		end := float32(int(s.w*float32(col+1)/float32(half))) - 12
		x = s.text(f.Name, body, x, top, s.pal.Muted) + 8
		s.text(s.fit(f.Value, value, end-x), value, x, top, s.pal.tone(tone))
	}
	y += 2 * backlogLine
	for _, t := range u.sentences(s.w) {
		c := s.pal.Muted
		if t.loud {
			c = s.pal.Text
		}
		s.text(s.fit(t.text, t.style, s.w), t.style, 0, y, c)
		y += backlogLine
	}
}
