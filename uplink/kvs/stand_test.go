package kvs_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const secretKey = "wJalrXUtnFEMI-secret"

// A stand is a strict Kinesis Video: it reads what comes as the service does,
// holds its client to the limits, and fails as it is told.
type stand struct {
	*httptest.Server
	t *testing.T

	mu        sync.Mutex
	lax       bool // rates are not looked at
	status    string
	retention int
	missing   map[string]bool // streams that are not there
	fault     func(op, stream string, n int) string
	refuse    func(ms int64) bool    // fragments that are never taken
	calls     map[string]int         // by operation and stream
	times     map[string][]time.Time // of calls and fragments, by what and stream
	open      map[string]bool        // streams with a connection
	got       map[string][]*fragment // persisted, in order of arrival
	raw       map[string][]*bytes.Buffer
	private   map[string][]byte
	conns     int
	idle      bool // IDLE answers come in between
	wrong     []string
}

func newStand(t *testing.T) *stand {
	s := &stand{
		t: t, status: "ACTIVE", retention: 24, missing: map[string]bool{},
		fault: func(string, string, int) string { return "" }, refuse: func(int64) bool { return false },
		calls: map[string]int{}, times: map[string][]time.Time{}, open: map[string]bool{},
		got: map[string][]*fragment{}, raw: map[string][]*bytes.Buffer{}, private: map[string][]byte{},
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, w := range s.wrong {
			t.Error(w)
		}
	})
	return s
}

// misbehave sets what goes wrong with the nth call of an operation, or the nth
// fragment of a stream where the operation is "fragment", both from 1.
func (s *stand) misbehave(f func(op, stream string, n int) string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *stand) complain(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, a...))
}

func (s *stand) count(what, stream string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[what+" "+stream]
}

func (s *stand) fragments(stream string) []*fragment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*fragment(nil), s.got[stream]...)
}

// next counts a call or a fragment, and says what goes wrong with it; over
// reports that it is the sixth within a second.
func (s *stand) next(what, stream string) (fault string, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := what + " " + stream
	s.calls[at]++
	now := time.Now()
	times := s.times[at]
	for len(times) > 0 && now.Sub(times[0]) >= time.Second {
		times = times[1:]
	}
	s.times[at] = append(times, now)
	return s.fault(what, stream, s.calls[at]), !s.lax && len(s.times[at]) > 5
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Amzn-ErrorType", code)
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"Message":%q}`, message)
}

func (s *stand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := strings.TrimPrefix(r.URL.Path, "/")
	if op == "data/putMedia" {
		s.putMedia(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if err := signed(r, body); err != nil {
		s.complain("%s: %v", op, err)
	}
	var in struct {
		StreamName, APIName, MediaType string
		DataRetentionInHours           int
	}
	if err := json.Unmarshal(body, &in); err != nil {
		s.complain("%s: %v", op, err)
	}
	fault, over := s.next(op, in.StreamName)
	switch {
	case over || fault == "throttle":
		refuse(w, 400, "ClientLimitExceededException", "Rate exceeded")
		return
	case fault == "html":
		fmt.Fprint(w, "<html>Welcome!</html>")
		return
	case fault == "denied":
		refuse(w, 403, "AccessDeniedException", "User is not authorized to perform this")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if op == "createStream" {
		if in.DataRetentionInHours < 1 || !strings.HasPrefix(in.MediaType, "video/h26") {
			refuse(w, 400, "InvalidArgumentException", "")
			return
		}
		if !s.missing[in.StreamName] {
			refuse(w, 400, "ResourceInUseException", "")
			return
		}
		delete(s.missing, in.StreamName)
		s.retention = in.DataRetentionInHours
		fmt.Fprint(w, `{"StreamARN":"arn:aws:kinesisvideo:eu-central-1:1:stream/x/1"}`)
		return
	}
	switch {
	case s.missing[in.StreamName]:
		refuse(w, 404, "ResourceNotFoundException", "The requested stream is not found")
	case op == "describeStream":
		fmt.Fprintf(w, `{"StreamInfo":{"StreamName":%q,"Status":%q,"DataRetentionInHours":%d,"MediaType":"video/h264"}}`, in.StreamName, s.status, s.retention)
	case op == "getDataEndpoint" && in.APIName == "PUT_MEDIA":
		fmt.Fprintf(w, `{"DataEndpoint":"%s/data"}`, s.URL)
	default:
		refuse(w, 400, "InvalidArgumentException", op)
	}
}

var authRE = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=AKIDTEST/\d{8}/eu-central-1/kinesisvideo/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}$`)

