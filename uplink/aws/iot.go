package aws

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"forebay/uplink/stranger"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
)

// credentialsHost is whom a provider asks.
var credentialsHost = stranger.Peer{Who: "the target", Key: "iot.endpoint", Plain: "the host of AWS IoT in iot.endpoint", Secure: "it in iot.endpoint"}

// A provider exchanges the device's certificate for temporary credentials
// (AWS IoT Core, Authorizing direct calls to AWS services).
type provider struct {
	cfg   IoT
	proxy proxyFunc
	clock *clock // of the provider: another machine than the target
}

// fetch asks once, on a connection of its own: it is asked once an hour, and
// the certificate's files may be others by then.
func (p *provider) fetch(ctx context.Context) (sdk.Credentials, error) {
	cert, err := tls.LoadX509KeyPair(p.cfg.Cert, p.cfg.Key)
	if err != nil {
		return sdk.Credentials{}, fmt.Errorf("iot: the device's certificate cannot be used: %w", err)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, Time: p.clock.certain}
	if p.cfg.CA != "" {
		if t.RootCAs, err = readCA(p.cfg.CA, x509.NewCertPool()); err != nil {
			return sdk.Credentials{}, fmt.Errorf("iot: ca: %w", err)
		}
	}
	tr := transport(t, p.proxy, 1)
	tr.DisableKeepAlives = true
	client := &http.Client{
		Transport: tr, Timeout: defaultTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	keys, err := p.ask(ctx, client)
	if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		host := (&url.URL{Host: p.cfg.Endpoint}).Hostname()
		if p.clock.evidence(v.UnverifiedCertificates, t.RootCAs, host) {
			keys, err = p.ask(ctx, client)
		}
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = unreached(u.Err, u.Timeout(), p.clock.certain(), credentialsHost)
	}
	if err != nil {
		return sdk.Credentials{}, fmt.Errorf("iot: the credentials provider: %w", err)
	}
	return keys, nil
}

// ask makes the request.
func (p *provider) ask(ctx context.Context, client *http.Client) (sdk.Credentials, error) {
	where := "https://" + p.cfg.Endpoint + "/role-aliases/" + url.PathEscape(p.cfg.RoleAlias) + "/credentials"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return sdk.Credentials{}, err
	}
	req.Header.Set("User-Agent", "forebay")
	if p.cfg.Thing != "" {
		req.Header.Set("X-Amzn-Iot-Thingname", p.cfg.Thing)
	}
	resp, err := client.Do(req)
	if err != nil {
		return sdk.Credentials{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return sdk.Credentials{}, err
	}
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		p.clock.learn(t, true)
	}
	if resp.StatusCode != http.StatusOK {
		text := read(resp.Header, body).message
		if text == "" {
			text = http.StatusText(resp.StatusCode)
		}
		return sdk.Credentials{}, fmt.Errorf("HTTP %d: %s; check that the certificate is active, and that its policy allows iot:AssumeRoleWithCertificate on the role alias %q", resp.StatusCode, Short(text), p.cfg.RoleAlias)
	}
	var out struct {
		Credentials struct {
			AccessKeyID     string `json:"accessKeyId"`
			SecretAccessKey string
			SessionToken    string
			Expiration      time.Time
		}
	}
	// The decoder's error could quote what it read.
	if json.Unmarshal(body, &out) != nil || out.Credentials.AccessKeyID == "" || out.Credentials.SecretAccessKey == "" {
		return sdk.Credentials{}, errors.New("the answer holds no credentials; something else may have answered")
	}
	k := out.Credentials
	return sdk.Credentials{
		AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey, SessionToken: k.SessionToken,
		CanExpire: !k.Expiration.IsZero(), Expires: k.Expiration, Source: "AWS IoT",
	}, nil
}
