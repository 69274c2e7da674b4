package kinesisapi

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// TestBodiesAreBounded: all requests together hold no more than maxHeld, and
// give back what they held.
func TestBodiesAreBounded(t *testing.T) { synctest.Test(t, testBodiesAreBounded) } // it waits for room

func testBodiesAreBounded(t *testing.T) {
	s := &Server{log: slog.New(slog.DiscardHandler), held: pool{most: maxHeld}}
	held := &s.held
	body := bytes.Repeat([]byte("x"), 100<<10)
	read := func(l *loan, announced int64) ([]byte, error) {
		return s.readBody(httptest.NewRecorder(), &http.Request{Body: io.NopCloser(bytes.NewReader(body)), ContentLength: announced}, l)
	}
	for _, announced := range []int64{int64(len(body)), -1} {
		l := &loan{held: held}
		got, err := read(l, announced)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		if n := held.Load(); n < int64(len(body)) || n > 4*int64(len(body)) {
			t.Errorf("%d bytes held for a body of %d", n, len(body))
		}
		l.giveBack()
	}
	for _, room := range []int64{0, 50 << 10} { // refused at once, refused while it grows
		held.Store(maxHeld - room)
		l := &loan{held: held}
		_, err := read(l, -1)
		if e, ok := errors.AsType[*apiError](err); !ok || e.status != http.StatusServiceUnavailable {
			t.Errorf("with %d bytes of room: %v", room, err)
		}
		l.giveBack()
		if held.Load() != maxHeld-room {
			t.Errorf("%d bytes were not given back", held.Load()-maxHeld+room)
		}
	}
}

func TestEpoch(t *testing.T) {
	for ms, want := range map[int64]string{0: "0.000", 1: "0.001", 1459799926480: "1459799926.480", -1500: "-1.500", 946684800000: "946684800.000"} {
		b := appendEpoch(nil, time.UnixMilli(ms))
		if string(b) != want {
			t.Errorf("%d ms is written %s, want %s", ms, b, want)
		}
		var e epoch
		if err := e.UnmarshalJSON(b); err != nil || time.Time(e).UnixMilli() != ms {
			t.Errorf("%s is read as %v, %v", b, time.Time(e), err)
		}
	}
	for _, bad := range []string{`"2016-04-04T19:58:46Z"`, "1e300", "NaN", "-1e300", "true"} {
		if err := new(epoch).UnmarshalJSON([]byte(bad)); err == nil {
			t.Errorf("%s is taken as a time", bad)
		}
	}
}
