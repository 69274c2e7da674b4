package shape

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"forebay/gateway/expr"
	"forebay/uplink/envelope"
)

// A projection makes a JSON object into another: it keeps, takes out and
// renames members, and adds some. It is pure: the same bytes give the same
// bytes. Values are copied as they stand, white space inside included.
type projection struct {
	root *node
	only bool // what root does not name is left out
	set  []member
}

// A node is what is done to one member, and to those below it.
type node struct {
	name    string
	keep    bool // with all that is below
	drop    bool
	inside  bool   // something below is kept
	to      string // new name, "" where it keeps its own
	quoted  []byte // the new name as it stands in JSON, with the colon
	kids    []*node
	renames bool // one of the kids gets a new name
}

type member struct {
	name string
	text []byte // "name":value
}

// newProjection makes the projection that a config asks for; nil if none.
func newProjection(c *Config) (*projection, error) {
	if len(c.Fields) == 0 && len(c.Drop) == 0 && len(c.Rename) == 0 && len(c.Set) == 0 {
		return nil, nil
	}
	p := &projection{root: &node{}, only: len(c.Fields) > 0}
	for _, f := range c.Fields {
		n, err := p.root.at(f)
		if err != nil {
			return nil, fmt.Errorf("fields: %w", err)
		}
		n.keep = true
	}
	for _, f := range c.Drop {
		n, err := p.root.at(f)
		if err != nil {
			return nil, fmt.Errorf("drop: %w", err)
		}
		if n.keep {
			return nil, fmt.Errorf("drop: %q stands in fields too", f)
		}
		n.drop = true
	}
	p.root.settle()
	if err := p.names(c); err != nil {
		return nil, err
	}
	return p, p.constants(c)
}

func (p *projection) names(c *Config) error {
	for _, f := range sorted(c.Rename) {
		to := c.Rename[f]
		if to == "" || strings.Contains(to, ".") {
			return fmt.Errorf("rename: %q is not a new name for %s; write one without dots: the field stays in its object", to, f)
		}
		n, err := p.root.at(f)
		if err != nil {
			return fmt.Errorf("rename: %w", err)
		}
		if !p.sends(f) {
			return fmt.Errorf("rename: %q is left out by fields or drop", f)
		}
		n.to, n.quoted = to, append(quote(to), ':')
		parent, i := p.root, strings.LastIndexByte(f, '.')
		if i >= 0 {
			if parent, err = p.root.at(f[:i]); err != nil {
				return fmt.Errorf("rename: %w", err)
			}
		}
		parent.renames = true
		for _, k := range parent.kids {
			if k != n && k.to == to {
				return fmt.Errorf("rename: both %q and %q would be %q", k.name, n.name, to)
			}
		}
	}
	return nil
}

func (p *projection) constants(c *Config) error {
	if len(c.Set) > maxPaths {
		return fmt.Errorf("set: has %d fields; at most %d are allowed", len(c.Set), maxPaths)
	}
	for _, name := range sorted(c.Set) {
		if name == "" {
			return errors.New("set: a field needs a name")
		}
		for _, k := range p.root.kids {
			if k.to == name || k.to != "" && k.name == name {
				return fmt.Errorf("set: %q is renamed to %q; a name that stands there cannot be set", k.name, k.to)
			}
		}
		v, err := constant(c.Set[name])
		if err != nil {
			return fmt.Errorf("set: %s: %w", name, err)
		}
		p.set = append(p.set, member{name, append(append(quote(name), ':'), v...)})
	}
	return nil
}

func sorted[V any](m map[string]V) []string {
	var names []string
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// quote is a string as JSON.
func quote(s string) []byte { return append(envelope.AppendEscaped([]byte{'"'}, s), '"') }

// at is the node of a path, made if it is not there.
func (n *node) at(f string) (*node, error) {
	names, err := expr.Path(f)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		k := n.kid([]byte(name))
		if k == nil {
			if len(n.kids) >= maxPaths {
				return nil, fmt.Errorf("more than %d fields are named", maxPaths)
			}
			k = &node{name: name}
			n.kids = append(n.kids, k)
		}
		n = k
	}
	return n, nil
}

func (n *node) kid(name []byte) *node {
	for _, k := range n.kids {
		if k.name == string(name) {
			return k
		}
	}
	return nil
}

