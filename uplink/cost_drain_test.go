package uplink_test

import (
	"testing"
	"testing/synctest"
	"time"

	"forebay/uplink"
	"forebay/uplink/lane"
)

// A month is one of what arrives: a day's outage that is drained within an hour
// makes it no dearer, and the outage itself no cheaper. The link's part without
// aggregation is that of the records as they would travel then.
func TestCostOfADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, sink := newLog(t), newSink(t)
		c := log.shard("s")
		take := func(b lane.Batch) lane.Outcome {
			n := len(b.Recs)
			return lane.Outcome{Done: n, Requests: 1, Units: n, Billed: 1024 * n, Plain: 1_000_000 * n}
		}
		away := func(lane.Batch) lane.Outcome { return lane.Outcome{Class: lane.Offline, Err: errFake} }
		down := func() error { return errFake }
		sink.set(take, nil)
		cfg := config()
		cfg.Price = &uplink.Price{Model: "provisioned", PerLinkGB: 1}
		p, stop := start(t, cfg, sink, log)
		defer stop()
		pass := func(d time.Duration) uplink.Cost {
			for range int(d / (10 * time.Second)) {
				c.put(10, "k")
				time.Sleep(10 * time.Second)
			}
			return p.Status().Cost
		}
		const records = 30 * 24 * 3600 // a month, one a second
		check := func(when string, b *uplink.Bill, link float64) {
			t.Helper()
			if b == nil || !near(b.Units, records*0.014/1e6, 0.02) || !near(b.Link, link, 0.02) {
				t.Errorf("%s: %+v; want units of %.5f, a link of %.5f", when, b, records*0.014/1e6, link)
			}
		}
		const plainLink = records * 1_000_000 / 1e9
		cost := pass(2 * time.Hour)
		check("steady, without aggregation", cost.HourPlain, plainLink)
		sink.set(away, down)
		cost = pass(24 * time.Hour)
		check("in the outage", cost.HourPlain, plainLink)
		check("in the outage, by the day", cost.DayPlain, plainLink)
		sink.set(take, nil)
		cost = pass(10 * time.Minute)
		if w := p.Status().Waiting.Records; w > 10 {
			t.Fatalf("%d records still wait", w)
		}
		check("after the drain", cost.HourPlain, plainLink)
		check("after the drain, by the day", cost.DayPlain, plainLink)
		if h := cost.Hour; h == nil || !near(h.Units, cost.HourPlain.Units, 0.02) || h.Link >= cost.HourPlain.Link/1000 {
			t.Errorf("as sent %+v, plain %+v", h, cost.HourPlain)
		}
		sink.set(away, down)
		for range 6 { // nothing comes any more
			time.Sleep(20 * time.Minute)
		}
		if h := p.Status().Cost.Hour; h == nil || h.Units != 0 {
			t.Errorf("nothing arrives: %+v", h)
		}
	})
}

// Where nothing has a price there is no sum to tell.
func TestNoPriceNoCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for price, want := range map[uplink.Price]bool{{Model: "none"}: false, {Model: "none", PerLinkGB: 2}: true, {Model: "on-demand"}: true} {
			log, sink := newLog(t), newSink(t)
			log.shard("s").put(100, "k")
			cfg := config()
			cfg.Price = &price
			p, stop := start(t, cfg, sink, log)
			time.Sleep(2 * time.Hour)
			c := p.Status().Cost
			stop()
			if got := c.Hour != nil; got != want || got != (c.HourPlain != nil) || got != (c.Day != nil) || got != (c.DayPlain != nil) || got != c.Priced || c.Model != price.Model {
				t.Errorf("%+v: %+v", price, c)
			}
		}
	})
}
