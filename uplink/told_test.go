package uplink_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// talker is a sink that knows more than others.
type talker struct{ *scripted }

func (talker) ClockOffset() time.Duration { return -time.Hour }
func (talker) CommandsRefused() uint64    { return 3 }

// What a sink knows beside its outcomes stands in the status.
func TestStatusTellsWhatASinkKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, stop := start(t, config(), talker{newSink(t)}, newLog(t))
		s := p.Status()
		stop()
		if s.ClockOffset != -time.Hour || !s.Commands || s.CommandsRefused != 3 {
			t.Errorf("%+v", s)
		}
		p, stop = start(t, config(), newSink(t), newLog(t))
		s = p.Status()
		stop()
		if s.ClockOffset != 0 || s.Commands || s.CommandsRefused != 0 {
			t.Errorf("of one that knows nothing: %+v", s)
		}
	})
}
