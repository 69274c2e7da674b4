// Package cloud is a cloud that misbehaves: it stands in front of a Kinesis
// endpoint and does to its clients what the service, the network and what lies
// between them do on a bad day. It draws its faults from a seed.
//
// It changes requests, so signatures no longer fit: the endpoint behind it must
// take any, as one without keys does. It checks none itself.
package cloud

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Faults say how the cloud behaves. The shares are between 0 and 1, each drawn
// for a request, EntryFails for each record of a PutRecords request.
type Faults struct {
	// EntryFails is the share of records of PutRecords that are refused, by
	// turns with InternalFailure and ProvisionedThroughputExceededException;
	// the others of the request are stored.
	EntryFails float64 `json:"entry_fails"`
	// FailBefore and FailAfter are the shares of requests that are answered
	// with 500, before the endpoint saw them and after it has stored them.
	FailBefore float64 `json:"fail_before"`
	FailAfter  float64 `json:"fail_after"`
	// CutBefore and CutAfter are the shares whose connection is cut instead.
	CutBefore float64 `json:"cut_before"`
	CutAfter  float64 `json:"cut_after"`
	// Throttle holds each shard to 1,000 records and 1 MB a second, as the
	// service does.
	Throttle bool `json:"throttle"`
	// Clock is how far the cloud's clock is ahead: its Date says so, and what
	// was signed more than five minutes away from it is refused.
	Clock Duration `json:"clock"`
	// Slow holds every answer back.
	Slow Duration `json:"slow"`
	// Mode is "up", or "", or what the way to the cloud does: "down" cuts every
	// connection, "half-open" takes requests and never answers, "portal"
	// answers everything with a page to log in, status 200.
	Mode string `json:"mode"`
}

// Duration is a time.Duration that JSON writes as text, "250ms".
type Duration time.Duration

// MarshalText writes it as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText is its inverse.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Nothing is an endpoint that takes everything and keeps nothing.
const Nothing = "none"

// The modes.
const (
	Up       = "up"
	Down     = "down"
	HalfOpen = "half-open"
	Portal   = "portal"
)

// Check says whether the values can be meant.
func (f Faults) Check() error {
	for name, p := range map[string]float64{
		"entry_fails": f.EntryFails, "fail_before": f.FailBefore, "fail_after": f.FailAfter, "cut_before": f.CutBefore, "cut_after": f.CutAfter,
	} {
		if p < 0 || p > 1 {
			return fmt.Errorf("%s: %v is not between 0 and 1", name, p)
		}
	}
	switch f.Mode {
	case "", Up, Down, HalfOpen, Portal:
	default:
		return fmt.Errorf("mode: %q is not \"up\", \"down\", \"half-open\" or \"portal\"", f.Mode)
	}
	if f.Slow < 0 {
		return fmt.Errorf("slow: %s is less than nothing", time.Duration(f.Slow))
	}
	return nil
}

// Stats count what the cloud has done.
type Stats struct {
	Requests      uint64 `json:"requests"`
	Records       uint64 `json:"records"`        // Kinesis records that were stored
	Acknowledged  uint64 `json:"acknowledged"`   // of them, those whose sender was told
	EntriesFailed uint64 `json:"entries_failed"` // refused by lot
	Throttled     uint64 `json:"throttled"`      // refused by the shards' limits
	Failed        uint64 `json:"failed"`         // answered with 500, before or after
	Cut           uint64 `json:"cut"`
	Refused       uint64 `json:"refused"` // for their signing time
	Lost          uint64 `json:"lost"`    // by the mode: cut, swallowed, or shown a page
}

// A Cloud is an http.Handler in front of an endpoint.
type Cloud struct {
	to      string
	log     *slog.Logger
	client  *http.Client
	through []string
	signer  *v4.Signer
	now     func() time.Time

	mu     sync.Mutex
	rng    *rand.Rand
	faults Faults
	change chan struct{} // closed and replaced when the faults change
	shards shards

	bodies sync.Pool // *bytes.Buffer

	stats [9]atomic.Uint64
}

