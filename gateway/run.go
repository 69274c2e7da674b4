package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"forebay/devices"
	"forebay/devices/broker"
	"forebay/devices/mqtt"
	"forebay/devices/serial"
	"forebay/devices/video"
	"forebay/gateway/conf"
	"forebay/gateway/internal/config"
	"forebay/gateway/internal/ingest"
	"forebay/gateway/internal/inlet"
	"forebay/gateway/internal/keep"
	"forebay/gateway/internal/kinesisapi"
	"forebay/gateway/internal/localapi"
	"forebay/gateway/internal/points"
	"forebay/gateway/internal/rules"
	"forebay/spool"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
)

type runCmd struct {
	Config  string      `help:"Config file (TOML); without one the gateway runs on embedded defaults." type:"path" placeholder:"FILE"`
	Data    string      `help:"Directory that holds everything the gateway keeps; default forebay-data." placeholder:"DIR"`
	MQTT    conf.Listen `help:"Address of the MQTT broker, or off; default 127.0.0.1:1883." placeholder:"ADDR"`
	Kinesis conf.Listen `help:"Address of the Kinesis endpoint, or off; default 127.0.0.1:4567." placeholder:"ADDR"`
	API     conf.Listen `help:"Address of the local API, or off; default 127.0.0.1:8480." placeholder:"ADDR"`
	Log     string      `help:"How much is logged: debug, info, warn, error." enum:"debug,info,warn,error" default:"info"`
}

func (c runCmd) Run(ctx context.Context, e *env) error {
	cfg := config.Default()
	if c.Config != "" {
		var err error
		if cfg, err = loadConfig(c.Config); err != nil {
			return err
		}
	}
	if c.Data != "" {
		cfg.Gateway.Data = c.Data
	}
	for _, f := range []struct{ flag, to *conf.Listen }{{&c.MQTT, &cfg.Broker.Listen}, {&c.Kinesis, &cfg.Kinesis.Listen}, {&c.API, &cfg.API.Listen}} {
		if *f.flag != "" {
			*f.to = *f.flag
		}
	}
	for _, ck := range []struct {
		flag  string
		check func() error
	}{{"--mqtt", cfg.Broker.Check}, {"--kinesis", cfg.Kinesis.Check}, {"--api", cfg.API.Check}} {
		if err := ck.check(); err != nil {
			return fmt.Errorf("%w: %s: %w", errUsage, ck.flag, err)
		}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log)); err != nil {
		return fmt.Errorf("%w: --log: %w", errUsage, err)
	}
	log := slog.New(slog.NewTextHandler(e.err, &slog.HandlerOptions{Level: level}))
	boundHeap()
	return serve(ctx, cfg, log)
}

// spoolDir is where a data directory keeps its spool; a directory that is a
// spool itself is taken as it is.
func spoolDir(dir string) string {
	if fi, err := os.Stat(filepath.Join(dir, "spool")); err == nil && fi.IsDir() {
		return filepath.Join(dir, "spool")
	}
	return dir
}

// A source is a way in, as the gateway runs and shows it.
type source interface {
	ID() string
	Kind() string
	Health() (state, reason string)
}

// A gateway is the parts of one process. They are started upwards, from the
// log to the doors, and stopped the way data flows: intake, rules, delivery,
// log.
type gateway struct {
	cfg     config.Config
	log     *slog.Logger
	started time.Time
	clock   clock

	sp      *spool.Spool
	in      *inlet.Inlet
	loop    *rules.Loop
	keeper  *points.Keeper
	cams    *points.Cameras
	pumps   []*uplink.Pump // as the config lists the uplinks
	pauses  *pauseBook
	errands *errands
	sources []source
	intake  []keep.Part
	server  *localapi.Server
	plant   *plant
	rules   int
	closers []closer // what is closed when all parts have ended, last first
}

// A closer is something that outlives the parts that use it.
type closer struct {
	what  string
	close func() error
}

