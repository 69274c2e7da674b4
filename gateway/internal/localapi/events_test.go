package localapi

import (
	"bytes"
	"testing"

	"forebay/gateway/api"
)

// scene is a plant of which only the alarms and cameras are looked at.
type scene struct {
	Plant
	alarms []api.Alarm
	look   func() // called in the middle of a snapshot
}

func (s *scene) Status() api.Status             { return api.Status{} }
func (s *scene) Alarms() []api.Alarm            { return s.alarms }
func (s *scene) Points(bool) []api.Point        { return nil }
func (s *scene) Devices() []api.Device          { return nil }
func (s *scene) Streams() []api.Stream          { return nil }
func (s *scene) AlarmsChanged() <-chan struct{} { return nil }
func (s *scene) Cameras() []api.Camera {
	if look := s.look; look != nil {
		s.look = nil
		look()
	}
	return nil
}

func hears(w *watcher, missed [][]byte, word string) bool {
	for {
		select {
		case b := <-w.events:
			missed = append(missed, b)
			continue
		default:
		}
		return bytes.Contains(bytes.Join(missed, nil), []byte(word))
	}
}

// An alarm that is raised while a second console's snapshot is made is told to
// all consoles once, and once only: the second must not miss it.
func TestNothingIsMissedBetweenSnapshotAndEvents(t *testing.T) {
	s := &scene{alarms: []api.Alarm{}}
	h := newHub(s)
	tell := func() { h.tell("alarms", func(e *api.Event) { e.Alarms = s.Alarms() }) }
	first, _, _ := h.watch(0)
	defer h.leave(first)
	tell()
	s.look = func() {
		s.alarms = []api.Alarm{{ID: "hot"}}
		tell()
	}
	second, missed, ok := h.watch(0)
	if !ok {
		t.Fatal("not let in")
	}
	defer h.leave(second)
	tell() // the tick: nothing has changed since
	if !hears(second, missed, `"hot"`) {
		t.Error("the second console never hears of the alarm")
	}
}

// Numbers of an earlier start mean nothing to this one, small as they may be.
func TestNumbersOfAnEarlierStartAreNotResumed(t *testing.T) {
	before := newHub(&scene{})
	w, _, _ := before.watch(0)
	before.tell("alarms", func(e *api.Event) { e.Alarms = []api.Alarm{{ID: "old"}} })
	heard := before.seq
	before.leave(w)

	s := &scene{}
	h := newHub(s)
	h.seq = max(h.seq, heard+5) // 5 ms later, at least
	other, _, _ := h.watch(0)
	defer h.leave(other)
	for _, id := range []string{"a", "b", "c"} {
		s.alarms = []api.Alarm{{ID: id}}
		h.tell("alarms", func(e *api.Event) { e.Alarms = s.Alarms() })
	}
	back, missed, _ := h.watch(heard)
	defer h.leave(back)
	if !hears(back, missed, `"kind":"snapshot"`) {
		t.Errorf("resumed behind %d with %q", heard, missed)
	}
}
