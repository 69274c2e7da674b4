package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"forebay/gateway/api"
)

type uplinksCmd struct {
	door
	JSON bool `help:"Print JSON."`
}

func (c uplinksCmd) Run(ctx context.Context, e *env) error {
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
		return printJSON(e.out, st.Uplinks)
	}
	err = table(e.out, "UPLINK\tSTATE\tWAITING\tOLDEST\tOUT/S\tOUT\tDONE IN\tLIMIT\tWIRE/PAYLOAD\tUNITS\tMONTH\tPLAIN", func(row func(string, ...any)) {
		for _, u := range st.Uplinks {
			row("%s\t%s\t%d\t%s\t%.0f\t%s/s\t%s\t%s\t%s\t%s\t%s\t%s", u.ID, u.State, u.Waiting, oldest(u, st.Now), u.Out.Records, size(int64(u.Out.Bytes)),
				doneIn(u), limited(u), ratio(u.Used.WirePerPayload), unitCount(u.Used), money(u.Cost.Month, u.Cost), money(u.Cost.MonthPlain, u.Cost))
		}
	})
	if err != nil {
		return err
	}
	for _, u := range st.Uplinks {
		switch {
		case u.PausedBy != "":
			fmt.Fprintf(e.out, "\n%s: paused by %s; \"forebay uplink resume %s\" goes on\n", u.ID, printable(u.PausedBy), u.ID)
		case u.Error != "":
			fmt.Fprintf(e.out, "\n%s: %s\n  %s\n", u.ID, printable(u.Error), u.Advice)
		}
		for _, x := range u.Errands {
			fmt.Fprintf(e.out, "\n%s\n", errandLine(x))
		}
	}
	return nil
}

func oldest(u api.Uplink, now time.Time) string {
	if u.Oldest == nil {
		return "-"
	}
	return span(now.Sub(*u.Oldest))
}

func doneIn(u api.Uplink) string {
	switch {
	case u.Waiting == 0:
		return "-"
	case u.ETA == nil:
		return "unknown"
	}
	return about(*u.ETA)
}

func limited(u api.Uplink) string {
	if u.LimitKbit == 0 {
		return "-"
	}
	return fmt.Sprintf("%d kbit/s", u.LimitKbit)
}

func ratio(r float64) string {
	if r == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

// unitCount is the units with what they would be without aggregation.
func unitCount(u api.UplinkUsage) string {
	if u.Units == 0 {
		return "-"
	}
	return fmt.Sprintf("%d (plain %d)", u.Units, u.PlainUnits)
}

// money is what a month costs; "-" where nothing has a price.
func money(b *api.UplinkBill, of api.UplinkCost) string {
	switch {
	case b != nil:
		return fmt.Sprintf("%.2f %s", b.Sum, of.Currency)
	case of.Priced:
		return "not yet known"
	}
	return "-"
}

type uplinkCmd struct {
	Pause   uplinkPauseCmd   `cmd:"" help:"Stop handing on, until resume, also over a restart; records are kept."`
	Resume  uplinkResumeCmd  `cmd:"" help:"End a pause."`
	Retry   uplinkRetryCmd   `cmd:"" help:"Try at once instead of at the next turn."`
	Replay  uplinkReplayCmd  `cmd:"" help:"Send a time range of a stream again, to the same target under another name."`
	Refused uplinkRefusedCmd `cmd:"" help:"List the records that the target can never take."`
	Redrive uplinkRedriveCmd `cmd:"" help:"Send refused records again."`
	Cancel  uplinkCancelCmd  `cmd:"" help:"End a replay or a redrive; what is sent stays sent."`
}

// uplinkVerb is what the commands that change an uplink have in common.
type uplinkVerb struct {
	door
	ID   string `arg:"" help:"Id of the uplink."`
	By   string `help:"Who asks; it stands in the stream audit." env:"USER" default:"operator"`
	JSON bool   `help:"Print JSON."`
}

type (
	uplinkPauseCmd  struct{ uplinkVerb }
	uplinkResumeCmd struct{ uplinkVerb }
	uplinkRetryCmd  struct{ uplinkVerb }
)

func (c uplinkPauseCmd) Run(ctx context.Context, e *env) error {
	return c.do(ctx, e, "paused", (*api.Client).PauseUplink)
}

func (c uplinkResumeCmd) Run(ctx context.Context, e *env) error {
	return c.do(ctx, e, "resumed", (*api.Client).ResumeUplink)
}

func (c uplinkRetryCmd) Run(ctx context.Context, e *env) error {
	return c.do(ctx, e, "tries now", (*api.Client).RetryUplink)
}

func (c uplinkVerb) do(ctx context.Context, e *env, done string, verb func(*api.Client, context.Context, string, string) (api.Uplink, error)) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	u, err := verb(cl, ctx, c.ID, c.By)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, u)
	}
	_, err = fmt.Fprintf(e.out, "uplink %s: %s; %s\n", u.ID, done, count(u.Waiting, "record waits", "records wait"))
	return err
}

