// Package shape is what an uplink does to records before they are sent: it
// leaves some out, thins series of values, and changes payloads. A Cursor does
// it between the log's cursor and the lane, so that what is left out is counted
// as filtered, and nothing else of an uplink knows of it.
package shape

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/expr"
	"forebay/spool/record"
	"forebay/uplink/envelope"
)

// quality is the field of a measurement whose change is always sent.
const quality = "quality"

// An entry is a Config that was compiled. It is not changed any more.
type entry struct {
	cfg    Config
	keys   []conf.Filter // none: all
	schema *expr.Schema  // nil: the payload is not looked at
	when   expr.Cond
	needs  expr.Needs
	unsure bool // a record of which `when` cannot tell is sent
	bands  []band
	asked  int // the first of the bands are those of the config; quality follows
	quiet  int64
	every  int64
	proj   *projection
	attrs  map[string]string
}

type band struct {
	field   int // in the schema
	by      float64
	percent bool
}

// compile makes an entry; the error begins with the name of the field.
func compile(c Config) (*entry, error) {
	if err := c.simple(); err != nil {
		return nil, err
	}
	e := &entry{cfg: c, unsure: c.Unsure == "send", every: int64(c.Every.D()), attrs: c.Attrs}
	for _, k := range c.Keys {
		f, err := conf.ParseFilter(k)
		if err != nil {
			return nil, fmt.Errorf("keys: %w", err)
		}
		e.keys = append(e.keys, f)
	}
	var err error
	s := expr.NewSchema()
	if c.When != "" {
		e.schema = s
		if e.when, e.needs, err = expr.NewCompiler(s, "filter").Condition(c.When); err != nil {
			return nil, fmt.Errorf("when: %w", err)
		}
	}
	if len(c.Deadband) > 0 {
		e.schema = s
		e.quiet = int64(c.MaxSilence.Or(DefaultMaxSilence))
		if err := e.deadband(s); err != nil {
			return nil, err
		}
	} else if c.MaxSilence != 0 && c.MaxSilence.D() != DefaultMaxSilence {
		return nil, errors.New("max_silence: there is no deadband that would be silent")
	}
	if e.proj, err = newProjection(&c); err != nil {
		return nil, err
	}
	if e.proj != nil {
		e.schema = s // it finds out whether the payload is JSON
	}
	return e, nil
}

func (e *entry) deadband(s *expr.Schema) error {
	for _, name := range sorted(e.cfg.Deadband) {
		path, err := expr.Path(name)
		if err != nil {
			return fmt.Errorf("deadband: %w", err)
		}
		b := e.cfg.Deadband[name]
		by := b.By
		if b.Percent {
			by /= 100
		}
		e.bands = append(e.bands, band{s.Field(path), by, b.Percent})
	}
	e.asked = len(e.bands)
	if _, own := e.cfg.Deadband[quality]; !own {
		e.bands = append(e.bands, band{field: s.Field([]string{quality})})
	}
	return nil
}

// stateful reports whether what is sent depends on what was sent before.
func (e *entry) stateful() bool { return len(e.bands) > 0 || e.every > 0 }

func (e *entry) match(key string) bool {
	if len(e.keys) == 0 {
		return true
	}
	for i := range e.keys {
		if e.keys[i].Match(key) {
			return true
		}
	}
	return false
}

// A Shape is the entries of one uplink. It is not changed any more, and may be
// used by many cursors at once.
type Shape struct{ entries []*entry }

// New compiles the entries of an uplink. The error names the entry, from 1, and
// its field: "shape[2].when: ...".
func New(entries []Config) (*Shape, error) {
	s := &Shape{}
	for i, c := range entries {
		e, err := compile(c)
		if err != nil {
			return nil, fmt.Errorf("shape[%d].%w", i+1, err)
		}
		s.entries = append(s.entries, e)
	}
	return s, nil
}

// Empty reports whether there is no entry for the stream.
func (s *Shape) Empty(stream string) bool { return len(s.of(stream)) == 0 }

func (s *Shape) of(stream string) []*entry {
	var out []*entry
	for _, e := range s.entries {
		if e.cfg.matches(stream) {
			out = append(out, e)
		}
	}
	return out
}

