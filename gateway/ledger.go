package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
	"forebay/spool"
	"forebay/spool/record"
)

type ledgerCmd struct {
	door
	Steps bool   `help:"List the steps too: what was lost or set aside, when, which records and why."`
	Last  int    `help:"With --steps: only the newest so many; 0 is all that are kept." default:"0"`
	Spool string `help:"Read the ledger of a spool's directory (DATA/spool) that no gateway has open, instead of asking one." type:"existingdir" placeholder:"DIR"`
	JSON  bool   `help:"Print JSON."`
}

func (c ledgerCmd) Run(ctx context.Context, e *env) error {
	if c.Last < 0 {
		return fmt.Errorf("%w: --last is 0 or more", errUsage)
	}
	l, err := c.read(ctx)
	if err != nil {
		return err
	}
	if !c.Steps {
		l.Steps = nil
	}
	if c.JSON {
		if err := printJSON(e.out, l); err != nil {
			return err
		}
	} else if err := printLedger(e.out, l, c.Steps); err != nil {
		return err
	}
	if !l.Balance || !l.Chain.Holds {
		return errProblems
	}
	return nil
}

// read asks a gateway, or a directory. The chain is verified either way.
func (c ledgerCmd) read(ctx context.Context) (api.Ledger, error) {
	limit := c.Last
	if !c.Steps {
		limit = 1
	}
	if c.Spool != "" {
		r, err := spool.ReadLedger(ctx, spoolDir(c.Spool))
		if err != nil {
			return api.Ledger{}, err
		}
		l := ledgerOf(r.Ledger, r.Identity, time.Now())
		l.Steps = stepsOf(r.Steps, nil)
		if n := len(l.Steps); limit > 0 && n > limit {
			l.Steps = l.Steps[n-limit:]
		}
		return l, nil
	}
	cl, err := c.client()
	if err != nil {
		return api.Ledger{}, err
	}
	defer cl.Close()
	return cl.LedgerSteps(ctx, limit)
}

func ledgerOf(l spool.Ledger, id record.Identity, at time.Time) api.Ledger {
	out := api.Ledger{
		At: at.UTC(), Epoch: id.Epoch.String(), Balance: true,
		Sources: []api.SourceLedger{}, Streams: []api.StreamLedger{}, Uplinks: []api.UplinkLedger{}, Logs: []api.LogLedger{},
		Chain: api.LedgerChain{Steps: l.Chain.Steps, Head: l.Chain.Head, Holds: l.Chain.Broken == "", Broken: l.Chain.Broken},
	}
	if err := l.Balanced(); err != nil {
		out.Balance, out.Problem = false, err.Error()
	}
	for _, s := range l.Sources {
		out.Sources = append(out.Sources, api.SourceLedger(s))
	}
	for _, s := range l.Streams {
		out.Streams = append(out.Streams, api.StreamLedger(s))
	}
	for _, g := range l.Logs {
		out.Logs = append(out.Logs, api.LogLedger(g))
	}
	for _, c := range l.Cursors {
		out.Uplinks = append(out.Uplinks, api.UplinkLedger{
			Uplink: c.Name, Stream: c.Stream, In: c.In, Delivered: c.Delivered, Filtered: c.Filtered, Pending: c.Pending,
			Expired: c.Expired, Refused: c.Refused, Corrupt: c.Corrupt,
		})
	}
	return out
}

// stepsOf shows steps; names are the shards' names, as far as they are known.
func stepsOf(steps []spool.Step, names map[record.ShardID]string) []api.LedgerStep {
	out := []api.LedgerStep{}
	for _, s := range steps {
		out = append(out, api.LedgerStep{
			ID: s.ID, At: s.At, Clock: s.Clock, Kind: s.Kind, Stream: s.Stream, Shard: uint32(s.Shard), ShardID: names[s.Shard], First: s.First, Past: s.Past,
			Count: s.Count, Undelivered: s.Undelivered, Who: s.Who, Reason: s.Reason, Hash: fmt.Sprintf("%x", s.Hash),
		})
	}
	return out
}

// LedgerSteps verifies the ledger and lists its newest steps.
func (p *plant) LedgerSteps(ctx context.Context, limit int) ([]api.LedgerStep, error) {
	steps, err := p.g.sp.Steps(ctx, limit)
	if err != nil {
		return nil, fmt.Errorf("list the ledger's steps: %w", err)
	}
	names := map[record.ShardID]string{}
	for _, t := range p.g.sp.Streams() {
		for _, sh := range t.Shards() {
			names[sh.ID] = localapi.ShardName(sh.Index)
		}
	}
	return stepsOf(steps, names), nil
}

