package console

import (
	"time"

	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
)

// errandRows are the replays and redrives of an uplink, each with a button to
// end it before its time.
type errandRows struct {
	c    *Console
	box  *fyne.Container
	rows []*errandRow
}

type errandRow struct {
	part   *hmi.Errand
	cancel *hmi.Button
	now    view.Errand
	first  time.Time // first tap on Cancel; zero where none waits for its second
	sent   bool      // the second tap was made, and no frame shows it yet
}

func newErrandRows(c *Console) *errandRows {
	e := &errandRows{c: c}
	e.box = container.New(errandLayout{})
	return e
}

func (e *errandRows) newRow() *errandRow {
	r := &errandRow{part: hmi.NewErrand(e.c.ink)}
	r.cancel = hmi.NewButton("Cancel", nil, verbHigh, func() { e.tapped(r) })
	r.cancel.OnPass = e.c.TypedKey
	return r
}

// tapped is a tap on Cancel. What was sent stays sent, and what was not is
// sent by nobody then, so it takes a second tap.
func (e *errandRows) tapped(r *errandRow) {
	now := e.c.Now()
	if r.first.IsZero() || now.Sub(r.first) > confirmFor {
		r.first = now
		r.arm(now)
		return
	}
	r.first, r.sent = time.Time{}, true
	r.arm(now)
	e.c.verb(r.now.ID, "cancel")
}

func (r *errandRow) arm(now time.Time) {
	text := "Cancel"
	if !r.first.IsZero() && now.Sub(r.first) <= confirmFor {
		text = "Tap again to end"
	} else {
		r.first = time.Time{}
	}
	if r.cancel.Text != text {
		r.cancel.SetText(text)
	}
	enable(r.cancel, r.now.Cancel && !r.sent)
	show(r.cancel, !r.now.Gone)
}

// set shows errands; it reports whether their number has changed.
func (e *errandRows) set(list []view.Errand) (changed bool) {
	changed = len(list) != len(e.rows)
	for len(e.rows) < len(list) {
		e.rows = append(e.rows, e.newRow())
	}
	e.rows = e.rows[:len(list)]
	for i, v := range list {
		r := e.rows[i]
		if r.now.ID != v.ID {
			r.first, r.sent = time.Time{}, false
		}
		if v.Asked || v.Failed {
			r.sent = false // the frame says how it is
		}
		r.now = v
		r.part.Set(v)
		r.arm(e.c.Now())
	}
	if changed {
		e.box.Objects = e.box.Objects[:0]
		for _, r := range e.rows {
			e.box.Objects = append(e.box.Objects, r.part, r.cancel)
		}
		e.box.Refresh()
	}
	return changed
}

// high is what they need.
func (e *errandRows) high() float32 {
	return max(0, float32(len(e.rows))*(hmi.ErrandHeight+gap)-gap)
}

type errandLayout struct{}

func (errandLayout) MinSize(objs []fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(280+verbWide, max(0, float32(len(objs)/2)*(hmi.ErrandHeight+gap)-gap))
}

func (errandLayout) Layout(objs []fyne.CanvasObject, s fyne.Size) {
	for i := 0; i+1 < len(objs); i += 2 {
		y := float32(i/2) * (hmi.ErrandHeight + gap)
		move(objs[i], 0, y, s.Width-verbWide-verbGap, hmi.ErrandHeight)
		move(objs[i+1], s.Width-verbWide, y, verbWide, verbHigh)
	}
}
