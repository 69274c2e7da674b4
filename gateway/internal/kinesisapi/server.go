// Package kinesisapi is the door through which AWS SDKs, the AWS CLI and
// Kinesis outputs talk to the box: the API of Amazon Kinesis Data Streams,
// version 2013-12-02, over the spool's shards. A PutRecords answer with a
// sequence number means that the record is on disk.
//
// It speaks JSON 1.1 and CBOR 1.1 over HTTP/1.1 and HTTP/2, the latter also without TLS for
// clients with prior knowledge. Every request must be signed with Signature
// Version 4. The texts and names of its errors follow the service's API
// reference; what has no counterpart on a box is refused by name.
package kinesisapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"forebay/gateway/internal/sigv4"
	"forebay/spool"
	"forebay/spool/record"
)

// An Inlet takes the records that clients put. Each record comes with Key,
// HashKey (if the client gave one) and Data; the inlet fills in where and when
// it was taken.
type Inlet interface {
	// PutTo hands records of one stream over. It blocks while the log's queue
	// is full; ctx cancels only that wait. If it returns nil, done is called
	// exactly once, with a result per record in their order, after the commit
	// or its failure, on the log's goroutine: it must not block. The records'
	// bytes belong to the log until then.
	PutTo(ctx context.Context, stream string, recs []record.Record, done func([]record.Result)) error
}

// What one client, and all of them together, may hold.
const (
	maxHeaderBytes = 32 << 10
	maxConns       = 2048
	maxStreams     = 128 // of one HTTP/2 connection
	// maxBody is the largest request. What a request may carry is counted when
	// it is decoded: 10 MiB of data and keys. In JSON base64 makes 4/3 of the
	// data, and an encoder that writes "/" as "\/" up to twice that; a character
	// of a key has up to twelve bytes; and 256 bytes are for the names around
	// them. White space is the client's own affair.
	maxBody = maxPutBytes/3*4*2 + maxPutRecords*(12*maxPartitionKey+256)
	// maxHeld bounds the bytes of request bodies and answers being built, over
	// all connections.
	maxHeld = 256 << 20
	// maxPushed bounds the events of subscriptions that are being written.
	maxPushed = 64 << 20

	readHeaderTimeout = 10 * time.Second
	readTimeout       = 60 * time.Second
	writeTimeout      = 120 * time.Second
	idleTimeout       = 120 * time.Second
	stopTimeout       = 5 * time.Second

	// admitTimeout is how long a put waits for room in the log's queue before
	// it is told to come back.
	admitTimeout = 5 * time.Second
	// commitTimeout is how long an admitted put waits for its commit; behind
	// it the client is told that we do not know.
	commitTimeout = 60 * time.Second
)

// A Server is the Kinesis door.
type Server struct {
	cfg      Config
	spool    *spool.Spool
	inlet    Inlet
	now      func() time.Time
	log      *slog.Logger
	keys     *keyring
	verifier *sigv4.Verifier
	synced   func() bool // see ClockSynced
	dateless atomic.Bool // signatures of any date are taken, and the log says so
	sealer   *sealer
	ops      map[string]operation
	shards   layouts
	cbor     *cborCodec
	buffers  buffers
	batches  batches
	held     pool          // of maxHeld
	pushed   pool          // of maxPushed
	building chan struct{} // holds one for each event that is being built
	subs     subscriptions
	emulated *emulation // nil if shards have no limits
	terms    terms
	limits   recordLimits
	plain    PlainDoor                // nil: there is none
	declared func(stream string) bool // by the config file
	changes  sync.Mutex               // held while streams, their shards or their notes are changed

	ln  *countingListener // nil if the door is closed
	tls *tls.Config

	lanes      lanes
	repeated   atomic.Uint64
	aggregates atomic.Uint64
	failures   atomic.Uint64

	mu     sync.Mutex
	state  string
	reason string
}

// terms are the times of subscriptions.
type terms struct{ lease, beat time.Duration }

// An Option is one more thing that New is told.
type Option func(*Server)

