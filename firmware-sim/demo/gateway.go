package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// status is what the demo reads of GET /v1/status.
type status struct {
	Gateway string `json:"gateway"`
	Title   string `json:"title"`
	In      struct {
		PerSecond float64 `json:"records_per_second"`
		Total     uint64  `json:"records_total"`
	} `json:"in"`
	Disk struct {
		Used int64 `json:"used_bytes"`
	} `json:"disk"`
}

// uplinkState is one of GET /v1/uplinks.
type uplinkState struct {
	ID        string     `json:"id"`
	State     string     `json:"state"`
	Error     string     `json:"error"`
	Waiting   uint64     `json:"waiting_records"`
	Oldest    *time.Time `json:"oldest"`
	ETA       *float64   `json:"eta_seconds"`
	Delivered uint64     `json:"delivered_total"`
}

// alarm is one of GET /v1/alarms.
type alarm struct {
	ID       string   `json:"id"`
	Rule     string   `json:"rule"`
	Key      string   `json:"key"`
	Severity int      `json:"severity"`
	State    string   `json:"state"`
	Text     string   `json:"text"`
	Value    *float64 `json:"value"`
	Unit     string   `json:"unit"`
}

// active says that the alarm's condition holds.
func (a alarm) active() bool { return a.State == "unacked" || a.State == "acked" }

// tile is one of GET /v1/points.
type tile struct {
	Label string   `json:"label"`
	Unit  string   `json:"unit"`
	Value *float64 `json:"value"`
	Alarm int      `json:"alarm_severity"`
}

// view is a gateway at a moment.
type view struct {
	status  status
	uplinks []uplinkState
	alarms  []alarm
	tiles   []tile
	err     error // the gateway was not reached
}

// waiting is the backlog over all uplinks.
func (v view) waiting() (records uint64, oldest *time.Time) {
	for _, u := range v.uplinks {
		records += u.Waiting
		if u.Oldest != nil && (oldest == nil || u.Oldest.Before(*oldest)) {
			oldest = u.Oldest
		}
	}
	return records, oldest
}

// look asks a gateway.
func look(ctx context.Context, base string) view {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var v view
	for _, q := range []struct {
		path string
		into any
	}{{"/v1/status", &v.status}, {"/v1/uplinks", &v.uplinks}, {"/v1/alarms", &v.alarms}, {"/v1/points", &v.tiles}} {
		b, err := get(ctx, base+q.path)
		if err == nil {
			err = json.Unmarshal(b, q.into)
		}
		if err != nil {
			return view{err: fmt.Errorf("%s: %w", q.path, err)}
		}
	}
	return v
}
