package view

import (
	"math"
	"time"

	"forebay/gateway/api"
)

// tilesAndTrend fills both from one copy of each point's history, so that
// they cannot disagree.
func (m *Model) tilesAndTrend(at time.Time, s *Snapshot) {
	now := m.gateway(at)
	if m.link == Lost {
		now = m.gateway(m.confirmed) // the plot stands still where knowledge ends
	}
	s.Tiles = make([]Tile, len(m.points))
	pens := make([]Pen, len(m.points))
	for i, p := range m.points {
		pens[i] = m.pen(now, p)
		s.Tiles[i] = m.tile(m.gateway(at), p)
		s.Tiles[i].Spark = pens[i]
	}
	s.Trend = Trend{Window: window, End: m.axisEnd(), Old: m.link != Live}
	room := m.cfg.Pens
	for _, p := range pens {
		if p.Severity > 0 {
			room--
		}
	}
	for _, p := range pens {
		switch {
		case p.Severity > 0:
			s.Trend.Pens = append(s.Trend.Pens, p)
		case room > 0:
			room--
			s.Trend.Pens = append(s.Trend.Pens, p)
		default:
			s.Trend.Omitted++
		}
	}
}

func (m *Model) pen(now time.Time, p api.Point) Pen {
	h := m.history[p.ID]
	if h == nil {
		h = &history{}
	}
	pen := Pen{ID: p.ID, Label: p.Label, Severity: p.Alarm, Limit: nan32()}
	if pen.Label == "" {
		pen.Label = p.ID
	}
	pen.Min, pen.Max = h.pen(now, p.Low, p.High)
	if p.Limit != nil {
		pen.Limit = float32(share(*p.Limit, p))
	}
	return pen
}

// share places a value on the point's scale.
func share(v float64, p api.Point) float64 {
	if p.High == p.Low {
		return 0.5
	}
	return (v - p.Low) / (p.High - p.Low)
}

func (m *Model) tile(now time.Time, p api.Point) Tile {
	t := Tile{
		ID: p.ID, Label: p.Label, Place: p.Place, Unit: Unit(p.Unit), Value: "—",
		Severity: min(4, max(0, p.Alarm)), Limit: math.NaN(), Old: m.link != Live,
	}
	if t.Label == "" {
		t.Label = p.ID
	}
	if p.Quality != "" && p.Quality != "good" {
		t.Quality = p.Quality
		t.Old = t.Old || p.Quality == "bad"
	}
	if p.Value != nil && !math.IsNaN(*p.Value) {
		t.Value = Number(*p.Value, p.Low, p.High)
		t.Position, t.Has = share(*p.Value, p), true
	}
	if p.NormLow != nil || p.NormHi != nil {
		t.Band = Band{Low: 0, High: 1, Has: true}
		if p.NormLow != nil {
			t.Band.Low = share(*p.NormLow, p)
		}
		if p.NormHi != nil {
			t.Band.High = share(*p.NormHi, p)
		}
	}
	if p.Limit != nil {
		t.Limit, t.LimitText = share(*p.Limit, p), "limit "+short(*p.Limit)
	}
	m.age(now, p, &t)
	return t
}

// age says how old the value is once that is worth saying, and calls it old
// when it is older than the point's own habit explains.
func (m *Model) age(now time.Time, p api.Point, t *Tile) {
	if p.At == nil {
		t.Age, t.Old = "no data yet", true
		return
	}
	age := now.Sub(*p.At)
	usual := time.Duration(0)
	if h := m.history[p.ID]; h != nil {
		usual = h.every
	}
	if age > max(m.cfg.OldAfter, 3*usual) {
		t.Old = true
	}
	if age >= max(10*time.Second, 2*usual) || t.Old {
		t.Age = Span(age) + " old"
	}
}

// cameraTiles says for each camera how old its picture is.
func (m *Model) cameraTiles(at time.Time) ([]Camera, string) {
	now := m.gateway(at)
	out := make([]Camera, len(m.cameras))
	bad, note := 0, ""
	for i, c := range m.cameras {
		out[i] = m.camera(now, c)
		if out[i].Stale {
			bad++
			if note == "" {
				note = out[i].Label + " " + out[i].Warn
			}
		}
	}
	switch {
	case m.link != Live:
		note = ""
	case bad > 1:
		note = plural(bad, "camera", "cameras") + " without a fresh picture"
	}
	return out, note
}

// staleAfter is when a picture no longer shows what is so now.
func staleAfter(c api.Camera) time.Duration {
	if c.StaleAfter > 0 {
		return time.Duration(c.StaleAfter * float64(time.Second))
	}
	return 2 * time.Second
}

func (m *Model) camera(now time.Time, c api.Camera) Camera {
	pic := m.pics[c.ID]
	t := Camera{ID: c.ID, Label: c.Label, Image: pic.img}
	if t.Label == "" {
		t.Label = c.ID
	}
	limit := staleAfter(c)
	switch {
	case c.FPS >= 0.95:
		t.Rate = Number(c.FPS, 0, 500) + " fps"
	case c.Codec != "":
		t.Rate = c.Codec
	}
	if pic.img == nil {
		t.Age = "no picture yet"
		t.Warn = t.Age
		t.Stale = true
		switch {
		case m.link != Live:
		case pic.err != "" && c.FrameURL != "":
			t.Warn = "CANNOT FETCH the still"
		case c.LastChunk != nil && now.Sub(*c.LastChunk) <= max(limit, 15*time.Second):
			// Recording goes on; only the still is missing.
			t.Age, t.Stale = "no still, chunk "+Span(now.Sub(*c.LastChunk))+" ago", false
			t.Warn = "recording, no still picture"
		case c.LastChunk != nil:
			t.Age = "last chunk " + Span(now.Sub(*c.LastChunk)) + " ago"
			t.Warn = "NOTHING for " + Span(now.Sub(*c.LastChunk))
		}
		return t
	}
	age := max(0, now.Sub(pic.at))
	t.Age = Span(age) + " old"
	if age > limit {
		t.Stale = true
		t.Warn = "NO FRAME for " + Span(age)
	}
	if m.link != Live {
		t.Stale = true
		t.Warn = "picture is " + Span(age) + " old"
	} else if t.Stale && pic.err != "" && c.LastFrame != nil && now.Sub(*c.LastFrame) <= limit {
		t.Warn = "CANNOT FETCH since " + Span(age)
	}
	return t
}
