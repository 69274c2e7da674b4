package http_test

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	httpuplink "forebay/uplink/http"
	"forebay/uplink/lane"
	"forebay/uplink/web"
)

func TestWhatAnAnswerMeans(t *testing.T) {
	page := "<html><body>Please log in</body></html>"
	for _, c := range []struct {
		status      int
		kind, body  string
		class       lane.Class
		text        string
		cfg         httpuplink.Config
		extraHeader string
	}{
		{200, "", "", lane.OK, "", httpuplink.Config{}, ""},
		{202, "application/json", "{}", lane.OK, "", httpuplink.Config{}, ""},
		{204, "", "", lane.OK, "", httpuplink.Config{}, ""},
		{200, "text/html; charset=utf-8", "ok", lane.Offline, "captive portal", httpuplink.Config{}, ""},
		{200, "application/xhtml+xml", "ok", lane.Offline, "captive portal", httpuplink.Config{}, ""},
		{201, "application/json", page, lane.Offline, "captive portal", httpuplink.Config{}, ""},
		{207, "application/json", "{}", lane.Misconfigured, "acknowledges nothing", httpuplink.Config{}, ""},
		{207, "application/json", "{}", lane.OK, "", httpuplink.Config{Accept: []int{207}}, ""},
		{202, "", "", lane.Misconfigured, "acknowledges nothing", httpuplink.Config{Accept: []int{200}}, ""},
		{302, "", "", lane.Offline, "redirect to portal.test", httpuplink.Config{}, "Location: http://portal.test/x"},
		{307, "", "", lane.Offline, "redirect", httpuplink.Config{}, "Location: /other"},
		{400, "", "no", lane.Misconfigured, "no", httpuplink.Config{}, ""}, // it has taken nothing yet
		{401, "", "", lane.Auth, "credentials", httpuplink.Config{}, ""},
		{403, "text/html", page, lane.Auth, "credentials", httpuplink.Config{}, ""},
		{404, "", "", lane.Misconfigured, "address", httpuplink.Config{}, ""},
		{405, "", "", lane.Misconfigured, "method", httpuplink.Config{}, ""},
		{407, "", "", lane.Misconfigured, "proxy", httpuplink.Config{}, ""},
		{408, "", "", lane.Transient, "408", httpuplink.Config{}, ""},
		{409, "", "busy", lane.Transient, "add 409 to accept: busy", httpuplink.Config{}, ""},
		{409, "", "", lane.OK, "", httpuplink.Config{Accept: []int{200, 409}}, ""},
		{413, "", "", lane.Misconfigured, "look at the limits", httpuplink.Config{}, ""}, // of so small a record
		{415, "", "", lane.Misconfigured, "compression", httpuplink.Config{}, ""},
		{425, "", "", lane.Transient, "425", httpuplink.Config{}, ""},
		{429, "", "", lane.Throttled, "less", httpuplink.Config{}, ""},
		{500, "", "boom\x00\n", lane.Ambiguous, "boom", httpuplink.Config{}, ""},
		{501, "", "", lane.Misconfigured, "address", httpuplink.Config{}, ""},
		{502, "", "", lane.Ambiguous, "502", httpuplink.Config{}, ""},
		{503, "", "", lane.Transient, "503", httpuplink.Config{}, ""},
		{503, "", "", lane.Throttled, "503", httpuplink.Config{}, "Retry-After: 7"},
		{511, "", "", lane.Offline, "login", httpuplink.Config{}, ""},
		{200, "", `{"r":{"ok":true}}`, lane.OK, "", httpuplink.Config{Expect: httpuplink.Expect{Field: "r.ok"}}, ""},
		{200, "", `{"r":[{"ok":"yes"}]}`, lane.OK, "", httpuplink.Config{Expect: httpuplink.Expect{Field: "r.0.ok", Equals: "yes"}}, ""},
		{200, "", `{"r":{"ok":false}}`, lane.Ambiguous, `field "r.ok"`, httpuplink.Config{Expect: httpuplink.Expect{Field: "r.ok"}}, ""},
		{200, "", `{"ok":"no"}`, lane.Ambiguous, `field "ok"`, httpuplink.Config{Expect: httpuplink.Expect{Field: "ok", Equals: "yes"}}, ""},
		{204, "", "", lane.Ambiguous, `field "ok"`, httpuplink.Config{Expect: httpuplink.Expect{Field: "ok"}}, ""},
		{200, "", page, lane.Offline, "portal", httpuplink.Config{Expect: httpuplink.Expect{Field: "ok"}}, ""},
		{200, "", "", lane.Ambiguous, "header X-Ack", httpuplink.Config{Expect: httpuplink.Expect{Header: "X-Ack", Value: "1"}}, "X-Ack: 2"},
		{200, "", "", lane.OK, "", httpuplink.Config{Expect: httpuplink.Expect{Header: "X-Ack", Value: "1"}}, "X-Ack: 1"},
	} {
		t.Run(fmt.Sprint(c.status, " ", c.kind, c.extraHeader, " ", c.class), func(t *testing.T) {
			srv := newServer(t, func(w http.ResponseWriter, _ post) {
				if name, value, ok := strings.Cut(c.extraHeader, ": "); ok {
					w.Header().Set(name, value)
				}
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			})
			c.cfg.URL = srv.URL
			done := 0
			if c.class == lane.OK {
				done = 1
			}
			o := send(t, open(t, c.cfg), batch(1, "1"))
			want(t, o, done, c.class, c.text)
			if c.extraHeader == "Retry-After: 7" && o.RetryAfter != 7*time.Second {
				t.Errorf("retry after %s", o.RetryAfter)
			}
		})
	}
}

