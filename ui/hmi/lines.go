package hmi

import (
	"slices"

	"forebay/ui/view"

	"fyne.io/fyne/v2"
)

// maxLines bounds what one sentence may take; the rest of it is cut.
const maxLines = 3

// wrap breaks a sentence between its words into at most most lines.
func (k *Ink) wrap(t string, st Style, w float32, most int) (lines []string) {
	for t != "" && len(lines) < most-1 && k.width(t, st, 1) > w {
		cut := 0
		for i, c := range t {
			if c == ' ' && i > 0 {
				if k.width(t[:i], st, 1) > w {
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

// Lines is a few sentences below each other, broken to the width there is.
type Lines struct {
	drawn
	lines []view.Line
}

// NewLines makes an empty one.
func NewLines(ink *Ink) *Lines {
	l := &Lines{}
	l.setup(l, ink, fyne.NewSize(60, backlogLine), l.paintLines)
	return l
}

// Set shows sentences; it draws only when something changed.
func (l *Lines) Set(lines ...view.Line) {
	if slices.Equal(l.lines, lines) {
		return
	}
	l.lines = lines
	l.Refresh()
}

// Height is what they need at the width w.
func (l *Lines) Height(w float32) float32 {
	n := 0
	for _, s := range l.lines {
		n += len(l.ink.wrap(s.Text, lineStyle(s), w, 2*maxLines))
	}
	return float32(n)*backlogLine + 2
}

func lineStyle(l view.Line) Style { return Style{Size: 13, Bold: l.Loud} }

func (l *Lines) paintLines(s *surface) {
	y := float32(2)
	for _, t := range l.lines {
		st, c := lineStyle(t), s.pal.Muted
		if t.Loud {
			c = s.pal.Text
		}
		for _, line := range s.ink.wrap(t.Text, st, s.w, 2*maxLines) {
			s.text(s.fit(line, st, s.w), st, 0, y, c)
			y += backlogLine
		}
	}
}
