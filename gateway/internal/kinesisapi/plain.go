package kinesisapi

import (
	"errors"
	"net/http"
	"strings"

	"forebay/spool/record"
)

// plainPrefix begins the path of every request to the plain door.
const plainPrefix = "/ingest/"

// A PlainDoor answers the requests of things that have no SDK: POST
// /ingest/{stream}. It stands on this endpoint's address, behind its TLS, its
// keys and their policies, and uses no memory but what it is lent.
type PlainDoor interface {
	// Serve answers a request whose body was read. take lends n bytes of
	// memory, if there are so many; they are given back when Serve returns. The
	// body's bytes are the door's from now on: records may point into them.
	Serve(w http.ResponseWriter, r *http.Request, body []byte, take func(n int64) bool)
	// Refuse answers a request that is not let in, in the door's own words.
	Refuse(w http.ResponseWriter, r *http.Request, status int, code, message string)
	// Errors counts requests that failed by our own fault.
	Errors() uint64
}

// Plain opens the plain door.
func Plain(d PlainDoor) Option { return func(s *Server) { s.plain = d } }

// RecordLimit is how many bytes a record of the stream may have, data and key;
// record.ErrNoStream.
func (s *Server) RecordLimit(stream string) (int, error) {
	st, err := s.spool.Stream(stream)
	if err != nil {
		return 0, err
	}
	return s.recordLimit(st), nil
}

// ShardName is what a client calls a shard; "" if the stream has none of that
// id.
func (s *Server) ShardName(stream string, id record.ShardID) string {
	st, err := s.spool.Stream(stream)
	if err != nil {
		return ""
	}
	at, ok := s.shards.place(st, id)
	if !ok {
		return ""
	}
	return shardName(at.index)
}

// servePlain lets a request in to the plain door or refuses it.
func (c *call) servePlain(w http.ResponseWriter, r *http.Request) {
	c.op.needs, c.target = toWrite, targetKinesis+"PutRecords" // what a policy calls it
	body, err := c.admitPlain(w, r)
	if err != nil {
		c.refusePlain(w, r, err)
		return
	}
	c.s.plain.Serve(w, r, body, c.loan.take)
}

func (c *call) admitPlain(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	signed, err := c.identifyPlain(r)
	if err != nil {
		return nil, err
	}
	stream := strings.TrimPrefix(r.URL.Path, plainPrefix)
	if !signed {
		if err := c.allow(stream); err != nil {
			return nil, err
		}
	}
	body, err := c.s.readBody(w, r, c.loan)
	if err != nil || !signed {
		return body, err
	}
	if body, err = c.verify(r, body); err != nil {
		return nil, err
	}
	return body, c.allow(stream)
}

// refusePlain says in the plain door's words why a request is not let in.
func (c *call) refusePlain(w http.ResponseWriter, r *http.Request, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		e = internalFailure(err)
	}
	if e.status >= http.StatusInternalServerError && e.cause != nil {
		c.s.failures.Add(1)
		c.s.log.Error("request failed", "request_id", c.id, "path", r.URL.Path, "error", e.cause)
	}
	status, code, message := e.status, "refused", e.message
	switch {
	case e.code == "AccessDeniedException":
		status, code = http.StatusForbidden, "denied"
	case status == http.StatusBadRequest: // all that is wrong with a key or a signature
		status, code = http.StatusUnauthorized, "key"
		w.Header().Set("Www-Authenticate", `Basic realm="forebay"`)
		message = strings.TrimSuffix(message, ".") + ". Sign the request, or give an access key and its secret as user and password."
	case status == http.StatusRequestEntityTooLarge:
		code = "too_large"
	case status == http.StatusRequestTimeout:
		code = "timeout"
	case status == http.StatusServiceUnavailable:
		status, code = http.StatusTooManyRequests, "busy"
		w.Header().Set("Retry-After", "1")
	case status >= http.StatusInternalServerError:
		code = "internal"
	}
	if !r.ProtoAtLeast(2, 0) && (status == http.StatusRequestEntityTooLarge || status == http.StatusRequestTimeout) {
		w.Header().Set("Connection", "close") // the rest of the body is not worth reading
	}
	c.s.plain.Refuse(w, r, status, code, message)
}
