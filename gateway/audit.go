package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"forebay/spool/record"
)

// auditStream is where acts of operators are noted.
const auditStream = "audit"

// An act is one record of the stream audit: what an operator did, to what.
type act struct {
	Event  string    `json:"event"` // uplink-paused, uplink-resumed, uplink-retried
	Object string    `json:"object"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
	Note   string    `json:"note,omitempty"`
}

// auditWait bounds the wait for room in a log that is full: the act is done.
const auditWait = 5 * time.Second

// audit notes an act; it is on disk when audit returns nil.
func (p *plant) audit(ctx context.Context, a act) error {
	a.At = p.g.clock.now().UTC()
	data, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("note %s in the stream audit: %w", a.Event, err)
	}
	t, err := p.g.sp.Stream(auditStream)
	if err != nil {
		return fmt.Errorf("note %s in the stream audit: %w", a.Event, err)
	}
	ctx, cancel := context.WithTimeout(ctx, auditWait)
	defer cancel()
	res, err := t.Put(ctx, []record.Record{{Key: a.Object, At: a.At, TimeQ: record.TimeDevice, Type: "application/json", Data: data}})
	if err == nil {
		err = res[0].Err
	}
	if err != nil {
		return fmt.Errorf("note %s in the stream audit: %w", a.Event, err)
	}
	return nil
}
