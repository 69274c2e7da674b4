package console

import (
	"slices"
	"time"

	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/container"
)

// replayForm is where a replay is ordered: what is typed, then what the
// gateway says that it would be, then the order.
type replayForm struct {
	c      *Console
	uplink string
	now    view.Desk
	panel  *panel

	stream *hmi.Picker
	from   *hmi.Field
	to     *hmi.Field
	as     *hmi.Field
	ranges [4]*hmi.Button
	check  *hmi.Button
	start  *hmi.Button
	inputs [4]fyne.CanvasObject // the fields in their own look
	names  [5]*hmi.Numeral      // left of them
	says   [5]*hmi.Numeral      // and right
	lines  *hmi.Lines

	sent    bool // a tap was made, and nothing was answered to it yet
	version int  // of the answers, when it was made
}

const (
	formName  = 96  // width of the names
	formField = 236 // and of the fields
)

func newReplayForm(c *Console) *replayForm {
	f := &replayForm{c: c, lines: hmi.NewLines(c.ink)}
	changed := func(string) { f.arm() }
	f.stream = hmi.NewPicker("Choose a stream", verbHigh, changed)
	f.from = hmi.NewField("oldest record kept", verbHigh)
	f.to = hmi.NewField("now", verbHigh)
	f.as = hmi.NewField("replay-N-STREAM", verbHigh)
	for _, e := range []*hmi.Field{f.from, f.to, f.as} {
		e.OnPass, e.OnChanged = c.TypedKey, changed
		e.OnSubmitted = func(string) { f.tapCheck() }
	}
	f.stream.OnPass = c.TypedKey
	spans := [4]time.Duration{time.Hour, 8 * time.Hour, 24 * time.Hour, 0}
	for i, text := range [4]string{"Last hour", "Last 8 h", "Last 24 h", "All kept"} {
		f.ranges[i] = hmi.NewButton(text, nil, verbHigh, func() { f.last(spans[i]) })
		f.ranges[i].OnPass = c.TypedKey
	}
	f.check = hmi.NewButton("1  Check", nil, verbHigh, f.tapCheck)
	f.start = hmi.NewButton("2  Start replay", nil, verbHigh, f.tapStart)
	f.check.OnPass, f.start.OnPass = c.TypedKey, c.TypedKey
	objs := make([]fyne.CanvasObject, 0, 24)
	for i, n := range [5]string{"Stream", "Range", "From", "To, before", "Name there"} {
		f.names[i] = hmi.NewNumeral(c.ink, verbHigh, hmi.Leading)
		f.names[i].SetText(n, hmi.Style{Size: 13}, hmi.Quiet)
		f.says[i] = hmi.NewNumeral(c.ink, verbHigh, hmi.Leading)
		objs = append(objs, f.names[i], f.says[i])
	}
	// In the order in which Tab goes through them.
	f.inputs[0] = container.NewThemeOverride(f.stream, c.theme.Form())
	for i, e := range []*hmi.Field{f.from, f.to, f.as} {
		f.inputs[i+1] = container.NewThemeOverride(e, c.theme.Form())
	}
	objs = append(objs, f.inputs[0])
	for _, b := range f.ranges {
		objs = append(objs, b)
	}
	objs = append(objs, f.inputs[1], f.inputs[2], f.inputs[3], f.check, f.start, f.lines)
	f.panel = newPanel(c.ink, "REPLAY", container.New(formLayout{f}, objs...))
	f.panel.Hide()
	return f
}

// open empties the form, unless it is the same uplink's.
func (f *replayForm) open(uplink string) {
	if f.uplink != uplink {
		f.uplink, f.now, f.sent = uplink, view.Desk{}, false
		f.stream.Options = nil
		f.stream.ClearSelected()
		for _, e := range []*hmi.Field{f.from, f.to, f.as} {
			e.SetText("")
		}
	}
}

// last fills in a range that ends now; 0 is everything.
func (f *replayForm) last(d time.Duration) {
	f.to.SetText("")
	if d == 0 || f.now.Now.IsZero() {
		f.from.SetText("")
		return
	}
	f.from.SetText(view.WhenText(f.now.Now.Add(-d)))
}

// order is what is typed; ok is false where it is none.
func (f *replayForm) order() (o view.Order, ok bool) {
	from, errFrom := view.When(f.from.Text, f.now.Now)
	to, errTo := view.When(f.to.Text, f.now.Now)
	o = view.Order{Uplink: f.uplink, Stream: f.stream.Selected, From: from.UTC(), To: to.UTC(), As: f.as.Text}
	if from.IsZero() {
		o.From = time.Time{}
	}
	if to.IsZero() {
		o.To = time.Time{}
	}
	return o, errFrom == nil && errTo == nil && o.Stream != ""
}

// idle says that a question may be asked.
func (f *replayForm) idle() bool { return f.now.Live && !f.now.Replay.Busy && !f.sent }

func (f *replayForm) tapCheck() {
	if o, ok := f.order(); ok && f.idle() && f.c.OnCheck != nil {
		f.sent, f.version = true, f.now.Replay.Version
		f.arm()
		f.c.OnCheck(o)
	}
}

