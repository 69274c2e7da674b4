package view

import (
	"image"
	"math"
	"slices"
	"time"

	"forebay/gateway/api"
)

// Config tunes a Model. Zero means the default.
type Config struct {
	MaxHz       float64        // frames per second at most; default 1, negative is no limit
	SilentAfter time.Duration  // without a word from the gateway the link counts as lost; default 5 s
	Pens        int            // series in the trend; default 8
	OldAfter    time.Duration  // a value older than this, and than three times its usual distance, is drawn as old; default 30 s
	Location    *time.Location // of the times shown; default time.Local
	By          string         // the operator's name, as the gateway is told it
}

// Model holds what the gateway said last. It is not safe for concurrent use:
// its owner calls it from one goroutine or under one lock.
type Model struct {
	cfg Config

	link      Link
	since     time.Time
	confirmed time.Time
	cause     string
	lastFrame time.Time

	offset  time.Duration // gateway's clock minus the console's
	status  api.Status
	heard   bool // a status arrived
	points  []api.Point
	history map[string]*history
	cameras []api.Camera
	pics    map[string]picture
	alarms  []api.Alarm
	acking  map[string]time.Time // ids sent for acknowledgement, and when
	ackFail string
	failAt  time.Time
	asked   map[string]asked         // what an operator asked of an uplink, by its id
	etas    map[string]time.Duration // shown per uplink, in steps
	marks   map[string]mark          // what waited per uplink a while ago
	gone    []gone                   // errands that have ended
	placed  []placed                 // and those that no status has yet
	desk    desk
}

type picture struct {
	img *image.RGBA
	at  time.Time // gateway's clock
	err string
}

// New makes an empty model: connecting since at.
func New(cfg Config, at time.Time) *Model {
	if cfg.MaxHz == 0 {
		cfg.MaxHz = 1
	}
	if cfg.SilentAfter <= 0 {
		cfg.SilentAfter = 5 * time.Second
	}
	if cfg.Pens <= 0 {
		cfg.Pens = 8
	}
	if cfg.OldAfter <= 0 {
		cfg.OldAfter = 30 * time.Second
	}
	if cfg.Location == nil {
		cfg.Location = time.Local
	}
	return &Model{
		cfg: cfg, since: at,
		history: make(map[string]*history), pics: make(map[string]picture),
		asked:  make(map[string]asked),
		acking: make(map[string]time.Time), etas: make(map[string]time.Duration), marks: make(map[string]mark),
	}
}

// Event takes what the gateway said, heard at the console's time at.
func (m *Model) Event(at time.Time, e api.Event) {
	if m.link != Live {
		m.link, m.since, m.cause = Live, at, ""
	}
	m.confirmed = at
	if s := e.Snapshot; s != nil {
		m.setStatus(at, s.Status)
		m.alarms = s.Alarms
		m.points = slices.Clone(s.Points)
		m.cameras = slices.Clone(s.Cameras)
		for i := range m.points {
			m.record(at, &m.points[i])
		}
		m.forget()
	}
	if e.Status != nil {
		m.setStatus(at, *e.Status)
	}
	if e.Kind == "alarms" {
		m.alarms = e.Alarms
	}
	for _, p := range e.Points {
		i := slices.IndexFunc(m.points, func(q api.Point) bool { return q.ID == p.ID })
		if i < 0 {
			m.points = append(m.points, p)
			i = len(m.points) - 1
		}
		m.points[i] = p
		m.record(at, &m.points[i])
	}
	for _, c := range e.Cameras {
		i := slices.IndexFunc(m.cameras, func(q api.Camera) bool { return q.ID == c.ID })
		if i < 0 {
			m.cameras = append(m.cameras, c)
			continue
		}
		m.cameras[i] = c
	}
	m.settleAcks()
}

func (m *Model) setStatus(at time.Time, s api.Status) {
	m.missErrands(at, s.Now, s.Uplinks)
	m.status, m.heard = s, true
	if !s.Now.IsZero() {
		m.offset = s.Now.Sub(at)
	}
}

// record enters a point's samples into its history. The series that a
// snapshot brings is taken over, and with it the past before the console ran.
func (m *Model) record(at time.Time, p *api.Point) {
	h := m.history[p.ID]
	if h == nil {
		h = &history{}
		m.history[p.ID] = h
	}
	for _, s := range p.Trend {
		h.add(s.At, s.Min, s.Max)
	}
	p.Trend = nil
	if p.Value == nil || p.Quality == "bad" {
		return
	}
	now := at.Add(m.offset)
	when := now
	// A sender's clock that is off would put the sample outside the plot.
	if p.At != nil && p.At.Before(now.Add(2*time.Second)) && p.At.After(now.Add(-window)) {
		when = *p.At
	}
	h.add(when, *p.Value, *p.Value)
}

