package points

import (
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"forebay/spool/record"
)

const (
	// VideoStream holds the index records of video chunks and stills.
	VideoStream = "video"
	// MaxSeen bounds the cameras that are listed though they are not configured.
	MaxSeen = 64
	// DefaultStaleAfter is how old a camera's newest picture or chunk may be.
	DefaultStaleAfter = 15 * time.Second

	fpsOver = 10 // seconds
)

// CameraConfig is what a keeper of cameras needs of a configured one.
type CameraConfig struct {
	ID         string
	Label      string        // default the id
	StaleAfter time.Duration // default DefaultStaleAfter
}

// A Camera is what is known of one now. Counts begin where reading began: Back
// before the start of the process.
type Camera struct {
	ID         string     `json:"id"`
	Label      string     `json:"label"`
	LastChunk  *time.Time `json:"last_chunk"` // arrival of the newest chunk that is no still
	LastFrame  *time.Time `json:"last_frame"` // arrival of the newest still picture
	FPS        float64    `json:"fps"`        // stills a second over the last ten
	Codec      string     `json:"codec"`      // of the newest chunk, else of the still
	Chunks     uint64     `json:"chunks"`     // stills too
	Bytes      uint64     `json:"bytes"`
	Gaps       uint64     `json:"gaps"`      // missing sequence numbers
	FrameURL   string     `json:"frame_url"` // path of the newest still, "" where there is none
	StaleAfter float64    `json:"stale_after_seconds"`

	Stale     bool            `json:"-"` // nothing came for StaleAfter; never for one that has sent nothing
	Frame     record.ChunkRef `json:"-"` // bytes of the newest still
	FrameType string          `json:"-"` // its media type
}

// index is the Data of a video record.
type index struct {
	Codec         string  `json:"codec"`
	Bytes         *uint64 `json:"bytes"`
	Sequence      *uint64 `json:"sequence"`
	Discontinuity bool    `json:"discontinuity"`
}

type camera struct {
	id        string
	label     string
	stale     time.Duration
	lastChunk time.Time
	lastFrame time.Time
	codec     string
	chunks    uint64
	bytes     uint64
	gaps      uint64
	frame     record.ChunkRef
	frameType string
	sequence  [2]*uint64 // of chunks, of stills
	stills    [fpsOver + 1]struct {
		second int64
		n      int
	}
	last record.Pos
}

// Cameras keeps the state of the cameras by their index records. Its methods
// are safe for concurrent use.
type Cameras struct {
	log   Log
	opts  Options
	order []string // configured

	mu   sync.Mutex
	cams map[string]*camera
	more uint64 // index records of cameras beyond MaxSeen
}

// NewCameras makes a keeper for the configured cameras; others are listed when
// they are seen, at most MaxSeen.
func NewCameras(cfgs []CameraConfig, log Log, opts Options) *Cameras {
	opts.defaults()
	c := &Cameras{log: log, opts: opts, cams: map[string]*camera{}}
	for _, x := range cfgs {
		if c.cams[x.ID] == nil {
			c.order = append(c.order, x.ID)
		}
		c.cams[x.ID] = newCamera(x)
	}
	return c
}

func newCamera(x CameraConfig) *camera {
	cam := &camera{id: x.ID, label: x.Label, stale: x.StaleAfter}
	if cam.label == "" {
		cam.label = x.ID
	}
	if cam.stale <= 0 {
		cam.stale = DefaultStaleAfter
	}
	return cam
}

// Run follows the stream until ctx ends, and waits for its readers.
func (c *Cameras) Run(ctx context.Context) error {
	follow(ctx, c.log, []string{VideoStream}, c.opts, c.take)
	return nil
}

func (c *Cameras) take(_ string, recs []record.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range recs {
		r := &recs[i]
		cam := c.cams[r.Key]
		if cam == nil {
			if len(c.cams)-len(c.order) >= MaxSeen {
				c.more++
				continue
			}
			id := strings.Clone(r.Key) // the record is a view
			cam = newCamera(CameraConfig{ID: id})
			c.cams[id] = cam
		}
		cam.take(r)
	}
}

