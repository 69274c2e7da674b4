// Package uplink hands the log on: a Pump reads each shard of the chosen
// streams through a durable cursor, gives the records to a Sink in order, and
// moves a cursor only when the far side has acknowledged. It also keeps the
// list of the kinds of sinks there are.
package uplink

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/firehose"
	"forebay/uplink/http"
	"forebay/uplink/kafka"
	"forebay/uplink/kinesis"
	"forebay/uplink/kvs"
	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
	"forebay/uplink/nats"
	"forebay/uplink/opensearch"
	"forebay/uplink/s3"
	"forebay/uplink/shape"
	"forebay/uplink/sparkplug"
)

// A Sink is one far side.
type Sink interface {
	// Send sends batches of different lanes and returns when it knows what
	// became of each: an outcome per batch, in their order. Within a lane it
	// keeps the order, and of a batch exactly the first Outcome.Done records
	// are acknowledged by the far side; what was tried behind them is not, as
	// far as it knows. Send repeats nothing by itself. It is called
	// concurrently, for disjoint lanes. The records are the caller's again
	// when Send returns.
	Send(ctx context.Context, lanes []lane.Batch) []lane.Outcome
	// Close frees what the sink holds. It is called after the last Send.
	Close() error
}

// A Prober is a Sink that can say cheaply whether the far side is there. Its
// error may tell its class by a method LaneClass() lane.Class; without one it
// counts as lane.Offline.
type Prober interface {
	Probe(ctx context.Context) error
}

// A Cursor is a durable place in one shard; *spool.Cursor is one. The pump
// uses it from one goroutine.
type Cursor interface {
	// Next waits for records, at most max of them. A *record.TrimmedError or
	// a *record.CorruptError tells of a loss; the next call goes on behind it.
	// record.ErrClosed, a *record.ShardEndError and record.ErrNoStream are the
	// end.
	Next(ctx context.Context, max int) (record.Batch, error)
	// Poll is Next without waiting.
	Poll(ctx context.Context, max int) (record.Batch, error)
	// Commit moves the place behind the record with sequence number upTo.
	Commit(upTo uint64, t record.Tally) error
	// Backlog is what lies between the committed place and the newest record.
	Backlog() record.Backlog
}

// A LaneCursor is a lane and the uplink's place in it.
type LaneCursor struct {
	lane.Lane
	// Class is the stream's. Alarms go first, then evidence, then the rest.
	Class record.Class
	// Place is what the log knows of the lane; may be nil.
	Place lane.Place
	Cursor
}

// A Log is where a pump's lanes come from.
type Log interface {
	// Lanes lists the shards of the streams for which Config.Match holds. It
	// is asked again every few seconds, and when a lane was drained; a lane
	// that was listed before comes with the same Cursor, and one that is
	// listed no more is stopped. The cursors belong to the Log, which may close
	// those of lanes that it lists no more. The lane of a shard that came of a
	// split or a merge is listed only when those of all its parents are
	// drained: what was sent of them is acknowledged, so that the records of a
	// key go out in order.
	Lanes(ctx context.Context) ([]LaneCursor, error)
	// Refuse keeps a record that the far side can never take, in the stream
	// "refused", with the reason; nil means that the copy is on disk. The
	// record's bytes are the pump's again when it returns. stream is where
	// the record came from.
	Refuse(ctx context.Context, stream string, r record.Record, reason string) error
}

// A Holder is a Log that tells how much waits in lanes that it does not list
// yet. It is asked from the goroutine that asks for the lanes.
type Holder interface {
	Held() record.Backlog
}

// RefusedStream is where records go that a far side can never take.
const RefusedStream = "refused"

