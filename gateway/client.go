package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"forebay/gateway/api"
	"forebay/gateway/conf"
	"forebay/gateway/internal/localapi"
	"forebay/spool/record"
)

// A door is how a command reaches a running gateway.
type door struct {
	API   string `help:"The gateway's local API: HOST:PORT, a URL, or the path of its socket. Default: ./forebay-data/forebay.sock if it is there, else 127.0.0.1:8480." env:"FOREBAY_API" placeholder:"ADDR"`
	Token string `help:"Token of the API, where one is set." env:"FOREBAY_TOKEN" placeholder:"TOKEN"`
}

const defaultSocket = "forebay-data/forebay.sock"

func (d door) client() (*api.Client, error) {
	addr := d.API
	if addr == "" {
		addr = string(localapi.DefaultListen)
		if st, err := os.Stat(defaultSocket); err == nil && st.Mode()&os.ModeSocket != 0 {
			addr = defaultSocket
		}
	}
	return api.NewClient(addr, d.Token)
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints aligned columns.
func table(w io.Writer, head string, rows func(row func(format string, args ...any))) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, head)
	rows(func(format string, args ...any) { fmt.Fprintf(tw, format+"\n", args...) })
	return tw.Flush()
}

type statusCmd struct {
	door
	JSON bool `help:"Print JSON."`
}

func (c statusCmd) Run(ctx context.Context, e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	st, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, st)
	}
	fmt.Fprintf(e.out, "%s %s   up %s   epoch %s\n", st.Gateway, st.Title, span(st.Now.Sub(st.Started)), st.Epoch)
	fmt.Fprintf(e.out, "in      %.0f records/s, %s/s, %d since start\n", st.In.Records, size(int64(st.In.Bytes)), st.In.Total)
	days := "not growing"
	if st.Disk.DaysLeft != nil {
		if days = fmt.Sprintf("%.1f days left", *st.Disk.DaysLeft); *st.Disk.DaysLeft > 3650 {
			days = "more than ten years left"
		}
	}
	fmt.Fprintf(e.out, "disk    %s of %s used, %s free, %s\n", size(st.Disk.Used), size(st.Disk.Quota), size(st.Disk.Free), days)
	for _, u := range st.Uplinks {
		fmt.Fprintln(e.out, "uplink  "+uplinkLine(u, st.Now))
	}
	fmt.Fprintf(e.out, "alarms  %d unacknowledged, %d active\n", st.Alarms.Unacked, st.Alarms.Active)
	for _, l := range st.Listening {
		fmt.Fprintf(e.out, "listens %s on %s\n", l.Kind, l.Addr)
	}
	for _, p := range st.Problems {
		fmt.Fprintf(e.out, "problem %s: %s\n", p.Kind, p.Text)
	}
	return nil
}

func span(d time.Duration) string {
	return conf.Duration(max(d.Truncate(time.Second), 0)).InWords()
}

