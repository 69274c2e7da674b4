// Package plant is the table of what stands on the simulated factory floor.
// The simulator's devices and the demo gateway's config are both made from
// it, so that tiles, limits and alarms fit what the devices send.
package plant

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/pelletier/go-toml/v2"

	"forebay/firmware-sim/signals"
)

//go:embed builtin.toml
var builtin embed.FS

// Plant is the whole floor.
type Plant struct {
	Name    string   `toml:"name"`  // of the gateway that stands in it
	Title   string   `toml:"title"` // what people call the place
	Devices []Device `toml:"device"`
	Serial  []Serial `toml:"serial"`
	Cameras []Camera `toml:"camera"`
	Rules   []Rule   `toml:"rule"`
}

// Device is one MQTT client with its points.
type Device struct {
	ID     string  `toml:"id"`
	Place  string  `toml:"place"` // site/area/line/cell
	QoS    *byte   `toml:"qos"`   // nil is 1
	Rate   float64 `toml:"rate"`  // readings per second of each point; 0 is 1
	Points []Point `toml:"point"`
}

// Point is one measured quantity of a device. One with a label is a tile.
type Point struct {
	Name       string       `toml:"name"`
	Label      string       `toml:"label"`
	Unit       string       `toml:"unit"` // UCUM
	Low        float64      `toml:"low"`
	High       float64      `toml:"high"`
	NormalLow  *float64     `toml:"normal_low"`
	NormalHigh *float64     `toml:"normal_high"`
	Limit      *float64     `toml:"limit"`
	Signal     signals.Spec `toml:"signal"`
}

// Serial is an instrument on a serial line.
type Serial struct {
	ID       string       `toml:"id"`
	Kind     string       `toml:"kind"` // scale: answers READ; line: talks by itself
	Unit     string       `toml:"unit"`
	Interval Interval     `toml:"interval"` // between two queries of a scale, two lines of a line device; 0 is 1s
	Signal   signals.Spec `toml:"signal"`
}

// Kinds of Serial.
const (
	Scale = "scale"
	Line  = "line"
)

// Camera pushes video chunks.
type Camera struct {
	ID    string `toml:"id"`
	Label string `toml:"label"`
}

// Rule is an alarm rule of the gateway that stands in the plant.
type Rule struct {
	ID       string `toml:"id"`
	Topic    string `toml:"topic"` // MQTT topic filter
	When     string `toml:"when"`
	Clear    string `toml:"clear"`
	For      string `toml:"for"`
	Severity int    `toml:"severity"`
	Text     string `toml:"text"`
	Unit     string `toml:"unit"`
}

// Interval is a duration written as in "500ms".
type Interval time.Duration

// UnmarshalText reads it.
func (d *Interval) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v <= 0 {
		return fmt.Errorf("%q is not a duration such as 500ms", b)
	}
	*d = Interval(v)
	return nil
}

func (d Interval) String() string { return time.Duration(d).String() }

// Topic is the MQTT topic of a point.
func (d Device) Topic(p Point) string { return d.Place + "/" + p.Name }

// Load reads a plant file; "builtin" is the table within the program.
func Load(name string) (*Plant, error) {
	if name == "builtin" {
		b, err := builtin.ReadFile("builtin.toml")
		if err != nil {
			return nil, fmt.Errorf("read plant: %w", err)
		}
		return parse("builtin plant", b)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read plant: %w", err)
	}
	return parse(name, b)
}

func parse(name string, b []byte) (*Plant, error) {
	var p Plant
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		var at *toml.DecodeError
		var strict *toml.StrictMissingError
		switch {
		case errors.As(err, &at):
			line, _ := at.Position()
			return nil, fmt.Errorf("%s:%d: %w\n%s", name, line, err, at.String())
		case errors.As(err, &strict):
			return nil, fmt.Errorf("%s: %w\n%s", name, err, strict.String())
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &p, nil
}

var idForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func (p *Plant) check() error {
	seen := map[string]bool{}
	id := func(s string) error {
		switch {
		case !idForm.MatchString(s):
			return fmt.Errorf("id %q is not a name of lower-case letters, digits, - and _", s)
		case seen[s]:
			return fmt.Errorf("id %q is there twice: devices, serial instruments and cameras share one set of names", s)
		}
		seen[s] = true
		return nil
	}
	if len(p.Devices) == 0 {
		return errors.New("there is no [[device]]")
	}
	for i := range p.Devices {
		d := &p.Devices[i]
		if err := id(d.ID); err != nil {
			return err
		}
		switch {
		case d.Place == "" || len(d.Points) == 0:
			return fmt.Errorf("device %s: it needs a place and at least one [[device.point]]", d.ID)
		case d.QoS != nil && *d.QoS > 2:
			return fmt.Errorf("device %s: qos: %d is not 0, 1 or 2", d.ID, *d.QoS)
		case d.Rate < 0:
			return fmt.Errorf("device %s: rate: %v is negative", d.ID, d.Rate)
		}
		for _, pt := range d.Points {
			if pt.Name == "" {
				return fmt.Errorf("device %s: a point has no name", d.ID)
			}
			if err := pt.Signal.Check(); err != nil {
				return fmt.Errorf("device %s: point %s: signal: %w", d.ID, pt.Name, err)
			}
		}
	}
	for i := range p.Serial {
		s := &p.Serial[i]
		if err := errors.Join(id(s.ID), s.Signal.Check()); err != nil {
			return fmt.Errorf("serial: %w", err)
		}
		if s.Kind != Scale && s.Kind != Line {
			return fmt.Errorf("serial %s: kind: %q is neither %q nor %q", s.ID, s.Kind, Scale, Line)
		}
		if s.Interval == 0 {
			s.Interval = Interval(time.Second)
		}
	}
	for _, c := range p.Cameras {
		if err := id(c.ID); err != nil {
			return fmt.Errorf("camera: %w", err)
		}
	}
	return nil
}

// Fleet returns n devices: the table's first n, and beyond the table further
// copies of it whose ids and places carry a running number.
func (p *Plant) Fleet(n int) []Device {
	out := make([]Device, 0, n)
	for i := range n {
		d := p.Devices[i%len(p.Devices)]
		if copyNo := i / len(p.Devices); copyNo > 0 {
			d.ID = fmt.Sprintf("%s-%d", d.ID, copyNo+1)
			d.Place = fmt.Sprintf("%s-%d", d.Place, copyNo+1)
		}
		out = append(out, d)
	}
	return out
}

// Point finds DEVICE/POINT.
func (p *Plant) Point(name string) (Device, Point, bool) {
	for _, d := range p.Devices {
		for _, pt := range d.Points {
			if d.ID+"/"+pt.Name == name {
				return d, pt, true
			}
		}
	}
	return Device{}, Point{}, false
}
