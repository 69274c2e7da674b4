package aws_test

import (
	"crypto/sha1" //nolint:gosec // the AWS CLI names its cache so
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// signedBy posts, and wants it signed by a key.
func signedBy(t *testing.T, c *aws.Client, s *stand, key, token string) {
	t.Helper()
	if err := post(t, c); err != nil {
		t.Fatalf("signed by %s: %v", key, err)
	}
	if k, tok := s.last(); k != key || tok != token {
		t.Fatalf("signed by %s with the token %q, want %s and %q", k, tok, key, token)
	}
}

func chained(s *stand) aws.Access { return aws.Access{Endpoint: s.URL, Region: "eu-central-1"} }

func keyFile(key string) string {
	return "[default]\naws_access_key_id = " + key + "\naws_secret_access_key = " + secret + "\n"
}

// Static credentials may lie in files, which are read when they are used.
func TestStaticFiles(t *testing.T) {
	dir := bare(t)
	s := newStand(t)
	a := chained(s)
	id, sec, tok := write(t, dir+"/id", "AKIDONE\n"), write(t, dir+"/secret", secret+"\n"), write(t, dir+"/token", "first\n")
	a.AccessKey, a.SecretKey, a.SessionToken = "file:"+id, conf.NewSecret("file:"+sec), conf.NewSecret("file:"+tok)
	c := open(t, a, nil)
	signedBy(t, c, s, "AKIDONE", "first")
	write(t, id, "AKIDTWO\n")
	write(t, tok, "second\n")
	signedBy(t, c, s, "AKIDTWO", "second")
	write(t, sec, "\n")
	if err := post(t, c); class(err) != lane.Auth || !strings.Contains(err.Error(), "secret_key: is empty") {
		t.Errorf("an empty secret: %v", err)
	}
	if err := os.Remove(tok); err != nil {
		t.Fatal(err)
	}
	write(t, sec, secret)
	if err := post(t, c); class(err) != lane.Auth || !strings.Contains(err.Error(), "session_token") {
		t.Errorf("no token: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	bare(t)
	s := newStand(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_SESSION_TOKEN", "token")
	signedBy(t, open(t, chained(s), nil), s, "AKIDENV", "token")
}

// A shared file that is another is read again, also before anything is refused.
func TestSharedFileRotated(t *testing.T) {
	dir := bare(t)
	s := newStand(t)
	c := open(t, chained(s), nil)
	if err := post(t, c); class(err) != lane.Auth || !strings.Contains(err.Error(), "no credentials") {
		t.Fatalf("without any: %v", err)
	}
	write(t, dir+"/credentials", keyFile("AKIDFIRST"))
	signedBy(t, c, s, "AKIDFIRST", "")
	write(t, dir+"/credentials", keyFile("AKIDSECOND"))
	signedBy(t, c, s, "AKIDSECOND", "")
	// A file that is half written changes nothing; its rest does.
	write(t, dir+"/credentials", "[default]\naws_access_key_id = AKIDTHIRD\n")
	signedBy(t, c, s, "AKIDSECOND", "")
	write(t, dir+"/credentials", keyFile("AKIDTHIRD"))
	signedBy(t, c, s, "AKIDTHIRD", "")

	a := chained(s)
	a.Profile = "plant"
	c = open(t, a, nil)
	write(t, dir+"/config", strings.Replace(keyFile("AKIDPLANT"), "[default]", "[profile plant]", 1))
	signedBy(t, c, s, "AKIDPLANT", "")
}

// A command's credentials are kept until they are refused, then asked for
// anew; what it prints is never shown.
func TestProcess(t *testing.T) {
	dir := bare(t)
	s := newStand(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := dir + "/out.json"
	t.Setenv("AWS_TEST_PROCESS", out)
	write(t, dir+"/config", "[default]\ncredential_process = \""+filepath.ToSlash(exe)+"\"\n")
	says := func(key string) {
		write(t, out, `{"Version":1,"AccessKeyId":"`+key+`","SecretAccessKey":"`+secret+`","SessionToken":"t"}`)
	}
	c := open(t, chained(s), nil)
	says("AKIDONE")
	signedBy(t, c, s, "AKIDONE", "t")
	says("AKIDTWO")
	signedBy(t, c, s, "AKIDONE", "t")
	s.refuse["AKIDONE"] = "ExpiredTokenException"
	if err := post(t, c); class(err) != lane.Auth {
		t.Fatalf("refused: %v", err)
	}
	signedBy(t, c, s, "AKIDTWO", "t")

	write(t, out, `{"Version":1,"SecretAccessKey":"`+secret)
	s.refuse["AKIDTWO"] = "UnrecognizedClientException"
	for range 2 { // the refusal, and what the command says then
		err = post(t, c)
	}
	if class(err) != lane.Auth || !strings.Contains(err.Error(), "process output") {
		t.Errorf("an output that is cut: %v", err)
	}
}

// imds is an instance's metadata service.
type imds struct {
	asked atomic.Int32
	key   atomic.Value
	until time.Time
}

func (m *imds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const roles = "/latest/meta-data/iam/security-credentials/"
	switch {
	case r.URL.Path == "/latest/api/token" && r.Method == http.MethodPut:
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		fmt.Fprint(w, "imds-token")
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "imds-token":
		w.WriteHeader(401)
	case r.URL.Path == roles:
		fmt.Fprint(w, "edge-role")
	case r.URL.Path == roles+"edge-role":
		m.asked.Add(1)
		fmt.Fprintf(w, `{"Code":"Success","LastUpdated":"2026-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"%s","SecretAccessKey":"%s","Token":"role-token","Expiration":"%s"}`,
			m.key.Load(), secret, m.until.UTC().Format(time.RFC3339))
	default:
		w.WriteHeader(404)
	}
}

func newIMDS(t *testing.T, until time.Time) *imds {
	t.Helper()
	m := &imds{until: until}
	m.key.Store("ASIAROLE")
	srv := httptest.NewServer(m)
	t.Cleanup(srv.Close)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", srv.URL)
	return m
}

// The instance's role: asked once until shortly before its end by the
// service's clock, however wrong ours is; asked again after a refusal.
func TestIMDS(t *testing.T) {
	for name, skew := range map[string]time.Duration{"right": 0, "ten years ahead": 10 * year, "ten years behind": -10 * year} {
		t.Run(name, func(t *testing.T) {
			bare(t)
			s := newStand(t)
			m := newIMDS(t, time.Now().Add(6*time.Hour))
			wall := &wallClock{skew: skew}
			c := open(t, chained(s), wall.now)
			if skew != 0 {
				if err := post(t, c); class(err) != lane.ClockSkew {
					t.Fatalf("the first request: %v", err)
				}
			}
			for range 3 {
				signedBy(t, c, s, "ASIAROLE", "role-token")
			}
			if n := m.asked.Load(); n != 1 {
				t.Errorf("the role was asked for %d times", n)
			}
			m.key.Store("ASIANEXT")
			s.refuse["ASIAROLE"] = "ExpiredTokenException"
			if err := post(t, c); class(err) != lane.Auth {
				t.Fatalf("refused: %v", err)
			}
			signedBy(t, c, s, "ASIANEXT", "role-token")
		})
	}
}

// While nobody has told the time, credentials that seem to be over are used
// and not asked for again and again.
func TestDoubtful(t *testing.T) {
	bare(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	m := newIMDS(t, time.Now().Add(6*time.Hour))
	c := open(t, aws.Access{Endpoint: gone.URL, Region: "eu-central-1"}, (&wallClock{skew: 10 * year}).now)
	for range 3 {
		if err := post(t, c); class(err) != lane.Offline {
			t.Fatalf("%v", err)
		}
	}
	if n := m.asked.Load(); n != 1 {
		t.Errorf("the role was asked for %d times", n)
	}
}

// A token file that a platform rotates is exchanged at STS, and read anew when
// its credentials are refused.
func TestWebIdentity(t *testing.T) {
	dir := bare(t)
	s := newStand(t)
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Form.Get("Action") != "AssumeRoleWithWebIdentity" {
			w.WriteHeader(400)
			return
		}
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>ASIA%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>web</SessionToken><Expiration>%s</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, r.Form.Get("WebIdentityToken"), secret, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(sts.Close)
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/edge")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", write(t, dir+"/token", "ONE"))
	c := open(t, chained(s), nil)
	signedBy(t, c, s, "ASIAONE", "web")
	write(t, dir+"/token", "TWO")
	s.refuse["ASIAONE"] = "ExpiredTokenException"
	if err := post(t, c); class(err) != lane.Auth {
		t.Fatalf("refused: %v", err)
	}
	signedBy(t, c, s, "ASIATWO", "web")
	sts.Close()
	s.refuse["ASIATWO"] = "ExpiredTokenException"
	if err := post(t, c); class(err) != lane.Auth {
		t.Fatalf("refused: %v", err)
	}
	if err := post(t, c); class(err) != lane.Offline || !strings.Contains(err.Error(), "cannot be fetched") {
		t.Errorf("nobody answers at STS: %v", err)
	}
}

// A session of `aws sso login` that has ended says so; a new one is taken
// without a restart.
func TestSSO(t *testing.T) {
	dir := bare(t)
	s := newStand(t)
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Amz-Sso_bearer_token") != "sso-token" {
			w.WriteHeader(401)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"roleCredentials":{"accessKeyId":"ASIASSO","secretAccessKey":"%s","sessionToken":"sso","expiration":%d}}`, secret, time.Now().Add(time.Hour).UnixMilli())
	}))
	t.Cleanup(portal.Close)
	t.Setenv("AWS_ENDPOINT_URL_SSO", portal.URL)
	const start = "https://plant.awsapps.com/start"
	write(t, dir+"/config", "[default]\nsso_start_url = "+start+"\nsso_region = eu-central-1\nsso_account_id = 123456789012\nsso_role_name = edge\n")
	sum := sha1.Sum([]byte(start)) //nolint:gosec // the AWS CLI names its cache so
	session := func(until time.Time) {
		write(t, filepath.Join(dir, ".aws/sso/cache", hex.EncodeToString(sum[:])+".json"),
			`{"accessToken":"sso-token","expiresAt":"`+until.UTC().Format(time.RFC3339)+`","region":"eu-central-1","startUrl":"`+start+`"}`)
	}
	c := open(t, chained(s), nil)
	session(time.Now().Add(-time.Hour))
	if err := post(t, c); class(err) != lane.Auth {
		t.Fatalf("a session that has ended: %v", err)
	}
	session(time.Now().Add(time.Hour))
	signedBy(t, c, s, "ASIASSO", "sso")
}

// iotStand is the AWS IoT credentials provider.
type iotStand struct {
	*httptest.Server
	mu      sync.Mutex
	asked   int
	thing   string
	until   time.Time
	serials []string
	refuse  bool
}

func newIoT(t *testing.T, ca *authority, cert tls.Certificate) *iotStand {
	t.Helper()
	p := &iotStand{until: time.Now().Add(time.Hour)}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked++
		p.thing = r.Header.Get("X-Amzn-Iot-Thingname")
		p.serials = append(p.serials, r.TLS.PeerCertificates[0].SerialNumber.String())
		switch {
		case r.Method != http.MethodGet || r.URL.Path != "/role-aliases/edge-alias/credentials":
			w.WriteHeader(404)
			fmt.Fprint(w, `{"message":"Invalid URI path"}`)
		case p.refuse:
			w.WriteHeader(403)
			fmt.Fprint(w, `{"message":"Access Denied"}`)
		default:
			fmt.Fprintf(w, `{"credentials":{"accessKeyId":"ASIA%d","secretAccessKey":"%s","sessionToken":"iot","expiration":"%s"}}`, p.asked, secret, p.until.UTC().Format(time.RFC3339))
		}
	}))
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	p.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	p.StartTLS()
	t.Cleanup(p.Close)
	return p
}

func (p *iotStand) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// A device's certificate is exchanged for credentials, which are kept, renewed
// early and after a refusal, with the files as they are then.
func TestIoT(t *testing.T) {
	dir := bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-20*year), now.Add(20*year))
	p := newIoT(t, ca, ca.issue(t, "127.0.0.1", now.Add(-day), now.Add(day)))
	s := newStand(t)
	a := chained(s)
	cert, key := files(t, dir, ca.issue(t, "device", now.Add(-day), now.Add(day)))
	a.IoT = &aws.IoT{Endpoint: p.Listener.Addr().String(), RoleAlias: "edge-alias", Cert: cert, Key: key, CA: ca.file, Thing: "press-7"}
	wall := &wallClock{}
	c := open(t, a, wall.now)
	for range 3 {
		signedBy(t, c, s, "ASIA1", "iot")
	}
	if p.asked != 1 || p.thing != "press-7" {
		t.Errorf("asked %d times, for the thing %q", p.asked, p.thing)
	}
	files(t, dir, ca.issue(t, "device", now.Add(-day), now.Add(day)))
	s.refuse["ASIA1"] = "ExpiredTokenException"
	if err := post(t, c); class(err) != lane.Auth {
		t.Fatalf("refused: %v", err)
	}
	signedBy(t, c, s, "ASIA2", "iot")
	if p.serials[0] == p.serials[1] {
		t.Error("the device's new certificate was not taken")
	}
	p.set(func() { p.refuse = true })
	s.refuse["ASIA2"] = "ExpiredTokenException"
	err := post(t, c)
	if class(err) == lane.Auth && strings.Contains(err.Error(), "ExpiredToken") {
		err = post(t, c)
	}
	if class(err) != lane.Auth || !strings.Contains(err.Error(), "HTTP 403") || !strings.Contains(err.Error(), "iot:AssumeRoleWithCertificate") {
		t.Errorf("a device without a policy: %v", err)
	}
}

// That the provider of credentials cannot be reached is no refusal of theirs,
// whoever makes the request.
func TestSignOffline(t *testing.T) {
	dir := bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-year), now.Add(year))
	p := newIoT(t, ca, ca.issue(t, "127.0.0.1", now.Add(-day), now.Add(day)))
	a := chained(newStand(t))
	cert, key := files(t, dir, ca.issue(t, "device", now.Add(-day), now.Add(day)))
	a.IoT = &aws.IoT{Endpoint: p.Listener.Addr().String(), RoleAlias: "edge-alias", Cert: cert, Key: key, CA: ca.file}
	c := open(t, a, nil)
	p.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.Endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sign(t.Context(), req, nil); class(err) != lane.Offline {
		t.Errorf("%v: %v", class(err), err)
	}
}

// That no metadata service answers means that there are no credentials.
func TestNoIMDS(t *testing.T) {
	bare(t)
	s := newStand(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", gone.URL)
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	if err := post(t, open(t, chained(s), nil)); class(err) != lane.Auth || !strings.Contains(err.Error(), "no credentials") {
		t.Errorf("%v", err)
	}
}

// Ahead of their end credentials are renewed; while that fails they are used
// on, and past their end no more.
func TestRenewal(t *testing.T) {
	dir := bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-20*year), now.Add(20*year))
	p := newIoT(t, ca, ca.issue(t, "127.0.0.1", now.Add(-day), now.Add(day)))
	s := newStand(t)
	s.silent, s.anyDate = true, true // the wall clock counts
	a := chained(s)
	cert, key := files(t, dir, ca.issue(t, "device", now.Add(-day), now.Add(day)))
	a.IoT = &aws.IoT{Endpoint: p.Listener.Addr().String(), RoleAlias: "edge-alias", Cert: cert, Key: key, CA: ca.file}
	wall := &wallClock{}
	c := open(t, a, wall.now)
	signedBy(t, c, s, "ASIA1", "iot")
	wall.set(54 * time.Minute)
	signedBy(t, c, s, "ASIA1", "iot")
	p.set(func() { p.until = now.Add(2 * time.Hour) })
	wall.set(56 * time.Minute)
	signedBy(t, c, s, "ASIA2", "iot")
	p.set(func() { p.refuse = true })
	wall.set(116 * time.Minute)
	for range 2 { // the second within the pause after a failure
		signedBy(t, c, s, "ASIA2", "iot")
	}
	if p.asked != 3 {
		t.Errorf("asked %d times", p.asked)
	}

	c = open(t, a, wall.now)
	p.set(func() { p.refuse = false })
	signedBy(t, c, s, "ASIA4", "iot")
	p.set(func() { p.refuse = true })
	wall.set(121 * time.Minute)
	if err := post(t, c); class(err) != lane.Auth || !strings.Contains(err.Error(), "HTTP 403") {
		t.Errorf("past their end: %v", err)
	}
}

// The provider's own certificate: an unknown authority, and a clock behind.
func TestIoTCertificates(t *testing.T) {
	dir := bare(t)
	now := time.Now()
	ca := newAuthority(t, now.Add(-20*year), now.Add(20*year))
	p := newIoT(t, ca, ca.issue(t, "127.0.0.1", now.Add(-day), now.Add(day)))
	s := newStand(t)
	a := chained(s)
	cert, key := files(t, dir, ca.issue(t, "device", now.Add(-day), now.Add(day)))
	a.IoT = &aws.IoT{Endpoint: p.Listener.Addr().String(), RoleAlias: "edge-alias", Cert: cert, Key: key}
	if err := post(t, open(t, a, nil)); class(err) != lane.Offline || !strings.Contains(err.Error(), "signed by nobody") {
		t.Errorf("an unknown authority: %v", err)
	}
	a.IoT.CA = ca.file
	c := open(t, a, (&wallClock{skew: -10 * year}).now)
	if err := post(t, c); class(err) != lane.ClockSkew {
		t.Errorf("ten years behind: %v", err)
	}
	signedBy(t, c, s, "ASIA1", "iot")
	write(t, key, "no key")
	a.IoT.Thing = "x"
	if err := post(t, open(t, a, nil)); class(err) != lane.Auth || !strings.Contains(err.Error(), "certificate cannot be used") {
		t.Errorf("a key that is none: %v", err)
	}
}
