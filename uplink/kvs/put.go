package kvs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// A put is one PutMedia request: video goes out in its body while
// acknowledgements come back in its answer.
type put struct {
	s     *Sink
	f     *far
	frags []*fragment // in rising order, of one track
	until time.Time   // no further fragment is begun after it
	life  func()      // something moved

	mu    sync.Mutex
	begun int   // fragments whose first byte was made
	ended bool  // the body is complete
	local error // a *local: why the body could not be made

	persisted []bool
	left      int // that are not
	received  int // RECEIVED answers
	heard     bool
}

// A refused error is an ERROR answer. at is the fragment that it is about, -1
// where it does not say.
type refused struct {
	ack ack
	at  int
}

func (r *refused) Error() string { return r.ack.ErrorCode }

// A local error is about the bytes on our own disk.
type local struct {
	at  int // the fragment
	err *lane.Error
}

func (l *local) Error() string { return l.err.Error() }

// An unread error marks that bytes on our own disk could not be read.
type unread struct{ error }

func (u *unread) Unwrap() error { return u.error }

var (
	errStill = errors.New("the connection stood still")
	errOver  = errors.New("the request is over")
)

// emptySum is what a body that is not known beforehand is signed as; the
// service's own producers do so.
const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// put sends fragments over one connection and reads what becomes of them. A
// nil error means that all that was begun is persisted; else it is a
// *lane.Error, a *refused or a *local. persisted is called in order of the
// answers, once for each fragment.
func (s *Sink) put(ctx context.Context, f *far, frags []*fragment, until time.Time, persisted func(*fragment)) error {
	if err := f.pace.connect(ctx); err != nil {
		return interrupted(err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errOver)
	still := time.AfterFunc(s.still, func() { cancel(errStill) })
	defer still.Stop()
	p := &put{
		s: s, f: f, frags: frags, until: until, persisted: make([]bool, len(frags)),
		life: func() { still.Reset(s.still) },
	}
	var body *producer
	defer func() { body.stop() }()
	h := make(http.Header, 8)
	h.Set("X-Amzn-Stream-Name", f.name)
	h.Set("X-Amzn-Fragment-Timecode-Type", "ABSOLUTE")
	h.Set("X-Amzn-Fragment-Acknowledgment-Required", "1")
	h.Set("X-Amzn-Producer-Start-Timestamp", seconds(frags[0].start))
	resp, err := s.aws.Open(ctx, &aws.Request{
		URL: f.endpoint + "/putMedia", Header: h, Size: -1, Sum: emptySum, Timeout: -1,
		Stream: func() (io.ReadCloser, error) {
			body.stop() // of a request that was not made
			p.reset()
			body = produce(ctx, p)
			return body, nil
		},
	})
	if err != nil {
		cancel(errOver)
		body.stop()
		if p.local != nil {
			return p.local
		}
		return p.lost(ctx, err)
	}
	err = p.read(resp, still, persisted)
	cause := context.Cause(ctx)
	cancel(errOver)
	resp.Body.Close() //nolint:errcheck // what was said counts
	body.stop()
	switch {
	case err == nil:
		return p.local
	case p.local != nil && !isRefused(err):
		return p.local
	case errors.Is(cause, errStill):
		return &lane.Error{Class: lane.Ambiguous, Text: fmt.Sprintf("the connection stood still for %s; what was not acknowledged is sent again", s.still)}
	}
	return err
}

func isRefused(err error) bool {
	_, ok := errors.AsType[*refused](err)
	return ok
}

// lost is the error for a request without an answer that is the service's.
func (p *put) lost(ctx context.Context, err error) error {
	e := asError(err)
	if errors.Is(context.Cause(ctx), errStill) {
		e = &lane.Error{Class: lane.Ambiguous, Text: fmt.Sprintf("no answer for %s", p.s.still), Err: err}
	}
	return e
}

// interrupted is the error where ctx ended before anything was sent.
func interrupted(err error) *lane.Error {
	return &lane.Error{Class: lane.Transient, Text: "the gateway stopped sending", Err: err}
}

// read reads answers until all that was begun is persisted, or it is clear
// that it will not be.
func (p *put) read(resp *http.Response, still *time.Timer, persisted func(*fragment)) error {
	p.left = len(p.frags)
	acks := newAckReader(resp.Body)
	for {
		a, err := acks.next()
		switch {
		case p.through():
			return nil
		case err == nil:
		case errors.Is(err, errNotAck) && !p.heard:
			return p.s.portal(resp.StatusCode, resp.Header, err)
		case errors.Is(err, io.EOF):
			return p.cutOff(nil)
		default:
			return p.cutOff(err)
		}
		p.heard = true
		if a.EventType != "IDLE" { // which says that nothing arrives
			p.life()
		}
		switch a.EventType {
		case "RECEIVED":
			p.received++
		case "PERSISTED":
			if i := p.find(a.FragmentTimecode); i >= 0 && !p.persisted[i] {
				p.persisted[i] = true
				p.left--
				persisted(p.frags[i])
			}
		case "ERROR":
			return &refused{a, p.find(a.FragmentTimecode)}
		}
		if p.through() {
			// The answer ends now, and the connection is good for the next
			// request; one that does not end is not waited for.
			still.Reset(time.Second)
		}
	}
}

// find is the fragment with the given time, -1 for none that was begun.
func (p *put) find(ms int64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.begun {
		if p.frags[i].start == ms {
			return i
		}
	}
	return -1
}

// through reports whether the body is complete and all of it persisted.
func (p *put) through() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended && len(p.frags)-p.left == p.begun
}