// serve runs a gateway until ctx ends.
func serve(ctx context.Context, cfg config.Config, log *slog.Logger) (err error) {
	g := &gateway{cfg: cfg, log: log, clock: newClock(), started: time.Now()}
	if err := os.MkdirAll(cfg.Gateway.Data, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	defer func() {
		for _, c := range slices.Backward(g.closers) {
			if e := c.close(); e != nil {
				err = errors.Join(err, fmt.Errorf("close the %s: %w", c.what, e))
			}
		}
	}()
	if err := g.openLog(ctx); err != nil {
		return err
	}
	if err := g.build(ctx); err != nil {
		return err
	}

	// Each group outlives the one it is fed by. None hangs on ctx: Stop ends
	// them one after the other.
	base := context.WithoutCancel(ctx)
	delivery, deliveryCtx := keep.New(base, log)
	defer delivery.Stop()
	for _, p := range g.pumps {
		delivery.Go(deliveryCtx, keep.Part{Name: "uplink", Run: p.Run})
	}
	delivery.Go(deliveryCtx, keep.Part{Name: "errands", Run: g.errands.run})
	readers, readersCtx := keep.New(base, log)
	defer readers.Stop()
	readers.Go(readersCtx, keep.Part{Name: "rules", Run: g.loop.Run})
	readers.Go(readersCtx, keep.Part{Name: "points", Run: g.keeper.Run})
	readers.Go(readersCtx, keep.Part{Name: "cameras", Run: g.cams.Run})
	readers.Go(readersCtx, keep.Part{Name: "plant", Run: g.plant.run})
	writers, writersCtx := keep.New(base, log)
	defer writers.Stop()
	writers.Go(writersCtx, keep.Part{Name: "gaps", Run: g.in.Run})
	intake, intakeCtx := keep.New(base, log)
	defer intake.Stop()
	for _, p := range g.intake {
		intake.Go(intakeCtx, p)
	}
	log.Info("serving", "gateway", cfg.Gateway.Name, "data", cfg.Gateway.Data, "epoch", g.sp.Identity().Epoch.String(), "started_ms", time.Since(g.started).Milliseconds())
	select {
	case <-ctx.Done():
		log.Info("stopping: intake, rules, delivery, log")
		return nil
	case <-intakeCtx.Done():
		return keep.Failure(intakeCtx)
	}
}

// openLog opens the spool and its streams.
func (g *gateway) openLog(ctx context.Context) error {
	sc := g.cfg.Spool
	sc.Gateway, sc.Now = string(g.cfg.Gateway.Name), g.clock.now
	sp, err := spool.Open(ctx, g.cfg.Path("spool"), sc, g.log.With("part", "spool"))
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w (the user that runs the gateway must own the data directory: chown -R USER %s)", err, g.cfg.Gateway.Data)
	}
	if err != nil {
		return err
	}
	g.sp = sp
	g.closers = append(g.closers, closer{"spool", sp.Close})
	for _, s := range g.cfg.Streams {
		if _, err := sp.Ensure(ctx, s); err != nil {
			return fmt.Errorf("open the stream %s: %w", s.Name, err)
		}
	}
	return nil
}

// build makes every part; listeners are open when it returns.
func (g *gateway) build(ctx context.Context) error {
	decoders := map[string]inlet.Decoder{}
	for name, d := range devices.Decoders() {
		decoders[name] = d
	}
	var err error
	g.in, err = inlet.New(g.sp, inlet.Options{
		Routes: g.cfg.Routes, Decoders: decoders, Now: g.clock.now, Synced: g.clock.synced, Mono: g.clock.mono, Log: g.log.With("part", "inlet"),
	})
	if err != nil {
		return err
	}
	engine, err := rules.Compile(g.cfg.Rules)
	if err != nil {
		return fmt.Errorf("compile the rules: %w", err)
	}
	g.rules = engine.Rules()
	g.loop, err = rules.NewLoop(g.cfg.Path("rules.db"), engine, forRules{g.sp}, rules.Options{Now: g.clock.now, Logger: g.log.With("part", "rules"), KeepSystem: g.knows})
	if err != nil {
		return fmt.Errorf("open the rules: %w", err)
	}
	g.closers = append(g.closers, closer{"rules", g.loop.Close})
	if err := g.buildViews(); err != nil {
		return err
	}
	if err := g.buildUplinks(ctx); err != nil {
		return err
	}
	return g.buildIntake(ctx)
}

