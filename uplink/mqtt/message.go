package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

// A message is what one record, or one part of it, becomes.
type message struct {
	topic   string
	payload []byte
}

func (m message) size() int { return len(m.topic) + len(m.payload) }

// A writer makes messages of records. It is not safe for concurrent use.
type writer struct {
	cfg   Config // with defaults
	topic Template
	place Place
	env   *envelope.Writer // nil: the payload alone
	buf   []byte
}

func newWriter(cfg Config, t Template, id record.Identity) *writer {
	w := &writer{cfg: cfg, topic: t, place: Place{Gateway: id.Gateway}}
	if cfg.Format != "raw" {
		w.env = envelope.New(id)
	}
	return w
}

// messages appends those of a record to dst. What they hold is theirs. The
// error says why the record can never travel.
func (w *writer) messages(dst []message, l *lane.Lane, r *record.Record) ([]message, error) {
	if w.env == nil || !kpl.IsAggregate(r.Data) {
		return w.add(dst, l, r, 0)
	}
	in, err := kpl.Decode(r.Data)
	if err != nil || in.Len() == 0 {
		return w.add(dst, l, r, 0)
	}
	one := *r
	for i, x := range in.All() {
		one.Key, one.Data = x.Key, x.Data
		if dst, err = w.add(dst, l, &one, i+1); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func (w *writer) add(dst []message, l *lane.Lane, r *record.Record, part int) ([]message, error) {
	m := message{}
	if w.env == nil || envelope.Forwarded(r) {
		m.payload = slices.Clone(r.Data)
	} else {
		w.buf = w.env.AppendPart(w.buf[:0], l.Stream, r, part)
		m.payload = slices.Clone(w.buf)
	}
	w.place.Stream, w.place.Shard, w.place.Source, w.place.Key = l.Stream, uint32(l.Shard), r.Source, keyOf(r)
	w.buf = w.topic.Fill(w.buf[:0], &w.place, clean)
	// A topic that begins with $ is the broker's own; a record does not get there.
	if len(w.buf) == 0 {
		return dst, fmt.Errorf("the topic that %q makes of the key %q is empty", w.cfg.Topic, shortened(r.Key))
	}
	if w.buf[0] == '$' && w.topic.parts[0].name != "" {
		w.buf = append([]byte("%24"), w.buf[1:]...)
	}
	m.topic = string(w.buf)
	if err := w.fits(m); err != nil {
		return dst, err
	}
	return append(dst, m), nil
}

// keyOf is the record's key, or the topic that was too long to be one.
func keyOf(r *record.Record) string {
	if topic := r.Attrs["topic"]; topic != "" {
		if key, long := record.KeyOf(topic); long && key == r.Key {
			return topic
		}
	}
	return r.Key
}

// fits says what is wrong with a message, if the broker can never take it.
func (w *writer) fits(m message) error {
	c, topic := &w.cfg, m.topic
	if c.AWS() {
		// The first three levels of a rule's topic do not count.
		if rest, ok := strings.CutPrefix(topic, "$aws/rules/"); ok {
			_, topic, _ = strings.Cut(rest, "/")
		}
	}
	switch n := strings.Count(topic, "/"); {
	case len(topic) > c.MaxTopic:
		return fmt.Errorf("the topic has %d bytes, the broker takes %d (max_topic)", len(topic), c.MaxTopic)
	case c.MaxSlashes > 0 && n > c.MaxSlashes:
		return fmt.Errorf("the topic %q has %d slashes, the broker takes %d (max_slashes)", shortened(topic), n, c.MaxSlashes)
	case len(m.payload) > int(c.MaxPayload):
		return fmt.Errorf("the message has %d bytes, the broker takes %d (max_payload)", len(m.payload), int64(c.MaxPayload))
	case m.size()+4 > maxPacket:
		return fmt.Errorf("the message has %d bytes, MQTT takes %d", m.size()+4, maxPacket)
	}
	return nil
}

func shortened(s string) string {
	if len(s) <= 100 {
		return s
	}
	return strings.ToValidUTF8(s[:100], "") + "…"
}

const hexDigits = "0123456789ABCDEF"

// clean appends what fills a place of a topic: no wildcard and no control
// character stands in one (4.7.1.1, 1.5.3), and it is UTF-8.
func clean(dst []byte, s string) []byte {
	for _, r := range s {
		switch {
		case r == '+', r == '#', r < 0x20, r == 0x7f:
			dst = append(dst, '%', hexDigits[r>>4&15], hexDigits[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}
