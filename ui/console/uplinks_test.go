package console_test

import (
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

// threeUplinks is a frame with an uplink of each kind of trouble.
func threeUplinks(t testing.TB) view.Snapshot {
	t.Helper()
	m := view.New(view.Config{Location: time.UTC}, begin)
	m.Event(end, api.Event{Seq: 1, Kind: "snapshot", Snapshot: &api.Snapshot{Status: uplinkStatus()}})
	f, ok := m.Frame(end)
	if !ok {
		t.Fatal("the first frame was refused")
	}
	return f
}

func uplinkStatus() api.Status {
	s := scene{}.status(end)
	s.Uplinks[0].LimitKbit, s.Uplinks[0].Capped = 8000, true
	s.Uplinks[0].Waiting, s.Uplinks[0].WaitBytes, s.Uplinks[0].Oldest, s.Uplinks[0].ETA = 2_410_000, 1.8e9, new(end.Add(-33*time.Minute)), new(640.0)
	s.Uplinks[0].Used.WirePerPayload = 0.284
	s.Uplinks[0].Cost = api.UplinkCost{Model: "provisioned", Currency: "USD", Month: &api.UplinkBill{Sum: 11.02}, MonthPlain: &api.UplinkBill{Sum: 1204.5}, MonthByDay: &api.UplinkBill{Sum: 9.87}}
	s.Uplinks[0].Errands = []api.Errand{
		{ID: "press-shop~replay-3", Kind: "replay", Stream: "mqtt", As: "replay-3-mqtt", By: "otto", State: "up", Total: 1_200_000, Done: 241_300, Missed: 12, ETA: new(312.0)},
		{ID: "press-shop~redrive-4", Kind: "redrive", By: "ana", State: "waiting", Total: 7},
	}
	lake := api.Uplink{
		ID: "lake", Kind: "s3", Target: "s3:eu-central-1/plant-lake/forebay", State: "down", Since: end.Add(-2 * time.Hour), Class: "auth",
		Error:   "403 SignatureDoesNotMatch: the request signature we calculated does not match the signature you provided",
		Advice:  "It is tried again at most a minute apart, with credentials read anew. Check the key and the policy of the bucket, then: forebay uplink retry lake",
		RetryAt: new(end.Add(41 * time.Second)), Waiting: 9_100, WaitBytes: 7.4e6, Oldest: new(end.Add(-2 * time.Hour)), DrainBps: 3e5, Refused: 3,
	}
	paused := api.Uplink{
		ID: "historian", Kind: "nats", Target: "nats:TARGET at 10.0.0.4:4222", State: "paused", PausedBy: "ana", Since: end.Add(-26 * time.Minute),
		Waiting: 120_000, WaitBytes: 41e6, Oldest: new(end.Add(-26 * time.Minute)),
	}
	s.Uplinks = append(s.Uplinks, lake, paused)
	return s
}

func TestUplinkPageMatchesItsGoldens(t *testing.T) {
	for _, c := range []struct {
		look look
		size fyne.Size
	}{
		{looks[0], sizes[0]}, {looks[1], fyne.Size{Width: 1366, Height: 768}}, {looks[0], sizes[1]},
	} {
		id := fmt.Sprintf("%s-%dx%d-uplinks", c.look.name, int(c.size.Width), int(c.size.Height))
		t.Run(id, func(t *testing.T) {
			con, w := open(t, c.look.choice, c.size, threeUplinks(t))
			con.Go(console.Uplinks)
			drawn := 0
			walk(w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
				if d, ok := o.(*hmi.Uplink); ok {
					for _, word := range d.Words() {
						if drawn++; word.X < -0.5 || word.X+word.W > o.Size().Width+0.6 || word.Y+word.H > o.Size().Height+0.5 || strings.HasSuffix(word.Text, "…") {
							t.Errorf("%q leaves its part, or is cut: %+v in %v", word.Text, word, o.Size())
						}
					}
				}
			})
			if drawn < 50 {
				t.Errorf("only %d texts", drawn)
			}
			golden(t, id+".xml", []byte(test.RenderToMarkup(w.Canvas())+words(w.Content())))
			goldenPicture(t, filepath.Join("testdata", id+".png"), w.Canvas().Capture())
		})
	}
}

// The buttons do what they say, a pause only at the second tap, and nothing
// where there is no gateway to tell.
func TestUplinkVerbs(t *testing.T) {
	s := threeUplinks(t)
	con, w := open(t, hmi.DarkOnly, sizes[0], s)
	now := end
	con.Now = func() time.Time { return now }
	var got []string
	con.OnVerb = func(id, verb string) { got = append(got, verb+" "+id) }
	con.TypedKey(&fyne.KeyEvent{Name: fyne.Key3})
	if con.Page() != console.Uplinks {
		t.Fatal("key 3 does not show the uplinks")
	}
	buttons := func() (out []*hmi.Button) {
		walk(w.Content(), func(o fyne.CanvasObject, _ fyne.Position) {
			if b, ok := o.(*hmi.Button); ok && slices.Contains([]string{"Pause", "Resume", "Retry now", "Tap again to pause"}, b.Text) {
				if b.Size().Height < 44 {
					t.Errorf("%s is %v high", b.Text, b.Size().Height)
				}
				out = append(out, b)
			}
		})
		return out
	}
	tap := func(i int, text string) {
		t.Helper()
		b := buttons()
		if len(b) != 6 || b[i].Text != text {
			t.Fatalf("button %d of %d is not %q", i, len(b), text)
		}
		test.Tap(b[i])
	}
	tap(0, "Pause")
	if len(got) != 0 {
		t.Errorf("one tap: %v", got)
	}
	now = now.Add(6 * time.Second)
	con.Apply(s)
	tap(0, "Pause") // the first one is forgotten
	tap(0, "Tap again to pause")
	tap(1, "Retry now") // it is up: there is nothing to try
	tap(3, "Retry now")
	tap(3, "Retry now") // it was asked already
	tap(4, "Resume")
	if fmt.Sprint(got) != "[pause press-shop retry lake resume historian]" {
		t.Errorf("%v", got)
	}
	got = nil
	s.Link = view.Lost
	for i := range s.Uplinks {
		s.Uplinks[i].Live, s.Uplinks[i].Retry = false, false
	}
	con.Apply(s)
	tap(3, "Retry now")
	tap(4, "Resume")
	if len(got) != 0 {
		t.Errorf("without a gateway: %v", got)
	}
}