// signed makes the signature anew and compares.
func signed(r *http.Request, body []byte) error {
	auth := r.Header.Get("Authorization")
	m := authRE.FindStringSubmatch(auth)
	if m == nil {
		return fmt.Errorf("Authorization: %q", auth)
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > 5*time.Minute {
		return fmt.Errorf("X-Amz-Date: %q", r.Header.Get("X-Amz-Date"))
	}
	again, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+r.Host+r.URL.Path, nil)
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(m[1], ";") {
		if v := r.Header.Get(name); v != "" {
			again.Header.Set(name, v)
		}
	}
	for _, name := range []string{"x-amzn-stream-name", "x-amzn-fragment-timecode-type", "x-amzn-fragment-acknowledgment-required", "x-amzn-producer-start-timestamp"} {
		if r.Header.Get(name) != "" && !strings.Contains(";"+m[1]+";", ";"+name+";") {
			return fmt.Errorf("%s is not signed", name)
		}
	}
	again.ContentLength = max(r.ContentLength, 0)
	// What PutMedia carries is signed as if there was none.
	creds := sdk.Credentials{AccessKeyID: "AKIDTEST", SecretAccessKey: secretKey}
	if err := v4.NewSigner().SignHTTP(r.Context(), creds, again, sum(body), "kinesisvideo", "eu-central-1", at); err != nil {
		return err
	}
	if got := again.Header.Get("Authorization"); got != auth {
		return fmt.Errorf("the signature is not right: %s, want %s", auth, got)
	}
	return nil
}

// A conn is one PutMedia request.
type conn struct {
	s      *stand
	w      http.ResponseWriter
	rc     *http.ResponseController
	stream string
	number int
	mute   bool // nothing more is persisted
	free   func()
}

func (c *conn) say(event string, f *fragment, more string) {
	fmt.Fprintf(c.w, `{"EventType":%q,"FragmentTimecode":%d,"FragmentNumber":"9134%d"%s}`, event, f.ms, f.ms, more)
	if c.number%2 == 0 { // the service puts something between, or does not
		fmt.Fprint(c.w, "\r\n")
	}
	c.rc.Flush() //nolint:errcheck // the client may have gone
}

func (c *conn) fail(f *fragment, code string, id int) {
	c.say("ERROR", f, fmt.Sprintf(`,"ErrorCode":%q,"ErrorId":%d`, code, id))
}

func (s *stand) putMedia(w http.ResponseWriter, r *http.Request) {
	if err := signed(r, nil); err != nil {
		s.complain("PutMedia: %v", err)
	}
	h, stream := r.Header, r.Header.Get("X-Amzn-Stream-Name")
	if stream == "" || h.Get("X-Amzn-Fragment-Timecode-Type") != "ABSOLUTE" || h.Get("X-Amzn-Fragment-Acknowledgment-Required") != "1" ||
		!regexp.MustCompile(`^\d+\.\d{3}$`).MatchString(h.Get("X-Amzn-Producer-Start-Timestamp")) || r.ContentLength != -1 {
		s.complain("PutMedia with %v and %d bytes", h, r.ContentLength)
	}
	fault, over := s.next("putMedia", stream)
	busy := !s.enter(stream)
	c := &conn{s: s, w: w, rc: http.NewResponseController(w), stream: stream, free: func() {}}
	if !busy {
		c.free = sync.OnceFunc(func() { s.leave(stream) })
		defer c.free()
	}
	s.mu.Lock()
	s.conns++
	c.number = s.conns
	s.mu.Unlock()
	switch {
	case busy:
		s.complain("a second connection to %s", stream)
		refuse(w, 400, "ConnectionLimitExceededException", "")
		return
	case over:
		s.complain("more than 5 PutMedia a second to %s", stream)
		fallthrough
	case fault == "throttle":
		refuse(w, 400, "ClientLimitExceededException", "Rate exceeded")
		return
	case fault == "html":
		fmt.Fprint(w, "<html>Welcome!</html>")
		return
	case fault == "gone":
		refuse(w, 404, "ResourceNotFoundException", "")
		return
	case fault == "500":
		w.WriteHeader(500)
		return
	case fault == "cut":
		panic(http.ErrAbortHandler)
	}
	if err := c.rc.EnableFullDuplex(); err != nil {
		s.complain("full duplex: %v", err)
	}
	w.WriteHeader(http.StatusOK)
	c.rc.Flush() //nolint:errcheck // the client may have gone
	c.take(r.Body, fault)
	c.free()
	io.Copy(io.Discard, r.Body) //nolint:errcheck // until the client hangs up
}

