package aws_test

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// A proxy passes on CONNECT and plain requests, to those who have the password.
type proxy struct {
	*httptest.Server
	mu     sync.Mutex
	want   string // of Proxy-Authorization
	status int    // answered to everything
	seen   []string
	wg     sync.WaitGroup
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	p := &proxy{}
	p.Server = httptest.NewServer(p)
	t.Cleanup(func() { p.Close(); p.wg.Wait() })
	return p
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, r.Method+" "+r.Host)
	want, status := p.want, p.status
	p.mu.Unlock()
	switch {
	case status != 0:
		w.WriteHeader(status)
	case r.Header.Get("Proxy-Authorization") != want:
		w.WriteHeader(http.StatusProxyAuthRequired)
	case r.Method == http.MethodConnect:
		p.tunnel(w, r.Host)
	default:
		r.RequestURI = ""
		r.Header.Del("Proxy-Authorization")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			w.WriteHeader(502)
			return
		}
		defer resp.Body.Close()
		maps.Copy(w.Header(), resp.Header)
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body) // the client may have gone
	}
}

func (p *proxy) tunnel(w http.ResponseWriter, host string) {
	far, err := net.Dial("tcp", host) //nolint:noctx // a stand-in
	if err != nil {
		w.WriteHeader(502)
		return
	}
	near, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	_, _ = near.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	p.wg.Go(func() { defer far.Close(); _, _ = io.Copy(far, rw) })
	p.wg.Go(func() { defer near.Close(); _, _ = io.Copy(near, far) })
}

func (p *proxy) requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.seen...)
}

// Everything goes through the proxy, but what is on the machine itself.
func TestProxy(t *testing.T) {
	dir := bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-year), now.Add(year))
	s := tlsStand(t, ca.issue(t, "127.0.0.1", now.Add(-day), now.Add(day)))
	p := newProxy(t)
	p.want = "Basic " + base64.StdEncoding.EncodeToString([]byte("plant:"+secret))
	a := static(s.URL)
	a.CA, a.Proxy = ca.file, p.URL
	if err := post(t, open(t, a, nil)); class(err) != lane.Misconfigured || !strings.Contains(err.Error(), "proxy_password") {
		t.Errorf("without a password: %v", err)
	}
	a.ProxyUser, a.ProxyPassword = "plant", conf.NewSecret("file:"+write(t, dir+"/password", secret))
	if err := post(t, open(t, a, nil)); err != nil {
		t.Errorf("with the password: %v", err)
	}
	if seen := p.requests(); len(seen) != 2 || seen[1] != "CONNECT "+s.Listener.Addr().String() {
		t.Errorf("the proxy saw %v", seen)
	}
	for status, want := range map[int]lane.Class{403: lane.Misconfigured, 502: lane.Offline} {
		p.mu.Lock()
		p.status = status
		p.mu.Unlock()
		if err := post(t, open(t, a, nil)); class(err) != want || !strings.Contains(err.Error(), fmt.Sprint("HTTP ", status)) {
			t.Errorf("the proxy answers %d: %v", status, err)
		}
	}
	p.Close()
	if err := post(t, open(t, a, nil)); class(err) != lane.Offline || !strings.Contains(err.Error(), "the proxy cannot be reached") {
		t.Errorf("no proxy: %v", err)
	}
	a.ProxyPassword = conf.NewSecret("file:/no/such/file")
	if err := post(t, open(t, a, nil)); class(err) != lane.Offline || !strings.Contains(err.Error(), "proxy_password") {
		t.Errorf("no password: %v", err)
	}

	plain, open2 := newStand(t), newProxy(t)
	b := aws.Access{Endpoint: plain.URL, Region: "eu-central-1", Proxy: open2.URL}
	newIMDS(t, now.Add(time.Hour))
	signedBy(t, open(t, b, nil), plain, "ASIAROLE", "role-token")
	if seen := open2.requests(); len(seen) != 1 || seen[0] != "POST "+plain.Listener.Addr().String() {
		t.Errorf("the proxy saw %v", seen)
	}
}

