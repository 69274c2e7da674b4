package web

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// A Coder compresses request bodies. It is safe for concurrent use.
type Coder struct {
	name string
	zip  sync.Pool
	z    *zstd.Encoder
}

// CheckCompression says whether a name is one that NewCoder knows.
func CheckCompression(name string) error {
	switch name {
	case "", "off", "gzip", "zstd":
		return nil
	}
	return fmt.Errorf("compression: %q is not \"off\", \"gzip\" or \"zstd\"", name)
}

// NewCoder makes one for "gzip" or "zstd"; anything else leaves bodies as they
// are.
func NewCoder(name string) (*Coder, error) {
	c := &Coder{name: name}
	if name == "zstd" {
		var err error
		if c.z, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(2), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20)); err != nil {
			return nil, fmt.Errorf("compression: %w", err)
		}
	}
	return c, nil
}

// Encoding is the value of the header Content-Encoding, "" for none.
func (c *Coder) Encoding() string {
	if c.name == "gzip" || c.name == "zstd" {
		return c.name
	}
	return ""
}

// Encode gives the body as it travels: a copy.
func (c *Coder) Encode(body []byte) ([]byte, error) {
	switch c.name {
	case "zstd":
		return c.z.EncodeAll(body, make([]byte, 0, len(body)/4+256)), nil
	case "gzip":
		out := bytes.NewBuffer(make([]byte, 0, len(body)/4+256))
		w, ok := c.zip.Get().(*gzip.Writer)
		if !ok {
			w = gzip.NewWriter(out)
		}
		defer c.zip.Put(w)
		w.Reset(out)
		if _, err := w.Write(body); err != nil {
			return nil, fmt.Errorf("compress a body: %w", err)
		}
		if err := w.Close(); err != nil {
			return nil, fmt.Errorf("compress a body: %w", err)
		}
		return out.Bytes(), nil
	}
	return bytes.Clone(body), nil
}

// A Pace is how many bytes a request may hold, so that a slow link passes it
// well within the request's timeout. It is safe for concurrent use.
type Pace struct {
	mu        sync.Mutex
	size, top int
}

const minPace = 16 << 10

// NewPace begins with an eighth of the most that a request may have.
func NewPace(most int) *Pace { return &Pace{size: max(most/8, min(most, minPace)), top: most} }

// Size is how many bytes the next request may hold.
func (p *Pace) Size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

// Took learns from a request of n bytes that took d.
func (p *Pace) Took(n int, d, timeout time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case d >= timeout:
		p.size = max(p.size/4, minPace)
	case d >= timeout/3:
		p.size = max(p.size/2, minPace)
	case ok && d < timeout/8 && n >= p.size/2:
		p.size = min(p.size*2, p.top)
	}
}
