package link

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Control is the link's HTTP interface: POST /cut, /slow?bps=N&delay=D,
// /half-open, /up; GET / for the Stats. Every answer is the Stats as JSON.
func (l *Link) Control() http.Handler {
	mux := http.NewServeMux()
	do := func(f func(*http.Request) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if err := f(r); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(l.Stats()); err != nil {
				l.log.Debug("control answer not sent", "error", err)
			}
		}
	}
	mux.HandleFunc("POST /cut", do(func(*http.Request) error { return l.Cut() }))
	mux.HandleFunc("POST /up", do(func(*http.Request) error { return l.Restore() }))
	mux.HandleFunc("POST /half-open", do(func(*http.Request) error { return l.HalfOpen() }))
	mux.HandleFunc("GET /{$}", do(func(*http.Request) error { return nil }))
	mux.HandleFunc("POST /slow", do(func(r *http.Request) error {
		var bps int64
		var delay time.Duration
		var err error
		if v := r.FormValue("bps"); v != "" {
			if bps, err = strconv.ParseInt(v, 10, 64); err != nil {
				return fmt.Errorf("bps: %q is not a number of bytes a second", v)
			}
		}
		if v := r.FormValue("delay"); v != "" {
			if delay, err = time.ParseDuration(v); err != nil {
				return fmt.Errorf("delay: %q is not a duration such as 200ms", v)
			}
		}
		return l.Slow(bps, delay)
	}))
	return mux
}
