package localapi

import (
	"errors"
	"io"
	"net/http"

	"forebay/gateway/api"
	"forebay/spool"
)

// backup serves POST /v1/spool/backup: the spool as it is now, as a tar stream.
// Its last file is a checksum; a stream that breaks off is cut by closing the
// connection, so that no client takes it for whole.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	out := &begunWriter{w: w}
	rep, err := s.sp.Backup(r.Context(), out)
	switch {
	case err == nil:
		s.log.Info("spool was backed up", "files", len(rep.Files), "bytes", rep.Bytes, "client", r.RemoteAddr)
	case errors.Is(err, spool.ErrBackupRuns):
		s.answer(w, http.StatusConflict, api.Error{Status: http.StatusConflict, Message: err.Error(), Hint: "wait for it to end"})
	case !out.begun:
		s.failWith(w, err)
	default:
		s.log.Warn("backup of the spool ended early", "error", err, "client", r.RemoteAddr)
		panic(http.ErrAbortHandler) // net/http's way to close the connection
	}
}

// A begunWriter knows whether an answer was begun.
type begunWriter struct {
	w     http.ResponseWriter
	begun bool
}

var _ io.Writer = (*begunWriter)(nil)

func (b *begunWriter) Write(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.w.Header().Set("Content-Type", "application/x-tar")
		b.w.WriteHeader(http.StatusOK)
	}
	return b.w.Write(p)
}
