package kafka

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Headers of a record. Those but the id and via stand in raw records only; in
// the others the envelope says the same.
const (
	headerID      = "id"      // the record's name in the world
	headerVia     = "via"     // what we call a record that keeps another gateway's id
	headerStream  = "stream"  // where it lay
	headerSource  = "source"  // who took it
	headerType    = "type"    // media type of the value
	headerAt      = "at"      // the sender's time, RFC 3339
	headerArrived = "arrived" // our time, RFC 3339
	headerAttr    = "attr."   // before the name of an attribute
)

// ahead is by how much a record's time may lie before its arrival; brokers
// refuse what is an hour ahead of their clock
// (message.timestamp.after.max.ms).
const ahead = time.Hour

// A maker makes Kafka records of ours. Keys, values and headers lie in its own
// memory; they are valid until reset. It is not safe for concurrent use.
type maker struct {
	id    record.Identity
	env   *envelope.Writer // nil: the payload alone
	arena []byte
	heads []kgo.RecordHeader
	names []string
}

func newMaker(id record.Identity, raw bool) *maker {
	m := &maker{id: id}
	if !raw {
		m.env = envelope.NewBeside(id)
	}
	return m
}

// reset gives the memory of all records back.
func (m *maker) reset() {
	m.arena = m.arena[:0]
	clear(m.heads)
	m.heads = m.heads[:0]
}

// text copies what f appends into the arena. Growing it leaves what was given
// out where it is.
func (m *maker) text(f func(dst []byte) []byte) []byte {
	at := len(m.arena)
	m.arena = f(m.arena)
	return m.arena[at:len(m.arena):len(m.arena)]
}

func (m *maker) copy(b []byte) []byte {
	return m.text(func(dst []byte) []byte { return append(dst, b...) })
}

func (m *maker) copyString(s string) []byte {
	return m.text(func(dst []byte) []byte { return append(dst, s...) })
}

// add appends to dst what a record of ours is in the topic: one record, or as
// many as there are in the aggregate that was stored as one.
func (m *maker) add(dst []kgo.Record, topic, stream string, r *record.Record) []kgo.Record {
	if a := kpl.Open(r.Data); a != nil {
		one := *r
		for i, x := range a.All() {
			one.Key, one.Data = x.Key, x.Data
			dst = append(dst, m.one(topic, stream, &one, i+1))
		}
		return dst
	}
	return append(dst, m.one(topic, stream, r, 0))
}

// one makes a record; n is its place in the stored one, 0 if it is that.
func (m *maker) one(topic, stream string, r *record.Record, n int) kgo.Record {
	out := kgo.Record{Topic: topic, Key: m.copyString(r.Key), Timestamp: timestamp(r)}
	at := len(m.heads)
	own := m.idOf(r, n)
	switch {
	case m.env == nil:
		m.head(headerID, own)
		out.Value = m.copy(r.Data)
		m.describe(stream, r)
	case envelope.Forwarded(r):
		if o, err := envelope.Open(r.Data); err == nil {
			m.head(headerID, m.copyString(o.ID))
			m.head(headerVia, own)
		} else {
			m.head(headerID, own)
		}
	default:
		m.head(headerID, own)
	}
	if m.env != nil {
		out.Value = m.text(func(dst []byte) []byte { return m.env.AppendPart(dst, stream, r, n) })
	}
	out.Headers = m.heads[at:len(m.heads):len(m.heads)]
	return out
}

func (m *maker) head(key string, value []byte) {
	m.heads = append(m.heads, kgo.RecordHeader{Key: key, Value: value})
}

func (m *maker) idOf(r *record.Record, n int) []byte {
	id := m.id
	if r.Origin != nil {
		id.Gateway, id.Epoch = r.Origin.Gateway, r.Origin.Epoch
	}
	return m.text(func(dst []byte) []byte {
		dst = id.AppendID(dst, r.Pos)
		if n > 0 {
			dst = fmt.Appendf(dst, "/%d", n)
		}
		return dst
	})
}

// describe adds the headers of a raw record.
func (m *maker) describe(stream string, r *record.Record) {
	m.head(headerStream, m.copyString(stream))
	m.head(headerSource, m.copyString(r.Source))
	if r.Type != "" {
		m.head(headerType, m.copyString(r.Type))
	}
	if !r.At.IsZero() {
		m.head(headerAt, m.time(r.At))
	}
	if !r.Arrived.IsZero() {
		m.head(headerArrived, m.time(r.Arrived))
	}
	m.names = slices.AppendSeq(m.names[:0], maps.Keys(r.Attrs))
	slices.Sort(m.names)
	for _, k := range m.names {
		m.head(headerAttr+k, m.copyString(r.Attrs[k]))
	}
}

func (m *maker) time(t time.Time) []byte {
	return m.text(func(dst []byte) []byte { return t.UTC().AppendFormat(dst, time.RFC3339Nano) })
}

// timestamp is the record's time as Kafka keeps it: the sender's, where it
// gave one that can be, else when it arrived.
func timestamp(r *record.Record) time.Time {
	t := r.Arrived
	if !r.At.IsZero() && (t.IsZero() || !r.At.After(t.Add(ahead))) {
		t = r.At
	}
	if t.UnixMilli() < 0 {
		return r.Arrived
	}
	return t
}

// size is at least what a record takes in a batch, in bytes.
func size(r *kgo.Record) int {
	n := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}
