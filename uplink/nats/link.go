package nats

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/uplink/lane"
	"forebay/uplink/stranger"

	natsgo "github.com/nats-io/nats.go"
)

const (
	dialTimeout  = 5 * time.Second
	pingInterval = 15 * time.Second
	// slowest is the link on which what is under way may take its time, in
	// bytes a second.
	slowest = 16 << 10
)

// A link is one connection. It is never mended: nats.go would hold back what is
// published meanwhile and send it later, behind our back. Where it breaks, what
// waits for an answer learns of it at once, and the next Send makes a new one.
type link struct {
	nc      *natsgo.Conn
	raw     *rawConn
	inbox   string // what the subjects of answers begin with
	timeout time.Duration
	dead    chan struct{} // closed when the connection is

	other atomic.Pointer[error] // who has answered in place of a server

	leaving atomic.Bool  // the server is about to shut down
	queued  atomic.Int64 // bytes that wait for an answer, headers not counted
	write   sync.Mutex   // a run is written in one piece

	mu      sync.Mutex
	waiting map[string]*waiter
	asked   uint64
	muted   error // why the server will deliver no answers
	users   int
	known   *info
	knownAt time.Time
}

// A waiter waits for the answer to a message on a subject. There is none where
// the server says that the user may not publish there: it says so aside.
type waiter struct {
	subject string
	reply   string
	answer  chan answer // room for one
}

type answer struct {
	msg *natsgo.Msg
	err *failure
}

// rawConn is the socket below the connection, so that it can be closed whatever
// a writer is stuck in.
type rawConn struct {
	mu   sync.Mutex
	conn net.Conn
}

func (r *rawConn) set(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn = c
}

func (r *rawConn) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		_ = r.conn.Close() // whoever uses it gets the error
	}
}

// dialer is how nats.go gets its socket.
type dialer func(network, address string) (net.Conn, error)

func (d dialer) Dial(network, address string) (net.Conn, error) { return d(network, address) }

// acquire gives the connection, or makes one. It must be given back.
func (s *Sink) acquire(ctx context.Context) (*link, error) {
	s.dialing.Lock() // one at a time
	defer s.dialing.Unlock()
	l := s.current()
	if l != nil && !l.leaving.Load() {
		return l, nil
	}
	fresh, err := s.connect(ctx)
	if err != nil {
		if l != nil {
			return l, nil // it is leaving, but still there
		}
		return nil, err
	}
	s.mu.Lock()
	s.link = fresh
	s.mu.Unlock()
	if l != nil {
		l.release()
	}
	fresh.use()
	return fresh, nil
}

// current is the connection, with one user more, or nil.
func (s *Sink) current() *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link == nil {
		return nil
	}
	if s.link.nc.IsClosed() {
		s.link = nil
		return nil
	}
	s.link.use()
	return s.link
}

func (l *link) use() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
}

// release gives the connection back; one that is leaving closes with its last
// user.
func (l *link) release() {
	l.mu.Lock()
	l.users--
	over := l.users == 0 && l.leaving.Load()
	l.mu.Unlock()
	if over {
		l.close()
	}
}

func (l *link) close() {
	l.raw.kill()
	l.nc.Close()
	<-l.dead
}