func size(n int64) string {
	for _, u := range []struct {
		name string
		n    float64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if float64(n) >= u.n {
			return fmt.Sprintf("%.1f %s", float64(n)/u.n, u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

type streamsCmd struct {
	door
	Shards bool `help:"List the shards of the streams instead, the closed ones too."`
	JSON   bool `help:"Print JSON: the streams, with their shards."`
}

func (c streamsCmd) Run(ctx context.Context, e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	list, err := cl.Streams(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, list)
	}
	if c.Shards {
		return printShards(e.out, list)
	}
	return table(e.out, "STREAM\tCLASS\tSHARDS\tRECORDS\tBYTES\tIN/S\tRETENTION", func(row func(string, ...any)) {
		for _, s := range list {
			row("%s\t%s\t%s\t%d\t%s\t%.0f\t%s", s.Name, s.Class, shardCount(s.Shards), s.Records, size(s.Bytes), s.In.Records, s.Retention)
		}
	})
}

// shardCount says how many shards take records, and how many took some once.
func shardCount(shards []api.Shard) string {
	open := 0
	for _, sh := range shards {
		if sh.Open() {
			open++
		}
	}
	if closed := len(shards) - open; closed > 0 {
		return fmt.Sprintf("%d, %d closed", open, closed)
	}
	return strconv.Itoa(open)
}

func printShards(w io.Writer, streams []api.Stream) error {
	return table(w, "STREAM\tSHARD\tNUMBER\tSTATE\tRECORDS\tNEXT\tHASHES\tPARENTS\tCHILDREN", func(row func(string, ...any)) {
		for _, s := range streams {
			for _, sh := range s.Shards {
				row("%s\t%s\t%d\t%s\t%d\t%d\t%.4s..%.4s\t%s\t%s", s.Name, sh.ID, sh.Number, sh.State, sh.Next-min(sh.First, sh.Next), sh.Next, sh.From, sh.To, strings.Join(sh.Parents, " "), strings.Join(sh.Children, " "))
			}
		}
	})
}

type tailCmd struct {
	door
	Stream string `arg:"" help:"Name of the stream."`
	From   string `help:"Where to begin: oldest, newest (only what comes from now on; waits for it), a time of arrival such as 2026-11-05T14:00:00Z, the senders' own time as event:2026-11-05T14:00:00Z, or a sequence number." default:"oldest"`
	Shard  string `help:"Only this shard (shardId-000000000000, or its index)." placeholder:"SHARD"`
	Limit  int    `short:"n" help:"Stop after so many records; 0 is no limit." default:"0"`
	Follow bool   `short:"f" help:"Wait for more records instead of ending at the newest."`
	JSON   bool   `help:"Print a JSON object per record."`

	Deaggregate bool `help:"Print the records inside KPL aggregates, each with its index behind the aggregate's sequence number; --no-deaggregate prints aggregates as they are." default:"true" negatable:""`
}

func (c tailCmd) Run(ctx context.Context, e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	var line []byte
	for r, err := range cl.Records(ctx, api.Tail{Stream: c.Stream, From: c.From, Shard: c.Shard, Limit: c.Limit, Follow: c.Follow || c.From == "newest", Raw: !c.Deaggregate}) {
		var gone *api.Error
		if errors.As(err, &gone) && gone.Status == http.StatusGone {
			fmt.Fprintf(e.err, "forebay: %s\n", gone.Message)
			continue
		}
		if err != nil {
			return err
		}
		if c.JSON {
			if line, err = r.AppendJSON(line[:0]); err == nil {
				line = append(line, '\n')
				_, err = e.out.Write(line)
			}
			if err != nil {
				return fmt.Errorf("print a record: %w", err)
			}
			continue
		}
		place := fmt.Sprintf("%s/%d", strings.TrimPrefix(r.Shard, "shardId-"), r.Seq)
		if r.Sub > 0 {
			place += fmt.Sprintf("/%d", r.Sub)
		}
		fmt.Fprintf(e.out, "%s  %s  %s  %s\n", r.Arrived.Local().Format("2006-01-02 15:04:05.000"), place, printable(r.Key), printable(shown(r)))
	}
	return nil
}

func shown(r api.Record) string {
	switch {
	case len(r.Data) > 0:
		return string(r.Data)
	case r.Text != nil:
		return *r.Text
	case r.Base64 != nil:
		return fmt.Sprintf("%d bytes", len(r.Base64))
	}
	return ""
}

// printable shows control characters as what they are instead of letting a
// payload steer the operator's terminal.
func printable(s string) string {
	if !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) {
			fmt.Fprintf(&b, "\\x%02x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

type putCmd struct {
	door
	Stream string `arg:"" help:"Name of the stream; it must exist."`
	Key    string `arg:"" help:"Partition key."`
	JSON   bool   `help:"Print JSON."`
}

func (c putCmd) Run(ctx context.Context, e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	data, err := io.ReadAll(io.LimitReader(e.in, record.MaxData+1))
	if err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	if len(data) > record.MaxData {
		return fmt.Errorf("standard input is over %d bytes, more than one record holds", record.MaxData)
	}
	res, err := cl.Put(ctx, c.Stream, c.Key, data)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, res)
	}
	_, err = fmt.Fprintf(e.out, "%s %s %d\n", res.Stream, res.Shard, res.Seq)
	return err
}

type alarmsCmd struct {
	door
	JSON bool     `help:"Print JSON."`
	Ack  []string `help:"Acknowledge the alarms with these ids; \"all\" is every one that waits." placeholder:"ID"`
	By   string   `help:"Who acknowledges." env:"USER" default:"operator"`
	Note string   `help:"A note that is kept with the acknowledgement."`
}

func (c alarmsCmd) Run(ctx context.Context, e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	list, err := cl.Alarms(ctx)
	if err != nil {
		return err
	}
	if len(c.Ack) > 0 {
		ids := c.Ack
		if len(ids) == 1 && ids[0] == "all" {
			ids = nil
			for _, a := range list {
				if a.State == "unacked" || a.State == "rtn-unacked" {
					ids = append(ids, a.ID)
				}
			}
		}
		if len(ids) == 0 {
			_, err := fmt.Fprintln(e.out, "nothing waits for an acknowledgement")
			return err
		}
		res, err := cl.Ack(ctx, api.AckRequest{IDs: ids, By: c.By, Note: c.Note})
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(e.out, res)
		}
		for _, id := range res.Acked {
			fmt.Fprintf(e.out, "acknowledged %s\n", id)
		}
		for _, id := range res.Unknown {
			fmt.Fprintf(e.err, "forebay: %s does not wait for an acknowledgement\n", id)
		}
		if len(res.Acked) == 0 {
			return errProblems
		}
		return nil
	}
	if c.JSON {
		return printJSON(e.out, list)
	}
	return table(e.out, "SEV\tSTATE\tSINCE\tKEY\tID\tALARM", func(row func(string, ...any)) {
		for _, a := range list {
			row("%d\t%s\t%s\t%s\t%s\t%s", a.Severity, a.State, a.Raised.Local().Format(time.DateTime), a.Key, a.ID, a.Text)
		}
	})
}