// New makes a cloud in front of the endpoint at the URL to. seed makes its lots
// the same again. The headers in through are handed on; others are not, as the
// service would not care for them.
func New(to string, seed uint64, f Faults, log *slog.Logger, through ...string) (*Cloud, error) {
	if err := f.Check(); err != nil {
		return nil, err
	}
	if to != Nothing && !strings.HasPrefix(to, "http://") && !strings.HasPrefix(to, "https://") {
		return nil, fmt.Errorf("%q is not the URL of an endpoint", to)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Cloud{
		to: strings.TrimRight(to, "/") + "/", log: log, now: time.Now, signer: v4.NewSigner(), through: through,
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 16}},
		rng:    rand.New(rand.NewPCG(seed, 1)), faults: f, change: make(chan struct{}),
	}, nil
}

// Set changes how it behaves from now on.
func (c *Cloud) Set(f Faults) error {
	if err := f.Check(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = f
	close(c.change)
	c.change = make(chan struct{})
	return nil
}

// Faults is how it behaves now.
func (c *Cloud) Faults() Faults {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults
}

// Stats may be called at any time.
func (c *Cloud) Stats() Stats {
	n := func(i int) uint64 { return c.stats[i].Load() }
	return Stats{n(sRequests), n(sRecords), n(sAcknowledged), n(sEntries), n(sThrottled), n(sFailed), n(sCut), n(sRefused), n(sLost)}
}

const (
	sRequests = iota
	sRecords
	sAcknowledged
	sEntries
	sThrottled
	sFailed
	sCut
	sRefused
	sLost
)

// lot is what was drawn for one request.
type lot struct {
	Faults
	before, after string // "", "fail", "cut"
	change        chan struct{}
}

func (c *Cloud) draw() lot {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := lot{Faults: c.faults, change: c.change}
	switch x := c.rng.Float64(); {
	case x < l.FailBefore:
		l.before = "fail"
	case x < l.FailBefore+l.CutBefore:
		l.before = "cut"
	}
	switch x := c.rng.Float64(); {
	case x < l.FailAfter:
		l.after = "fail"
	case x < l.FailAfter+l.CutAfter:
		l.after = "cut"
	}
	return l
}

// maxBody is above what PutRecords takes, in base64.
const maxBody = 16 << 20

// ServeHTTP does to a request what the faults say.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.stats[sRequests].Add(1)
	l := c.draw()
	if c.astray(w, r, l) {
		return
	}
	buf, ok := c.bodies.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	buf.Reset()
	if n := r.ContentLength; n > 0 && n <= maxBody {
		buf.Grow(int(n) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	body := buf.Bytes()
	if c.to == Nothing+"/" { // else a request to the endpoint may still read it
		defer c.bodies.Put(buf)
	}
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	w.Header().Set("Date", c.now().Add(time.Duration(l.Clock)).UTC().Format(http.TimeFormat))
	if !c.fresh(r, l) {
		c.stats[sRefused].Add(1)
		problem(w, r, http.StatusBadRequest, "InvalidSignatureException", "Signature expired or not yet current: "+r.Header.Get("X-Amz-Date")+" is not within 5 minutes of the service's clock")
		return
	}
	if c.broken(w, r, l.before) {
		return
	}
	status, head, answer, stored, err := c.pass(r, body, l)
	if err != nil {
		c.log.Debug("the endpoint behind the cloud cannot be reached", "error", err)
		problem(w, r, http.StatusServiceUnavailable, "ServiceUnavailable", "the endpoint behind cannot be reached")
		return
	}
	c.stats[sRecords].Add(stored)
	if l.Slow > 0 {
		pause := time.NewTimer(time.Duration(l.Slow))
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-r.Context().Done():
			return
		}
	}
	if c.broken(w, r, l.after) {
		return
	}
	for _, k := range []string{"Content-Type", "X-Amzn-Requestid", "X-Amzn-Errortype"} {
		if v := head.Get(k); v != "" {
			w.Header().Set(k, v)
		}
	}
	w.WriteHeader(status)
	if _, err := w.Write(answer); err == nil {
		c.stats[sAcknowledged].Add(stored)
	}
}

// astray deals with a request whose way to the cloud is not one.
func (c *Cloud) astray(w http.ResponseWriter, r *http.Request, l lot) bool {
	switch l.Mode {
	case Down:
		c.stats[sLost].Add(1)
		cut(w)
	case HalfOpen:
		c.stats[sLost].Add(1)
		// Not even the body is taken once the buffers are full.
		select {
		case <-l.change:
		case <-r.Context().Done():
		}
		cut(w)
	case Portal:
		c.stats[sLost].Add(1)
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if _, err := io.WriteString(w, "<!DOCTYPE html><html><title>Guest access</title><form>Please accept our terms</form></html>"); err != nil {
			c.log.Debug("page not sent", "error", err)
		}
	default:
		return false
	}
	return true
}

// broken ends a request that is to fail; false if it is not.
func (c *Cloud) broken(w http.ResponseWriter, r *http.Request, how string) bool {
	switch how {
	case "fail":
		c.stats[sFailed].Add(1)
		problem(w, r, http.StatusInternalServerError, "InternalFailure", "the request could not be processed")
	case "cut":
		c.stats[sCut].Add(1)
		cut(w)
	}
	return how != ""
}

// cut closes the connection without an answer.
func cut(http.ResponseWriter) { panic(http.ErrAbortHandler) }

// fresh reports whether the request was signed at about the cloud's time. One
// that is not signed is left to the endpoint.
func (c *Cloud) fresh(r *http.Request, l lot) bool {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return true
	}
	return at.Sub(c.now().Add(time.Duration(l.Clock))).Abs() <= 5*time.Minute
}

