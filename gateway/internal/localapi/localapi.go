// Package localapi serves the gateway's own API (package gateway/api): plain
// HTTP and JSON, on a Unix socket for a console on the box and on TCP, on
// loopback until a token and TLS are set.
package localapi

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/gateway/internal/query"
	"forebay/spool"
	"forebay/spool/record"
)

// Config is the table [api] of the config file.
type Config struct {
	// Listen is the TCP address; default 127.0.0.1:8480, "off" closes it. Other
	// than loopback needs a token and TLS.
	Listen conf.Listen `toml:"listen"`
	// Socket is the path of the Unix socket; default forebay.sock in the data
	// directory, "off" closes it. Only the user the gateway runs as may open it.
	Socket string `toml:"socket"`
	// TLSCert and TLSKey are PEM files; with them the TCP address speaks TLS.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`
	// Token is what TCP clients send as "Authorization: Bearer …"; without one
	// everybody on the machine may ask.
	Token conf.Secret `toml:"token"`
}

// WithDefaults fills in what was left out, the socket apart: its default is in
// the data directory.
func (c Config) WithDefaults() Config {
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	return c
}

// DefaultListen is where the API is found when nothing is configured.
const DefaultListen conf.Listen = "127.0.0.1:8480"

// Check says whether the table makes sense; an error begins with the key it
// is about.
func (c Config) Check() error {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("tls_cert: set tls_cert and tls_key together, or neither")
	}
	if c.Listen != "" && !c.Listen.Off() && !c.Listen.Loopback() && (c.TLSCert == "" || !c.Token.IsSet()) {
		return fmt.Errorf("listen: %q can be reached from other machines; set token, tls_cert and tls_key first", c.Listen)
	}
	return nil
}

// A Plant is what the API shows of the running gateway.
type Plant interface {
	// Ready is nil once the gateway serves, else it says what is missing.
	Ready() error
	Status() api.Status
	Devices() []api.Device
	Uplinks() []api.Uplink
	// PauseUplink, ResumeUplink and RetryUplink do it, durably where it is to
	// last, and note who asked. ErrNoUplink, ErrPaused.
	PauseUplink(ctx context.Context, id, by string) (api.Uplink, error)
	ResumeUplink(ctx context.Context, id, by string) (api.Uplink, error)
	RetryUplink(ctx context.Context, id, by string) (api.Uplink, error)
	// Replay and Redrive answer when the order for it is on disk. ErrNoUplink,
	// ErrNothing, ErrAsked. CancelErrand: ErrNoErrand.
	Replay(ctx context.Context, uplink string, r api.ReplayRequest) (api.Errand, error)
	Redrive(ctx context.Context, uplink string, r api.RedriveRequest) (api.Errand, error)
	CancelErrand(ctx context.Context, id, by string) (api.Errand, error)
	// Refused lists what an uplink's target refused, at most limit of it.
	Refused(ctx context.Context, uplink string, limit int) (api.Refused, error)
	Streams() []api.Stream
	Alarms() []api.Alarm
	Ack(ctx context.Context, r api.AckRequest) (api.AckResult, error)
	// AlarmsChanged is signalled after the alarms changed.
	AlarmsChanged() <-chan struct{}
	// Points carries trends only where they are asked for.
	Points(trend bool) []api.Point
	Cameras() []api.Camera
	// Frame is the newest still of a camera; record.ErrNoStream if there is none.
	Frame(ctx context.Context, camera string) (jpeg []byte, at time.Time, err error)
	Ledger() api.Ledger
	// LedgerSteps verifies the ledger and lists its newest steps, oldest first;
	// limit 0 is all that are not folded.
	LedgerSteps(ctx context.Context, limit int) ([]api.LedgerStep, error)
	// DropCursor gives up a cursor's claim; it is durable when it returns.
	// record.ErrNoCursor, record.ErrInUse.
	DropCursor(ctx context.Context, stream, cursor, by string) error
	// Sent says what an uplink has delivered, by the ledger and by the log.
	// ErrNoUplink.
	Sent(ctx context.Context, uplink string, ask api.SentAsk) (api.Sent, error)
}

