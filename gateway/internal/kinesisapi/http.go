package kinesisapi

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

const (
	contentType  = "application/x-amz-json-1.1"
	targetPrefix = "Kinesis_20131202."
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
		s.writeError(w, r, id, internalFailure(nil))
	}()
	l := &loan{held: &s.held}
	defer l.giveBack()
	answer, err := s.answer(r, l)
	if err != nil {
		s.writeError(w, r, id, err)
		return
	}
	s.write(w, r, id, http.StatusOK, answer)
}

// answer gives the body of a 200, or an error.
func (s *Server) answer(r *http.Request, l *loan) ([]byte, error) {
	if r.Method != http.MethodPost || r.URL.Path != "/" {
		return nil, &apiError{code: "UnknownOperationException", status: http.StatusNotFound}
	}
	sig, err := s.verifier.parse(r)
	if err != nil {
		return nil, err
	}
	if err := s.verifier.precheck(sig); err != nil {
		return nil, err
	}
	body, err := readBody(r, l)
	if err != nil {
		return nil, err
	}
	mayBeUnsigned := r.TLS != nil || s.cfg.Listen.Loopback()
	if err := s.verifier.verify(r, sig, body, mayBeUnsigned); err != nil {
		return nil, err
	}
	op, err := s.operation(r, sig)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(body) {
		return nil, serialization("The request is not valid UTF-8.")
	}
	return op(r.Context(), l, body)
}

// operation finds what the request asks for.
func (s *Server) operation(r *http.Request, sig *signature) (operation, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != contentType && media != "application/json" {
		return nil, &apiError{
			code: "UnknownOperationException", status: http.StatusNotFound,
			message: "Content-Type must be " + contentType + "; set AWS_CBOR_DISABLE=true for clients that send CBOR.",
		}
	}
	target := r.Header.Get(headerTarget)
	if target == "" && sig.presigned {
		target, _ = lookup(sig.query, headerTarget) // absent is "" too
	}
	name, ok := strings.CutPrefix(target, targetPrefix)
	if op := s.ops[name]; ok && op != nil {
		return op, nil
	}
	return nil, refuse("UnknownOperationException", "This endpoint has no operation%s.", quoted(target))
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

// writeError sends an error in the shape of JSON 1.1 and logs what is our own
// fault.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, id string, err error) {
	var e *apiError
	if !errors.As(err, &e) {
		e = internalFailure(err)
	}
	if e.status >= http.StatusInternalServerError && e.cause != nil {
		s.failures.Add(1)
		s.log.Error("request failed", "request_id", id, "target", r.Header.Get(headerTarget), "error", e.cause)
	}
	if !r.ProtoAtLeast(2, 0) && (e.status == http.StatusRequestEntityTooLarge || e.status == http.StatusRequestTimeout) {
		w.Header().Set("Connection", "close") // the rest of the body is not worth reading
	}
	body := struct {
		Type    string `json:"__type"`
		Message string `json:"message,omitempty"`
	}{e.code, e.message}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(body); err != nil {
		s.log.Error("error answer cannot be written as JSON", "request_id", id, "error", err)
	}
	w.Header().Set("X-Amzn-Errortype", e.code)
	s.write(w, r, id, e.status, bytes.TrimRight(b.Bytes(), "\n"))
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, id string, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		s.log.Debug("client did not take its answer", "request_id", id, "remote", r.RemoteAddr, "error", err)
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