// Config is one [[uplink]] of the config file. Exactly one table of a kind
// stands in it, which is the target. Zero means the documented default.
type Config struct {
	// ID names the uplink, and its cursors. Required.
	ID conf.Name `toml:"id"`
	// Streams are patterns of the streams to hand on; * stands for anything.
	// Default: all but "refused". A stream "refused" is handed on only where a
	// pattern names it without *.
	Streams []string `toml:"streams"`
	// From is where a new uplink begins in what is stored already: "oldest"
	// or "newest". Default "oldest".
	From string `toml:"from"`
	// Order is what goes first after an outage: "oldest", or "live-first": the
	// newest records of a stream at once, and what has waited behind them. The
	// order of a key's records then holds among the newest, and among what has
	// waited, but not between the two, so a consumer must go by the records'
	// times or ids. Streams of class alarm, evidence and audit keep their order.
	// Not for targets that know repeated records by their order (kafka, nats, s3,
	// kvs). Default "oldest".
	Order string `toml:"order"`
	// LiveAfter is how old the oldest waiting record must be before newer ones
	// overtake it, with order = "live-first". Default 30s.
	LiveAfter conf.Duration `toml:"live_after"`
	// Linger is how long a record waits for others to share a request with.
	// Default 100ms.
	Linger conf.Duration `toml:"linger"`
	// RetryMax is the longest pause between two tries. There is no last try.
	// Default 60s.
	RetryMax conf.Duration `toml:"retry_max"`
	// Shape says which records are left out, and what is changed in others
	// before they are sent. Default: all are sent as they are.
	Shape []shape.Config `toml:"shape"`
	// RefuseMax is how many records in a row of a lane the target may refuse for
	// good, none accepted between them. They are set aside in the stream
	// "refused"; then the uplink stops and waits for a person, as a target that
	// takes nothing would have the whole backlog set aside. Default 20.
	RefuseMax int `toml:"refuse_max"`
	// LimitKbit is how much of the link this uplink may take, in kilobits (1000
	// bits) a second, beside what [bandwidth] says for all of them together.
	// Default 0: no limit of its own.
	LimitKbit int `toml:"limit_kbit"`

	// Price is what the target and the link cost, for the cost meter.
	Price *Price `toml:"price"`

	// Kinesis is the target Amazon Kinesis Data Streams, or what speaks its
	// protocol.
	Kinesis *kinesis.Config `toml:"kinesis"`
	// Firehose is the target Amazon Data Firehose.
	Firehose *firehose.Config `toml:"firehose"`
	// Kafka is the target Apache Kafka, or what speaks its protocol.
	Kafka *kafka.Config `toml:"kafka"`
	// S3 is the target Amazon S3, or what speaks its protocol.
	S3 *s3.Config `toml:"s3"`
	// NATS is the target NATS JetStream.
	NATS *nats.Config `toml:"nats"`
	// HTTP is the target of anything that takes batches of records by HTTP.
	HTTP *http.Config `toml:"http"`
	// OpenSearch is the target OpenSearch, or Elasticsearch.
	OpenSearch *opensearch.Config `toml:"opensearch"`
	// MQTT is the target any MQTT broker, AWS IoT Core among them.
	MQTT *mqtt.Config `toml:"mqtt"`
	// Sparkplug is the target SCADA, as a Sparkplug B edge node.
	Sparkplug *sparkplug.Config `toml:"sparkplug"`
	// KVS is the target Amazon Kinesis Video Streams, for video that lies beside
	// records. It needs streams.
	KVS *kvs.Config `toml:"kvs"`
}

// A kind is a sort of sink: the one table to add to.
type kind struct {
	name   string
	used   func(c *Config) bool
	check  func(c *Config) error
	target func(c *Config) string
	open   func(c *Config, home lane.Home) (Sink, error)
}

