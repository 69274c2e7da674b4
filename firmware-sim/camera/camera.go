// Package camera is a simulated camera over a conveyor. It makes real H.264
// without a codec library: lossless, with the frame number and the time burned
// in, so that what comes out at the far end can be checked pixel by pixel. It
// pushes self-contained chunks of fragmented MP4 and JPEG stills over HTTP,
// keeps them while nobody takes them, and writes down what became of each.
package camera

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"
)

// Config says which camera to be.
type Config struct {
	// ID is the camera's name in the URL: a-z, 0-9, _ and -.
	ID string
	// Endpoint is the receiver's base URL, such as http://127.0.0.1:8480.
	Endpoint string
	// Token, if set, is sent as a bearer token.
	Token string
	// FPS is the frame rate, 1 to 60; default 10.
	FPS int
	// ChunkEvery is the length of a chunk; default 2s.
	ChunkEvery time.Duration
	// StillEvery is the time from one still picture to the next; default 1s,
	// negative for none.
	StillEvery time.Duration
	// Seed places the boxes on the conveyor and jitters the pauses.
	Seed int64
	// Ledger is told what became of each push, in order; its calls do not
	// overlap. It may be nil.
	Ledger func(Event)
	// QueueItems and QueueBytes bound what waits to be pushed; default 256 and
	// 64 MiB. Beyond that the oldest is dropped.
	QueueItems int
	QueueBytes int
	// Grace is how long the rest of the queue is pushed on after the end of
	// ctx; default 5s.
	Grace time.Duration
	// Transport carries the requests; nil makes one of its own.
	Transport http.RoundTripper
}

// What became of a push.
const (
	Acked   = "acked"   // the receiver answered 201
	Dropped = "dropped" // lost at the camera; Event.Reason says why
)

// Why a push was dropped; a refusal is "refused" and the status.
const (
	ReasonFull    = "queue full"
	ReasonStopped = "stopped"
)

// An Event is one entry of the camera's ledger.
type Event struct {
	Kind   string    `json:"kind"` // Acked or Dropped
	Camera string    `json:"camera"`
	Name   string    `json:"name"`   // last part of the URL
	Seq    uint64    `json:"seq"`    // running number of the push, from 1: the order in which they are sent
	Bytes  int       `json:"bytes"`  // of the body
	SHA256 string    `json:"sha256"` // of the body, in hexadecimal
	Start  time.Time `json:"start"`  // of its first frame
	Tries  int       `json:"tries"`  // requests made
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"` // of the event
}

var idRE = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func (c Config) withDefaults() (Config, error) {
	if !idRE.MatchString(c.ID) {
		return c, fmt.Errorf("camera id %q is not 1 to 63 of a-z, 0-9, _ and -", c.ID)
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return c, fmt.Errorf("camera endpoint %q is not a base URL such as http://127.0.0.1:8480", c.Endpoint)
	}
	if c.FPS == 0 {
		c.FPS = 10
	}
	if c.FPS < 1 || c.FPS > 60 {
		return c, fmt.Errorf("camera frame rate %d is not between 1 and 60", c.FPS)
	}
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&c.ChunkEvery, 2*time.Second)
	set(&c.StillEvery, time.Second)
	set(&c.Grace, 5*time.Second)
	if c.ChunkEvery < 0 || c.ChunkEvery > time.Minute {
		return c, errors.New("camera chunks are not between one frame and one minute long")
	}
	if c.QueueItems == 0 {
		c.QueueItems = 256
	}
	if c.QueueBytes == 0 {
		c.QueueBytes = 64 << 20
	}
	if c.Ledger == nil {
		c.Ledger = func(Event) {}
	}
	return c, nil
}

// Run is the camera until ctx ends: it takes pictures in real time and pushes
// them. It returns when every push has its entry in the ledger; an error means a
// bad Config or a picture that cannot be encoded.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return fmt.Errorf("start the camera: %w", err)
	}
	c := &sender{cfg: cfg, queue: newQueue(cfg.QueueItems, cfg.QueueBytes)}
	pushing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var sending sync.WaitGroup
	sending.Go(func() { c.run(pushing) })
	err = c.shoot(ctx)
	c.queue.close()
	grace := time.AfterFunc(cfg.Grace, stop)
	defer grace.Stop()
	sending.Wait()
	return err
}

// shoot takes pictures until ctx ends. The picture's time is the schedule's,
// so that chunks follow on each other without a gap however late they are.
func (c *sender) shoot(ctx context.Context) error {
	cfg := c.cfg
	scene := NewScene(cfg.Seed)
	began := time.Now().UTC().Truncate(time.Millisecond)
	at := func(n uint64) time.Time {
		return began.Add(time.Duration(n) * time.Second / time.Duration(cfg.FPS))
	}
	perChunk, perStill := frames(cfg.ChunkEvery, cfg.FPS), frames(cfg.StillEvery, cfg.FPS)
	var enc Encoder
	var pic Picture
	chunk := Chunk{Number: 1, FPS: cfg.FPS}
	flush := func() {
		if len(chunk.Samples) == 0 {
			return
		}
		length := at(chunk.Frame + uint64(len(chunk.Samples))).Sub(at(chunk.Frame))
		c.offer(fmt.Sprintf("chunk-%06d.mp4", chunk.Number), "video/mp4", chunk.MP4(), at(chunk.Frame), length)
		chunk = Chunk{Number: chunk.Number + 1, Frame: chunk.Frame + uint64(len(chunk.Samples)), FPS: cfg.FPS}
	}
	defer flush()
	stills := 0
	due := time.NewTimer(0)
	defer due.Stop()
	for n := uint64(0); ; n++ {
		due.Reset(time.Until(at(n)))
		select {
		case <-due.C:
		case <-ctx.Done():
			return nil
		}
		scene.Draw(&pic, n, at(n))
		nalUnit, key := enc.Encode(&pic, len(chunk.Samples) == 0)
		chunk.Samples = append(chunk.Samples, Sample{nalUnit, key})
		if cfg.StillEvery > 0 && n%uint64(perStill) == 0 {
			stills++
			jpg, err := pic.JPEG()
			if err != nil {
				return err
			}
			c.offer(fmt.Sprintf("still-%d.jpg", stills), "image/jpeg", jpg, at(n), 0)
		}
		if len(chunk.Samples) == perChunk {
			flush()
		}
	}
}

// frames is how many frames a time span has, at least one.
func frames(d time.Duration, fps int) int {
	return max(int((d*time.Duration(fps)+time.Second/2)/time.Second), 1)
}

// offer puts a push into the queue and enters into the ledger what had to go.
func (c *sender) offer(name, mediaType string, body []byte, start time.Time, length time.Duration) {
	sum := sha256.Sum256(body)
	c.seq++
	for _, old := range c.queue.push(item{
		seq: c.seq, name: name, mediaType: mediaType, body: body, sum: hex.EncodeToString(sum[:]),
		start: start, length: length,
	}) {
		c.enter(old, Dropped, ReasonFull)
	}
}
