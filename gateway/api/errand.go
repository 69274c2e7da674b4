package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Errand is a bounded piece of work beside an uplink: a replay of a stream's
// records, or a redrive of what the target refused. It is gone when it is done.
type Errand struct {
	ID     string     `json:"id"`   // UPLINK~replay-1
	Kind   string     `json:"kind"` // replay, redrive
	Uplink string     `json:"uplink"`
	Stream string     `json:"stream,omitempty"` // of a replay
	As     string     `json:"as,omitempty"`     // what it is called at the far side
	From   *time.Time `json:"from,omitempty"`   // of a replay, by arrival
	To     *time.Time `json:"to,omitempty"`
	By     string     `json:"by"`
	At     time.Time  `json:"at"` // when it was asked for
	State  string     `json:"state"`
	Error  string     `json:"error"` // in words, "" when nothing is wrong
	Total  uint64     `json:"total_records"`
	Done   uint64     `json:"done_records"`    // passed: delivered, left out, refused or missed
	Refuse uint64     `json:"refused_records"` // again, by a redrive
	Missed uint64     `json:"missed_records"`  // not kept any more
	Left   uint64     `json:"not_begun_records,omitempty"`
	ETA    *float64   `json:"eta_seconds"`
	Bytes  int64      `json:"bytes,omitempty"` // of a preview: estimate by the mean record of the stream
}

// ReplayRequest is the body of POST /v1/uplinks/{id}/replay. Times are those of
// arrival, from the first one on and before the second.
type ReplayRequest struct {
	By     string    `json:"by"`
	Stream string    `json:"stream"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	As     string    `json:"as"` // name at the far side; {stream} is the one it has otherwise; "" is replay-N-{stream}
	// Preview asks what it would be: the answer is an Errand in the state
	// preview, with its bounds, name and size. Nothing is begun or noted.
	Preview bool `json:"preview,omitempty"`
}

// RedriveRequest is the body of POST /v1/uplinks/{id}/redrive: ids of records
// that were refused, or all of them.
type RedriveRequest struct {
	By  string   `json:"by"`
	IDs []string `json:"ids"`
	All bool     `json:"all"`
}

// Refused answers GET /v1/uplinks/{id}/refused.
type Refused struct {
	Letters []Letter `json:"letters"`  // newest first
	Total   uint64   `json:"total"`    // how many there are
	Redrive uint64   `json:"redriven"` // letters that were sent again, and are still kept
}

// Letter is a record that the target can never take, as the stream refused
// keeps it. One that was sent again is listed no more; if it was refused again
// it is a letter anew.
type Letter struct {
	ID      string    `json:"id"` // of the record, in the world
	Stream  string    `json:"stream"`
	Key     string    `json:"key"`
	Reason  string    `json:"reason"`
	Arrived time.Time `json:"arrived"` // the record, here
	Type    string    `json:"type,omitempty"`
	Bytes   int       `json:"bytes"`
	Shard   uint32    `json:"shard"` // of the letter, in the stream refused
	Seq     uint64    `json:"seq"`
}

// Replay sends a time range of a stream again, to the uplink's target under
// another name. The answer comes when the order for it is on disk.
func (c *Client) Replay(ctx context.Context, uplink string, r ReplayRequest) (Errand, error) {
	return c.errand(ctx, uplink, "replay", r)
}

// Redrive sends refused records again.
func (c *Client) Redrive(ctx context.Context, uplink string, r RedriveRequest) (Errand, error) {
	return c.errand(ctx, uplink, "redrive", r)
}

// CancelErrand ends an errand before its time; what it has sent stays sent.
func (c *Client) CancelErrand(ctx context.Context, id, by string) (Errand, error) {
	return c.errand(ctx, id, "cancel", UplinkRequest{By: by})
}

func (c *Client) errand(ctx context.Context, id, verb string, body any) (Errand, error) {
	var res Errand
	b, err := json.Marshal(body)
	if err != nil {
		return res, fmt.Errorf("write the request: %w", err)
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/uplinks/"+url.PathEscape(id)+"/"+verb, bytes.NewReader(b), http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return res, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&res); err != nil {
		return res, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return res, nil
}

// Refused lists what the target of an uplink refused, at most limit of it; 0
// is 100.
func (c *Client) Refused(ctx context.Context, uplink string, limit int) (Refused, error) {
	var res Refused
	resp, err := c.do(ctx, http.MethodGet, "/v1/uplinks/"+url.PathEscape(uplink)+"/refused?limit="+strconv.Itoa(limit), nil, nil)
	if err != nil {
		return res, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&res); err != nil {
		return res, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return res, nil
}
