package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/inlet"
	"forebay/gateway/internal/localapi"
	"forebay/gateway/internal/rules"
	"forebay/spool"
	"forebay/spool/record"
)

// A plant is the running gateway as its API shows it: every number is read
// from the part that owns it, when somebody asks. Once a second it looks at
// what only shows over time, and reports what an operator should know as
// alarms.
type plant struct {
	g *gateway

	mu       sync.Mutex
	flows    map[*spool.Stream]*flow
	used     []usedAt // of the spool, oldest first
	reported map[string]rules.Condition
	since    map[string]time.Time // when a problem was first seen
	refused  map[string]refusal   // by uplink
}

// A refusal is when an uplink last refused a record, and how many it had then.
type refusal struct {
	n  uint64
	at time.Time
}

// A flow is what a stream's counters said at the last looks.
type flow struct {
	total, bytes [flowWindow + 1]float64
	n            int // looks so far
}

const (
	flowWindow = 10 // seconds
	settle     = 30 * time.Second
	growthSpan = time.Minute // over less than that growth is noise
)

type usedAt struct {
	at    time.Time
	bytes int64
}

func newPlant(g *gateway) *plant {
	return &plant{g: g, flows: map[*spool.Stream]*flow{}, reported: map[string]rules.Condition{}, since: map[string]time.Time{}, refused: map[string]refusal{}}
}

// run looks once a second until ctx ends.
func (p *plant) run(ctx context.Context) error {
	p.adopt()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			p.look()
			p.report()
		}
	}
}

// look takes a sample of what only shows over time.
func (p *plant) look() {
	st := p.g.sp.Stats()
	p.mu.Lock()
	defer p.mu.Unlock()
	streams := p.g.sp.Streams()
	maps.DeleteFunc(p.flows, func(t *spool.Stream, _ *flow) bool { return !slices.Contains(streams, t) })
	for _, t := range streams {
		f := p.flows[t]
		if f == nil {
			f = &flow{}
			p.flows[t] = f
		}
		var total, bytes float64
		for _, sh := range t.Shards() {
			total += float64(sh.Next - 1)
			bytes += float64(sh.Bytes)
		}
		f.total[f.n%(flowWindow+1)], f.bytes[f.n%(flowWindow+1)] = total, bytes
		f.n++
	}
	now := time.Now()
	if now.Sub(p.g.started) < settle {
		return // the files of a fresh start are no growth to go by
	}
	if n := len(p.used); n == 0 || now.Sub(p.used[n-1].at) >= 10*time.Second {
		p.used = append(p.used, usedAt{now, st.Used})
		if len(p.used) > 60 { // ten minutes
			p.used = p.used[1:]
		}
	}
}

func (f *flow) rate() api.Rate {
	if f == nil || f.n < 2 {
		return api.Rate{}
	}
	span := min(f.n-1, flowWindow)
	last, first := (f.n-1)%(flowWindow+1), (f.n-1-span)%(flowWindow+1)
	return api.Rate{
		Records: (f.total[last] - f.total[first]) / float64(span),
		Bytes:   max(0, f.bytes[last]-f.bytes[first]) / float64(span), // what retention took is not a negative flow
		Total:   uint64(f.total[last]),
	}
}

// daysLeft is how long the quota lasts at the growth of the last ten minutes;
// nil where it does not grow.
func (p *plant) daysLeft(room int64) *float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.used) < 2 {
		return nil
	}
	first, last := p.used[0], p.used[len(p.used)-1]
	grown, took := float64(last.bytes-first.bytes), last.at.Sub(first.at).Seconds()
	if grown <= 0 || took < growthSpan.Seconds() {
		return nil
	}
	days := float64(max(room, 0)) / (grown / took) / 86400
	return &days
}

func rateOf(r inlet.Rate) api.Rate {
	return api.Rate{Records: r.Records, Bytes: r.Bytes, Total: r.Total}
}

// Status is the gateway at a glance.
func (p *plant) Status() api.Status {
	st := p.g.sp.Stats()
	uplinks := p.Uplinks()
	s := api.Status{
		Gateway: string(p.g.cfg.Gateway.Name), Title: p.g.cfg.Gateway.Title, Version: version, Epoch: p.g.sp.Identity().Epoch.String(),
		Started: p.g.started.UTC(), Now: p.g.clock.now().UTC(), In: rateOf(p.g.in.Total()),
		Disk:    api.Disk{Used: st.Used, Quota: st.Quota, Free: st.Free, Full: st.Full, DaysLeft: p.daysLeft(min(st.Quota-st.Used, st.Free))},
		Streams: len(p.g.sp.Streams()), Devices: len(p.g.sources), Uplinks: uplinks, Rules: p.g.rules,
		RSS: residentBytes(), Spool: st.Dir, ReadOnly: st.ReadOnly, SafeUntil: st.LastCommit,
		Listening: p.listeners(), Problems: p.problems(),
	}
	s.Disk.Scrub = api.Scrub{Running: st.Scrub.Running, Segments: st.Scrub.Segments, Bytes: st.Scrub.Bytes, Damaged: st.Scrub.Damaged}
	if at := st.Scrub.LastPass; !at.IsZero() {
		s.Disk.Scrub.LastPass = &at
	}
	for _, u := range uplinks {
		s.Disk.Waiting = max(s.Disk.Waiting, u.WaitBytes)
	}
	for _, pump := range p.g.pumps {
		if ms := milliseconds(pump.Status().ClockOffset); ms != nil {
			s.ClockOff = ms
		}
	}
	for _, a := range p.g.loop.Alarms() {
		s.Alarms.All++
		if a.Active() {
			s.Alarms.Active++
		}
		if a.Waiting() {
			s.Alarms.Unacked++
		}
	}
	return s
}

