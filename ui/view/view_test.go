package view_test

import (
	"errors"
	"image"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/ui/view"
)

var t0 = time.Date(2026, 3, 14, 14, 0, 0, 0, time.UTC)

func at(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }

func model() *view.Model { return view.New(view.Config{MaxHz: 1000, Location: time.UTC}, t0) }

func frame(t *testing.T, m *view.Model, now time.Time) view.Snapshot {
	t.Helper()
	s, ok := m.Frame(now)
	if !ok {
		t.Fatalf("no frame at %v", now)
	}
	return s
}

func status(now time.Time) api.Event {
	return api.Event{Kind: "status", Status: &api.Status{Gateway: "edge-07", Now: now}}
}

func alarm(id string, sev int, state string, raised time.Time) api.Alarm {
	return api.Alarm{ID: id, Rule: "r", Key: "k/" + id, Severity: sev, State: state, Text: "text " + id, Raised: raised}
}

func TestFramesKeepThePace(t *testing.T) {
	m := view.New(view.Config{MaxHz: 2, Location: time.UTC}, t0)
	n := 0
	for i := range 1000 {
		if _, ok := m.Frame(t0.Add(time.Duration(i) * 10 * time.Millisecond)); ok {
			n++
		}
	}
	if n != 20 {
		t.Errorf("%d frames in ten seconds at 2 Hz, want 20", n)
	}
	if _, ok := m.Frame(t0.Add(-time.Hour)); !ok {
		t.Error("a clock that was set back stops the frames")
	}
}

func TestLinkStates(t *testing.T) {
	m := model()
	if s := frame(t, m, at(3)); s.Link != view.Connecting || !strings.Contains(s.Banner.Text, "00:03") {
		t.Errorf("before the first word: %v %q", s.Link, s.Banner.Text)
	}
	m.Lost(at(4), errors.New("connection refused"))
	if s := frame(t, m, at(5)); s.Link != view.Connecting || s.Banner.Detail != "connection refused" {
		t.Errorf("a refused first connection: %v %q", s.Link, s.Banner.Detail)
	}
	m.Event(at(10), status(at(10)))
	if s := frame(t, m, at(11)); s.Link != view.Live || s.Stale() {
		t.Errorf("after a word: %v", s.Link)
	}
	if s := frame(t, m, at(16)); s.Link != view.Lost || s.Since != at(10) {
		t.Errorf("silent for six seconds: %v since %v", s.Link, s.Since)
	}
	m.Event(at(20), status(at(20)))
	if s := frame(t, m, at(20)); s.Link != view.Live {
		t.Errorf("after its return: %v", s.Link)
	}
	m.Lost(at(22), errors.New("EOF"))
	s := frame(t, m, at(62))
	if want := "Console lost the gateway 00:42 ago — gateway keeps recording"; s.Banner.Kind != view.BannerLost || s.Banner.Text != want {
		t.Errorf("lost: %q, want %q", s.Banner.Text, want)
	}
	if len(s.Banner.AlarmIDs) != 0 {
		t.Error("an alarm can be acknowledged though there is nobody to tell")
	}
}

// The words "no alarms" may stand only beside the time of the last confirmed
// update, and never while the link is not live, whatever happens.
func TestNoAlarmsIsNeverSaidWhileStale(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	m, now, live := model(), t0, 0
	for range 5000 {
		now = now.Add(time.Duration(rng.IntN(4000)) * time.Millisecond)
		switch rng.IntN(5) {
		case 0:
			m.Event(now, status(now))
		case 1:
			m.Event(now, api.Event{Kind: "alarms"})
		case 2:
			m.Event(now, api.Event{Kind: "alarms", Alarms: []api.Alarm{alarm("a", 1, []string{"unacked", "acked", "normal"}[rng.IntN(3)], now)}})
		case 3:
			m.Lost(now, errors.New("cut"))
		}
		s, ok := m.Frame(now)
		if !ok {
			continue
		}
		for _, txt := range []string{s.AlarmHead, s.Banner.Text, s.Banner.Detail} {
			low := strings.ToLower(txt)
			if !strings.Contains(low, "no alarm") && !strings.Contains(low, "nothing to ack") {
				continue
			}
			live++
			if s.Stale() {
				t.Fatalf("%q is said while the link is %v", txt, s.Link)
			}
			if stamp := s.Confirmed.Format("15:04:05"); !strings.Contains(txt, stamp) {
				t.Fatalf("%q does not say as of when", txt)
			}
		}
	}
	if live < 100 {
		t.Fatalf("only %d frames said that there are none: the test shows nothing", live)
	}
}

