package hmi

import (
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/widget"
)

// AlarmTable lists alarms in rows of 28 pixels (44 for touch). The last
// column takes the room that is left.
type AlarmTable struct {
	widget.Table
	OnAck  func(ids []string)          // Enter on a row
	OnPass func(ev *fyne.KeyEvent)     // keys that the table does not use
	OnPick func(a view.Alarm, ok bool) // another row was picked, or the picked one is gone

	ink    *Ink
	rows   []view.Alarm
	old    bool
	picked string // id of the picked row
	height float32
}

var alarmColumns = [5]string{"Pri", "Time", "State", "Source", "Alarm"}

// NewAlarmTable makes an empty table with rows of the given height.
func NewAlarmTable(ink *Ink, height float32) *AlarmTable {
	t := &AlarmTable{ink: ink, height: height}
	t.Length = func() (int, int) { return len(t.rows), len(alarmColumns) }
	t.CreateCell = func() fyne.CanvasObject { return newCell(ink, height) }
	t.UpdateCell = func(id widget.TableCellID, o fyne.CanvasObject) {
		if c, ok := o.(*cell); ok && id.Row < len(t.rows) {
			c.set(t.rows[id.Row], id.Col, t.old, t.rows[id.Row].ID == t.picked)
		}
	}
	t.ShowHeaderRow = true
	t.CreateHeader = func() fyne.CanvasObject { return newCell(ink, 22) }
	t.UpdateHeader = func(id widget.TableCellID, o fyne.CanvasObject) {
		if c, ok := o.(*cell); ok && id.Col >= 0 && id.Col < len(alarmColumns) {
			c.title(alarmColumns[id.Col])
		}
	}
	// Not OnHighlighted: the toolkit calls it for the mouse passing over, and
	// Enter must not acknowledge what the mouse happens to lie on.
	t.OnSelected = func(id widget.TableCellID) { t.pick(id.Row) }
	t.HideSeparators = true
	t.ExtendBaseWidget(t)
	return t
}

// Themed is the table inside the tight look that its rows need.
func (t *AlarmTable) Themed(th *Theme) fyne.CanvasObject {
	return container.NewThemeOverride(t, th.Dense())
}

// Set shows rows; old ones are drawn grey.
func (t *AlarmTable) Set(rows []view.Alarm, old bool) {
	t.rows, t.old = rows, old
	t.Refresh()
	if a, ok := t.Picked(); t.OnPick != nil {
		t.OnPick(a, ok)
	}
}

// Picked is the picked alarm, if it is still there.
func (t *AlarmTable) Picked() (view.Alarm, bool) {
	for _, r := range t.rows {
		if r.ID == t.picked {
			return r, true
		}
	}
	return view.Alarm{}, false
}

func (t *AlarmTable) pick(row int) {
	if row < 0 || row >= len(t.rows) {
		return
	}
	t.picked = t.rows[row].ID
	t.Refresh()
	if t.OnPick != nil {
		t.OnPick(t.rows[row], true)
	}
}

// Resize gives the last column what the others leave.
func (t *AlarmTable) Resize(s fyne.Size) {
	widths := [5]float32{34, 68, 62, 0, 0}
	widths[3] = max(90, min(240, s.Width*0.23))
	rest := s.Width - float32(len(widths)-1)
	for i, w := range widths[:4] {
		t.SetColumnWidth(i, w)
		rest -= w
	}
	t.SetColumnWidth(4, max(80, rest))
	t.Table.Resize(s)
}

// FocusGained picks the first row, so that the keys have something to act on.
func (t *AlarmTable) FocusGained() {
	t.Table.FocusGained()
	if _, ok := t.Picked(); !ok {
		t.pick(0)
	}
}

// step picks the row above or below.
func (t *AlarmTable) step(by int) {
	row := 0
	for i, r := range t.rows {
		if r.ID == t.picked {
			row = i + by
		}
	}
	if row >= 0 && row < len(t.rows) {
		t.pick(row)
		t.ScrollTo(widget.TableCellID{Row: row})
	}
}

// TypedKey moves with the arrows, acknowledges on Enter and hands on what the
// table does not use.
func (t *AlarmTable) TypedKey(ev *fyne.KeyEvent) {
	switch ev.Name {
	case fyne.KeyUp:
		t.step(-1)
	case fyne.KeyDown:
		t.step(1)
	case fyne.KeyReturn, fyne.KeyEnter:
		if a, ok := t.Picked(); ok && a.Unacked && t.OnAck != nil {
			t.OnAck([]string{a.ID})
		}
	default:
		if t.OnPass != nil {
			t.OnPass(ev)
		}
	}
}

// cell is a table cell that is never made again: one raster for badge or text.
type cell struct {
	drawn
	look look
}

// look is what a cell shows.
type look struct {
	badge  int
	text   string
	style  Style
	quiet  bool
	picked bool // the row is highlighted
	path   bool // where the room is short, the end is kept
	box    int  // 1 a box to mark the row, 2 a marked one
}

func newCell(ink *Ink, height float32) *cell {
	c := &cell{}
	c.setup(c, ink, fyne.NewSize(20, height), func(s *surface) {
		l := c.look
		if l.picked {
			ground := s.pal.Live
			ground.A = 44
			s.fill(0, 0, s.w, s.h, ground)
		}
		if l.badge > 0 {
			s.badge(8, s.h/2-9, 18, l.badge)
			return
		}
		if l.box > 0 {
			s.box(9, s.h/2-8, l.box == 2)
			return
		}
		color := s.pal.Text
		if l.quiet {
			color = s.pal.Muted
		}
		txt := s.fit(l.text, l.style, s.w-8)
		if l.path {
			txt = s.fitEnd(l.text, l.style, s.w-8)
		}
		s.text(txt, l.style, 4, s.h/2-s.cap(l.style)/2, color)
	})
	return c
}

func (c *cell) set(a view.Alarm, col int, old, picked bool) {
	n := look{
		picked: picked, style: Style{Size: 13, Bold: a.Unacked && !old, Italic: old}, quiet: old || !a.Active && !a.Unacked,
	}
	switch col {
	case 0:
		n.badge = a.Severity
	case 1:
		n.text = a.Time
	case 2:
		n.text = a.State
	case 3:
		n.text, n.path = a.Source, true
	case 4:
		n.text = a.Text
	}
	c.change(n)
}

func (c *cell) title(t string) { c.change(look{text: t, style: Style{Size: 12}, quiet: true}) }

func (c *cell) change(n look) {
	if c.look != n {
		c.look = n
		c.Refresh()
	}
}
