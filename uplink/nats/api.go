package nats

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"forebay/uplink/lane"

	natsgo "github.com/nats-io/nats.go"
)

// recheck is how long the target stream is taken to be as it was.
const recheck = 15 * time.Minute

// JetStream's own numbers for its errors (nats-server, errors.json).
const (
	errAccountResources = 10002
	errNotAvailable     = 10008
	errNotLeader        = 10009
	errInsufficient     = 10023
	errMemory           = 10028
	errNoMessage        = 10037
	errNoAccountJS      = 10039
	errStorage          = 10047
	errTooLarge         = 10054
	errStreamNotFound   = 10059
	errOtherStream      = 10060
	errSequenceMismatch = 10063
	errWrongLastID      = 10070
	errWrongLast        = 10071
	errNotEnabled       = 10076
	errStoreFailed      = 10077
	errHeadersTooLarge  = 10097
	errSealed           = 10109
	errStreamOffline    = 10118
	errInProcess        = 10158
	errNotReady         = 10163
	errWrongLastNow     = 10164
	errTooManyRequests  = 10167
	errBatchesOff       = 10174
	errIncomplete       = 10176
	errOfflineReason    = 10194
	errBatchTooLarge    = 10199
	errBatchDuplicate   = 10201
	errTooManyBatches   = 10210
)

// A failure is a *lane.Error and what the sink itself makes of it.
type failure struct {
	*lane.Error
	// moved: the lane's place in the stream is not what it was thought to be.
	moved bool
	// narrow: a smaller run may pass, or shows which record is to blame.
	narrow bool
	// stale: the stream is not what it was.
	stale bool
	// silent: the connection lives, but there was no answer.
	silent bool
	// nobody listens on the subject.
	nobody bool
}

func fail(c lane.Class, text string, err error) *failure {
	return &failure{Error: &lane.Error{Class: c, Text: text, Err: err}}
}

// An apiError is how JetStream says no.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// failure is what it means for a run of n messages.
func (e *apiError) failure(n int) *failure {
	f := &failure{Error: &lane.Error{Class: lane.Misconfigured, Code: strconv.Itoa(e.ErrCode), Text: e.Description}}
	switch e.ErrCode {
	case errWrongLast, errWrongLastNow, errWrongLastID, errInProcess, errNotReady, errBatchDuplicate:
		f.Class, f.moved = lane.Transient, true
	case errTooLarge, errHeadersTooLarge:
		f.Class, f.narrow, f.stale = lane.Poison, true, true
	case errStoreFailed:
		f.storeFailed(e.Description)
	case errInsufficient, errMemory, errStorage, errAccountResources:
		f.Class, f.Text = lane.Throttled, "the server or the account has no room for more: "+e.Description
	case errTooManyRequests, errTooManyBatches:
		f.Class = lane.Throttled
	case errBatchesOff:
		f.Class, f.stale = lane.Transient, true
	case errIncomplete:
		// It was dropped as a whole: a leader changed, the link was too slow,
		// or one message in it was refused.
		f.Class, f.narrow, f.stale = lane.Transient, true, true
	case errBatchTooLarge:
		f.Class, f.narrow = lane.Transient, true
	case errNotAvailable, errNotLeader, errSequenceMismatch, errStreamOffline, errOfflineReason:
		f.Class = lane.Transient
	case errStreamNotFound:
		f.Text, f.stale = "the JetStream stream does not exist; create it, or set create_stream", true
	case errOtherStream:
		f.Text, f.stale = "another stream than the configured one takes the subject; correct stream or subject", true
	case errSealed:
		f.Text = "the stream is sealed: it takes nothing ever again"
	case errNoAccountJS, errNotEnabled:
		f.Text = "JetStream is not enabled for this account"
	default:
		if e.Code >= 500 {
			f.Class = lane.Transient
		}
	}
	if f.narrow && n > 1 {
		f.Class = lane.Transient
	}
	return f
}

// storeFailed is for the one number that stands for a full stream, a message
// beyond what the disk's format takes, and a broken disk.
func (f *failure) storeFailed(why string) {
	switch {
	case strings.Contains(why, "maximum"):
		f.Class, f.Text = lane.Throttled, "the stream is full ("+why+") and its policy is to refuse what is new; raise its limits, or set its discard policy to old"
	case strings.Contains(why, "too large"):
		f.Class, f.narrow = lane.Poison, true
	default:
		f.Class = lane.Transient
	}
}