// cutOff is the error for an end before the last PERSISTED.
func (p *put) cutOff(err error) error {
	p.mu.Lock()
	begun := p.begun
	p.mu.Unlock()
	e := &lane.Error{Class: lane.Ambiguous, Text: "the connection ended before all that was sent was acknowledged as persisted; it is sent again", Err: err}
	if done := len(p.frags) - p.left; err == nil && done == 0 && begun > 0 && p.received >= begun {
		e.Text = "Kinesis Video has received everything and persisted nothing: does the stream keep its data?"
	}
	return e
}

func (p *put) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun, p.ended, p.local = 0, false, nil
}

// seconds writes a time as the header wants it.
func seconds(ms int64) string {
	return strconv.FormatInt(ms/1000, 10) + fmt.Sprintf(".%03d", ms%1000)
}

// A producer is a body while it is made, at the speed at which it is taken.
type producer struct {
	*io.PipeReader
	done chan struct{}
}

func produce(ctx context.Context, p *put) *producer {
	r, w := io.Pipe()
	b := &producer{r, make(chan struct{})}
	go func() {
		defer close(b.done)
		err := p.make(ctx, w)
		if l, ok := errors.AsType[*local](err); ok {
			p.mu.Lock()
			p.local = l
			p.mu.Unlock()
		}
		w.CloseWithError(err)
	}()
	return b
}

// stop ends the producer and waits for its goroutine.
func (b *producer) stop() {
	if b == nil {
		return
	}
	b.CloseWithError(errOver) //nolint:errcheck // it never fails
	<-b.done
}

// make writes the body. Where a chunk cannot be opened it ends in front of it,
// so that what went before is acknowledged.
func (p *put) make(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(writeFunc(func(b []byte) (int, error) {
		if err := p.f.pace.spend(ctx, len(b)); err != nil {
			return 0, err
		}
		n, err := w.Write(b)
		if n > 0 {
			p.life()
		}
		return n, err
	}), 64<<10)
	if _, err := out.Write(appendHead(nil, p.frags[0].track)); err != nil {
		return err
	}
	begun := 0
	for i, f := range p.frags {
		if i > 0 && !time.Now().Before(p.until) {
			break
		}
		if err := p.f.pace.begin(ctx); err != nil {
			return err
		}
		source, err := p.s.open(f.parts[0].job)
		if err != nil {
			if p.fail(&local{i, asError(err)}) != nil {
				break
			}
		}
		begun = p.begin()
		if err := p.write(out, f, source); err != nil {
			return p.fail(&local{i, asError(err)})
		}
		if i == len(p.frags)-1 {
			break // its last bytes stay in out until it is noted that the body is complete
		}
		if err := out.Flush(); err != nil {
			return err
		}
	}
	if begun == 0 {
		return nil
	}
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	return out.Flush()
}

// begin notes that one more fragment is begun.
func (p *put) begin() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun++
	return p.begun
}

// fail notes that the body cannot be made because of our own disk. What the
// connection is to blame for passes.
func (p *put) fail(l *local) error {
	if _, ok := errors.AsType[*unread](l.err); !ok {
		return l.err.Err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.local = l
	return l
}

// write writes one fragment: its metadata, and its cluster with the pictures
// as they lie in the chunks. source is the first chunk, which it closes.
func (p *put) write(out *bufio.Writer, f *fragment, source io.ReadSeekCloser) error {
	head := appendCluster(appendTags(nil, p.s.tags(f)), f.start, f.bytes)
	f.parts[0].job.bytes += len(head)
	_, err := out.Write(head)
	for i := range f.parts {
		if i > 0 && err == nil {
			source, err = p.s.open(f.parts[i].job)
		}
		if err == nil {
			err = p.pictures(out, f.start, &f.parts[i], source)
		}
		if source != nil {
			source.Close() //nolint:errcheck // opened for reading only
			source = nil
		}
	}
	return err
}

// pictures writes the blocks of a part.
func (p *put) pictures(out *bufio.Writer, start int64, t *part, source io.ReadSeeker) error {
	in, place := bufio.NewReaderSize(source, 64<<10), int64(-1)
	var head []byte
	buf := make([]byte, 32<<10)
	for i := range t.frames {
		s := &t.frames[i]
		head = appendBlock(head[:0], s.size, int16(s.ms-start), s.key)
		if _, err := out.Write(head); err != nil {
			return err
		}
		if s.at != place {
			if _, err := source.Seek(s.at, io.SeekStart); err != nil {
				return lost(t.job.rec, err)
			}
			in.Reset(source)
		}
		for left := int(s.size); left > 0; {
			n, err := io.ReadFull(in, buf[:min(left, len(buf))])
			if err != nil {
				return lost(t.job.rec, err)
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
			left -= n
		}
		place = s.at + int64(s.size)
		t.job.bytes += len(head) + int(s.size)
	}
	return nil
}

type writeFunc func([]byte) (int, error)

func (w writeFunc) Write(b []byte) (int, error) { return w(b) }
