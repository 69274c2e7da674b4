// Package video takes chunks of video and still pictures that cameras and
// encoders push over HTTP. A chunk is answered with 201 only when it is on
// disk: its bytes beside the log, and an index record in the stream.
package video

import (
	"errors"
	"fmt"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

// Config is the table [video] of the config file; zero means the documented
// default.
type Config struct {
	// MaxChunk is the largest chunk taken, in bytes; default 32MiB, at most
	// 64MiB.
	MaxChunk conf.Size `toml:"max_chunk"`
	// Strict refuses cameras that have no [[camera]] table; default false:
	// a camera may push under any id.
	Strict bool `toml:"strict"`
	// Stream is where the index records go; default "video".
	Stream conf.Stream `toml:"stream"`
	// Pushes is how many chunks are taken in at the same time; default 8.
	Pushes int `toml:"pushes"`
	// Buffer bounds the memory of all chunks on their way to the log, in
	// bytes; default twice MaxChunk.
	Buffer conf.Size `toml:"buffer"`
	// Cameras are the [[camera]] tables.
	Cameras []Camera `toml:"-"`
}

// Camera is one [[camera]] table of the config file.
type Camera struct {
	// ID is the camera's name in the URL and the records' partition key.
	ID conf.Name `toml:"id"`
	// Label is what people call it; default the ID.
	Label string `toml:"label"`
	// StaleAfter is how long the camera may be silent before it counts as
	// lost; default 5s.
	StaleAfter conf.Duration `toml:"stale_after"`
}

// Defaults of Config and Camera.
const (
	DefaultMaxChunk   = 32 << 20
	DefaultPushes     = 8
	DefaultStream     = "video"
	DefaultStaleAfter = 5 * time.Second
)

// Check reports the first value that cannot be; the error begins with the
// field's name in the config file.
func (c Config) Check() error {
	c = c.WithDefaults()
	switch {
	case c.MaxChunk < 1 || c.MaxChunk > record.MaxBlob:
		return fmt.Errorf("max_chunk: %s is not between 1 and %s", c.MaxChunk, conf.Size(record.MaxBlob))
	case c.Pushes < 1 || c.Pushes > 1024:
		return fmt.Errorf("pushes: %d is not between 1 and 1024", c.Pushes)
	case c.Buffer < c.MaxChunk:
		return fmt.Errorf("buffer: %s does not hold one chunk of max_chunk, %s", c.Buffer, c.MaxChunk)
	case !conf.ValidStream(string(c.Stream)):
		return fmt.Errorf("stream: %q is not a stream name", c.Stream)
	}
	seen := map[conf.Name]bool{}
	for _, cam := range c.Cameras {
		if err := cam.Check(); err != nil {
			return err
		}
		if seen[cam.ID] {
			return fmt.Errorf("id: two cameras are called %q", cam.ID)
		}
		seen[cam.ID] = true
	}
	return nil
}

// Check reports the first value that cannot be; the error begins with the
// field's name in the config file.
func (c Camera) Check() error {
	if c.ID == "" {
		return errors.New("id: is missing; give the camera a name such as \"press-1\"")
	}
	var n conf.Name
	if err := n.UnmarshalText([]byte(c.ID)); err != nil {
		return fmt.Errorf("id: %w", err)
	}
	if c.StaleAfter < 0 {
		return fmt.Errorf("stale_after: %s is negative", c.StaleAfter)
	}
	return nil
}

func (c Config) WithDefaults() Config {
	c.MaxChunk = conf.Size(c.MaxChunk.Or(DefaultMaxChunk))
	c.Buffer = conf.Size(c.Buffer.Or(2 * int64(c.MaxChunk)))
	if c.Pushes == 0 {
		c.Pushes = DefaultPushes
	}
	if c.Stream == "" {
		c.Stream = DefaultStream
	}
	return c
}

func (c Camera) WithDefaults() Camera {
	if c.Label == "" {
		c.Label = string(c.ID)
	}
	c.StaleAfter = conf.Duration(c.StaleAfter.Or(DefaultStaleAfter))
	return c
}
