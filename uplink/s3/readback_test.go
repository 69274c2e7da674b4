package s3_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/s3"
)

func readBack(t *testing.T, s *s3.Sink, from, to time.Time) (ids []string) {
	t.Helper()
	if err := s.ReadBack(t.Context(), from, to, func(under, id string) error {
		if under != s.Under("press") {
			t.Errorf("%s lies under %s", id, under)
		}
		ids = append(ids, id)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return ids
}

// The same records under two names are told apart by the names.
func TestReadBackTellsNamesApart(t *testing.T) {
	for _, cfg := range []s3.Config{{}, {Objects: "parquet"}, {Format: "raw"}} {
		f := newFar(t)
		s := f.open(cfg)
		b := batchOf(laneOf(1), 1, 2)
		sendAll(t, s, b)
		b.Lane.Stream = "replay-1"
		sendAll(t, s, b)
		var got []string
		if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(under, id string) error {
			got = append(got, under+" "+id)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, stream := range []string{"press", "replay-1"} {
			for seq := range 2 {
				want = append(want, fmt.Sprintf("%s edge-07/0000000000001234/1/%d", s.Under(stream), seq+1))
			}
		}
		if !slices.Equal(got, want) || s.Under("press") == s.Under("replay-1") {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestReadBack(t *testing.T) {
	f := newFar(t)
	other := f.open(s3.Config{}, lane.Home{ID: record.Identity{Gateway: "edge-08", Epoch: 1}})
	sendAll(t, other, batchOf(laneOf(1), 1, 10))
	for i, cfg := range []s3.Config{{}, {Objects: "parquet"}, {Compression: "gzip"}, {Compression: "none"}} {
		s := f.open(cfg)
		for k := range uint64(4) { // 1750 to 1849: two hours
			sendAll(t, s, batchOf(laneOf(i+1), 1750+25*k, 1774+25*k))
		}
	}
	f.objects["forebay/press/readme.txt"] = object{}
	f.objects["forebay/press/dt=2026-11-23/hr=12/edge-07.txt"] = object{}
	f.objects["forebay/press/dt=yesterday/hr=12/edge-07.1"] = object{}
	s := f.open(s3.Config{})
	var want []string
	for hour := range 2 {
		for i := range 4 {
			for seq := 1750; seq < 1850; seq++ {
				if (seq >= 1800) == (hour == 1) {
					want = append(want, fmt.Sprintf("edge-07/0000000000001234/%d/%d", i+1, seq))
				}
			}
		}
	}
	if got := readBack(t, s, time.Time{}, time.Time{}); !slices.Equal(got, want) {
		t.Errorf("%d ids, want %d in order", len(got), len(want))
	}
	at := func(seq int) time.Time { return noon.Add(time.Duration(seq) * time.Second) }
	for _, c := range []struct {
		from, to time.Time
		n        int
	}{
		{at(1760), time.Time{}, 90},
		{time.Time{}, at(1760), 10},
		{at(1790), at(1810), 20},
		{at(1800), at(1810), 10},
		{at(1700), at(1750), 0},
		{at(9000), time.Time{}, 0},
	} {
		if got := len(readBack(t, s, c.from, c.to)); got != 4*c.n {
			t.Errorf("from %v to %v: %d ids, want %d", c.from, c.to, got, 4*c.n)
		}
	}
	before := f.count("GET")
	readBack(t, s, at(1700), noon.Add(30*time.Minute)) // 12:58 to 13:00
	if n := f.count("GET") - before; n != 4*2 {
		t.Errorf("%d objects are read for one hour, want 8", n)
	}
	enough := errors.New("enough")
	if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string, string) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
}

// Objects that are damaged are an error and not a gap.
func TestReadBackOfDamage(t *testing.T) {
	for _, cfg := range []s3.Config{{}, {Objects: "parquet"}, {Compression: "gzip"}, {Compression: "none"}} {
		f := newFar(t)
		s := f.open(cfg)
		sendAll(t, s, batchOf(laneOf(1), 1, 500))
		key := f.keys()[1]
		o := f.objects[key]
		o.body = o.body[:len(o.body)*2/3]
		f.objects[key] = o
		if err := s.ReadBack(t.Context(), time.Time{}, time.Time{}, func(string, string) error { return nil }); err == nil {
			t.Errorf("half of %s is read", key)
		}
	}
}
