package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"forebay/gateway/api"
	"forebay/gateway/internal/query"
	"forebay/spool"
)

type queryCmd struct {
	door
	SQL     string        `arg:"" help:"One SELECT; every stream is a table, every field of its JSON payloads a column. - reads it from standard input."`
	Format  string        `help:"How to print: table, csv, json (an array of objects) or ndjson (an object a line)." enum:"table,csv,json,ndjson" default:"table"`
	Timeout time.Duration `help:"End the query after this time; at most 10m." default:"30s"`
	MaxRows int           `help:"End the result after so many rows (100000)." default:"100000" placeholder:"N"`
	Spool   string        `help:"Read this spool directory (DATA/spool), which no gateway has open, instead of asking a running gateway." type:"existingdir" placeholder:"DIR"`
	KeyFile string        `help:"With --spool: file with the master key, where streams in it are encrypted." type:"existingfile" placeholder:"FILE"`
}

func (c queryCmd) Run(ctx context.Context, e *env) error {
	if c.Timeout <= 0 || c.Timeout > query.MaxTimeout || c.MaxRows < 1 || c.MaxRows > query.MaxRows {
		return fmt.Errorf("%w: --timeout is above 0 and at most 10m, --max-rows 1 to %d", errUsage, query.MaxRows)
	}
	if c.KeyFile != "" && c.Spool == "" {
		return fmt.Errorf("%w: --key-file goes with --spool; a running gateway has its key", errUsage)
	}
	if c.SQL == "-" {
		b, err := io.ReadAll(io.LimitReader(e.in, 1<<20))
		if err != nil {
			return fmt.Errorf("read standard input: %w", err)
		}
		c.SQL = string(b)
	}
	line := &progressLine{w: e.err, terminal: isTerminal(e.err), began: time.Now()}
	out := newSheet(c.Format, &clearing{e.out, line}, isTerminal(e.out))
	ask := c.remote
	if c.Spool != "" {
		ask = c.local
	}
	end, err := ask(ctx, &toSheet{out, line})
	line.clear()
	if err != nil {
		return errors.Join(out.flush(), err)
	}
	if err := out.close(); err != nil {
		return err
	}
	for _, w := range end.Warnings {
		fmt.Fprintf(e.err, "forebay: %s\n", printable(w))
	}
	if end.Truncated {
		fmt.Fprintf(e.err, "forebay: there are more rows; --max-rows %d ended the result\n", c.MaxRows)
	}
	if line.terminal {
		fmt.Fprintf(e.err, "%s, %s read, %.2f s\n", count(end.Rows, "row", "rows"), count(end.Scanned, "record", "records"), float64(end.ElapsedMS)/1000)
	}
	return nil
}

func (c queryCmd) remote(ctx context.Context, to api.QueryResult) (api.QueryEnd, error) {
	cl, err := c.client()
	if err != nil {
		return api.QueryEnd{}, err
	}
	defer cl.Close()
	return cl.Query(ctx, api.QueryRequest{SQL: c.SQL, TimeoutMS: max(c.Timeout.Milliseconds(), 1), MaxRows: c.MaxRows, Progress: true}, to)
}

func (c queryCmd) local(ctx context.Context, to api.QueryResult) (end api.QueryEnd, err error) {
	sp, err := spool.OpenStill(ctx, spoolDir(c.Spool), c.KeyFile, nil)
	if err != nil {
		return end, err
	}
	defer func() { err = errors.Join(err, sp.Close()) }()
	engine, err := query.New(sp, query.Options{})
	if err != nil {
		return end, err
	}
	tell := func(p query.Progress) { to.Progress(apiProgress(p)) }
	sum, err := engine.Run(ctx, query.Query{SQL: c.SQL, Timeout: c.Timeout, MaxRows: c.MaxRows, Progress: tell}, to)
	if told, ok := errors.AsType[*query.Error](err); ok && told.Kind == query.Refused {
		err = &api.Error{Status: http.StatusBadRequest, Message: told.Message, Hint: told.Hint}
	}
	return api.QueryEnd{Done: err == nil, QueryProgress: apiProgress(sum.Progress), Truncated: sum.Truncated, Warnings: sum.Warnings}, err
}

func apiProgress(p query.Progress) api.QueryProgress {
	return api.QueryProgress{Scanned: p.Scanned, Blocks: p.Blocks, Skipped: p.Skipped, Share: p.Share, Rows: p.Rows, ElapsedMS: p.Elapsed.Milliseconds()}
}

func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// toSheet gives rows to the sheet and progress to its line.
type toSheet struct {
	*sheet
	line *progressLine
}

func (t *toSheet) Progress(p api.QueryProgress) { t.line.show(p) }

// A progressLine says on standard error how far a query is: on a terminal in
// one line that goes away, elsewhere in a line every ten seconds.
type progressLine struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	began    time.Time
	shown    time.Time
	there    bool
}

func (l *progressLine) show(p api.QueryProgress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	pause := 200 * time.Millisecond
	if !l.terminal {
		pause = 10 * time.Second
	}
	if now.Sub(l.began) < time.Second && !l.terminal || now.Sub(l.shown) < pause {
		return
	}
	l.shown = now
	text := fmt.Sprintf("%s read, %.0f %% of the files, %s, %s", count(p.Scanned, "record", "records"), math.Floor(p.Share*100), count(p.Rows, "row", "rows"), now.Sub(l.began).Truncate(time.Second))
	if !l.terminal {
		fmt.Fprintf(l.w, "forebay: %s\n", text)
		return
	}
	fmt.Fprintf(l.w, "\r\x1b[K%s", text)
	l.there = true
}

// clear takes the line away before something else is printed.
func (l *progressLine) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.there {
		fmt.Fprint(l.w, "\r\x1b[K")
		l.there = false
	}
}

// clearing writes where the progress line may be in the way.
type clearing struct {
	w    io.Writer
	line *progressLine
}

func (c *clearing) Write(p []byte) (int, error) {
	c.line.clear()
	return c.w.Write(p)
}
