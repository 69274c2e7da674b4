package aws

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// What is read of a body that is closed is an error, and never another
// request's bytes.
func TestBodyAfterClose(t *testing.T) {
	buf := takeBuffer(new(sync.Pool))
	buf.B = append(buf.B, "what was sent"...)
	r := buf.reader()
	if b, err := io.ReadAll(io.LimitReader(r, 4)); string(b) != "what" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	for range 2 { // a transport may close twice; it is one hold
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := buf.refs.Load(); n != 1 {
		t.Errorf("%d holds on the buffer, want that of its owner", n)
	}
	if n, err := r.Read(make([]byte, 4)); n != 0 || !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("Read: %d, %v", n, err)
	}
	var w bytes.Buffer
	if n, err := io.Copy(&w, r); n != 0 || !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("WriteTo: %d, %v", n, err)
	}
}

// Whoever reads while the body is closed and its buffer filled anew gets what
// was there, or the error, but nothing of what came later.
func TestBodyClosedInRead(t *testing.T) {
	var pool sync.Pool
	for range 200 {
		buf := takeBuffer(&pool)
		buf.B = append(buf.B, strings.Repeat("a", 64<<10)...)
		r := buf.reader()
		var got []byte
		var err error
		var wg sync.WaitGroup
		wg.Go(func() {
			b := make([]byte, 1<<10)
			for n := 0; err == nil; {
				n, err = r.Read(b)
				got = append(got, b[:n]...)
			}
		})
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		buf.Release()
		next := takeBuffer(&pool)
		next.B = append(next.B, strings.Repeat("b", 64<<10)...)
		wg.Wait()
		if bytes.IndexByte(got, 'b') >= 0 || err != io.EOF && !errors.Is(err, http.ErrBodyReadAfterClose) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		next.Release()
	}
}

// A write that is under way keeps the buffer when the body is closed, and does
// not hold up who closes it.
func TestBodyClosedInWrite(t *testing.T) {
	text := strings.Repeat("0123456789", 1000)
	buf := takeBuffer(new(sync.Pool))
	buf.B = append(buf.B, text...)
	r := buf.reader()
	var w bytes.Buffer
	n, err := io.Copy(during{&w, func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		buf.Release()
		if n := buf.refs.Load(); n != 1 {
			t.Errorf("%d holds on the buffer that is being written, want 1", n)
		}
	}}, r)
	if err != nil || n != int64(len(text)) || w.String() != text {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n := buf.refs.Load(); n != 0 {
		t.Errorf("%d holds on the buffer at the end", n)
	}
}

type during struct {
	io.Writer
	do func()
}

func (d during) Write(b []byte) (int, error) {
	d.do()
	return d.Writer.Write(b)
}
