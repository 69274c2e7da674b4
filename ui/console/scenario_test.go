package console_test

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"math"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/ui/view"
)

// begin and end of the scripted ten minutes.
var (
	begin = time.Date(2026, 3, 14, 14, 21, 8, 0, time.UTC)
	end   = begin.Add(10 * time.Minute)
)

// sensor is a simulated measuring point: tiles, trends and alarms all come
// from its one value.
type sensor struct {
	point    api.Point
	mean     float64
	swing    float64
	period   float64 // seconds
	fault    float64 // value that the fault drives it to
	from     float64 // second in which the fault begins
	severity int
	text     string
}

func plant() []sensor {
	p := func(id, label, unit string, low, high, nl, nh, limit float64) api.Point {
		return api.Point{
			ID: id, Label: label, Place: "north/press-shop/line-1", Unit: unit, Low: low, High: high,
			NormLow: &nl, NormHi: &nh, Limit: &limit,
		}
	}
	return []sensor{
		{point: p("line1-press", "Line 1 pressure", "bar", 0, 10, 4, 6, 8), mean: 4.8, swing: 0.4, period: 170},
		{point: p("line1-temp", "Line 1 temperature", "Cel", 0, 120, 60, 82, 85), mean: 74, swing: 3, period: 260, fault: 96, from: 400, severity: 2, text: "Temperature high (limit 85 °C)"},
		{point: p("line2-press", "Line 2 pressure", "bar", 0, 10, 4, 6, 8), mean: 5.6, swing: 0.3, period: 210},
		{point: p("line2-temp", "Line 2 temperature", "Cel", 0, 120, 60, 82, 85), mean: 78, swing: 2, period: 330},
		{point: p("motor3-vib", "Motor 3 vibration", "mm/s", 0, 12, 0, 4.5, 7.1), mean: 2.4, swing: 0.5, period: 90, fault: 9.8, from: 500, severity: 1, text: "Vibration high-high (limit 7.1 mm/s)"},
		{point: p("motor4-vib", "Motor 4 vibration", "mm/s", 0, 12, 0, 4.5, 7.1), mean: 2.1, swing: 0.4, period: 120},
		{point: p("coolant-flow", "Coolant flow", "L/min", 0, 60, 25, 40, 55), mean: 30.5, swing: 1.5, period: 140},
		{point: p("cell-humidity", "Cell humidity", "%RH", 0, 100, 30, 50, 70), mean: 37, swing: 2, period: 400},
	}
}

// at is the sensor's value in second sec; with faults the faulty ones ramp.
func (s sensor) at(sec float64, faults bool) float64 {
	v := s.mean + s.swing*math.Sin(2*math.Pi*sec/s.period+s.mean) + s.swing*0.06*math.Sin(sec*1.7+s.period)
	if faults && s.severity > 0 && sec > s.from {
		f := math.Min(1, (sec-s.from)/80)
		v += (s.fault - s.mean) * f * f * (3 - 2*f)
	}
	return math.Round(v*1000) / 1000
}

// scene is what happens in the scripted ten minutes.
type scene struct {
	faults     bool // two sensors leave their band, one camera stops
	uplinkDown bool
	gatewayCut bool // 42 s before the frame
}

var scenes = map[string]scene{
	"normal":      {},
	"alarm":       {faults: true},
	"gatewaylost": {faults: true, gatewayCut: true},
	"uplinklost":  {uplinkDown: true},
}

