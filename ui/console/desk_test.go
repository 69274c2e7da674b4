package console_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/ui/console"
	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/test"
)

// zone is the operator's: the winter time of middle Europe.
var zone = time.FixedZone("CET", 3600)

// A bench is a console with the model behind it, as the program wires the two,
// and what went out of it.
type bench struct {
	t   *testing.T
	m   *view.Model
	con *console.Console
	w   fyne.Window
	at  time.Time
	out []string

	check, start view.Order
}

func openDesk(t *testing.T, choice hmi.Choice, size fyne.Size) *bench {
	t.Helper()
	b := &bench{t: t, at: end, m: view.New(view.Config{MaxHz: -1, Location: zone, By: "ana"}, begin)}
	b.m.Event(end, api.Event{Seq: 1, Kind: "snapshot", Snapshot: &api.Snapshot{Status: uplinkStatus()}})
	f, ok := b.m.Frame(end)
	if !ok {
		t.Fatal("no frame")
	}
	b.con, b.w = open(t, choice, size, f)
	b.con.Now = func() time.Time { return b.at }
	b.con.OnVerb = func(id, verb string) {
		b.m.Asking(b.at, id, verb)
		b.out = append(b.out, verb+" "+id)
	}
	b.con.OnOpen = func(id string) {
		b.m.Open(id)
		b.out = append(b.out, "open "+id)
	}
	b.con.OnCheck = func(o view.Order) {
		b.m.Checking(o)
		b.check = o
		b.out = append(b.out, "check "+o.Stream)
	}
	b.con.OnReplay = func(o view.Order) {
		b.m.Starting(o)
		b.start = o
		b.out = append(b.out, "start "+o.Stream)
	}
	b.con.OnRefused = func(id string, limit int) {
		b.m.Listing(id, limit)
		b.out = append(b.out, fmt.Sprintf("list %s %d", id, limit))
	}
	b.con.OnRedrive = func(id string, ids []string, n int) {
		b.m.Sending(id, n)
		b.out = append(b.out, fmt.Sprintf("redrive %s %v %d", id, ids, n))
	}
	b.con.Go(console.Uplinks)
	return b
}

// frame shows how things are.
func (b *bench) frame() {
	b.t.Helper()
	f, ok := b.m.Frame(b.at)
	if !ok {
		b.t.Fatal("no frame")
	}
	b.con.Apply(f)
}

// button is the visible one whose text begins with text.
func (b *bench) button(text string) *hmi.Button {
	b.t.Helper()
	var out *hmi.Button
	walk(b.w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
		if v, ok := o.(*hmi.Button); ok && out == nil && strings.HasPrefix(v.Text, text) {
			out = v
		}
	})
	if out == nil {
		b.t.Fatalf("no button %q", text)
	}
	return out
}

func (b *bench) tap(text string) {
	b.t.Helper()
	test.Tap(b.button(text))
}

// fields are the form's: from, to, name.
func (b *bench) fields() (out []*hmi.Field) {
	walk(b.w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
		if v, ok := o.(*hmi.Field); ok {
			out = append(out, v)
		}
	})
	return out
}

func (b *bench) text() string { return words(b.w.Content()) }

func (b *bench) went(want ...string) {
	b.t.Helper()
	if !slices.Equal(b.out, want) {
		b.t.Errorf("went out: %q, want %q", b.out, want)
	}
	b.out = nil
}

func streams() []api.Stream {
	of := func(name string, n uint64, bytes int64, names ...string) api.Stream {
		s := api.Stream{Name: name, Records: n, Bytes: bytes, Shards: []api.Shard{{Oldest: new(end.Add(-74 * time.Hour))}}}
		for _, c := range names {
			s.Cursors = append(s.Cursors, api.Cursor{Name: c})
		}
		return s
	}
	return []api.Stream{of("mqtt", 14_200_000, 5.2e9, "press-shop", "lake"), of("alarms", 412, 130_000, "press-shop"), of("debug", 9, 900)}
}

