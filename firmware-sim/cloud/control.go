package cloud

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Control is the cloud's HTTP interface: POST /faults changes the named ones
// (JSON as Faults; those not named stay), POST /reshard?stream=NAME&shards=N
// changes a stream's shards, GET / gives faults and stats. Every answer is the
// two as JSON.
func (c *Cloud) Control() http.Handler {
	mux := http.NewServeMux()
	do := func(f func(*http.Request) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if err := f(r); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			out := struct {
				Faults Faults `json:"faults"`
				Stats  Stats  `json:"stats"`
			}{c.Faults(), c.Stats()}
			if err := json.NewEncoder(w).Encode(out); err != nil {
				c.log.Debug("control answer not sent", "error", err)
			}
		}
	}
	mux.HandleFunc("GET /{$}", do(func(*http.Request) error { return nil }))
	mux.HandleFunc("POST /faults", do(func(r *http.Request) error {
		f := c.Faults()
		d := json.NewDecoder(io.LimitReader(r.Body, 64<<10))
		d.DisallowUnknownFields()
		if err := d.Decode(&f); err != nil {
			return fmt.Errorf("faults: %w", err)
		}
		return c.Set(f)
	}))
	mux.HandleFunc("POST /reshard", do(c.reshard))
	return mux
}

// reshard asks the endpoint for another number of shards.
func (c *Cloud) reshard(r *http.Request) error {
	var n int
	if _, err := fmt.Sscanf(r.FormValue("shards"), "%d", &n); err != nil || n < 1 {
		return fmt.Errorf("shards: %q is not a number of shards", r.FormValue("shards"))
	}
	body, err := json.Marshal(map[string]any{"StreamName": r.FormValue("stream"), "TargetShardCount": n, "ScalingType": "UNIFORM_SCALING"})
	if err != nil {
		return err
	}
	req := r.Clone(r.Context())
	req.Header = http.Header{}
	status, _, answer, err := c.ask(req, "Kinesis_20131202.UpdateShardCount", jsonMedia, body)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("the endpoint says %d %s", status, strings.TrimSpace(string(answer)))
	}
	return nil
}
