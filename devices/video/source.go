package video

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

// An Inlet takes records toward the log.
//
// Put blocks while the log's queue is full; ctx cancels only that wait. If it
// returns nil, done is called exactly once, after the commit or its failure.
// The records' bytes belong to the log until then.
type Inlet = interface {
	Put(ctx context.Context, recs []record.Record, done func([]record.Result)) error
}

// Options are what the gateway hands in; the zero value works.
type Options struct {
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time
}

// maxCameras bounds how many cameras without a [[camera]] table are followed.
const maxCameras = 256

// Source is the door for pushed chunks: an http.Handler for
// PUT /video/{camera}/{name}, and a source whose Run lends it the log.
type Source struct {
	cfg    Config
	log    *slog.Logger
	now    func() time.Time
	slots  chan struct{} // holds a token for each push being taken in
	room   *room
	errors atomic.Uint64

	mu      sync.Mutex
	in      Inlet // nil while not running
	pushes  sync.WaitGroup
	cancels map[*push]context.CancelFunc
	since   time.Time // of running
	cameras map[conf.Name]*camera
	trouble string // why the log took nothing last, "" if it did

	strangers report // of pushes from cameras that are not known
}

// A camera is what is known of one camera. The gate's holder owns the timeline;
// the rest is guarded by the source's mutex.
type camera struct {
	Camera
	configured bool
	gate       chan struct{}
	timeline   timeline

	state CameraState
	pace  time.Duration // between stills, smoothed

	report report
}

// CameraState is what a camera has sent since the gateway started.
type CameraState struct {
	ID         conf.Name
	Label      string
	StaleAfter time.Duration
	LastChunk  time.Time  // arrival; zero if none came
	LastStill  time.Time  // arrival of the newest picture; zero if none came
	StillPos   record.Pos // where the newest picture's record is
	FPS        float64    // of the stills; 0 until two came
	Codec      string     // of the newest chunk
	Chunks     uint64     // stored, stills not counted
	Stills     uint64     // stored
	Bytes      uint64     // stored
	Gaps       uint64     // discontinuities seen
	Dropped    uint64     // pushes that were not stored
	Stale      bool       // silent for longer than StaleAfter
}

// New makes the source of a checked Config.
func New(cfg Config, log *slog.Logger, opts Options) (*Source, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	s := &Source{
		cfg: cfg, log: log.With("source", "video"), now: opts.Now,
		slots: make(chan struct{}, cfg.Pushes), room: newRoom(int64(cfg.Buffer)),
		cancels: map[*push]context.CancelFunc{}, cameras: map[conf.Name]*camera{},
	}
	if s.now == nil {
		s.now = time.Now
	}
	for _, c := range cfg.Cameras {
		s.cameras[c.ID] = newCamera(c, true)
	}
	return s, nil
}

func newCamera(c Camera, configured bool) *camera {
	c = c.WithDefaults()
	return &camera{
		Camera: c, configured: configured, gate: make(chan struct{}, 1),
		state: CameraState{ID: c.ID, Label: c.Label, StaleAfter: c.StaleAfter.D()},
	}
}

// ID is "video".
func (s *Source) ID() string { return "video" }

// Kind is "video".
func (s *Source) Kind() string { return "video" }

// Stream is where the index records are meant to go.
func (s *Source) Stream() conf.Stream { return s.cfg.Stream }

// Errors is how many pushes were refused or not stored.
func (s *Source) Errors() uint64 { return s.errors.Load() }

// Clients is how many cameras have sent something within their stale time.
func (s *Source) Clients() int {
	n := 0
	for _, c := range s.Cameras() {
		if !c.Stale {
			n++
		}
	}
	return n
}

