package localapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"forebay/gateway/api"
)

const (
	eventPace   = time.Second // how often what changed is told, alarms apart
	eventRing   = 512         // how many events a client may have missed and still resume
	eventQueue  = 64          // how many events a slow client may be behind before it starts over
	eventWrite  = 10 * time.Second
	maxWatchers = 64
)

// A hub makes one sequence of events out of what the plant shows, and hands it
// to every watcher. It looks only while somebody watches.
type hub struct {
	plant Plant
	wake  chan struct{}

	mu       sync.Mutex
	seq      uint64
	ring     [][]byte // framed events, the newest last; its numbers end at seq
	watchers map[*watcher]bool
	closed   bool

	last map[string][]byte // by kind: what was told last; owned by run
}

type watcher struct {
	events chan []byte // closed when the watcher is to end
}

// newHub begins to count at the milliseconds since 1970: behind every number
// of an earlier start, so that none of those is taken for one of this.
func newHub(p Plant) *hub {
	return &hub{plant: p, seq: uint64(max(time.Now().UnixMilli(), 0)), wake: make(chan struct{}, 1), watchers: map[*watcher]bool{}, last: map[string][]byte{}}
}

// run looks at the plant until ctx ends.
func (h *hub) run(ctx context.Context) {
	tick := time.NewTicker(eventPace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.plant.AlarmsChanged():
			if h.watched() {
				h.tell("alarms", func(e *api.Event) { e.Alarms = h.plant.Alarms() })
			}
		case <-h.wake: // the first watcher: what was told last is no longer known
			clear(h.last)
		case <-tick.C:
			if !h.watched() {
				continue
			}
			h.tell("status", func(e *api.Event) { st := h.plant.Status(); e.Status = &st })
			h.tell("alarms", func(e *api.Event) { e.Alarms = h.plant.Alarms() })
			h.tell("points", func(e *api.Event) { e.Points = h.plant.Points(false) })
			h.tell("cameras", func(e *api.Event) { e.Cameras = h.plant.Cameras() })
			h.tell("devices", func(e *api.Event) { e.Devices = h.plant.Devices() })
			h.tell("streams", func(e *api.Event) { e.Streams = h.plant.Streams() })
		}
	}
}

func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers) > 0
}

// tell publishes an event of a kind if it differs from the one before.
func (h *hub) tell(kind string, fill func(*api.Event)) {
	e := api.Event{Kind: kind}
	fill(&e)
	body, err := json.Marshal(e)
	if err != nil || bytes.Equal(body, h.last[kind]) {
		return // nouns of package api always marshal
	}
	h.last[kind] = body
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	e.Seq = h.seq
	framed := frameEvent(e)
	if h.ring = append(h.ring, framed); len(h.ring) > eventRing {
		h.ring = h.ring[1:]
	}
	for w := range h.watchers {
		select {
		case w.events <- framed:
		default: // too slow: it starts over with a snapshot
			delete(h.watchers, w)
			close(w.events)
		}
	}
}

func frameEvent(e api.Event) []byte {
	b, err := json.Marshal(e)
	if err != nil {
		return nil // nouns of package api always marshal
	}
	return fmt.Appendf(nil, "id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Kind, b)
}

// watch joins a watcher. missed is what it needs first: the events after
// since, or a snapshot. The snapshot is made after joining, so that what
// changes while it is made comes as an event behind it.
func (h *hub) watch(since uint64) (w *watcher, missed [][]byte, ok bool) {
	w, missed, at, ok := h.join(since)
	if !ok || missed != nil {
		return w, missed, ok
	}
	snap := api.Snapshot{
		Status: h.plant.Status(), Alarms: h.plant.Alarms(), Points: h.plant.Points(true),
		Cameras: h.plant.Cameras(), Devices: h.plant.Devices(), Streams: h.plant.Streams(),
	}
	return w, [][]byte{frameEvent(api.Event{Seq: at, Kind: "snapshot", Snapshot: &snap})}, true
}

// join adds a watcher. missed is nil where it needs a snapshot; at is the
// number of the newest event that it will not get.
func (h *hub) join(since uint64) (w *watcher, missed [][]byte, at uint64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.watchers) >= maxWatchers {
		return nil, nil, 0, false
	}
	if len(h.watchers) == 0 {
		// Nobody was watching: what happened meanwhile was not told.
		h.ring = nil
		h.seq++
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
	w = &watcher{events: make(chan []byte, eventQueue)}
	h.watchers[w] = true
	oldest := h.seq - uint64(len(h.ring)) + 1
	if since > 0 && since+1 >= oldest && since <= h.seq && len(h.ring) > 0 {
		return w, append([][]byte{}, h.ring[since+1-oldest:]...), h.seq, true
	}
	return w, nil, h.seq, true
}

func (h *hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watchers[w] {
		delete(h.watchers, w)
		close(w.events)
	}
}

// close ends all watchers; later ones are turned away.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for w := range h.watchers {
		delete(h.watchers, w)
		close(w.events)
	}
}

// events serves GET /v1/events as server-sent events (HTML standard, 9.2).
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64)
	if q := r.URL.Query().Get("since"); err != nil && q != "" {
		if since, err = strconv.ParseUint(q, 10, 64); err != nil {
			s.fail(w, http.StatusBadRequest, "since is not an event's number", "")
			return
		}
	}
	me, missed, ok := s.hub.watch(since)
	if !ok {
		w.Header().Set("Retry-After", "5")
		s.fail(w, http.StatusServiceUnavailable, "too many consoles are watching, or the gateway is stopping", "try again")
		return
	}
	defer s.hub.leave(me)
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	write := func(b []byte) bool {
		if rc.SetWriteDeadline(time.Now().Add(eventWrite)) != nil {
			return false
		}
		if _, err := w.Write(b); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	for _, b := range missed {
		if !write(b) {
			return
		}
	}
	alive := time.NewTicker(5 * time.Second)
	defer alive.Stop()
	for {
		select {
		case b, open := <-me.events:
			if !open || !write(b) {
				return
			}
		case <-alive.C:
			if !write([]byte(": alive\n\n")) {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