func TestAlarmOrderAndBanner(t *testing.T) {
	m := model()
	m.Event(at(0), status(at(0)))
	m.Event(at(0), api.Event{Kind: "alarms", Alarms: []api.Alarm{
		alarm("acked1", 1, "acked", at(-5)),
		alarm("old2", 2, "unacked", at(-60)),
		alarm("gone", 1, "normal", at(-1)),
		alarm("new2", 2, "unacked", at(-10)),
		alarm("rtn4", 4, "rtn-unacked", at(-2)),
		alarm("top1", 1, "unacked", at(-90)),
	}})
	s := frame(t, m, at(1))
	var ids []string
	for _, a := range s.Alarms {
		ids = append(ids, a.ID)
	}
	if want := []string{"top1", "new2", "old2", "rtn4", "acked1"}; !slices.Equal(ids, want) {
		t.Errorf("order %v, want %v", ids, want)
	}
	if !slices.Equal(s.Banner.AlarmIDs, []string{"top1"}) || !strings.Contains(s.Banner.Detail, "3 more unacknowledged") {
		t.Errorf("banner %+v", s.Banner)
	}
	if want := "5 alarms, 4 unacknowledged as of 14:00:00"; s.AlarmHead != want {
		t.Errorf("head %q, want %q", s.AlarmHead, want)
	}
}

func TestAcknowledgementIsShownUntilConfirmed(t *testing.T) {
	m := model()
	two := []api.Alarm{alarm("a", 1, "unacked", at(-9)), alarm("b", 2, "unacked", at(-8))}
	m.Event(at(0), api.Event{Kind: "alarms", Alarms: two})
	m.Acking(at(1), []string{"a"})
	s := frame(t, m, at(1))
	if s.Alarms[0].State != "ACK sent" || s.Banner.AlarmIDs[0] != "b" {
		t.Errorf("sent: %+v, banner %v", s.Alarms[0], s.Banner.AlarmIDs)
	}
	m.AckDone(at(2), []string{"a"}, errors.New("disk full"))
	s = frame(t, m, at(2))
	if s.Alarms[0].State != "UNACK" || s.Banner.AlarmIDs[0] != "a" || !strings.Contains(s.Banner.Detail, "disk full") {
		t.Errorf("failed: %+v %+v", s.Alarms[0], s.Banner)
	}
	m.Acking(at(3), []string{"a"})
	m.AckDone(at(3), []string{"a"}, nil)
	m.Event(at(4), status(at(4)))
	if s = frame(t, m, at(14)); !strings.Contains(s.AlarmHead, "2 unack") {
		t.Errorf("an acknowledgement that the gateway never confirmed counts: %q", s.AlarmHead)
	}
	two[0].State = "acked"
	m.Event(at(15), api.Event{Kind: "alarms", Alarms: two})
	if s = frame(t, m, at(15)); s.Alarms[1].State != "ACK" {
		t.Errorf("confirmed: %+v", s.Alarms)
	}
}

func TestTileText(t *testing.T) {
	for _, c := range []struct {
		v, low, high float64
		want         string
	}{
		{84.512, 0, 120, "84.5"},
		{4.8, 0, 10, "4.80"},
		{1449.7, 0, 3000, "1450"},
		{-3.28, -40, 60, "–3.3"},
		{0.4321, 0, 1, "0.432"},
		{-0.0001, 0, 100, "0.0"},
		{5, 5, 5, "5.0"},
		{math.NaN(), 0, 1, "—"},
	} {
		if got := view.Number(c.v, c.low, c.high); got != c.want {
			t.Errorf("Number(%v, %v, %v) = %q, want %q", c.v, c.low, c.high, got, c.want)
		}
	}
	for ucum, want := range map[string]string{"Cel": "°C", "mm/s": "mm/s", "m3/h": "m³/h", "kW.h": "kWh", "{rpm}": "rpm", "%": "%", "": "", "um": "µm"} {
		if got := view.Unit(ucum); got != want {
			t.Errorf("Unit(%q) = %q, want %q", ucum, got, want)
		}
	}
}