func caFile(t *testing.T, srv *httptest.Server) string {
	return pemFile(t, "CERTIFICATE", srv.Certificate().Raw)
}

func pemFile(t *testing.T, kind string, der []byte) string {
	path := filepath.Join(t.TempDir(), "x.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTLS(t *testing.T) {
	h := &server{}
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	want(t, send(t, open(t, httpuplink.Config{URL: srv.URL}), batch(1, "1")), 0, lane.Offline, "set ca")
	if n := len(h.came()); n != 0 {
		t.Errorf("%d requests went to a stranger", n)
	}
	cfg := httpuplink.Config{URL: srv.URL, Access: web.Access{CA: caFile(t, srv)}}
	h.become(func(w http.ResponseWriter, _ post) {
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
	})
	s := open(t, cfg)
	if s.ClockOffset() != 0 {
		t.Error("an offset before any answer")
	}
	want(t, send(t, s, batch(1, "1")), 1, lane.OK, "")
	if off := s.ClockOffset(); off < 59*time.Minute || off > 61*time.Minute {
		t.Errorf("offset %s", off)
	}
	// Who redirects and has proved its name is no portal.
	h.become(func(w http.ResponseWriter, _ post) {
		w.Header().Set("Location", "https://new.test/")
		w.WriteHeader(308)
	})
	want(t, send(t, s, batch(2, "1")), 0, lane.Misconfigured, "new.test")
}

func TestClientCertificate(t *testing.T) {
	for version, max := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		h := &server{}
		srv := httptest.NewUnstartedServer(h)
		srv.Config.ErrorLog = nil
		srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: max}
		srv.StartTLS()
		ca := caFile(t, srv)
		o := send(t, open(t, httpuplink.Config{URL: srv.URL, Access: web.Access{CA: ca}}), batch(1, "1"))
		want(t, o, 0, lane.Auth, "client_cert")
		cert, key := pemFile(t, "CERTIFICATE", clientCert.cert), pemFile(t, "PRIVATE KEY", clientCert.key)
		s := open(t, httpuplink.Config{URL: srv.URL, Access: web.Access{CA: ca, ClientCert: cert, ClientKey: key}})
		want(t, send(t, s, batch(1, "1")), 1, lane.OK, version)
		srv.Close()
	}
}

