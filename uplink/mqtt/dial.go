package mqtt

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"forebay/uplink/lane"
	"forebay/uplink/stranger"
)

// broker is who a link was told to ask.
var broker = stranger.Peer{Who: "the broker", Key: "broker", Plain: "tcp:// in broker", Secure: "ssl:// in broker"}

var (
	errNoTLS = errors.New("something takes the connection, and nothing answers to TLS there")
	errMute  = errors.New("something takes the connection and says nothing")
)

// open makes the connection under MQTT.
func (l Link) open(ctx context.Context) (net.Conn, error) {
	u, err := l.url()
	if err != nil {
		return nil, err
	}
	via, err := l.proxy(u)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	var t *tls.Config
	if secureScheme(u.Scheme) {
		if t, err = l.tls(u.Hostname()); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if strings.HasPrefix(u.Scheme, "ws") {
		return paho.NewWebsocket(u.String(), t, dialTimeout, nil, &paho.WebsocketOptions{
			Proxy: func(*http.Request) (*url.URL, error) { return via, nil },
		})
	}
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	target := u.Host
	if via != nil {
		target = via.Host
		if via.Port() == "" {
			target = net.JoinHostPort(via.Hostname(), "80")
		}
	}
	conn, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	if via != nil {
		if err := tunnel(ctx, conn, via, u.Host); err != nil {
			_ = conn.Close() // the tunnel's error counts
			return nil, err
		}
	}
	if t == nil {
		return conn, nil
	}
	secure := tls.Client(conn, t)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake's error counts
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, errNoTLS
		}
		return nil, err
	}
	return secure, nil
}

// tunnel asks an HTTP proxy to let the connection through (RFC 9110, 9.3.6).
func tunnel(ctx context.Context, conn net.Conn, proxy *url.URL, target string) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ends the read below
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: target}, Host: target, Header: http.Header{}}
	if proxy.User != nil {
		pass, _ := proxy.User.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(proxy.User.Username()+":"+pass)))
	}
	if err := req.Write(conn); err != nil {
		return fmt.Errorf("ask the proxy: %w", err)
	}
	// A proxy says nothing behind its header until we do, so nothing that
	// belongs to the broker is left in the reader.
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), req) //nolint:bodyclose // it is the tunnel
	if err != nil {
		return fmt.Errorf("ask the proxy: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return &lane.Error{Class: lane.Offline, Code: resp.Status, Text: "the proxy does not let us through to " + target}
	}
	return nil
}

// Refused is a broker's no to a connect, in words (MQTT 3.1.1, 3.2.2.3).
func refused(code byte) *lane.Error {
	switch code {
	case packets.ErrRefusedBadProtocolVersion:
		return &lane.Error{Class: lane.Misconfigured, Code: "CONNACK 1", Text: "the broker does not speak MQTT 3.1.1"}
	case packets.ErrRefusedIDRejected:
		return &lane.Error{Class: lane.Misconfigured, Code: "CONNACK 2", Text: "the broker refuses the client id; set client_id"}
	case packets.ErrRefusedServerUnavailable:
		return &lane.Error{Class: lane.Offline, Code: "CONNACK 3", Text: "the broker says that it is not available"}
	case packets.ErrRefusedBadUsernameOrPassword:
		return &lane.Error{Class: lane.Auth, Code: "CONNACK 4", Text: "the broker refuses the user name or the password"}
	case packets.ErrRefusedNotAuthorised:
		return &lane.Error{Class: lane.Auth, Code: "CONNACK 5", Text: "the broker does not let us connect"}
	}
	return &lane.Error{Class: lane.Misconfigured, Code: fmt.Sprintf("CONNACK %d", code), Text: "the broker refuses the connection"}
}

// unreachable says what it means that there is no session. met says that the
// connection under MQTT stood.
func unreachable(err error, met bool) *lane.Error {
	if e := (*lane.Error)(nil); errors.As(err, &e) {
		return e
	}
	e := &lane.Error{Class: lane.Offline, Text: "cannot reach the broker", Err: err}
	var (
		invalid x509.CertificateInvalidError
		dns     *net.DNSError
		path    *os.PathError
		alert   tls.AlertError
		other   *stranger.Error
	)
	switch {
	case errors.As(err, &other):
		e.Text, e.Err = broker.Instead(other), nil
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Text = "the broker's certificate is not valid at this machine's time, " +
			time.Now().UTC().Format(time.RFC3339) + "; check the clock first"
	case broker.Explain(err) != "":
		e.Text, e.Err = broker.Explain(err), nil
	case errors.Is(err, errNoTLS):
		e.Text, e.Err = errNoTLS.Error()+"; look at broker", nil
	case errors.Is(err, errMute):
		e.Text, e.Err = errMute.Error()+", but a broker answers a CONNECT; look at broker, "+broker.Secure+" is for TLS", nil
	case errors.As(err, &alert), err != nil && strings.Contains(err.Error(), "remote error: tls:"):
		e.Class, e.Text = lane.Auth, "the broker refuses our certificate, or asks for one; see cert and key"
	case errors.As(err, &dns):
		e.Text = "the broker's name cannot be looked up"
	case errors.As(err, &path), err != nil && (strings.HasPrefix(err.Error(), "ca:") || strings.HasPrefix(err.Error(), "cert:")):
		e.Class, e.Text = lane.Auth, "a certificate file cannot be used"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		e.Text, e.Err = "cannot reach the broker in time", nil
	case !met && stranger.Closed(err):
		e.Text = "something takes the connection and closes it before there is TLS; where the broker has none, write " + broker.Plain
	case met:
		e.Text = "something answers there and ends the connection before it accepts us: no broker, one that wants TLS (" + broker.Secure + "), or one that refuses the client id or the certificate"
	}
	return e
}