// forget drops what is kept about points, cameras and uplinks that are gone.
func (m *Model) forget() {
	for id := range m.history {
		if !slices.ContainsFunc(m.points, func(p api.Point) bool { return p.ID == id }) {
			delete(m.history, id)
		}
	}
	for id := range m.pics {
		if !slices.ContainsFunc(m.cameras, func(c api.Camera) bool { return c.ID == id }) {
			delete(m.pics, id)
		}
	}
	for id := range m.marks {
		if !slices.ContainsFunc(m.status.Uplinks, func(u api.Uplink) bool { return u.ID == id }) {
			delete(m.etas, id)
			delete(m.marks, id)
		}
	}
}

// Lost says that the connection ended, or could not be made, and why.
func (m *Model) Lost(at time.Time, err error) {
	if err != nil {
		m.cause = err.Error()
	}
	if m.link == Live {
		// Counted from the last word: since then nothing is known.
		m.link, m.since = Lost, m.confirmed
		if m.since.IsZero() {
			m.since = at
		}
	}
}

// Picture hands over a decoded still of a camera; img is not written again.
// taken is the gateway's time of it. An older one than is held is dropped.
func (m *Model) Picture(camera string, img *image.RGBA, taken time.Time) {
	if old := m.pics[camera]; old.img != nil && taken.Before(old.at) {
		return
	}
	m.pics[camera] = picture{img: img, at: taken}
}

// NoPicture says why a still could not be fetched; the old one is kept.
func (m *Model) NoPicture(camera string, why error) {
	p := m.pics[camera]
	p.err = why.Error()
	m.pics[camera] = p
}

// Cameras lists the cameras of which a still is worth fetching: one that the
// gateway says is newer than what is held, or a camera that is running.
func (m *Model) Cameras(at time.Time) []string {
	if m.link != Live {
		return nil
	}
	var ids []string
	now := m.gateway(at)
	for _, c := range m.cameras {
		if c.FrameURL == "" {
			continue
		}
		if p := m.pics[c.ID]; p.img == nil || c.LastFrame == nil || c.LastFrame.After(p.at) || now.Sub(*c.LastFrame) < staleAfter(c) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// Acking says that an acknowledgement of ids was sent at the time at.
func (m *Model) Acking(at time.Time, ids []string) {
	m.ackFail = ""
	for _, id := range ids {
		m.acking[id] = at
	}
}

// AckDone says how it ended; with an error the alarms count as before.
func (m *Model) AckDone(at time.Time, ids []string, err error) {
	if err == nil {
		return // the alarms event that follows is the proof
	}
	m.ackFail, m.failAt = "not acknowledged: "+err.Error(), at
	for _, id := range ids {
		delete(m.acking, id)
	}
}

// settleAcks forgets acknowledgements that the gateway shows as done.
func (m *Model) settleAcks() {
	for id := range m.acking {
		if !slices.ContainsFunc(m.alarms, func(a api.Alarm) bool { return a.ID == id && unacked(a) }) {
			delete(m.acking, id)
		}
	}
}

// Frame makes the snapshot of the time at, unless the last one is younger
// than 1/MaxHz: then ok is false.
func (m *Model) Frame(at time.Time) (s Snapshot, ok bool) {
	if m.cfg.MaxHz > 0 && !m.lastFrame.IsZero() && at.Sub(m.lastFrame) < time.Duration(float64(time.Second)/m.cfg.MaxHz) && !at.Before(m.lastFrame) {
		return Snapshot{}, false
	}
	m.lastFrame = at
	if m.link == Live && at.Sub(m.confirmed) > m.cfg.SilentAfter {
		m.link, m.since = Lost, m.confirmed
		m.cause = "connected, but silent"
	}
	for id, sent := range m.acking {
		if at.Sub(sent) > 10*time.Second {
			delete(m.acking, id)
			m.ackFail, m.failAt = "not acknowledged: the gateway did not confirm within 10 s", at
		}
	}
	s = Snapshot{At: at, Link: m.link, Since: m.since, Confirmed: m.confirmed, Title: m.title()}
	s.Alarms = m.alarmRows()
	s.AlarmHead = m.alarmHead(s.Alarms)
	s.Banner = m.banner(at, s.Alarms)
	s.Notice = m.notice()
	s.Status = m.statusLine(at)
	m.tilesAndTrend(at, &s)
	s.Cameras, s.CamNote = m.cameraTiles(at)
	s.Backlog = m.backlog(at)
	s.Uplinks, s.UplinkSay = m.uplinks(at)
	s.Desk = m.deskOf(at)
	return s, true
}

// gateway is the gateway's clock when the console's shows at.
func (m *Model) gateway(at time.Time) time.Time { return at.Add(m.offset) }

// clock writes a gateway's time of day, with the date when it is not today's.
func (m *Model) clock(t, now time.Time) string {
	t, now = t.In(m.cfg.Location), now.In(m.cfg.Location)
	if t.YearDay() != now.YearDay() || t.Year() != now.Year() {
		return t.Format("01-02 15:04")
	}
	return t.Format("15:04:05")
}

func (m *Model) title() string {
	if !m.heard {
		return "Forebay"
	}
	if m.status.Title == "" {
		return m.status.Gateway
	}
	return m.status.Gateway + "  " + m.status.Title
}

func nan32() float32 { return float32(math.NaN()) }