// DropCursor gives up a cursor's claim.
func (p *plant) DropCursor(ctx context.Context, stream, cursor, by string) error {
	t, err := p.g.sp.Stream(stream)
	if err != nil {
		return fmt.Errorf("drop a cursor: %w", err)
	}
	return t.DropCursor(ctx, cursor, by)
}

func printLedger(w io.Writer, l api.Ledger, steps bool) error {
	err := table(w, "SOURCE\tTAKEN\tSHED\tQUARANTINED", func(row func(string, ...any)) {
		for _, s := range l.Sources {
			row("%s\t%d\t%d\t%d", s.Source, s.Taken, s.Shed, s.Quarantined)
		}
	})
	fmt.Fprintln(w)
	err = errors.Join(err, table(w, "STREAM\tIN\tKEPT\tEXPIRED\tCORRUPT", func(row func(string, ...any)) {
		for _, s := range l.Streams {
			row("%s\t%d\t%d\t%d\t%d", s.Stream, s.In, s.Kept, s.Expired, s.Corrupt)
		}
	}))
	if len(l.Uplinks) > 0 {
		fmt.Fprintln(w)
		err = errors.Join(err, table(w, "UPLINK\tSTREAM\tIN\tDELIVERED\tFILTERED\tPENDING\tEXPIRED\tREFUSED\tCORRUPT", func(row func(string, ...any)) {
			for _, u := range l.Uplinks {
				row("%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d", u.Uplink, u.Stream, u.In, u.Delivered, u.Filtered, u.Pending, u.Expired, u.Refused, u.Corrupt)
			}
		}))
	}
	if steps {
		fmt.Fprintln(w)
		err = errors.Join(err, printSteps(w, l.Steps))
	}
	word := "the ledger balances"
	if !l.Balance {
		word = "THE LEDGER DOES NOT BALANCE: " + l.Problem
	}
	chain := fmt.Sprintf("its chain of %s holds, the newest is %s", counted(l.Chain.Steps, "step"), l.Chain.Head)
	if !l.Chain.Holds {
		chain = "ITS CHAIN DOES NOT HOLD: " + l.Chain.Broken
	}
	fmt.Fprintf(w, "\n%s\n%s\n", word, chain)
	return err
}

// counted is a number with what it counts.
func counted(n uint64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func printSteps(w io.Writer, steps []api.LedgerStep) error {
	return table(w, "STEP\tTIME\tKIND\tSTREAM\tSHARD\tRECORDS\tCOUNT\tUNDELIVERED\tWHO\tREASON", func(row func(string, ...any)) {
		for _, s := range steps {
			span := ""
			if s.Past > s.First {
				span = fmt.Sprintf("%d-%d", s.First, s.Past-1)
			}
			row("%d\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s", s.ID, s.At.Local().Format(time.DateTime), s.Kind, s.Stream, strings.TrimSpace(fmt.Sprintf("%d %s", s.Shard, s.ShardID)), span, s.Count, s.Undelivered, printable(s.Who), printable(s.Reason))
		}
	})
}

type cursorCmd struct {
	List cursorListCmd `cmd:"" help:"List the cursors of all streams and what waits for them."`
	Drop cursorDropCmd `cmd:"" help:"Give up a cursor that nobody uses any more: records are no longer kept for it. It stands in the ledger."`
}

type cursorListCmd struct {
	door
	JSON bool `help:"Print JSON."`
}

// listedCursor is a line of `cursor list --json`.
type listedCursor struct {
	Stream    string `json:"stream"`
	Cursor    string `json:"cursor"`
	Pending   uint64 `json:"pending"` // records
	Delivered uint64 `json:"delivered"`
}

func (c cursorListCmd) Run(ctx context.Context, e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	l, err := cl.Ledger(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		out := []listedCursor{}
		for _, u := range l.Uplinks {
			out = append(out, listedCursor{u.Stream, u.Uplink, u.Pending, u.Delivered})
		}
		return printJSON(e.out, out)
	}
	return table(e.out, "STREAM\tCURSOR\tPENDING\tDELIVERED", func(row func(string, ...any)) {
		for _, u := range l.Uplinks {
			row("%s\t%s\t%d\t%d", u.Stream, u.Uplink, u.Pending, u.Delivered)
		}
	})
}

type cursorDropCmd struct {
	door
	Stream string `arg:"" help:"Name of the stream."`
	Name   string `arg:"" help:"Name of the cursor; an uplink's is its id."`
	By     string `help:"Who drops it." env:"USER" default:"operator"`
	JSON   bool   `help:"Print JSON."`
}

func (c cursorDropCmd) Run(ctx context.Context, e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	res, err := cl.DropCursor(ctx, c.Stream, c.Name, c.By)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, res)
	}
	_, err = fmt.Fprintf(e.out, "dropped cursor %s of stream %s\n", printable(res.Cursor), res.Stream)
	return err
}
