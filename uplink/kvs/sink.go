package kvs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

const (
	// window is how many records of a lane one Send takes at most, and
	// windowBytes how large their chunks may be together, unless it is the
	// first: what a Send has not got to comes with the next, and the cursor
	// moves in between.
	window, windowBytes = 64, 64 << 20
	// turn is how long a Send begins further fragments of a stream.
	turn = 20 * time.Second
	// parallel is how many streams one Send serves at a time.
	parallel = 4
)

// A Sink sends chunks to Kinesis video streams. It is safe for concurrent use.
type Sink struct {
	cfg            Config
	home           lane.Home
	gateway        string
	timeout, still time.Duration
	aws            *aws.Client
	log            *slog.Logger
	limits         limits

	mu    sync.Mutex
	fars  map[string]*far
	last  string // the stream used last
	held  map[lane.Lane]map[uint64]int
	inits map[source]*track
}

// held counts, by sequence, the pieces of a record that are persisted though
// the record, or one in front of it, is not done; whole stands for all.
const whole = -1

// A source is whose chunks an init segment is for.
type source struct{ stream, id string }

// A far is one Kinesis video stream. All but the first three belong to who
// has its turn.
type far struct {
	name  string
	media string // what it holds, where we make it
	turn  chan struct{}

	pace     pace
	checked  time.Time // when we last saw that it is there; zero: never
	endpoint string    // where video goes, without a slash at the end
	asked    time.Time // when we were told
}

func (f *far) forget() { f.checked, f.endpoint = time.Time{}, "" }

// New makes a sink. Nothing is sent before the first Send or Probe. Errors:
// what Check says, the CA file cannot be read, or neither config nor
// environment says where to send.
func New(cfg Config, home lane.Home) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	s := &Sink{
		cfg: cfg, home: home, gateway: home.ID.Gateway, timeout: cfg.RequestTimeout.D(), still: cfg.AckTimeout.D(),
		log: home.Log, limits: serviceLimits(),
		fars: map[string]*far{}, held: map[lane.Lane]map[uint64]int{}, inits: map[source]*track{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	s.aws, err = aws.NewClient(cfg.Access, aws.Options{
		Service: "kinesisvideo", Name: "Kinesis Video", Conns: 2 * parallel, Classify: classify, Log: home.Log,
	})
	return s, err
}

// Target is where the sink sends, in words.
func (s *Sink) Target() string { return s.cfg.Target() }

// ClockOffset is how far the target's clock is ahead of ours; 0 until the
// target has answered. Requests are signed with the target's time.
func (s *Sink) ClockOffset() time.Duration { return s.aws.ClockOffset() }

// Close gives up idle connections. It must not be called during Send.
func (s *Sink) Close() error {
	s.aws.Close()
	return nil
}

// A job is one record on its way through Send. It belongs to the goroutine
// that serves its stream.
type job struct {
	lane  lane.Lane
	rec   *record.Record
	index index
	start time.Time

	clip   *clip // nil until it is read
	pieces int   // that its chunk is cut into; 0: not known
	held   int   // pieces that the far side holds, from the first on
	done   bool
	alone  bool // shares a fragment with no other
	err    *lane.Error

	bytes, requests int
}

func (j *job) open() bool { return !j.done && j.err == nil }

var errRest = &lane.Error{Class: lane.Transient, Text: "as much video was sent as goes at a time; the rest follows"}

// Send sends the batches, which are of different lanes, and gives an outcome
// for each, in their order. Video of different streams goes out side by side;
// that of one stream in the order of its lane, and of several lanes by time. Of
// a batch it takes the first 64 records or 64 MiB; where that is not all, or
// takes longer than 20 s of a stream, the outcome is Transient and tells so. The records are
// not used after Send has returned.
//
// ctx ends the wait for acknowledgements; what was under way is then
// Ambiguous.
func (s *Sink) Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome {
	jobs := make([][]*job, len(lanes))
	groups := map[string][][]*job{} // by far stream: its jobs, lane by lane
	for i := range lanes {
		jobs[i] = s.take(&lanes[i])
		own := map[string][]*job{}
		for _, j := range jobs[i] {
			if j.open() {
				name := s.cfg.name(s.gateway, j.index.Camera, j.lane.Stream)
				own[name] = append(own[name], j)
			}
		}
		for name, list := range own {
			groups[name] = append(groups[name], list)
		}
	}
	var wg sync.WaitGroup
	room := make(chan struct{}, parallel)
	for name, lists := range groups {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			s.serve(ctx, name, byTime(lists))
		})
	}
	wg.Wait()
	out := make([]lane.Outcome, len(lanes))
	for i := range lanes {
		out[i] = s.outcome(&lanes[i], jobs[i])
	}
	return out
}

