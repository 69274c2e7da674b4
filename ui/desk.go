package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"forebay/gateway/api"
	"forebay/ui/view"
)

// A job is a question or an order to the gateway.
type job func(ctx context.Context)

// askWithin is for a question of the desk: to count a replay or to read what
// was refused the gateway may go through much.
const askWithin = 30 * time.Second

// errBusy is said where more is asked than answered.
var errBusy = errors.New("too much under way")

// work does jobs one after the other.
func (f *feed) work(ctx context.Context, jobs <-chan job) {
	for {
		select {
		case <-ctx.Done():
			return
		case do := <-jobs:
			actx, cancel := context.WithTimeout(ctx, askWithin)
			do(actx)
			cancel()
			f.hurry()
		}
	}
}

// hand gives a job to its worker without waiting; busy is called where there
// is no room.
func (f *feed) hand(to chan<- job, do job, busy func(error)) {
	select {
	case to <- do:
	default:
		busy(errBusy)
	}
	f.hurry()
}

// tell changes the model.
func (f *feed) tell(change func(m *view.Model)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.model)
}

// heard marks an error with whether the gateway may have done what was asked.
func heard(err error) error {
	var answer *api.Error
	var dial *net.OpError
	switch {
	case err == nil, errors.As(err, &answer):
		return err
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Errorf("%w (%w)", view.ErrNotSent, err)
	}
	return fmt.Errorf("%w (%w)", view.ErrNoAnswer, err)
}

// Open asks for what a replay of the uplink can be of.
func (f *feed) Open(uplink string) {
	f.tell(func(m *view.Model) { m.Open(uplink) })
	done := func(all []api.Stream, err error) {
		f.tell(func(m *view.Model) { m.Streams(uplink, all, err) })
	}
	f.hand(f.asks, func(ctx context.Context) {
		all, err := f.gw.Streams(ctx)
		done(all, heard(err))
	}, func(err error) { done(nil, err) })
}

// Check asks what a replay would be.
func (f *feed) Check(o view.Order) {
	f.tell(func(m *view.Model) { m.Checking(o) })
	f.order(f.asks, o, true)
}

// Replay orders one.
func (f *feed) Replay(o view.Order) {
	f.tell(func(m *view.Model) { m.Starting(o) })
	f.order(f.jobs, o, false)
}

func (f *feed) order(to chan<- job, o view.Order, preview bool) {
	done := func(e api.Errand, err error) {
		f.tell(func(m *view.Model) { m.Ordered(o, e, err) })
	}
	f.hand(to, func(ctx context.Context) {
		e, err := f.gw.Replay(ctx, o.Uplink, api.ReplayRequest{By: f.by, Stream: o.Stream, From: o.From, To: o.To, As: o.As, Preview: preview})
		if err != nil && ctx.Err() == nil {
			f.log.Warn("replay not done as asked", "uplink", o.Uplink, "preview", preview, "error", err)
		}
		done(e, heard(err))
	}, func(err error) { done(api.Errand{}, err) })
}

// Refused asks for the newest records that the target refused.
func (f *feed) Refused(uplink string, limit int) {
	f.tell(func(m *view.Model) { m.Listing(uplink, limit) })
	f.hand(f.asks, func(ctx context.Context) { f.list(ctx, uplink, limit) }, func(err error) {
		f.tell(func(m *view.Model) { m.Listed(time.Now(), uplink, api.Refused{}, err) })
	})
}

func (f *feed) list(ctx context.Context, uplink string, limit int) {
	r, err := f.gw.Refused(ctx, uplink, limit)
	now := time.Now()
	f.tell(func(m *view.Model) { m.Listed(now, uplink, r, heard(err)) })
}

// Redrive orders that refused records are sent again: those with the ids, or
// all, of which there are count. The list is read anew then.
func (f *feed) Redrive(uplink string, ids []string, count int) {
	f.tell(func(m *view.Model) { m.Sending(uplink, count) })
	done := func(e api.Errand, err error) {
		f.tell(func(m *view.Model) { m.Redriven(uplink, e, err) })
	}
	f.hand(f.jobs, func(ctx context.Context) {
		e, err := f.gw.Redrive(ctx, uplink, api.RedriveRequest{By: f.by, IDs: ids, All: len(ids) == 0})
		if err != nil && ctx.Err() == nil {
			f.log.Warn("refused records not sent again", "uplink", uplink, "error", err)
		}
		done(e, heard(err))
		if err == nil {
			limit := view.FirstLetters
			f.tell(func(m *view.Model) { limit, _ = m.Relist(uplink) })
			f.list(ctx, uplink, limit)
		}
	}, func(err error) { done(api.Errand{}, err) })
}

const (
	endPause = 2 * time.Second // between looks for how errands ended
	endMost  = 10_000          // records of the audit that are read for one
)

// ends looks up in the stream audit how errands have ended that the gateway
// lists no more.
func (f *feed) ends(ctx context.Context) {
	tick := time.NewTicker(endPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var looks []view.Look
		f.tell(func(m *view.Model) { looks = m.Ends() })
		for _, l := range looks {
			actx, cancel := context.WithTimeout(ctx, askWithin)
			err := f.end(actx, l)
			cancel()
			if err != nil && ctx.Err() == nil {
				f.log.Warn("cannot read how an errand ended", "errand", l.ID, "error", err)
			}
		}
	}
}

func (f *feed) end(ctx context.Context, l view.Look) error {
	for r, err := range f.gw.Records(ctx, api.Tail{Stream: "audit", From: l.Since.UTC().Format(time.RFC3339Nano), Limit: endMost}) {
		if err != nil {
			return err
		}
		if r.Key != "uplink/"+l.ID {
			continue
		}
		var a struct {
			Event string    `json:"event"`
			By    string    `json:"by"`
			At    time.Time `json:"at"`
			Note  string    `json:"note"`
		}
		if err := json.Unmarshal(r.Data, &a); err != nil {
			return fmt.Errorf("read a record of the audit: %w", err)
		}
		if strings.HasSuffix(a.Event, "-ended") {
			limit, open := 0, false
			f.tell(func(m *view.Model) {
				m.Ended(view.End{ID: l.ID, By: a.By, At: a.At, Note: a.Note})
				limit, open = m.Relist(l.Uplink)
			})
			f.hurry()
			if open {
				f.Refused(l.Uplink, limit)
			}
			return nil
		}
	}
	return nil
}
