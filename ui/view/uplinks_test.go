package view_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/ui/view"
)

func TestUplinksInWords(t *testing.T) {
	at := time.Date(2026, 3, 14, 14, 30, 0, 0, time.UTC)
	m := view.New(view.Config{MaxHz: -1, Location: time.UTC}, at)
	oldest := at.Add(-time.Hour)
	m.Event(at, api.Event{Kind: "snapshot", Snapshot: &api.Snapshot{Status: api.Status{Now: at, Uplinks: []api.Uplink{
		{
			ID: "a", State: "up", Waiting: 10, WaitBytes: 8e6, Oldest: &oldest, ETA: new(80.0), LimitKbit: 8000, Capped: true, Used: api.UplinkUsage{WirePerPayload: 0.284},
			Cost: api.UplinkCost{Currency: "EUR", Month: &api.UplinkBill{Sum: 0.154}, MonthPlain: &api.UplinkBill{Sum: 36.3}},
		},
		{ID: "b", State: "down", Class: "misconfigured", Error: "no such stream", Advice: "make it", Refused: 2, Cost: api.UplinkCost{Model: "on-demand", Currency: "EUR", Priced: true}},
		{ID: "c", State: "paused", PausedBy: "ana", Errands: []api.Errand{{ID: "c~replay-2", Kind: "replay", Stream: "s", As: "t", State: "paused", Done: 3, Total: 9, Missed: 1}}},
	}}}})
	frame := func(at time.Time) []view.Uplink {
		t.Helper()
		s, ok := m.Frame(at)
		if !ok || len(s.Uplinks) != 3 || s.UplinkSay != "3 uplinks: 1 up, 1 DOWN, 1 paused" {
			t.Fatalf("%+v", s.Uplinks)
		}
		return s.Uplinks
	}
	u := frame(at)
	facts := map[string]string{}
	for _, f := range u[0].Facts {
		facts[f.Name] = f.Value
	}
	for name, want := range map[string]string{
		"Net drain": "100 kB/s", "Cap": "8,000 kbit/s, holds back", "On the wire": "0.28 B per byte", "A month": "0.15 EUR", "not aggregated": "36.30 EUR", "Refused": "0",
	} {
		if facts[name] != want {
			t.Errorf("%s: %q, want %q", name, facts[name], want)
		}
	}
	months := func(u view.Uplink) (out []string) {
		for _, f := range u.Facts[5:] {
			out = append(out, f.Value)
		}
		return out
	}
	if got := months(u[0]); !slices.Equal(got, []string{"0.15 EUR", "36.30 EUR", "not yet known"}) {
		t.Errorf("a month: %q", got)
	}
	if got := months(u[1]); !slices.Equal(got, []string{"not yet known", "not yet known", "not yet known"}) {
		t.Errorf("a month of one that has just begun: %q", got)
	}
	if got := months(u[2]); len(got) != 0 {
		t.Errorf("a month where nothing has a price: %q", got)
	}
	if u[0].Cause != "" || u[0].Retry || u[0].Paused {
		t.Errorf("an uplink that is up: %+v", u[0])
	}
	if u[1].Cause != "Somebody must mend the config or the target: no such stream" || u[1].Advice != "make it" || !u[1].Retry {
		t.Errorf("one that is down: %+v", u[1])
	}
	if !u[2].Paused || u[2].Retry || !strings.Contains(u[2].Backlog.Headline, "Paused by ana") || u[2].Backlog.Severity != 3 {
		t.Errorf("one that is paused: %+v", u[2])
	}
	if e := u[2].Errands; len(e) != 1 || e[0].Title != "Replay 2 of s as t" || e[0].Detail != "3 of 9 records, 1 not kept any more, paused" || !e[0].Cancel {
		t.Errorf("%+v", e)
	}

	m.Asking(at, "c", "resume")
	if u := frame(at); u[2].Said != "resume sent" || !u[2].Asked {
		t.Errorf("asked: %+v", u[2])
	}
	m.Asked(at, "c", errors.New("disk full"))
	if u := frame(at.Add(time.Second)); u[2].Said != "resume failed: disk full" || !u[2].Failed || u[2].Asked {
		t.Errorf("failed: %+v", u[2])
	}
	m.Event(at.Add(10*time.Second), api.Event{Kind: "alarms"})
	if u := frame(at.Add(12 * time.Second)); u[2].Said != "" {
		t.Errorf("later: %+v", u[2])
	}
}