func kinds() []kind {
	return []kind{
		{
			name:   "kinesis",
			used:   func(c *Config) bool { return c.Kinesis != nil },
			check:  func(c *Config) error { return c.Kinesis.Check() },
			target: func(c *Config) string { return c.Kinesis.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return kinesis.New(*c.Kinesis, home)
			},
		},
		{
			name:   "firehose",
			used:   func(c *Config) bool { return c.Firehose != nil },
			check:  func(c *Config) error { return c.Firehose.Check() },
			target: func(c *Config) string { return c.Firehose.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return firehose.New(*c.Firehose, home)
			},
		},
		{
			name:   "s3",
			used:   func(c *Config) bool { return c.S3 != nil },
			check:  func(c *Config) error { return c.S3.Check() },
			target: func(c *Config) string { return c.S3.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return s3.New(*c.S3, home)
			},
		},
		{
			name:   "kafka",
			used:   func(c *Config) bool { return c.Kafka != nil },
			check:  func(c *Config) error { return c.Kafka.Check() },
			target: func(c *Config) string { return c.Kafka.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return kafka.New(*c.Kafka, home)
			},
		},
		{
			name:   "nats",
			used:   func(c *Config) bool { return c.NATS != nil },
			check:  func(c *Config) error { return c.NATS.Check() },
			target: func(c *Config) string { return c.NATS.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return nats.New(*c.NATS, home)
			},
		},
		{
			name:   "mqtt",
			used:   func(c *Config) bool { return c.MQTT != nil },
			check:  func(c *Config) error { return c.MQTT.Check() },
			target: func(c *Config) string { return c.MQTT.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return mqtt.New(*c.MQTT, home)
			},
		},
		{
			name:   "sparkplug",
			used:   func(c *Config) bool { return c.Sparkplug != nil },
			check:  func(c *Config) error { return c.Sparkplug.Check() },
			target: func(c *Config) string { return c.Sparkplug.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return sparkplug.New(*c.Sparkplug, home)
			},
		},
		{
			name:   "http",
			used:   func(c *Config) bool { return c.HTTP != nil },
			check:  func(c *Config) error { return c.HTTP.Check() },
			target: func(c *Config) string { return c.HTTP.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return http.New(*c.HTTP, home)
			},
		},
		{
			name:   "opensearch",
			used:   func(c *Config) bool { return c.OpenSearch != nil },
			check:  func(c *Config) error { return c.OpenSearch.Check() },
			target: func(c *Config) string { return c.OpenSearch.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return opensearch.New(*c.OpenSearch, home)
			},
		},
		{
			name:   "kvs",
			used:   func(c *Config) bool { return c.KVS != nil },
			check:  func(c *Config) error { return c.KVS.Check() },
			target: func(c *Config) string { return c.KVS.Target() },
			open: func(c *Config, home lane.Home) (Sink, error) {
				return kvs.New(*c.KVS, home)
			},
		},
	}
}

// Kinds names the targets there are, as their tables are called.
func Kinds() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

func (c *Config) kind() (kind, error) {
	var found []kind
	for _, k := range kinds() {
		if k.used(c) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return kind{}, fmt.Errorf("id: uplink %q has no target; add a table such as [uplink.%s]", c.ID, kinds()[0].name)
	}
	return kind{}, fmt.Errorf("id: uplink %q has %d targets, %s and %s; give each an uplink of its own", c.ID, len(found), found[0].name, found[1].name)
}

// Kind is the name of the target's table, "" if there is not exactly one.
func (c Config) Kind() string {
	k, err := c.kind()
	if err != nil {
		return ""
	}
	return k.name
}

// Target is where the uplink goes, in words.
func (c Config) Target() string {
	k, err := c.kind()
	if err != nil {
		return ""
	}
	return k.target(&c)
}

// Check says whether the values can be meant; the error begins with the name
// of the field, "kinesis.stream" for one of the target's.
func (c Config) Check() error {
	if c.ID == "" {
		return fmt.Errorf("id: is missing; give the uplink a name")
	}
	for _, p := range c.Streams {
		if _, err := path.Match(p, ""); err != nil || p == "" || strings.Contains(p, "/") {
			return fmt.Errorf("streams: %q is not a pattern; write for example \"mqtt\", \"line-*\" or \"*\"", p)
		}
	}
	switch c.From {
	case "", "oldest", "newest":
	default:
		return fmt.Errorf("from: %q is not \"oldest\" or \"newest\"", c.From)
	}
	if d := c.Linger.D(); d > time.Minute {
		return fmt.Errorf("linger: %s is more than 1m", c.Linger)
	}
	if d := c.RetryMax.D(); d != 0 && (d < time.Second || d > time.Hour) {
		return fmt.Errorf("retry_max: %s is not between 1s and 1h", c.RetryMax)
	}
	if c.RefuseMax < 0 || c.RefuseMax > 1_000_000 {
		return fmt.Errorf("refuse_max: %d is not between 1 and 1000000", c.RefuseMax)
	}
	if err := checkKbit(c.LimitKbit); err != nil {
		return fmt.Errorf("limit_kbit: %w", err)
	}
	if c.Price != nil {
		if err := c.Price.Check(); err != nil {
			return fmt.Errorf("price.%w", err)
		}
	}
	if _, err := shape.New(c.Shape); err != nil {
		return err
	}
	k, err := c.kind()
	if err != nil {
		return err
	}
	if err := c.checkOrder(k.name); err != nil {
		return err
	}
	if d := c.LiveAfter.D(); d != 0 && (d < time.Second || d > 24*time.Hour) {
		return fmt.Errorf("live_after: %s is not between 1s and 24h", c.LiveAfter)
	}
	if c.KVS != nil && len(c.Streams) == 0 {
		return fmt.Errorf("streams: say which streams of video go to Kinesis Video; \"evidence\" for what is kept as evidence, as all of a camera's video is dear")
	}
	if err := k.check(&c); err != nil {
		return fmt.Errorf("%s.%w", k.name, err)
	}
	return nil
}

