package rules

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

// An ExprError says what is wrong with an expression and where.
type ExprError struct {
	Source  string // the expression
	Column  int    // of the offending place, in characters, from 1
	Message string
	Hint    string // what would have been right; may be empty
}

func (e *ExprError) Error() string {
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

// A compiler turns the expressions of one rule into closures over one schema.
type compiler struct {
	schema *schema
	src    string
	types  map[int]kind // of the rule's slots, by how they are used
	needs  []need       // of the expression at hand
	limit  *float64     // the first constant that a field is compared with
	nums   []int        // slots of payload fields used as numbers, in order
	nodes  int
}

// A need is a slot that an expression reads, with the kind it must have; none
// stands for any.
type need struct {
	slot int
	kind kind
}

func newCompiler(s *schema) *compiler { return &compiler{schema: s, types: map[int]kind{}} }

// parse checks an expression by expr-lang's grammar.
func (c *compiler) parse(src string) (*parser.Tree, error) {
	c.src, c.needs, c.nodes = src, nil, 0
	if len(src) > MaxSource {
		return nil, &ExprError{Source: src[:60] + "...", Column: 1, Message: fmt.Sprintf("the expression has %d bytes; at most %d are allowed", len(src), MaxSource)}
	}
	if strings.TrimSpace(src) == "" {
		return nil, &ExprError{Source: src, Column: 1, Message: "the expression is empty"}
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
func (c *compiler) check(tree *parser.Tree) error {
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

// env is the rule's fields as expr's types.
func (c *compiler) env() (types.Map, error) {
	env := types.Map{}
	for i, path := range c.schema.paths {
		k, used := c.types[i]
		if !used {
			continue
		}
		t := types.Type(types.Any)
		switch k {
		case number:
			t = types.Float64
		case text:
			t = types.String
		case boolean:
			t = types.Bool
		}
		if path[0] == "" && len(path) == 2 && isBuiltin(path[1]) {
			env[path[1]] = types.String
			continue
		}
		m := env
		for j, name := range path {
			have, exists := m[name]
			sub, isMap := have.(types.Map)
			last := j == len(path)-1
			if exists && (last || !isMap) {
				return nil, &ExprError{Source: c.src, Column: 1, Message: fmt.Sprintf("%q is used both as a value and as an object with fields", strings.Join(path[:j+1], "."))}
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
func (c *compiler) syntax(err error) error {
	var fe *file.Error
	if !errors.As(err, &fe) {
		return &ExprError{Source: c.src, Column: 1, Message: err.Error()}
	}
	e := &ExprError{Source: c.src, Column: min(max(fe.From, 0), utf8.RuneCountInString(c.src)) + 1, Message: fe.Message}
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
		e.Message, e.Hint = fmt.Sprintf("the expression has more than %d parts", MaxNodes), "split it into two rules"
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
	return didYouMean(word, "and", "or", "not", "in", "startsWith", "endsWith", "contains", "matches")
}

func (c *compiler) fail(n ast.Node, hint, format string, args ...any) error {
	return &ExprError{Source: c.src, Column: n.Location().From + 1, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// boolean compiles an expression that answers yes or no.
func (c *compiler) boolean(src string) (boolFn, []need, error) {
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

// number compiles an expression that yields a number.
func (c *compiler) number(src string) (numFn, []need, error) {
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

// count bounds the compiled size too: a chained comparison shares its middle.
func (c *compiler) count(n ast.Node) error {
	if c.nodes++; c.nodes > 2*MaxNodes {
		return c.fail(n, "split it into two rules", "the expression has more than %d parts", MaxNodes)
	}
	return nil
}

// path is the field that a chain of names stands for.
func (c *compiler) path(n ast.Node) (path []string, builtin bool, err error) {
	switch n := n.(type) {
	case *ast.IdentifierNode:
		if n.Value == "$env" {
			return nil, false, nil
		}
		return []string{n.Value}, isBuiltin(n.Value), nil
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
func (c *compiler) slot(n ast.Node, k kind) (int, error) {
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
		i = c.schema.builtin(path[0])
		if _, seen := c.types[i]; !seen {
			c.types[i] = text
		}
	} else {
		i = c.schema.field(path)
	}
	have := c.types[i]
	if k != none && have != none && have != k {
		return 0, c.fail(n, "", "%s is %s here and %s elsewhere in the rule", strings.Join(path, "."), k, have)
	}
	if k == none {
		k = have
	}
	c.types[i] = k
	if k == number && !builtin && !slices.Contains(c.nums, i) {
		c.nums = append(c.nums, i)
	}
	c.need(i, k)
	return i, nil
}

func (c *compiler) need(i int, k kind) {
	for j := range c.needs {
		if c.needs[j].slot == i {
			if c.needs[j].kind == none {
				c.needs[j].kind = k
			}
			return
		}
	}
	c.needs = append(c.needs, need{i, k})
}

// didYouMean names the word that is nearest to what was written, or "".
func didYouMean(got string, words ...string) string {
	best, at := 3, ""
	for _, w := range words {
		d := distance(strings.ToLower(got), strings.ToLower(w))
		if d < best && d < len(w) {
			best, at = d, w
		}
	}
	if at == "" {
		return ""
	}
	return fmt.Sprintf("did you mean %q?", at)
}

// distance is Levenshtein's, with a swap of neighbours as one step.
func distance(a, b string) int {
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
