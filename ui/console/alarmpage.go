package console

import (
	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
)

// alarmPage is the list of all alarms with a button for the one that is
// picked. Where fingers work, its rows are 44 pixels high.
type alarmPage struct {
	c      *Console
	box    *fyne.Container
	mouse  *hmi.AlarmTable
	finger *hmi.AlarmTable
	panels [2]*panel
	button *hmi.Button
	wide   bool // rows for fingers are shown
	live   bool
}

func newAlarmPage(c *Console) *alarmPage {
	a := &alarmPage{c: c, mouse: hmi.NewAlarmTable(c.ink, 28), finger: hmi.NewAlarmTable(c.ink, 44)}
	for i, t := range []*hmi.AlarmTable{a.mouse, a.finger} {
		t.OnAck, t.OnPass = c.ackNow, c.TypedKey
		t.OnPick = func(view.Alarm, bool) { a.arm() }
		a.panels[i] = newPanel(c.ink, "ALARMS", t.Themed(c.theme))
	}
	a.panels[1].Hide()
	a.button = hmi.NewButton("Acknowledge picked alarm  Enter", nil, hmi.BannerHeight, func() {
		if p, ok := a.table().Picked(); ok && p.Unacked {
			c.ackNow([]string{p.ID})
		}
	})
	a.button.OnPass = c.TypedKey
	a.button.Disable()
	a.box = container.NewBorder(nil, container.NewHBox(a.button), nil, nil, container.NewStack(a.panels[0], a.panels[1]))
	return a
}

func (a *alarmPage) table() *hmi.AlarmTable {
	if a.wide {
		return a.finger
	}
	return a.mouse
}

func (a *alarmPage) touch(on bool) {
	if on == a.wide {
		return
	}
	a.wide = on
	if on {
		a.panels[0].Hide()
		a.panels[1].Show()
	} else {
		a.panels[1].Hide()
		a.panels[0].Show()
	}
}

func (a *alarmPage) set(s view.Snapshot) {
	a.live = !s.Stale()
	for i, t := range []*hmi.AlarmTable{a.mouse, a.finger} {
		t.Set(s.Alarms, s.Stale())
		a.panels[i].say(s.AlarmHead)
	}
	a.arm()
}

// arm makes the button usable when an unacknowledged alarm is picked and
// there is a gateway to tell.
func (a *alarmPage) arm() {
	if a.button == nil {
		return
	}
	p, ok := a.table().Picked()
	if can := ok && p.Unacked && a.live; can == a.button.Disabled() {
		if can {
			a.button.Enable()
		} else {
			a.button.Disable()
		}
	}
}
