package console

import (
	"math"

	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
)

// overview is the first page: tiles, trend, backlog, cameras, alarms.
type overview struct {
	ink     *hmi.Ink
	scroll  *container.Scroll
	box     *fyne.Container
	compact bool
	room    fyne.Size // what the page may take on the screen

	tiles   []*hmi.Tile
	tileBox *fyne.Container
	tileSee *container.Scroll
	trend   *hmi.Trend
	back    *hmi.Backlog
	cams    []*hmi.Camera
	camBox  *fyne.Container
	table   *hmi.AlarmTable
	alarms  int          // rows in it
	empty   *hmi.Numeral // where no point is configured

	trendPanel, backPanel, camPanel, alarmPanel *panel
}

func newOverview(c *Console) *overview {
	o := &overview{ink: c.ink, trend: hmi.NewTrend(c.ink), back: hmi.NewBacklog(c.ink)}
	o.tileBox = container.New(tileLayout{o})
	o.tileSee = container.NewVScroll(o.tileBox)
	o.camBox = container.New(camLayout{o})
	o.table = hmi.NewAlarmTable(c.ink, 27)
	o.table.OnAck, o.table.OnPass = c.ackNow, c.TypedKey
	o.empty = hmi.NewNumeral(c.ink, 40, hmi.Leading)
	o.empty.SetText("No points configured: name values to watch as [[point]] in the gateway's config", hmi.Style{Size: 13}, hmi.Quiet)
	o.empty.Hide()
	o.trendPanel = newPanel(c.ink, "TREND", o.trend)
	o.backPanel = newPanel(c.ink, "", o.back)
	o.camPanel = newPanel(c.ink, "CAMERAS", o.camBox)
	o.alarmPanel = newPanel(c.ink, "ALARMS", o.table.Themed(c.theme))
	o.box = container.New(overviewLayout{o}, o.tileSee, o.empty, o.trendPanel, o.backPanel, o.camPanel, o.alarmPanel)
	o.scroll = container.NewVScroll(o.box)
	return o
}

func (o *overview) set(s view.Snapshot) {
	high := o.back.Height()
	o.back.Set(s.Backlog)
	relayout := o.back.Height() != high
	relayout = count(&o.tiles, o.tileBox, len(s.Tiles), func() *hmi.Tile { return hmi.NewTile(o.ink) }) || relayout
	relayout = count(&o.cams, o.camBox, len(s.Cameras), func() *hmi.Camera { return hmi.NewCamera(o.ink) }) || relayout
	for i, t := range s.Tiles {
		o.tiles[i].Set(t)
	}
	for i, c := range s.Cameras {
		o.cams[i].Set(c)
	}
	if none := len(s.Tiles) == 0 && !s.Confirmed.IsZero(); none != o.empty.Visible() {
		relayout = true
		show(o.empty, none)
	}
	o.trend.Set(s.Trend)
	note := "% of each scale, 10 min"
	if s.Trend.Omitted > 0 {
		shown := len(s.Trend.Pens)
		note = view.Count(uint64(shown)) + " of " + view.Count(uint64(shown+s.Trend.Omitted)) + " points, " + note
	}
	o.trendPanel.say(note)
	o.camPanel.say(s.CamNote)
	relayout = relayout || (o.alarms > 0) != (len(s.Alarms) > 0)
	o.alarms = len(s.Alarms)
	o.table.Set(s.Alarms, s.Stale())
	o.alarmPanel.say(s.AlarmHead)
	if relayout {
		o.box.Refresh()
	}
}

// count makes the parts of a box n; it reports whether that changed anything.
func count[P fyne.CanvasObject](parts *[]P, box *fyne.Container, n int, make func() P) bool {
	if n == len(*parts) {
		return false
	}
	for len(*parts) < n {
		*parts = append(*parts, make())
	}
	*parts = (*parts)[:n]
	box.Objects = box.Objects[:0]
	for _, p := range *parts {
		box.Objects = append(box.Objects, p)
	}
	return true
}

// overviewLayout places the panels in two columns, or in one on a small
// screen, where what does not fit is reached by scrolling.
type overviewLayout struct{ o *overview }

// MinSize is what makes the page scroll: only the one column is ever higher
// than the screen.
func (l overviewLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	o := l.o
	if !o.compact {
		return fyne.NewSize(100, 100)
	}
	return fyne.NewSize(100, l.column(o.room, false)+2*bleed)
}

func (l overviewLayout) Layout(_ []fyne.CanvasObject, s fyne.Size) {
	o := l.o
	s = s.SubtractWidthHeight(2*bleed, 2*bleed)
	if o.compact {
		l.column(fyne.NewSize(s.Width, o.room.Height), true)
		return
	}
	left := float32(int((s.Width - gap) * 0.58))
	right := s.Width - gap - left
	y := l.placeTiles(left, s.Height*0.5, 88)
	back := o.back.Height() + 2*panelPad - 2
	inset(o.trendPanel, 0, y, left, s.Height-y-back-gap)
	inset(o.backPanel, 0, s.Height-back, left, back)
	y = 0
	if show(o.camPanel, len(o.cams) > 0) {
		h := min(o.camsHeight(right), s.Height*0.5)
		inset(o.camPanel, left+gap, 0, right, h)
		y = h + gap
	}
	show(o.alarmPanel.content, true)
	inset(o.alarmPanel, left+gap, y, right, s.Height-y)
}

