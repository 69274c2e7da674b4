package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// UplinkRequest is the body of POST /v1/uplinks/{id}/pause, resume and retry.
type UplinkRequest struct {
	By string `json:"by"` // who asks; it stands in the stream audit
}

// PauseUplink stops an uplink until it is resumed, also over a restart of the
// gateway; what is under way is waited for. The answer is the uplink as it is
// then. An id that does not exist is answered with an *Error of status 404.
func (c *Client) PauseUplink(ctx context.Context, id, by string) (Uplink, error) {
	return c.uplink(ctx, id, "pause", by)
}

// ResumeUplink ends a pause.
func (c *Client) ResumeUplink(ctx context.Context, id, by string) (Uplink, error) {
	return c.uplink(ctx, id, "resume", by)
}

// RetryUplink ends every wait for a next try. An uplink that is paused is
// answered with an *Error of status 409.
func (c *Client) RetryUplink(ctx context.Context, id, by string) (Uplink, error) {
	return c.uplink(ctx, id, "retry", by)
}

func (c *Client) uplink(ctx context.Context, id, verb, by string) (Uplink, error) {
	var res Uplink
	b, err := json.Marshal(UplinkRequest{By: by})
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

// UplinkUsage is what price lists count, since the gateway's start. Plain is
// what the same records would count if each had travelled as a record of its
// own, without aggregation.
type UplinkUsage struct {
	Requests       uint64  `json:"requests_total"`
	PayloadBytes   uint64  `json:"payload_bytes_total"` // keys and data of what was acknowledged
	WirePerPayload float64 `json:"wire_per_payload"`    // bytes over the link for a byte of them; 0 where unknown
	Units          uint64  `json:"units_total"`         // PUT payload units of 25 kB, where the target counts such
	PlainUnits     uint64  `json:"plain_units_total"`
	PlainWire      uint64  `json:"plain_wire_bytes_total"` // over the link, headers not counted
	BilledBytes    uint64  `json:"billed_bytes_total"`     // on demand: each record rounded up to 1 KiB
	PlainBilled    uint64  `json:"plain_billed_bytes_total"`
}

// UplinkCost is what a month of 30 days costs if records go on arriving as in
// the last hour, and as in the last day, and each costs what those have cost
// that went out; null while too little of it is known (before a quarter of an
// hour, an hour), and where nothing has a price. Prices are the config's, see [uplink.price].
type UplinkCost struct {
	Model           string      `json:"model"` // provisioned, on-demand, none
	Currency        string      `json:"currency"`
	Priced          bool        `json:"priced"` // something has a price: what is null is not yet known
	Month           *UplinkBill `json:"month"`
	MonthPlain      *UplinkBill `json:"month_plain"` // without aggregation
	MonthByDay      *UplinkBill `json:"month_by_day"`
	MonthByDayPlain *UplinkBill `json:"month_by_day_plain"`
}

// UplinkBill says what the money is for.
type UplinkBill struct {
	Units       float64 `json:"units"`
	ShardHours  float64 `json:"shard_hours"`
	StreamHours float64 `json:"stream_hours"`
	Data        float64 `json:"data"` // gigabytes on demand
	Link        float64 `json:"link"`
	Sum         float64 `json:"sum"`
}