func letters(n int) (r api.Refused) {
	reasons := []string{
		"record of 1,204,113 bytes is over the target's 1,048,576",
		"400 mapper_parsing_exception: failed to parse field [value] of type [double] in document with id 'edge-07/427cf1ea34fa266c/13/2401': preview of field's value: 'n/a'",
		"key is longer than 256 characters",
	}
	for i := range n {
		r.Letters = append(r.Letters, api.Letter{
			ID: fmt.Sprintf("edge-07/427cf1ea34fa266c/13/%d", 2401-i), Stream: []string{"mqtt", "alarms"}[i%2], Key: fmt.Sprintf("line-%d/press", i%4+1),
			Reason: reasons[i%3], Arrived: end.Add(-time.Duration(i*i) * time.Minute), Type: "application/json", Bytes: []int{1_204_113, 312, 96}[i%3],
		})
	}
	r.Total = uint64(n)
	return r
}

// preview is what the gateway would answer to an order.
func preview(o view.Order) api.Errand {
	return api.Errand{ID: "press-shop~replay-5", Kind: "replay", Uplink: "press-shop", Stream: o.Stream, As: "replay-5-" + o.Stream, From: &o.From, To: new(end), State: "preview", Total: 241_300, Bytes: 88e6}
}

func (b *bench) toForm() {
	b.t.Helper()
	b.tap("Replay…")
	b.m.Streams("press-shop", streams(), nil)
	b.frame()
	walk(b.w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
		if p, ok := o.(*hmi.Picker); ok {
			if !slices.Equal(p.Options, []string{"alarms", "mqtt"}) {
				b.t.Errorf("streams: %v", p.Options)
			}
			p.SetSelected("mqtt")
		}
	})
}

func (b *bench) toChecked() {
	b.t.Helper()
	b.toForm()
	b.fields()[0].SetText("14:00")
	b.tap("1  Check")
	b.m.Ordered(b.check, preview(b.check), nil)
	b.frame()
}

// A replay is checked, then started as it was checked, and neither twice.
func TestReplayIsCheckedThenStarted(t *testing.T) {
	b := openDesk(t, hmi.DarkOnly, sizes[0])
	b.toForm()
	b.went("open press-shop")
	b.tap("2  Start") // nothing was checked
	b.fields()[0].SetText("yesterday")
	b.tap("1  Check") // that is no time
	b.went()
	if !strings.Contains(b.text(), "Write it like 14:30, or 2026-03-14 15:31") {
		t.Error("a time that cannot be read is not answered")
	}
	b.fields()[0].SetText("14:00")
	if !strings.Contains(b.text(), "Sat 2026-03-14 14:00:00 CET (UTC+01:00)") {
		t.Error("it does not say how it understands 14:00")
	}
	b.tap("1  Check")
	b.tap("1  Check")
	b.frame()
	b.tap("1  Check")
	b.went("check mqtt")
	if b.check != (view.Order{Uplink: "press-shop", Stream: "mqtt", From: time.Date(2026, 3, 14, 13, 0, 0, 0, time.UTC)}) {
		t.Errorf("%+v", b.check)
	}
	b.m.Ordered(b.check, preview(b.check), nil)
	b.frame()
	for _, want := range []string{"241,300 records of mqtt, about 88 MB, go to kinesis:eu-west-1/press-shop again as replay-5-mqtt", "audit under ana"} {
		if !strings.Contains(b.text(), want) {
			t.Errorf("the check does not say %q", want)
		}
	}
	b.fields()[2].SetText("again")
	b.tap("2  Start") // it is not what was checked
	b.went()
	b.fields()[2].SetText("")
	b.tap("2  Start: send 241,300 records again")
	b.tap("2  Start")
	b.frame()
	b.tap("2  Start")
	b.went("start mqtt")
	if b.start != (view.Order{Uplink: "press-shop", Stream: "mqtt", From: b.check.From, To: end, As: "replay-5-mqtt"}) {
		t.Errorf("%+v", b.start)
	}
	e := preview(b.check)
	e.State, e.By = "waiting", "ana"
	b.m.Ordered(b.start, e, nil)
	b.frame()
	b.tap("2  Start")
	b.went()
	if !strings.Contains(b.text(), "Ordered: Replay 5 of mqtt as replay-5-mqtt, 241,300 records") {
		t.Error("it does not say that it was ordered")
	}
	b.con.TypedKey(&fyne.KeyEvent{Name: fyne.KeyEscape})
	if b.con.Page() != console.Uplinks || b.button("Pause") == nil {
		t.Error("Escape does not go back to the list")
	}
}