// take makes jobs of the front of a batch. A record that can never be sent has
// its error at once.
func (s *Sink) take(b *lane.Batch) []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held[b.Lane]
	if len(b.Recs) > 0 {
		for seq := range held { // of records that have gone since
			if seq < b.Recs[0].Pos.Seq {
				delete(held, seq)
			}
		}
	}
	var jobs []*job
	size := int64(0)
	for i := range b.Recs {
		r := &b.Recs[i]
		if size += chunkLen(r); len(jobs) == window || len(jobs) > 0 && size > windowBytes {
			break
		}
		j := &job{lane: b.Lane, rec: r}
		j.read(s)
		if n := held[r.Pos.Seq]; n == whole {
			j.done = true
		} else {
			j.held = n
		}
		jobs = append(jobs, j)
	}
	return jobs
}

// outcome is what became of a batch, and notes what is persisted behind the
// first record that is not done.
func (s *Sink) outcome(b *lane.Batch, jobs []*job) lane.Outcome {
	o := lane.Outcome{}
	for o.Done < len(jobs) && jobs[o.Done].done {
		o.Done++
	}
	held := map[uint64]int{}
	for i, j := range jobs {
		o.Bytes += j.bytes
		o.Requests += j.requests
		switch {
		case i < o.Done:
		case j.done:
			held[j.rec.Pos.Seq] = whole
		case j.held > 0:
			held[j.rec.Pos.Seq] = j.held
		}
	}
	s.mu.Lock()
	if len(held) > 0 {
		s.held[b.Lane] = held
	} else {
		delete(s.held, b.Lane)
	}
	s.mu.Unlock()
	if o.Done == len(b.Recs) {
		return o
	}
	e := errRest
	if o.Done < len(jobs) && jobs[o.Done].err != nil {
		e = jobs[o.Done].err
	}
	o.Class, o.Err, o.RetryAfter = e.Class, e, e.RetryAfter
	return o
}

// byTime merges the jobs of several lanes: each keeps its order, and of their
// heads the oldest video goes first.
func byTime(lists [][]*job) []*job {
	if len(lists) == 1 {
		return lists[0]
	}
	var out []*job
	for {
		best := -1
		for i, l := range lists {
			if len(l) > 0 && (best < 0 || l[0].start.Before(lists[best][0].start)) {
				best = i
			}
		}
		if best < 0 {
			return out
		}
		out, lists[best] = append(out, lists[best][0]), lists[best][1:]
	}
}

func (s *Sink) far(name string) *far {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = name
	f := s.fars[name]
	if f == nil {
		f = &far{name: name, turn: make(chan struct{}, 1), pace: pace{limits: s.limits}}
		s.fars[name] = f
	}
	return f
}

// serve sends what goes to one stream.
func (s *Sink) serve(ctx context.Context, name string, jobs []*job) {
	f := s.far(name)
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		failAll(jobs, interrupted(ctx.Err()))
		return
	}
	defer func() { <-f.turn }()
	until := time.Now().Add(turn)
	f.media = jobs[0].index.media()
	if err := s.prepare(ctx, f); err != nil {
		failAll(jobs, asError(err))
		return
	}
	for careful := false; ; {
		clips := s.clips(jobs)
		if len(clips) == 0 {
			return
		}
		if !time.Now().Before(until) {
			failAll(jobs, errRest)
			return
		}
		frags := plan(clips)
		n := run(frags)
		if careful {
			n = 1
		}
		moved := false
		frags[0].parts[0].job.requests++
		err := s.put(ctx, f, frags[:n], until, func(g *fragment) {
			moved = true
			g.settle()
		})
		if err == nil {
			continue
		}
		e := s.blame(f, frags[:n], err, moved, &careful)
		if e == nil {
			continue
		}
		if e.Code == "ResourceNotFoundException" || e.Code == "InvalidEndpointException" || e.Class == lane.Offline {
			f.forget() // another endpoint may be meant by now
		}
		failAll(jobs, e)
		return
	}
}

