package main

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/jpeg"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"forebay/gateway/api"
	"forebay/ui/view"

	"golang.org/x/image/draw"
)

// gateway is what the console asks of a gateway; *api.Client has it.
type gateway interface {
	Events(ctx context.Context, since uint64) iter.Seq2[api.Event, error]
	Ack(ctx context.Context, r api.AckRequest) (api.AckResult, error)
	Frame(ctx context.Context, camera string) (jpeg []byte, at time.Time, err error)
	PauseUplink(ctx context.Context, id, by string) (api.Uplink, error)
	ResumeUplink(ctx context.Context, id, by string) (api.Uplink, error)
	RetryUplink(ctx context.Context, id, by string) (api.Uplink, error)
	CancelErrand(ctx context.Context, id, by string) (api.Errand, error)
	Records(ctx context.Context, t api.Tail) iter.Seq2[api.Record, error]
	Streams(ctx context.Context) ([]api.Stream, error)
	Replay(ctx context.Context, uplink string, r api.ReplayRequest) (api.Errand, error)
	Refused(ctx context.Context, uplink string, limit int) (api.Refused, error)
	Redrive(ctx context.Context, uplink string, r api.RedriveRequest) (api.Errand, error)
}

const (
	firstPause  = 250 * time.Millisecond // before the gateway is asked again
	longPause   = 2 * time.Second        // at most: back within three seconds of its return
	deadAfter   = 15 * time.Second       // a connection that says nothing for so long is given up
	frameWithin = 3 * time.Second        // for one still of one camera
	ackWithin   = 10 * time.Second
	stillWait   = 150 * time.Millisecond // a frame waits so long for the stills it asked for
	maxCameras  = 32                     // stills fetched at a time
	maxPixels   = 24 << 20
	stillWidth  = 960 // larger stills are scaled down before they reach the window
)

// feed carries what the gateway says into the model and frames of it out to
// the window. Run owns every goroutine of it.
type feed struct {
	gw   gateway
	by   string        // who acknowledges
	step time.Duration // between frames
	show func(view.Snapshot)
	log  *slog.Logger

	mu    sync.Mutex
	model *view.Model

	acks  chan []string
	verbs chan verb
	asks  chan job      // questions of the desk
	jobs  chan job      // and its orders
	kick  chan struct{} // a frame is wanted now
}

func newFeed(gw gateway, by string, hz float64, show func(view.Snapshot), log *slog.Logger) *feed {
	return &feed{
		gw: gw, by: by, show: show, log: log,
		step:  time.Duration(float64(time.Second) / hz),
		model: view.New(view.Config{MaxHz: -1, By: by}, time.Now()), // the ticker below keeps the pace
		acks:  make(chan []string, 16), verbs: make(chan verb, 16), kick: make(chan struct{}, 1),
		asks: make(chan job, 16), jobs: make(chan job, 16),
	}
}

// Run works until ctx ends and everything that it started has ended.
func (f *feed) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { f.listen(ctx) })
	wg.Go(func() { f.acknowledge(ctx) })
	wg.Go(func() { f.act(ctx) })
	wg.Go(func() { f.work(ctx, f.asks) })
	wg.Go(func() { f.work(ctx, f.jobs) })
	wg.Go(func() { f.ends(ctx) })
	wg.Go(func() { f.frames(ctx) })
	wg.Wait()
}

// Ack takes an operator's acknowledgement. It does not block: it is called on
// the window's goroutine.
func (f *feed) Ack(ids []string) {
	now := time.Now()
	f.mu.Lock()
	f.model.Acking(now, ids)
	f.mu.Unlock()
	select {
	case f.acks <- ids:
	default:
		f.ackDone(ids, fmt.Errorf("too many acknowledgements under way"))
	}
	f.hurry()
}

func (f *feed) ackDone(ids []string, err error) {
	now := time.Now()
	f.mu.Lock()
	f.model.AckDone(now, ids, err)
	f.mu.Unlock()
}

// A verb is what an operator wants of an uplink, or of an errand.
type verb struct{ id, verb string }

// Act takes one. It does not block.
func (f *feed) Act(id, what string) {
	now := time.Now()
	f.mu.Lock()
	f.model.Asking(now, id, what)
	f.mu.Unlock()
	select {
	case f.verbs <- verb{id, what}:
	default:
		f.acted(id, fmt.Errorf("too much under way"))
	}
	f.hurry()
}

func (f *feed) acted(id string, err error) {
	now := time.Now()
	f.mu.Lock()
	f.model.Asked(now, id, err)
	f.mu.Unlock()
}

func (f *feed) act(ctx context.Context) {
	do := map[string]func(ctx context.Context, id, by string) (api.Uplink, error){
		"pause": f.gw.PauseUplink, "resume": f.gw.ResumeUplink, "retry": f.gw.RetryUplink,
		"cancel": func(ctx context.Context, id, by string) (api.Uplink, error) {
			_, err := f.gw.CancelErrand(ctx, id, by)
			return api.Uplink{}, err
		},
	}
	for {
		select {
		case <-ctx.Done():
			return
		case v := <-f.verbs:
			actx, cancel := context.WithTimeout(ctx, ackWithin)
			_, err := do[v.verb](actx, v.id, f.by)
			cancel()
			if err != nil && ctx.Err() == nil {
				f.log.Warn("uplink did not do as asked", "uplink", v.id, "verb", v.verb, "error", err)
			}
			f.acted(v.id, heard(err))
			f.hurry()
		}
	}
}