func TestProxy(t *testing.T) {
	srv := newServer(t, nil)
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.Host)
		if r.Header.Get("Proxy-Authorization") != "Basic dTpw" {
			w.WriteHeader(407)
			return
		}
		if r.Method == http.MethodConnect {
			w.WriteHeader(502)
			return
		}
		srv.Config.Handler.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	access := web.Access{Proxy: proxy.URL, ProxyUser: "u", ProxyPassword: conf.NewSecret("p")}
	want(t, send(t, open(t, httpuplink.Config{URL: "http://ingest.test/x", Access: access}), batch(1, "1")), 1, lane.OK, "")
	access.ProxyPassword = conf.NewSecret("wrong")
	want(t, send(t, open(t, httpuplink.Config{URL: "http://ingest.test/x", Access: access}), batch(1, "1")), 0, lane.Misconfigured, "proxy_user")
	want(t, send(t, open(t, httpuplink.Config{URL: "https://ingest.test/x", Access: access}), batch(1, "1")), 0, lane.Misconfigured, "proxy_user")
	if len(asked) != 3 || asked[0] != "POST ingest.test" || asked[2] != "CONNECT ingest.test:443" {
		t.Errorf("asked: %q", asked)
	}
}

func TestProbe(t *testing.T) {
	status, kind := 405, ""
	srv := newServer(t, func(w http.ResponseWriter, _ post) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
	})
	s := open(t, httpuplink.Config{URL: srv.URL})
	strict := open(t, httpuplink.Config{URL: srv.URL, ProbeURL: srv.URL + "/health"})
	for _, c := range []struct {
		status      int
		kind        string
		there, well bool
	}{
		{200, "application/json", true, true},
		{405, "", true, false},
		{200, "text/html", true, false},
		{302, "", true, false}, // nobody knows how it answers otherwise
		{511, "", false, false},
	} {
		status, kind = c.status, c.kind
		if err := s.Probe(t.Context()); (err == nil) != c.there {
			t.Errorf("%d %s by HEAD: %v", c.status, c.kind, err)
		}
		if err := strict.Probe(t.Context()); (err == nil) != c.well {
			t.Errorf("%d %s of probe_url: %v", c.status, c.kind, err)
		}
	}
	srv.Close()
	if s.Probe(t.Context()) == nil {
		t.Error("finds what is gone")
	}
}

// A redirect or a page in the place of what the target answered to HEAD when it
// took batches is a portal's, once a batch does not get through; a target that
// always answers so is one.
func TestProbeKnowsHowTheTargetAnswers(t *testing.T) {
	for _, normal := range []int{405, 404, 200, 302} {
		status, kind, take := normal, "", true
		if normal == 200 || normal == 404 {
			kind = "text/html"
		}
		was := kind
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && take {
				return
			}
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
		}))
		s := open(t, httpuplink.Config{URL: srv.URL})
		if normal == 405 { // a portal that was there first is not learned from
			status, take = 302, false
			if err := s.Probe(t.Context()); err != nil {
				t.Error(err)
			}
			want(t, send(t, s, batch(1, "1")), 0, lane.Offline, "portal")
			status, take = normal, true
		}
		probe := func(there bool) {
			t.Helper()
			if err := s.Probe(t.Context()); (err == nil) != there {
				t.Errorf("normal %d, now %d %q: %v", normal, status, kind, err)
			}
		}
		probe(true)
		want(t, send(t, s, batch(1, "1")), 1, lane.OK, "")
		probe(true)
		for _, portal := range []struct {
			status int
			kind   string
		}{{200, "text/html"}, {302, ""}, {307, "text/html"}} {
			status, kind, take = portal.status, portal.kind, false
			same := status == normal && kind == was
			if !same {
				want(t, send(t, s, batch(2, "1")), 0, lane.Offline, "portal")
			}
			probe(same)
		}
		status, kind, take = normal, was, true
		probe(true)
		want(t, send(t, s, batch(2, "1")), 1, lane.OK, "")
		srv.Close()
	}
}