const (
	// maxKeys bounds the keys of a lane that are remembered. Of one that is
	// forgotten the next record is sent.
	maxKeys = 8192
	// An era is so many records of a shard. With each a lane begins anew: what
	// it knows depends on the records of the era alone, which a restart reads
	// again. It is a power of two.
	era = 1 << 18
)

// A filter is what one lane does to its records, and what it remembers of those
// it sent. The same records in the same order have the same outcome.
type filter struct {
	stream   string
	entries  []*entry
	row      expr.Row
	readable bool // the payload of the record judged last
	keys     map[string]*keyState
	recent   keyState // of the ring: next is the key used last
	era      uint64
	seed     maphash.Seed
	merged   []mergedAttrs
}

// A keyState is what is known of a key.
type keyState struct {
	key        string
	entry      *entry // nil: none matches
	sent       bool
	at         int64 // of the record that was sent last, ns
	arrived    int64
	last       []held
	prev, next *keyState
}

// held is the value of a field that was sent last.
type held struct {
	kind    expr.Kind
	num     float64
	text    uint64 // its hash
	at      int64
	arrived int64
}

type mergedAttrs struct {
	entry   *entry
	of, out map[string]string
}

func (s *Shape) filter(stream string) *filter {
	f := &filter{stream: strings.Clone(stream), entries: s.of(stream), keys: map[string]*keyState{}, seed: maphash.MakeSeed()}
	f.recent.prev, f.recent.next = &f.recent, &f.recent
	return f
}

func (f *filter) stateful() bool {
	for _, e := range f.entries {
		if e.stateful() {
			return true
		}
	}
	return false
}

// forget begins anew.
func (f *filter) forget() {
	clear(f.keys)
	f.recent.prev, f.recent.next = &f.recent, &f.recent
}

// of is what is known of a key; the one that was not used for longest makes
// room.
func (f *filter) of(key string) *keyState {
	k := f.keys[key]
	if k == nil {
		if len(f.keys) >= maxKeys {
			old := f.recent.prev
			old.unlink()
			delete(f.keys, old.key)
		}
		k = &keyState{key: strings.Clone(key)} // the record is a view
		for _, e := range f.entries {
			if e.match(key) {
				k.entry, k.last = e, make([]held, len(e.bands))
				break
			}
		}
		f.keys[k.key] = k
	} else if f.recent.next == k {
		return k
	} else {
		k.unlink()
	}
	k.prev, k.next = &f.recent, f.recent.next
	k.prev.next, k.next.prev = k, k
	return k
}

func (k *keyState) unlink() { k.prev.next, k.next.prev = k.next, k.prev }

// A verdict is what becomes of a record.
type verdict uint8

const (
	leaveOut  verdict = iota
	send              // as it is
	transform         // with the payload or the attributes changed; the row is loaded
)

// judge decides about a record. inside is the record itself, or what is in the
// envelope that it is.
func (f *filter) judge(seq uint64, inside *record.Record) (*entry, verdict) {
	if now := seq / era; now != f.era {
		f.era = now
		f.forget()
	}
	k := f.of(inside.Key)
	e := k.entry
	if e == nil {
		return nil, send
	}
	if e.schema != nil {
		f.readable = e.schema.Load(&f.row, f.stream, inside)
	}
	if e.when != nil {
		if !f.row.Has(e.needs) {
			if !e.unsure {
				return e, leaveOut
			}
		} else if !e.when(&f.row) {
			return e, leaveOut
		}
	}
	if e.stateful() && !f.due(e, k, inside) {
		return e, leaveOut
	}
	if e.proj != nil || len(e.attrs) > 0 {
		return e, transform
	}
	return e, send
}