// An Inlet takes records that clients put, for a stream they name.
type Inlet interface {
	PutTo(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error
}

// A Server serves one gateway.
type Server struct {
	cfg   Config
	sp    *spool.Spool
	plant Plant
	inlet Inlet
	video http.Handler // nil where no camera door is open
	// queries runs SQL over the spool, a few at once.
	queries *query.Engine
	log     *slog.Logger
	hub     *hub
	token   string
	tls     *tls.Config
	listen  []net.Listener
	conns   atomic.Int64
	errs    atomic.Uint64
}

// New opens the listeners, so that a port that is taken is known at start.
// Socket "" or "off" opens no socket.
func New(cfg Config, sp *spool.Spool, plant Plant, inlet Inlet, video http.Handler, log *slog.Logger) (*Server, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	s := &Server{cfg: cfg, sp: sp, plant: plant, inlet: inlet, video: video, log: log, hub: newHub(plant)}
	var err error
	if s.queries, err = query.New(sp, query.Options{}); err != nil {
		return nil, err
	}
	if cfg.Token.IsSet() {
		t, err := cfg.Token.Reveal()
		if err != nil {
			return nil, fmt.Errorf("read the API's token: %w", err)
		}
		s.token = t
	}
	if cfg.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("read the API's certificate: %w", err)
		}
		s.tls = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	addr := cfg.WithDefaults().Listen
	if !addr.Off() {
		ln, err := listen("tcp", string(addr))
		if err != nil {
			return nil, fmt.Errorf("open the API's address: %w", err)
		}
		if s.tls != nil {
			ln = tls.NewListener(ln, s.tls)
		}
		s.listen = append(s.listen, ln)
	}
	if cfg.Socket != "" && cfg.Socket != "off" {
		ln, err := listenUnix(cfg.Socket)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("open the API's socket: %w", err)
		}
		s.listen = append(s.listen, ln)
	}
	return s, nil
}

// listen opens a listener; it waits for nothing that a context could cut short.
func listen(network, addr string) (net.Listener, error) {
	return new(net.ListenConfig).Listen(context.Background(), network, addr)
}

// listenUnix opens a socket that only our own user may use. A socket that a
// dead process left is taken over; one that answers is an error.
func listenUnix(path string) (net.Listener, error) {
	dialer := net.Dialer{Timeout: time.Second}
	if c, err := dialer.DialContext(context.Background(), "unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("%s is in use by another gateway", path), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	ln, err := listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// Addr is the TCP address, "" where it is closed.
func (s *Server) Addr() string {
	for _, ln := range s.listen {
		if ln.Addr().Network() == "tcp" {
			return ln.Addr().String()
		}
	}
	return ""
}

// Close closes the listeners of a server that never ran.
func (s *Server) Close() {
	for _, ln := range s.listen {
		if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			s.log.Warn("listener not closed", "error", err)
		}
	}
}

// Clients counts open connections.
func (s *Server) Clients() int { return int(s.conns.Load()) }

// Run serves until ctx ends, then lets requests in flight finish for at most
// five seconds.
func (s *Server) Run(ctx context.Context) error {
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	srv := &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, st http.ConnState) {
			switch st {
			case http.StateNew:
				s.conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.conns.Add(-1)
			}
		},
	}
	failed := make(chan error, len(s.listen))
	var wg sync.WaitGroup
	for _, ln := range s.listen {
		wg.Go(func() {
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve the API on %s: %w", ln.Addr(), err)
			}
		})
	}
	wg.Go(func() { s.hub.run(base) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.hub.close() // ends the event streams, which would hold Shutdown up
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if e := srv.Shutdown(grace); e != nil {
		err = errors.Join(err, srv.Close())
	}
	stop()
	wg.Wait()
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := s.plant.Ready(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintln(w, err) // the client is gone; nobody to tell
			return
		}
		_, _ = w.Write([]byte("ok\n")) // the client is gone; nobody to tell
	})
	mux.Handle("GET /metrics", s.metrics())
	show(s, mux, "/v1/status", func() any { return s.plant.Status() })
	show(s, mux, "/v1/streams", func() any { return s.plant.Streams() })
	show(s, mux, "/v1/devices", func() any { return s.plant.Devices() })
	show(s, mux, "/v1/uplinks", func() any { return s.plant.Uplinks() })
	show(s, mux, "/v1/alarms", func() any { return s.plant.Alarms() })
	show(s, mux, "/v1/points", func() any { return s.plant.Points(true) })
	show(s, mux, "/v1/cameras", func() any { return s.plant.Cameras() })
	mux.HandleFunc("GET /v1/ledger", s.ledger)
	mux.HandleFunc("GET /v1/uplinks/{uplink}/sent", s.sent)
	mux.HandleFunc("DELETE /v1/streams/{stream}/cursors/{cursor}", s.dropCursor)
	mux.HandleFunc("POST /v1/alarms/ack", s.ack)
	mux.HandleFunc("POST /v1/uplinks/{uplink}/pause", s.uplinkVerb("pause", s.plant.PauseUplink))
	mux.HandleFunc("POST /v1/uplinks/{uplink}/resume", s.uplinkVerb("resume", s.plant.ResumeUplink))
	mux.HandleFunc("POST /v1/uplinks/{uplink}/retry", s.uplinkVerb("retry", s.plant.RetryUplink))
	s.errandRoutes(mux)
	mux.HandleFunc("POST /v1/query", s.query)
	mux.HandleFunc("POST /v1/spool/backup", s.backup)
	mux.HandleFunc("GET /v1/events", s.events)
	mux.HandleFunc("GET /v1/cameras/{camera}/frame.jpg", s.frame)
	mux.HandleFunc("GET /v1/streams/{stream}/records", s.records)
	mux.HandleFunc("POST /v1/streams/{stream}/records", s.put)
	mux.HandleFunc("POST /v1/streams/{stream}/erase", s.erase)
	if s.video != nil {
		mux.Handle("/video/", s.video)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, http.StatusNotFound, "there is nothing at "+r.URL.Path, "see README.md for the paths")
	})
	return s.guard(mux)
}

