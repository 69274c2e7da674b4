package spool

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

const (
	defaultQuota     = 20e9
	defaultFreeFloor = 512 << 20
	defaultSegment   = 64 << 20
	minSegment       = 256 << 10
	minQuota         = 4 << 20
	// MaxShards is how many shards a stream may have.
	MaxShards = 1024
)

// Config is the table [spool] of the config file. Zero means the documented
// default everywhere.
type Config struct {
	// Quota is how many bytes the spool may use, everything in its directory
	// counted. Default 20GB or 80 % of the file system, whichever is less; at
	// least 4MiB.
	Quota conf.Size `toml:"quota"`
	// FreeFloor is how many bytes stay free on the file system for everything
	// else. Default 512MiB or 5 % of the file system, whichever is less.
	FreeFloor conf.Size `toml:"free_floor"`
	// Segment is the size at which a segment file is closed and the next one
	// begun, in bytes; retention removes whole segments. Default 64MiB, and
	// never more than a sixteenth of the quota.
	Segment conf.Size `toml:"segment_bytes"`
	// NoPacking stores bodies as they are, where otherwise those that become an
	// eighth smaller or more are packed by Snappy. Packed bodies cannot be read
	// by the sqlite3 shell alone.
	NoPacking bool `toml:"no_packing"`
	// ScrubEvery is how often everything in closed segments is read and
	// verified in the background, spread over that time but at 256KiB/s or
	// more. Default 7d; at least 1h; 36500d is never.
	ScrubEvery conf.Duration `toml:"scrub_every"`
	// KeyFile is the file with the master key of encrypted streams: 32 bytes, or
	// 64 hexadecimal digits; mode 0600, and outside of the spool's directory.
	KeyFile string `toml:"key_file"`
	// KeyCredential is, in place of key_file, the name of a systemd credential
	// (LoadCredential=, LoadCredentialEncrypted=) that holds the master key.
	KeyCredential string `toml:"key_credential"`
	// Gateway is the name that signs the records' ids. Default: the name the
	// spool was created with, else "forebay".
	Gateway string `toml:"-"`
	// Now is the wall clock; nil is time.Now. It only stamps records: nothing
	// grows old by it while the spool is open.
	Now func() time.Time `toml:"-"`
}

// Check says which value is impossible; the error begins with the field's name
// in the config file.
func (c Config) Check() error {
	if c.Quota != 0 && c.Quota < minQuota {
		return fmt.Errorf("quota: %v is too small; at least 4MiB are needed", c.Quota)
	}
	if c.Segment != 0 && c.Segment < minSegment {
		return fmt.Errorf("segment_bytes: %v is too small; at least 256KiB are needed", c.Segment)
	}
	if c.Segment > 1<<30 {
		return fmt.Errorf("segment_bytes: %v is too large; at most 1GiB is sensible", c.Segment)
	}
	if c.ScrubEvery != 0 && c.ScrubEvery.D() < minScrubEvery {
		return fmt.Errorf("scrub_every: %v is too short; at least 1h is needed", c.ScrubEvery)
	}
	if c.KeyFile != "" && c.KeyCredential != "" {
		return errors.New("key_credential: key_file is set too; one of them holds the master key")
	}
	if strings.ContainsAny(c.KeyCredential, `/\`) {
		return fmt.Errorf("key_credential: %q is a path; give the credential's name, or the path as key_file", c.KeyCredential)
	}
	return nil
}

// StreamConfig describes a stream ([[stream]] in the config file).
type StreamConfig struct {
	// Name is the stream's name, as Kinesis allows it.
	Name conf.Stream `toml:"name"`
	// Shards is how many shards a new stream gets; default 1, at most 1024. A
	// stream that is there keeps its own: they are split and merged through the
	// Kinesis endpoint.
	Shards int `toml:"shards"`
	// Class says what the records are worth when the disk is full; default
	// telemetry.
	Class record.Class `toml:"class"`
	// MaxAge: delivered records older than this go. 0 keeps them until the
	// quota asks for their room.
	MaxAge conf.Duration `toml:"retention"`
	// MaxBytes bounds the log that the stream shares with others of the same
	// class and settings; 0 is no limit but the quota.
	MaxBytes conf.Size `toml:"max_bytes"`
	// ExpireUndelivered lets age remove undelivered records too.
	ExpireUndelivered bool `toml:"expire_undelivered"`
	// Encrypt seals the stream's records on the disk with a key of its own, so
	// that they can be erased at once by deleting the key. It needs key_file or
	// key_credential in [spool], gives the stream a log of its own, and cannot
	// be turned off again.
	Encrypt bool `toml:"encrypt"`
	// OnFull is what happens when undelivered records fill the quota: "drop"
	// lets the oldest go, counted; "hold" keeps all and holds the producer back.
	// Default what the class does: debug, video and telemetry drop, audit, alarm
	// and evidence hold.
	OnFull OnFull `toml:"on_full"`
	// MaxAgeHard is a legal limit: records older than this go, delivered or not,
	// whatever their class, an eighth of it or one hour later at the most. 0 is
	// none; at least 1m. It counts for all streams that share the log.
	MaxAgeHard conf.Duration `toml:"max_age_hard"`
}

// Check says which value is impossible; the error begins with the field's name
// in the config file.
func (c StreamConfig) Check() error {
	if !conf.ValidStream(string(c.Name)) {
		return fmt.Errorf("name: %q is not a stream name; use 1 to 128 of a-z, A-Z, 0-9, _, . and -", string(c.Name))
	}
	if c.Shards < 0 || c.Shards > MaxShards {
		return fmt.Errorf("shards: %d is not a number of shards; 1 to %d are allowed", c.Shards, MaxShards)
	}
	if c.MaxBytes != 0 && c.MaxBytes < 2*minSegment {
		return fmt.Errorf("max_bytes: %v is too small; at least 512KiB are needed", c.MaxBytes)
	}
	if err := new(OnFull).UnmarshalText([]byte(c.OnFull)); err != nil {
		return fmt.Errorf("on_full: %w", err)
	}
	switch hard := c.MaxAgeHard; {
	case hard != 0 && hard.D() < time.Minute:
		return fmt.Errorf("max_age_hard: %v is too short; at least 1m is needed", hard)
	case hard != 0 && c.MaxAge > hard:
		return fmt.Errorf("max_age_hard: %v is less than retention, %v", hard, c.MaxAge)
	}
	return nil
}

// WithDefaults fills in what zero means.
func (c StreamConfig) WithDefaults() StreamConfig {
	if c.Shards == 0 {
		c.Shards = 1
	}
	if c.Class == 0 {
		c.Class = record.ClassTelemetry
	}
	return c
}