// play runs a scene through the view, event by event as a gateway sends
// them, and returns the last frame.
func play(t testing.TB, sc scene) view.Snapshot {
	t.Helper()
	m := view.New(view.Config{Location: time.UTC}, begin)
	sensors := plant()
	alarms := []api.Alarm{}
	standing := map[string]bool{}
	seq := uint64(0)
	for sec := 0; sec <= 600; sec++ {
		now := begin.Add(time.Duration(sec) * time.Second)
		points := make([]api.Point, 0, len(sensors))
		for _, s := range sensors {
			v := s.at(float64(sec), sc.faults)
			p := s.point
			p.Value, p.At, p.Quality = &v, &now, "good"
			if s.severity > 0 && v > *p.Limit {
				p.Alarm = s.severity
				if !standing[p.ID] {
					standing[p.ID] = true
					alarms = append(alarms, api.Alarm{
						ID: p.ID + "/high/1", Rule: "high", Key: "line-1/" + p.ID, Severity: s.severity, State: "unacked",
						Text: s.text, Value: &v, Unit: p.Unit, Raised: now, Changed: now,
					})
				}
			}
			points = append(points, p)
		}
		if sc.faults && sec == 586 {
			alarms = append(alarms, api.Alarm{ID: "cam2/1", Rule: "camera", Key: "cam2", Severity: 3, State: "acked", Text: "No frame from Press 2 infeed", Raised: now, Changed: now})
		}
		if sc.faults && sec == 120 {
			alarms = append(alarms, api.Alarm{ID: "ttyS1/1", Rule: "crc", Key: "serial/ttyS1", Severity: 4, State: "rtn-unacked", Text: "CRC error rate back to normal", Raised: now, Changed: now})
		}
		seq++
		if sec == 0 {
			m.Event(now, api.Event{Seq: seq, Kind: "snapshot", Snapshot: &api.Snapshot{Status: sc.status(now), Points: points, Cameras: sc.cameras(now)}})
		} else {
			st := sc.status(now)
			m.Event(now, api.Event{Seq: seq, Kind: "points", Points: points})
			m.Event(now, api.Event{Seq: seq, Kind: "status", Status: &st})
			m.Event(now, api.Event{Seq: seq, Kind: "cameras", Cameras: sc.cameras(now)})
			m.Event(now, api.Event{Seq: seq, Kind: "alarms", Alarms: alarms})
		}
	}
	for i, c := range sc.cameras(end) {
		m.Picture(c.ID, still(i), *c.LastFrame)
	}
	at := end
	if sc.gatewayCut {
		m.Lost(end, errors.New("read events: unexpected EOF"))
		at = end.Add(42 * time.Second)
	}
	f, ok := m.Frame(at)
	if !ok {
		t.Fatal("the first frame was refused")
	}
	return f
}

func (sc scene) status(now time.Time) api.Status {
	u := api.Uplink{ID: "press-shop", Kind: "kinesis", Target: "kinesis:eu-west-1/press-shop", State: "up", Since: begin.Add(-26 * time.Hour), Out: api.Rate{Records: 1284, Bytes: 0.92e6}, DrainBps: 4.1e6, ETA: new(0.2)}
	s := api.Status{
		Gateway: "EDGE-07", Title: "Press shop", Version: "0.1.0", Now: now, ClockOff: new(1.6),
		In:   api.Rate{Records: 1284, Bytes: 0.92e6, Total: 9_000_000},
		Disk: api.Disk{Used: 12.4e9, Quota: 100e9, Free: 300e9},
	}
	if sc.uplinkDown {
		since := end.Add(-33 * time.Minute)
		u.State, u.Since, u.Error, u.Class = "down", since, "dial tcp: i/o timeout", "network"
		age := now.Sub(since).Seconds()
		u.Waiting, u.WaitBytes, u.Oldest = uint64(age*1284), int64(age*0.92e6), &since
		u.RetryAt, u.ETA = new(now.Add(12*time.Second)), nil
		u.Out = api.Rate{}
		s.Disk.DaysLeft = new(9.43)
		s.Problems = []api.Problem{{Kind: "uplink", Text: "uplink press-shop is down", Since: since}}
	}
	s.Uplinks = []api.Uplink{u}
	return s
}

func (sc scene) cameras(now time.Time) []api.Camera {
	cams := make([]api.Camera, 4)
	for i := range cams {
		frame := now.Add(-time.Duration(60+35*i) * time.Millisecond)
		if stop := end.Add(-14 * time.Second); i == 1 && sc.faults && frame.After(stop) {
			frame = stop
		}
		id := fmt.Sprintf("cam%d", i+1)
		cams[i] = api.Camera{ID: id, Label: [...]string{"Press 1 infeed", "Press 2 infeed", "Robot cell", "Packing"}[i], LastFrame: &frame, LastChunk: &frame, FPS: 10, Codec: "h264", FrameURL: "/v1/cameras/" + id + "/frame.jpg", StaleAfter: 2}
	}
	return cams
}

// still draws a conveyor with parts, as a camera above it would see it.
func still(i int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, 640, 360))
	for y := range 360 {
		for x := range 640 {
			v := uint8(70 + y/6 + (x*7+y*13)%5)
			c := color.RGBA{v, v, v + 3, 255}
			switch {
			case y > 180 && y < 250:
				v = uint8(38 + (x/16)%2*8)
				c = color.RGBA{v, v, v + 2, 255}
			case y >= 250:
				v = uint8(120 - (y-250)/5)
				c = color.RGBA{v, v, v, 255}
			}
			if px := (x + 97*i) % 220; px > 60 && px < 130 && y > 130 && y < 215 {
				c = color.RGBA{150, 122, 84, 255}
				if px > 122 || y > 207 {
					c = color.RGBA{110, 88, 60, 255}
				}
			}
			img.SetRGBA(x, y, c)
		}
	}
	return img
}
