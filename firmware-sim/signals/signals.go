// Package signals makes the values that a simulated instrument shows: small
// physical models, seeded, in the instrument's own time. The same seed, name
// and steps give the same values whatever the machine does meanwhile.
package signals

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Models of a Spec.
const (
	Thermal   = "thermal"   // first-order lag behind a slow load, with drift
	Pressure  = "pressure"  // strokes of a press or a pump over a base
	Vibration = "vibration" // velocity RMS: skewed noise over a slowly growing wear
	Flow      = "flow"      // mean-reverting noise around a set point
	Humidity  = "humidity"  // a slow swing with small noise
	Counter   = "counter"   // counts pieces: rises by whole numbers, never falls
)

var models = []string{Thermal, Pressure, Vibration, Flow, Humidity, Counter}

// Spec describes a signal. Base, Swing and Noise are in the point's unit.
type Spec struct {
	Model  string  `toml:"model"`
	Base   float64 `toml:"base"`   // middle of the signal; for a counter the pieces per second
	Swing  float64 `toml:"swing"`  // how far the process itself moves it
	Noise  float64 `toml:"noise"`  // standard deviation of the instrument
	Period float64 `toml:"period"` // seconds of the process's cycle; 0 is 60
}

// Check says whether the spec names a model and has possible numbers.
func (s Spec) Check() error {
	if !slices.Contains(models, s.Model) {
		return fmt.Errorf("model: %q is not one of %v", s.Model, models)
	}
	if s.Noise < 0 || s.Swing < 0 || s.Period < 0 {
		return fmt.Errorf("noise: noise, swing and period must not be negative")
	}
	return nil
}

// Signal is a running model. It is not safe for concurrent use.
type Signal struct {
	spec   Spec
	rng    *rand.Rand
	t      float64 // seconds of the instrument's own time
	phase  float64
	x      float64 // state of the model
	drift  float64
	faults []active
	stuck  *float64
}

type active struct {
	Fault
	start float64
}

// New returns a signal at its time 0.
func New(spec Spec, seed uint64, name string) *Signal {
	rng := Rand(seed, name)
	if spec.Period == 0 {
		spec.Period = 60
	}
	s := &Signal{spec: spec, rng: rng, phase: rng.Float64() * 2 * math.Pi}
	if spec.Model != Counter {
		s.x = spec.Base
	}
	return s
}

// Rand is a generator of its own for a part of the simulation, so that no
// part changes the numbers of another.
func Rand(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash.Hash never returns an error
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// Reading is what the instrument shows.
type Reading struct {
	Value  float64
	Copies int // how often the device reports it: 0 in a dropout, 2 where it stutters
}

// Step moves the instrument's time on by dt and reads it.
func (s *Signal) Step(dt time.Duration) Reading {
	sec := dt.Seconds()
	s.t += sec
	r := Reading{Value: s.model(sec), Copies: 1}
	s.overlay(&r)
	r.Value = math.Round(r.Value*1000) / 1000
	return r
}

// model advances the process; every call takes the same number of random
// numbers, so that a fault does not shift what follows it.
func (s *Signal) model(dt float64) float64 {
	p, gauss, skew := s.spec, s.rng.NormFloat64(), s.rng.ExpFloat64()
	cycle := math.Sin(2*math.Pi*s.t/p.Period + s.phase)
	// Ornstein-Uhlenbeck: wanders, and comes back within about two minutes.
	s.drift += -s.drift*dt/120 + 0.03*p.Swing*math.Sqrt(dt)*gauss
	switch p.Model {
	case Thermal:
		lag := p.Period / 6
		s.x += (p.Base + p.Swing*cycle - s.x) * (1 - math.Exp(-dt/lag))
		return s.x + s.drift + p.Noise*gauss
	case Pressure:
		stroke := math.Max(0, cycle) // a half-wave: the ram is down or it is not
		return p.Base + p.Swing*stroke*stroke + p.Noise*gauss
	case Vibration:
		wear := 1 + s.t/(7*24*3600) // doubles in a week
		return math.Max(0, p.Base*wear+p.Swing*0.5*(1+cycle)+p.Noise*skew)
	case Flow:
		return math.Max(0, p.Base+4*s.drift+p.Noise*gauss)
	case Humidity:
		return math.Min(100, math.Max(0, p.Base+p.Swing*cycle+p.Noise*gauss))
	default: // Counter
		s.x += p.Base * dt * (1 + 0.5*cycle)
		return math.Floor(s.x)
	}
}
