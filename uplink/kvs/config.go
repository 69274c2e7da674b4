// Package kvs is the uplink to Amazon Kinesis Video Streams: chunks of video
// that lie beside records go to a stream per camera, by PutMedia.
//
// A chunk of fragmented MP4 with H.264 or H.265 is put into Matroska as it is,
// picture by picture, and read from disk while it is sent. It travels as one
// fragment, which is one cluster; as several, cut at key frames, where it is
// longer than a fragment may be; and together with its neighbour where it is
// shorter than one must be.
//
// A record is done when the service has answered PERSISTED for all that it
// travelled in. There is one connection to a stream at a time, it ends with the
// records at hand, and on it time never goes back: what is older than what went
// before goes over a connection of its own. What is sent again after a
// connection broke begins behind the last PERSISTED.
package kvs

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/aws"
)

const (
	defaultStream         = "{gateway}-{camera}"
	defaultRetention      = 24
	defaultRequestTimeout = 30 * time.Second
	defaultAckTimeout     = time.Minute
	maxRetention          = 87600 // hours
)

// Config is the table [uplink.kvs] of the config file. Zero means the
// documented default.
type Config struct {
	// Access says where Kinesis Video is, and who we are there. An endpoint is
	// that of the control plane; it tells where video goes.
	aws.Access
	// Stream is the name of the Kinesis video stream. "{camera}" in it stands
	// for the camera's id, "{gateway}" for this gateway's name and "{stream}"
	// for the local stream's. Default "{gateway}-{camera}".
	Stream string `toml:"stream"`
	// Create makes a stream that is not there. Default false: it is an error.
	Create bool `toml:"create"`
	// RetentionHours is how long a stream that we make keeps its video, 1 to
	// 87600. Default 24.
	RetentionHours int `toml:"retention_hours"`
	// RequestTimeout bounds a request that carries no video. Default 30s.
	RequestTimeout conf.Duration `toml:"request_timeout"`
	// AckTimeout is how long a connection that carries video may stand still:
	// no byte goes out and no acknowledgement comes in. Default 1m.
	AckTimeout conf.Duration `toml:"ack_timeout"`
}

var streamRE = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,256}$`)

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (c Config) Check() error {
	if name := c.name("x", "x", "x"); !streamRE.MatchString(name) {
		return fmt.Errorf("stream: %q is not the name of a Kinesis video stream; use 1 to 256 of a-z, A-Z, 0-9, _, . and -, and {camera}, {gateway} and {stream}", c.Stream)
	}
	if err := c.Access.Check(); err != nil {
		return err
	}
	if err := c.CheckWhere(); err != nil {
		return err
	}
	if c.RetentionHours < 0 || c.RetentionHours > maxRetention {
		return fmt.Errorf("retention_hours: %d is not between 1 and %d", c.RetentionHours, maxRetention)
	}
	if c.RetentionHours > 0 && !c.Create {
		return fmt.Errorf("retention_hours: is for streams that we make; set create = true too")
	}
	if d := c.RequestTimeout.D(); d != 0 && d < time.Second {
		return fmt.Errorf("request_timeout: %s is less than 1s", c.RequestTimeout)
	}
	if d := c.AckTimeout.D(); d != 0 && (d < 5*time.Second || d > 10*time.Minute) {
		return fmt.Errorf("ack_timeout: %s is not between 5s and 10m", c.AckTimeout)
	}
	return nil
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	return c.Where("Amazon Kinesis Video Streams") + ", stream " + c.WithDefaults().Stream
}

// name is the Kinesis video stream for a camera's records of a local stream.
func (c Config) name(gateway, camera, stream string) string {
	t := c.Stream
	if t == "" {
		t = defaultStream
	}
	return strings.NewReplacer("{gateway}", gateway, "{camera}", camera, "{stream}", stream).Replace(t)
}

// WithDefaults fills in what was left out and does not depend on the machine.
func (c Config) WithDefaults() Config {
	if c.Stream == "" {
		c.Stream = defaultStream
	}
	if c.Create && c.RetentionHours == 0 {
		c.RetentionHours = defaultRetention
	}
	c.RequestTimeout = conf.Duration(c.RequestTimeout.Or(defaultRequestTimeout))
	c.AckTimeout = conf.Duration(c.AckTimeout.Or(defaultAckTimeout))
	return c
}
