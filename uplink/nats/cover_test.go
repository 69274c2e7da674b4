package nats_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/nats"
)

// A place is a log that holds the records of a lane up to, and not with, end.
type place struct {
	began, end uint64
	arrived    time.Time // of every record
}

func (p place) Began() uint64 { return p.began }
func (p place) Again() bool   { return false }
func (p place) Since() uint64 { return p.began }
func (p place) End() uint64   { return p.end }
func (p place) Arrived(seq uint64) (time.Time, bool, error) {
	return p.arrived, seq < p.end, nil
}

var sound = place{began: 1, end: 1000, arrived: time.Unix(1763800000, 0)} // as rec has it

// shaped is a sink whose uplink has a shape.
func shaped(t *testing.T, url, subject, shape string) *nats.Sink {
	s, err := nats.New(
		nats.Config{Servers: []string{url}, Stream: "TARGET", Subject: subject, RequestTimeout: conf.Duration(2 * time.Second)},
		lane.Home{Uplink: "cloud", ID: identity, Shape: shape, Log: slog.New(slog.DiscardHandler)},
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func at(p lane.Place, from, n uint64) lane.Batch {
	b := batch(1, from, n)
	b.Place = p
	return b
}

// What the watermark does not speak of is not passed as sent: an uplink that
// began with the newest and is made anew for the oldest, or with another shape,
// and a log that is an older copy of itself stop their lane in words.
func TestTheWatermarkSpeaksOfWhatWasSent(t *testing.T) {
	late := place{500, 1000, sound.arrived}
	for _, c := range []struct {
		name         string
		first, again place // of the uplink that was, and of the one that is
		from, behind uint64
		shape, other string
		words        string
	}{
		{name: "the same", first: sound, again: sound, from: 1, behind: 1},
		{name: "went back a little", first: sound, again: sound, from: 1, behind: 7},
		{name: "made anew for the oldest", first: late, again: sound, from: 500, behind: 1, words: "but only from 500 on"},
		{name: "made anew for the newest", first: sound, again: late, from: 1, behind: 500},
		{name: "made anew, and nothing older is kept", first: late, again: place{510, 1000, sound.arrived}, from: 500, behind: 510},
		{name: "another shape", first: sound, again: sound, from: 1, behind: 1, shape: "aa", other: "bb", words: "another shape"},
		{name: "an older copy", first: sound, again: place{1, 15, sound.arrived}, from: 1, behind: 1, words: "the newest that is here is 14"},
		{name: "an older copy that has grown", first: sound, again: place{1, 1000, sound.arrived.Add(1)}, from: 1, behind: 1, words: "arrived at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := start(t, options(t.TempDir()))
			nc := client(t, srv.ClientURL())
			create(t, nc, `"allow_atomic":true,"duplicate_window":100000000`)
			wantDone(t, send(t, shaped(t, srv.ClientURL(), "", c.shape), at(c.first, c.from, 20)), 20)
			b := at(c.again, c.behind, max(c.from+20, c.behind)-c.behind+5)
			if c.words != "" {
				for range 2 {
					wantClass(t, send(t, shaped(t, srv.ClientURL(), "", c.other), b), 0, lane.Misconfigured, c.words)
				}
				// What it says to do helps.
				js, err := nc.JetStream()
				if err != nil {
					t.Fatal(err)
				}
				waitOutWindow(t, js)
				wantDone(t, send(t, shaped(t, srv.ClientURL(), "forebay.{gateway}.new.{shard}", c.other), b), len(b.Recs))
				return
			}
			s := shaped(t, srv.ClientURL(), "", c.other)
			wantDone(t, send(t, s, b), len(b.Recs))
			if got := read(t, nc, "forebay.edge-07.mqtt.1"); len(got) < 25 || got[len(got)-1].id != identity.ID(b.Recs[len(b.Recs)-1].Pos) {
				t.Errorf("%d messages", len(got))
			}
		})
	}
}

// A watermark that moved on over a gap speaks of what lies behind the gap only.
func TestAGapInWhatWasSent(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	create(t, client(t, srv.ClientURL()), `"allow_atomic":true`)
	url := srv.ClientURL()
	wantDone(t, send(t, shaped(t, url, "", "aa"), at(sound, 1, 20)), 20)
	// Made anew for the newest, and then for the oldest again.
	wantDone(t, send(t, shaped(t, url, "", "aa"), at(place{500, 1000, sound.arrived}, 500, 20)), 20)
	wantClass(t, send(t, shaped(t, url, "", "aa"), at(sound, 1, 20)), 0, lane.Misconfigured, "but only from 500 on")
	// A shape that was changed on the way goes on, and does not speak for the
	// one before.
	wantDone(t, send(t, shaped(t, url, "", "bb"), at(place{500, 1000, sound.arrived}, 520, 20)), 20)
	wantClass(t, send(t, shaped(t, url, "", "bb"), at(place{500, 1000, sound.arrived}, 510, 20)), 0, lane.Misconfigured, "but only from 520 on")
	// What a gateway of before said nothing of is believed.
	old := sink(t, identity, nats.Config{Subject: "forebay.{gateway}.old.{shard}"}, url)
	wantDone(t, send(t, old, batch(1, 700, 20)), 20)
	wantDone(t, send(t, shaped(t, url, "forebay.{gateway}.old.{shard}", "aa"), at(sound, 1, 20)), 20)
	// The words fit one line of a message.
	o := send(t, shaped(t, url, "", "bb"), at(sound, 1, 20))
	if o.Err == nil || strings.ContainsAny(o.Err.Error(), "\r\n") {
		t.Errorf("%v", o.Err)
	}
}

// Numbers of another epoch do not tell that an uplink went on: after a restored
// backup, and a new cursor at the newest, the watermark speaks of what lies
// behind that alone.
func TestAWatermarkOfAnotherEpoch(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	create(t, client(t, srv.ClientURL()), `"allow_atomic":true`)
	before := at(sound, 1, 20)
	for i := range before.Recs {
		before.Recs[i].Origin = &record.Origin{Gateway: identity.Gateway, Epoch: 7}
	}
	wantDone(t, send(t, shaped(t, srv.ClientURL(), "", "aa"), before), 20)
	late := place{15, 1000, sound.arrived} // restored with 10 of them; 11 to 14 are new, and not sent
	wantDone(t, send(t, shaped(t, srv.ClientURL(), "", "aa"), at(late, 15, 10)), 10)
	wantDone(t, send(t, shaped(t, srv.ClientURL(), "", "aa"), at(late, 25, 10)), 10)
	wantClass(t, send(t, shaped(t, srv.ClientURL(), "", "aa"), at(sound, 11, 30)), 0, lane.Misconfigured, "but only from 15 on")
}