// ask makes an API request.
func (l *link) ask(ctx context.Context, subject string, in, out any) *failure {
	body, err := json.Marshal(in)
	if err != nil {
		return fail(lane.Misconfigured, "the request cannot be written", err)
	}
	limit, done := l.guard(ctx, 0)
	defer done()
	w := l.wait(subject)
	defer l.leave(w)
	if err := l.nc.PublishMsg(&natsgo.Msg{Subject: subject, Reply: w.reply, Data: body}); err != nil {
		return unsent(err)
	}
	m, f := l.answer(ctx, w, limit)
	if f != nil {
		switch {
		case f.Class == lane.Ambiguous && f.silent:
			f.Class = lane.Transient
		case f.Class == lane.Ambiguous: // nothing was changed
			f.Class = lane.Offline
		case f.nobody:
			f.Text = "no JetStream answers; is it enabled for this account, and domain right?"
		}
		return f
	}
	var e struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return fail(lane.Misconfigured, "what answers is not JetStream", nil)
	}
	if e.Error != nil {
		return e.Error.failure(1)
	}
	if err := json.Unmarshal(m.Data, out); err != nil {
		return fail(lane.Misconfigured, "JetStream's answer cannot be read", err)
	}
	return nil
}

// info is what the sink has to know of the target stream.
type info struct {
	Config struct {
		Subjects   []string `json:"subjects"`
		Retention  string   `json:"retention"`
		MaxMsgSize int      `json:"max_msg_size"`
		Atomic     bool     `json:"allow_atomic"`
		NoAck      bool     `json:"no_ack"`
		Transform  *struct {
			Source string `json:"src"`
		} `json:"subject_transform"`
	} `json:"config"`
}

// stream is the target stream as it was not long ago.
func (s *Sink) stream(ctx context.Context, l *link) (*info, *failure) {
	l.mu.Lock()
	known, at := l.known, l.knownAt
	l.mu.Unlock()
	if known != nil && time.Since(at) < recheck {
		return known, nil
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	l.mu.Lock()
	known, at = l.known, l.knownAt
	l.mu.Unlock()
	if known != nil && time.Since(at) < recheck {
		return known, nil
	}
	in := new(info)
	f := l.ask(ctx, s.cfg.api("STREAM.INFO"), nil, in)
	if f != nil && f.Code == strconv.Itoa(errStreamNotFound) && s.cfg.CreateStream {
		f = s.create(ctx, l, in)
	}
	if f != nil {
		return nil, f
	}
	if in.Config.NoAck {
		return nil, fail(lane.Misconfigured, "the stream acknowledges nothing (no_ack), so nothing can be known to have arrived", nil)
	}
	if in.Config.Transform != nil {
		return nil, fail(lane.Misconfigured, "the stream stores messages under other subjects than they are sent to (subject_transform), so a lane's end cannot be found again", nil)
	}
	s.advise(in)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known, l.knownAt = in, time.Now()
	return in, nil
}

// nobody says why nobody listened where a run was sent.
func (s *Sink) nobody(ctx context.Context, l *link, subject string) *failure {
	l.forget()
	in, f := s.stream(ctx, l)
	if f != nil {
		return f
	}
	for _, pattern := range in.Config.Subjects {
		if covers(pattern, subject) {
			return fail(lane.Transient, "the stream has no leader at the moment", nil)
		}
	}
	return fail(lane.Misconfigured, "the stream "+s.cfg.Stream+" does not take the subject "+subject+"; correct its subjects, or stream or subject here", nil)
}

// forget makes the next Send look at the stream again.
func (l *link) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = nil
}

// advise tells an operator, once, what the stream's config costs.
func (s *Sink) advise(in *info) {
	s.mu.Lock()
	said := s.advised
	s.advised = true
	s.mu.Unlock()
	if said {
		return
	}
	if !in.Config.Atomic {
		s.log.Warn("the target stream does not allow atomic batches: its records go one at a time, a round trip each; set its allow_atomic (nats-server 2.12 or newer)", "stream", s.cfg.Stream)
	}
	if in.Config.Retention != "limits" {
		s.log.Warn("the target stream drops what was consumed, so what it held before cannot always be told; after a cut records may come twice once the duplicate window is over", "stream", s.cfg.Stream, "retention", in.Config.Retention)
	}
}

func (s *Sink) create(ctx context.Context, l *link, in *info) *failure {
	c := s.cfg.WithDefaults()
	maxBytes := int64(c.MaxBytes)
	if maxBytes == 0 {
		maxBytes = -1
	}
	f := l.ask(ctx, c.api("STREAM.CREATE"), map[string]any{
		"name":         c.Stream,
		"description":  "records of Forebay gateways",
		"subjects":     []string{c.everybody()},
		"retention":    "limits",
		"storage":      "file",
		"discard":      "old",
		"num_replicas": c.Replicas,
		"max_age":      int64(c.MaxAge.D()),
		"max_bytes":    maxBytes,
		"max_msgs":     -1,
		"allow_direct": true,
		"allow_atomic": true,
	}, in)
	if f != nil {
		f.Text = "the stream cannot be created: " + f.Text
		return f
	}
	s.log.Info("created the target stream", "stream", c.Stream, "subjects", c.everybody(), "replicas", c.Replicas)
	return nil
}

