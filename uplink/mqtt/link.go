package mqtt

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/lane"
)

const (
	defaultKeepAlive = 30 * time.Second
	defaultTimeout   = 30 * time.Second
	dialTimeout      = 10 * time.Second
)

// A Link is how to reach a broker: the part of a table that the targets which
// speak MQTT share. Zero means the documented default.
type Link struct {
	// Broker is the address: "tcp://HOST:1883", "ssl://HOST:8883" for TLS
	// ("mqtt" and "mqtts" mean the same), "ws://HOST/mqtt" or "wss://HOST/mqtt".
	// Required.
	Broker string `toml:"broker"`
	// ClientID names us to the broker, which ends the connection of whoever
	// used the name before. Default "forebay-GATEWAY-UPLINK".
	ClientID string `toml:"client_id"`
	// Username and Password are sent if they are set.
	Username string      `toml:"username"`
	Password conf.Secret `toml:"password"`
	// CA is a PEM file of authorities to trust instead of the system's.
	CA string `toml:"ca"`
	// Cert and Key are PEM files of our certificate and its key, for a broker
	// that asks for one. The files are read at each connect.
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// ALPN is the protocol to ask for in TLS: "x-amzn-mqtt-ca" for AWS IoT
	// Core on port 443. Default: none.
	ALPN string `toml:"alpn"`
	// Proxy is an HTTP proxy that lets connections through, "http://HOST:PORT",
	// or "off". Default: what HTTPS_PROXY and NO_PROXY of the environment say
	// for ssl and wss, HTTP_PROXY for ws; none for tcp.
	Proxy string `toml:"proxy"`
	// KeepAlive is how long the connection may be silent before we ask
	// whether the broker is still there; 5s to 18h. Default 30s.
	KeepAlive conf.Duration `toml:"keep_alive"`
	// RequestTimeout is how long to wait for an answer: to a connect, a
	// message, a ping. Default 30s.
	RequestTimeout conf.Duration `toml:"request_timeout"`
}

// Check says whether the values can be meant; the error begins with the name
// of the field. It reads no file.
func (l Link) Check() error {
	u, err := l.url()
	if err != nil {
		return err
	}
	secure := secureScheme(u.Scheme)
	switch {
	case len(l.ClientID) > 65535 || strings.ContainsAny(l.ClientID, "\x00"):
		return errors.New("client_id: is too long, or holds a NUL")
	case l.Password.IsSet() && l.Username == "":
		return errors.New("password: needs a username") // [MQTT-3.1.2-22] of 3.1.1
	case (l.Cert == "") != (l.Key == ""):
		return errors.New("cert: cert and key go together")
	case !secure && (l.CA != "" || l.Cert != ""):
		return fmt.Errorf("broker: %s has no TLS, in which ca and cert are used; write ssl:// or wss://", u.Scheme)
	case l.ALPN != "" && u.Scheme != "ssl":
		return errors.New("alpn: goes with ssl:// only")
	case len(l.ALPN) > 255:
		return errors.New("alpn: is longer than 255 bytes")
	}
	if l.Proxy != "" && l.Proxy != "off" {
		p, err := url.Parse(l.Proxy)
		if err != nil || p.Scheme != "http" || p.Hostname() == "" || (p.Path != "" && p.Path != "/") {
			return errors.New("proxy: this is not a proxy; write for example \"http://10.0.0.3:3128\", or \"off\"")
		}
		if p.User != nil {
			return errors.New("proxy: a password does not belong into the config file; set HTTPS_PROXY in the environment")
		}
	}
	if d := l.KeepAlive.D(); d != 0 && (d < 5*time.Second || d > 18*time.Hour) {
		return fmt.Errorf("keep_alive: %s is not between 5s and 18h", l.KeepAlive)
	}
	if d := l.RequestTimeout.D(); d != 0 && (d < time.Second || d > 10*time.Minute) {
		return fmt.Errorf("request_timeout: %s is not between 1s and 10m", l.RequestTimeout)
	}
	return nil
}

// Defaults fills in what was left out and does not depend on the gateway.
func (l Link) Defaults() Link {
	l.KeepAlive = conf.Duration(l.KeepAlive.Or(defaultKeepAlive))
	l.RequestTimeout = conf.Duration(l.RequestTimeout.Or(defaultTimeout))
	return l
}

// Name is the client id to use for an uplink.
func (l Link) Name(home lane.Home) string {
	if l.ClientID != "" {
		if _, what, ok := strings.Cut(home.Uplink, "~"); home.Apart && ok {
			return l.ClientID + "-" + what // a broker ends the connection of whoever had the name before
		}
		return l.ClientID
	}
	return "forebay-" + home.ID.Gateway + "-" + home.Uplink
}

// url is the broker's address with one name for each way of connecting, tcp,
// ssl, ws or wss, and with a port.
func (l Link) url() (*url.URL, error) {
	u, err := url.Parse(l.Broker)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("broker: this is not the address of a broker; write for example \"ssl://broker.example:8883\" or \"tcp://10.0.0.5:1883\"")
	}
	port := ""
	switch u.Scheme {
	case "tcp", "mqtt":
		u.Scheme, port = "tcp", "1883"
	case "ssl", "tls", "mqtts":
		u.Scheme, port = "ssl", "8883"
	case "ws":
		port = "80"
	case "wss":
		port = "443"
	default:
		return nil, fmt.Errorf("broker: %q is none of tcp, ssl, ws and wss", u.Scheme)
	}
	if !strings.HasPrefix(u.Scheme, "ws") && (strings.Trim(u.Path, "/") != "" || u.RawQuery != "") {
		return nil, errors.New("broker: an address that begins with " + u.Scheme + " has no path")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return u, nil
}

func secureScheme(s string) bool { return s == "ssl" || s == "wss" }

// AWS reports whether the broker is AWS IoT Core, whose limits are known.
func (l Link) AWS() bool {
	u, err := l.url()
	if err != nil {
		return false
	}
	host := u.Hostname()
	return strings.Contains(host, ".iot.") && (strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn"))
}

// tls makes the TLS side of a connection, from the files as they are now.
func (l Link) tls(host string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if l.ALPN != "" {
		t.NextProtos = []string{l.ALPN}
	}
	if l.CA != "" {
		pem, err := os.ReadFile(l.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", l.CA)
		}
	}
	if l.Cert != "" {
		pair, err := tls.LoadX509KeyPair(l.Cert, l.Key)
		if err != nil {
			return nil, fmt.Errorf("cert: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// proxy is the proxy to go through to the broker, nil for none.
func (l Link) proxy(broker *url.URL) (*url.URL, error) {
	switch {
	case l.Proxy == "off":
		return nil, nil
	case l.Proxy != "":
		return url.Parse(l.Proxy)
	case broker.Scheme == "tcp":
		return nil, nil
	}
	asked := &url.URL{Scheme: "http", Host: broker.Host}
	if secureScheme(broker.Scheme) {
		asked.Scheme = "https"
	}
	return http.ProxyFromEnvironment(&http.Request{URL: asked})
}