// Match reports whether the uplink hands on the stream of that name.
func (c Config) Match(stream string) bool {
	if len(c.Streams) == 0 {
		return stream != RefusedStream
	}
	for _, p := range c.Streams {
		if ok, err := path.Match(p, stream); err == nil && ok {
			if stream == RefusedStream && strings.ContainsAny(p, "*?[") {
				continue
			}
			return true
		}
	}
	return false
}

// Far is the lane as the far side sees it: its stream may have another name
// there.
func (c Config) Far(l lane.Lane) lane.Lane {
	l.Stream = shape.Far(c.Shape, l.Stream)
	return l
}

// New makes the sink that a config names. Nothing is sent yet.
func New(c Config, home lane.Home) (Sink, error) {
	home.Rising = c.Order != OrderLive
	return open(c, home)
}

func open(c Config, home lane.Home) (Sink, error) {
	home.Uplink, home.Newest = string(c.ID), c.From == "newest"
	k, err := c.kind()
	if err != nil {
		return nil, err
	}
	if home.Series, home.Shape, err = c.series(); err != nil {
		return nil, fmt.Errorf("open uplink %q: %w", c.ID, err)
	}
	s, err := k.open(&c, home)
	if err != nil {
		return nil, fmt.Errorf("open uplink %q: %w", c.ID, err)
	}
	return s, nil
}

// series is lane.Home.Series, and Shape.
func (c *Config) series() (series, print string, err error) {
	s, err := shape.New(c.Shape)
	if err != nil {
		return "", "", err
	}
	if print, err = s.Print(); err != nil {
		return "", "", err
	}
	sum := sha256.Sum256([]byte(string(c.ID) + "\x00" + print))
	return hex.EncodeToString(sum[:8]), print, nil
}

// Way tells apart what uplinks do to records and where they bring them: it is
// another one where the shape or the far side is. 32 letters and digits.
func (c Config) Way() (string, error) {
	_, print, err := c.series()
	if err != nil {
		return "", err
	}
	_, name, _ := c.names()
	where := []string{c.Target()}
	switch {
	case c.Kafka != nil: // the order of the addresses tells nothing
		where = append(slices.Sorted(slices.Values(c.Kafka.Brokers)), c.Kafka.TransactionalID)
	case c.NATS != nil:
		n := c.NATS
		where = append(slices.Sorted(slices.Values(n.Servers)), n.Stream, n.Domain, n.User, n.Creds, n.NKey)
	}
	sum := sha256.Sum256([]byte(print + "\x00" + c.Kind() + "\x00" + strings.Join(where, "\x00") + "\x00" + name))
	return hex.EncodeToString(sum[:16]), nil
}

// WithDefaults fills in what was left out.
func (c Config) WithDefaults() Config {
	if len(c.Streams) == 0 {
		c.Streams = []string{"*"}
	}
	if c.From == "" {
		c.From = "oldest"
	}
	if c.Order == "" {
		c.Order = OrderOldest
	}
	c.LiveAfter = conf.Duration(c.LiveAfter.Or(defaultLiveAfter))
	c.Linger = conf.Duration(c.Linger.Or(defaultLinger))
	c.RetryMax = conf.Duration(c.RetryMax.Or(defaultRetryMax))
	if c.RefuseMax == 0 {
		c.RefuseMax = defaultRefuseMax
	}
	price := c.priceOf()
	c.Price = &price
	return c
}