// A request that takes too long is Ambiguous and repeated as it was. A batch
// that never gets through in time gives way to smaller ones.
func TestTooSlow(t *testing.T) {
	var mu sync.Mutex
	var keys []string
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the client may have gone
		mu.Lock()
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		n := len(keys)
		mu.Unlock()
		if n <= 3 {
			<-r.Context().Done()
		}
	}))
	defer srv.Close()
	s := open(t, httpuplink.Config{URL: srv.URL, Compression: "zstd", Access: web.Access{RequestTimeout: conf.Duration(time.Second)}})
	long := `"` + strings.Repeat("x", 20_000) + `"`
	b := batch(1, long, long, long, long, long)
	for range 3 {
		want(t, send(t, s, b), 0, lane.Ambiguous, "request_timeout")
	}
	want(t, send(t, s, b), 5, lane.OK, "")
	mu.Lock()
	defer mu.Unlock()
	if len(keys) < 5 || keys[0] != keys[1] || keys[1] != keys[2] || keys[2] == keys[3] || !strings.Contains(keys[0], "/1-5-") {
		t.Errorf("%q", keys)
	}
}

func TestConfigCheck(t *testing.T) {
	good := httpuplink.Config{URL: "https://x.test/{stream}?a=b"}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	if err := good.WithDefaults().Check(); err != nil {
		t.Fatal(err)
	}
	for field, f := range map[string]func(c *httpuplink.Config){
		"url":         func(c *httpuplink.Config) { c.URL = "" },
		"url:":        func(c *httpuplink.Config) { c.URL = "ftp://x" },
		"url: ":       func(c *httpuplink.Config) { c.URL = "https://u:p@x" },
		"method":      func(c *httpuplink.Config) { c.Method = "GET" },
		"body":        func(c *httpuplink.Config) { c.Body = "xml" },
		"format":      func(c *httpuplink.Config) { c.Format = "csv" },
		"compression": func(c *httpuplink.Config) { c.Compression = "br" },
		"max_body":    func(c *httpuplink.Config) { c.MaxBody = 5 },
		"max_records": func(c *httpuplink.Config) { c.MaxRecords = -1 },
		"connections": func(c *httpuplink.Config) { c.Connections = 100 },
		"id_header":   func(c *httpuplink.Config) { c.IDHeader = "a b" },
		"headers":     func(c *httpuplink.Config) { c.Headers = map[string]conf.Secret{"content-length": conf.NewSecret("1")} },
		"headers:": func(c *httpuplink.Config) {
			c.Headers, c.User = map[string]conf.Secret{"authorization": conf.NewSecret("1")}, "u"
		},
		"content_type":   func(c *httpuplink.Config) { c.ContentType = "a\nb" },
		"token":          func(c *httpuplink.Config) { c.Token, c.User = conf.NewSecret("t"), "u" },
		"password":       func(c *httpuplink.Config) { c.Password = conf.NewSecret("t") },
		"user":           func(c *httpuplink.Config) { c.User = "a:b" },
		"accept":         func(c *httpuplink.Config) { c.Accept = []int{302} },
		"expect":         func(c *httpuplink.Config) { c.Expect.Value = "x" },
		"expect:":        func(c *httpuplink.Config) { c.Expect.Equals = "x" },
		"probe_url":      func(c *httpuplink.Config) { c.ProbeURL = "x" },
		"ca":             func(c *httpuplink.Config) { c.CA = "/nowhere" },
		"client_cert":    func(c *httpuplink.Config) { c.ClientCert = "answers_test.go" },
		"client_key":     func(c *httpuplink.Config) { c.ClientKey = "answers_test.go" },
		"proxy":          func(c *httpuplink.Config) { c.Proxy = "http://u:p@x" },
		"proxy_password": func(c *httpuplink.Config) { c.ProxyPassword = conf.NewSecret("x") },
		"proxy_user":     func(c *httpuplink.Config) { c.ProxyUser = "x" },
		"request_timeout": func(c *httpuplink.Config) {
			c.RequestTimeout = conf.Duration(time.Millisecond)
		},
	} {
		c := good
		f(&c)
		field = strings.TrimRight(field, ": ")
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