// Ready is nil once every door is open, else it says which is not.
func (p *plant) Ready() error {
	for _, s := range p.g.sources {
		if s.Kind() == "serial" || s.Kind() == "mqtt" { // they wait for others
			continue
		}
		if state, reason := s.Health(); state == "down" {
			return fmt.Errorf("%s is down: %s", s.ID(), reason)
		}
	}
	return nil
}

func (p *plant) listeners() []api.Listener {
	out := []api.Listener{}
	for _, s := range p.g.sources {
		addr := ""
		switch d := s.(type) {
		case interface{ Addr() string }:
			addr = d.Addr()
		case interface{ Addr() net.Addr }:
			if a := d.Addr(); a != nil {
				addr = a.String()
			}
		}
		if addr != "" {
			secure := s.ID() == "mqtt" && p.g.cfg.Broker.TLSCert != "" || s.ID() == "kinesis" && p.g.cfg.Kinesis.TLSCert != ""
			out = append(out, api.Listener{Kind: s.ID(), Addr: addr, TLS: secure})
		}
	}
	if a := p.g.server.Addr(); a != "" {
		out = append(out, api.Listener{Kind: "api", Addr: a, TLS: p.g.cfg.API.TLSCert != ""})
	}
	return out
}

// problems are what stands as a condition now, worst first.
func (p *plant) problems() []api.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []api.Problem{}
	conditions := slices.SortedFunc(maps.Values(p.reported), func(a, b rules.Condition) int {
		if a.Severity != b.Severity {
			return a.Severity - b.Severity
		}
		return len(a.Text) - len(b.Text)
	})
	for _, c := range conditions {
		out = append(out, api.Problem{Kind: c.Source, Text: c.Text, Since: p.since[c.Source+"/"+c.Name].UTC()})
	}
	for _, u := range p.g.cfg.Uplinks {
		for _, name := range u.Streams {
			if _, err := p.g.sp.Stream(name); err != nil && !strings.ContainsAny(name, `*?[\`) {
				out = append(out, api.Problem{Kind: "uplink/" + string(u.ID), Text: fmt.Sprintf("Uplink %s names the stream %q, which does not exist (yet)", u.ID, name), Since: p.g.started.UTC()})
			}
		}
	}
	for _, text := range p.g.loop.Stats().Problems {
		out = append(out, api.Problem{Kind: "rules", Text: text, Since: p.g.started.UTC()})
	}
	return out
}

// Streams lists the streams by name.
func (p *plant) Streams() []api.Stream {
	ledger := p.g.sp.Ledger()
	kept := map[string]spool.StreamLedger{}
	for _, l := range ledger.Streams {
		kept[l.Stream] = l
	}
	out := []api.Stream{}
	for _, t := range p.g.sp.Streams() {
		c := t.Config()
		p.mu.Lock()
		rate := p.flows[t].rate()
		p.mu.Unlock()
		s := api.Stream{
			Name: t.Name(), Class: c.Class.String(), Records: kept[t.Name()].Kept, Total: kept[t.Name()].In, In: rate,
			Retention: keeps(c), Shards: []api.Shard{}, Cursors: []api.Cursor{},
		}
		shards := t.Shards()
		for _, sh := range shards {
			s.Bytes += sh.Bytes
			s.Shards = append(s.Shards, shardOf(sh, shards))
		}
		for _, l := range ledger.Cursors {
			if l.Stream == t.Name() {
				s.Cursors = append(s.Cursors, api.Cursor{Name: l.Name, Pending: l.Pending})
			}
		}
		out = append(out, s)
	}
	return out
}

// shardOf shows one of a stream's shards.
func shardOf(sh spool.Shard, all []spool.Shard) api.Shard {
	state := "open"
	if !sh.Open() {
		state = "closed"
	}
	names := func(ids []record.ShardID) []string {
		out := []string{}
		for _, other := range all {
			if slices.Contains(ids, other.ID) {
				out = append(out, localapi.ShardName(other.Index))
			}
		}
		return out
	}
	return api.Shard{
		ID: localapi.ShardName(sh.Index), Number: uint32(sh.ID), First: sh.First, Next: sh.Next,
		From: fmt.Sprintf("%x", sh.From), To: fmt.Sprintf("%x", sh.To), Oldest: moment(sh.Oldest), Newest: moment(sh.Newest),
		State: state, Parents: names(sh.Parents), Children: names(sh.Children),
	}
}

// keeps says how long a stream keeps what was delivered.
func keeps(c spool.StreamConfig) string {
	var out []string
	if c.MaxAge > 0 {
		out = append(out, c.MaxAge.String())
	}
	if c.MaxBytes > 0 {
		out = append(out, c.MaxBytes.String())
	}
	if len(out) == 0 {
		out = append(out, "until the quota")
	}
	if c.MaxAgeHard > 0 {
		out = append(out, "at most "+c.MaxAgeHard.String())
	}
	return strings.Join(out, ", ")
}

// moment is a time for JSON: null where there is none.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Devices lists the sources.
func (p *plant) Devices() []api.Device {
	flows := map[string]inlet.Stats{}
	for _, s := range p.g.in.Stats() {
		flows[s.Source] = s
	}
	counts := map[string]spool.SourceLedger{}
	for _, l := range p.g.sp.Ledger().Sources {
		counts[l.Source] = l
	}
	out := []api.Device{}
	for _, s := range p.g.sources {
		f, l := flows[s.ID()], counts[s.ID()]
		d := api.Device{ID: s.ID(), Kind: s.Kind(), Stream: f.Stream, LastSeen: f.LastSeen.UTC(), Rate: rateOf(f.Rate), Taken: l.Taken, Shed: l.Shed, Quar: l.Quarantined}
		d.State, d.Reason = s.Health()
		if e, ok := s.(interface{ Errors() uint64 }); ok {
			d.Errors = e.Errors()
		}
		if c, ok := s.(interface{ Clients() int }); ok {
			d.Clients = c.Clients()
		}
		if a, ok := s.(interface{ Aggregates() uint64 }); ok {
			d.Aggregates = a.Aggregates()
		}
		if l, ok := s.(interface {
			Repeated() uint64
			Unchecked() uint64
			MarksLost() uint64
		}); ok {
			d.Repeated, d.Unchecked, d.MarksLost = l.Repeated(), l.Unchecked(), l.MarksLost()
		}
		out = append(out, d)
	}
	return out
}

// Alarms lists the alarms, what waits for an acknowledgement first.
func (p *plant) Alarms() []api.Alarm {
	out := []api.Alarm{}
	for _, a := range p.g.loop.Alarms() {
		out = append(out, api.Alarm{
			ID: a.ID, Rule: a.Rule, Key: a.Key, Severity: a.Severity, State: a.State, Text: a.Text, Value: a.Value, Unit: a.Unit,
			Raised: a.Raised.UTC(), Changed: a.Changed.UTC(), AckedBy: a.AckedBy, Note: a.Note,
		})
	}
	return out
}

// Ack acknowledges alarms; it is on disk when Ack returns.
func (p *plant) Ack(ctx context.Context, r api.AckRequest) (api.AckResult, error) {
	acked, unknown, err := p.g.loop.Ack(ctx, r.IDs, r.By, r.Note)
	if err != nil {
		return api.AckResult{}, fmt.Errorf("acknowledge: %w", err)
	}
	return api.AckResult{Acked: nonNil(acked), Unknown: nonNil(unknown)}, nil
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// AlarmsChanged is signalled after the alarms changed.
func (p *plant) AlarmsChanged() <-chan struct{} { return p.g.loop.Changed() }

// Points lists the tiles; the most urgent active alarm about a point's key is
// shown with it.
func (p *plant) Points(trend bool) []api.Point {
	worst := map[string]int{}
	for _, a := range p.g.loop.Alarms() {
		if (a.Active() || a.Waiting()) && (worst[a.Key] == 0 || a.Severity < worst[a.Key]) {
			worst[a.Key] = a.Severity
		}
	}
	out := []api.Point{}
	for _, v := range p.g.keeper.Snapshot(trend) {
		pt := api.Point{
			ID: v.ID, Label: v.Label, Place: v.Place, Unit: v.Unit, Low: v.Low, High: v.High, NormLow: v.NormLow, NormHi: v.NormHi,
			Limit: v.Limit, Value: v.Value, At: v.At, Quality: v.Quality, Alarm: worst[v.Key],
		}
		for _, c := range v.Trend {
			pt.Trend = append(pt.Trend, api.Sample(c))
		}
		out = append(out, pt)
	}
	return out
}

// Ledger says for every record where it went.
func (p *plant) Ledger() api.Ledger {
	return ledgerOf(p.g.sp.Ledger(), p.g.sp.Identity(), p.g.clock.now())
}

// maxStill bounds the picture that is handed to a console, in bytes.
const maxStill = 8 << 20

// Frame is the newest still of a camera.
func (p *plant) Frame(_ context.Context, camera string) ([]byte, time.Time, error) {
	c, ok := p.g.cams.Camera(camera)
	if !ok || c.LastFrame == nil || c.Frame.IsZero() {
		return nil, time.Time{}, fmt.Errorf("camera %q has no picture: %w", camera, record.ErrNoStream)
	}
	b, err := still(p.g.sp, c.Frame, maxStill)
	return b, *c.LastFrame, err
}
