package stranger_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"

	"forebay/uplink/stranger"
)

// Who sends HTTP to a port with TLS, TLS to one without, or does not trust the
// certificate, reads which key of the config to change.
func TestExplain(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	shell, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	go func() {
		for {
			c, err := shell.Accept()
			if err != nil {
				return
			}
			// What comes before the request is no answer to it, and the transport
			// may not show it.
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = c.Write([]byte("SSH-2.0-OpenSSH_9.9\r\n\r\n"))
			}
			_ = c.Close()
		}
	}()
	get := func(url string, name string) error {
		trusted := secure.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, RootCAs: trusted}}}
		if name == "" {
			c = &http.Client{Transport: &http.Transport{}}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if stranger.WantsTLS(resp.StatusCode, body) {
			return errors.New(stranger.Web("url").Wanted())
		}
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
		return nil
	}
	addr := func(url string) string { return strings.TrimPrefix(strings.TrimPrefix(url, "https://"), "http://") }
	peer := stranger.Web("url")
	for _, c := range []struct{ url, name, want string }{
		{"https://" + addr(web.URL), "", "does not speak TLS; write http:// in url"},
		{"https://" + addr(secure.URL), "", "signed by nobody this machine trusts (it names"},
		{"https://" + addr(secure.URL), "plant.invalid", "belongs to another host (example.com"},
	} {
		if got := peer.Explain(fmt.Errorf("ask: %w", get(c.url, c.name))); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.url, got, c.want)
		}
	}
	if err := get("http://"+addr(secure.URL), ""); err.Error() != "the target wants TLS at this address; write https:// in url" {
		t.Errorf("of HTTP to TLS: %v", err)
	}
	if got := peer.Explain(get("http://"+shell.Addr().String(), "")); !strings.Contains(got, `no web server: malformed HTTP response "SSH-2.0`) || !strings.HasSuffix(got, "; look at url") {
		t.Errorf("of SSH: %q", got)
	}
	if got := peer.Explain(errors.New(`net/http: malformed HTTP response "\x15\x03\x01\x00\x02\x02F"`)); got != "the target wants TLS; write https:// in url" {
		t.Errorf("of an alert: %q", got)
	}
	for _, err := range []error{nil, io.EOF, net.ErrClosed} {
		if got := peer.Explain(err); got != "" {
			t.Errorf("%v: %q", err, got)
		}
	}
}

func TestWhoWantsTLS(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		want   bool
	}{
		{400, "Client sent an HTTP request to an HTTPS server.\n", true},
		{400, "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title>", true},
		{400, "Reason: You're speaking plain HTTP to an SSL-enabled server port.", true},
		{200, "Client sent an HTTP request to an HTTPS server.\n", false},
		{400, `{"error":"unknown field x"}`, false},
		{400, "", false},
	} {
		if got := stranger.WantsTLS(c.status, []byte(c.body)); got != c.want {
			t.Errorf("%d %q: %v", c.status, c.body, got)
		}
	}
	other := &stranger.Error{Meant: "an MQTT broker", Seen: "it wants TLS"}
	p := stranger.Peer{Who: "the broker", Key: "broker", Plain: "tcp:// in broker", Secure: "ssl:// in broker"}
	if got := p.Instead(other); got != "it does not answer as an MQTT broker: it wants TLS; write ssl:// in broker" {
		t.Error(got)
	}
	other.Seen = `the first bytes were "SSH"`
	if got := p.Instead(other); !strings.HasSuffix(got, `"SSH"; look at broker`) {
		t.Error(got)
	}
}

func TestClosed(t *testing.T) {
	for err, want := range map[error]bool{
		io.EOF: true,
		&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}:   true,
		&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPIPE)}:      true,
		&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}: false,
		context.DeadlineExceeded: false,
	} {
		if stranger.Closed(fmt.Errorf("ask: %w", err)) != want {
			t.Errorf("%v: not %v", err, want)
		}
	}
}
