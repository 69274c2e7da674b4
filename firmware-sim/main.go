// Command forebay-sim is a simulated factory floor, and the witness of what
// became of its data. It speaks protocols only and shares nothing with the
// gateway that it tests.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is the program's; the release build sets it (-ldflags -X).
var version = "0.1.0-dev"

// Exit codes, as --help states them.
const (
	exitOK     = 0
	exitLost   = 1 // verify: something was lost or out of order
	exitFailed = 2 // the command could not do its work, or was used wrongly
)

type commands struct {
	Run     runCmd           `cmd:"" help:"Run the factory: MQTT devices, serial instruments, cameras."`
	Verify  verifyCmd        `cmd:"" help:"Compare a ledger with what arrived at the far end."`
	Link    linkCmd          `cmd:"" help:"Run a TCP link that can be cut, slowed and made half-open."`
	Wan     wanCmd           `cmd:"" help:"Run a narrow and lossy path for the TCP of this system (Linux, root)."`
	Cloud   cloudCmd         `cmd:"" help:"Run a cloud that misbehaves, in front of a Kinesis endpoint."`
	Bench   benchCmd         `cmd:"" help:"Measure a broker or a Kinesis endpoint."`
	Demo    demoCmd          `cmd:"" help:"Run gateway, far gateway, factory and console together."`
	Version kong.VersionFlag `help:"Print the version."`
}

// An env is the world a command runs in.
type env struct {
	out io.Writer
	log *slog.Logger
}

// exitCode is an error that carries the code with which the program ends; it
// was printed already.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main with its arguments and its streams handed in.
func run(args []string, out, errs io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var c commands
	code, exited := 0, false
	parser, err := kong.New(&c,
		kong.Name("forebay-sim"),
		kong.Description("Forebay-sim simulates a factory floor and verifies what became of its data.\n\n"+
			"Exit codes: 0 done, and for verify nothing lost or out of order; 1 verify found a loss or a disorder, or the demo's alarm did not come; 2 failed or used wrongly."),
		kong.Writers(out, errs),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Exit(func(n int) { code, exited = n, true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"version": version},
	)
	if err != nil {
		fmt.Fprintf(errs, "forebay-sim: %v\n", err)
		return exitFailed
	}
	k, err := parser.Parse(args)
	if exited { // --help, --version
		return code
	}
	if err != nil {
		fmt.Fprintf(errs, "forebay-sim: %v; `forebay-sim --help` lists what there is\n", err)
		return exitFailed
	}
	err = k.Run(&env{out: out, log: slog.New(slog.NewTextHandler(errs, nil))})
	var done exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &done):
		return int(done)
	}
	fmt.Fprintf(errs, "forebay-sim: %v\n", err)
	return exitFailed
}
