package localapi

import (
	"encoding/json"
	"errors"
	"net/http"

	"forebay/gateway/api"
	"forebay/spool"
)

// erase deletes the key of an encrypted stream. The request names the stream a
// second time, so that nobody erases by a slip. It answers when the deletion
// is on disk.
func (s *Server) erase(w http.ResponseWriter, r *http.Request) {
	stream := r.PathValue("stream")
	var req api.EraseRequest
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil || req.Confirm != stream {
		s.fail(w, http.StatusBadRequest, "erasing cannot be undone and is not confirmed", `send {"confirm":"NAME OF THE STREAM","by":"name"}`)
		return
	}
	if req.By == "" {
		s.fail(w, http.StatusBadRequest, "by is empty", "say who erases")
		return
	}
	res, err := s.sp.Erase(r.Context(), stream, req.By)
	if errors.Is(err, spool.ErrNotEncrypted) {
		s.fail(w, http.StatusConflict, err.Error(), "only a stream with encrypt = true has a key to erase")
		return
	}
	if err != nil {
		s.failWith(w, err)
		return
	}
	s.log.Warn("stream was erased by an operator", "stream", stream, "records", res.Records, "by", req.By)
	s.answer(w, http.StatusOK, api.EraseResult{Stream: res.Stream, Records: res.Records, At: res.At.UTC()})
}
