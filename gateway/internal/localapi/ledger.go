package localapi

import (
	"errors"
	"net/http"
	"strconv"

	"forebay/gateway/api"
	"forebay/spool/record"
)

// ledger says for every record where it went, and with ?steps=N lists the
// newest N steps (0: all that are kept), after verifying their chain.
func (s *Server) ledger(w http.ResponseWriter, r *http.Request) {
	if !r.URL.Query().Has("steps") {
		s.answer(w, http.StatusOK, s.plant.Ledger())
		return
	}
	limit, err := strconv.Atoi(r.URL.Query().Get("steps"))
	if err != nil || limit < 0 {
		s.fail(w, http.StatusBadRequest, "steps is not a number of steps", "ask for ?steps=100, or ?steps=0 for all that are kept")
		return
	}
	steps, err := s.plant.LedgerSteps(r.Context(), limit)
	if err != nil {
		s.failWith(w, err)
		return
	}
	l := s.plant.Ledger()
	l.Steps = steps
	s.answer(w, http.StatusOK, l)
}

// dropCursor gives up a cursor's claim. It answers after that is on disk.
func (s *Server) dropCursor(w http.ResponseWriter, r *http.Request) {
	res := api.DroppedCursor{Stream: r.PathValue("stream"), Cursor: r.PathValue("cursor")}
	by := r.URL.Query().Get("by")
	if by == "" {
		s.fail(w, http.StatusBadRequest, "by is empty", "say who drops the cursor: ?by=NAME")
		return
	}
	err := s.plant.DropCursor(r.Context(), res.Stream, res.Cursor, by)
	switch {
	case errors.Is(err, record.ErrNoCursor):
		s.fail(w, http.StatusNotFound, err.Error(), "GET /v1/streams lists the cursors of each stream")
	case errors.Is(err, record.ErrInUse):
		s.fail(w, http.StatusConflict, err.Error(), "take what uses it out of the config file first, and restart the gateway")
	case err != nil:
		s.failWith(w, err)
	default:
		s.answer(w, http.StatusOK, res)
	}
}
