package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// LogLedger compares, for the streams that share a log, what sources put in
// with the sequence numbers that were given: numbered = taken + uncounted.
type LogLedger struct {
	Log       uint32   `json:"log"`
	Streams   []string `json:"streams"`
	Taken     uint64   `json:"taken"`
	Numbered  uint64   `json:"numbered"`
	Uncounted int64    `json:"uncounted"` // of records whose source damage hid
}

// LedgerChain tells of the steps behind the sums. Each step carries a SHA-256
// over its words and the hash of the one before.
type LedgerChain struct {
	Steps  uint64 `json:"steps"` // ever entered
	Head   string `json:"head"`  // hash of the newest
	Holds  bool   `json:"holds"`
	Broken string `json:"broken,omitempty"` // where it does not hold
}

// LedgerStep is one thing that was lost or set aside. Kinds: epoch, expired,
// max-age, dropped, gone, kept, corrupt, refused, shed, cursor-dropped, erased,
// folded, broken; docs/ledger.md says what each means.
type LedgerStep struct {
	ID          uint64    `json:"id"`
	At          time.Time `json:"at"`    // wall clock
	Clock       int64     `json:"clock"` // retention clock, nanoseconds
	Kind        string    `json:"kind"`
	Stream      string    `json:"stream,omitempty"`
	Shard       uint32    `json:"shard,omitempty"`    // number within the spool
	ShardID     string    `json:"shard_id,omitempty"` // shardId-000000000000; empty where it is not known
	First       uint64    `json:"first,omitempty"`    // sequence numbers first to past-1
	Past        uint64    `json:"past,omitempty"`
	Count       uint64    `json:"count"`
	Undelivered uint64    `json:"undelivered,omitempty"` // of them, not passed by a cursor
	Who         string    `json:"who,omitempty"`         // cursor, source, or epoch
	Reason      string    `json:"reason,omitempty"`
	Hash        string    `json:"hash"`
}

// DroppedCursor answers DropCursor.
type DroppedCursor struct {
	Stream string `json:"stream"`
	Cursor string `json:"cursor"`
}

// LedgerSteps is Ledger with its newest steps, oldest first; the gateway
// verifies the whole chain for it. limit 0 is all that are kept.
func (c *Client) LedgerSteps(ctx context.Context, limit int) (Ledger, error) {
	return get[Ledger](ctx, c, "/v1/ledger?steps="+strconv.Itoa(limit))
}

// DropCursor gives up what a cursor has not passed; durable when it returns.
// by is who asks, and stands in the ledger. A cursor that is in use is answered
// with an *Error of status 409.
func (c *Client) DropCursor(ctx context.Context, stream, cursor, by string) (DroppedCursor, error) {
	var res DroppedCursor
	path := "/v1/streams/" + url.PathEscape(stream) + "/cursors/" + url.PathEscape(cursor) + "?by=" + url.QueryEscape(by)
	resp, err := c.do(ctx, http.MethodDelete, path, nil, nil)
	if err != nil {
		return res, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&res); err != nil {
		return res, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return res, nil
}
