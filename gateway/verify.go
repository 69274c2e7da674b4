package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/config"
	"forebay/gateway/internal/localapi"
	"forebay/gateway/internal/proof"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
)

// Exit codes of verify and prove.
const (
	exitGap     = 1 // records are missing
	exitNotDone = 2 // it could not be found out
)

// An endError ends a command with a code of its own.
type endError struct {
	code int
	err  error // nil where all has been said
}

func (e *endError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *endError) Unwrap() error { return e.err }

func notDone(err error) error {
	if err == nil {
		return nil
	}
	return &endError{exitNotDone, err}
}

type verifyCmd struct {
	door
	Config  string `help:"Config file of the gateway." required:"" type:"path" placeholder:"FILE"`
	Target  string `help:"The uplink to verify, by its id." required:"" placeholder:"UPLINK"`
	From    string `help:"Only records that arrived at the gateway at this time or later, such as 2026-11-05T14:00:00Z." placeholder:"TIME"`
	To      string `help:"Only records that arrived before this time." placeholder:"TIME"`
	Spool   string `help:"Compare with a spool's directory (DATA/spool) that no gateway has open, instead of asking one." type:"existingdir" placeholder:"DIR"`
	KeyFile string `help:"With --spool: the master key of encrypted streams." type:"existingfile" placeholder:"FILE"`
	JSON    bool   `help:"Print JSON."`
}

// Help is printed below the flags.
func (verifyCmd) Help() string {
	return "Exit codes: 0 no gap, or nothing to compare; 1 records are missing; 2 it could not be found out, or the time is reversed or has not come yet. Copies of a replay do not count for the records that they are copies of. Nothing is changed at either end; see docs/verify.md."
}

func (c verifyCmd) Run(ctx context.Context, e *env) error {
	v, err := c.verify(ctx, e)
	if err != nil {
		return notDone(err)
	}
	if c.JSON {
		err = printJSON(e.out, v)
	} else {
		err = printVerdict(e.out, v)
	}
	switch {
	case err != nil:
		return notDone(err)
	case v.Result == proof.HasGap:
		return &endError{exitGap, nil}
	case v.Result == proof.NotProven:
		return &endError{exitNotDone, nil}
	}
	return nil
}

func (c verifyCmd) verify(ctx context.Context, e *env) (v *proof.Verdict, err error) {
	cfg, err := loadConfig(c.Config)
	if err != nil {
		return nil, err
	}
	up, err := uplinkNamed(cfg, c.Target)
	if err != nil {
		return nil, err
	}
	w, err := windowOf(c.From, c.To, time.Now())
	if err != nil {
		return nil, err
	}
	var near nearEnd
	if c.Spool != "" {
		sp, err := spool.OpenStill(ctx, spoolDir(c.Spool), c.KeyFile, nil)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, sp.Close()) }()
		near = closedEnd{sp, up}
	} else {
		if c.API == "" {
			c.API = apiOf(cfg)
		}
		cl, err := c.client()
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		near = runningEnd{cl}
	}
	log := slog.New(slog.NewTextHandler(e.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return verify(ctx, near, up, w, log)
}

// apiOf is where the gateway of a config answers on this machine; "" where it
// says nothing of that.
func apiOf(cfg config.Config) string {
	socket := cfg.API.Socket
	if socket == "" {
		socket = cfg.Path("forebay.sock")
	}
	if st, err := os.Stat(socket); err == nil && st.Mode()&os.ModeSocket != 0 {
		return socket
	}
	switch listen := string(cfg.API.WithDefaults().Listen); {
	case listen == "off":
		return ""
	case cfg.API.TLSCert != "":
		return "https://" + listen
	default:
		return listen
	}
}

func uplinkNamed(cfg config.Config, id string) (uplink.Config, error) {
	names := ""
	for _, u := range cfg.Uplinks {
		if string(u.ID) == id {
			return u, nil
		}
		names += " " + string(u.ID)
	}
	if names == "" {
		names = " none"
	}
	return uplink.Config{}, fmt.Errorf("%w: --target: the config has no uplink %q; it has:%s", errUsage, id, names)
}

func momentOf(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, fmt.Errorf("%w: %s: %q is not a time; write for example 2026-11-05T14:00:00Z", errUsage, flag, text)
	}
	return t, nil
}

type window struct{ from, to time.Time }

