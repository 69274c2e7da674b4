package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"forebay/gateway/api"
)

var (
	// ErrNoUplink is what a Plant answers to the id of an uplink that it does
	// not have.
	ErrNoUplink = errors.New("no such uplink")
	// ErrPaused is what it answers to a retry of one that is paused.
	ErrPaused = errors.New("the uplink is paused")
)

const maxVerbBody = 4096

// uplinkVerb answers when what was asked for is done and on disk.
func (s *Server) uplinkVerb(verb string, do func(ctx context.Context, id, by string) (api.Uplink, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var req api.UplinkRequest
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxVerbBody))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&req); err != nil {
			s.fail(w, http.StatusBadRequest, "the request is not one to "+verb+" an uplink: "+err.Error(), `send {"by":"name"}`)
			return
		}
		if req.By == "" {
			s.fail(w, http.StatusBadRequest, "by is empty", "say who asks")
			return
		}
		u, err := do(r.Context(), r.PathValue("uplink"), req.By)
		switch {
		case errors.Is(err, ErrNoUplink):
			s.fail(w, http.StatusNotFound, err.Error(), "GET /v1/uplinks lists what there is")
		case errors.Is(err, ErrPaused):
			s.fail(w, http.StatusConflict, err.Error(), "resume it first")
		case err != nil:
			s.failWith(w, err)
		default:
			s.answer(w, http.StatusOK, u)
		}
	}
}
