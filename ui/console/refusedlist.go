package console

import (
	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
)

// refusedList is what a target refused, and how it is sent again.
type refusedList struct {
	c      *Console
	uplink string
	now    view.Desk
	panel  *panel
	mouse  *hmi.LetterTable
	finger *hmi.LetterTable
	tables [2]fyne.CanvasObject
	wide   bool // rows for fingers are shown

	some   *hmi.Button
	all    *hmi.Button
	more   *hmi.Button
	anew   *hmi.Button
	keep   *hmi.Button // while it is asked whether that is meant
	yes    *hmi.Button
	detail *hmi.Lines // the picked record
	lines  *hmi.Lines

	asking  bool // whether that is meant
	ids     []string
	whole   bool
	count   uint64
	sent    bool // a tap was made, and nothing was answered to it yet
	version int
}

const leastTable = 22 + 3*44 + 4

func newRefusedList(c *Console) *refusedList {
	l := &refusedList{c: c, mouse: hmi.NewLetterTable(c.ink, 28), finger: hmi.NewLetterTable(c.ink, 44), detail: hmi.NewLines(c.ink), lines: hmi.NewLines(c.ink)}
	for i, t := range []*hmi.LetterTable{l.mouse, l.finger} {
		t.OnPass, t.OnPick = c.TypedKey, l.arm
		l.tables[i] = t.Themed(c.theme)
	}
	l.tables[1].Hide()
	button := func(tapped func()) *hmi.Button {
		b := hmi.NewButton("", nil, verbHigh, tapped)
		b.OnPass = c.TypedKey
		return b
	}
	l.some = button(func() { l.ask(l.table().Marked(), false) })
	l.all = button(func() { l.ask(nil, true) })
	l.more = button(func() { l.fetch(l.now.Refused.More) })
	l.anew = button(func() { l.fetch(max(view.FirstLetters, len(l.now.Refused.Rows))) })
	l.keep = button(func() { l.answer(false) })
	l.yes = button(func() { l.answer(true) })
	l.anew.SetText("Read anew")
	l.keep.SetText("No, leave them")
	l.panel = newPanel(c.ink, "REFUSED", container.New(refusedLayout{l}, l.tables[0], l.tables[1], l.detail, l.some, l.all, l.more, l.anew, l.keep, l.yes, l.lines))
	l.panel.Hide()
	return l
}

func (l *refusedList) table() *hmi.LetterTable {
	if l.wide {
		return l.finger
	}
	return l.mouse
}

func (l *refusedList) touch(on bool) {
	if on != l.wide {
		l.wide = on
		show(l.tables[0], !on)
		show(l.tables[1], on)
		l.arm()
	}
}

func (l *refusedList) open(uplink string) {
	l.asking = false
	if l.uplink != uplink {
		l.uplink, l.now, l.sent = uplink, view.Desk{}, false
		l.mouse.Set(nil, false)
		l.finger.Set(nil, false)
	}
}

func (l *refusedList) fetch(limit int) {
	if l.now.Live && !l.now.Refused.Busy && limit > 0 && l.c.OnRefused != nil {
		l.c.OnRefused(l.uplink, limit)
	}
}

// ask asks whether these are really to be sent again.
func (l *refusedList) ask(ids []string, all bool) {
	if !l.idle() || !all && len(ids) == 0 {
		return
	}
	l.asking, l.ids, l.whole, l.count = true, ids, all, uint64(len(ids))
	if all {
		l.count = l.now.Refused.Total
	}
	l.arm()
	l.c.focus(l.keep) // Enter once more does nothing
}

func (l *refusedList) answer(yes bool) {
	if !l.asking {
		return
	}
	l.asking = false
	if yes && l.idle() && l.c.OnRedrive != nil {
		l.sent, l.version = true, l.now.Refused.Version
		l.c.OnRedrive(l.uplink, l.ids, int(min(l.count, 1<<31-1)))
	}
	l.arm()
	l.c.focus(l.table())
}

// idle says that something may be ordered.
func (l *refusedList) idle() bool { return l.now.Live && !l.now.Refused.Sending && !l.sent }

