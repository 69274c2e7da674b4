package kinesisapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"forebay/spool/record"
)

// A deadlines is a ResponseWriter that notes how far the deadline for reading
// was moved.
type deadlines struct {
	http.ResponseWriter
	read []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.read = append(d.read, t)
	return nil
}

// A trickle is a body of which some bytes come every now and then.
type trickle struct {
	left, step int
	every      time.Duration
	fails      time.Duration // when no more comes; 0 for never
	began      time.Time
}

func (r *trickle) Read(b []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(r.every)
	if r.fails > 0 && time.Since(r.began) >= r.fails {
		return 0, errors.New("deadline exceeded")
	}
	n := min(r.step, r.left, len(b))
	r.left -= n
	copy(b, bytes.Repeat([]byte("x"), n))
	return n, nil
}

// slowly reads a body of n bytes that comes in steps, with held bytes taken
// already.
func slowly(t *testing.T, n, step int, every time.Duration, taken int64) (*deadlines, []byte, error) {
	t.Helper()
	s := &Server{log: slog.New(slog.DiscardHandler), held: pool{most: maxHeld}}
	s.held.Store(taken)
	l := &loan{held: &s.held}
	w := &deadlines{}
	b, err := s.readBody(w, &http.Request{Body: io.NopCloser(&trickle{left: n, step: step, every: every, began: time.Now()}), ContentLength: int64(n)}, l)
	if err != nil && l.n.Load() != 0 {
		t.Errorf("%d bytes are held for a body that was given up", l.n.Load())
	}
	l.giveBack()
	if s.held.Load() != taken {
		t.Errorf("%d bytes were not given back", s.held.Load()-taken)
	}
	return w, b, err
}

// TestSlowBodies: a body that moves gets time, and memory as long as there is
// plenty; one that hardly moves gets no more than the time that every request
// has.
func TestSlowBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		w, b, err := slowly(t, 1<<20, 1<<10, 100*time.Millisecond, 0) // 10 KiB/s
		if err != nil || len(b) != 1<<20 {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		if took := time.Since(began); took < readTimeout {
			t.Fatalf("it took %s, which proves nothing", took)
		}
		last := began.Add(readTimeout)
		for _, d := range w.read {
			if !d.After(last) {
				t.Errorf("the deadline was moved from %s to %s", last.Sub(began), d.Sub(began))
			}
			last = d
		}
		if time.Now().After(last) {
			t.Error("the body came to its end behind its deadline")
		}

		if w, _, err := slowly(t, 8<<10, 1, 10*time.Millisecond, 0); err != nil || len(w.read) != 0 {
			t.Errorf("a body that brings 100 bytes a second: %v, and %d times more time", err, len(w.read))
		}
		// A fast one costs no deadline.
		if w, _, err := slowly(t, 1<<20, 64<<10, time.Millisecond, 0); err != nil || len(w.read) != 0 {
			t.Errorf("a fast body: %v, and %d times more time", err, len(w.read))
		}
	})
}

// TestSlowBodiesGiveWay: once half of the memory is taken, slow bodies get no
// more of it, and fast ones do.
func TestSlowBodiesGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name  string
			taken int64
			every time.Duration
			ok    bool
		}{
			{"slow, with little taken", maxHeld/2 - 8<<20, 10 * time.Millisecond, true},
			{"slow, with half taken", maxHeld / 2, 10 * time.Millisecond, false},
			{"fast, with half taken", maxHeld / 2, time.Millisecond, true},
			{"fast, with all taken", maxHeld - 64<<10, time.Millisecond, false},
		} {
			_, _, err := slowly(t, 1<<20, 1<<10, c.every, c.taken)
			e, refused := errors.AsType[*apiError](err)
			if (err == nil) != c.ok || refused && e.status != http.StatusServiceUnavailable {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	})
}

// TestBuffers: what comes back is given again, by size, and what is not of a
// size is not.
func TestBuffers(t *testing.T) {
	var p buffers
	for _, n := range []int{0, 1, leastBuffer, leastBuffer + 1, pieceSize, pieceSize + 1, mostBuffer, mostBuffer + 1} {
		if b := p.get(n); len(b) != 0 || cap(b) < n {
			t.Errorf("asked for %d bytes, got %d of %d", n, len(b), cap(b))
		}
	}
	for c := range bufferSizes {
		size := leastBuffer << c
		if sizeClass(size) != c || sizeClass(size-1) != c || sizeClass(size+1) != c+1 {
			t.Errorf("%d bytes are of the size %d, one more of %d", size, sizeClass(size), sizeClass(size+1))
		}
	}
	p.put(nil)
	p.put(make([]byte, 0, leastBuffer+1))
	p.put(make([]byte, 0, 2*mostBuffer))
	if b := p.get(leastBuffer + 1); cap(b) != 2*leastBuffer {
		t.Errorf("a buffer of %d bytes", cap(b))
	}
}

// TestReadsLeaveRoom: what a read may hold depends on what all requests hold:
// ten megabytes, a little, or nothing; and nothing of it stays held.
func TestReadsLeaveRoom(t *testing.T) {
	s := closedDoor(t)
	st, err := s.spool.Stream("s")
	if err != nil {
		t.Fatal(err)
	}
	for range 12 {
		recs := make([]record.Record, 1000)
		for i := range recs {
			recs[i] = record.Record{Key: "k", HashKey: &record.HashKey{}, Data: make([]byte, 1000)}
		}
		if _, err := st.Put(t.Context(), recs); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name        string
		held        int64
		least, most int // records
	}{
		{"nothing held", 0, 10000, 10000},
		{"nearly half held", maxHeld/2 - 3<<20, 500, 3000},
		{"half held", maxHeld/2 + 1, 30, 70},
		{"three quarters held", maxHeld / 4 * 3, 0, 0},
	} {
		s.held.Store(c.held)
		got := 0
		in := []byte(`{"ShardIterator":"` + s.oldest(t, "s", 0) + `"}`)
		answer, err := s.run(t, "GetRecords", jsonCodec{}, in)
		if e, ok := errors.AsType[*apiError](err); ok && e.status == http.StatusServiceUnavailable {
			got = 0
		} else if err != nil {
			t.Fatal(err)
		} else {
			p := answer.(*pieces)
			if held := s.held.Load(); held <= c.held {
				t.Errorf("%s: an answer of %d bytes is not counted", c.name, held-c.held)
			}
			var out gets
			if err := json.Unmarshal(whole(t, jsonCodec{}, p), &out); err != nil {
				t.Fatal(err)
			}
			got = len(out.Records)
			if out.NextShardIterator == nil || *out.MillisBehindLatest == 0 {
				t.Errorf("%s: %d records, and no more", c.name, got)
			}
		}
		if got < c.least || got > c.most {
			t.Errorf("%s: %d records, want %d to %d", c.name, got, c.least, c.most)
		}
		if s.held.Load() != c.held {
			t.Errorf("%s: %d bytes stay held", c.name, s.held.Load()-c.held)
		}
	}
	// Who puts is let in all the same.
	s.held.Store(maxHeld / 4 * 3)
	if _, err := s.run(t, "PutRecords", jsonCodec{}, []byte(`{"StreamName":"s","Records":[{"Data":"","PartitionKey":"k"}]}`)); err != nil {
		t.Errorf("a put: %v", err)
	}
}
