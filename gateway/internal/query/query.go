// Package query runs one SELECT over the streams of a spool. Every stream is a
// read-only table of an SQLite connection that lives in memory and as long as
// the query; bounds on time, sequence number, shard and key reach down to the
// heads of the log's blocks. The fields of JSON payloads are columns by their
// names. docs/query.md says what a user can rely on.
package query

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"

	"forebay/spool"
)

// Defaults and limits of Options and Query.
const (
	DefaultTimeout = 30 * time.Second
	MaxTimeout     = 10 * time.Minute
	DefaultRows    = 100_000
	MaxRows        = 10_000_000
	DefaultMemory  = 256 << 20
	DefaultAtOnce  = 2
)

// watchEvery is how often memory is looked at.
const watchEvery = 20 * time.Millisecond

// Options of an Engine; zero is the default.
type Options struct {
	// AtOnce is how many queries may run at once; default 2.
	AtOnce int
	// Memory is by how many bytes the process may grow while a query runs
	// before the query is ended; default 256 MiB. Only Linux can tell.
	Memory int64
	// Now is the wall clock, for now(); nil is time.Now.
	Now func() time.Time
}

// An Engine runs queries over one spool, from any number of goroutines.
type Engine struct {
	sp    *spool.Spool
	opt   Options
	drv   *sqlite.Driver
	slots chan struct{}

	mu   sync.Mutex
	last uint64
	runs map[string]*run
}

// New makes an Engine.
func New(sp *spool.Spool, opt Options) (*Engine, error) {
	if opt.AtOnce <= 0 {
		opt.AtOnce = DefaultAtOnce
	}
	if opt.Memory <= 0 {
		opt.Memory = DefaultMemory
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	e := &Engine{sp: sp, opt: opt, drv: &sqlite.Driver{}, slots: make(chan struct{}, opt.AtOnce), runs: map[string]*run{}}
	err := errors.Join(
		e.drv.RegisterModule("forebay_stream", module{e}),
		e.drv.RegisterModule("forebay_output", output{e}),
		// One statement has one now(): SQLite works out a deterministic
		// function without arguments once.
		e.drv.RegisterDeterministicScalarFunction("now", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
			return seconds(opt.Now()), nil
		}))
	if err != nil {
		return nil, fmt.Errorf("set SQLite up for queries: %w", err)
	}
	return e, nil
}

// A Query is what Run is asked for.
type Query struct {
	SQL string
	// Timeout ends the query; default 30 s, at most ten minutes.
	Timeout time.Duration
	// MaxRows ends the result; default 100,000, at most 10 million.
	MaxRows int
	// Progress is called a few times a second while the query runs, from
	// another goroutine than the one that calls Run; nil is nobody.
	Progress func(Progress)
}

// A Progress says how far a query is.
type Progress struct {
	Scanned uint64 // records read
	Blocks  uint64 // blocks read, or counted by their heads
	Skipped uint64 // blocks passed over by their heads
	Share   float64
	Rows    int64
	Elapsed time.Duration
}

// A Result takes what a query yields: the columns once, then the rows. Its
// methods are called by the goroutine that called Run. A value is nil, int64,
// float64, string or []byte; row, texts and blobs are valid only during the
// call. An error ends the query and is what Run returns.
type Result interface {
	Columns(names []string) error
	Row(row []any) error
}

// A Summary is the end of a query that was answered.
type Summary struct {
	Progress
	Truncated bool     // there were more rows than MaxRows
	Warnings  []string // what a person should know about the answer
}

// A Kind says what sort of failure an Error is.
type Kind uint8

const (
	Refused  Kind = iota // the query is wrong, or does what queries may not
	Busy                 // too many queries run
	TimedOut             // the time was up
	TooLarge             // a value, or the memory, is over its limit
)

// An Error is a query that was not answered, in words for the one who asked.
type Error struct {
	Kind    Kind
	Message string
	Hint    string
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + " (" + e.Hint + ")"
}

func refuse(message, hint string) error { return &Error{Kind: Refused, Message: message, Hint: hint} }

// errEnough ends a query that has given as many rows as were asked for.
var errEnough = errors.New("enough rows")