func (l *refusedList) set(d view.Desk) {
	l.now = d
	if d.Refused.Version != l.version {
		l.sent = false
	}
	l.panel.say(d.Refused.Head)
	l.mouse.Set(d.Refused.Rows, !d.Live)
	l.finger.Set(d.Refused.Rows, !d.Live)
	l.arm()
}

// arm says what the buttons would do now.
func (l *refusedList) arm() {
	if l.yes == nil {
		return
	}
	r := l.now.Refused
	n := len(l.table().Marked())
	text := func(b *hmi.Button, t string, on bool) {
		if b.Text != t {
			b.SetText(t)
		}
		enable(b, on)
	}
	some := "Send marked again"
	if n > 0 {
		some += " (" + view.Count(uint64(n)) + ")"
	}
	all := "Send all again"
	if r.Total > 0 {
		all += " (" + view.Count(r.Total) + ")"
	}
	text(l.some, some, n > 0 && l.idle())
	text(l.all, all, r.Total > 0 && l.idle())
	more := "No older ones"
	if r.More > 0 {
		more = "Show " + view.Count(uint64(r.More))
	}
	text(l.more, more, r.More > 0 && l.now.Live && !r.Busy)
	enable(l.anew, l.now.Live && !r.Busy)
	text(l.yes, "Yes, send "+view.Count(l.count)+" again", l.idle())
	for _, b := range []*hmi.Button{l.some, l.all, l.more, l.anew} {
		show(b, !l.asking)
	}
	show(l.keep, l.asking)
	show(l.yes, l.asking)
	var lines []view.Line
	if l.now.Offline != "" {
		lines = append(lines, view.Line{Text: l.now.Offline, Loud: true})
	}
	if l.asking {
		lines = append(lines, view.RedriveText(l.count, l.whole, l.uplink, l.now.By)...)
	} else {
		lines = append(lines, r.Lines...)
	}
	switch {
	case len(lines) > 0 || r.Busy && r.Total == 0:
	case r.Total == 0:
		lines = append(lines, view.Line{Text: "Nothing to send again: what was sent again, or is not kept any more, is not listed"})
	default:
		lines = append(lines, view.Line{Text: "A tap marks a record; with the keys: arrows, then Space"})
	}
	l.lines.Set(lines...)
	var detail []view.Line
	if p, ok := l.table().Picked(); ok {
		more := "Key " + p.Key + "  id " + p.ID
		if p.Type != "" {
			more += "  " + p.Type
		}
		detail = []view.Line{{Text: p.Reason, Loud: true}, {Text: more}}
	}
	l.detail.Set(detail...)
	if l.c.links != nil && l.c.links.desk != nil {
		l.c.links.desk.layOut()
		l.panel.content.Refresh()
	}
}

// least is the least height of the panel at the width w.
func (l *refusedList) least(w float32) float32 {
	w -= 2 * panelPad
	return panelHead + 2 + leastTable + gap + l.detail.Height(w) + gap + verbHigh + gap + l.lines.Height(w) + panelPad
}

type refusedLayout struct{ l *refusedList }

func (refusedLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(600, leastTable+verbHigh)
}

func (r refusedLayout) Layout(_ []fyne.CanvasObject, s fyne.Size) {
	l := r.l
	y := s.Height - l.lines.Height(s.Width)
	move(l.lines, 0, y, s.Width, l.lines.Height(s.Width))
	y -= verbHigh + gap
	each := float32(int((min(s.Width, 1000)-3*gap)/4)) + gap
	for i, b := range []*hmi.Button{l.some, l.all, l.more, l.anew} {
		move(b, float32(i)*each, y, each-gap, verbHigh)
	}
	// Where a second tap on the buttons falls, nothing is sent.
	move(l.keep, 0, y, 2*each-gap, verbHigh)
	move(l.yes, 2*each, y, 2*each-gap, verbHigh)
	y -= l.detail.Height(s.Width) + gap
	move(l.detail, 0, y, s.Width, l.detail.Height(s.Width))
	for _, t := range l.tables {
		move(t, 0, 0, s.Width, y-gap)
	}
}