// Whatever becomes of the gateway while something is asked of it is said
// beside the buttons, and what was typed stays.
func TestReplayWithoutAnAnswer(t *testing.T) {
	b := openDesk(t, hmi.DarkOnly, sizes[0])
	b.toForm()
	b.fields()[0].SetText("14:00")
	b.tap("1  Check")
	b.m.Ordered(b.check, api.Errand{}, &api.Error{Status: 409, Message: "stream mqtt keeps nothing that arrived in that time"})
	b.frame()
	if !strings.Contains(b.text(), "Not possible: stream mqtt keeps nothing that arrived in that time") {
		t.Error("the gateway's no is not said")
	}
	b.fields()[0].SetText("13:00")
	b.tap("1  Check")
	b.m.Ordered(b.check, preview(b.check), nil)
	b.frame()
	b.tap("2  Start")
	b.m.Ordered(b.start, api.Errand{}, fmt.Errorf("%w (timeout)", view.ErrNoAnswer))
	b.m.Lost(b.at, errors.New("cut"))
	b.frame()
	b.out = nil
	for _, want := range []string{"No answer from the gateway: the replay may have been ordered", "To start it once more is safe", "nothing can be ordered now"} {
		if !strings.Contains(b.text(), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	b.tap("1  Check")
	b.tap("2  Start")
	b.went()
	if b.fields()[0].Text != "13:00" {
		t.Error("what was typed is gone")
	}
	b.m.Event(b.at, api.Event{Kind: "alarms"})
	b.frame()
	b.tap("2  Start")
	b.went("start mqtt")
	b.m.Ordered(b.start, api.Errand{}, view.ErrNotSent)
	b.frame()
	if !strings.Contains(b.text(), "Not started: the gateway cannot be reached; nothing was sent") {
		t.Error("a refused connection is not said")
	}
}

func (b *bench) toRefused(n, total int) {
	b.t.Helper()
	var last *hmi.Button
	walk(b.w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
		if v, ok := o.(*hmi.Button); ok && v.Text == "Refused…" && last == nil {
			last = v
		}
	})
	test.Tap(last)
	r := letters(n)
	r.Total = uint64(total)
	b.m.Listed(b.at, "press-shop", r, nil)
	b.frame()
}

// Refused records are marked with the keys alone, and sent again after a
// question; where the finger falls twice nothing is sent.
func TestRedrive(t *testing.T) {
	b := openDesk(t, hmi.DarkOnly, sizes[0])
	b.toRefused(100, 12_431)
	b.went("open press-shop", "list press-shop 100")
	if !strings.Contains(b.text(), "the newest 100 of 12,431 refused records, as of 15:31:08") {
		t.Error("it does not say how many there are")
	}
	table, ok := b.w.Canvas().Focused().(*hmi.LetterTable)
	if !ok {
		t.Fatalf("the keys go to %T", b.w.Canvas().Focused())
	}
	key := func(k fyne.KeyName) { b.w.Canvas().Focused().TypedKey(&fyne.KeyEvent{Name: k}) }
	b.tap("Send marked again") // none is
	b.w.Canvas().Focus(table)
	for _, k := range []fyne.KeyName{fyne.KeySpace, fyne.KeyDown, fyne.KeyDown, fyne.KeyReturn} {
		key(k)
	}
	if got := table.Marked(); len(got) != 2 || got[1] != "edge-07/427cf1ea34fa266c/13/2399" {
		t.Fatalf("marked %v", got)
	}
	some := b.button("Send marked again (2)")
	place := some.Position().Add(fyne.NewPos(20, 20))
	test.Tap(some)
	b.went()
	if !strings.Contains(b.text(), "Send 2 refused records to the target of press-shop again?") {
		t.Error("it does not ask")
	}
	walk(b.w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
		if v, ok := o.(*hmi.Button); ok && strings.HasPrefix(v.Text, "Yes") {
			if p := v.Position(); place.X >= p.X && place.X < p.X+v.Size().Width {
				t.Error("the second tap of two says yes")
			}
		}
	})
	key(fyne.KeyReturn) // the keys are on No
	b.went()
	b.tap("Send marked again (2)")
	b.tap("Yes, send 2 again")
	b.tap("Send all again")
	b.frame()
	b.tap("Send all again")
	b.went("redrive press-shop [edge-07/427cf1ea34fa266c/13/2401 edge-07/427cf1ea34fa266c/13/2399] 2")
	b.m.Redriven("press-shop", api.Errand{ID: "press-shop~redrive-6", Kind: "redrive", Total: 2, By: "ana"}, nil)
	r := letters(100)
	r.Letters, r.Total, r.Redrive = slices.Delete(r.Letters, 0, 3), 12_429, 2
	b.m.Listed(b.at, "press-shop", r, nil)
	b.frame()
	for _, want := range []string{"Ordered: Redrive 6, 2 records", "the newest 97 of 12,429 refused records, 2 more were sent again"} {
		if !strings.Contains(b.text(), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	b.tap("Send all again (12,429)")
	if !strings.Contains(b.text(), "Send the oldest 10,000 of 12,429 refused records") {
		t.Error("it does not say that one redrive takes 10,000")
	}
	b.tap("Yes")
	b.m.Redriven("press-shop", api.Errand{}, view.ErrNoAnswer)
	b.frame()
	b.went("redrive press-shop [] 12429")
	if !strings.Contains(b.text(), "they may be on their way again") {
		t.Error("an answer that did not come is not said")
	}
	b.tap("Show 1,000")
	b.went("list press-shop 1000")
}

// An errand is ended at the second tap, once, and is told of when it is gone.
func TestCancel(t *testing.T) {
	b := openDesk(t, hmi.DarkOnly, sizes[0])
	cancel := b.button("Cancel")
	test.Tap(cancel)
	b.went()
	test.Tap(cancel)
	test.Tap(cancel)
	test.Tap(cancel)
	b.went("cancel press-shop~replay-3")
	b.m.Asked(b.at, "press-shop~replay-3", nil)
	b.frame()
	s := uplinkStatus()
	s.Uplinks[0].Errands = nil
	b.m.Event(b.at, api.Event{Kind: "status", Status: &s})
	b.frame()
	if !strings.Contains(b.text(), "has ended; when last seen 241,300 of 1.20 M records, 12 not kept any more") {
		t.Error("an errand that is gone is gone without a word")
	}
	b.at = b.at.Add(6 * time.Minute)
	b.m.Event(b.at, api.Event{Kind: "status", Status: &s})
	b.frame()
	if strings.Contains(b.text(), "has ended") {
		t.Error("it stays for ever")
	}
}

// Every button is as high as a finger needs, and reached by Tab.
func TestDeskByKeys(t *testing.T) {
	for _, page := range []string{"replay", "refused"} {
		b := openDesk(t, hmi.DarkOnly, sizes[1])
		if page == "replay" {
			b.toChecked()
		} else {
			b.toRefused(7, 7)
		}
		want := map[fyne.Focusable]string{}
		walk(b.w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
			if f, ok := o.(fyne.Focusable); ok {
				if d, ok := o.(fyne.Disableable); ok && d.Disabled() {
					return
				}
				if o.Size().Height < 44 {
					t.Errorf("%s: %T is %v", page, o, o.Size())
				}
				want[f] = fmt.Sprintf("%T", o)
			}
		})
		for range 40 {
			b.w.Canvas().FocusNext()
			delete(want, b.w.Canvas().Focused())
		}
		if len(want) > 0 {
			t.Errorf("%s: Tab does not reach %v", page, want)
		}
		b.w.Canvas().FocusNext()
		b.w.Canvas().Focused().TypedKey(&fyne.KeyEvent{Name: fyne.KeyEscape})
		b.button("Pause")
	}
}

func TestDeskMatchesItsGoldens(t *testing.T) {
	large, small := sizes[0], sizes[1]
	for _, c := range []struct {
		name string
		look hmi.Choice
		size fyne.Size
		path string // of the picture; "" for testdata
		do   func(b *bench)
	}{
		{"replay", hmi.DarkOnly, large, filepath.Join("..", "..", "docs", "console-replay.png"), (*bench).toChecked},
		{"replay", hmi.LightOnly, small, "", (*bench).toChecked},
		{"replaylost", hmi.DarkOnly, small, "", func(b *bench) {
			b.toChecked()
			b.fields()[1].SetText("25:00")
			b.m.Lost(b.at, errors.New("connection refused"))
			b.at = b.at.Add(42 * time.Second)
			b.frame()
		}},
		{"refused", hmi.DarkOnly, large, filepath.Join("..", "..", "docs", "console-refused.png"), func(b *bench) { b.toRefused(100, 12_431); b.mark(2) }},
		{"refusedask", hmi.LightOnly, small, "", func(b *bench) { b.toRefused(9, 9); b.mark(3); b.tap("Send marked again") }},
		{"refusednone", hmi.LightOnly, large, "", func(b *bench) { b.toRefused(0, 0) }},
	} {
		look := map[hmi.Choice]string{hmi.DarkOnly: "dark", hmi.LightOnly: "light"}[c.look]
		id := fmt.Sprintf("%s-%dx%d-%s", look, int(c.size.Width), int(c.size.Height), c.name)
		t.Run(id, func(t *testing.T) {
			b := openDesk(t, c.look, c.size)
			c.do(b)
			noneCut(t, b.w)
			golden(t, id+".xml", []byte(test.RenderToMarkup(b.w.Canvas())+b.text()))
			if c.path == "" {
				c.path = filepath.Join("testdata", id+".png")
			}
			goldenPicture(t, c.path, b.w.Canvas().Capture())
		})
	}
}

// mark marks the first n rows, each with the second one behind it.
func (b *bench) mark(n int) {
	for range n {
		for _, k := range []fyne.KeyName{fyne.KeySpace, fyne.KeyDown, fyne.KeyDown} {
			b.w.Canvas().Focused().TypedKey(&fyne.KeyEvent{Name: k})
		}
	}
}

// noneCut checks that no text but that of table cells leaves its part, or is cut.
func noneCut(t *testing.T, w fyne.Window) {
	t.Helper()
	drawn := 0
	walk(w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
		d, ok := o.(interface{ Words() []hmi.Word })
		if !ok || fmt.Sprintf("%T", o) == "*hmi.cell" {
			return
		}
		for _, word := range d.Words() {
			if drawn++; word.X < -0.5 || word.X+word.W > o.Size().Width+0.6 || word.Y+word.H > o.Size().Height+0.5 || strings.HasSuffix(word.Text, "…") {
				t.Errorf("%q leaves its part, or is cut: %+v in %v", word.Text, word, o.Size())
			}
		}
	})
	if drawn < 20 {
		t.Errorf("only %d texts", drawn)
	}
}