func (f *replayForm) tapStart() {
	if r := f.now.Replay; f.ready() && f.idle() && f.c.OnReplay != nil {
		f.sent, f.version = true, r.Version
		f.arm()
		f.c.OnReplay(r.Start)
	}
}

// ready says that what is typed is what was checked.
func (f *replayForm) ready() bool {
	o, ok := f.order()
	return ok && f.now.Replay.Ready && o == f.now.Replay.Asked
}

func (f *replayForm) set(d view.Desk) {
	f.now = d
	if d.Replay.Version != f.version {
		f.sent = false
	}
	names := make([]string, 0, len(d.Replay.Streams))
	for _, k := range d.Replay.Streams {
		names = append(names, k.Name)
	}
	if !slices.Equal(names, f.stream.Options) {
		f.stream.SetOptions(names)
		if len(names) == 1 && f.stream.Selected == "" {
			f.stream.SetSelected(names[0])
		}
	}
	f.panel.say("times are " + d.ZoneText + ", ordered by " + d.By)
	f.arm()
}

// arm says what is typed, and what the buttons would do now.
func (f *replayForm) arm() {
	r := f.now.Replay
	f.sayStream()
	f.sayTime(2, f.from.Text, "the oldest record that is kept")
	f.sayTime(3, f.to.Text, "now: what has arrived when it is checked")
	quiet := hmi.Style{Size: 13}
	as := "left empty, the gateway makes it of its number and the stream's name"
	if f.as.Text != "" {
		as = "a name that no earlier replay of this uplink had; {stream} stands for the stream's"
	}
	f.says[4].SetText(as, quiet, hmi.Quiet)
	o, ok := f.order()
	enable(f.check, ok && f.idle())
	enable(f.start, f.ready() && f.idle())
	start := "2  Start replay"
	if f.ready() {
		start = "2  Start: send " + r.Count + " again"
	}
	if f.start.Text != start {
		f.start.SetText(start)
	}
	var lines []view.Line
	if f.now.Offline != "" {
		lines = append(lines, view.Line{Text: f.now.Offline, Loud: true})
	}
	switch {
	case r.Order || ok && o == r.Asked:
		lines = append(lines, r.Lines...)
	case o.Stream == "":
		lines = append(lines, view.Line{Text: "Choose a stream and a time range. A check says how much that is; nothing is sent before the second button"})
	case !ok:
		lines = append(lines, view.Line{Text: "A time cannot be read: see what stands beside it"})
	default:
		lines = append(lines, view.Line{Text: "Check says how much that is; nothing is sent before the second button"})
	}
	f.lines.Set(lines...)
	if f.c.links != nil && f.c.links.desk != nil {
		f.c.links.desk.layOut()
	}
}

func (f *replayForm) sayStream() {
	text := f.now.Replay.Say
	for _, k := range f.now.Replay.Streams {
		if k.Name == f.stream.Selected {
			text = k.Text
		}
	}
	f.says[0].SetText(text, hmi.Style{Size: 13}, hmi.Quiet)
}

// sayTime says how a typed time is understood.
func (f *replayForm) sayTime(row int, text, empty string) {
	t, err := view.When(text, f.now.Now)
	switch {
	case err != nil:
		f.says[row].SetText(err.Error(), hmi.Style{Size: 13, Bold: true}, hmi.Plain)
	case t.IsZero():
		f.says[row].SetText(empty, hmi.Style{Size: 13}, hmi.Quiet)
	default:
		f.says[row].SetText(view.Moment(t), hmi.Style{Size: 13}, hmi.Quiet)
	}
}

// focus is the first thing to fill in.
func (f *replayForm) focus() fyne.Focusable { return f.stream }

// high is the height of the panel at the width w.
func (f *replayForm) high(w float32) float32 {
	return panelHead + 2 + 6*(verbHigh+gap) + f.lines.Height(w-2*panelPad) + panelPad
}

type formLayout struct{ f *replayForm }

func (l formLayout) MinSize([]fyne.CanvasObject) fyne.Size {
	return fyne.NewSize(600, 6*(verbHigh+gap)+20)
}

func (l formLayout) Layout(_ []fyne.CanvasObject, s fyne.Size) {
	f := l.f
	row := func(i int) float32 { return float32(i) * (verbHigh + gap) }
	for i := range f.names {
		move(f.names[i], 0, row(i), formName-8, verbHigh)
		move(f.says[i], formName+formField+12, row(i), s.Width-formName-formField-12, verbHigh)
	}
	move(f.inputs[0], formName, row(0), formField, verbHigh)
	show(f.says[1], false)
	for i, b := range f.ranges {
		move(b, formName+float32(i)*(112+gap), row(1), 112, verbHigh)
	}
	for i, e := range f.inputs[1:] {
		move(e, formName, row(2+i), formField, verbHigh)
	}
	move(f.check, formName, row(5), 112, verbHigh)
	move(f.start, formName+112+gap, row(5), max(220, f.start.MinSize().Width+16), verbHigh)
	move(f.lines, 0, row(6), s.Width, f.lines.Height(s.Width))
}