// SOCKS5, RFC 1928: greeting, request, then what is said.
func TestSOCKS(t *testing.T) {
	bare(t)
	s := newStand(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a stand-in
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r := bufio.NewReader(c)
		hello := make([]byte, 3)
		if _, err := io.ReadFull(r, hello); err != nil || hello[0] != 5 {
			t.Errorf("greeting %v, %v", hello, err)
			return
		}
		_, _ = c.Write([]byte{5, 0})
		ask := make([]byte, 10)
		if _, err := io.ReadFull(r, ask); err != nil || ask[1] != 1 || ask[3] != 1 {
			t.Errorf("request %v, %v", ask, err)
			return
		}
		addr := net.JoinHostPort(net.IP(ask[4:8]).String(), strconv.Itoa(int(ask[8])<<8|int(ask[9])))
		far, err := net.Dial("tcp", addr) //nolint:noctx // a stand-in
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		wg.Go(func() { defer far.Close(); _, _ = io.Copy(far, r) })
		_, _ = io.Copy(c, far)
	})
	a := static(s.URL)
	a.Proxy = "socks5://" + l.Addr().String()
	c := open(t, a, nil)
	if err := post(t, c); err != nil {
		t.Error(err)
	}
	c.Close()
	l.Close()
	if err := post(t, c); class(err) != lane.Offline || !strings.Contains(err.Error(), "the proxy cannot be reached") {
		t.Errorf("no proxy: %v", err)
	}
	wg.Wait()
}

// A certificate that nobody vouches for, one of another host, and a name that
// nobody knows, each in words.
func TestUnreachable(t *testing.T) {
	bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-year), now.Add(year))
	good := tlsStand(t, ca.issue(t, "127.0.0.1", now.Add(-day), now.Add(day)))
	other := tlsStand(t, ca.issue(t, "other.example", now.Add(-day), now.Add(day)))
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for want, a := range map[string]aws.Access{
		"set ca to the authority's file": static(good.URL),
		"belongs to another host":        func() aws.Access { a := static(other.URL); a.CA = ca.file; return a }(),
		"name cannot be looked up":       static("http://kinesis.plant.invalid"),
		"cannot reach the target":        static(gone.URL),
	} {
		if err := post(t, open(t, a, nil)); class(err) != lane.Offline || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	a := static(good.URL)
	a.CA = ca.file
	if err := post(t, open(t, a, nil)); err != nil {
		t.Errorf("with the authority: %v", err)
	}
}

// What a captive portal answers is no service's word, and its clock nobody's.
func TestPortal(t *testing.T) {
	bare(t)
	for name, answer := range map[string]func(w http.ResponseWriter){
		"a page":     func(w http.ResponseWriter) { w.WriteHeader(403); fmt.Fprint(w, "<html>pay</html>") },
		"a redirect": func(w http.ResponseWriter) { w.Header().Set("Location", "http://portal/"); w.WriteHeader(302) },
		"an answer without end": func(w http.ResponseWriter) {
			fmt.Fprint(w, strings.Repeat(" ", 8<<20))
		},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Date", time.Now().Add(-year).UTC().Format(http.TimeFormat))
			answer(w)
		}))
		c := open(t, static(srv.URL), nil)
		if err := post(t, c); class(err) != lane.Offline || !strings.Contains(err.Error(), "not Kinesis") || !strings.Contains(err.Error(), "captive portal?") {
			t.Errorf("%s: %v", name, err)
		}
		if c.ClockOffset() != 0 {
			t.Errorf("%s: the portal's clock was learned", name)
		}
		srv.Close()
	}
}