// A tail is the last message on some subjects; seq is 0 where there is none.
type tail struct {
	seq   uint64
	id    string
	cover lane.Cover
	at    time.Time
}

// last reads the last message on the subjects that filter matches.
func (s *Sink) last(ctx context.Context, l *link, filter string) (tail, *failure) {
	var out struct {
		Message struct {
			Seq     uint64    `json:"seq"`
			Headers []byte    `json:"hdrs"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	// Asked of the stream's leader, not of any replica.
	f := l.ask(ctx, s.cfg.api("STREAM.MSG.GET"), map[string]string{"last_by_subj": filter}, &out)
	if f != nil {
		if f.Code == strconv.Itoa(errNoMessage) {
			return tail{}, nil
		}
		return tail{}, f
	}
	t := tail{seq: out.Message.Seq, at: out.Message.Time}
	if len(out.Message.Headers) > 0 {
		h, err := natsgo.DecodeHeadersMsg(out.Message.Headers)
		if err != nil {
			return tail{}, fail(lane.Transient, "the last message's headers cannot be read", err)
		}
		t.id, t.cover = h.Get(headerID), lane.ParseCover(h.Get(headerCover))
	}
	return t, nil
}

// publish sends the run that p has packed and waits for the one answer to it:
// the sequence number of its last message.
func (s *Sink) publish(ctx context.Context, l *link, p *packer, size int, q request) (uint64, *failure) {
	n := len(p.msgs)
	limit, done := l.guard(ctx, size)
	defer done()
	w := l.wait(p.msgs[n-1].subject)
	defer l.leave(w)
	if f := l.run(p, q, w.reply); f != nil {
		return 0, f
	}
	m, f := l.answer(ctx, w, limit)
	if f != nil && f.nobody {
		return 0, s.nobody(ctx, l, p.msgs[n-1].subject)
	}
	if f != nil {
		return 0, f
	}
	var ack struct {
		Error     *apiError `json:"error"`
		Stream    string    `json:"stream"`
		Seq       uint64    `json:"seq"`
		Duplicate bool      `json:"duplicate"`
		Batch     string    `json:"batch"`
		Count     int       `json:"count"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil || ack.Error == nil && (ack.Stream == "" || ack.Seq == 0) {
		return 0, fail(lane.Misconfigured, "what answers on the subject is not a JetStream stream", nil)
	}
	switch {
	case ack.Error != nil:
		return 0, ack.Error.failure(n)
	case ack.Stream != q.stream:
		return 0, (&apiError{ErrCode: errOtherStream}).failure(n)
	case q.batch != "" && (ack.Batch != q.batch || ack.Count != n):
		// A server that knows nothing of batches has stored what it should not
		// have: the stream is not what it said it was.
		f := fail(lane.Ambiguous, "the server does not know atomic batches any more", nil)
		f.stale = true
		return 0, f
	case ack.Duplicate:
		// It has the record, but not where we thought the lane ends.
		f := fail(lane.Transient, "the stream had the record already", nil)
		f.moved = true
		return ack.Seq, f
	}
	return ack.Seq, nil
}

// run writes a run in one piece, so that the server, which gives up on a batch
// that pauses, has it as soon as the link allows. Only its last message asks
// for an answer.
func (l *link) run(p *packer, q request, reply string) *failure {
	l.write.Lock()
	defer l.write.Unlock()
	last := len(p.msgs) - 1
	for i := range p.msgs {
		m := p.wire(i, q)
		if i == last {
			m.Reply = reply
		}
		err := l.nc.PublishMsg(m)
		switch {
		case err == nil:
		case i < last: // without the last one nothing is stored
			return unsent(err)
		case errors.Is(err, natsgo.ErrConnectionClosed), errors.Is(err, natsgo.ErrMaxPayload), errors.Is(err, natsgo.ErrBadSubject):
			return unsent(err)
		default:
			return fail(lane.Ambiguous, "the connection was cut before the answer", err)
		}
	}
	return nil
}

// unsent says what it means that nothing was sent.
func unsent(err error) *failure {
	switch {
	case errors.Is(err, natsgo.ErrMaxPayload):
		f := fail(lane.Transient, "the server's max_payload has changed", nil)
		f.stale = true
		return f
	case errors.Is(err, natsgo.ErrBadSubject):
		return fail(lane.Misconfigured, "the server does not take the subject", err)
	}
	return fail(lane.Offline, "the connection to the NATS server is closed", err)
}
