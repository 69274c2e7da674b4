package uplink

import (
	"testing"
	"time"
)

// A pump that goes last has its turn when nobody else waits.
func TestCapTurns(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	c := &Cap{plan: plan{kbit: 8, zone: time.UTC}, wall: func() time.Time { return now }} // 1000 bytes a second
	if c.ask("replay", true, now) != 0 {
		t.Fatal("it waits for nobody")
	}
	c.charge(1000, now)
	for _, w := range []struct {
		who  string
		last bool
	}{{"replay", true}, {"a", false}, {"b", false}} {
		if c.ask(w.who, w.last, now) == 0 {
			t.Fatalf("%s goes though the link is owed a second", w.who)
		}
	}
	now = now.Add(time.Second)
	for _, w := range []struct {
		who  string
		last bool
		goes bool
	}{{"replay", true, false}, {"b", false, false}, {"a", false, true}, {"replay", true, false}, {"b", false, true}, {"replay", true, true}} {
		if got := c.ask(w.who, w.last, now) == 0; got != w.goes {
			t.Errorf("%s goes: %v", w.who, got)
		}
	}
}