func show(s *Server, mux *http.ServeMux, path string, get func() any) {
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, get()) })
}

// fromForeignPage reports whether a browser sent the request for a page that is
// not ours: one of another origin, or, where no token is asked for, one whose
// own name was pointed at this machine (DNS rebinding).
func (s *Server) fromForeignPage(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if u, err := url.Parse(origin); origin != "" && (err != nil || u.Host != r.Host) {
		return true
	}
	if s.token != "" || origin == "" && r.Header.Get("Sec-Fetch-Site") == "" {
		return false
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host // without a port
	}
	return host != "localhost" && net.ParseIP(strings.Trim(host, "[]")) == nil
}

// guard contains panics, checks the token and turns away pages of other sites
// that a browser on the box would let in.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v) // net/http closes the connection
			}
			s.errs.Add(1)
			s.log.Error("request ended in a panic", "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			s.fail(w, http.StatusInternalServerError, "the gateway could not answer", "see its log")
		}()
		if s.fromForeignPage(r) {
			s.fail(w, http.StatusForbidden, "requests of a web page from elsewhere are not taken", "open it by the machine's IP address or localhost, or set a token")
			return
		}
		if s.token != "" && !s.authorised(r) && r.URL.Path != "/healthz" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="forebay"`)
			s.fail(w, http.StatusUnauthorized, "the token is missing or wrong", "send Authorization: Bearer TOKEN")
			return
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// authorised lets the Unix socket in: its file mode is its lock.
func (s *Server) authorised(r *http.Request) bool {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && a.Network() == "unix" {
		return true
	}
	t, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && subtle.ConstantTimeCompare([]byte(t), []byte(s.token)) == 1
}

func (s *Server) answer(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.errs.Add(1)
		s.log.Error("answer not written", "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"status":500,"message":"the gateway could not answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client is gone; nobody to tell
}

func (s *Server) fail(w http.ResponseWriter, status int, message, hint string) {
	s.answer(w, status, api.Error{Status: status, Message: message, Hint: hint})
}

// failWith puts an error of the log into HTTP's words.
func (s *Server) failWith(w http.ResponseWriter, err error) {
	var invalid *record.InvalidError
	switch {
	case errors.Is(err, record.ErrNoStream), errors.Is(err, record.ErrNoShard):
		s.fail(w, http.StatusNotFound, err.Error(), "GET /v1/streams lists what there is")
	case errors.As(err, &invalid) && invalid.TooLarge:
		s.fail(w, http.StatusRequestEntityTooLarge, err.Error(), "")
	case errors.As(err, &invalid):
		s.fail(w, http.StatusBadRequest, err.Error(), "")
	case errors.Is(err, record.ErrFull):
		w.Header().Set("Retry-After", "5")
		s.fail(w, http.StatusTooManyRequests, err.Error(), "nothing was stored; try again when there is room")
	case errors.Is(err, record.ErrClosed), errors.Is(err, record.ErrReadOnly), errors.Is(err, record.ErrCannotStore):
		w.Header().Set("Retry-After", "5")
		s.fail(w, http.StatusServiceUnavailable, err.Error(), "nothing was stored")
	default:
		s.errs.Add(1)
		s.log.Error("request failed", "error", err)
		s.fail(w, http.StatusInternalServerError, err.Error(), "")
	}
}