// hurry asks for a frame before the next tick.
func (f *feed) hurry() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *feed) acknowledge(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case ids := <-f.acks:
			actx, cancel := context.WithTimeout(ctx, ackWithin)
			_, err := f.gw.Ack(actx, api.AckRequest{IDs: ids, By: f.by})
			cancel()
			if err != nil && ctx.Err() == nil {
				f.log.Warn("alarm not acknowledged", "ids", ids, "error", err)
			}
			f.ackDone(ids, err)
			f.hurry()
		}
	}
}

// listen keeps a connection for events, and makes a new one when it ends.
func (f *feed) listen(ctx context.Context) {
	pause, since := firstPause, uint64(0)
	for ctx.Err() == nil {
		heard, err := f.session(ctx, &since)
		if ctx.Err() != nil {
			return
		}
		now := time.Now()
		f.mu.Lock()
		f.model.Lost(now, err)
		f.mu.Unlock()
		f.hurry()
		if heard {
			pause = firstPause
			f.log.Warn("gateway lost", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause*3/4 + rand.N(pause/2)):
		}
		pause = min(longPause, pause*2)
	}
}

// session reads one connection's events; since follows what was heard.
func (f *feed) session(ctx context.Context, since *uint64) (heard bool, err error) {
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(deadAfter, func() { cancel(fmt.Errorf("no word for %v", deadAfter)) })
	defer quiet.Stop()
	for ev, err := range f.gw.Events(sctx, *since) {
		if err != nil {
			if sctx.Err() != nil && ctx.Err() == nil {
				err = context.Cause(sctx)
			}
			return heard, err
		}
		quiet.Reset(deadAfter)
		*since = ev.Seq
		now := time.Now()
		f.mu.Lock()
		f.model.Event(now, ev)
		f.mu.Unlock()
		if !heard {
			heard = true
			f.log.Info("gateway connected")
			f.hurry()
		}
	}
	return heard, fmt.Errorf("the gateway ended the events")
}

// frames shows the model at a steady pace. Before each frame it asks for the
// cameras' stills, each in a goroutine of its own, and waits a moment for
// them: one that hangs holds up no other.
func (f *feed) frames(ctx context.Context) {
	cams := stills{busy: make(map[string]bool), done: make(chan struct{}, 1)}
	defer cams.wg.Wait()
	tick := time.NewTicker(f.step)
	defer tick.Stop()
	for {
		f.fetch(ctx, &cams)
		now := time.Now()
		f.mu.Lock()
		s, ok := f.model.Frame(now)
		f.mu.Unlock()
		if ok {
			f.show(s)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.kick:
		}
	}
}

// stills are the fetches under way.
type stills struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	busy map[string]bool
	done chan struct{} // something ended
}

// fetch starts what is worth fetching and waits until all of it is there, but
// at most stillWait.
func (f *feed) fetch(ctx context.Context, c *stills) {
	now := time.Now()
	f.mu.Lock()
	want := f.model.Cameras(now)
	f.mu.Unlock()
	var started []string
	c.mu.Lock()
	for _, id := range want {
		if !c.busy[id] && len(c.busy) < maxCameras {
			c.busy[id] = true
			started = append(started, id)
		}
	}
	c.mu.Unlock()
	for _, id := range started {
		c.wg.Go(func() {
			f.still(ctx, id)
			c.mu.Lock()
			delete(c.busy, id)
			c.mu.Unlock()
			select {
			case c.done <- struct{}{}:
			default:
			}
		})
	}
	late := time.After(stillWait)
	for {
		c.mu.Lock()
		left := slices.ContainsFunc(started, func(id string) bool { return c.busy[id] })
		c.mu.Unlock()
		if !left {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-late:
			return
		case <-c.done:
		}
	}
}

// still fetches and decodes the newest picture of a camera.
func (f *feed) still(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, frameWithin)
	defer cancel()
	raw, at, err := f.gw.Frame(ctx, id)
	var img *image.RGBA
	if err == nil {
		img, err = decode(raw)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.model.NoPicture(id, err)
		return
	}
	f.model.Picture(id, img, at)
}

// decode turns a JPEG into pixels of at most stillWidth.
func decode(raw []byte) (*image.RGBA, error) {
	cfg, err := jpeg.DecodeConfig(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read the still: %w", err)
	}
	if cfg.Width < 1 || cfg.Height < 1 || cfg.Width*cfg.Height > maxPixels {
		return nil, fmt.Errorf("read the still: %d x %d pixels are too many", cfg.Width, cfg.Height)
	}
	src, err := jpeg.Decode(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read the still: %w", err)
	}
	w, h := cfg.Width, cfg.Height
	if w > stillWidth {
		w, h = stillWidth, max(1, h*stillWidth/w)
	}
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	if w == cfg.Width {
		draw.Draw(img, img.Rect, src, src.Bounds().Min, draw.Src)
	} else {
		draw.ApproxBiLinear.Scale(img, img.Rect, src, src.Bounds(), draw.Src, nil)
	}
	return img, nil
}

// latest holds the newest frame that the window has not drawn, so that a slow
// window never has more than one call waiting.
type latest struct{ p atomic.Pointer[view.Snapshot] }

// put stores s; first says that nothing was waiting.
func (l *latest) put(s view.Snapshot) (first bool) { return l.p.Swap(&s) == nil }

// take empties it.
func (l *latest) take() (view.Snapshot, bool) {
	s := l.p.Swap(nil)
	if s == nil {
		return view.Snapshot{}, false
	}
	return *s, true
}