// windowOf reads the bounds of a time, which must be one that has passed: of
// what is still to come nothing can be proven.
func windowOf(from, to string, now time.Time) (w window, err error) {
	if w.from, err = momentOf("--from", from); err != nil {
		return w, err
	}
	if w.to, err = momentOf("--to", to); err != nil {
		return w, err
	}
	switch {
	case w.from.After(now):
		return w, fmt.Errorf("%w: --from: %s has not come yet", errUsage, from)
	case w.to.After(now):
		return w, fmt.Errorf("%w: --to: %s has not come yet; leave --to out for all that there is", errUsage, to)
	case !w.to.IsZero() && !w.from.Before(w.to):
		return w, fmt.Errorf("%w: --from %s is not before --to %s; the records that are compared arrived from the one time on and before the other", errUsage, from, to)
	}
	return w, nil
}

func (w window) isSet() bool { return !w.from.IsZero() || !w.to.IsZero() }

// A nearEnd is where the ledger and the log are asked.
type nearEnd interface {
	// identity is the spool's, and where it says that the uplink goes: "" where
	// it does not know.
	identity(ctx context.Context, uplink string) (record.Identity, string, error)
	Sent(ctx context.Context, uplink string, ask api.SentAsk) (api.Sent, error)
	// arrival is when a record arrived, nil where the log no longer has it.
	arrival(ctx context.Context, stream, shard string, seq uint64) *time.Time
}

// skew is how far the clocks of the two ends may be apart where the target is
// read from some time on.
const skew = time.Hour

// verify reads an uplink's target back and holds it against the near end.
func verify(ctx context.Context, near nearEnd, up uplink.Config, w window, log *slog.Logger) (v *proof.Verdict, err error) {
	began := time.Now()
	id, target, err := near.identity(ctx, string(up.ID))
	if err != nil {
		return nil, err
	}
	if target != "" && target != up.Target() {
		return nil, fmt.Errorf("the running gateway's uplink %s goes to %s, the config file's to %s; verify with the config that it runs with", up.ID, target, up.Target())
	}
	far, err := uplink.OpenReading(up, lane.Home{ID: id, Log: log})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, far.Close()) }()
	keeps, err := far.Keeps(ctx)
	if err != nil {
		return nil, err
	}
	sent, err := near.Sent(ctx, string(up.ID), api.SentAsk{From: w.from, To: w.to, Keeps: keeps})
	if err != nil {
		return nil, err
	}
	from := w.from
	if !from.IsZero() {
		from = from.Add(-skew)
	}
	held := proof.NewHeld(sent, far.Under)
	if err := far.ReadBack(ctx, from, time.Time{}, held.Add); err != nil {
		return nil, err
	}
	v = proof.Compare(sent, held, proof.Terms{Window: w.isSet(), Ordered: far.Ordered, Keeps: keeps})
	v.Version, v.Target, v.Seconds = version, up.Target(), time.Since(began).Seconds()
	v.From, v.To = moment(w.from), moment(w.to)
	for i := range v.Gaps {
		if g := &v.Gaps[i]; g.Seq > 0 {
			g.From, g.To = near.arrival(ctx, g.Stream, g.Shard, g.Seq), near.arrival(ctx, g.Stream, g.Shard, g.LastSeq)
		}
	}
	return v, nil
}

// runningEnd asks a gateway.
type runningEnd struct{ *api.Client }

func (r runningEnd) identity(ctx context.Context, up string) (record.Identity, string, error) {
	st, err := r.Status(ctx)
	if err != nil && exitCode(err) == exitUnreachable {
		err = fmt.Errorf("%w (%s)", err, whereIsIt)
	}
	if err != nil {
		return record.Identity{}, "", err
	}
	epoch, err := strconv.ParseUint(st.Epoch, 16, 64)
	if err != nil {
		return record.Identity{}, "", fmt.Errorf("read the gateway's epoch: %w", err)
	}
	for _, u := range st.Uplinks {
		if u.ID == up {
			return record.Identity{Gateway: st.Gateway, Epoch: record.Epoch(epoch)}, u.Target, nil
		}
	}
	return record.Identity{}, "", fmt.Errorf("the gateway %s has no uplink %q; verify with the config that it runs with", st.Gateway, up)
}

func (r runningEnd) arrival(ctx context.Context, stream, shard string, seq uint64) *time.Time {
	for rec, err := range r.Records(ctx, api.Tail{Stream: stream, Shard: shard, From: strconv.FormatUint(seq, 10), Limit: 1, Raw: true}) {
		if err == nil && rec.Seq == seq {
			return &rec.Arrived
		}
		break
	}
	return nil
}

// closedEnd asks a spool that no gateway has open.
type closedEnd struct {
	sp *spool.Spool
	up uplink.Config
}