// due decides about a record that is sent unless deadband and interval say
// otherwise, and remembers it where it is sent.
func (f *filter) due(e *entry, k *keyState, r *record.Record) bool {
	arrived := nanos(r.Arrived)
	at := arrived
	if !r.At.IsZero() {
		at = nanos(r.At)
	}
	if len(e.bands) > 0 && !f.moved(e, k, at, arrived) {
		return false
	}
	// A sender whose clock stands still is thinned by the arrival.
	if e.every > 0 && k.sent && window(at, e.every) == window(k.at, e.every) && distance(arrived, k.arrived)/2 < uint64(e.every) {
		return false
	}
	k.sent, k.at, k.arrived = true, at, arrived
	for i := range e.bands {
		if v := f.row.At(e.bands[i].field); v.Kind != expr.None {
			k.last[i] = held{v.Kind, v.Num, f.hash(v), at, arrived}
		}
	}
	return true
}

// moved reports whether a field has left its deadband, or was silent for too
// long; or there is no field that could.
func (f *filter) moved(e *entry, k *keyState, at, arrived int64) bool {
	there := false
	for i := range e.bands {
		b, h := &e.bands[i], &k.last[i]
		v := f.row.At(b.field)
		if v.Kind == expr.None {
			continue
		}
		there = there || i < e.asked
		if v.Kind != h.kind || distance(at, h.at) >= uint64(e.quiet) || distance(arrived, h.arrived) >= uint64(e.quiet) {
			return true
		}
		switch v.Kind {
		case expr.Number:
			by := b.by
			if b.percent {
				by *= math.Abs(h.num)
			}
			if math.Abs(v.Num-h.num) > by {
				return true
			}
		case expr.Boolean:
			if v.Num != h.num {
				return true
			}
		case expr.Text:
			if f.hash(v) != h.text {
				return true
			}
		}
	}
	return !there
}

func (f *filter) hash(v *expr.Value) uint64 {
	if v.Kind != expr.Text {
		return 0
	}
	return maphash.Bytes(f.seed, v.Str)
}

// nanos is a time as a number; one that is too far off is a number too.
func nanos(t time.Time) int64 { return t.UnixNano() }

// window numbers the intervals of a length.
func window(at, length int64) int64 {
	n := at / length
	if at%length < 0 {
		n--
	}
	return n
}

func distance(a, b int64) uint64 {
	if a < b {
		a, b = b, a
	}
	return uint64(a) - uint64(b)
}

// attributes are r's with the entry's. The result is shared by records and not
// changed any more.
func (f *filter) attributes(e *entry, of map[string]string) map[string]string {
	if len(e.attrs) == 0 {
		return of
	}
	if len(of) == 0 {
		return e.attrs
	}
	for i := range f.merged {
		if m := &f.merged[i]; m.entry == e && maps.Equal(m.of, of) {
			return m.out
		}
	}
	m := mergedAttrs{e, make(map[string]string, len(of)), make(map[string]string, len(of)+len(e.attrs))}
	for k, v := range of {
		k, v = strings.Clone(k), strings.Clone(v)
		m.of[k], m.out[k] = v, v
	}
	maps.Copy(m.out, e.attrs)
	const few = 4
	if len(f.merged) >= few {
		f.merged = append(f.merged[:0], f.merged[1:]...)
	}
	f.merged = append(f.merged, m)
	return m.out
}

// opened is the record inside an envelope.
func opened(r *record.Record) (record.Record, bool) {
	in, err := envelope.Open(r.Data)
	if err != nil {
		return record.Record{}, false // a payload of somebody else
	}
	out := *r
	if in.Key != "" {
		out.Key = in.Key
	}
	out.At, out.Type, out.Attrs, out.Data = in.At, in.Type, in.Attrs, in.Data
	if out.At.IsZero() {
		out.At = in.Arrived
	}
	return out, true
}

// version changes when the same entries would decide otherwise.
const version = 1

// Print changes when the same records would be decided otherwise.
func (s *Shape) Print() (string, error) {
	var cfg []Config
	for _, e := range s.entries {
		c := e.cfg.WithDefaults()
		c.Fields, c.Drop = append([]string{}, c.Fields...), append([]string{}, c.Drop...) // none is none
		cfg = append(cfg, c)
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return "", fmt.Errorf("write down a shape: %w", err)
	}
	sum := sha256.Sum256(fmt.Appendf(b, " %d %d %d", version, era, maxKeys))
	return hex.EncodeToString(sum[:16]), nil
}
