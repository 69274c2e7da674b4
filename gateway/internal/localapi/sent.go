package localapi

import (
	"errors"
	"net/http"
	"time"

	"forebay/gateway/api"
)

// sent says what an uplink has delivered: what a far side is held against.
// ?from= and ?to= bound the arrival, ?keeps= is since when the target keeps.
func (s *Server) sent(w http.ResponseWriter, r *http.Request) {
	var ask api.SentAsk
	q := r.URL.Query()
	for name, to := range map[string]*time.Time{"from": &ask.From, "to": &ask.To, "keeps": &ask.Keeps} {
		text := q.Get(name)
		if text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			s.fail(w, http.StatusBadRequest, name+" is not a time", "write for example 2026-11-05T14:00:00Z")
			return
		}
		*to = at
	}
	out, err := s.plant.Sent(r.Context(), r.PathValue("uplink"), ask)
	switch {
	case errors.Is(err, ErrNoUplink):
		s.fail(w, http.StatusNotFound, err.Error(), "GET /v1/uplinks lists them")
	case err != nil:
		s.failWith(w, err)
	default:
		s.answer(w, http.StatusOK, out)
	}
}
