package video

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

// Index is the Data of a chunk's record, as JSON.
type Index struct {
	Camera        string    `json:"camera"`
	Name          string    `json:"name"`
	Start         time.Time `json:"start"`       // of the first frame; arrival where nobody says
	DurationMS    int64     `json:"duration_ms"` // 0 where it is not known
	Codec         string    `json:"codec"`       // RFC 6381; "" where it is not known
	Bytes         int       `json:"bytes"`
	SHA256        string    `json:"sha256"` // of the bytes, in hexadecimal
	Keyframe      bool      `json:"keyframe"`
	Sequence      *uint64   `json:"sequence,omitempty"` // of the fragment (mfhd)
	Discontinuity bool      `json:"discontinuity"`      // time is missing before it
}

// What a push is.
type kind uint8

const (
	chunk kind = iota
	still
	initSegment
	playlist
)

// A push is one chunk on its way in.
type push struct {
	id       conf.Name // "" where the path does not say
	cam      *camera
	name     string
	mediaT   string // Content-Type as sent, without parameters
	start    time.Time
	startHdr string
	length   time.Duration
	hasLen   bool

	arrived  time.Time
	body     []byte
	kind     kind
	fragment Fragment
	index    Index
}

// Names of the headers that may come with a push.
const (
	HeaderStart    = "X-Forebay-Start"    // when the first frame was taken, RFC 3339
	HeaderDuration = "X-Forebay-Duration" // milliseconds
)

var nameRE = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// parsePath takes /video/{camera}/{name} apart.
func parsePath(p string) (id conf.Name, name string, err error) {
	rest, ok := strings.CutPrefix(p, "/video/")
	cam, name, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 {
		return "", "", errors.New("path is not /video/{camera}/{name}")
	}
	if err := id.UnmarshalText([]byte(cam)); err != nil {
		return "", "", fmt.Errorf("camera: %w", err)
	}
	if !nameRE.MatchString(name) || strings.Trim(name, ".") == "" {
		return "", "", fmt.Errorf("name: %q is not 1 to 128 of a-z, A-Z, 0-9, '.', _ and -", name)
	}
	return id, name, nil
}

// readHeaders takes over what the sender says about the chunk.
func (p *push) readHeaders(h http.Header) error {
	if v := h.Get(HeaderStart); v != "" {
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil || t.Year() < 1970 {
			return fmt.Errorf("%s: %q is not a time as in RFC 3339, such as 2026-11-22T10:00:00.5Z", HeaderStart, v)
		}
		p.start, p.startHdr = t.UTC(), v
	}
	if v := h.Get(HeaderDuration); v != "" {
		const day = 24 * 3600 * 1000
		ms, err := strconv.ParseFloat(v, 64)
		if err != nil || math.IsNaN(ms) || ms < 0 || ms > day {
			return fmt.Errorf("%s: %q is not a number of milliseconds up to one day", HeaderDuration, v)
		}
		p.length, p.hasLen = time.Duration(ms*float64(time.Millisecond)), true
	}
	if v := h.Get("Content-Type"); v != "" {
		t, _, err := mime.ParseMediaType(v)
		if err != nil || len(t) > 128 || !strings.Contains(t, "/") {
			return fmt.Errorf("Content-Type: %q is not a media type", v)
		}
		p.mediaT = t
	}
	return nil
}

const (
	typeMP4  = "video/mp4"
	typeTS   = "video/mp2t"
	typeJPEG = "image/jpeg"
	typeHLS  = "application/vnd.apple.mpegurl"
	typeDASH = "application/dash+xml"
)

// mediaType is the sender's word, unless that says nothing; else the name's
// ending; else the first bytes.
func mediaType(sent, name string, body []byte) string {
	if sent != "" && sent != "application/octet-stream" && sent != "application/x-www-form-urlencoded" {
		return sent
	}
	switch strings.ToLower(path.Ext(name)) {
	case ".mp4", ".m4s", ".m4v", ".cmfv":
		return typeMP4
	case ".ts":
		return typeTS
	case ".jpg", ".jpeg":
		return typeJPEG
	case ".png":
		return "image/png"
	case ".webm":
		return "video/webm"
	case ".m3u8":
		return typeHLS
	case ".mpd":
		return typeDASH
	}
	switch {
	case IsMP4(body):
		return typeMP4
	case isJPEG(body):
		return typeJPEG
	case len(body) >= 188 && body[0] == 0x47 && (len(body) == 188 || body[188] == 0x47):
		return typeTS
	}
	return "application/octet-stream"
}

