// Package expr is the language in which conditions on records are written, in
// rules and in what an uplink sends: the grammar and the checker of
// github.com/expr-lang/expr with a backend of our own, closures over typed
// fields, that allocates nothing.
//
// A Schema gathers the fields that expressions name, a Compiler makes
// conditions and numbers of them, and a Row is one record's fields: Load it,
// ask Has whether the record has what the expression needs, then call it.
package expr

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/checker"
	exprconf "github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/types"
)

const (
	// MaxNodes bounds an expression: what it costs at run time is its number
	// of nodes, as there are no loops.
	MaxNodes = 200
	// MaxSource is the longest expression, in bytes.
	MaxSource = 4096
)

// An Error says what is wrong with an expression and where.
type Error struct {
	Source  string // the expression
	Column  int    // of the offending place, in characters, from 1
	Message string
	Hint    string // what would have been right; may be empty
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	line := strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, e.Source)
	fmt.Fprintf(&b, ", at column %d\n | %s\n | %s^", e.Column, line, strings.Repeat(".", max(e.Column-1, 0)))
	return b.String()
}

// A Compiler turns the expressions of one rule or filter into closures over one
// schema. A field is of one kind in all of them.
type Compiler struct {
	schema *Schema
	of     string
	src    string
	types  map[int]Kind // of the slots, by how they are used
	needs  Needs        // of the expression at hand
	limit  *float64     // the first constant that a field is compared with
	nums   []int        // slots of payload fields used as numbers, in order
	nodes  int
}

// Needs are the fields that an expression reads; see Row.Has.
type Needs []need

// A need is a slot that an expression reads, with the kind it must have; None
// stands for any.
type need struct {
	slot int
	kind Kind
}

// NewCompiler makes a compiler that adds the fields it meets to s. of is what
// the expressions belong to, for messages: "rule" or "filter".
func NewCompiler(s *Schema, of string) *Compiler {
	return &Compiler{schema: s, of: of, types: map[int]Kind{}}
}

// Limit is the first constant that any of the expressions so far compares
// with; nil if there was none.
func (c *Compiler) Limit() *float64 { return c.limit }

// Numbers are the payload's fields that the expressions so far use as numbers,
// in the order of their first use.
func (c *Compiler) Numbers() []int { return slices.Clone(c.nums) }

// parse checks an expression by expr-lang's grammar.
func (c *Compiler) parse(src string) (*parser.Tree, error) {
	c.src, c.needs, c.nodes = src, nil, 0
	if len(src) > MaxSource {
		return nil, &Error{Source: src[:60] + "...", Column: 1, Message: fmt.Sprintf("the expression has %d bytes; at most %d are allowed", len(src), MaxSource)}
	}
	if strings.TrimSpace(src) == "" {
		return nil, &Error{Source: src, Column: 1, Message: "the expression is empty"}
	}
	cfg := exprconf.CreateNew()
	cfg.MaxNodes = MaxNodes
	tree, err := parser.ParseWithConfig(src, cfg)
	if err != nil {
		return nil, c.syntax(err)
	}
	return tree, nil
}

// check asks expr-lang's checker whether it takes the expression with the
// types that we found, so that nothing passes here that expr refuses.
func (c *Compiler) check(tree *parser.Tree) error {
	env, err := c.env()
	if err != nil {
		return err
	}
	cfg := exprconf.CreateNew()
	cfg.MaxNodes = MaxNodes
	cfg.WithEnv(env)
	if _, err := checker.Check(tree, cfg); err != nil {
		return c.syntax(err)
	}
	return nil
}

// env is the fields as expr's types.
func (c *Compiler) env() (types.Map, error) {
	env := types.Map{}
	for i, path := range c.schema.paths {
		k, used := c.types[i]
		if !used {
			continue
		}
		t := types.Type(types.Any)
		switch k {
		case Number:
			t = types.Float64
		case Text:
			t = types.String
		case Boolean:
			t = types.Bool
		}
		if path[0] == "" && len(path) == 2 && IsBuiltin(path[1]) {
			env[path[1]] = types.String
			continue
		}
		m := env
		for j, name := range path {
			have, exists := m[name]
			sub, isMap := have.(types.Map)
			last := j == len(path)-1
			if exists && (last || !isMap) {
				return nil, &Error{Source: c.src, Column: 1, Message: fmt.Sprintf("%q is used both as a value and as an object with fields", strings.Join(path[:j+1], "."))}
			}
			if last {
				m[name] = t
				break
			}
			if !exists {
				sub = types.Map{}
				m[name] = sub
			}
			m = sub
		}
	}
	return env, nil
}

// syntax says a parser's or checker's error in our words.
func (c *Compiler) syntax(err error) error {
	var fe *file.Error
	if !errors.As(err, &fe) {
		return &Error{Source: c.src, Column: 1, Message: err.Error()}
	}
	e := &Error{Source: c.src, Column: min(max(fe.From, 0), utf8.RuneCountInString(c.src)) + 1, Message: fe.Message}
	what, ok := strings.CutPrefix(fe.Message, "unexpected token ")
	switch {
	case ok && what == "EOF":
		e.Message = "the expression ends too early"
	case ok:
		word := what
		if _, v, has := strings.Cut(what, "("); has {
			word = strings.Trim(strings.TrimSuffix(v, ")"), `"`)
		}
		e.Message = fmt.Sprintf("%q is not expected here", word)
		e.Hint = hintFor(word)
	case strings.Contains(fe.Message, "maximum allowed nodes"):
		e.Message, e.Hint = fmt.Sprintf("the expression has more than %d parts", MaxNodes), c.split()
	case strings.HasPrefix(fe.Message, "unrecognized character"):
		e.Hint = hintFor(fe.Message)
	case strings.Contains(fe.Message, "error parsing regexp"):
		e.Message, _, _ = strings.Cut(fe.Message, "\n") // all of it where it has one line
	}
	return e
}

