//go:build cgo || js

// Forebay-console is the operators' window onto a gateway: what is measured,
// what is wrong, what waits for the uplink. It holds nothing that the gateway
// does not, and may be closed at any time.
package main

import (
	"context"
	_ "embed"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"syscall"

	"forebay/gateway/api"
	"forebay/ui/console"
	"forebay/ui/hmi"
	"forebay/ui/view"

	"fyne.io/fyne/v2"
	"fyne.io/fyne/v2/app"
	"github.com/alecthomas/kong"
)

const (
	version       = "0.1.0"
	defaultSocket = "forebay-data/forebay.sock"
	defaultAddr   = "http://127.0.0.1:8480"
)

//go:embed icon.png
var icon []byte

type options struct {
	API     string           `help:"The gateway: host:port, a URL, or the path of its socket. Default: ./forebay-data/forebay.sock if it is there, else http://127.0.0.1:8480." placeholder:"ADDR|SOCKET" env:"FOREBAY_API"`
	Token   string           `help:"Token of the gateway's API." env:"FOREBAY_TOKEN"`
	Theme   string           `help:"dark, light or system." enum:"dark,light,system" default:"dark"`
	Rate    float64          `help:"Frames per second, 0.2 to 10; at most 2 where no graphics card draws." default:"1"`
	Size    string           `help:"Size of the window." default:"1440x900"`
	Full    bool             `help:"Use the whole screen; F11 switches." name:"full-screen"`
	By      string           `help:"Name under which alarms are acknowledged and things are ordered. Default: the user's."`
	Version kong.VersionFlag `help:"Print the version."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Name("forebay-console"), kong.Description("Watch and operate a Forebay gateway."), kong.Vars{"version": version})
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "forebay-console:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var size fyne.Size
	if n, err := fmt.Sscanf(o.Size, "%gx%g", &size.Width, &size.Height); n != 2 || err != nil || size.Width < 760 || size.Height < 420 {
		return fmt.Errorf("--size %q is not WIDTHxHEIGHT of at least 760x420", o.Size)
	}
	client, err := api.NewClient(address(o.API), o.Token)
	if err != nil {
		return fmt.Errorf("reach the gateway: %w", err)
	}
	res := fyne.NewStaticResource("icon.png", icon)
	app.SetMetadata(fyne.AppMetadata{ID: "io.forebay.console", Name: "Forebay Console", Version: version, Build: 1, Icon: res, Migrations: map[string]bool{"fyneDo": true}})
	a := app.NewWithID("io.forebay.console")
	a.SetIcon(res)
	th := hmi.NewTheme(map[string]hmi.Choice{"dark": hmi.DarkOnly, "light": hmi.LightOnly}[o.Theme])
	a.Settings().SetTheme(th)
	c, err := console.New(th)
	if err != nil {
		return fmt.Errorf("build the console: %w", err)
	}
	w := a.NewWindow("Forebay Console")
	w.SetPadded(false)
	w.SetContent(c.Content())
	w.Resize(size)
	w.SetFullScreen(o.Full)
	w.SetMaster()
	c.OnFull = func() { w.SetFullScreen(!w.FullScreen()) }
	c.Bind(w.Canvas())

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var frame latest
	f := newFeed(client, operator(o.By), rate(o.Rate), func(s view.Snapshot) {
		if !frame.put(s) {
			return // a call is waiting already and will take the newest
		}
		fyne.Do(func() {
			if s, ok := frame.take(); ok {
				c.Apply(s)
			}
		})
	}, log)
	c.OnAck, c.OnVerb = f.Ack, f.Act
	c.OnOpen, c.OnCheck, c.OnReplay = f.Open, f.Check, f.Replay
	c.OnRefused, c.OnRedrive = f.Refused, f.Redrive
	done := make(chan struct{})
	a.Lifecycle().SetOnStarted(func() {
		go func() {
			defer close(done)
			f.Run(ctx)
		}()
		context.AfterFunc(ctx, func() { fyne.Do(a.Quit) })
	})
	w.ShowAndRun()
	stop()
	<-done
	client.Close()
	return nil
}

// address is where the gateway is when nobody said it.
func address(given string) string {
	if given != "" {
		return given
	}
	if _, err := os.Stat(defaultSocket); err == nil {
		return "unix:" + defaultSocket
	}
	return defaultAddr
}

// operator is the name under which alarms are acknowledged.
func operator(given string) string {
	if given != "" {
		return given
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return "console"
}

// rate keeps the frames within what the machine can draw: without a graphics
// card every frame fills the whole window on the processor.
func rate(hz float64) float64 {
	most := 10.0
	if runtime.GOOS == "linux" {
		if cards, err := filepath.Glob("/dev/dri/renderD*"); err == nil && len(cards) == 0 {
			most = 2
		}
	}
	return min(most, max(0.2, hz))
}
