// Package points keeps the newest value and a short trend of the measured
// values that a console shows as tiles, and the state of the cameras. Both
// follow the log like any other reader; nothing is fed to them by a source.
package points

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

const (
	// Columns is how many columns of Column each a trend has.
	Columns = 600
	// Column is what one column of a trend spans.
	Column = time.Second

	keyCache = 4096

	// A record's own time is believed if it lies within these bounds of its
	// arrival.
	maxLate   = time.Hour
	maxFuture = time.Minute
)

// Config is one [[point]] of the config file: a value that is shown as a tile.
type Config struct {
	ID         conf.Name   `toml:"id"`          // stable name; required
	Label      string      `toml:"label"`       // what people call it; default the id
	Place      string      `toml:"place"`       // site/area/line/cell (ISA-95)
	Stream     conf.Stream `toml:"stream"`      // default "mqtt"
	Key        string      `toml:"key"`         // partition key (MQTT topic), or a topic filter with + and #; required
	Field      string      `toml:"field"`       // dotted path in the JSON payload; default "value", which a bare number is, too
	Unit       string      `toml:"unit"`        // UCUM; default the payload's "unit"
	Low        float64     `toml:"low"`         // of the scale
	High       float64     `toml:"high"`        // of the scale; both 0: the console scales by what it sees
	NormalLow  *float64    `toml:"normal_low"`  // of the normal band
	NormalHigh *float64    `toml:"normal_high"` // of the normal band
	Limit      *float64    `toml:"limit"`       // alarm limit, drawn in the trend
}

// Check names the setting that is wrong before the first colon.
func (c *Config) Check() error {
	var n conf.Name
	if c.ID == "" {
		return errors.New("id: a point needs one, such as \"line1-temp\"")
	}
	if err := n.UnmarshalText([]byte(c.ID)); err != nil {
		return fmt.Errorf("id: %w", err)
	}
	if c.Stream != "" && !conf.ValidStream(string(c.Stream)) {
		return fmt.Errorf("stream: %q is not a stream name", c.Stream)
	}
	if c.Key == "" {
		return errors.New("key: a point needs one, such as \"plant/line1/temp\"")
	}
	if _, err := conf.ParseFilter(c.Key); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if slices.Contains(strings.Split(c.field(), "."), "") {
		return fmt.Errorf("field: %q is not the name of a field; write for example value or motor.temp", c.Field)
	}
	if c.Low > c.High {
		return fmt.Errorf("low: %v is above high, which is %v", c.Low, c.High)
	}
	if c.NormalLow != nil && c.NormalHigh != nil && *c.NormalLow > *c.NormalHigh {
		return fmt.Errorf("normal_low: %v is above normal_high, which is %v", *c.NormalLow, *c.NormalHigh)
	}
	return nil
}

func (c *Config) field() string {
	if c.Field == "" {
		return "value"
	}
	return c.Field
}

func (c *Config) stream() string {
	if c.Stream == "" {
		return "mqtt"
	}
	return string(c.Stream)
}

// A Point is what is known of one configured value now.
type Point struct {
	ID      string     `json:"id"`
	Label   string     `json:"label"`
	Place   string     `json:"place"`
	Unit    string     `json:"unit"`
	Low     float64    `json:"low"`
	High    float64    `json:"high"`
	NormLow *float64   `json:"normal_low"`
	NormHi  *float64   `json:"normal_high"`
	Limit   *float64   `json:"limit"`
	Value   *float64   `json:"value"`           // null until the first record
	At      *time.Time `json:"at"`              // of the value: the sender's time if it can be believed, else its arrival
	Quality string     `json:"quality"`         // good, uncertain, bad
	Trend   []Sample   `json:"trend,omitempty"` // oldest first, seconds without a value left out

	Stream string `json:"-"` // where it is read
	Key    string `json:"-"` // partition key of the newest value, "" before
}

// Sample is the least and the greatest value of one column of a trend.
type Sample struct {
	At  time.Time `json:"t"`
	Min float64   `json:"min"`
	Max float64   `json:"max"`
}

type column struct {
	second   int64 // Unix time; 0 is unused
	min, max float64
}

type point struct {
	cfg     Config
	match   conf.Filter
	path    []string
	key     string
	unit    string
	value   float64
	at      time.Time
	has     bool
	quality string
	ring    [Columns]column
}

// A Keeper keeps the configured points. Its methods are safe for concurrent use.
type Keeper struct {
	log     Log
	opts    Options
	streams []string

	mu     sync.Mutex
	points []*point
	cache  map[string][]*point // by stream, NUL, key
	unread uint64
}