// uplinkErrandCmd is what the commands that send something again have in common.
type uplinkErrandCmd struct {
	door
	By   string `help:"Who asks; it stands in the stream audit." env:"USER" default:"operator"`
	JSON bool   `help:"Print JSON."`
}

type (
	uplinkReplayCmd struct {
		uplinkErrandCmd
		ID     string    `arg:"" help:"Id of the uplink."`
		Stream string    `required:"" help:"The stream."`
		From   time.Time `help:"Records that arrived from then on; default: the oldest there are." placeholder:"2026-11-05T14:00:00Z"`
		To     time.Time `help:"Records that arrived before; default: now." placeholder:"2026-11-05T15:00:00Z"`
		As     string    `help:"What the records' stream is called at the far side this time, where the target's stream, topic, subject, url or index holds {stream}; elsewhere the other stream or topic that they go to, and then required. In it {stream} stands for what the stream is called there otherwise, {n} for the replay's number. Default replay-{n}-{stream}." placeholder:"NAME"`
	}
	uplinkRefusedCmd struct {
		door
		ID    string `arg:"" help:"Id of the uplink."`
		Limit int    `help:"How many, the newest first; at most 10000." default:"100"`
		JSON  bool   `help:"Print JSON."`
	}
	uplinkRedriveCmd struct {
		uplinkErrandCmd
		ID     string   `arg:"" help:"Id of the uplink."`
		Record []string `name:"id" help:"Id of a refused record, as refused lists it; may be given more than once." placeholder:"RECORD-ID"`
		All    bool     `help:"All of them, the oldest 10000."`
	}
	uplinkCancelCmd struct {
		uplinkErrandCmd
		ID string `arg:"" help:"Id of the replay or redrive, as uplinks shows it: UPLINK~replay-1."`
	}
)

func (c uplinkErrandCmd) do(e *env, ask func(cl *api.Client) (api.Errand, error)) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	x, err := ask(cl)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, x)
	}
	_, err = fmt.Fprintln(e.out, errandLine(x))
	return err
}

func (c uplinkReplayCmd) Run(ctx context.Context, e *env) error {
	return c.do(e, func(cl *api.Client) (api.Errand, error) {
		return cl.Replay(ctx, c.ID, api.ReplayRequest{By: c.By, Stream: c.Stream, From: c.From, To: c.To, As: c.As})
	})
}

func (c uplinkRedriveCmd) Run(ctx context.Context, e *env) error {
	if c.All == (len(c.Record) > 0) {
		return fmt.Errorf("%w: say either --id or --all", errUsage)
	}
	return c.do(e, func(cl *api.Client) (api.Errand, error) {
		return cl.Redrive(ctx, c.ID, api.RedriveRequest{By: c.By, IDs: c.Record, All: c.All})
	})
}

func (c uplinkCancelCmd) Run(ctx context.Context, e *env) error {
	return c.do(e, func(cl *api.Client) (api.Errand, error) { return cl.CancelErrand(ctx, c.ID, c.By) })
}

func (c uplinkRefusedCmd) Run(ctx context.Context, e *env) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	list, err := cl.Refused(ctx, c.ID, c.Limit)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(e.out, list)
	}
	err = table(e.out, "ID\tSTREAM\tARRIVED\tKEY\tBYTES\tREASON", func(row func(string, ...any)) {
		for _, l := range list.Letters {
			row("%s\t%s\t%s\t%s\t%d\t%s", l.ID, l.Stream, l.Arrived.Local().Format(time.DateTime), printable(l.Key), l.Bytes, printable(l.Reason))
		}
	})
	if err != nil {
		return err
	}
	return refusedLine(e.out, list)
}

func refusedLine(w io.Writer, list api.Refused) error {
	_, err := fmt.Fprintf(w, "%d refused, %d shown", list.Total, len(list.Letters))
	if err == nil && list.Redrive > 0 {
		_, err = fmt.Fprintf(w, "; %s sent again", count(list.Redrive, "more was", "more were"))
	}
	if err == nil {
		_, err = fmt.Fprintln(w)
	}
	return err
}

// errandLine is a replay or a redrive in a line of text.
func errandLine(x api.Errand) string {
	s := fmt.Sprintf("%s: %s, %d of %s", x.ID, x.State, x.Done, count(x.Total, "record", "records"))
	if x.Kind == kindReplay {
		s += fmt.Sprintf(" of %s as %s", x.Stream, x.As)
	}
	if x.Refuse > 0 {
		s += fmt.Sprintf(", %d refused", x.Refuse)
	}
	if x.Missed > 0 {
		s += fmt.Sprintf(", %d not kept any more", x.Missed)
	}
	if x.Left > 0 {
		s += "; " + count(x.Left, "more waits", "more wait") + " for another redrive"
	}
	if x.ETA != nil && x.Done < x.Total {
		s += ", done in about " + about(*x.ETA)
	}
	s += ", asked for by " + printable(x.By)
	if x.Error != "" {
		s += " (" + printable(x.Error) + ")"
	}
	return s
}