func point(v float64, when time.Time) api.Point {
	return api.Point{ID: "p", Label: "Pump", Unit: "bar", Low: 0, High: 10, Limit: new(8.0), Value: &v, At: &when, Quality: "good"}
}

func TestTileGrowsOld(t *testing.T) {
	m := model()
	for i := range 10 {
		m.Event(at(float64(i)), status(at(float64(i))))
		m.Event(at(float64(i)), api.Event{Kind: "points", Points: []api.Point{point(5, at(float64(i)))}})
	}
	if s := frame(t, m, at(9)); s.Tiles[0].Old || s.Tiles[0].Age != "" || s.Tiles[0].Position != 0.5 || s.Tiles[0].LimitText != "limit 8" {
		t.Errorf("fresh: %+v", s.Tiles[0])
	}
	for i := 10; i < 60; i++ {
		m.Event(at(float64(i)), status(at(float64(i))))
	}
	if s := frame(t, m, at(24)); s.Tiles[0].Age != "15 s old" {
		t.Errorf("after 15 s: %+v", s.Tiles[0])
	}
	if s := frame(t, m, at(59)); !s.Tiles[0].Old {
		t.Errorf("after 50 s: %+v", s.Tiles[0])
	}
	m.Lost(at(60), nil)
	if s := frame(t, m, at(61)); !s.Tiles[0].Old || !s.Trend.Old {
		t.Error("values count as fresh though the gateway is lost")
	}
	bad := point(5, at(70))
	bad.Quality = "bad"
	m.Event(at(70), api.Event{Kind: "points", Points: []api.Point{bad}})
	if s := frame(t, m, at(70)); !s.Tiles[0].Old || s.Tiles[0].Quality != "bad" {
		t.Errorf("bad: %+v", s.Tiles[0])
	}
}

func TestSlowPointIsNotCalledOld(t *testing.T) {
	m := model()
	for i := 0; i <= 600; i += 5 {
		m.Event(at(float64(i)), status(at(float64(i))))
		if i%60 == 0 {
			m.Event(at(float64(i)), api.Event{Kind: "points", Points: []api.Point{point(5, at(float64(i)))}})
		}
	}
	m.Event(at(655), status(at(655)))
	if s := frame(t, m, at(655)); s.Tiles[0].Old || s.Tiles[0].Age != "" {
		t.Errorf("a point that speaks once a minute is old after 55 s: %+v", s.Tiles[0])
	}
}

// A spike of one sample survives, an outage stays a gap, a usual distance is
// bridged.
func TestHistory(t *testing.T) {
	m := model()
	send := func(s, v float64) {
		m.Event(at(s), api.Event{Kind: "points", Points: []api.Point{point(v, at(s))}})
	}
	for s := 0.0; s <= 600; s += 2 {
		switch {
		case s == 300:
			send(s+0.1, 2)
			send(s+0.2, 9.5)
			send(s+0.3, 2)
		case s > 400 && s < 460:
		default:
			send(s, 2)
		}
	}
	p := frame(t, m, at(600)).Trend.Pens[0]
	if len(p.Min) != view.Columns {
		t.Fatalf("%d columns", len(p.Min))
	}
	col := func(s int) int { return view.Columns - 1 - (600 - s) }
	if p.Max[col(300)] != 0.95 || p.Min[col(300)] != 0.2 {
		t.Errorf("the spike is drawn from %v to %v", p.Min[col(300)], p.Max[col(300)])
	}
	for s := 402; s < 460; s++ {
		if v := p.Min[col(s)]; v == v {
			t.Fatalf("second %d of the outage has the value %v", s, v)
		}
	}
	if v := p.Min[col(101)]; v != 0.2 {
		t.Errorf("a second between two samples is not bridged: %v", v)
	}
	if v, ok := p.Last(); !ok || v != 0.2 {
		t.Errorf("Last = %v, %v", v, ok)
	}
}

