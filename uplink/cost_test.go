package uplink_test

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"forebay/uplink"
	"forebay/uplink/kinesis"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

func near(got, want, off float64) bool { return math.Abs(got-want) <= off*math.Abs(want) }

func listPrice(model string) uplink.Price { return uplink.Price{Model: model}.WithDefaults() }

// What a million events of 100 bytes cost in PUT payload units, by how many
// travel as one record; the sizes are those of our own encoder.
func TestCostPerMillionEvents(t *testing.T) {
	for _, c := range []struct {
		per  int
		cost float64 // US dollars
	}{{1, 0.014}, {10, 0.0014}, {100, 0.00014}, {200, 0.00007}, {240, 0.000117}, {5000, 0.000062}} {
		var enc kpl.Encoder
		for range c.per {
			enc.Add("press-1/temp", "", make([]byte, 100))
		}
		size := len(enc.AppendTo(nil)) + len("press-1/temp")
		if c.per == 1 {
			size = 100 + len("press-1/temp")
		}
		const month = 30 * 24 * time.Hour
		units := 1_000_000 / float64(c.per) * float64(kinesis.Units(size))
		as, _ := listPrice("provisioned").Month(uplink.Usage{Units: uint64(math.Round(units))}, month)
		if !near(as.Units, c.cost, 0.01) {
			t.Errorf("%d in a record of %d bytes: $%.7f, want $%.7f", c.per, size, as.Units, c.cost)
		}
	}
}

// A thousand sensors, a message of 100 bytes a second each: 2.59 thousand
// million units a month are $36.29 unaggregated; packed to 25 kB they are 10.4
// million and $0.15. On demand the factor is ten.
func TestCostOfAThousandSensors(t *testing.T) {
	second := uplink.Usage{Records: 1000, PayloadBytes: 100_000, Units: 4, BilledBytes: uint64(4 * kinesis.Billed(25_000)), PlainUnits: 1000, PlainBilled: uint64(1000 * kinesis.Billed(100))}
	as, plain := listPrice("provisioned").Month(second, time.Second)
	if math.Abs(plain.Units-36.29) > 0.005 || math.Abs(as.Units-0.145) > 0.001 || as.ShardHours != plain.ShardHours || !near(as.ShardHours, 10.8, 1e-9) {
		t.Errorf("as sent %+v, plain %+v", as, plain)
	}
	as, plain = listPrice("on-demand").Month(second, time.Second)
	if r := plain.Data / as.Data; r < 9.9 || r > 10.3 || !near(plain.Data, 1000*1024*2_592_000/float64(1<<30)*0.08, 1e-9) || !near(as.StreamHours, 28.8, 1e-9) {
		t.Errorf("on demand as sent %+v, plain %+v", as, plain)
	}
	// Ten thousand a second for a year: $4,415 and $22 of units; and ten shards
	// instead of one, as a shard takes a thousand records a second.
	busy := uplink.Usage{Records: 10_000, PayloadBytes: 1_000_000, Units: 50, PlainUnits: 10_000}
	as, plain = listPrice("provisioned").Month(busy, time.Second)
	if year := 365.0 / 30; !near(plain.Units*year, 4415, 0.001) || !near(as.Units*year, 22, 0.005) {
		t.Errorf("a year: %.2f and %.2f", plain.Units*year, as.Units*year)
	}
	if !near(plain.ShardHours, 108, 1e-9) || !near(as.ShardHours, 10.8, 1e-9) {
		t.Errorf("shard-hours: as sent %.2f, plain %.2f", as.ShardHours, plain.ShardHours)
	}
}

func TestCostOfTheLink(t *testing.T) {
	p := uplink.Price{Model: "none", PerLinkGB: 2.5, Currency: "EUR"}.WithDefaults()
	as, plain := p.Month(uplink.Usage{WireBytes: 1_000_000_000, PlainWire: 3_000_000_000, Units: 7}, 24*time.Hour)
	if !near(as.Sum(), 75, 1e-9) || !near(plain.Sum(), 225, 1e-9) || p.Currency != "EUR" {
		t.Errorf("%+v, %+v", as, plain)
	}
	if as, plain := p.Month(uplink.Usage{WireBytes: 5}, 0); as.Sum() != 0 || plain.Sum() != 0 {
		t.Errorf("over no time: %+v, %+v", as, plain)
	}
}

func TestUnitsAndRounding(t *testing.T) {
	for _, c := range []struct{ n, units, billed int }{
		{0, 1, 1024}, {1, 1, 1024}, {1024, 1, 1024}, {1025, 1, 2048}, {25_000, 1, 25_600}, {25_001, 2, 25_600}, {1 << 20, 42, 1 << 20},
	} {
		if u, b := kinesis.Units(c.n), kinesis.Billed(c.n); u != c.units || b != c.billed {
			t.Errorf("%d bytes: %d units, %d billed; want %d, %d", c.n, u, b, c.units, c.billed)
		}
	}
}

