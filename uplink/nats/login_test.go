package nats_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/lane"
	"forebay/uplink/nats"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// Every way to log in works, a wrong one is told apart from an outage, and a
// file that was put right is read again.
func TestLogins(t *testing.T) {
	public, user := keyPair(t, nkeys.CreateUser)
	_, other := keyPair(t, nkeys.CreateUser)
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := other.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name         string
		server       func(o *server.Options)
		cfg          func(file string) nats.Config
		wrong, right []byte
	}{
		{
			"password", func(o *server.Options) { o.Username, o.Password = "edge", "right" },
			func(f string) nats.Config {
				return nats.Config{User: "edge", Password: conf.NewSecret("file:" + f)}
			}, []byte("s3cret-but-wrong"), []byte("right"),
		},
		{
			"token", func(o *server.Options) { o.Authorization = "right" },
			func(f string) nats.Config { return nats.Config{Token: conf.NewSecret("file:" + f)} }, []byte("s3cret-but-wrong"), []byte("right"),
		},
		{
			"nkey", func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} },
			func(f string) nats.Config { return nats.Config{NKey: f} }, wrong, seed,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t.TempDir())
			c.server(o)
			srv := start(t, o)
			file := filepath.Join(t.TempDir(), "secret")
			write(t, file, c.wrong)
			cfg := c.cfg(file)
			cfg.CreateStream = true
			s := sink(t, identity, cfg, srv.ClientURL())
			out := send(t, s, batch(1, 1, 5))
			wantClass(t, out, 0, lane.Auth, "refuses the credentials")
			if strings.Contains(out.Err.Error(), string(c.wrong)) {
				t.Errorf("the error tells the secret: %v", out.Err)
			}
			write(t, file, c.right)
			wantDone(t, send(t, s, batch(1, 1, 5)), 5)
		})
	}
}

// A credentials file is a user's JWT and seed, signed for by an operator; one
// that is missing or holds nonsense is told apart from an outage.
func TestCredentialsFile(t *testing.T) {
	operator, operatorKey := keyPair(t, nkeys.CreateOperator)
	account, accountKey := keyPair(t, nkeys.CreateAccount)
	user, userKey := keyPair(t, nkeys.CreateUser)
	encode := func(c jwt.Claims, by nkeys.KeyPair) string {
		token, err := c.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	claims := jwt.NewOperatorClaims(operator)
	encode(claims, operatorKey)
	o := options("")
	o.JetStream = false
	o.TrustedOperators = []*jwt.OperatorClaims{claims}
	resolver := &server.MemAccResolver{}
	if err := resolver.Store(account, encode(jwt.NewAccountClaims(account), operatorKey)); err != nil {
		t.Fatal(err)
	}
	o.AccountResolver = resolver
	srv := start(t, o)
	seed, err := userKey.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(encode(jwt.NewUserClaims(user), accountKey), seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "edge.creds")
	write(t, file, []byte("nonsense"))
	s := sink(t, identity, nats.Config{Creds: file}, srv.ClientURL())
	wantClass(t, send(t, s, batch(1, 1, 5)), 0, lane.Auth, "credentials cannot be read")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantClass(t, send(t, s, batch(1, 1, 5)), 0, lane.Auth, "credentials cannot be read")
	write(t, file, creds)
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	wantClass(t, send(t, s, batch(1, 1, 5)), 0, lane.Misconfigured, "no JetStream answers")
}

func keyPair(t *testing.T, create func() (nkeys.KeyPair, error)) (string, nkeys.KeyPair) {
	t.Helper()
	k, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err := k.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public, k
}

// TLS by the address or by files, with a client certificate; what stands in
// between is told apart.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca, pool := authority(t, dir, "ca")
	authority(t, dir, "stranger")
	serverCert := ca.issue(t, dir, "server")
	ca.issue(t, dir, "client")
	for _, first := range []bool{false, true} {
		o := options(t.TempDir())
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
		o.TLS, o.TLSTimeout, o.TLSHandshakeFirst = true, 5, first
		srv := start(t, o)
		at := "tls://" + srv.Addr().String()
		file := func(name string) string { return filepath.Join(dir, name+".pem") }
		good := nats.Config{CA: file("ca"), Cert: file("client"), Key: file("client-key"), TLSFirst: first, CreateStream: true}
		wantDone(t, send(t, sink(t, identity, good, at), batch(1, 1, 5)), 5)

		bad := good
		bad.CA = file("stranger")
		wantClass(t, send(t, sink(t, identity, bad, at), batch(1, 1, 5)), 0, lane.Offline, "signed by nobody")
		bad = good
		bad.Cert, bad.Key = "", ""
		wantClass(t, send(t, sink(t, identity, bad, at), batch(1, 1, 5)), 0, lane.Auth, "client certificate")
		bad = good
		bad.Key = file("ca")
		wantClass(t, send(t, sink(t, identity, bad, at), batch(1, 1, 5)), 0, lane.Misconfigured, "certificates cannot be used")
	}
}

type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func authority(t *testing.T, dir, name string) (signer, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return signer{cert, key}, pool
}

func (s signer) issue(t *testing.T, dir, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, s.cert, &key.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	write(t, filepath.Join(dir, name+".pem"), certPEM)
	write(t, filepath.Join(dir, name+"-key.pem"), keyPEM)
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