// knows reports whether the thing that a condition is about is still in the
// config; the conditions of others are closed.
func (g *gateway) knows(condition string) bool {
	kind, rest, _ := strings.Cut(condition, "/")
	id, _, _ := strings.Cut(rest, "/")
	switch kind {
	case "uplink":
		return slices.ContainsFunc(g.cfg.Uplinks, func(c uplink.Config) bool { return string(c.ID) == id })
	case "serial":
		return slices.ContainsFunc(g.cfg.Serial, func(c serial.Config) bool { return string(c.ID) == id })
	case "mqtt-client":
		return slices.ContainsFunc(g.cfg.MQTT, func(c mqtt.Config) bool { return string(c.ID) == id })
	case "camera":
		return slices.ContainsFunc(g.cfg.Cameras, func(c video.Camera) bool { return string(c.ID) == id })
	}
	return true
}

// declares reports whether a stream is one of the config file or a built-in
// one: it is set up at every start.
func (g *gateway) declares(stream string) bool {
	return slices.ContainsFunc(g.cfg.Streams, func(c spool.StreamConfig) bool { return string(c.Name) == stream })
}

func (g *gateway) buildUplinks(ctx context.Context) error {
	var err error
	if g.pauses, err = openPauses(g.cfg.Path(pausedFile)); err != nil {
		return err
	}
	shared, err := uplink.NewCap(g.cfg.Link, g.clock.now)
	if err != nil {
		return fmt.Errorf("bandwidth: %w", err)
	}
	for _, c := range g.cfg.Uplinks {
		log := g.log.With("part", "uplink")
		view := newForUplink(g.sp, c, log)
		view.ahead = g.cfg.Path(aheadFile(string(c.ID)))
		if err := view.shapeWith(g.cfg.Path("shape-" + string(c.ID) + ".json")); err != nil {
			return fmt.Errorf("uplink %s: %w", c.ID, err)
		}
		if err := view.noteWay(g.cfg.Path("way-" + string(c.ID) + ".json")); err != nil {
			return fmt.Errorf("uplink %s: %w", c.ID, err)
		}
		sink, err := uplink.New(c, lane.Home{ID: g.sp.Identity(), Chunk: view.openChunk, Log: log})
		if err != nil {
			return fmt.Errorf("uplink %s: %w", c.ID, err)
		}
		// Before the doors open: from = "newest" means this moment.
		if _, err := view.Lanes(ctx); err != nil {
			log.Warn("uplink's cursors are opened later", "uplink", string(c.ID), "error", err)
		}
		g.closers = append(g.closers, closer{"cursors of uplink " + string(c.ID), view.close}, closer{"uplink " + string(c.ID), sink.Close})
		_, paused := g.pauses.of(string(c.ID))
		g.pumps = append(g.pumps, uplink.NewPump(c, sink, view, uplink.Options{Logger: log, Paused: paused, Cap: shared}))
	}
	g.errands, err = openErrands(g, g.cfg.Path(errandsFile))
	return err
}

// buildIntake opens the doors.
func (g *gateway) buildIntake(ctx context.Context) error {
	if !g.cfg.Broker.Listen.Off() {
		port, err := g.in.Port("mqtt", "mqtt")
		if err != nil {
			return err
		}
		b, err := broker.New(g.cfg.Broker, g.log.With("part", "mqtt"), broker.OnShed(func(n uint64) { port.Shed(n, "QoS 0 could not be stored in time") }))
		if err == nil {
			err = canListen(ctx, g.cfg.Broker.Listen, broker.DefaultListen)
		}
		if err != nil {
			return fmt.Errorf("open the MQTT broker: %w", err)
		}
		g.add(b, keep.Part{Name: "mqtt", Run: func(ctx context.Context) error { return b.Run(ctx, port) }})
	}
	for _, c := range g.cfg.MQTT {
		port, err := g.in.Port(string(c.ID), orStream(c.Stream, "mqtt"))
		if err != nil {
			return err
		}
		s, err := mqtt.New(c, g.log.With("part", "mqtt", "source", string(c.ID)), mqtt.OnShed(func(n uint64) { port.Shed(n, "the gateway stopped before it could be stored") }))
		if err != nil {
			return fmt.Errorf("source %s: %w", c.ID, err)
		}
		g.add(s, keep.Part{Name: string(c.ID), Run: func(ctx context.Context) error { return s.Run(ctx, port) }})
	}
	for _, c := range g.cfg.Serial {
		port, err := g.in.Port(string(c.ID), orStream(c.Stream, "serial"))
		if err != nil {
			return err
		}
		s, err := serial.New(c, g.log.With("part", "serial"), serial.Options{Shed: port.Shed})
		if err != nil {
			return fmt.Errorf("source %s: %w", c.ID, err)
		}
		g.add(s, keep.Part{Name: string(c.ID), Run: func(ctx context.Context) error { return s.Run(ctx, port) }})
	}
	if err := g.buildKinesis(); err != nil {
		return err
	}
	return g.buildAPI()
}