func (c closedEnd) identity(context.Context, string) (record.Identity, string, error) {
	return c.sp.Identity(), "", nil
}

func (c closedEnd) Sent(ctx context.Context, _ string, ask api.SentAsk) (api.Sent, error) {
	return sentBy(ctx, c.sp, c.up, ask)
}

func (c closedEnd) arrival(ctx context.Context, stream, shard string, seq uint64) (at *time.Time) {
	t, err := c.sp.Stream(stream)
	if err != nil {
		return nil
	}
	for _, sh := range t.Shards() {
		if localapi.ShardName(sh.Index) != shard {
			continue
		}
		if err := passed(ctx, t, sh.ID, seq, seq+1, func(r *record.Record) error {
			at = moment(r.Arrived)
			return nil
		}, func(uint64) {}); err != nil {
			return nil
		}
	}
	return at
}

func printVerdict(w io.Writer, v *proof.Verdict) error {
	fmt.Fprintf(w, "uplink %s of gateway %s, epoch %s, to %s\n\n", v.Uplink, v.Gateway, v.Epoch, v.Target)
	err := table(w, "STREAM\tSHARD\tPASSED\tCOMPARED\tFOUND\tMISSING\tEXPLAINED\tOLDER\tDUPLICATES", func(row func(string, ...any)) {
		for _, s := range v.Shards {
			row("%s\t%s\t%d-%d\t%d\t%d\t%d\t%d\t%d\t%d", s.Stream, s.Shard, s.First, s.Last, s.Compared, s.Found, s.Missing, s.Explained, s.Older, s.Again)
		}
	})
	if len(v.Others) > 0 {
		fmt.Fprintln(w, "\nof others, not compared:")
		for _, o := range v.Others {
			fmt.Fprintf(w, "  %s: %s\n", printable(o.Lane), counted(o.Records, "record"))
		}
	}
	if len(v.Names) > 0 {
		fmt.Fprintln(w, "\nof the same records under other names, not compared:")
		for _, n := range v.Names {
			fmt.Fprintf(w, "  %s: %s\n", printable(n.Name), counted(n.Records, "record"))
		}
	}
	for _, why := range v.Why {
		fmt.Fprintf(w, "\nnote: %s\n", why)
	}
	if len(v.Gaps) > 0 {
		fmt.Fprintln(w)
	}
	for _, g := range v.Gaps {
		fmt.Fprintf(w, "gap: stream %s, %s: %s", g.Stream, g.Shard, counted(g.Records, "record"))
		if g.Among {
			fmt.Fprint(w, " absent, of which some were filtered")
		}
		fmt.Fprintf(w, ", %s to %s", printable(g.First), printable(g.Last))
		if g.From != nil && g.To != nil {
			fmt.Fprintf(w, ", arrived %s to %s", g.From.Local().Format(time.DateTime), g.To.Local().Format(time.DateTime))
		}
		fmt.Fprintln(w)
	}
	if v.GapsMore > 0 {
		fmt.Fprintf(w, "and further gaps\n")
	}
	printResult(w, v)
	return err
}

// printResult is the last lines: the result, and what still waits.
func printResult(w io.Writer, v *proof.Verdict) {
	order := fmt.Sprintf(", %d out of order", v.Disorder)
	if v.Disorder < 0 {
		order = ""
	}
	extra := fmt.Sprintf("%s twice or more%s", counted(v.Again, "record"), order)
	if v.Elsewhere > 0 {
		extra += fmt.Sprintf(", %d more under other names", v.Elsewhere)
	}
	switch v.Result {
	case proof.NoGap:
		fmt.Fprintf(w, "\nno gap: %d of %s found, %d explained by the ledger; %s\n", v.Found, counted(v.Compared, "record"), v.Explained, extra)
	case proof.HasGap:
		fmt.Fprintf(w, "\nGAP: %s of %d missing at the target; %s\n", counted(v.Missing, "record"), v.Compared, extra)
	case proof.Nothing:
		fmt.Fprintf(w, "\nnothing to compare: %s\n", extra)
	default:
		fmt.Fprintf(w, "\nnot proven: %s cannot be told; of %d compared none is missing; %s\n", counted(v.Unknown, "record"), v.Compared, extra)
	}
	switch v.Waiting {
	case 0:
		fmt.Fprintln(w, "no record waits to be handed on")
	case 1:
		fmt.Fprintln(w, "1 record still waits to be handed on and was not compared")
	default:
		fmt.Fprintf(w, "%d records still wait to be handed on and were not compared\n", v.Waiting)
	}
}