func TestPriceCheck(t *testing.T) {
	for field, p := range map[string]uplink.Price{
		"model": {Model: "flat"}, "currency": {Currency: "pieces of eight, new"}, "shards": {Shards: -1},
		"per_gb": {PerGB: -1}, "per_link_gb": {PerLinkGB: math.NaN()},
	} {
		cfg := config()
		cfg.Price = &p
		if err := cfg.Check(); err == nil || err.Error()[:len("price."+field+": ")] != "price."+field+": " {
			t.Errorf("%s: %v", field, err)
		}
	}
	aws, near := config(), config()
	aws.Kinesis = &kinesis.Config{Stream: "s"}
	if m := aws.WithDefaults().Price.Model; m != "provisioned" {
		t.Errorf("the model at AWS is %q", m)
	}
	if m := near.WithDefaults().Price.Model; m != "none" {
		t.Errorf("the model at another endpoint is %q", m)
	}
}

// The meter counts what sinks tell, and works out a month from the last hour
// and the last day.
func TestCostMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		sink.act = func(b lane.Batch) lane.Outcome {
			return lane.Outcome{Done: len(b.Recs), Requests: 1, Units: 1, Billed: 1024}
		}
		cfg := config()
		cfg.Price = &uplink.Price{Model: "provisioned", PerLinkGB: 1}
		p, stop := start(t, cfg, sink, log)
		time.Sleep(500 * time.Millisecond)
		if s := p.Status(); s.Cost.Hour != nil {
			t.Errorf("a month is told after half a second: %+v", s.Cost)
		}
		for range 2 * 3600 { // ten records of one byte of key and some of data a second
			c.put(10, "k")
			time.Sleep(time.Second)
		}
		s := p.Status()
		if u := s.Used; u.Records != 72_000 || u.Units != u.Requests || u.Units < 7200 || u.Units > 7300 || u.PlainUnits != 72_000 || u.PlainBilled != 72_000*1024 || u.BilledBytes != 1024*u.Units || u.WireBytes == 0 || u.PayloadBytes != u.WireBytes+72_000 {
			t.Errorf("used %+v", u)
		}
		const month = 30 * 24 * 3600
		if h := s.Cost.Hour; h == nil || !near(h.Units, month*0.014/1e6, 0.02) || !near(s.Cost.HourPlain.Units, 10*month*0.014/1e6, 0.02) {
			t.Errorf("by the hour %+v, plain %+v", h, s.Cost.HourPlain)
		}
		// The second hour of silence: the hour forgets, the day does not.
		time.Sleep(2 * time.Hour)
		s = p.Status()
		stop()
		if h, d := s.Cost.Hour, s.Cost.Day; h == nil || d == nil || h.Units != 0 || !near(d.Units, month*0.014/1e6/2, 0.02) || s.Cost.Currency != "USD" || s.Cost.Model != "provisioned" {
			t.Errorf("cost %+v, hour %+v, day %+v", s.Cost, h, d)
		}
	})
}

// A month is not made of the first minutes.
func TestNoMonthOfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		log.shard("s").put(1000, "k")
		cfg := config()
		cfg.Price = &uplink.Price{Model: "provisioned"}
		p, stop := start(t, cfg, sink, log)
		defer stop()
		time.Sleep(14 * time.Minute)
		if c := p.Status().Cost; c.Hour != nil || c.HourPlain != nil || !c.Priced {
			t.Errorf("after 14 minutes: %+v", c)
		}
		time.Sleep(2 * time.Minute)
		if c := p.Status().Cost; c.Hour == nil || c.HourPlain == nil || c.Day != nil {
			t.Errorf("after 16 minutes: %+v", c)
		}
		time.Sleep(time.Hour)
		if c := p.Status().Cost; c.Day == nil || c.DayPlain == nil {
			t.Errorf("after an hour: %+v", c)
		}
	})
}

// The real sink tells its units and requests.
func TestKinesisTellsUnits(t *testing.T) {
	c, log := newCloud(t), newLog(t)
	c.add(2)
	for i := range 3 {
		log.shard("s").put(5000*(i+1), "press-1/temp")
	}
	p, stop := realPump(t, c, log, kinesis.Config{})
	until(t, "records are still waiting", func() bool { return log.pending() == 0 })
	u := p.Status().Used
	stop()
	units, billed := 0, 0
	for _, x := range c.units {
		units += kinesis.Units(x.size)
		billed += kinesis.Billed(x.size)
	}
	if u.Units != uint64(units) || u.BilledBytes != uint64(billed) || u.Requests != uint64(c.requests["PutRecords"]) || u.Records != 30_000 {
		t.Errorf("used %+v; the target got %d units, %d bytes, %d requests", u, units, billed, c.requests["PutRecords"])
	}
	if fmt.Sprint(u.PlainUnits) != "30000" {
		t.Errorf("%d plain units", u.PlainUnits)
	}
}
