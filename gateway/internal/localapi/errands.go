package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"forebay/gateway/api"
)

var (
	// ErrNoErrand is what a Plant answers to the id of a replay or a redrive
	// that it does not have.
	ErrNoErrand = errors.New("no such replay or redrive")
	// ErrNothing is what it answers where there is nothing to send again.
	ErrNothing = errors.New("there is nothing to send")
	// ErrAsked is what it answers to a request that cannot be meant.
	ErrAsked = errors.New("it cannot be done as asked")
)

const (
	maxErrandBody = 1 << 20
	maxLetters    = 10_000
)

// errand reads the body of a request of type R, and answers with the errand as
// it is when do returns.
func errand[R any](s *Server, by func(R) string, do func(ctx context.Context, id string, r R) (api.Errand, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req R
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxErrandBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&req); err != nil {
			s.fail(w, http.StatusBadRequest, "the request cannot be read: "+err.Error(), "")
			return
		}
		if by(req) == "" {
			s.fail(w, http.StatusBadRequest, "by is empty", "say who asks")
			return
		}
		e, err := do(r.Context(), r.PathValue("uplink"), req)
		switch {
		case errors.Is(err, ErrNoUplink), errors.Is(err, ErrNoErrand):
			s.fail(w, http.StatusNotFound, err.Error(), "GET /v1/uplinks lists what there is")
		case errors.Is(err, ErrAsked):
			s.fail(w, http.StatusBadRequest, err.Error(), "")
		case errors.Is(err, ErrNothing):
			s.fail(w, http.StatusConflict, err.Error(), "")
		case err != nil:
			s.failWith(w, err)
		default:
			s.answer(w, http.StatusOK, e)
		}
	}
}

func (s *Server) refused(w http.ResponseWriter, r *http.Request) {
	limit := 100
	if l := r.URL.Query().Get("limit"); l != "" && l != "0" {
		var err error
		if limit, err = strconv.Atoi(l); err != nil || limit < 1 || limit > maxLetters {
			s.fail(w, http.StatusBadRequest, fmt.Sprintf("limit is not a number from 1 to %d", maxLetters), "")
			return
		}
	}
	list, err := s.plant.Refused(r.Context(), r.PathValue("uplink"), limit)
	switch {
	case errors.Is(err, ErrNoUplink):
		s.fail(w, http.StatusNotFound, err.Error(), "GET /v1/uplinks lists what there is")
	case err != nil:
		s.failWith(w, err)
	default:
		s.answer(w, http.StatusOK, list)
	}
}

func (s *Server) errandRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/uplinks/{uplink}/replay", errand(s, func(r api.ReplayRequest) string { return r.By }, s.plant.Replay))
	mux.HandleFunc("POST /v1/uplinks/{uplink}/redrive", errand(s, func(r api.RedriveRequest) string { return r.By }, s.plant.Redrive))
	mux.HandleFunc("POST /v1/uplinks/{uplink}/cancel", errand(s, func(r api.UplinkRequest) string { return r.By }, func(ctx context.Context, id string, r api.UplinkRequest) (api.Errand, error) {
		return s.plant.CancelErrand(ctx, id, r.By)
	}))
	mux.HandleFunc("GET /v1/uplinks/{uplink}/refused", s.refused)
}