// connect tries the servers in turn.
func (s *Sink) connect(ctx context.Context) (*link, error) {
	s.mu.Lock()
	servers := append([]string(nil), s.cfg.Servers...)
	servers = append(servers, s.learned...)
	s.mu.Unlock()
	var worst *lane.Error
	seen := make(map[string]bool)
	for _, server := range servers {
		if seen[server] {
			continue
		}
		seen[server] = true
		l, err := s.dial(ctx, server)
		if err == nil {
			s.mu.Lock()
			s.learned = l.nc.DiscoveredServers()
			s.mu.Unlock()
			return l, nil
		}
		// What the first one says counts, unless another one answers and says no.
		if e := refusal(err); worst == nil || worst.Class == lane.Offline && e.Class != lane.Offline {
			worst = e
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, worst
}

func (s *Sink) dial(ctx context.Context, server string) (*link, error) {
	l := &link{raw: new(rawConn), timeout: s.timeout, dead: make(chan struct{}), waiting: make(map[string]*waiter)}
	opts, err := s.options(server)
	if err != nil {
		return nil, err
	}
	d := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	opts = append(opts,
		natsgo.SetCustomDialer(dialer(func(network, address string) (net.Conn, error) {
			c, err := d.DialContext(ctx, network, address)
			if err == nil {
				l.raw.set(c)
				c = l.watch(c, s.cfg.TLSFirst, func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, address) })
			}
			return c, err
		})),
		natsgo.ClosedHandler(func(*natsgo.Conn) { close(l.dead) }),
		natsgo.LameDuckModeHandler(func(*natsgo.Conn) { l.leaving.Store(true) }),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) { l.denied(err) }),
	)
	stop := context.AfterFunc(ctx, l.raw.kill)
	l.nc, err = natsgo.Connect(server, opts...)
	if !stop() && err == nil {
		l.close()
		return nil, ctx.Err()
	}
	if other := l.other.Load(); err != nil && other != nil {
		return nil, *other
	}
	if err != nil {
		return nil, err
	}
	l.inbox = l.nc.NewInbox() + "."
	if _, err := l.nc.Subscribe(l.inbox+"*", l.hear); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// watch finds out where no NATS server answers: one speaks first, unless TLS
// comes before.
func (l *link) watch(conn net.Conn, tlsFirst bool, dial func(ctx context.Context) (net.Conn, error)) net.Conn {
	if tlsFirst {
		return conn
	}
	return stranger.Watch(conn, stranger.Options{
		Meant: "a NATS server",
		Known: func(first byte) bool { return first == 'I' || first == '-' }, // INFO, -ERR
		Dial:  dial,
		Tell:  func(err error) { l.other.Store(&err) },
	})
}

// options are what is read anew for each connection: files may have changed.
func (s *Sink) options(server string) ([]natsgo.Option, error) {
	c := s.cfg
	opts := []natsgo.Option{
		natsgo.Name("forebay " + s.id.Gateway + " " + s.uplink),
		natsgo.NoReconnect(),
		natsgo.Timeout(min(dialTimeout, s.timeout)),
		natsgo.PingInterval(pingInterval),
		natsgo.MaxPingsOutstanding(2),
		natsgo.SkipHostLookup(),
	}
	if c.InboxPrefix != "" {
		opts = append(opts, natsgo.CustomInboxPrefix(c.InboxPrefix))
	}
	var login natsgo.Option
	var err error
	switch {
	case c.User != "":
		var p string
		p, err = c.Password.Reveal()
		login = natsgo.UserInfo(c.User, p)
	case c.Token.IsSet():
		var t string
		t, err = c.Token.Reveal()
		login = natsgo.Token(t)
	case c.Creds != "":
		login = natsgo.UserCredentials(c.Creds)
	case c.NKey != "":
		login, err = natsgo.NkeyOptionFromSeed(c.NKey)
	}
	if err != nil {
		return nil, &lane.Error{Class: lane.Auth, Text: "the credentials cannot be read", Err: err}
	}
	if login != nil {
		opts = append(opts, login)
	}
	t, err := c.tls()
	if err != nil {
		return nil, &lane.Error{Class: lane.Misconfigured, Text: "the certificates cannot be used", Err: err}
	}
	if name := s.certName(server); name != "" {
		if t == nil {
			t = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		t.ServerName = name
	}
	if t != nil {
		opts = append(opts, natsgo.Secure(t))
	}
	if c.TLSFirst {
		opts = append(opts, natsgo.TLSHandshakeFirst())
	}
	return opts, nil
}

// certName is the name that a server's certificate must have, where that is not
// what its address says: members of a cluster tell of each other by number, and
// share a name.
func (s *Sink) certName(server string) string {
	if slices.Contains(s.cfg.Servers, server) {
		return ""
	}
	u, err := url.Parse(server)
	first, err2 := url.Parse(s.cfg.Servers[0])
	if err != nil || err2 != nil || net.ParseIP(u.Hostname()) == nil || net.ParseIP(first.Hostname()) != nil {
		return ""
	}
	if first.Scheme != "tls" && s.cfg.CA == "" && s.cfg.Cert == "" && !s.cfg.TLSFirst {
		return ""
	}
	return first.Hostname()
}

// tls is nil where neither file nor address asks for TLS; a server that does is
// obeyed all the same.
func (c Config) tls() (*tls.Config, error) {
	if c.CA == "" && c.Cert == "" && !c.TLSFirst {
		return nil, nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", c.CA)
		}
	}
	if c.Cert != "" {
		cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("cert: %w", err)
		}
		t.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}