// S3 and the query protocol answer in XML, and to HEAD in nothing but a status.
func TestXML(t *testing.T) {
	bare(t)
	var status int
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = nil
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	for _, c := range []struct {
		method string
		status int
		body   string
		code   string
		class  lane.Class
	}{
		{"PUT", 412, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>PreconditionFailed</Code><Message>At least one</Message></Error>`, "PreconditionFailed", lane.Misconfigured},
		{"PUT", 503, `<Error><Code>SlowDown</Code></Error>`, "SlowDown", lane.Throttled},
		{"PUT", 403, `<Error><Code>SignatureDoesNotMatch</Code></Error>`, "SignatureDoesNotMatch", lane.Auth},
		{"PUT", 500, `<Error><Code>InternalError</Code></Error>`, "InternalError", lane.Ambiguous},
		{"PUT", 400, `<Error><Code>EntityTooLarge</Code></Error>`, "EntityTooLarge", lane.Poison},
		{"PUT", 400, `<Error><Code>RequestTimeout</Code></Error>`, "RequestTimeout", lane.Transient},
		{"POST", 400, `<ErrorResponse><Error><Type>Sender</Type><Code>InvalidClientTokenId</Code></Error></ErrorResponse>`, "InvalidClientTokenId", lane.Auth},
		{"PUT", 403, `<?xml version="1.0"?><html><Code>x</Code></html>`, "", lane.Offline},
		{"HEAD", 404, ``, "NotFound", lane.Misconfigured},
		{"HEAD", 403, ``, "AccessDenied", lane.Auth},
		{"HEAD", 302, ``, "", lane.Offline},
	} {
		status, body = c.status, c.body
		cl := open(t, static(srv.URL), nil)
		a, err := cl.Send(t.Context(), &aws.Request{Method: c.method, URL: srv.URL + "/bucket/key"})
		var e *lane.Error
		if !errors.As(err, &e) || e.Code != c.code || e.Class != c.class || a == nil || a.Status != c.status {
			t.Errorf("%s %d %s: %v", c.method, c.status, c.body, err)
		}
	}
	status = 403
	server := time.Now().Add(-3 * day).UTC().Truncate(time.Second)
	body = `<Error><Code>RequestTimeTooSkewed</Code><RequestTime>20200101T000000Z</RequestTime><ServerTime>` + server.Format(time.RFC3339) + `</ServerTime></Error>`
	cl := open(t, static(srv.URL), nil)
	if _, err := cl.Send(t.Context(), &aws.Request{Method: "PUT"}); class(err) != lane.ClockSkew || offBy(cl, -3*day) {
		t.Errorf("%v, offset %v", err, cl.ClockOffset())
	}
}

// A body that does not lie in memory, of known and of unknown length.
func TestStream(t *testing.T) {
	bare(t)
	var got, sum string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(500)
		}
		got, sum = fmt.Sprint(r.ContentLength, " ", string(b)), r.Header.Get("X-Amz-Content-Sha256")
	}))
	t.Cleanup(srv.Close)
	c, err := aws.NewClient(static(srv.URL), aws.Options{Service: "s3", Name: "S3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	stream := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("video")), nil }
	for size, want := range map[int64]string{5: "5 video", -1: "-1 video"} {
		_, err := c.Send(t.Context(), &aws.Request{Method: "PUT", URL: srv.URL + "/b/k", Stream: stream, Size: size, Sum: "UNSIGNED-PAYLOAD"})
		if err != nil || got != want || sum != "UNSIGNED-PAYLOAD" {
			t.Errorf("%v: got %q with the sum %q, want %q", err, got, sum, want)
		}
	}
	resp, err := c.Open(t.Context(), &aws.Request{Method: "GET", URL: srv.URL + "/b/k"})
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || got != "0 " || sum != "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" {
		t.Errorf("%v: got %q with the sum %q", err, got, sum)
	}
	_, err = c.Send(t.Context(), &aws.Request{Stream: func() (io.ReadCloser, error) { return nil, os.ErrNotExist }, Size: 1, Sum: "UNSIGNED-PAYLOAD"})
	if class(err) != lane.Transient || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a body that is gone: %v", err)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	f := write(t, dir+"/f", "x")
	iot := func(change func(c *aws.IoT)) func(a *aws.Access) {
		return func(a *aws.Access) {
			a.IoT = &aws.IoT{Endpoint: "c1.credentials.iot.eu-central-1.amazonaws.com", RoleAlias: "a", Cert: f, Key: f, CA: f, Thing: "t"}
			change(a.IoT)
		}
	}
	keys := func(a *aws.Access) { a.AccessKey, a.SecretKey = "A", conf.NewSecret(secret) }
	for field, change := range map[string]func(a *aws.Access){
		"endpoint: ":       func(a *aws.Access) { a.Endpoint = "https://user:" + secret + "@host" },
		"region: ":         func(a *aws.Access) { a.Region = "Frankfurt" },
		"access_key: ":     func(a *aws.Access) { a.AccessKey = "A" },
		"secret_key: ":     func(a *aws.Access) { a.SecretKey = conf.NewSecret(secret) },
		"session_token: ":  func(a *aws.Access) { a.SessionToken = conf.NewSecret(secret) },
		"profile: ":        func(a *aws.Access) { keys(a); a.Profile = "p" },
		"access_key: give": func(a *aws.Access) { iot(func(*aws.IoT) {})(a); keys(a) },
		"profile: give":    func(a *aws.Access) { iot(func(*aws.IoT) {})(a); a.Profile = "p" },
		"ca: ":             func(a *aws.Access) { a.CA = "/no/such/file" },
		"proxy: write":     func(a *aws.Access) { a.Proxy = "http://u:" + secret + "@h:1" },
		"proxy: this":      func(a *aws.Access) { a.Proxy = "ftp://h" },
		"proxy_user: ":     func(a *aws.Access) { a.ProxyUser = "u" },
		"proxy_password: ": func(a *aws.Access) { a.ProxyPassword = conf.NewSecret(secret) },
		"iot.endpoint: ":   iot(func(c *aws.IoT) { c.Endpoint = "https://x" }),
		"iot.role_alias: ": iot(func(c *aws.IoT) { c.RoleAlias = "a b" }),
		"iot.cert: ":       iot(func(c *aws.IoT) { c.Cert = "" }),
		"iot.key: ":        iot(func(c *aws.IoT) { c.Key = "/no/such/file" }),
		"iot.ca: ":         iot(func(c *aws.IoT) { c.CA = "/no/such/file" }),
		"iot.thing: ":      iot(func(c *aws.IoT) { c.Thing = "a b" }),
	} {
		a := aws.Access{Region: "eu-central-1"}
		if err := a.Check(); err != nil {
			t.Fatal(err)
		}
		change(&a)
		if err := a.Check(); err == nil || !strings.HasPrefix(err.Error(), field) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s%v", field, err)
		}
	}
	a := aws.Access{Region: "eu-central-1"}
	iot(func(*aws.IoT) {})(&a)
	if err := a.Check(); err != nil {
		t.Error(err)
	}
	for region, want := range map[string]string{
		"eu-central-1": "https://firehose.eu-central-1.amazonaws.com", "cn-north-1": "https://firehose.cn-north-1.amazonaws.com.cn",
		"eusc-de-east-1": "https://firehose.eusc-de-east-1.amazonaws.eu",
	} {
		if got := aws.EndpointOf("firehose", region); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if err := (aws.Access{Region: "eu-central-1"}).Check(); err != nil {
		t.Error(err)
	}
	bare(t)
	if _, err := aws.NewClient(aws.Access{}, aws.Options{Service: "kinesis"}); err == nil || !strings.HasPrefix(err.Error(), "region: is missing") {
		t.Errorf("no region: %v", err)
	}
	if _, err := aws.NewClient(aws.Access{Region: "eu-central-1", CA: f}, aws.Options{Service: "kinesis"}); err == nil || !strings.HasPrefix(err.Error(), "ca: ") {
		t.Errorf("a file without certificates: %v", err)
	}
}

// FuzzJudge: whatever answers, it has a class and a line of words.
func FuzzJudge(f *testing.F) {
	f.Add([]byte(`{"__type":"com.amazonaws#ThrottlingException:http://x","message":"m"}`), 400, "")
	f.Add([]byte(`<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>a
b</Message></Error>`), 503, "")
	f.Add([]byte(`<ErrorResponse><Error><Code>X</Code></Error></ErrorResponse>`), 400, "")
	f.Add([]byte(`<html>`), 302, "")
	f.Add([]byte(``), 500, "InternalFailure:")
	f.Add([]byte("\xd9\xd9\xf7\xa1\x66__type\x61x"), 400, "")
	c, err := aws.NewClient(static("http://127.0.0.1:1"), aws.Options{Service: "kinesis", Name: "Kinesis"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, status int, kind string) {
		e := c.Judge(status, http.Header{"X-Amzn-Errortype": {kind}}, body)
		if e.Class == lane.OK || e.Error() == "" || strings.ContainsAny(e.Error(), "\n\x00") || len(e.Error()) > 2000 {
			t.Fatalf("%+v", e)
		}
	})
}
