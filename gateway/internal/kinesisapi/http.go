package kinesisapi

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := requestID()
	w.Header().Set("X-Amzn-Requestid", id)
	c := &call{s: s, id: id, codec: jsonCodec{}, loan: &loan{held: &s.held}}
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		s.failures.Add(1)
		s.log.Error("request ended in a panic", "request_id", id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		s.writeError(w, r, c, internalFailure(nil))
	}()
	defer c.loan.giveBack()
	if s.plain != nil && strings.HasPrefix(r.URL.Path, plainPrefix) {
		c.servePlain(w, r)
		return
	}
	answer, err := c.answer(w, r)
	if err != nil {
		s.writeError(w, r, c, err)
		c.dropBody()
		return
	}
	switch a := answer.(type) {
	case streamed:
		c.dropBody() // it may go on for minutes
		a(w, r)
		return
	case encoded:
		s.write(w, r, c, http.StatusOK, [][]byte{a}, nil)
	case *pieces:
		s.write(w, r, c, http.StatusOK, append(a.full, a.last), a.drop)
	}
	c.dropBody()
}

// dropBody gives the body's memory back.
func (c *call) dropBody() {
	if c.body == nil || c.kept {
		return
	}
	c.loan.give(int64(cap(c.body)))
	c.s.buffers.put(c.body)
	c.body = nil
}

// answer gives what a 200 carries, encoded or streamed, or an error.
func (c *call) answer(w http.ResponseWriter, r *http.Request) (any, error) {
	s := c.s
	codec, unknown := s.codecOf(r)
	if unknown == nil {
		c.codec = codec // else errors are told in JSON
	}
	if r.Method != http.MethodPost || r.URL.Path != "/" {
		return nil, &apiError{code: "UnknownOperationException", status: http.StatusNotFound}
	}
	if err := c.identify(r); err != nil {
		return nil, err
	}
	c.loan.stall(http.NewResponseController(w).SetReadDeadline)
	body, err := s.readBody(w, r, c.loan)
	c.loan.goOn()
	if err != nil {
		return nil, err
	}
	c.body = body
	payload, err := c.verify(r, c.body)
	if err != nil {
		return nil, err
	}
	c.body = payload // which begins where the body does and has its capacity
	if unknown != nil {
		return nil, unknown
	}
	c.lanes = claimOf(r.Header.Get(headerLanes))
	if c.op, err = s.operation(c.target); err != nil {
		return nil, err
	}
	answer, err := c.op.run(r.Context(), c)
	if err != nil {
		return nil, err
	}
	switch answer.(type) {
	case nil:
		return encoded(nil), nil
	case encoded, *pieces, streamed:
		return answer, nil
	}
	b, err := c.codec.encode(answer)
	return encoded(b), err
}

// operation finds what the request asks for.
func (s *Server) operation(target string) (operation, error) {
	if op, ok := s.ops[target]; ok {
		return op, nil
	}
	return operation{}, refuse("UnknownOperationException", "This endpoint has no operation%s.", quoted(target))
}

// writeError sends an error in the request's encoding and logs what is our own
// fault.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, c *call, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		e = internalFailure(err)
	}
	if e.status >= http.StatusInternalServerError && e.cause != nil {
		s.failures.Add(1)
		s.log.Error("request failed", "request_id", c.id, "target", r.Header.Get(headerTarget), "error", e.cause)
	}
	if unread := c.body == nil && e.status > http.StatusBadRequest; unread && !r.ProtoAtLeast(2, 0) {
		w.Header().Set("Connection", "close") // the rest of the body is not worth reading
	}
	body, err := c.codec.encode(errorMembers{e.code, e.message})
	if err != nil {
		s.log.Error("error answer cannot be encoded", "request_id", c.id, "error", err)
	}
	w.Header().Set("X-Amzn-Errortype", e.code)
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat)) // by which SDKs correct their clocks
	s.write(w, r, c, e.status, [][]byte{body}, nil)
}

// errorMembers is the body of an answer that is an error.
type errorMembers struct {
	Type    string `json:"__type"`
	Message string `json:"message,omitempty"`
}

// write sends an answer and gives each piece of it to sent, if there is such a
// function, once the client has taken it. The others may still be read by
// HTTP/2, which does not wait for what it writes to a stream that is closed.
func (s *Server) write(w http.ResponseWriter, r *http.Request, c *call, status int, body [][]byte, sent func([]byte)) {
	size := 0
	for _, b := range body {
		size += len(b)
	}
	h := w.Header()
	h.Set("Content-Type", c.codec.mediaType())
	h.Set("Content-Length", strconv.Itoa(size))
	w.WriteHeader(status)
	rc := http.NewResponseController(w)
	if size > smallAnswer {
		c.loan.stall(rc.SetWriteDeadline)
		defer c.loan.goOn()
	}
	for i, b := range body {
		if i > 0 { // a long answer may take its time, as long as it moves
			s.extend(rc.SetWriteDeadline, writeTimeout)
		}
		if _, err := w.Write(b); err != nil {
			s.log.Debug("client did not take its answer", "request_id", c.id, "remote", r.RemoteAddr, "error", err)
			return
		}
		if sent != nil {
			sent(b)
		}
	}
}

// requestID is a random UUID (RFC 9562, version 4).
func requestID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand.Read
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