// servers is who a sink was told to ask.
var servers = stranger.Peer{Who: "the server", Key: "servers", Plain: "nats:// in servers", Secure: "tls:// in servers"}

// refusal says in words why there is no connection.
func refusal(err error) *lane.Error {
	if e := (*lane.Error)(nil); errors.As(err, &e) {
		return e
	}
	e := &lane.Error{Class: lane.Offline, Text: "cannot reach the NATS server", Err: err}
	var (
		invalid x509.CertificateInvalidError
		dns     *net.DNSError
		other   *stranger.Error
		op      *net.OpError
	)
	switch {
	case errors.As(err, &other):
		e.Text, e.Err = servers.Instead(other), nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), strings.Contains(err.Error(), "signing nonce"):
		e.Class, e.Text = lane.Auth, "the credentials cannot be read"
	case errors.Is(err, natsgo.ErrAuthorization), errors.Is(err, natsgo.ErrAuthExpired), errors.Is(err, natsgo.ErrAuthRevoked), errors.Is(err, natsgo.ErrAccountAuthExpired):
		e.Class, e.Text = lane.Auth, "the server refuses the credentials"
	case errors.Is(err, natsgo.ErrNkeysNotSupported), errors.Is(err, natsgo.ErrHeadersNotSupported), errors.Is(err, natsgo.ErrSecureConnWanted):
		e.Class, e.Text = lane.Misconfigured, "the server does not do what the config asks for"
	case errors.Is(err, natsgo.ErrMaxConnectionsExceeded), errors.Is(err, natsgo.ErrMaxAccountConnectionsExceeded):
		e.Class, e.Text = lane.Transient, "the server takes no more connections"
	case errors.Is(err, natsgo.ErrNoInfoReceived), errors.Is(err, natsgo.ErrJsonParse):
		e.Text = "what answers at this address is not a NATS server"
	case errors.As(err, &op) && op.Op == "read" && op.Timeout():
		e.Text, e.Err = "something takes the connection and says nothing, but a NATS server speaks first: it is none (look at servers), or wants TLS before it does (tls_first = true)", nil
	case errors.Is(err, natsgo.ErrNoServers):
		e.Text, e.Err = "the NATS server refuses the connection", nil // nats.go's word for a closed port
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.Text = "the server's certificate is not valid at this machine's time, " +
			time.Now().UTC().Format(time.RFC3339) + "; check the clock first"
	case servers.Explain(err) != "":
		e.Text, e.Err = servers.Explain(err), nil
	case errors.As(err, &dns):
		e.Text = "the server's name cannot be looked up"
	case errors.Is(err, natsgo.ErrTLS) && strings.Contains(err.Error(), "closed by remote"), // what is left of the next where its words got lost
		strings.Contains(err.Error(), "tls: certificate required"), strings.Contains(err.Error(), "tls: bad certificate"), strings.Contains(err.Error(), "tls: unknown certificate"):
		e.Class, e.Text = lane.Auth, "the server wants a client certificate that it trusts; see cert and key"
	}
	return e
}

