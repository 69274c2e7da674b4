package kinesisapi

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
)

const (
	contentType = "application/x-amz-json-1.1"
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := requestID()
	w.Header().Set("X-Amzn-Requestid", id)
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
		s.writeError(w, r, &call{s: s, id: id, codec: jsonCodec{}}, internalFailure(nil))
	}()
	l := &loan{held: &s.held}
	defer l.giveBack()
	c := &call{s: s, id: id, codec: jsonCodec{}, loan: l}
	answer, err := c.answer(r)
	if err != nil {
		s.writeError(w, r, c, err)
		return
	}
	switch a := answer.(type) {
	case streamed:
		a(w, r)
	case encoded:
		s.write(w, r, c, http.StatusOK, a)
	}
}

// answer gives what a 200 carries, encoded or streamed, or an error.
func (c *call) answer(r *http.Request) (any, error) {
	s := c.s
	if r.Method != http.MethodPost || r.URL.Path != "/" {
		return nil, &apiError{code: "UnknownOperationException", status: http.StatusNotFound}
	}
	if err := c.identify(r); err != nil {
		return nil, err
	}
	body, err := readBody(r, c.loan)
	if err != nil {
		return nil, err
	}
	c.body = body
	payload, err := c.verify(r, body)
	if err != nil {
		return nil, err
	}
	c.body = payload // which lies in what was read
	codec, err := codecOf(r)
	if err != nil {
		return nil, err // in JSON
	}
	c.codec = codec
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
	case encoded, streamed:
		return answer, nil
	}
	b, err := c.codec.encode(answer)
	return encoded(b), err
}

// codecOf is the encoding that the request says it has.
func codecOf(r *http.Request) (codec, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != contentType && media != "application/json" {
		return nil, &apiError{
			code: "UnknownOperationException", status: http.StatusNotFound,
			message: "Content-Type must be " + contentType + "; set AWS_CBOR_DISABLE=true for clients that send CBOR.",
		}
	}
	return jsonCodec{}, nil
}

// operation finds what the request asks for.
func (s *Server) operation(target string) (operation, error) {
	if op, ok := s.ops[target]; ok {
		return op, nil
	}
	return operation{}, refuse("UnknownOperationException", "This endpoint has no operation%s.", quoted(target))
}

// readBody reads at most maxBody, and no more than maxHeld over all requests.
// Memory is taken as bytes arrive, not as they are announced.
func readBody(r *http.Request, l *loan) ([]byte, error) {
	tooLarge := &apiError{
		code: "RequestEntityTooLargeException", status: http.StatusRequestEntityTooLarge,
		message: "The request is larger than " + strconv.Itoa(maxBody) + " bytes.",
	}
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	const first = 16 << 10
	size := int64(first)
	if r.ContentLength >= 0 && r.ContentLength < first {
		size = r.ContentLength
	}
	if !l.take(size) {
		return nil, unavailable(textBusy)
	}
	buf := make([]byte, 0, size+1) // one more, so that the end is seen without growing
	for {
		if len(buf) == cap(buf) {
			more := min(int64(cap(buf)), maxBody)
			if !l.take(more) {
				return nil, unavailable(textBusy)
			}
			grown := make([]byte, len(buf), int64(cap(buf))+more)
			copy(grown, buf)
			buf = grown
		}
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if len(buf) > maxBody {
			return nil, tooLarge
		}
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return nil, &apiError{code: "RequestTimeoutException", message: "The request's body did not arrive.", status: http.StatusRequestTimeout, cause: err}
		}
	}
}

const textBusy = "Too many requests are under way. Please try again."

// A loan is what one request holds of maxHeld.
type loan struct {
	held *atomic.Int64
	n    int64
}

// take takes n bytes more; false if there are not so many.
func (l *loan) take(n int64) bool {
	if l.held.Add(n) > maxHeld {
		l.held.Add(-n)
		return false
	}
	l.n += n
	return true
}

func (l *loan) giveBack() { l.held.Add(-l.n) }

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
	if !r.ProtoAtLeast(2, 0) && (e.status == http.StatusRequestEntityTooLarge || e.status == http.StatusRequestTimeout) {
		w.Header().Set("Connection", "close") // the rest of the body is not worth reading
	}
	body, err := c.codec.encode(errorMembers{e.code, e.message})
	if err != nil {
		s.log.Error("error answer cannot be encoded", "request_id", c.id, "error", err)
	}
	w.Header().Set("X-Amzn-Errortype", e.code)
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat)) // by which SDKs correct their clocks
	s.write(w, r, c, e.status, body)
}

// errorMembers is the body of an answer that is an error.
type errorMembers struct {
	Type    string `json:"__type"`
	Message string `json:"message,omitempty"`
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, c *call, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", c.codec.mediaType())
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		s.log.Debug("client did not take its answer", "request_id", c.id, "remote", r.RemoteAddr, "error", err)
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
