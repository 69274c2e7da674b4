package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Sent is GET /v1/uplinks/{uplink}/sent: what an uplink has delivered as the
// ledger counts it and as the log still has it, by lanes and ranges. A far side
// is held against it.
type Sent struct {
	At      time.Time   `json:"at"`
	Gateway string      `json:"gateway"`
	Epoch   string      `json:"epoch"`
	Epochs  []string    `json:"epochs"` // that the ledger knows of, oldest first
	Uplink  string      `json:"uplink"`
	Shards  []SentShard `json:"shards"`
	Lanes   []SentLane  `json:"lanes"`
}

// SentShard is what the uplink's cursor says of one shard: it has passed the
// records from Start up to Next, Next not included.
type SentShard struct {
	Stream    string `json:"stream"`
	Far       string `json:"far_stream"` // what the stream is called at the far side
	Number    uint32 `json:"number"`
	ID        string `json:"id"` // shardId-…
	Start     uint64 `json:"start"`
	Next      uint64 `json:"next"`
	First     uint64 `json:"first_kept"` // what is before it the log no longer has
	Delivered uint64 `json:"delivered"`
	Filtered  uint64 `json:"filtered"`
	Refused   uint64 `json:"refused"`
	Expired   uint64 `json:"expired"`
	Corrupt   uint64 `json:"corrupt"`
	// Waiting is how many records the log has that the cursor has not passed.
	Waiting uint64 `json:"waiting"`
	// RefusedKnown is how many of the refused ones are known by their ids, from
	// the stream "refused"; those are in no lane.
	RefusedKnown uint64 `json:"refused_known"`
	// Unreadable is how many of the passed records the log has and cannot read.
	Unreadable uint64 `json:"unreadable"`
	// Outside is how many of those that the log has did not arrive in the time
	// that was asked for; they are in no lane.
	Outside uint64 `json:"outside"`
	// Forwarded are records that carry other gateways' ids, Aggregates those
	// that were stored as one and travel as several.
	Forwarded  uint64 `json:"forwarded"`
	Aggregates uint64 `json:"aggregates"`
	// Oldest is when the oldest record that the log has arrived.
	Oldest *time.Time `json:"oldest,omitempty"`
}

// SentLane is the ids of one lane, GATEWAY/EPOCH/SHARD, that the uplink passed
// and the log still has.
type SentLane struct {
	Lane   string      `json:"lane"`
	Stream string      `json:"stream"` // where they lie here
	Shard  uint32      `json:"shard"`
	Ranges [][2]uint64 `json:"ranges"`          // sequence numbers, both ends included
	Parts  [][3]uint64 `json:"parts,omitempty"` // sequence number, first part, last part
	// Old is the highest sequence number whose record arrived here before the
	// time `keeps` of the request; 0 for none.
	Old uint64 `json:"old,omitempty"`
}

// SentAsk says what Sent is to be about.
type SentAsk struct {
	// From and To bound the arrival here, To excluded; zero: no bound.
	From, To time.Time
	// Keeps is since when the target keeps what arrived; zero: for ever.
	Keeps time.Time
}

// maxSent bounds the answer, bytes.
const maxSent = 512 << 20

// Sent asks what an uplink has delivered. The gateway reads its log for that,
// which takes its time where much is kept.
func (c *Client) Sent(ctx context.Context, uplink string, ask SentAsk) (Sent, error) {
	q := url.Values{}
	for name, t := range map[string]time.Time{"from": ask.From, "to": ask.To, "keeps": ask.Keeps} {
		if !t.IsZero() {
			q.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	var out Sent
	resp, err := c.do(ctx, http.MethodGet, "/v1/uplinks/"+url.PathEscape(uplink)+"/sent?"+q.Encode(), nil, nil)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxSent)).Decode(&out); err != nil {
		return out, fmt.Errorf("read what the uplink has delivered: %w", err)
	}
	return out, nil
}
