package expr

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"forebay/spool/record"
)

// A kind is what a slot holds.
type Kind uint8

const (
	None Kind = iota // missing, null, an object or an array
	Number
	Text
	Boolean
)

func (k Kind) String() string { return [...]string{"nothing", "a number", "text", "true or false"}[k] }

// A Value is one decoded field. Text points into the record's payload or into
// the row's memory and lives until the row's next Load.
type Value struct {
	Kind Kind
	Num  float64 // a number, or 1 for true
	Str  []byte  // text
}

// A Row is what expressions see of one record: the fields that any of them
// names, each decoded once. The zero Row is ready; its memory is used again.
type Row struct {
	slots   []Value
	scratch []byte
}

// At is the value of a field by the number that Schema.Field or Schema.Builtin
// gave; nothing where it was not known at the Load.
func (w *Row) At(i int) *Value {
	if i >= len(w.slots) {
		return &Value{}
	}
	return &w.slots[i]
}

// Has reports whether the record has every field that an expression needs,
// with the kind that it is used as. Without them the expression has no answer.
func (w *Row) Has(needs Needs) bool {
	for _, n := range needs {
		k := w.slots[n.slot].Kind
		if k == None || (n.kind != None && n.kind != k) {
			return false
		}
	}
	return true
}

// A Schema is the set of fields that some expressions name, as a tree of the
// paths, so that one pass over the payload finds them all. It is filled before
// the first Load and then only read.
type Schema struct {
	root  wanted
	bare  wanted // the field "value", which a payload that is no object is; slot -1 if nobody asks
	names []string
	paths [][]string
	key   int // slots of the builtin names, -1 if nobody asks
	src   int
	strm  int
	topic int
}

type wanted struct {
	name  string
	slot  int // -1 where only something below is wanted
	below []int
	kids  []*wanted
}

func NewSchema() *Schema {
	return &Schema{root: wanted{slot: -1}, bare: wanted{slot: -1}, key: -1, src: -1, strm: -1, topic: -1}
}

// maxDepth bounds the nesting of a payload that is looked into.
const maxDepth = 1000

func (s *Schema) add(path []string) int {
	id := strings.Join(path, "\x00")
	if i := slices.Index(s.names, id); i >= 0 {
		return i
	}
	n := len(s.names)
	s.names = append(s.names, id)
	s.paths = append(s.paths, path)
	return n
}

// Field is the number of a path in the payload, the same for the same path.
// The path "value" is also what a payload that is a number alone is.
func (s *Schema) Field(path []string) int {
	before := len(s.names)
	i := s.add(path)
	if i < before {
		return i
	}
	w := &s.root
	w.below = append(w.below, i)
	for _, name := range path {
		k := slices.IndexFunc(w.kids, func(k *wanted) bool { return k.name == name })
		if k < 0 {
			w.kids = append(w.kids, &wanted{name: name, slot: -1})
			k = len(w.kids) - 1
		}
		w = w.kids[k]
		w.below = append(w.below, i)
	}
	w.slot = i
	if len(path) == 1 && path[0] == "value" {
		s.bare.slot = i
	}
	return i
}

// Builtin is the number of a name that is not the payload's: key, stream,
// source, topic.
func (s *Schema) Builtin(name string) int {
	i := s.add([]string{"", name})
	switch name {
	case "key":
		s.key = i
	case "stream":
		s.strm = i
	case "source":
		s.src = i
	case "topic":
		s.topic = i
	}
	return i
}

// IsBuiltin reports whether a name is the record's and not the payload's.
func IsBuiltin(name string) bool {
	return name == "key" || name == "stream" || name == "source" || name == "topic"
}

// Load decodes a record, which lies in the given stream. It reports whether the payload could be read: JSON,
// or a number in a form that instruments send ("+023.50"). If not, only the
// builtin names are set.
func (s *Schema) Load(w *Row, stream string, r *record.Record) bool {
	if cap(w.slots) < len(s.names) {
		w.slots = make([]Value, len(s.names))
	}
	w.slots = w.slots[:len(s.names)]
	clear(w.slots)
	w.scratch = w.scratch[:0]
	ok := s.scan(w, r.Data)
	if !ok {
		clear(w.slots)
		if v, isNum := plainNumber(r.Data); isNum {
			ok = true
			if s.bare.slot >= 0 {
				w.slots[s.bare.slot] = Value{Kind: Number, Num: v}
			}
		}
	}
	w.builtin(s.key, r.Key)
	w.builtin(s.strm, stream)
	w.builtin(s.src, r.Source)
	if s.topic >= 0 {
		topic, has := r.Attrs["topic"]
		if !has {
			topic = r.Key
		}
		w.builtin(s.topic, topic)
	}
	return ok
}

func (w *Row) builtin(i int, v string) {
	if i < 0 {
		return
	}
	at := len(w.scratch)
	w.scratch = append(w.scratch, v...)
	w.slots[i] = Value{Kind: Text, Str: w.scratch[at:len(w.scratch):len(w.scratch)]}
}

// plainNumber reads a number that is not JSON's form but an instrument's.
func plainNumber(b []byte) (float64, bool) {
	for len(b) > 0 && (b[0] <= ' ') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] <= ' ') {
		b = b[:len(b)-1]
	}
	if len(b) == 0 || len(b) > 64 {
		return 0, false
	}
	for _, c := range b {
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(string(b), 64)
	return v, err == nil
}

// Path splits a dotted path such as "motor.temp".
func Path(s string) ([]string, error) {
	path := strings.Split(s, ".")
	for _, p := range path {
		if p == "" || strings.ContainsAny(p, " \t\n\"{}") {
			return nil, fmt.Errorf("%q is not the name of a field; write for example value or motor.temp", s)
		}
	}
	return path, nil
}