// enter takes the stream's one connection. One that its client has left may
// still be there for a moment.
func (s *stand) enter(stream string) bool {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		busy := s.open[stream]
		s.open[stream] = true
		s.mu.Unlock()
		if !busy || time.Now().After(end) {
			return !busy
		}
	}
}

func (s *stand) leave(stream string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, stream)
}

// take reads the fragments of a connection, to its end or to the first that is
// refused.
func (c *conn) take(body io.Reader, fault string) {
	raw := &bytes.Buffer{}
	m := &matroska{r: bufio.NewReader(io.TeeReader(body, raw))}
	defer func() {
		c.s.mu.Lock()
		c.s.raw[c.stream] = append(c.s.raw[c.stream], raw)
		c.s.private[c.stream] = m.private
		c.s.mu.Unlock()
	}()
	last := int64(-1)
	m.buffer = func(ms int64) { c.say("BUFFERING", &fragment{ms: ms}, "") }
	if err := m.head(); err != nil {
		c.broken(&fragment{}, err)
		return
	}
	var late *fragment
	for {
		f, err := m.next()
		if late != nil {
			c.keep(late)
			late = nil
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				c.broken(&fragment{}, err)
			}
			return
		}
		f.conn = c.number
		switch how, over := c.s.next("fragment", c.stream); {
		case over:
			c.s.complain("more than 5 fragments a second to %s", c.stream)
			return
		case f.ms <= last:
			c.s.complain("time goes back from %d to %d", last, f.ms)
			c.fail(f, "FRAGMENT_TIMECODE_LESSER_THAN_PREVIOUS", 4004)
			return
		case f.length() > 20_000:
			c.fail(f, "MAX_FRAGMENT_DURATION_REACHED", 4002)
			return
		case f.length() < 1000:
			c.say("ERROR", f, `,"ErrorCode":"MIN_FRAGMENT_DURATION_REACHED"`)
			return
		case f.size > 50_000_000:
			c.fail(f, "MAX_FRAGMENT_SIZE_REACHED", 4001)
			return
		case c.s.refuse(f.ms):
			c.fail(f, "INVALID_MKV_DATA", 4006)
			return
		case len(f.tags) > 10:
			c.fail(f, "FRAGMENT_METADATA_LIMIT_REACHED", 4009)
			return
		default:
			last = f.last()
			c.say("RECEIVED", f, "")
			if fault == "late" { // as the service may: when the next one begins, or the connection ends
				late = f
			} else if !c.settle(f, how) {
				return
			}
		}
	}
}

func (c *conn) broken(f *fragment, err error) {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		c.fail(f, "STREAM_READ_ERROR", 4000)
		return
	}
	c.s.complain("%s: %v", c.stream, err)
	c.fail(f, "INVALID_MKV_DATA", 4006)
}

// keep persists a fragment.
func (c *conn) keep(f *fragment) {
	c.s.mu.Lock()
	c.s.got[c.stream] = append(c.s.got[c.stream], f)
	idle := c.s.idle
	c.s.mu.Unlock()
	c.say("PERSISTED", f, "")
	if idle {
		c.say("IDLE", &fragment{}, "")
	}
}

// settle does with a fragment what is to be done; false ends the connection.
func (c *conn) settle(f *fragment, how string) bool {
	var code string
	var id int
	switch {
	case how == "cut":
		panic(http.ErrAbortHandler)
	case how == "forgotten" || c.mute: // received, and never persisted
		c.mute = true
		return true
	case how == "kept, then cut":
		c.s.mu.Lock()
		c.s.got[c.stream] = append(c.s.got[c.stream], f)
		c.s.mu.Unlock()
		panic(http.ErrAbortHandler)
	case how == "silent":
		<-c.s.t.Context().Done()
		return false
	case how == "noise":
		fmt.Fprint(c.w, "<html>")
		return false
	}
	if n, err := fmt.Sscanf(how, "error %d %s", &id, &code); n >= 1 || err == nil && n > 0 {
		c.fail(f, code, id)
		return false
	}
	c.keep(f)
	return true
}