// describe fills in kind and index from the bytes and from what went before.
// The caller holds the camera's gate.
func (p *push) describe() {
	p.mediaT = mediaType(p.mediaT, p.name, p.body)
	sum := sha256.Sum256(p.body)
	p.index = Index{
		Camera: string(p.cam.ID), Name: p.name, Bytes: len(p.body), SHA256: hex.EncodeToString(sum[:]),
	}
	switch {
	case strings.HasPrefix(p.mediaT, "image/"):
		p.kind = still
		p.index.Keyframe = true
		p.index.Codec = strings.TrimPrefix(p.mediaT, "image/")
	case p.mediaT == typeHLS || p.mediaT == typeDASH || p.mediaT == "application/x-mpegurl":
		p.kind = playlist
	case IsMP4(p.body):
		p.describeMP4()
	}
	p.index.Start = p.start
	if p.start.IsZero() {
		p.index.Start = p.arrived
	}
	p.index.DurationMS = p.length.Round(time.Millisecond).Milliseconds()
	if p.kind == chunk {
		p.index.Discontinuity = p.cam.timeline.breaks(p)
	}
}

func (p *push) describeMP4() {
	f := ReadFragment(p.body, p.cam.timeline.track)
	p.fragment = f
	p.index.Codec, p.index.Keyframe = f.Codec, f.Key
	if f.Bare {
		p.kind = initSegment
		return
	}
	if f.Sequence > 0 {
		n := uint64(f.Sequence)
		p.index.Sequence = &n
	}
	if !p.hasLen && f.Known {
		p.length = f.Duration()
	}
	if p.start.IsZero() {
		p.start = f.Start
	}
}

// record is what goes to the log.
func (p *push) record() (record.Record, error) {
	data, err := json.Marshal(p.index)
	if err != nil {
		return record.Record{}, fmt.Errorf("write the chunk's index: %w", err)
	}
	r := record.Record{
		Key: string(p.cam.ID), At: p.start, Arrived: p.arrived, Type: p.mediaT, Data: data, Blob: p.body,
	}
	if !r.At.IsZero() {
		r.TimeQ = record.TimeDevice
	}
	if p.kind == initSegment {
		r.Attrs = map[string]string{"init": "true"}
	}
	return r, nil
}

// A timeline is what must be known of a camera's last chunk to tell whether
// the next one follows on it. It moves only with what is on disk.
type timeline struct {
	track *Track // of the last init segment or self-contained chunk

	media    bool // end is known
	end      uint64
	scale    uint32
	wall     time.Time // end by the sender's clock; zero where not known
	last     Index     // and the answer to it, for a sender that asks again
	startHdr string
	pos      record.Pos
}

// breaks reports whether time is missing, or comes twice, between the last
// chunk and this one: by the media's own time if it has one, else by the
// sender's clock.
func (t *timeline) breaks(p *push) bool {
	f := p.fragment
	if hasMediaTime(f) && t.media {
		off := max(f.Decode, t.end) - min(f.Decode, t.end)
		return f.Scale != t.scale || off > uint64(f.Scale)/10
	}
	if !p.start.IsZero() && !t.wall.IsZero() {
		const slack = 500 * time.Millisecond
		return p.start.Sub(t.wall).Abs() > slack
	}
	return false
}

// hasMediaTime reports whether the chunk lies on a running time. A file of its
// own that starts at 0 does not.
func hasMediaTime(f Fragment) bool { return f.Known && f.HasTime && (f.Init == nil || f.Decode > 0) }

// follow moves the timeline behind a chunk that is on disk.
func (t *timeline) follow(p *push, pos record.Pos) {
	if f := p.fragment; f.Init != nil {
		t.track = f.Init
	}
	t.last, t.startHdr, t.pos = p.index, p.startHdr, pos
	if p.kind != chunk {
		return
	}
	f := p.fragment
	// A first self-contained chunk at 0 begins a time that others may follow.
	t.media = f.Known && f.HasTime
	t.end, t.scale = f.Decode+f.Length, f.Scale
	t.wall = time.Time{}
	if !p.start.IsZero() && p.length > 0 {
		t.wall = p.start.Add(p.length)
	}
}

// repeats reports whether the push is the last one over again: a sender that
// did not hear the answer. Only a chunk with a time of its own can be told.
func (t *timeline) repeats(p *push) bool {
	return p.startHdr != "" && p.startHdr == t.startHdr && !t.pos.IsZero() &&
		slices.Equal([]string{t.last.Name, t.last.SHA256}, []string{p.index.Name, p.index.SHA256})
}
