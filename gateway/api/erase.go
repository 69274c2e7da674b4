package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// EraseRequest is the body of POST /v1/streams/{stream}/erase.
type EraseRequest struct {
	Confirm string `json:"confirm"` // the stream's name once more
	By      string `json:"by"`
}

// EraseResult answers it.
type EraseResult struct {
	Stream  string    `json:"stream"`
	Records uint64    `json:"records"` // that were kept and are gone
	At      time.Time `json:"at"`
}

// Erase deletes the key of an encrypted stream: all its records are gone, for
// good, when Erase returns without an error. The stream goes on with a new key.
func (c *Client) Erase(ctx context.Context, stream, by string) (EraseResult, error) {
	var res EraseResult
	b, err := json.Marshal(EraseRequest{Confirm: stream, By: by})
	if err != nil {
		return res, fmt.Errorf("write the request: %w", err)
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/streams/"+url.PathEscape(stream)+"/erase", bytes.NewReader(b), http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return res, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&res); err != nil {
		return res, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return res, nil
}