// placeTiles lays the tiles over the width w and returns where they end.
func (l overviewLayout) placeTiles(w, most, high float32) float32 {
	o := l.o
	if len(o.tiles) == 0 {
		o.tileSee.Hide()
		inset(o.empty, 8, 0, w-8, 40)
		if o.empty.Visible() {
			return 40 + gap
		}
		return 0
	}
	o.tileSee.Show()
	h := o.tilesHeight(high)
	if h > most {
		h = o.tilesHeight(60)
	}
	h = min(h, most)
	inset(o.tileSee, -bleed, -bleed, w+2*bleed, h+2*bleed)
	o.tileBox.Refresh()
	return h + gap
}

func (o *overview) tileColumns() int {
	n := len(o.tiles)
	if n <= 4 {
		return max(1, n)
	}
	if n == 5 || n == 6 || n == 9 {
		return 3
	}
	return 4
}

func (o *overview) tilesHeight(each float32) float32 {
	rows := (len(o.tiles) + o.tileColumns() - 1) / o.tileColumns()
	return float32(rows)*(each+gap) - gap
}

func (o *overview) camColumns() int {
	switch n := len(o.cams); {
	case n <= 1:
		return 1
	case o.compact:
		return min(4, n)
	case n <= 4:
		return 2
	}
	return 3
}

// camsHeight is that of the camera panel where each keeps 16:9.
func (o *overview) camsHeight(w float32) float32 {
	cols := o.camColumns()
	rows := (len(o.cams) + cols - 1) / cols
	each := (w-2*panelPad-float32(cols-1)*gap)/float32(cols)*9/16 + gap
	return float32(math.Ceil(float64(panelHead + float32(rows)*each + panelPad)))
}

// column lays everything in one column and returns its height. The first
// screen holds tiles, alarms, trend and backlog; cameras follow.
func (l overviewLayout) column(s fyne.Size, place bool) float32 {
	o := l.o
	y := float32(0)
	w := s.Width
	put := func(p fyne.CanvasObject, h float32) {
		if place {
			inset(p, 0, y, w, h)
		}
		y += h + gap
	}
	switch {
	case place:
		y = l.placeTiles(w, s.Height*0.5, 60)
	case len(o.tiles) > 0:
		y = min(o.tilesHeight(60), s.Height*0.5) + gap
	case o.empty.Visible():
		y = 40 + gap
	}
	back := o.back.Height() + 2*panelPad - 2
	list := float32(panelHead + 8) // an empty list is its title, which says as of when
	if o.alarms > 0 {
		list = panelHead + 22 + 3*28 + 11
	}
	if place {
		show(o.alarmPanel.content, o.alarms > 0)
	}
	put(o.alarmPanel, list)
	rest := s.Height - y - back - gap
	if len(o.cams) > 0 {
		rest -= panelHead + gap // the cameras' title shows that there is more below
	}
	put(o.trendPanel, max(110, rest))
	put(o.backPanel, back)
	if len(o.cams) > 0 {
		put(o.camPanel, min(o.camsHeight(w), s.Height))
	}
	if place {
		show(o.camPanel, len(o.cams) > 0)
	}
	return y - gap
}

type tileLayout struct{ o *overview }

func (l tileLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(100, l.o.tilesHeight(56)+2*bleed)
}

func (l tileLayout) Layout(objs []fyne.CanvasObject, s fyne.Size) {
	if len(objs) == 0 {
		return
	}
	s = s.SubtractWidthHeight(2*bleed, 2*bleed)
	cols := l.o.tileColumns()
	rows := (len(objs) + cols - 1) / cols
	grid(objs, cols, s.Width, float32(int((s.Height+gap)/float32(rows)))-gap, bleed)
}

type camLayout struct{ o *overview }

func (camLayout) MinSize([]fyne.CanvasObject) fyne.Size { return fyne.NewSize(100, 60) }

func (l camLayout) Layout(objs []fyne.CanvasObject, s fyne.Size) {
	if len(objs) == 0 {
		return
	}
	cols := l.o.camColumns()
	rows := (len(objs) + cols - 1) / cols
	grid(objs, cols, s.Width, float32(int((s.Height+gap)/float32(rows)))-gap, 0)
}

// show makes an object visible or not, and returns which.
func show(o fyne.CanvasObject, on bool) bool {
	if o.Visible() != on {
		if on {
			o.Show()
		} else {
			o.Hide()
		}
	}
	return on
}

// inset moves an object inside the page, away from the edge that scrolling cuts.
func inset(o fyne.CanvasObject, x, y, w, h float32) { move(o, x+bleed, y+bleed, w, h) }

// grid places objects row by row; column edges fall on whole pixels.
func grid(objs []fyne.CanvasObject, cols int, width, h, inset float32) {
	for i, o := range objs {
		c, r := i%cols, i/cols
		x0 := float32(int((width + gap) * float32(c) / float32(cols)))
		x1 := float32(int((width+gap)*float32(c+1)/float32(cols))) - gap
		move(o, x0+inset, float32(r)*(h+gap)+inset, x1-x0, h)
	}
}
