package kinesisapi

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	// firstRead is what a request's body gets to begin with.
	firstRead = leastBuffer
	// readStep is what a body must bring in each readTimeout: who sends it may
	// be slow, but not stand still.
	readStep = 16 << 10
	// slowRead is the rate, in bytes a second, below which a body gets no more
	// memory once half of all that there is is taken: those who send slowly
	// never keep out those who do not.
	slowRead = 256 << 10
	// unhurried is the size up to which nobody asks how fast a body came.
	unhurried = 64 << 10
)

const textBusy = "Too many requests are under way. Please try again."

// readBody reads at most maxBody, and no more than maxHeld over all requests.
// Memory is taken as bytes arrive, not as they are announced: at most four
// times what is there. The buffer is the caller's.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, l *loan) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, bodyTooLarge()
	}
	most := int64(maxBody)
	if r.ContentLength >= 0 {
		most = r.ContentLength
	}
	most++ // one more, so that the end is seen without growing
	rd := &bodyReader{s: s, rc: http.NewResponseController(w), began: time.Now(), loan: l}
	rd.mark = rd.began
	if !rd.grow(min(firstRead, most)) {
		return nil, unavailable(textBusy)
	}
	for {
		if n := int64(len(rd.buf)); n == int64(cap(rd.buf)) && !rd.grow(min(4*n, max(most, n+1), max(2*n, 1<<20))) {
			return nil, rd.fail(unavailable(textBusy))
		}
		n, err := r.Body.Read(rd.buf[len(rd.buf):cap(rd.buf)])
		rd.buf = rd.buf[:len(rd.buf)+n]
		switch {
		case len(rd.buf) > maxBody:
			return nil, rd.fail(bodyTooLarge())
		case errors.Is(err, io.EOF):
			return rd.buf, nil
		case err != nil:
			return nil, rd.fail(&apiError{code: "RequestTimeoutException", message: "The request's body did not arrive.", status: http.StatusRequestTimeout, cause: err})
		}
		rd.moved()
	}
}

func bodyTooLarge() *apiError {
	return &apiError{
		code: "RequestEntityTooLargeException", status: http.StatusRequestEntityTooLarge,
		message: "The request is larger than " + strconv.Itoa(maxBody) + " bytes.",
	}
}

// A bodyReader is a body that is arriving.
type bodyReader struct {
	s     *Server
	rc    *http.ResponseController
	loan  *loan
	buf   []byte
	began time.Time
	mark  time.Time // when the deadline was set
	until int       // bytes that were there then
}

// grow makes room for n bytes in all, if there is so much left.
func (rd *bodyReader) grow(n int64) bool {
	size := bufferSize(int(n))
	if have := len(rd.buf); have > unhurried && float64(have) < slowRead*time.Since(rd.began).Seconds() {
		if !rd.loan.takeWithin(int64(size), rd.loan.held.most/2) {
			return false
		}
	} else if !rd.loan.take(int64(size)) {
		return false
	}
	b := append(rd.s.buffers.get(size), rd.buf...)
	rd.drop()
	rd.buf = b
	return true
}

func (rd *bodyReader) drop() {
	if rd.buf != nil {
		rd.loan.give(int64(cap(rd.buf)))
		rd.s.buffers.put(rd.buf)
		rd.buf = nil
	}
}

func (rd *bodyReader) fail(err error) error {
	rd.drop()
	return err
}

// moved gives a body that has come on more time.
func (rd *bodyReader) moved() {
	if len(rd.buf)-rd.until < readStep {
		return
	}
	now := time.Now()
	if now.Sub(rd.mark) > time.Second { // the deadline costs more than the clock
		rd.s.extend(rd.rc.SetReadDeadline, readTimeout)
		rd.mark, rd.until = now, len(rd.buf)
	}
}

// extend moves a deadline of the request's connection to d from now.
func (s *Server) extend(set func(time.Time) error, d time.Duration) {
	if err := set(time.Now().Add(d)); err != nil {
		s.log.Debug("deadline cannot be moved", "error", err) // the one that is set stays
	}
}
