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