// sends reports whether a field, where there is one, is sent.
func (p *projection) sends(f string) bool {
	n, kept := p.root, !p.only
	for name := range strings.SplitSeq(f, ".") {
		if n = n.kid([]byte(name)); n == nil {
			return kept
		}
		if n.drop {
			return false
		}
		kept = kept || n.keep
	}
	return kept || n.inside
}

// settle finds the nodes that have something to keep below.
func (n *node) settle() bool {
	for _, k := range n.kids {
		if k.settle() || k.keep {
			n.inside = true
		}
	}
	return n.inside
}

// apply appends to dst what becomes of a payload that is known to be JSON. ok
// is false where that is no object: it stays as it is.
func (p *projection) apply(dst, data []byte) (out []byte, ok bool) {
	i := space(data, 0)
	if i >= len(data) || data[i] != '{' {
		return dst, false
	}
	dst = p.object(dst, data[i:], p.root, p.only, true)
	return dst, true
}

// object writes an object, which data begins with.
func (p *projection) object(dst, data []byte, n *node, only, top bool) []byte {
	var taken uint64 // kids that get a new name and are there
	if n.renames {
		for m := range members(data) {
			if i := slices.IndexFunc(n.kids, func(k *node) bool { return k.name == string(m.name) }); i >= 0 && n.kids[i].to != "" {
				taken |= 1 << i
			}
		}
	}
	dst = append(dst, '{')
	begin := len(dst)
	for m := range members(data) {
		k := n.kid(m.name)
		switch {
		case k == nil && only, k != nil && k.drop, top && p.sets(m.name):
			continue
		case (k == nil || k.to == "") && taken != 0 && n.gives(m.name, taken):
			continue // the name belongs to another now
		case k != nil && only && !k.keep && (m.value[0] != '{' || !k.inside):
			continue
		}
		if len(dst) > begin {
			dst = append(dst, ',')
		}
		if k != nil && k.to != "" {
			dst = append(dst, k.quoted...)
		} else {
			dst = append(append(dst, m.raw...), ':')
		}
		if k != nil && len(k.kids) > 0 && m.value[0] == '{' {
			dst = p.object(dst, m.value, k, only && !k.keep, false)
		} else {
			dst = append(dst, m.value...)
		}
	}
	if top {
		for i := range p.set {
			if len(dst) > begin {
				dst = append(dst, ',')
			}
			dst = append(dst, p.set[i].text...)
		}
	}
	return append(dst, '}')
}

func (p *projection) sets(name []byte) bool {
	for i := range p.set {
		if p.set[i].name == string(name) {
			return true
		}
	}
	return false
}

// gives reports whether one of the kids that are there gets this name.
func (n *node) gives(name []byte, there uint64) bool {
	for i, k := range n.kids {
		if there>>i&1 == 1 && k.to == string(name) {
			return true
		}
	}
	return false
}

// A jsonMember is one member of an object.
type jsonMember struct {
	raw   []byte // the name with its quotation marks, as it stands
	name  []byte // what it says
	value []byte // as it stands, without white space around it
}

// members walks the members of an object that is known to be valid JSON, and
// that data begins with.
func members(data []byte) func(func(jsonMember) bool) {
	return func(yield func(jsonMember) bool) {
		for i := space(data, 1); i < len(data) && data[i] == '"'; {
			var m jsonMember
			end := pass(data, i)
			m.raw = data[i:end]
			m.name = m.raw[1 : len(m.raw)-1]
			if bytes.IndexByte(m.name, '\\') >= 0 {
				m.name = unquote(m.raw)
			}
			i = space(data, space(data, end)+1) // behind the colon
			end = pass(data, i)
			m.value = data[i:end]
			if !yield(m) {
				return
			}
			i = space(data, space(data, end)+1) // behind the comma
		}
	}
}

func unquote(raw []byte) []byte {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return raw // it is known to be valid
	}
	return []byte(s)
}

// space passes white space.
func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// pass passes a valid value and gives the place behind it.
func pass(b []byte, i int) int {
	depth := 0
	for ; i < len(b); i++ {
		switch b[i] {
		case '"':
			for i++; i < len(b) && b[i] != '"'; i++ {
				if b[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // of the object around a number or word
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}
