package ingest

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/klauspost/compress/gzip"
)

func tooLarge(what string, most int64) *refusal {
	return &refusal{
		status: http.StatusRequestEntityTooLarge, code: "too_large", message: what + " is larger than " + strconv.FormatInt(most, 10) + " bytes",
		hint: "send it in parts", close: true,
	}
}

// busy is told to clients while memory is short; it passes by itself.
func busy() *refusal {
	return &refusal{status: http.StatusTooManyRequests, code: "busy", message: "too many requests are under way", hint: "nothing was stored; try again", retry: 1}
}

// readBody reads what came.
func (h *Handler) readBody(r *http.Request, take func(int64) bool) ([]byte, *refusal) {
	if r.ContentLength > h.opt.MaxBody {
		return nil, tooLarge("the request", h.opt.MaxBody)
	}
	first := int64(16 << 10)
	if r.ContentLength >= 0 {
		first = min(first, r.ContentLength)
	}
	body, no, err := readAll(r.Body, first, h.opt.MaxBody, "the request", take)
	if err != nil {
		return nil, &refusal{status: http.StatusRequestTimeout, code: "timeout", message: "the request's body did not arrive", hint: "nothing was stored", close: true}
	}
	return body, no
}

// inflate undoes gzip.
func (h *Handler) inflate(body []byte, take func(int64) bool) ([]byte, *refusal) {
	bad := &refusal{status: http.StatusBadRequest, code: "encoding", message: "the body is not gzip, though Content-Encoding says so, or it is cut off"}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, bad
	}
	out, no, err := readAll(z, min(4*int64(len(body)), h.opt.MaxBody), h.opt.MaxBody, "the inflated request", take)
	if err != nil {
		return nil, bad
	}
	if no != nil {
		no.close = false // it was read
	}
	return out, no
}

// readAll reads at most most bytes. Memory is taken as bytes arrive, not as
// they are announced; the first piece is of a size that the caller answers for.
func readAll(r io.Reader, first, most int64, what string, take func(int64) bool) ([]byte, *refusal, error) {
	first++ // one more, so that the end is seen without growing
	if !take(first) {
		return nil, busy(), nil
	}
	buf := make([]byte, 0, first)
	for {
		if len(buf) == cap(buf) {
			more := max(min(int64(cap(buf)), most-int64(cap(buf))+1), 512)
			if !take(more) {
				return nil, busy(), nil
			}
			grown := make([]byte, len(buf), int64(cap(buf))+more)
			copy(grown, buf)
			buf = grown
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > most {
			return nil, tooLarge(what, most), nil
		}
		if errors.Is(err, io.EOF) {
			return buf, nil, nil
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// An arena keeps what is built for records. What it has given stays where it
// is.
type arena struct {
	buf  []byte
	take func(int64) bool
}

const arenaPiece = 64 << 10

// keep copies b; false if there is no memory for it.
func (a *arena) keep(b []byte) ([]byte, bool) {
	if cap(a.buf)-len(a.buf) < len(b) {
		size := max(arenaPiece, len(b))
		if !a.take(int64(size)) {
			return nil, false
		}
		a.buf = make([]byte, 0, size)
	}
	at := len(a.buf)
	a.buf = append(a.buf, b...)
	return a.buf[at:len(a.buf):len(a.buf)], true
}