// wait prepares for the answer to a message on the subject.
func (l *link) wait(subject string) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	token := strconv.FormatUint(l.asked, 36)
	w := &waiter{subject: subject, reply: l.inbox + token, answer: make(chan answer, 1)}
	l.waiting[token] = w
	if l.muted != nil {
		w.tell(answer{err: fail(lane.Auth, "the user lacks a permission", l.muted)})
	}
	return w
}

func (l *link) leave(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, w.reply[len(l.inbox):])
}

// hear takes an answer off the connection.
func (l *link) hear(m *natsgo.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	token, _ := strings.CutPrefix(m.Subject, l.inbox)
	if w := l.waiting[token]; w != nil {
		w.tell(answer{msg: m})
	}
}

// denied takes what the server says outside of any answer.
func (l *link) denied(err error) {
	if !errors.Is(err, natsgo.ErrPermissionViolation) {
		return // the connection ends of itself, if it does
	}
	text := err.Error()
	all := strings.Contains(strings.ToLower(text), "for subscription")
	l.mu.Lock()
	defer l.mu.Unlock()
	if all {
		l.muted = err
	}
	for _, w := range l.waiting {
		if all || strings.Contains(text, `"`+w.subject+`"`) {
			w.tell(answer{err: fail(lane.Auth, "the user lacks a permission", err)})
		}
	}
}

func (w *waiter) tell(a answer) {
	select {
	case w.answer <- a:
	default: // the first word counts
	}
}

// answer waits for the answer. Without one the outcome is Ambiguous.
func (l *link) answer(ctx context.Context, w *waiter, limit time.Duration) (*natsgo.Msg, *failure) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case a := <-w.answer:
		if a.err == nil && len(a.msg.Data) == 0 && a.msg.Header.Get("Status") == "503" {
			f := fail(lane.Misconfigured, "nobody listens on "+w.subject, nil)
			f.nobody = true
			return nil, f
		}
		return a.msg, a.err
	case <-l.dead:
		select {
		case a := <-w.answer: // the last it said
			if a.err == nil && len(a.msg.Data) > 0 {
				return a.msg, nil
			}
		default:
		}
		return nil, fail(lane.Ambiguous, "the connection was cut before the answer", l.nc.LastError())
	case <-ctx.Done():
		return nil, fail(lane.Ambiguous, "gave up waiting for an answer", context.Cause(ctx))
	case <-timer.C:
	}
	if !l.alive(ctx) {
		return nil, fail(lane.Ambiguous, "the server does not answer any more", nil)
	}
	f := fail(lane.Ambiguous, "no answer within the request's timeout; the stream may have no leader at the moment", nil)
	f.silent = true
	return nil, f
}

// guard bounds what may block in a write: it closes the connection when ctx
// ends, or when size bytes and all that wait with them had time enough and
// more. The limit is how long to wait for an answer.
func (l *link) guard(ctx context.Context, size int) (limit time.Duration, done func()) {
	limit = l.timeout + time.Duration(l.queued.Add(int64(size)))*time.Second/slowest
	stop := context.AfterFunc(ctx, l.raw.kill)
	timer := time.AfterFunc(limit+l.timeout, l.raw.kill)
	return limit, func() {
		stop()
		timer.Stop()
		l.queued.Add(-int64(size))
	}
}

// alive asks for a sign of life, and closes the connection if there is none.
func (l *link) alive(ctx context.Context) bool {
	_, done := l.guard(ctx, 0)
	defer done()
	ctx, cancel := context.WithTimeout(ctx, min(l.timeout, dialTimeout))
	defer cancel()
	if err := l.nc.FlushWithContext(ctx); err != nil {
		l.raw.kill()
		return false
	}
	return true
}