// Run answers a query. Errors that concern the one who asked are *Error; those
// of the Result, of the spool (record.ErrClosed) and of ctx come as they are.
func (e *Engine) Run(ctx context.Context, q Query, to Result) (Summary, error) {
	if len(q.SQL) > maxSQL {
		return Summary{}, refuse(fmt.Sprintf("the query has %d bytes; at most %d are allowed", len(q.SQL), maxSQL), "")
	}
	ts, err := readOnly(q.SQL)
	if err != nil {
		return Summary{}, err
	}
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	default:
		return Summary{}, &Error{Kind: Busy, Message: fmt.Sprintf("%d queries run already", e.opt.AtOnce), Hint: "try again in a moment"}
	}
	if q.Timeout <= 0 {
		q.Timeout = DefaultTimeout
	}
	if q.MaxRows <= 0 {
		q.MaxRows = DefaultRows
	}
	q.Timeout, q.MaxRows = min(q.Timeout, MaxTimeout), min(q.MaxRows, MaxRows)
	timeUp := &Error{Kind: TimedOut, Message: fmt.Sprintf("the query took longer than %v", q.Timeout), Hint: "ask for less, such as WHERE ts > now()-3600, or give it more time"}
	ctx, cancel := context.WithTimeoutCause(ctx, q.Timeout, timeUp)
	defer cancel()
	r := &run{engine: e, to: to, maxRows: int64(q.MaxRows), began: time.Now(), tables: map[string]*table{}}
	r.next = func(s *spool.Scanner) (spool.Part, error) { return s.Next(ctx) }
	e.enter(r)
	defer e.leave(r)
	err = r.watched(ctx, q, func(ctx context.Context) error { return r.execute(ctx, q.SQL, ts) })
	sum := Summary{Progress: r.progress(), Truncated: r.enough, Warnings: r.closing()}
	return sum, err
}

func (e *Engine) enter(r *run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last++
	r.name = strconv.FormatUint(e.last, 10)
	e.runs[r.name] = r
}

func (e *Engine) leave(r *run) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.runs, r.name)
}

func (e *Engine) find(name string) *run {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.runs[name]
}

// connector opens connections of the Engine's own driver.
type connector struct{ drv *sqlite.Driver }

func (c connector) Connect(context.Context) (driver.Conn, error) {
	return c.drv.Open(":memory:?_dqs=0&_defensive=1")
}
func (c connector) Driver() driver.Driver { return c.drv }

// A run is one query while it is answered.
type run struct {
	engine  *Engine
	name    string
	to      Result
	maxRows int64
	began   time.Time
	next    func(*spool.Scanner) (spool.Part, error)

	// used by the goroutine of Run alone, SQLite's callbacks included
	tables    map[string]*table // by the stream's name
	names     names
	preparing bool   // our own statements are let through
	output    string // table that takes the rows, while the query runs
	columns   []string
	refusal   error // by the authorizer
	failure   error // first of a callback
	warnings  []string
	enough    bool
	lent      []any // the row that the Result is given

	rows atomic.Int64
	mu   sync.Mutex
	main *spool.Scanner   // whose share is told
	open []*spool.Scanner // of cursors
	past Progress         // of scans that ended
}

// fail keeps the error that a callback ends with: SQLite has no room for more
// than its text.
func (r *run) fail(err error) error {
	if r.failure == nil {
		r.failure = err
	}
	return err
}

func (r *run) warn(s string) {
	const most = 20
	if len(r.warnings) == most {
		r.warnings = append(r.warnings, "there are more such losses")
	}
	if len(r.warnings) < most {
		r.warnings = append(r.warnings, s)
	}
}

// closing is the warnings, with the fields that no record had.
func (r *run) closing() []string {
	if r.rows.Load() == 0 && r.past.Scanned == 0 && len(r.open) == 0 {
		return r.warnings
	}
	met, unmet := map[string]bool{}, []string{}
	for _, name := range r.engine.sorted(r.tables) {
		t := r.tables[name]
		for i, f := range t.fields {
			if t.met[i] {
				met[f] = true
			} else if i >= len(t.listed) && !slices.Contains(unmet, f) {
				unmet = append(unmet, f)
			}
		}
	}
	for _, f := range unmet {
		if !met[f] {
			said := fmt.Sprintf("no record that was read has a field %q", f)
			if strings.ContainsAny(f, "/+# :") {
				said += fmt.Sprintf("; a text stands in single quotes: '%s'", strings.ReplaceAll(f, "'", "''"))
			}
			r.warn(said)
		}
	}
	return r.warnings
}

