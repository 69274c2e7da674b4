package uplink_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"forebay/spool/record"
	"forebay/uplink"
)

// A passer gives nothing to send, and passes what waits in its own time, as a
// cursor does that leaves all of it out.
type passer struct {
	waits  uint64
	passed time.Time // when it has
}

func (c *passer) Next(ctx context.Context, _ int) (record.Batch, error) {
	<-ctx.Done()
	return record.Batch{}, ctx.Err()
}

func (c *passer) Poll(context.Context, int) (record.Batch, error) { return record.Batch{}, nil }
func (c *passer) Commit(uint64, record.Tally) error               { return nil }

func (c *passer) Backlog() record.Backlog {
	if time.Now().Before(c.passed) {
		return record.Backlog{Records: c.waits}
	}
	return record.Backlog{}
}

// What a lane with nothing to send counts as waiting is looked at until it is
// nothing.
func TestWhatIsLeftOutWaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &passer{waits: 100, passed: time.Now().Add(5 * time.Second)}
		p, stop := start(t, config(), newSink(t), benchLog{uplink.LaneCursor{Lane: laneOf(1), Cursor: c}})
		time.Sleep(4 * time.Second)
		if n := p.Status().Waiting.Records; n != 100 {
			t.Errorf("%d records wait, want 100", n)
		}
		time.Sleep(3 * time.Second)
		if n := p.Status().Waiting.Records; n != 0 {
			t.Errorf("%d records wait though they were passed", n)
		}
		stop()
	})
}
