package plant_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/firmware-sim/plant"
	"forebay/firmware-sim/signals"
)

func TestBuiltin(t *testing.T) {
	p, err := plant.Load("builtin")
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Devices) != 20 || len(p.Serial) != 2 || len(p.Cameras) != 1 || len(p.Rules) != 2 {
		t.Fatalf("%d devices, %d serial, %d cameras, %d rules", len(p.Devices), len(p.Serial), len(p.Cameras), len(p.Rules))
	}
	tiles, topics := 0, map[string]bool{}
	for _, d := range p.Devices {
		if strings.Count(d.Place, "/") != 3 {
			t.Errorf("%s: place %q is not site/area/line/cell", d.ID, d.Place)
		}
		for _, pt := range d.Points {
			if topics[d.Topic(pt)] {
				t.Errorf("topic %s is there twice", d.Topic(pt))
			}
			topics[d.Topic(pt)] = true
			if pt.Unit == "" {
				t.Errorf("%s/%s has no unit", d.ID, pt.Name)
			}
			if pt.Label == "" {
				continue
			}
			tiles++
			checkNormal(t, d, pt)
		}
	}
	if tiles != 8 {
		t.Errorf("%d tiles, want 8", tiles)
	}
}

// checkNormal: without a fault, an hour of a tile's signal lies within its
// normal band, and the band within the scale and under the limit.
func checkNormal(t *testing.T, d plant.Device, pt plant.Point) {
	t.Helper()
	if pt.NormalLow == nil || pt.NormalHigh == nil || *pt.NormalLow < pt.Low || *pt.NormalHigh > pt.High {
		t.Errorf("%s/%s: no normal band within the scale", d.ID, pt.Name)
		return
	}
	if pt.Limit != nil && *pt.Limit <= *pt.NormalHigh {
		t.Errorf("%s/%s: the limit lies within the normal band", d.ID, pt.Name)
	}
	for seed := range uint64(3) {
		s := signals.New(pt.Signal, seed, d.ID+"/"+pt.Name)
		low, high := math.Inf(1), math.Inf(-1)
		for range 3600 {
			v := s.Step(time.Second).Value
			low, high = math.Min(low, v), math.Max(high, v)
		}
		if low < *pt.NormalLow || high > *pt.NormalHigh {
			t.Errorf("%s/%s: runs from %v to %v, the normal band is %v to %v", d.ID, pt.Name, low, high, *pt.NormalLow, *pt.NormalHigh)
		}
	}
}

func TestFleet(t *testing.T) {
	p, err := plant.Load("builtin")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 3, 20, 55} {
		ids := map[string]bool{}
		topics := map[string]bool{}
		for _, d := range p.Fleet(n) {
			ids[d.ID] = true
			topics[d.Topic(d.Points[0])] = true
		}
		if len(ids) != n || len(topics) != n {
			t.Errorf("fleet of %d: %d ids, %d topics", n, len(ids), len(topics))
		}
	}
	if _, _, ok := p.Point("press1/temperature"); !ok {
		t.Error("press1/temperature is not there")
	}
	if _, _, ok := p.Point("press1/nothing"); ok {
		t.Error("a point that is not there was found")
	}
}

func TestBadPlants(t *testing.T) {
	device := "[[device]]\nid = \"a\"\nplace = \"s/a/l/c\"\n"
	point := "[[device.point]]\nname = \"x\"\nsignal = { model = \"flow\" }\n"
	for name, c := range map[string]struct{ text, want string }{
		"nothing":       {"", "no [[device]]"},
		"unknown key":   {"colour = 1\n" + device + point, "colour"},
		"wrong type":    {"name = 1\n", ":1:"},
		"no points":     {device, "at least one"},
		"unknown model": {device + "[[device.point]]\nname = \"x\"\nsignal = { model = \"magic\" }\n", "magic"},
		"same id":       {device + point + device + point, "twice"},
		"bad id":        {strings.Replace(device, `"a"`, `"A B"`, 1) + point, "A B"},
		"qos 3":         {device + "qos = 3\n" + point, "qos"},
		"serial kind":   {device + point + "[[serial]]\nid = \"s\"\nkind = \"modem\"\nsignal = { model = \"flow\" }\n", "modem"},
		"interval":      {device + point + "[[serial]]\nid = \"s\"\nkind = \"line\"\ninterval = \"soon\"\nsignal = { model = \"flow\" }\n", "soon"},
	} {
		path := filepath.Join(t.TempDir(), "plant.toml")
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := plant.Load(path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := plant.Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a plant that is not there was read")
	}
}
