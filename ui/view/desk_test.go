package view_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/ui/view"
)

func TestWhen(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 28, 15, 31, 8, 0, berlin)
	for text, want := range map[string]string{
		"":                          "0001-01-01T00:00:00Z",
		"14:30":                     "2026-03-28T14:30:00+01:00",
		" 14:30:05 ":                "2026-03-28T14:30:05+01:00",
		"2026-03-14":                "2026-03-14T00:00:00+01:00",
		"2026-03-29 04:00":          "2026-03-29T04:00:00+02:00",
		"2026-03-14  08:15:59":      "2026-03-14T08:15:59+01:00",
		"2026-03-14T08:15":          "2026-03-14T08:15:00+01:00",
		"2026-03-14T08:15:00Z":      "2026-03-14T08:15:00Z",
		"2026-03-14 08:15:00-05:00": "2026-03-14T08:15:00-05:00",
		"2026-10-25 02:30+01:00":    "2026-10-25T02:30:00+01:00",
	} {
		got, err := view.When(text, now)
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%q: %s, %v, want %s", text, got.Format(time.RFC3339), err, want)
		}
	}
	for text, want := range map[string]string{
		"25:00":               "Write it like 14:30, or 2026-03-28 15:31",
		"tomorrow":            "Write it like",
		"2026-02-30 10:00":    "Write it like",
		"2026-03-29 02:30":    "skipped",
		"2026-10-25 02:30":    "add +02:00 or +01:00",
		"2026-10-25 02:30:15": "twice",
	} {
		got, err := view.When(text, now)
		var w *view.ErrWhen
		if !errors.As(err, &w) || !strings.Contains(w.Text, want) {
			t.Errorf("%q: %v, %v, want %q", text, got, err, want)
		}
	}
	// What is filled in for a person is read back as it was, also in the hour
	// that is twice.
	for _, at := range []time.Time{now, time.Date(2026, 10, 25, 0, 30, 0, 0, time.UTC), time.Date(2026, 10, 25, 1, 30, 0, 0, time.UTC)} {
		text := view.WhenText(at.In(berlin))
		if got, err := view.When(text, now); err != nil || !got.Equal(at) {
			t.Errorf("%s is written %q and read %s, %v", at, text, got, err)
		}
	}
	for at, want := range map[time.Time]string{
		now:                                 "Sat 2026-03-28 15:31:08 CET (UTC+01:00)",
		now.UTC():                           "Sat 2026-03-28 14:31:08 UTC",
		now.In(time.FixedZone("", -3*3600)): "Sat 2026-03-28 11:31:08 UTC-03:00",
	} {
		if got := view.Moment(at); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzWhen(f *testing.F) {
	for _, s := range []string{"14:30", "2026-03-29 02:30", "2026-03-14T08:15:00Z", "–1", ""} {
		f.Add(s)
	}
	now := time.Date(2026, 3, 28, 15, 31, 8, 0, time.FixedZone("CET", 3600))
	f.Fuzz(func(t *testing.T, s string) {
		at, err := view.When(s, now)
		if err != nil && !at.IsZero() && !strings.Contains(err.Error(), "clocks") {
			t.Errorf("%q is %v and refused: %v", s, at, err)
		}
	})
}

// desk is a model that has heard of one uplink, and turned to it.
func desk(t *testing.T, at time.Time, errands ...api.Errand) (*view.Model, func(at time.Time) view.Snapshot) {
	t.Helper()
	m := view.New(view.Config{MaxHz: -1, Location: time.UTC, By: "ana", SilentAfter: time.Hour}, at)
	hear(m, at, errands...)
	m.Open("cloud")
	return m, func(at time.Time) view.Snapshot {
		t.Helper()
		s, ok := m.Frame(at)
		if !ok {
			t.Fatal("no frame")
		}
		return s
	}
}

func hear(m *view.Model, at time.Time, errands ...api.Errand) {
	m.Event(at, api.Event{Kind: "status", Status: &api.Status{Now: at, Uplinks: []api.Uplink{{ID: "cloud", State: "up", Target: "kinesis:x/y", Errands: errands}}}})
}

// What is answered for an uplink that the operator has left is not shown for
// the one that he has turned to.
func TestDeskForgetsAnotherUplink(t *testing.T) {
	at := time.Date(2026, 3, 14, 14, 30, 0, 0, time.UTC)
	m, frame := desk(t, at)
	o := view.Order{Uplink: "cloud", Stream: "s"}
	m.Checking(o)
	m.Open("lake")
	m.Ordered(o, api.Errand{ID: "cloud~replay-1", Uplink: "cloud", State: "preview", Total: 4}, nil)
	m.Listed(at, "cloud", api.Refused{Total: 7}, nil)
	m.Redriven("cloud", api.Errand{}, errors.New("no"))
	m.Streams("cloud", nil, errors.New("no"))
	if d := frame(at).Desk; d.Uplink != "lake" || d.Replay.Ready || len(d.Replay.Lines) > 0 || d.Refused.Total != 0 || len(d.Refused.Lines) > 0 {
		t.Errorf("%+v", d)
	}
}

// Opening the page anew while an order is under way does not forget it.
func TestAnOrderUnderWayIsKept(t *testing.T) {
	at := time.Date(2026, 3, 14, 14, 30, 0, 0, time.UTC)
	m, frame := desk(t, at)
	o := view.Order{Uplink: "cloud", Stream: "s"}
	m.Checking(o)
	m.Ordered(o, api.Errand{ID: "cloud~replay-1", Uplink: "cloud", Stream: "s", As: "r", State: "preview", Total: 1}, nil)
	r := frame(at).Desk.Replay
	if !r.Ready || r.Count != "1 record" || !strings.Contains(r.Lines[0].Text, "1 record of s, size not known, goes to kinesis:x/y again as r") {
		t.Errorf("%+v", r)
	}
	m.Starting(r.Start)
	m.Open("cloud")
	if r := frame(at).Desk.Replay; !r.Busy || r.Lines[0].Text != "The order is sent" {
		t.Errorf("%+v", r)
	}
	m.Ordered(r.Start, api.Errand{}, fmt.Errorf("%w (cut)", view.ErrNoAnswer))
	if r := frame(at).Desk.Replay; r.Busy || !r.Order || !strings.Contains(r.Lines[len(r.Lines)-1].Text, "safe") {
		t.Errorf("%+v", r)
	}
}

// An errand that ends is told of, also one that was over before it was seen,
// and how it ended once the audit has said so.
func TestErrandsThatEnd(t *testing.T) {
	at := time.Date(2026, 3, 14, 14, 30, 0, 0, time.UTC)
	seen := api.Errand{ID: "cloud~replay-1", Kind: "replay", Stream: "s", As: "r", By: "ana", State: "up", Total: 1000, Done: 400, At: at}
	m, frame := desk(t, at, seen)
	quick := api.Errand{ID: "cloud~redrive-2", Kind: "redrive", By: "ana", State: "waiting", Total: 3, At: at.Add(time.Second)}
	m.Redriven("cloud", quick, nil)
	hear(m, at.Add(time.Second), seen)
	if e := frame(at.Add(time.Second)).Uplinks[0].Errands; len(e) != 1 || e[0].Share != 0.4 {
		t.Errorf("too early to say that it has ended: %+v", e)
	}
	later := at.Add(5 * time.Second)
	hear(m, later)
	e := frame(later).Uplinks[0].Errands
	if len(e) != 2 || !e[0].Gone || e[0].Detail != "has ended, too soon to be seen under way; it had 3 records" ||
		e[1].Detail != "has ended; when last seen 400 of 1,000 records" || e[1].Cancel {
		t.Errorf("%+v", e)
	}
	looks := m.Ends()
	if len(looks) != 2 || !looks[1].Since.Equal(at.Add(time.Second)) {
		t.Errorf("%+v", looks)
	}
	m.Ended(view.End{ID: seen.ID, By: "otto", At: later, Note: "canceled: 600 of 1000 records, 0 refused, 0 not kept any more"})
	if e := frame(later).Uplinks[0].Errands[1]; e.Detail != "canceled at 14:30:05, 600 of 1000 records, 0 refused, 0 not kept any more" || e.Note != "Ordered by ana, canceled by otto" {
		t.Errorf("%+v", e)
	}
	for range 20 {
		looks = append(looks, m.Ends()...)
	}
	if len(looks) > 12 {
		t.Errorf("the audit is asked %d times for one that is not in it", len(looks))
	}
	hear(m, later.Add(6*time.Minute))
	if e := frame(later.Add(6 * time.Minute)).Uplinks[0].Errands; len(e) != 0 {
		t.Errorf("for ever: %+v", e)
	}
}

func TestRefusedInWords(t *testing.T) {
	at := time.Date(2026, 3, 14, 14, 30, 0, 0, time.UTC)
	m, frame := desk(t, at)
	if r := frame(at).Desk.Refused; r.Head != "asking the gateway" || r.More != 0 {
		t.Errorf("%+v", r)
	}
	m.Listing("cloud", 100)
	m.Listed(at, "cloud", api.Refused{}, view.ErrNotSent)
	if r := frame(at).Desk.Refused; r.Head != "not known" || !strings.Contains(r.Lines[0].Text, "The list cannot be read: the gateway cannot be reached") {
		t.Errorf("%+v", r)
	}
	list := api.Refused{Total: 12_345, Redrive: 2}
	for i := range 100 {
		list.Letters = append(list.Letters, api.Letter{ID: fmt.Sprint(i), Stream: "s", Reason: "too big", Arrived: at.Add(-30 * time.Hour), Bytes: 1_200_000})
	}
	m.Listed(at, "cloud", list, nil)
	r := frame(at).Desk.Refused
	if r.Head != "the newest 100 of 12,345 refused records, 2 more were sent again, as of 14:30:00" || r.More != 1000 || r.Rows[0].Time != "03-13 08:30" || r.Rows[0].Size != "1.2 MB" {
		t.Errorf("%+v", r)
	}
	m.Sending("cloud", 1)
	if r := frame(at).Desk.Refused; !r.Sending || r.Lines[0].Text != "1 record: sent to the gateway" {
		t.Errorf("%+v", r)
	}
	m.Redriven("cloud", api.Errand{}, &api.Error{Status: 409, Message: "cloud~redrive-1 is under way"})
	if r := frame(at).Desk.Refused; r.Sending || r.Version != 1 || !strings.HasPrefix(r.Lines[0].Text, "Not sent again: ") || len(r.Rows) != 100 {
		t.Errorf("%+v", r)
	}
	if l := view.RedriveText(1, false, "cloud", "ana"); l[0].Text != "Send 1 refused record to the target of cloud again?" || !strings.HasSuffix(l[1].Text, "under ana") {
		t.Errorf("%+v", l)
	}
}
