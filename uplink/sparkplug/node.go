package sparkplug

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

const (
	bdSeqName   = "bdSeq"
	rebirthName = "Node Control/Rebirth"
	// smallValue is up to how many bytes a text stands in a birth that would
	// be too large with all of them.
	smallValue = 256
)

// A metric is one that the node has said or will say, with its last value.
type metric struct {
	name  string
	alias uint64
	typ   Datatype // Unknown: only nulls so far
	last  Value
	time  uint64
	held  bool // last is set
	stale bool // it was last said as history: a host does not show it
}

// A device is one that records named.
type device struct {
	name    string
	metrics map[string]*metric
	list    []*metric
	unborn  bool // its birth is due: it has metrics that none told of
}

// A registry is all that the node knows of devices and metrics. It outlives
// sessions. Whoever uses it holds the sink's lock.
type registry struct {
	devices map[string]*device
	list    []*device
	count   int
	aliases uint64
	limit   int
	stale   map[laneID]map[*metric]string // the device of each
}

type laneID struct {
	stream string
	shard  record.ShardID
}

func idOf(l *lane.Lane) laneID { return laneID{l.Stream, l.Shard} }

// learn makes room for samples. The error says why there is none.
func (g *registry) learn(ss []sample) error {
	for i := range ss {
		s := &ss[i]
		d := g.devices[s.device]
		if d == nil {
			d = &device{name: s.device, metrics: make(map[string]*metric)}
		}
		m := d.metrics[s.metric]
		if m == nil {
			if g.count >= g.limit {
				return fmt.Errorf("the metric %.100q of the device %.100q would be number %d (max_metrics)", s.metric, s.device, g.count+1)
			}
			if g.devices == nil {
				g.devices = make(map[string]*device)
			}
			if g.devices[s.device] == nil {
				g.devices[s.device] = d
				g.list = append(g.list, d)
			}
			g.count++
			g.aliases++
			m = &metric{name: s.metric, alias: g.aliases}
			d.metrics[s.metric] = m
			d.list = append(d.list, m)
			d.unborn = true
		}
		if t := join(m.typ, s.value.Type); t != m.typ {
			m.typ, m.last = t, m.last.as(t)
			d.unborn = true
		}
	}
	return nil
}

// say notes that a sample is sent, for the lane's history.
func (g *registry) say(l laneID, s *sample) *metric {
	m := g.devices[s.device].metrics[s.metric]
	if !s.historical || !m.held || s.time >= m.time {
		m.last, m.time, m.held = s.value.as(m.typ), s.time, true
	}
	if m.stale = s.historical; m.stale {
		if g.stale == nil {
			g.stale = make(map[laneID]map[*metric]string)
		}
		if g.stale[l] == nil {
			g.stale[l] = make(map[*metric]string)
		}
		g.stale[l][m] = s.device
	}
	return m
}

// restate gives the last values that the lane said as history and nothing
// newer has followed, oldest first, as samples of the present.
func (g *registry) restate(l laneID) []sample {
	var ss []sample
	for m, device := range g.stale[l] {
		if m.stale {
			ss = append(ss, sample{device: device, metric: m.name, time: m.time, value: m.last})
		}
	}
	delete(g.stale, l)
	slices.SortFunc(ss, func(a, b sample) int {
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.time, b.time), cmp.Compare(a.metric, b.metric))
	})
	return ss
}

// nodeBirth is the node's own (6.4.19): it has no metrics but the two that
// every node has.
func nodeBirth(bdSeq uint8, now time.Time) *Payload {
	at := uint64(now.UnixMilli())
	return &Payload{Time: at, Metrics: []Metric{
		{Name: bdSeqName, Time: at, Type: Int64, Value: Value{Type: Int64, Int: uint64(bdSeq)}},
		{Name: rebirthName, Time: at, Type: Boolean, Value: Value{Type: Boolean}},
	}}
}

// death is the NDEATH of a session: no seq, and bdSeq alone (6.4.27).
func death(bdSeq uint8, now time.Time) []byte {
	at := uint64(now.UnixMilli())
	p := Payload{Time: at, Metrics: []Metric{{Name: bdSeqName, Time: at, Type: Int64, Value: Value{Type: Int64, Int: uint64(bdSeq)}}}}
	return p.Append(nil)
}

// birth is a device's: every metric with its type and last value.
func (d *device) birth(aliases bool, limit int, now time.Time) *Payload {
	p := &Payload{Time: uint64(now.UnixMilli())}
	size := 0
	for _, m := range d.list {
		x := Metric{Name: m.name, Time: m.time, Type: m.typ, Value: m.last}
		if aliases {
			x.Alias = m.alias
		}
		if x.Type == Unknown {
			x.Type = String
		}
		if !m.held {
			x.Time = p.Time
		}
		x.Null = !m.held || m.last.Type == Unknown
		size += weight(m.name, &m.last)
		p.Metrics = append(p.Metrics, x)
	}
	for i := range p.Metrics {
		if v := &p.Metrics[i].Value; size > limit && len(v.Text)+len(v.Bytes) > smallValue {
			size -= len(v.Text) + len(v.Bytes)
			p.Metrics[i].Null = true
		}
	}
	return p
}

// weight is what a metric makes in a message, in bytes, or a little less.
func weight(name string, v *Value) int { return len(name) + len(v.Text) + len(v.Bytes) + 48 }