// buildKinesis opens the Kinesis endpoint with the plain HTTP door on its
// address.
func (g *gateway) buildKinesis() error {
	if g.cfg.Kinesis.Listen.Off() {
		return nil
	}
	port, err := g.in.Port("kinesis", "mqtt") // producers name their stream
	if err != nil {
		return err
	}
	plain, err := g.in.Port("ingest", "mqtt")
	if err != nil {
		return err
	}
	log := g.log.With("part", "kinesis")
	var k *kinesisapi.Server
	door := ingest.New(plain, ingest.Options{
		MaxRecord: func(stream string) (int, error) { return k.RecordLimit(stream) },
		ShardName: func(stream string, id record.ShardID) string { return k.ShardName(stream, id) },
	}, log)
	k, err = kinesisapi.New(g.cfg.Kinesis, g.sp, port, g.clock.now, log,
		kinesisapi.ClockSynced(g.clock.synced), kinesisapi.Declared(g.declares), kinesisapi.Plain(door))
	if err != nil {
		return fmt.Errorf("open the Kinesis endpoint: %w", err)
	}
	g.add(k, keep.Part{Name: "kinesis", Run: k.Run})
	return nil
}

// buildAPI opens the local API with the camera door in it.
func (g *gateway) buildAPI() error {
	videoPort, err := g.in.Port("video", orStream(g.cfg.Video.Stream, "video"))
	if err != nil {
		return err
	}
	cfg := g.cfg.Video
	cfg.Cameras = g.cfg.Cameras
	v, err := video.New(cfg, g.log.With("part", "video"), video.Options{Now: g.clock.now})
	if err != nil {
		return fmt.Errorf("open the camera door: %w", err)
	}
	g.add(v, keep.Part{Name: "video", Run: func(ctx context.Context) error { return v.Run(ctx, videoPort) }})
	port, err := g.in.Port("api", "mqtt") // clients name their stream
	if err != nil {
		return err
	}
	api := g.cfg.API
	if api.Socket == "" {
		api.Socket = g.cfg.Path("forebay.sock")
	}
	g.server, err = localapi.New(api, g.sp, g.plant, port, v, g.log.With("part", "api"))
	if err != nil {
		return fmt.Errorf("open the local API: %w", err)
	}
	g.intake = append(g.intake, keep.Part{Name: "api", Run: g.server.Run, Vital: true})
	return nil
}

// buildViews makes what the tiles and the camera pictures are read from.
func (g *gateway) buildViews() error {
	g.plant = newPlant(g)
	var err error
	g.keeper, err = points.NewKeeper(g.cfg.Points, forPoints{g.sp}, points.Options{Now: g.clock.now, Logger: g.log.With("part", "points")})
	if err != nil {
		return fmt.Errorf("read the points: %w", err)
	}
	cams := []points.CameraConfig{}
	for _, c := range g.cfg.Cameras {
		cams = append(cams, points.CameraConfig{ID: string(c.ID), Label: c.Label, StaleAfter: c.StaleAfter.Or(video.DefaultStaleAfter)})
	}
	g.cams = points.NewCameras(cams, forPoints{g.sp}, points.Options{Now: g.clock.now, Logger: g.log.With("part", "cameras")})
	return nil
}

// canListen says at start what a part would otherwise only find out when it
// runs: that its address is taken.
func canListen(ctx context.Context, addr, def conf.Listen) error {
	if addr == "" {
		addr = def
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", string(addr))
	if err != nil {
		return fmt.Errorf("%w; another program has the address, or another gateway runs: choose one with a flag or in the config file", err)
	}
	return ln.Close()
}

func (g *gateway) add(s source, p keep.Part) {
	g.sources = append(g.sources, s)
	g.intake = append(g.intake, p)
}

func orStream(s conf.Stream, def string) string {
	if s == "" {
		return def
	}
	return string(s)
}
