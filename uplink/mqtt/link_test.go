package mqtt_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
)

// An authority signs certificates for a test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newAuthority(t *testing.T, dir, name string) *authority {
	a := &authority{t: t, dir: dir, n: 1}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(name, kind string, der []byte) string {
	p := filepath.Join(a.dir, name)
	if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return p
}

// issue writes NAME.crt and NAME.key.
func (a *authority) issue(name string) (cert, key string) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.n++
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	priv, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(name+".crt", "CERTIFICATE", der), a.write(name+".key", "PRIVATE KEY", priv)
}

// A broker that asks for a certificate and for ALPN, as AWS IoT Core does on
// port 443, takes ours; who has none is told so, and a file that is mended is
// used at the next try.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	srvCert, srvKey := ca.issue("server")
	pair, err := tls.LoadX509KeyPair(srvCert, srvKey)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	b := newBroker(t, tls.NewListener(listen(t), &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		NextProtos: []string{"x-amzn-mqtt-ca"}, MinVersion: tls.VersionTLS12,
	}), 0)
	cert, key := ca.issue("edge")
	good := mqtt.Link{Broker: "ssl://" + b.addr(), CA: filepath.Join(dir, "ca.pem"), Cert: cert, Key: key, ALPN: "x-amzn-mqtt-ca"}
	l := laneOf("s", 1)
	s := open(t, mqtt.Config{Link: good})
	if o := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 1, "k", "1"))})[0]; o.Done != 1 {
		t.Fatalf("%+v", o)
	}
	other := newAuthority(t, dir, "other")
	strange, strangeKey := other.issue("strange")
	for name, c := range map[string]struct {
		change func(l *mqtt.Link)
		class  lane.Class
		text   string
	}{
		"no certificate":      {func(l *mqtt.Link) { l.Cert, l.Key = "", "" }, lane.Auth, "see cert and key"},
		"another authority's": {func(l *mqtt.Link) { l.Cert, l.Key = strange, strangeKey }, lane.Auth, "see cert and key"},
		"other ALPN":          {func(l *mqtt.Link) { l.ALPN = "mqtt" }, lane.Auth, "no application protocol"},
		"broker not trusted":  {func(l *mqtt.Link) { l.CA = filepath.Join(dir, "other.pem") }, lane.Offline, "signed by nobody"},
		"no file":             {func(l *mqtt.Link) { l.Cert = filepath.Join(dir, "gone") }, lane.Auth, "cannot be used"},
	} {
		link := good
		c.change(&link)
		err := open(t, mqtt.Config{Link: link}).Probe(t.Context())
		if e := (*lane.Error)(nil); !errors.As(err, &e) || e.Class != c.class || !strings.Contains(e.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A certificate that is mended while the sink lives.
	link := good
	link.Cert, link.Key = filepath.Join(dir, "late.crt"), filepath.Join(dir, "late.key")
	s = open(t, mqtt.Config{Link: link})
	if err := s.Probe(t.Context()); err == nil {
		t.Fatal("no file, no error")
	}
	ca.issue("late")
	if err := s.Probe(t.Context()); err != nil {
		t.Errorf("the file is there now: %v", err)
	}
}

func TestCheck(t *testing.T) {
	good := mqtt.Config{Link: mqtt.Link{Broker: "ssl://a.example"}}
	for want, change := range map[string]func(c *mqtt.Config){
		"":                   func(*mqtt.Config) {},
		"broker: this":       func(c *mqtt.Config) { c.Broker = "localhost:1883" },
		"broker: \"http\"":   func(c *mqtt.Config) { c.Broker = "http://a" },
		"broker: an address": func(c *mqtt.Config) { c.Broker = "tcp://a/x" },
		"broker: tcp has":    func(c *mqtt.Config) { c.Broker, c.CA = "tcp://a", "x" },
		"client_id:":         func(c *mqtt.Config) { c.ClientID = "a\x00" },
		"password:":          func(c *mqtt.Config) { c.Password = conf.NewSecret("x") },
		"cert:":              func(c *mqtt.Config) { c.Cert = "x" },
		"alpn: goes":         func(c *mqtt.Config) { c.Broker, c.ALPN = "wss://a", "x" },
		"proxy: this":        func(c *mqtt.Config) { c.Proxy = "10.0.0.1:3128" },
		"proxy: a password":  func(c *mqtt.Config) { c.Proxy = "http://u:p@10.0.0.1:3128" },
		"keep_alive:":        func(c *mqtt.Config) { c.KeepAlive = conf.Duration(time.Second) },
		"request_timeout:":   func(c *mqtt.Config) { c.RequestTimeout = 1 },
		"topic: {foo}":       func(c *mqtt.Config) { c.Topic = "{foo}" },
		"topic: {key:0}":     func(c *mqtt.Config) { c.Topic = "{key:0}" },
		"topic: {stream:1}":  func(c *mqtt.Config) { c.Topic = "{stream:1}" },
		"topic: a { ":        func(c *mqtt.Config) { c.Topic = "x{key" },
		"topic: a } ":        func(c *mqtt.Config) { c.Topic = "x}" },
		"topic: '+'":         func(c *mqtt.Config) { c.Topic = "a/+/{key}" },
		"topic: '#'":         func(c *mqtt.Config) { c.Topic = "#" },
		"format:":            func(c *mqtt.Config) { c.Format = "json" },
		"window:":            func(c *mqtt.Config) { c.Window = 70000 },
		"max_payload:":       func(c *mqtt.Config) { c.MaxPayload = 1 << 30 },
		"max_topic:":         func(c *mqtt.Config) { c.MaxTopic = 70000 },
		"max_slashes:":       func(c *mqtt.Config) { c.MaxSlashes = -1 },
	} {
		c := good
		change(&c)
		err := c.Check()
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
		if err == nil {
			if err := c.WithDefaults().Check(); err != nil {
				t.Errorf("defaults: %v", err)
			}
		}
	}
	if got := good.Target(); got != "ssl://a.example, topic {gateway}/{stream}/{key}" {
		t.Error(got)
	}
	aws := mqtt.Config{Link: mqtt.Link{Broker: "ssl://a1b2-ats.iot.eu-central-1.amazonaws.com:443"}}.WithDefaults()
	if aws.MaxPayload != 128<<10 || aws.MaxTopic != 256 || aws.MaxSlashes != 7 || aws.Window != 100 {
		t.Errorf("%+v", aws)
	}
}

func TestTemplate(t *testing.T) {
	at := mqtt.Place{Gateway: "g", Stream: "s", Shard: 3, Source: "src", Key: "a/b/c"}
	for text, want := range map[string]string{
		"plain": "plain", "{gateway}/{stream}/{source}/{key}": "g/s/src/a/b/c", "x{shard}y": "x3y",
		"{key:1}": "a", "{key:3}": "c", "{key:2-}": "b/c", "{key:4}": "", "{key:4-}": "", "{key:1-}": "a/b/c", "": "",
	} {
		p, err := mqtt.ParseTemplate(text, "gateway", "stream", "shard", "source", "key")
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := p.Fill(nil, &at, func(dst []byte, s string) []byte { return append(dst, s...) }); string(got) != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

// Limits of the broker hold back what it would never take.
func TestLimits(t *testing.T) {
	b := newBroker(t, listen(t), 0)
	s := open(t, mqtt.Config{Link: tcp(b.addr()), Topic: "p/{key}", MaxPayload: 1000, MaxTopic: 40, MaxSlashes: 3})
	l := laneOf("s", 1)
	for text, r := range map[string]record.Record{
		"max_slashes": rec(l, 2, "a/b/c/d", "1"),
		"max_topic":   rec(l, 2, strings.Repeat("x", 50), "1"),
		"max_payload": rec(l, 2, "k", strings.Repeat("x", 1000)),
	} {
		o := s.Send(t.Context(), []lane.Batch{batch(l, rec(l, 1, "k", "1"), r, rec(l, 3, "k", "1"))})[0]
		if o.Done != 1 || o.Class != lane.Poison || !strings.Contains(o.Err.Error(), text) {
			t.Errorf("%s: %+v", text, o)
		}
	}
	if n := len(b.all()); n != 3 {
		t.Errorf("%d messages", n)
	}
}

// Whatever a key holds, the topic is one that may be published to.
func FuzzTopic(f *testing.F) {
	for _, k := range []string{"a/b", "+", "#", "\x00", "$SYS/x", "\xff", strings.Repeat("ü", 256), "/", ""} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, key string) {
		for _, text := range []string{"{key}", "x/{key}", "{key:2-}{source}"} {
			topic, err := mqtt.TopicOf(mqtt.Config{Topic: text}, record.Identity{Gateway: "g"}, lane.Lane{Stream: "s"}, record.Record{Key: key, Data: []byte("1")})
			if err != nil {
				continue
			}
			if topic == "" || len(topic) > 65535 || strings.ContainsAny(topic, "+#\x00") || topic[0] == '$' || !utf8.ValidString(topic) {
				t.Fatalf("%q makes %q", key, topic)
			}
		}
	})
}