func hintFor(word string) string {
	switch {
	case word == "=":
		return `write == to compare`
	case word == "&" || strings.Contains(word, "U+0026"):
		return `write and`
	case word == "|":
		return `write or`
	case word == ",":
		return `a list stands in [ ]`
	case strings.Contains(word, "U+00B0"):
		return `leave the unit out of the expression; it is a setting of its own`
	}
	return DidYouMean(word, "and", "or", "not", "in", "startsWith", "endsWith", "contains", "matches")
}

func (c *Compiler) fail(n ast.Node, hint, format string, args ...any) error {
	return &Error{Source: c.src, Column: n.Location().From + 1, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// Condition compiles an expression that answers yes or no. What is wrong with it
// is told by an *Error.
func (c *Compiler) Condition(src string) (Cond, Needs, error) {
	tree, err := c.parse(src)
	if err != nil {
		return nil, nil, err
	}
	f, err := c.bool(tree.Node)
	if err != nil {
		return nil, nil, err
	}
	return f, c.needs, c.check(tree)
}

// Number compiles an expression that yields a number. What is wrong with it is
// told by an *Error.
func (c *Compiler) Number(src string) (Num, Needs, error) {
	tree, err := c.parse(src)
	if err != nil {
		return nil, nil, err
	}
	f, err := c.num(tree.Node)
	if err != nil {
		return nil, nil, err
	}
	return f, c.needs, c.check(tree)
}

func (c *Compiler) split() string { return "split it into two " + c.of + "s" }

// FieldNumber is a field as a number, without an expression.
func FieldNumber(field int) (Num, Needs) {
	return func(w *Row) float64 { return w.slots[field].Num }, Needs{{field, Number}}
}

// count bounds the compiled size too: a chained comparison shares its middle.
func (c *Compiler) count(n ast.Node) error {
	if c.nodes++; c.nodes > 2*MaxNodes {
		return c.fail(n, c.split(), "the expression has more than %d parts", MaxNodes)
	}
	return nil
}

// path is the field that a chain of names stands for.
func (c *Compiler) path(n ast.Node) (path []string, builtin bool, err error) {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		if n.Value == "$env" {
			return nil, false, nil
		}
		return []string{n.Value}, IsBuiltin(n.Value), nil
	case *ast.MemberNode:
		prop, ok := n.Property.(*ast.StringNode)
		if !ok || n.Optional {
			return nil, false, c.fail(n, "fields are named like temp or motor.bearing.temp", "only fields by name are read here")
		}
		path, builtin, err = c.path(n.Node)
		if err != nil {
			return nil, false, err
		}
		if builtin {
			return nil, false, c.fail(n, "it is the record's, not the payload's; a payload's own is $env."+path[0], "%s has no fields", path[0])
		}
		return append(path, prop.Value), false, nil
	}
	return nil, false, c.fail(n, "fields are named like temp or motor.bearing.temp", "only a field of the payload has fields")
}

func isField(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		return true
	case *ast.MemberNode:
		return isField(n.Node)
	}
	return false
}

// slot finds the slot of a field, to be used as k; none takes any kind.
func (c *Compiler) slot(n ast.Node, k Kind) (int, error) {
	if err := c.count(n); err != nil {
		return 0, err
	}
	path, builtin, err := c.path(n)
	if err != nil {
		return 0, err
	}
	if len(path) == 0 {
		return 0, c.fail(n, `as in $env["line-1"]`, "$env needs the name of a field")
	}
	var i int
	if builtin {
		i = c.schema.Builtin(path[0])
		if _, seen := c.types[i]; !seen {
			c.types[i] = Text
		}
	} else {
		i = c.schema.Field(path)
	}
	have := c.types[i]
	if k != None && have != None && have != k {
		return 0, c.fail(n, "", "%s is %s here and %s elsewhere in the %s", strings.Join(path, "."), k, have, c.of)
	}
	if k == None {
		k = have
	}
	c.types[i] = k
	if k == Number && !builtin && !slices.Contains(c.nums, i) {
		c.nums = append(c.nums, i)
	}
	c.need(i, k)
	return i, nil
}

func (c *Compiler) need(i int, k Kind) {
	for j := range c.needs {
		if c.needs[j].slot == i {
			if c.needs[j].kind == None {
				c.needs[j].kind = k
			}
			return
		}
	}
	c.needs = append(c.needs, need{i, k})
}

// DidYouMean names the word that is nearest to what was written, or "".
func DidYouMean(got string, words ...string) string {
	best, at := 3, ""
	for _, w := range words {
		d := Distance(strings.ToLower(got), strings.ToLower(w))
		if d < best && d < len(w) {
			best, at = d, w
		}
	}
	if at == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", at)
}

// Distance is Levenshtein's, with a swap of neighbours as one step.
func Distance(a, b string) int {
	if len(a) > 32 || len(b) > 32 {
		return 99
	}
	var two, one, cur [33]int
	for j := range len(b) + 1 {
		one[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(one[j]+1, cur[j-1]+1, one[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], two[j-2]+1)
			}
		}
		two, one = one, cur
	}
	return one[len(b)]
}
