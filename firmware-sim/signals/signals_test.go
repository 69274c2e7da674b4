package signals_test

import (
	"math"
	"testing"
	"time"

	"forebay/firmware-sim/signals"
)

var specs = map[string]signals.Spec{
	signals.Thermal:   {Model: signals.Thermal, Base: 62, Swing: 5, Noise: 0.2},
	signals.Pressure:  {Model: signals.Pressure, Base: 40, Swing: 120, Noise: 1, Period: 4},
	signals.Vibration: {Model: signals.Vibration, Base: 2, Swing: 0.5, Noise: 0.2},
	signals.Flow:      {Model: signals.Flow, Base: 30, Swing: 2, Noise: 0.2},
	signals.Humidity:  {Model: signals.Humidity, Base: 45, Swing: 4, Noise: 0.3},
	signals.Counter:   {Model: signals.Counter, Base: 2},
}

func run(s *signals.Signal, n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = s.Step(500 * time.Millisecond).Value
	}
	return v
}

func TestSameSeedSameValues(t *testing.T) {
	for model, spec := range specs {
		if err := spec.Check(); err != nil {
			t.Fatal(err)
		}
		a, b := run(signals.New(spec, 7, "d"), 1000), run(signals.New(spec, 7, "d"), 1000)
		other, seed := run(signals.New(spec, 7, "e"), 1000), run(signals.New(spec, 8, "d"), 1000)
		same := func(x []float64) (n int) {
			for i := range a {
				if a[i] == x[i] {
					n++
				}
			}
			return n
		}
		if n := same(b); n != len(a) {
			t.Errorf("%s: %d of %d values repeat with the same seed", model, n, len(a))
		}
		if n := same(other); n == len(a) {
			t.Errorf("%s: another name gives the same values", model)
		}
		if n := same(seed); n == len(a) {
			t.Errorf("%s: another seed gives the same values", model)
		}
	}
}

// TestWithinReason runs each model for a simulated day.
func TestWithinReason(t *testing.T) {
	bounds := map[string][2]float64{
		signals.Thermal: {50, 75}, signals.Pressure: {30, 170}, signals.Vibration: {1.9, 6},
		signals.Flow: {15, 45}, signals.Humidity: {35, 55}, signals.Counter: {0, 200_000},
	}
	for model, spec := range specs {
		last, low, high := 0.0, math.Inf(1), math.Inf(-1)
		for i, v := range run(signals.New(spec, 1, model), 2*86400) {
			low, high = math.Min(low, v), math.Max(high, v)
			if model == signals.Counter && (v < last || v != math.Floor(v)) {
				t.Fatalf("counter went from %v to %v at %d", last, v, i)
			}
			last = v
		}
		if b := bounds[model]; low < b[0] || high > b[1] {
			t.Errorf("%s: %v to %v, want within %v", model, low, high, b)
		}
		if high == low {
			t.Errorf("%s does not move", model)
		}
	}
}

func TestFaults(t *testing.T) {
	spec := specs[signals.Thermal]
	const before, during = 100, 40 // steps of 0.5 s: the fault runs for 20 s
	play := func(f signals.Fault) (clean, got []signals.Reading) {
		a, b := signals.New(spec, 3, "x"), signals.New(spec, 3, "x")
		for i := range before + 2*during {
			if i == before {
				b.Inject(f)
			}
			clean, got = append(clean, a.Step(500*time.Millisecond)), append(got, b.Step(500*time.Millisecond))
		}
		return clean, got
	}
	fault := func(kind string, by float64) signals.Fault {
		return signals.Fault{Kind: kind, Point: "d/p", For: 20 * time.Second, By: by}
	}
	near := func(got, want float64) bool { return math.Abs(got-want) < 0.0021 }

	clean, got := play(fault(signals.Ramp, 40))
	for i := range got {
		diff := got[i].Value - clean[i].Value
		switch {
		case i < before && diff != 0:
			t.Fatalf("ramp: step %d before the fault differs", i)
		case i == before+during-1 && !near(diff, 40):
			t.Errorf("ramp: at its end it adds %v, want 40", diff)
		case i == len(got)-1 && math.Abs(diff) > 2:
			t.Errorf("ramp: 20 s later it still adds %v", diff)
		}
	}
	clean, got = play(fault(signals.Spike, -30))
	if d := got[before].Value - clean[before].Value; !near(d, -30) {
		t.Errorf("spike adds %v, want -30", d)
	}
	if got[before+1] != clean[before+1] {
		t.Error("the spike lasts longer than a reading")
	}
	clean, got = play(fault(signals.Stuck, 0))
	for i := before; i < before+during; i++ {
		if got[i].Value != got[before].Value {
			t.Fatalf("stuck: step %d moved", i)
		}
	}
	if got[before+during+1] != clean[before+during+1] {
		t.Error("stuck: it does not come free as if nothing had been")
	}
	for kind, copies := range map[string]int{signals.Dropout: 0, signals.Duplicate: 2} {
		_, got = play(fault(kind, 0))
		for i, r := range got {
			want := 1
			if i >= before && i < before+during {
				want = copies
			}
			if r.Copies != want {
				t.Fatalf("%s: step %d is reported %d times, want %d", kind, i, r.Copies, want)
			}
		}
	}
}

func TestParseFault(t *testing.T) {
	f, err := signals.ParseFault("ramp:press1/temperature@20s+1m=40.5")
	want := signals.Fault{Kind: signals.Ramp, Point: "press1/temperature", At: 20 * time.Second, For: time.Minute, By: 40.5}
	if err != nil || f != want {
		t.Fatalf("%+v, %v", f, err)
	}
	if f, err = signals.ParseFault("dropout:d/p@0s+5s"); err != nil || f.By != 0 {
		t.Fatalf("%+v, %v", f, err)
	}
	for _, s := range []string{
		"", "melt:d/p@1s+1s", "ramp:d/p@1s+1s", "ramp:dp@1s+1s=1", "stuck:d/p@1s", "stuck:d/p@1s+0s",
		"stuck:d/p@-1s+1s", "spike:d/p@1s+1s=NaN", "stuck:d/p",
	} {
		if f, err := signals.ParseFault(s); err == nil {
			t.Errorf("%q was read as %+v", s, f)
		}
	}
}
