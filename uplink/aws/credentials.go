package aws

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"

	"forebay/gateway/conf"
	"forebay/uplink/lane"
)

const (
	// early is how long before their end credentials are fetched anew, or a
	// tenth of their life where that is less.
	early = 5 * time.Minute
	// again is the pause after a fetch ahead of time that failed.
	again = 30 * time.Second
	// doubtful is how long credentials are used that are over by our clock the
	// moment they are fetched: the clock is what is wrong.
	doubtful = time.Minute
)

// credentials are what requests are signed with: static ones, read anew each
// time, or those of the IoT provider or the AWS chain, which are kept until
// shortly before their end by the service's clock, until they are refused, or
// until one of the shared files is another.
type credentials struct {
	access Access
	clock  *clock
	fetch  func(ctx context.Context) (sdk.Credentials, error)
	log    *slog.Logger

	turn    chan struct{} // holds a token while what follows is in use
	have    sdk.Credentials
	valid   bool      // there are some, and nobody has refused them
	files   string    // what the shared files looked like
	next    time.Time // when to fetch anew, by the monotonic clock; zero: by their end
	fetched time.Time // by the service's clock
}

func newCredentials(a Access, clk *clock, proxy proxyFunc, log *slog.Logger) *credentials {
	c := &credentials{access: a, clock: clk, log: log, turn: make(chan struct{}, 1)}
	if a.IoT != nil {
		p := &provider{cfg: *a.IoT, proxy: proxy, clock: newClock(clk.wall)}
		c.fetch = p.fetch
		return c
	}
	client := awshttp.NewBuildableClient().WithTimeout(defaultTimeout).WithTransportOptions(func(t *http.Transport) {
		t.Proxy = near(proxy)
		t.OnProxyConnectResponse = proxyAnswer
		t.DisableKeepAlives = true // asked once an hour
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: also(a.CA), Time: clk.certain}
	})
	c.fetch = func(ctx context.Context) (sdk.Credentials, error) { return chain(ctx, a, client) }
	return c
}