// Unlisted is how many index records came from cameras beyond MaxSeen.
func (c *Cameras) Unlisted() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.more
}

func (cam *camera) take(r *record.Record) {
	if r.Pos.Shard == cam.last.Shard && r.Pos.Seq <= cam.last.Seq && r.Pos.Seq > 0 {
		return // read again after a reader had to be opened anew
	}
	cam.last = r.Pos
	var x index
	if json.Unmarshal(r.Data, &x) != nil {
		x = index{} // the bytes are there all the same
	}
	cam.chunks++
	if x.Bytes != nil {
		cam.bytes += *x.Bytes
	} else {
		cam.bytes += uint64(max(r.Chunk.Len, 0))
	}
	kind := 0
	arrived := r.Arrived.UTC()
	if strings.HasPrefix(r.Type, "image/") {
		kind = 1
		cam.lastFrame, cam.frame, cam.frameType = arrived, r.Chunk, strings.Clone(r.Type)
		b := &cam.stills[mod(arrived.Unix(), len(cam.stills))]
		if b.second != arrived.Unix() {
			b.second, b.n = arrived.Unix(), 0
		}
		b.n++
	} else {
		cam.lastChunk = arrived
	}
	if x.Codec != "" && (kind == 0 || cam.lastChunk.IsZero()) {
		cam.codec = x.Codec
	}
	cam.count(kind, x)
}

// count adds the sequence numbers that are missing. A number that is not above
// the last is a camera that began anew.
func (cam *camera) count(kind int, x index) {
	last := cam.sequence[kind]
	if x.Sequence == nil {
		return
	}
	if last != nil && !x.Discontinuity && *x.Sequence > *last+1 {
		cam.gaps += *x.Sequence - *last - 1
	}
	cam.sequence[kind] = x.Sequence
}

func mod(a int64, n int) int { return int(((a % int64(n)) + int64(n)) % int64(n)) }

// Snapshot lists the cameras: the configured ones in their order, then the
// others by id. The caller owns it.
func (c *Cameras) Snapshot() []Camera {
	now := c.opts.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := slices.Clone(c.order)
	for _, id := range slices.Sorted(maps.Keys(c.cams)) {
		if !slices.Contains(c.order, id) {
			ids = append(ids, id)
		}
	}
	out := make([]Camera, 0, len(ids))
	for _, id := range ids {
		out = append(out, c.cams[id].snapshot(now))
	}
	return out
}

// Camera is one of Snapshot.
func (c *Cameras) Camera(id string) (Camera, bool) {
	now := c.opts.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	cam := c.cams[id]
	if cam == nil {
		return Camera{}, false
	}
	return cam.snapshot(now), true
}

func (cam *camera) snapshot(now time.Time) Camera {
	out := Camera{
		ID: cam.id, Label: cam.label, Codec: cam.codec, Chunks: cam.chunks, Bytes: cam.bytes, Gaps: cam.gaps,
		StaleAfter: cam.stale.Seconds(), Frame: cam.frame, FrameType: cam.frameType,
	}
	newest := cam.lastChunk
	if !cam.lastChunk.IsZero() {
		t := cam.lastChunk
		out.LastChunk = &t
	}
	if !cam.lastFrame.IsZero() {
		t := cam.lastFrame
		out.LastFrame = &t
		out.FrameURL = "/v1/cameras/" + url.PathEscape(cam.id) + "/frame.jpg"
		if t.After(newest) {
			newest = t
		}
	}
	out.Stale = !newest.IsZero() && now.Sub(newest) > cam.stale
	n := 0
	for _, b := range cam.stills {
		if age := now.Unix() - b.second; age >= 1 && age <= fpsOver {
			n += b.n
		}
	}
	out.FPS = float64(n) / fpsOver
	return out
}