// problem answers with an error as the service writes it.
func problem(w http.ResponseWriter, r *http.Request, status int, code, text string) {
	enc := encodingOf(r)
	b, err := enc.marshal(map[string]string{"__type": code, "message": text})
	if err != nil {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", enc.media())
	w.WriteHeader(status)
	if _, err := w.Write(b); err != nil {
		return // the client has gone
	}
}

// pass hands a request to the endpoint, without the records that are to fail,
// and gives the answer, with theirs.
func (c *Cloud) pass(r *http.Request, body []byte, l lot) (status int, h http.Header, answer []byte, stored uint64, err error) {
	target := r.Header.Get("X-Amz-Target")
	var p *put
	if strings.HasSuffix(target, ".PutRecords") && (l.EntryFails > 0 || l.Throttle) {
		if p, err = c.sift(r, body, l); err == nil {
			body = p.body
		}
	}
	if p != nil && len(p.kept) == 0 {
		answer, err := p.join(nil)
		return http.StatusOK, http.Header{"Content-Type": {p.enc.media()}}, answer, 0, err
	}
	status, h, answer, err = c.ask(r, target, r.Header.Get("Content-Type"), body)
	if err != nil || status != http.StatusOK || !strings.Contains(target, ".PutRecord") {
		return status, h, answer, 0, err
	}
	stored = 1
	if strings.HasSuffix(target, ".PutRecords") {
		stored = encodingOf(r).stored(answer)
	}
	if p != nil {
		answer, err = p.join(answer)
	}
	return status, h, answer, stored, err
}

// anybody signs what the cloud asks of the endpoint, which takes any signature
// but wants one.
var anybody = aws.Credentials{AccessKeyID: "any", SecretAccessKey: "any"}

// ask makes a request of the endpoint.
func (c *Cloud) ask(r *http.Request, target, media string, body []byte) (int, http.Header, []byte, error) {
	if c.to == Nothing+"/" {
		return nothing(target, media, body)
	}
	// Not r's context: what the endpoint has begun to store is stored, also when
	// the client has gone.
	req, err := http.NewRequest(http.MethodPost, c.to, bytes.NewReader(body)) //nolint:noctx // see above
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("X-Amz-Target", target)
	req.Header.Set("Content-Type", media)
	if isCBOR(media) {
		req.Header.Set("Accept", media)
	}
	for _, k := range c.through {
		if v := r.Header.Get(k); v != "" {
			req.Header.Set(k, v)
		}
	}
	sum := sha256.Sum256(body)
	if err := c.signer.SignHTTP(req.Context(), anybody, req, hex.EncodeToString(sum[:]), "kinesis", "us-east-1", c.now()); err != nil {
		return 0, nil, nil, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return resp.StatusCode, resp.Header, answer, errors.Join(err, resp.Body.Close())
}