// also is the system's authorities and those of a file: the way to STS may
// lead through a proxy that stands in between, and need not.
func also(ca string) *x509.CertPool {
	if ca == "" {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if pool, err = readCA(ca, pool); err != nil {
		return nil // NewClient reads it too, and says so
	}
	return pool
}

// chain asks the AWS chain. It is made anew each time, so that files, roles
// and sessions are read as they are now.
func chain(ctx context.Context, a Access, client *awshttp.BuildableClient) (sdk.Credentials, error) {
	ac, err := load(ctx, a, config.WithHTTPClient(client))
	if err != nil {
		return sdk.Credentials{}, err
	}
	if ac.Credentials == nil {
		return sdk.Credentials{}, fmt.Errorf("set access_key and secret_key, or the AWS environment")
	}
	keys, err := ac.Credentials.Retrieve(ctx)
	if p, ok := errors.AsType[*processcreds.ProviderError](err); ok {
		text, _, cut := strings.Cut(p.Error(), "process output: ")
		if cut { // what follows may hold the key
			err = fmt.Errorf("%sprocess output", text)
		}
	}
	return keys, err
}

// missing says that there are no credentials. Where those who have them cannot
// be reached, the uplink is offline like any other; that nobody answers at the
// metadata service's address says only that this is no machine of AWS.
func missing(err error) *lane.Error {
	e := &lane.Error{Class: lane.Auth, Text: "there are no credentials to sign with", Err: errors.New(Short(err.Error()))}
	op, asked := errors.AsType[*smithy.OperationError](err)
	_, network := errors.AsType[net.Error](err)
	far, ours := errors.AsType[*lane.Error](err)
	switch {
	case ours:
		e.Class = far.Class
	case asked && op.Service() != imdsService && (network || errors.Is(err, context.DeadlineExceeded)):
		e.Class = lane.Offline
	}
	if e.Class == lane.Offline {
		e.Text = "the credentials to sign with cannot be fetched"
	}
	return e
}

const imdsService = "ec2imds"

// get gives credentials to sign with now. The error is a *lane.Error.
func (c *credentials) get(ctx context.Context) (sdk.Credentials, error) {
	if c.access.AccessKey != "" {
		keys, err := c.access.static()
		if err != nil {
			return keys, missing(err)
		}
		return keys, nil
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return sdk.Credentials{}, &lane.Error{Class: lane.Transient, Text: "the credentials to sign with did not come in time", Err: ctx.Err()}
	}
	files := ""
	if c.access.IoT == nil {
		files = sharedFiles()
	}
	changed := files != c.files
	if c.valid && !changed && !c.due() {
		return c.have, nil
	}
	keys, err := c.fetch(ctx)
	if err != nil {
		if c.valid && !c.over() { // there is still time
			c.files, c.next = files, time.Now().Add(again)
			c.log.Warn("credentials not renewed", "error", Short(err.Error()))
			return c.have, nil
		}
		return sdk.Credentials{}, missing(err)
	}
	c.have, c.valid, c.files, c.next, c.fetched = keys, true, files, time.Time{}, c.clock.now()
	if c.over() {
		c.next = time.Now().Add(doubtful)
	}
	return keys, nil
}

// due reports that it is time to fetch anew.
func (c *credentials) due() bool {
	switch {
	case !c.have.CanExpire:
		return false
	case !c.next.IsZero() && time.Now().Before(c.next):
		return false
	}
	lead := min(early, c.have.Expires.Sub(c.fetched)/10)
	return c.over() || !c.clock.now().Before(c.have.Expires.Add(-lead))
}

// over reports that the service will take them no more.
func (c *credentials) over() bool {
	return c.have.CanExpire && !c.clock.now().Before(c.have.Expires)
}

// refused makes the next request look for credentials anew, if these are
// still the ones in use.
func (c *credentials) refused(keys sdk.Credentials) {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if c.have.AccessKeyID == keys.AccessKeyID && c.have.SecretAccessKey == keys.SecretAccessKey && c.have.SessionToken == keys.SessionToken {
		c.valid = false
	}
}

// static reads the credentials of the config.
func (a Access) static() (sdk.Credentials, error) {
	var keys sdk.Credentials
	for _, s := range []struct {
		name string
		from conf.Secret
		to   *string
	}{
		{"access_key", conf.NewSecret(a.AccessKey), &keys.AccessKeyID},
		{"secret_key", a.SecretKey, &keys.SecretAccessKey},
		{"session_token", a.SessionToken, &keys.SessionToken},
	} {
		var err error
		if *s.to, err = s.from.Reveal(); err != nil {
			return sdk.Credentials{}, fmt.Errorf("%s: %w", s.name, err)
		}
		if *s.to == "" && s.from.IsSet() {
			return sdk.Credentials{}, fmt.Errorf("%s: is empty", s.name)
		}
	}
	return keys, nil
}

// sharedFiles tells one state of the shared AWS files from another.
func sharedFiles() string {
	var b strings.Builder
	for _, f := range []struct{ env, def string }{
		{"AWS_SHARED_CREDENTIALS_FILE", config.DefaultSharedCredentialsFilename()},
		{"AWS_CONFIG_FILE", config.DefaultSharedConfigFilename()},
	} {
		path := os.Getenv(f.env)
		if path == "" {
			path = f.def
		}
		if st, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, "%d %d;", st.ModTime().UnixNano(), st.Size())
		}
	}
	return b.String()
}

func load(ctx context.Context, a Access, opts ...func(*config.LoadOptions) error) (sdk.Config, error) {
	if a.Profile != "" {
		opts = append(opts, config.WithSharedConfigProfile(a.Profile))
	}
	if a.Region != "" {
		opts = append(opts, config.WithRegion(a.Region))
	}
	opts = append(opts, config.WithLogger(logging.Nop{})) // it would write to standard error beside our log
	return config.LoadDefaultConfig(ctx, opts...)
}

// regionOf is what requests are signed for.
func regionOf(a Access) (string, error) {
	if a.Region != "" {
		return a.Region, nil
	}
	ac, err := load(context.Background(), a)
	switch {
	case err != nil && a.Endpoint == "":
		return "", fmt.Errorf("region: is missing, and the AWS environment cannot be read: %w", err)
	case err == nil && ac.Region != "":
		return ac.Region, nil
	case a.Endpoint != "":
		return "us-east-1", nil
	}
	return "", fmt.Errorf("region: is missing; write for example \"eu-central-1\", or give an endpoint")
}
