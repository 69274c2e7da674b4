// Command forebay is the gateway: it takes records from a factory floor, keeps
// every one on disk before its sender hears "yes", raises alarms, and hands
// the records on, in order, when there is a link. The same program is the
// command line that looks at a running gateway.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"forebay/gateway/api"
	"forebay/gateway/internal/config"
)

// version is the program's; the release build sets it (-ldflags -X).
var version = "0.1.0-dev"

// Exit codes, as --help and the README state them.
const (
	exitOK          = 0
	exitFailed      = 1 // the command could not do its work
	exitUsage       = 2 // wrong flags, or a config file that is not right
	exitUnreachable = 3 // no gateway answers at the address
	exitProblems    = 4 // a check found problems
)

type commands struct {
	Run     runCmd       `cmd:"" help:"Run the gateway until SIGTERM or Ctrl-C."`
	Status  statusCmd    `cmd:"" help:"Show a running gateway at a glance."`
	Streams streamsCmd   `cmd:"" help:"List the streams of a running gateway."`
	Stream  streamCmd    `cmd:"" help:"Change a stream of a running gateway."`
	Tail    tailCmd      `cmd:"" help:"Print the records of a stream."`
	Query   queryCmd     `cmd:"" help:"Ask the streams in SQL."`
	Put     putCmd       `cmd:"" help:"Append standard input to a stream as one record."`
	Alarms  alarmsCmd    `cmd:"" help:"List alarms, or acknowledge them."`
	Uplinks uplinksCmd   `cmd:"" help:"List the uplinks: what waits, what goes, what it costs."`
	Uplink  uplinkCmd    `cmd:"" help:"Act on an uplink of a running gateway: pause, resume, try at once, send a time range or refused records again."`
	Ledger  ledgerCmd    `cmd:"" help:"Show for every record where it went."`
	Cursor  cursorCmd    `cmd:"" help:"Look after the cursors of a running gateway."`
	Check   checkCmd     `cmd:"" help:"Check a config file; nothing is started or written."`
	Config  configCmd    `cmd:"" help:"Print the config with all defaults filled in."`
	Spool   spoolCmd     `cmd:"" help:"Look after a spool: check, back up, restore."`
	Verify  verifyCmd    `cmd:"" help:"Read an uplink's target back and compare it with the ledger and the log: prove that there is no gap, or name it."`
	Prove   proveCmd     `cmd:"" help:"Test this box and its link for acceptance: disk, kill, link cut, drain, far-end verification; with a report to sign."`
	Power   powertestCmd `cmd:"" name:"powertest" help:"Measure what a disk does for the log: syncs, rate, wear; and say what follows. It writes to the disk and removes it again."`
	Bench   benchCmd     `cmd:"" help:"Measure this machine."`
	Version versionCmd   `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

// An env is the world a command runs in.
type env struct {
	in       io.Reader
	out, err io.Writer
}

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is main with its arguments and its streams handed in.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends a stop that hangs
	var c commands
	code, exited := 0, false
	parser, err := kong.New(&c,
		kong.Name("forebay"),
		kong.Description("Forebay keeps a factory floor's data on disk and hands it on, in order, when there is a link.\n\n"+
			"Exit codes: 0 done; 1 failed; 2 wrong usage or config; 3 no gateway answers; 4 a check found problems."),
		kong.Writers(out, errs),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Exit(func(n int) { code, exited = n, true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"version": "forebay " + version},
	)
	if err != nil {
		fmt.Fprintf(errs, "forebay: %v\n", err)
		return exitFailed
	}
	k, err := parser.Parse(args)
	if exited { // --help
		return code
	}
	if err != nil {
		fmt.Fprintf(errs, "forebay: %v; `%s --help` lists what there is\n", err, chosen(err))
		return exitUsage
	}
	err = k.Run(&env{in: in, out: out, err: errs})
	if err == nil {
		return exitOK
	}
	code = exitCode(err)
	if end, ok := errors.AsType[*endError](err); ok {
		if code = end.code; end.err != nil {
			fmt.Fprintf(errs, "forebay: %v\n", end.err)
		}
		return code
	}
	switch code {
	case exitProblems:
	case exitUnreachable:
		fmt.Fprintf(errs, "forebay: %v (%s)\n", err, whereIsIt)
	default:
		fmt.Fprintf(errs, "forebay: %v\n", err)
	}
	return code
}

// chosen is the command that a wrong command line had got to.
func chosen(err error) string {
	if p, ok := errors.AsType[*kong.ParseError](err); ok && p.Context != nil {
		if n := p.Context.Selected(); n != nil {
			return n.FullPath()
		}
	}
	return "forebay"
}

var (
	// errProblems ends a check that printed what it found.
	errProblems = errors.New("problems were found")
	// errUsage marks a flag whose value makes no sense.
	errUsage = errors.New("wrong usage")
)

// whereIsIt is said where no gateway answers.
const whereIsIt = "does a gateway run here? --api or FOREBAY_API says where it answers: HOST:PORT, or DATA/forebay.sock"

func exitCode(err error) int {
	var bad *config.Error
	var dial *net.OpError
	var told *api.Error
	switch {
	case errors.Is(err, errProblems):
		return exitProblems
	case errors.As(err, &bad), errors.Is(err, errUsage), errors.As(err, &told) && told.Status == http.StatusBadRequest:
		return exitUsage
	case errors.As(err, &dial) && dial.Op == "dial":
		return exitUnreachable
	}
	return exitFailed
}

type versionCmd struct{}

func (versionCmd) Run(e *env) error {
	_, err := fmt.Fprintln(e.out, "forebay", version)
	return err
}

type checkCmd struct {
	File string `arg:"" help:"Config file to check." type:"path"`
}

func (c checkCmd) Run(e *env) error {
	_, err := loadConfig(c.File)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.out, "%s: ok\n", c.File)
	return err
}

// loadConfig loads a config file; one that cannot be read is wrong usage.
func loadConfig(path string) (config.Config, error) {
	cfg, err := config.Load(path)
	if _, told := errors.AsType[*config.Error](err); err != nil && !told {
		err = fmt.Errorf("%w: %w", errUsage, err)
	}
	return cfg, err
}

type configCmd struct {
	Print configPrintCmd `cmd:"" help:"Print the config with all defaults filled in; secrets are not printed."`
}

type configPrintCmd struct {
	Config string `help:"Config file; without one the embedded defaults are printed." type:"path" placeholder:"FILE"`
}

func (c configPrintCmd) Run(e *env) error {
	cfg := config.Default()
	if c.Config != "" {
		var err error
		if cfg, err = loadConfig(c.Config); err != nil {
			return err
		}
	}
	b, err := cfg.Print()
	if err != nil {
		return err
	}
	_, err = e.out.Write(b)
	return err
}