// scanning notes that a scan takes the place of another.
func (r *run) scanning(old, fresh *spool.Scanner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.main == nil || r.main == old && len(r.open) == 1 {
		r.main = fresh
	}
	for i, s := range r.open {
		if s == old {
			p := old.Progress()
			r.past.Scanned += p.Records
			r.past.Blocks += p.Blocks
			r.past.Skipped += p.Skipped
			r.open[i] = fresh
			return
		}
	}
	r.open = append(r.open, fresh)
}

func (r *run) progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.past
	for _, s := range r.open {
		o := s.Progress()
		p.Scanned += o.Records
		p.Blocks += o.Blocks
		p.Skipped += o.Skipped
	}
	if r.main != nil {
		p.Share = r.main.Progress().Share
	}
	p.Rows, p.Elapsed = r.rows.Load(), time.Since(r.began)
	return p
}

// take takes a row of SQLite's.
func (r *run) take(row []driver.Value) error {
	r.lent = r.lent[:0]
	for _, v := range row {
		r.lent = append(r.lent, v)
	}
	return r.row(r.lent)
}

// row takes a row of the result.
func (r *run) row(row []any) error {
	if r.rows.Load() >= r.maxRows {
		r.enough = true
		return r.fail(errEnough)
	}
	if err := r.to.Row(row); err != nil {
		return r.fail(err)
	}
	r.rows.Add(1)
	return nil
}

// watched does the work and looks, beside it, at the memory.
func (r *run) watched(ctx context.Context, q Query, work func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before := residentBytes()
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if residentBytes()-before > r.engine.opt.Memory {
				cancel(&Error{
					Kind: TooLarge, Message: fmt.Sprintf("the query took more than %d MB of memory", r.engine.opt.Memory>>20),
					Hint: "sort, group or join less: a bound such as WHERE ts > now()-3600 helps",
				})
			}
			if q.Progress != nil && n%10 == 0 {
				q.Progress(r.progress())
			}
		}
	})
	err := work(ctx)
	close(done)
	watch.Wait()
	switch {
	case errors.Is(r.failure, errEnough):
		return nil
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case r.failure != nil:
		return r.failure
	}
	return err
}

// execute compiles the query, as often as it takes to know all its fields, and
// runs it.
func (r *run) execute(ctx context.Context, text string, ts []token) error {
	r.names = survey(ts, r.engine.stream)
	text = rewrite(text[:ts[len(ts)-1].end], ts, r.names, r.engine.stream)
	db := sql.OpenDB(connector{r.engine.drv})
	defer func() { _ = db.Close() }() // it is in memory; nothing is lost
	c, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("open a connection for the query: %w", err)
	}
	defer func() { _ = c.Close() }() // as above
	r.preparing = true
	if err := r.arm(ctx, c); err != nil {
		return fmt.Errorf("set up a connection for the query: %w", err)
	}
	if err := r.compile(ctx, c, text, ts); err != nil {
		return err
	}
	if err := r.to.Columns(r.columns); err != nil {
		return err
	}
	if ts[0].is("EXPLAIN") {
		return r.explain(ctx, c, text)
	}
	name := "output of " + r.name
	if err := r.prepare(ctx, c, "CREATE VIRTUAL TABLE temp."+ident(name)+" USING forebay_output("+r.name+")"); err != nil {
		return err
	}
	r.output = name
	_, err = c.ExecContext(ctx, "INSERT INTO temp."+ident(name)+" "+text)
	return r.told(err)
}

// prepare runs a statement of our own.
func (r *run) prepare(ctx context.Context, c *sql.Conn, statement string) error {
	r.preparing = true
	defer func() { r.preparing = false }()
	if _, err := c.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("set up a connection for the query: %w", err)
	}
	return nil
}

// explain answers with SQLite's own account of the query.
func (r *run) explain(ctx context.Context, c *sql.Conn, text string) error {
	rows, err := c.QueryContext(ctx, text)
	if err != nil {
		return r.told(err)
	}
	defer rows.Close()
	row, into := make([]any, len(r.columns)), make([]any, len(r.columns))
	for i := range row {
		into[i] = &row[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return r.told(err)
		}
		if err := r.row(row); err != nil {
			return err
		}
	}
	return r.told(rows.Err())
}
