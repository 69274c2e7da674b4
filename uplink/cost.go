package uplink

import (
	"fmt"
	"math"
	"strings"
	"time"

	"forebay/uplink/kinesis"
)

// Price is the table [uplink.price]: what the target and the link cost. The
// defaults are the list prices of Amazon Kinesis Data Streams in us-east-1, in
// US dollars, without taxes and discounts; other regions and contracts differ.
type Price struct {
	// Model is "provisioned" (PUT payload units and shard-hours), "on-demand"
	// (gigabytes and stream-hours) or "none" (the link alone). Default
	// "provisioned" where the target is Amazon's Kinesis, else "none".
	Model string `toml:"model"`
	// Currency is the word that stands behind amounts. Default "USD".
	Currency string `toml:"currency"`
	// PerMillionUnits is for a million PUT payload units of 25 kB. Default 0.014.
	PerMillionUnits float64 `toml:"per_million_units"`
	// PerShardHour is for a shard and an hour. Default 0.015.
	PerShardHour float64 `toml:"per_shard_hour"`
	// Shards is how many shards the target has. Default 1.
	Shards int `toml:"shards"`
	// PerGB is for a gigabyte taken in on demand, each record rounded up to 1 KiB.
	// Default 0.08.
	PerGB float64 `toml:"per_gb"`
	// PerStreamHour is for a stream and an hour on demand. Default 0.04.
	PerStreamHour float64 `toml:"per_stream_hour"`
	// PerLinkGB is for a gigabyte (10^9 bytes) over the link, whatever the
	// target. Default 0.
	PerLinkGB float64 `toml:"per_link_gb"`
}

// The models of a price list.
const (
	ModelProvisioned = "provisioned"
	ModelOnDemand    = "on-demand"
	ModelNone        = "none"
)

// WithDefaults fills in what was left out; the model depends on the target.
func (p Price) WithDefaults() Price {
	or := func(v *float64, def float64) {
		if *v == 0 {
			*v = def
		}
	}
	if p.Currency == "" {
		p.Currency = "USD"
	}
	or(&p.PerMillionUnits, 0.014)
	or(&p.PerShardHour, 0.015)
	or(&p.PerGB, 0.08)
	or(&p.PerStreamHour, 0.04)
	p.Shards = max(p.Shards, 1)
	return p
}

// Check says whether the values can be meant; the error begins with the name
// of the field.
func (p Price) Check() error {
	switch p.Model {
	case "", ModelProvisioned, ModelOnDemand, ModelNone:
	default:
		return fmt.Errorf("model: %q is not \"provisioned\", \"on-demand\" or \"none\"", p.Model)
	}
	if len(p.Currency) > 16 {
		return fmt.Errorf("currency: %q has more than 16 bytes", p.Currency)
	}
	if p.Shards < 0 || p.Shards > 1_000_000 {
		return fmt.Errorf("shards: %d is not between 1 and 1000000", p.Shards)
	}
	for _, f := range []struct {
		name string
		v    float64
	}{{"per_million_units", p.PerMillionUnits}, {"per_shard_hour", p.PerShardHour}, {"per_gb", p.PerGB}, {"per_stream_hour", p.PerStreamHour}, {"per_link_gb", p.PerLinkGB}} {
		if f.v < 0 || f.v > 1e6 || math.IsNaN(f.v) {
			return fmt.Errorf("%s: %v is not between 0 and 1000000", f.name, f.v)
		}
	}
	return nil
}

const (
	// gigabyte is what is billed on demand, in bytes.
	gigabyte = 1 << 30
	// linkGB is a gigabyte as link contracts count it.
	linkGB = 1e9
	// leastHour and leastDay are how much of the last hour and of the last day
	// must be known: a month made of a minute is a guess.
	leastHour, leastDay = 15 * time.Minute, time.Hour
	// month is what amounts are worked out for.
	month = 30 * 24 * time.Hour
	// What a shard takes a second: records, and bytes.
	shardRecords, shardBytes = 1000, 1_000_000
)

// Usage is what price lists count. Plain is what the same records would count
// if each travelled as a record of its own, as it is stored.
type Usage struct {
	Records      uint64 // acknowledged
	PayloadBytes uint64 // keys and data of them
	WireBytes    uint64 // sent
	PlainWire    uint64
	Requests     uint64
	Units        uint64 // PUT payload units, or what the target counts
	BilledBytes  uint64 // each record that the target got rounded up as it does
	PlainUnits   uint64
	PlainBilled  uint64
}

// add counts one acknowledged record of n bytes.
func (u *Usage) add(n int) {
	u.Records++
	u.PayloadBytes += uint64(n)
	u.PlainUnits += uint64(kinesis.Units(n))
	u.PlainBilled += uint64(kinesis.Billed(n))
}

func (u Usage) less(o Usage) Usage {
	return Usage{
		Records: u.Records - o.Records, PayloadBytes: u.PayloadBytes - o.PayloadBytes, WireBytes: u.WireBytes - o.WireBytes,
		Requests: u.Requests - o.Requests, Units: u.Units - o.Units, BilledBytes: u.BilledBytes - o.BilledBytes,
		PlainWire: u.PlainWire - o.PlainWire, PlainUnits: u.PlainUnits - o.PlainUnits, PlainBilled: u.PlainBilled - o.PlainBilled,
	}
}

// WirePerPayload is how many bytes went over the link for a byte of key and
// data; 0 where nothing was acknowledged.
func (u Usage) WirePerPayload() float64 {
	if u.PayloadBytes == 0 {
		return 0
	}
	return float64(u.WireBytes) / float64(u.PayloadBytes)
}