// New checks the configuration and listens; clients are served once Run is
// called. now is the wall clock, for arrival times, signatures and tokens.
func New(cfg Config, sp *spool.Spool, in Inlet, now func() time.Time, log *slog.Logger, opts ...Option) (*Server, error) {
	if err := cfg.Check(); err != nil {
		return nil, fmt.Errorf("configure the Kinesis endpoint: %w", err)
	}
	cfg = cfg.WithDefaults()
	s := &Server{
		cfg: cfg, spool: sp, inlet: in, now: now, log: log,
		keys:   newKeyring(cfg.Keys, now),
		sealer: newSealer(),
		held:   pool{most: maxHeld}, pushed: pool{most: maxPushed},
		building: make(chan struct{}, maxBuilding),
		subs:     subscriptions{strict: cfg.Limits == LimitsAWS, account: cfg.Account},
		terms:    terms{lease: leaseLife, beat: beatEvery},
		state:    "down", reason: "not started",
	}
	for _, o := range opts {
		o(s)
	}
	s.verifier = s.newVerifier()
	s.ops = s.operations()
	if cfg.Limits == LimitsAWS {
		s.emulated = &emulation{}
	}
	var err error
	if s.cbor, err = newCBOR(); err != nil {
		return nil, err
	}
	if cfg.TLSCert != "" {
		cert, err := newCertificate(cfg.TLSCert, cfg.TLSKey, log)
		if err != nil {
			return nil, err
		}
		s.tls = cert.config()
	}
	s.shards.live, s.shards.epoch = s.knows, s.epoch
	if cfg.Listen.Off() {
		s.reason = "switched off"
		return s, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", string(cfg.Listen))
	if err != nil {
		return nil, fmt.Errorf("listen for Kinesis clients: %w", err)
	}
	s.ln = &countingListener{Listener: ln}
	s.ln.most.Store(maxConns)
	return s, nil
}

// ID is the door's name as a source of records.
func (s *Server) ID() string { return "kinesis" }

// Kind is the kind of source.
func (s *Server) Kind() string { return "kinesis" }

// Addr is the address that clients reach, host:port; "" if the door is closed.
func (s *Server) Addr() string {
	if s.ln == nil {
		return ""
	}
	return s.ln.Addr().String()
}

// Clients is the number of open connections.
func (s *Server) Clients() int {
	if s.ln == nil {
		return 0
	}
	return int(s.ln.open.Load())
}

// Errors counts requests and records that failed by our own fault: the log
// could not be written or read.
func (s *Server) Errors() uint64 {
	n := s.failures.Load()
	if s.plain != nil {
		n += s.plain.Errors()
	}
	return n
}

// Aggregates counts the stored records that were KPL aggregates.
func (s *Server) Aggregates() uint64 { return s.aggregates.Load() }

// Repeated counts the records of other gateways that came again and were
// stored already.
func (s *Server) Repeated() uint64 { return s.repeated.Load() }

// Health is the state (up or down) and, if it is not up, the reason.
func (s *Server) Health() (state, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.reason
}

func (s *Server) setHealth(state, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.reason = state, reason
}

// Run serves until ctx ends, then lets the requests that are under way end
// for a few seconds and returns nil. It is called once.
func (s *Server) Run(ctx context.Context) error {
	if s.ln == nil {
		<-ctx.Done()
		return nil
	}
	s.checkSecrets()
	srv := s.httpServer()
	served := make(chan error, 1)
	go func() {
		if s.tls != nil {
			served <- srv.ServeTLS(s.ln, "", "")
			return
		}
		served <- srv.Serve(s.ln)
	}()
	keeping, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	var keeper sync.WaitGroup
	keeper.Go(func() { s.keepLanes(keeping) })
	defer func() {
		stopKeeping()
		keeper.Wait()
		s.lanes.flights.Wait()
		s.keepMarks(context.WithoutCancel(ctx)) // twice: what the first looks at
		s.keepMarks(context.WithoutCancel(ctx)) // is what the second may use
	}()
	s.setHealth("up", "")
	s.log.Info("kinesis endpoint is up", "addr", s.Addr(), "tls", s.tls != nil, "keys", len(s.cfg.Keys))

	select {
	case err := <-served:
		s.setHealth("down", err.Error())
		return fmt.Errorf("serve Kinesis clients on %s: %w", s.Addr(), err)
	case <-ctx.Done():
	}
	s.setHealth("down", "stopped")
	s.subs.stop() // they would go on for minutes
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		s.log.Warn("kinesis clients were cut off at stop", "error", err)
		if err := srv.Close(); err != nil {
			s.log.Warn("kinesis endpoint did not close cleanly", "error", err)
		}
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve Kinesis clients on %s: %w", s.Addr(), err)
	}
	return nil
}

func (s *Server) httpServer() *http.Server {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(s.tls != nil)
	p.SetUnencryptedHTTP2(s.tls == nil)
	return &http.Server{
		Handler:           s,
		TLSConfig:         s.tls,
		Protocols:         &p,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnState:         s.ln.state,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}