// NewKeeper checks the points. An error names the point.
func NewKeeper(cfgs []Config, log Log, opts Options) (*Keeper, error) {
	opts.defaults()
	k := &Keeper{log: log, opts: opts, cache: map[string][]*point{}}
	seen := map[conf.Name]bool{}
	for _, c := range cfgs {
		if err := c.Check(); err != nil {
			return nil, fmt.Errorf("point %q: %w", c.ID, err)
		}
		if seen[c.ID] {
			return nil, fmt.Errorf("point %q: id: is used by two points", c.ID)
		}
		seen[c.ID] = true
		match, err := conf.ParseFilter(c.Key)
		if err != nil {
			return nil, fmt.Errorf("point %q: key: %w", c.ID, err)
		}
		k.points = append(k.points, &point{cfg: c, match: match, path: strings.Split(c.field(), "."), unit: c.Unit, quality: "good"})
		if !slices.Contains(k.streams, c.stream()) {
			k.streams = append(k.streams, c.stream())
		}
	}
	return k, nil
}

// Run follows the streams until ctx ends, and waits for its readers.
func (k *Keeper) Run(ctx context.Context) error {
	follow(ctx, k.log, k.streams, k.opts, k.take)
	return nil
}

func (k *Keeper) take(stream string, recs []record.Record) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range recs {
		for _, p := range k.lookup(stream, recs[i].Key) {
			if !p.take(&recs[i]) {
				k.unread++
			}
		}
	}
}

func (k *Keeper) lookup(stream, key string) []*point {
	id := stream + "\x00" + key
	if ps, ok := k.cache[id]; ok {
		return ps
	}
	if len(k.cache) >= keyCache {
		clear(k.cache)
	}
	var ps []*point
	for _, p := range k.points {
		if p.cfg.stream() == stream && p.match.Match(key) {
			ps = append(ps, p)
		}
	}
	k.cache[id] = ps
	return ps
}

// Unread is how many records matched a point but held no value of it.
func (k *Keeper) Unread() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unread
}

// take takes a value over; it reports whether the record held one.
func (p *point) take(r *record.Record) bool {
	m, ok := decode(r.Data, p.path)
	if !ok {
		return false
	}
	at := r.Arrived
	if d := r.At.Sub(r.Arrived); !r.At.IsZero() && d <= maxFuture && d >= -maxLate {
		at = r.At
	}
	at = at.UTC()
	newest := !p.has || !at.Before(p.at)
	if newest {
		p.quality = m.quality
		if p.cfg.Unit == "" && m.unit != "" {
			p.unit = m.unit
		}
	}
	if !m.hasValue {
		return m.quality != "good" // a bad measurement need not have a value
	}
	if newest {
		p.value, p.at, p.has = m.value, at, true
		if p.key != r.Key {
			p.key = strings.Clone(r.Key) // the record is a view
		}
	}
	if m.quality != "bad" {
		p.draw(at, m.value)
	}
	return true
}

func (p *point) draw(at time.Time, v float64) {
	s := at.Unix()
	c := &p.ring[((s%Columns)+Columns)%Columns]
	switch {
	case c.second == s:
		c.min, c.max = math.Min(c.min, v), math.Max(c.max, v)
	case c.second < s:
		*c = column{s, v, v}
	}
}

// Snapshot is the points in the order of the config, with their trends if they
// are wanted. The caller owns it.
func (k *Keeper) Snapshot(trend bool) []Point {
	now := k.opts.Now().Unix()
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]Point, 0, len(k.points))
	for _, p := range k.points {
		c := &p.cfg
		q := Point{
			ID: string(c.ID), Label: c.Label, Place: c.Place, Unit: p.unit, Low: c.Low, High: c.High,
			NormLow: clone(c.NormalLow), NormHi: clone(c.NormalHigh), Limit: clone(c.Limit), Quality: p.quality, Stream: c.stream(), Key: p.key,
		}
		if q.Label == "" {
			q.Label = q.ID
		}
		if p.has {
			v, at := p.value, p.at
			q.Value, q.At = &v, &at
		}
		if trend {
			q.Trend = p.trend(now)
		}
		out = append(out, q)
	}
	return out
}

func clone(v *float64) *float64 {
	if v == nil {
		return nil
	}
	c := *v
	return &c
}

// trend is the columns of the last Columns seconds. What lies in the future of
// a clock that was set back is left out.
func (p *point) trend(now int64) []Sample {
	var out []Sample
	for s := now - Columns + 1; s <= now; s++ {
		if c := &p.ring[((s%Columns)+Columns)%Columns]; c.second == s {
			out = append(out, Sample{time.Unix(s, 0).UTC(), c.min, c.max})
		}
	}
	return out
}
