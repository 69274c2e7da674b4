package localapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"forebay/gateway/api"
	"forebay/spool/record"
)

const maxAckBody = 1 << 20

// ack acknowledges alarms. It answers after the acknowledgement is on disk.
func (s *Server) ack(w http.ResponseWriter, r *http.Request) {
	var req api.AckRequest
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAckBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		s.fail(w, http.StatusBadRequest, "the request is not an acknowledgement: "+err.Error(), `send {"ids":["…"],"by":"name","note":""}`)
		return
	}
	if len(req.IDs) == 0 {
		s.fail(w, http.StatusBadRequest, "ids is empty", "GET /v1/alarms lists the ids")
		return
	}
	if req.By == "" {
		s.fail(w, http.StatusBadRequest, "by is empty", "say who acknowledges")
		return
	}
	res, err := s.plant.Ack(r.Context(), req)
	if err != nil {
		s.failWith(w, err)
		return
	}
	s.answer(w, http.StatusOK, res)
}

// frame is the newest still of a camera.
func (s *Server) frame(w http.ResponseWriter, r *http.Request) {
	b, at, err := s.plant.Frame(r.Context(), r.PathValue("camera"))
	if errors.Is(err, record.ErrNoStream) {
		s.fail(w, http.StatusNotFound, "no picture of camera "+strconv.Quote(r.PathValue("camera"))+" yet", "")
		return
	}
	if err != nil {
		s.failWith(w, err)
		return
	}
	w.Header().Set("Content-Type", "image/jpeg")
	w.Header().Set("Last-Modified", at.UTC().Format(http.TimeFormat))
	w.Header().Set("X-Forebay-Arrived", at.UTC().Format(time.RFC3339Nano))
	_, _ = w.Write(b) // the client is gone; nobody to tell
}
