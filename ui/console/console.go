// Package console holds the console's screens. Apply is the only way in for
// what is shown, and the func fields are the only way out; everything here
// belongs to the toolkit's goroutine.
package console

import (
	"fmt"
	"time"

	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
	"fyne.io/fyne/v2/theme"
	"fyne.io/fyne/v2/widget"
)

// Page is a screen that exists.
type Page int

const (
	Overview Page = iota
	Alarms
	Uplinks
)

// ackGuard is how long after the top alarm changed a tap on Acknowledge is
// ignored: it was meant for the alarm that stood there before.
const ackGuard = 400 * time.Millisecond

// Console is the whole window's content.
type Console struct {
	OnAck  func(ids []string)    // the operator acknowledges these alarms
	OnVerb func(id, verb string) // the operator wants an uplink to pause, resume or retry, an errand to cancel
	// OnOpen says that the operator turns to an uplink, OnRefused that its
	// refused records are wanted, the newest limit of them.
	OnOpen    func(uplink string)
	OnRefused func(uplink string, limit int)
	OnCheck   func(o view.Order)                           // what would this replay be?
	OnReplay  func(o view.Order)                           // start it
	OnRedrive func(uplink string, ids []string, count int) // send refused records again; without ids all of them, of which there are count
	OnPage    func(p Page)                                 // another page is shown
	OnFull    func()                                       // F11: full screen, or not
	Now       func() time.Time                             // for the guard against a tap on a changed alarm; default time.Now

	ink    *hmi.Ink
	theme  *hmi.Theme
	page   Page
	status *statusLine
	banner *hmi.Banner
	nav    *navigation
	over   *overview
	alarms *alarmPage
	links  *uplinkPage
	canvas fyne.Canvas
	root   *fyne.Container
	top    string // id of the alarm in the banner
	topAt  time.Time
	topSet bool
	live   bool // there is a gateway to tell
}

// New builds the screens; they are empty until the first Apply.
func New(th *hmi.Theme) (*Console, error) {
	ink, err := hmi.NewInk()
	if err != nil {
		return nil, fmt.Errorf("prepare the fonts: %w", err)
	}
	c := &Console{ink: ink, theme: th, Now: time.Now}
	c.status = newStatusLine(ink)
	c.banner = hmi.NewBanner(ink)
	c.banner.OnAck = c.ack
	c.banner.Button().OnPass = c.TypedKey
	c.nav = newNavigation(c)
	c.over = newOverview(c)
	c.alarms = newAlarmPage(c)
	c.links = newUplinkPage(c)
	c.root = container.New(rootLayout{c}, c.status, c.banner, c.nav.box, c.over.scroll, c.alarms.box, c.links.box)
	c.show(Overview)
	return c, nil
}

// Content is what the window shows.
func (c *Console) Content() fyne.CanvasObject { return c.root }

// Bind makes the keys work wherever nothing has the focus.
func (c *Console) Bind(canvas fyne.Canvas) {
	c.canvas = canvas
	canvas.SetOnTypedKey(c.TypedKey)
}

// focus gives the keys to something.
func (c *Console) focus(f fyne.Focusable) {
	switch {
	case c.canvas == nil:
	case f == nil:
		c.canvas.Unfocus()
	default:
		c.canvas.Focus(f)
	}
}

// Apply shows a snapshot.
func (c *Console) Apply(s view.Snapshot) {
	top := ""
	if len(s.Banner.AlarmIDs) > 0 {
		top = s.Banner.AlarmIDs[0]
	}
	if top != c.top {
		// The first alarm after a quiet strip has no button to be missed.
		c.topSet = c.top != ""
		c.top, c.topAt = top, c.Now()
	}
	c.live = !s.Stale()
	c.status.set(s)
	c.banner.Set(s.Banner)
	c.over.set(s)
	c.alarms.set(s)
	c.links.set(s)
}

// TypedKey handles the keys: F2 acknowledges the top alarm, 1, 2 and 3
// choose the page, Escape goes back, at last to the overview, F11 asks for the
// full screen.
func (c *Console) TypedKey(ev *fyne.KeyEvent) {
	switch ev.Name {
	case fyne.KeyF2:
		c.banner.Acknowledge()
	case fyne.KeyF11:
		if c.OnFull != nil {
			c.OnFull()
		}
	case fyne.KeyEscape:
		if c.page == Uplinks && c.links.shut() {
			return
		}
		c.Go(Overview)
	case fyne.Key1:
		c.Go(Overview)
	case fyne.Key2:
		c.Go(Alarms)
	case fyne.Key3:
		c.Go(Uplinks)
	}
}

// Go shows a page and says so.
func (c *Console) Go(p Page) {
	if p == c.page {
		if p == Uplinks {
			c.links.shut()
		}
		return
	}
	if c.page == Uplinks && c.links.desk.kind != deskShut {
		c.focus(nil) // keys must not go to what is not seen
	}
	c.show(p)
	if c.OnPage != nil {
		c.OnPage(p)
	}
}

// Page is the one shown.
func (c *Console) Page() Page { return c.page }

func (c *Console) show(p Page) {
	c.page = p
	show(c.over.scroll, p == Overview)
	show(c.alarms.box, p == Alarms)
	show(c.links.box, p == Uplinks)
	c.nav.mark(p)
}

// ack hands an acknowledgement of the banner's alarm out, unless the alarm
// has just changed under the finger.
func (c *Console) ack(ids []string) {
	if c.topSet && c.Now().Sub(c.topAt) < ackGuard {
		return
	}
	c.ackNow(ids)
}

func (c *Console) ackNow(ids []string) {
	if c.OnAck != nil && c.live {
		c.OnAck(ids)
	}
}

// verb hands out what the operator wants of an uplink.
func (c *Console) verb(id, verb string) {
	if c.OnVerb != nil && c.live {
		c.OnVerb(id, verb)
	}
}

// navigation is the column of pages at the left.
type navigation struct {
	box     *fyne.Container
	buttons [3]*hmi.Button
	names   [3]string
	compact bool
}

func newNavigation(c *Console) *navigation {
	n := &navigation{names: [3]string{"Overview", "Alarms", "Uplinks"}}
	icons := [3]fyne.Resource{theme.HomeIcon(), theme.WarningIcon(), theme.UploadIcon()}
	for i := range n.buttons {
		b := hmi.NewButton(n.names[i], icons[i], 44, func() { c.Go(Page(i)) })
		b.Alignment = widget.ButtonAlignLeading
		b.OnPass = c.TypedKey
		n.buttons[i] = b
	}
	n.box = container.NewVBox(n.buttons[0], n.buttons[1], n.buttons[2])
	return n
}

func (n *navigation) mark(p Page) {
	for i, b := range n.buttons {
		want := widget.LowImportance
		if Page(i) == p {
			want = widget.MediumImportance
		}
		if b.Importance != want {
			b.Importance = want
			b.Refresh()
		}
	}
}

// narrow shows the icons alone.
func (n *navigation) narrow(on bool) {
	if on == n.compact {
		return
	}
	n.compact = on
	for i, b := range n.buttons {
		if on {
			b.SetText("")
		} else {
			b.SetText(n.names[i])
		}
	}
}