// Cameras are the configured cameras and those that have pushed, by id.
func (s *Source) Cameras() []CameraState {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]CameraState, 0, len(s.cameras))
	now := s.now()
	for _, c := range s.cameras {
		st := c.state
		st.Stale = now.Sub(later(st.LastChunk, st.LastStill)) > st.StaleAfter
		if c.pace > 0 {
			st.FPS = float64(time.Second) / float64(c.pace)
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b CameraState) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Health is up; connecting while none of the configured cameras has pushed;
// degraded while the log holds back or a configured camera is silent; down
// while the source does not run. The reason names the cameras.
func (s *Source) Health() (state, reason string) {
	cameras := s.Cameras()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		return "down", "not started"
	}
	if s.trouble != "" {
		return "degraded", "the log holds back: " + s.trouble
	}
	var silent []string
	seen, fresh := false, s.now().Sub(s.since)
	for _, c := range cameras {
		last := later(c.LastChunk, c.LastStill)
		seen = seen || !last.IsZero()
		if !c.Stale || !s.cameras[c.ID].configured {
			continue
		}
		if !last.IsZero() {
			silent = append(silent, fmt.Sprintf("nothing from %s for %s", c.ID, s.now().Sub(last).Round(time.Second)))
		} else if fresh > c.StaleAfter {
			silent = append(silent, fmt.Sprintf("nothing from %s yet", c.ID))
		}
	}
	switch {
	case len(silent) > 0 && seen:
		return "degraded", strings.Join(silent, "; ")
	case len(silent) > 0 || !seen && len(s.cfg.Cameras) > 0:
		return "connecting", "no camera has pushed yet"
	}
	return "up", ""
}

// Run lends the log to the handler until ctx ends, and returns nil when the
// last push has let go of it. Before and after, pushes are answered with 503.
func (s *Source) Run(ctx context.Context, in Inlet) error {
	s.mu.Lock()
	s.in, s.since = in, s.now()
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.in = nil
	for _, cancel := range s.cancels {
		cancel()
	}
	s.mu.Unlock()
	s.pushes.Wait()
	return nil
}

// errNotRunning is the answer between Runs.
var errNotRunning = errors.New("the gateway is starting or stopping")

// borrow lends the log to one push, until release. The context ends with Run's,
// or after storing (its cause is errStalled then).
func (s *Source) borrow(ctx context.Context, p *push) (Inlet, context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		return nil, nil, nil, errNotRunning
	}
	ctx, cancel := context.WithTimeoutCause(ctx, storing, errStalled)
	s.pushes.Add(1)
	s.cancels[p] = cancel
	return s.in, ctx, func() {
		cancel()
		s.mu.Lock()
		delete(s.cancels, p)
		s.mu.Unlock()
		s.pushes.Done()
	}, nil
}

func (s *Source) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in != nil
}

// camera finds or makes the camera; nil if it may not push.
func (s *Source) camera(id conf.Name) *camera {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cameras[id]
	if c == nil && !s.cfg.Strict && len(s.cameras) < maxCameras+len(s.cfg.Cameras) {
		c = newCamera(Camera{ID: id}, false)
		s.cameras[id] = c
	}
	return c
}

// stored notes a push that is on disk, or could not be put there.
func (s *Source) stored(p *push, pos record.Pos, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		var invalid *record.InvalidError
		if !errors.As(err, &invalid) && !errors.Is(err, errNotRunning) {
			s.trouble = err.Error()
		}
		return
	}
	s.trouble = ""
	st := &p.cam.state
	st.Bytes += uint64(len(p.body))
	switch p.kind {
	case still:
		st.Stills++
		if !st.LastStill.IsZero() {
			gap := p.arrived.Sub(st.LastStill)
			if p.cam.pace == 0 || gap > 10*p.cam.pace {
				p.cam.pace = gap
			} else {
				p.cam.pace += (gap - p.cam.pace) / 4
			}
		}
		st.LastStill, st.StillPos = p.arrived, pos
	case chunk:
		st.Chunks++
		st.LastChunk = p.arrived
		if p.index.Codec != "" {
			st.Codec = p.index.Codec
		}
		if p.index.Discontinuity {
			st.Gaps++
		}
	}
}