// A Bill is what a month costs, by what it is for.
type Bill struct {
	Units, ShardHours, StreamHours, Data, Link float64
}

// Sum is all of it.
func (b Bill) Sum() float64 { return b.Units + b.ShardHours + b.StreamHours + b.Data + b.Link }

// Month is what a month of 30 days costs if it goes on like a usage over a
// time, as it was sent and as it would be without aggregation. Without it a
// target may need more shards: one takes 1000 records and 1 MB a second. p has
// its defaults.
func (p Price) Month(u Usage, over time.Duration) (as, plain Bill) {
	return p.month(u, over, 1)
}

// month is Month where the records of a usage arrive so many times as often.
func (p Price) month(u Usage, over time.Duration, often float64) (as, plain Bill) {
	if over <= 0 {
		return Bill{}, Bill{}
	}
	times, hours := float64(month)/float64(over)*often, month.Hours()
	as.Link = float64(u.WireBytes) / linkGB * times * p.PerLinkGB
	plain.Link = float64(u.PlainWire) / linkGB * times * p.PerLinkGB
	switch p.Model {
	case ModelProvisioned:
		as.Units = float64(u.Units) / 1e6 * times * p.PerMillionUnits
		plain.Units = float64(u.PlainUnits) / 1e6 * times * p.PerMillionUnits
		s := over.Seconds() / max(often, 1e-9)
		need := math.Ceil(max(float64(u.Records)/s/shardRecords, float64(u.PayloadBytes)/s/shardBytes) - 1e-9)
		as.ShardHours = float64(p.Shards) * hours * p.PerShardHour
		plain.ShardHours = max(float64(p.Shards), need) * hours * p.PerShardHour
	case ModelOnDemand:
		as.Data = float64(u.BilledBytes) / gigabyte * times * p.PerGB
		plain.Data = float64(u.PlainBilled) / gigabyte * times * p.PerGB
		as.StreamHours = hours * p.PerStreamHour
		plain.StreamHours = as.StreamHours
	}
	return as, plain
}

// free reports whether nothing has a price.
func (p Price) free() bool { return p.Model == ModelNone && p.PerLinkGB == 0 }

// A Cost is what a month costs if records go on arriving as in the last hour,
// and as in the last day; nil while too little of it is known, and where
// nothing has a price. Plain is without aggregation.
type Cost struct {
	Model, Currency string
	Priced          bool // something has a price
	Hour, HourPlain *Bill
	Day, DayPlain   *Bill
}

// cost works it out. filtered is what the Log has left out itself. p.mu is held.
func (p *Pump) cost(now time.Time, filtered uint64) Cost {
	price, m := p.cfg.priceOf(), &p.meter
	c := Cost{Model: price.Model, Currency: price.Currency}
	if c.Priced = !price.free(); !c.Priced {
		return c
	}
	at := p.reading(filtered)
	if as, plain, ok := price.goingOn(&m.hour, at, now, leastHour); ok {
		c.Hour, c.HourPlain = &as, &plain
	}
	if as, plain, ok := price.goingOn(&m.day, at, now, leastDay); ok {
		c.Day, c.DayPlain = &as, &plain
	}
	return c
}

// goingOn is a month in which records arrive as they did in a past of least at
// least, and each costs what those have cost that went out: what is drained of
// a backlog arrived before, and what waits now goes out later. Where next to
// nothing went out, as in an outage, a record costs what all of them have cost
// since the start; false where there was none.
func (p Price) goingOn(past *past, at reading, now time.Time, least time.Duration) (as, plain Bill, ok bool) {
	was, over := past.since(now)
	if over < least {
		return as, plain, false
	}
	use, passed := at.use.less(was.use), float64(at.passed-was.passed)
	arrived := max(passed+float64(at.waiting)-float64(was.waiting), 0)
	if passed*10 < arrived {
		use, passed = at.use, float64(at.passed)
	}
	switch {
	case passed > 0:
		as, plain = p.month(use, over, arrived/passed)
	case arrived > 0:
		return as, plain, false
	default:
		as, plain = p.month(use, over, 1)
	}
	return as, plain, true
}

// priceOf is the price list of an uplink, defaults and all.
func (c Config) priceOf() Price {
	p := Price{}
	if c.Price != nil {
		p = *c.Price
	}
	if p.Model == "" {
		p.Model = ModelNone
		if c.Kinesis != nil && (c.Kinesis.Endpoint == "" || strings.Contains(c.Kinesis.Endpoint, ".amazonaws.")) {
			p.Model = ModelProvisioned
		}
	}
	return p.WithDefaults()
}

// A reading is what was used, how many records had passed, and how many waited,
// at a moment.
type reading struct {
	use             Usage
	passed, waiting uint64
}

// A past is what was read at certain moments, in steps of some length.
type past struct {
	step time.Duration
	most int
	at   []time.Time
	read []reading
}

// note keeps a reading if its time has come.
func (p *past) note(now time.Time, r reading) {
	if n := len(p.at); n > 0 && now.Sub(p.at[n-1]) < p.step {
		return
	}
	if len(p.at) > p.most {
		p.at, p.read = append(p.at[:0], p.at[1:]...), append(p.read[:0], p.read[1:]...)
	}
	p.at, p.read = append(p.at, now), append(p.read, r)
}

// since is the oldest reading, and how long ago that was.
func (p *past) since(now time.Time) (reading, time.Duration) {
	if len(p.at) == 0 {
		return reading{}, 0
	}
	return p.read[0], now.Sub(p.at[0])
}
