package hmi

import (
	"slices"

	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/widget"
)

// LetterTable lists refused records, each with a box to mark it. A tap marks,
// or takes the mark away; so do Space and Enter on the row that the arrows
// have picked.
type LetterTable struct {
	widget.Table
	OnPass func(ev *fyne.KeyEvent) // keys that the table does not use
	OnPick func()                  // another row was picked, or marks have changed

	rows   []view.Letter
	old    bool
	picked string
	keys   bool // it has the focus
	marked map[string]bool
}

var letterColumns = [5]string{"", "Arrived", "Stream", "Size", "Reason"}

// NewLetterTable makes an empty table with rows of the given height.
func NewLetterTable(ink *Ink, height float32) *LetterTable {
	t := &LetterTable{marked: map[string]bool{}}
	t.Length = func() (int, int) { return len(t.rows), len(letterColumns) }
	t.CreateCell = func() fyne.CanvasObject { return newCell(ink, height) }
	t.UpdateCell = func(id widget.TableCellID, o fyne.CanvasObject) {
		if c, ok := o.(*cell); ok && id.Row < len(t.rows) {
			c.letter(t.rows[id.Row], id.Col, t)
		}
	}
	t.ShowHeaderRow = true
	t.CreateHeader = func() fyne.CanvasObject { return newCell(ink, 22) }
	t.UpdateHeader = func(id widget.TableCellID, o fyne.CanvasObject) {
		if c, ok := o.(*cell); ok && id.Col >= 0 && id.Col < len(letterColumns) {
			c.title(letterColumns[id.Col])
		}
	}
	t.OnSelected = func(id widget.TableCellID) {
		t.UnselectAll() // so that the next tap on the same row is told too
		t.pick(id.Row)
		t.toggle()
	}
	t.HideSeparators = true
	t.ExtendBaseWidget(t)
	return t
}

// Themed is the table inside the tight look that its rows need.
func (t *LetterTable) Themed(th *Theme) fyne.CanvasObject {
	return container.NewThemeOverride(t, th.Dense())
}

// Set shows rows; old ones are drawn grey. Marks of rows that are gone go.
func (t *LetterTable) Set(rows []view.Letter, old bool) {
	if t.old == old && len(rows) == len(t.rows) && (len(rows) == 0 || &rows[0] == &t.rows[0]) {
		return
	}
	t.rows, t.old = rows, old
	for id := range t.marked {
		if !slices.ContainsFunc(rows, func(l view.Letter) bool { return l.ID == id }) {
			delete(t.marked, id)
		}
	}
	if _, ok := t.Picked(); !ok && t.keys {
		t.pick(0)
	}
	t.Refresh()
	t.told()
}

// Marked are the ids of the marked rows, in the table's order.
func (t *LetterTable) Marked() (ids []string) {
	for _, l := range t.rows {
		if t.marked[l.ID] && !slices.Contains(ids, l.ID) {
			ids = append(ids, l.ID)
		}
	}
	return ids
}

// Clear takes all marks away.
func (t *LetterTable) Clear() {
	clear(t.marked)
	t.Refresh()
	t.told()
}

// Picked is the picked row, if it is still there.
func (t *LetterTable) Picked() (view.Letter, bool) {
	for _, l := range t.rows {
		if l.ID == t.picked {
			return l, true
		}
	}
	return view.Letter{}, false
}

func (t *LetterTable) told() {
	if t.OnPick != nil {
		t.OnPick()
	}
}

func (t *LetterTable) pick(row int) {
	if row < 0 || row >= len(t.rows) {
		return
	}
	t.picked = t.rows[row].ID
	t.Refresh()
	t.told()
}

func (t *LetterTable) toggle() {
	if l, ok := t.Picked(); ok {
		if t.marked[l.ID] {
			delete(t.marked, l.ID)
		} else {
			t.marked[l.ID] = true
		}
		t.Refresh()
		t.told()
	}
}

// Resize gives the last column what the others leave.
func (t *LetterTable) Resize(s fyne.Size) {
	widths := [5]float32{34, 92, max(90, min(220, s.Width*0.2)), 72, 0}
	rest := s.Width - float32(len(widths)-1)
	for i, w := range widths[:4] {
		t.SetColumnWidth(i, w)
		rest -= w
	}
	t.SetColumnWidth(4, max(80, rest))
	t.Table.Resize(s)
}

// FocusGained picks the first row, so that the keys have something to act on.
func (t *LetterTable) FocusGained() {
	t.Table.FocusGained()
	t.keys = true
	if _, ok := t.Picked(); !ok {
		t.pick(0)
	}
}

// FocusLost is the toolkit's.
func (t *LetterTable) FocusLost() {
	t.Table.FocusLost()
	t.keys = false
}

// step picks the row so many below, or above.
func (t *LetterTable) step(by int) {
	row := 0
	for i, l := range t.rows {
		if l.ID == t.picked {
			row = i + by
			break
		}
	}
	if row = min(max(row, 0), len(t.rows)-1); row >= 0 {
		t.pick(row)
		t.ScrollTo(widget.TableCellID{Row: row})
	}
}

// TypedKey moves with the arrows, marks on Space and Enter, and hands on what
// the table does not use.
func (t *LetterTable) TypedKey(ev *fyne.KeyEvent) {
	switch ev.Name {
	case fyne.KeyUp:
		t.step(-1)
	case fyne.KeyDown:
		t.step(1)
	case fyne.KeyPageUp:
		t.step(-10)
	case fyne.KeyPageDown:
		t.step(10)
	case fyne.KeySpace, fyne.KeyReturn, fyne.KeyEnter:
		t.toggle()
	default:
		if t.OnPass != nil {
			t.OnPass(ev)
		}
	}
}

// letter shows one column of a refused record.
func (c *cell) letter(l view.Letter, col int, t *LetterTable) {
	marked := t.marked[l.ID]
	n := look{picked: l.ID == t.picked, style: Style{Size: 13, Bold: marked && !t.old, Italic: t.old}, quiet: t.old}
	switch col {
	case 0:
		n.box = 1
		if marked {
			n.box = 2
		}
	case 1:
		n.text = l.Time
	case 2:
		n.text, n.path = l.Stream, true
	case 3:
		n.text = l.Size
	case 4:
		n.text = l.Reason
	}
	c.change(n)
}

// box draws a box to mark something, 16 by 16, and its mark.
func (s *surface) box(x, y float32, marked bool) {
	const side = 16
	s.fill(x, y, side, side, s.pal.Muted)
	s.fill(x+1.5, y+1.5, side-3, side-3, s.pal.Scale)
	if !marked {
		return
	}
	c := s.pal.Text
	s.polygon(c, [2]float32{x + 3, y + 8}, [2]float32{x + 4.8, y + 6.4}, [2]float32{x + 7.4, y + 9.6}, [2]float32{x + 6.8, y + 12.6})
	s.polygon(c, [2]float32{x + 6.8, y + 12.6}, [2]float32{x + 6.2, y + 9.8}, [2]float32{x + 11.6, y + 3.4}, [2]float32{x + 13.4, y + 4.8})
}