func TestSnapshotBringsThePast(t *testing.T) {
	m := model()
	p := point(3, at(0))
	for i := -300; i < 0; i++ {
		p.Trend = append(p.Trend, api.Sample{At: at(float64(i)), Min: 1, Max: 2})
	}
	m.Event(at(0), api.Event{Kind: "snapshot", Snapshot: &api.Snapshot{Status: api.Status{Now: at(0)}, Points: []api.Point{p}}})
	pen := frame(t, m, at(0)).Trend.Pens[0]
	if pen.Min[view.Columns-100] != 0.1 || pen.Max[view.Columns-100] != 0.2 {
		t.Error("the past that the gateway sent is not drawn")
	}
	if v := pen.Min[view.Columns-400]; v == v {
		t.Error("a past that nobody knows is drawn")
	}
}

func TestPensShowTheAbnormal(t *testing.T) {
	m := model()
	var ps []api.Point
	for i := range 20 {
		p := point(5, at(0))
		p.ID = string(rune('a' + i))
		if i == 19 {
			p.Alarm = 2
		}
		ps = append(ps, p)
	}
	m.Event(at(0), api.Event{Kind: "points", Points: ps})
	tr := frame(t, m, at(0)).Trend
	if len(tr.Pens) != 8 || tr.Omitted != 12 || tr.Pens[7].ID != "t" {
		t.Errorf("%d pens, %d omitted, last %q", len(tr.Pens), tr.Omitted, tr.Pens[len(tr.Pens)-1].ID)
	}
}

// The gateway's clock and the console's may differ by days: ages are counted
// in the gateway's.
func TestClocksMayDiffer(t *testing.T) {
	m := model()
	far := at(0).Add(-50 * time.Hour)
	m.Event(at(0), status(far))
	m.Event(at(0), api.Event{Kind: "points", Points: []api.Point{point(5, far)}})
	s := frame(t, m, at(1))
	if s.Tiles[0].Old || s.Tiles[0].Age != "" {
		t.Errorf("%+v", s.Tiles[0])
	}
	if _, ok := s.Trend.Pens[0].Last(); !ok {
		t.Error("the value is not in the trend")
	}
}

func TestCameraAges(t *testing.T) {
	m := model()
	cam := api.Camera{ID: "c", LastFrame: new(at(0)), LastChunk: new(at(0)), FPS: 10, FrameURL: "/f", StaleAfter: 2}
	m.Event(at(0), status(at(0)))
	m.Event(at(0), api.Event{Kind: "cameras", Cameras: []api.Camera{cam}})
	if got := m.Cameras(at(0)); !slices.Equal(got, []string{"c"}) {
		t.Fatalf("to fetch: %v", got)
	}
	img := image.NewRGBA(image.Rect(0, 0, 4, 4))
	m.Picture("c", img, at(0))
	m.Picture("c", image.NewRGBA(image.Rect(0, 0, 1, 1)), at(-3))
	s := frame(t, m, at(1))
	if c := s.Cameras[0]; c.Stale || c.Image != img || c.Age != "1 s old" {
		t.Errorf("fresh: %+v", c)
	}
	if len(m.Cameras(at(1))) != 1 || len(m.Cameras(at(9))) != 0 {
		t.Error("a running camera is not fetched, or one that stands still is fetched again")
	}
	m.Event(at(14), status(at(14)))
	s = frame(t, m, at(14))
	if c := s.Cameras[0]; !c.Stale || c.Warn != "NO FRAME for 14 s" || c.Age != "14 s old" || s.CamNote == "" {
		t.Errorf("stale: %+v, note %q", c, s.CamNote)
	}
	m.Event(at(15), api.Event{Kind: "cameras", Cameras: []api.Camera{{ID: "c", LastFrame: new(at(15)), FrameURL: "/f", StaleAfter: 2}}})
	m.NoPicture("c", errors.New("timeout"))
	if c := frame(t, m, at(15)).Cameras[0]; !c.Stale || !strings.HasPrefix(c.Warn, "CANNOT FETCH") {
		t.Errorf("not fetched: %+v", c)
	}
	m.Lost(at(16), nil)
	if c := frame(t, m, at(60)).Cameras[0]; !c.Stale || c.Age == "" {
		t.Errorf("gateway lost: %+v", c)
	}
}