// settle notes that a fragment is persisted.
func (f *fragment) settle() {
	for i := range f.parts {
		p := &f.parts[i]
		if p.index == p.job.held {
			p.job.held++
		}
		p.job.done = p.job.held == p.pieces
	}
}

// blame finds out what a failure is about. nil: the rest can go on at once.
func (s *Sink) blame(f *far, frags []*fragment, err error, moved bool, careful *bool) *lane.Error {
	if l, ok := errors.AsType[*local](err); ok {
		if g := frags[l.at]; len(g.parts) > 1 {
			g.part()
			return nil
		}
		if l.err.Class == lane.Poison {
			frags[l.at].parts[0].job.err = l.err
			return nil
		}
		return l.err
	}
	r, ok := errors.AsType[*refused](err)
	if !ok {
		return asError(err)
	}
	v, e := r.ack.judge(), r.ack.refusal(f.name)
	s.log.Warn("Kinesis Video reports an error", "stream", f.name, "code", e.Code, "id", r.ack.ErrorID, "fragment_time", r.ack.FragmentTimecode)
	switch {
	case v.again && moved:
		return nil
	case !v.fragment:
		return e
	case len(frags) > 1: // it may have been what went before that was not right
		*careful = true
		return nil
	case len(frags[0].parts) > 1:
		frags[0].part()
		return nil
	}
	frags[0].parts[0].job.err = e
	*careful = false
	return nil
}

// part has the records of a fragment travel alone.
func (f *fragment) part() {
	for i := range f.parts {
		f.parts[i].job.alone = true
	}
}

func failAll(jobs []*job, e *lane.Error) {
	for _, j := range jobs {
		if j.open() {
			j.err = e
		}
	}
}

// clips reads the index of what is still to be sent, and sets aside what can
// never be. An error of our own disk holds up what is behind it.
func (s *Sink) clips(jobs []*job) []*clip {
	var out []*clip
	for _, j := range jobs {
		if j.open() && j.clip == nil {
			if err := s.load(j); err != nil {
				j.err = err
			}
		}
		if j.err != nil && j.err.Class != lane.Poison {
			break
		}
		if j.open() && j.clip != nil {
			out = append(out, j.clip)
		}
	}
	return out
}

func chunkLen(r *record.Record) int64 {
	if len(r.Blob) > 0 {
		return int64(len(r.Blob))
	}
	return r.Chunk.Len
}

// open opens a record's chunk.
func (s *Sink) open(j *job) (io.ReadSeekCloser, error) {
	if len(j.rec.Blob) > 0 {
		return blob{bytes.NewReader(j.rec.Blob)}, nil
	}
	if s.home.Chunk == nil {
		return nil, lost(j.rec, fs.ErrNotExist)
	}
	c, err := s.home.Chunk(j.lane.Stream, j.rec.Chunk)
	if err != nil {
		return nil, lost(j.rec, err)
	}
	return c, nil
}

type blob struct{ *bytes.Reader }

func (blob) Close() error { return nil }

// lost is the error for a chunk that cannot be read. Only what says that the
// bytes are damaged or gone is final.
func lost(r *record.Record, err error) *lane.Error {
	damaged := (*record.CorruptError)(nil)
	switch {
	case errors.As(err, &damaged):
		return &lane.Error{Class: lane.Poison, Text: fmt.Sprintf("the %d bytes of video are damaged", chunkLen(r)), Err: &unread{err}}
	case errors.Is(err, fs.ErrNotExist):
		return &lane.Error{Class: lane.Poison, Text: fmt.Sprintf("the %d bytes of video are kept no longer", chunkLen(r)), Err: &unread{err}}
	}
	return &lane.Error{Class: lane.Transient, Text: "the video cannot be read", Err: &unread{err}}
}
