package rules

import (
	"bytes"
	"math"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
)

// The backend: a checked tree becomes closures over a row. There are no loops
// and no allocations; what is not covered here is refused when the rule is
// loaded.
type (
	boolFn func(*row) bool
	numFn  func(*row) float64
	textFn func(*row) []byte
)

// kindOf tells a node's kind where it is known without asking for one.
func (c *compiler) kindOf(n ast.Node) kind {
	switch n := n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return number
	case *ast.StringNode:
		return text
	case *ast.BoolNode:
		return boolean
	case *ast.UnaryNode:
		if n.Operator == "-" || n.Operator == "+" {
			return number
		}
		return boolean
	case *ast.BinaryNode:
		switch n.Operator {
		case "+", "-", "*", "/", "**", "^", "%":
			return number
		}
		return boolean
	case *ast.BuiltinNode:
		return number
	case *ast.ConditionalNode:
		if k := c.kindOf(n.Exp1); k != none {
			return k
		}
		return c.kindOf(n.Exp2)
	case *ast.IdentifierNode, *ast.MemberNode:
		if !isField(n) {
			return none
		}
		path, builtin, err := c.path(n)
		if err != nil || len(path) == 0 {
			return none
		}
		if builtin {
			return text
		}
		for i, p := range c.schema.paths {
			if equalPath(p, path) {
				return c.types[i]
			}
		}
	}
	return none
}

func equalPath(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// refuse explains why a node cannot stand where a value of kind want should.
func (c *compiler) refuse(n ast.Node, want kind) error {
	switch n := n.(type) {
	case *ast.CallNode:
		name := n.Callee.String()
		return c.fail(n, firstOf(didYouMean(name, "abs", "min", "max", "len"), "abs, min, max and len are there"), "there is no function %s", name)
	case *ast.BuiltinNode:
		switch n.Name {
		case "abs", "min", "max", "len":
		default:
			return c.fail(n, "abs, min, max and len are there", "the function %s is not available in rules", n.Name)
		}
	case *ast.NilNode:
		return c.fail(n, "a rule does not look at records that lack one of its fields", "nil cannot be used")
	case *ast.ArrayNode:
		return c.fail(n, `as in state in ["run", "idle"]`, "a list can only stand behind in")
	case *ast.BinaryNode:
		switch n.Operator {
		case "%":
			return c.fail(n, "fields are numbers with a fraction", "%% is not available")
		case "..":
			return c.fail(n, "write x >= 1 and x <= 5", "ranges are not available")
		case "??":
			return c.fail(n, "a rule does not look at records that lack one of its fields", "?? is not available")
		}
	case *ast.ConditionalNode:
		if !n.Ternary {
			return c.fail(n.Cond, "write condition ? a : b", "if is not available")
		}
	case *ast.MapNode, *ast.PairNode, *ast.PredicateNode, *ast.PointerNode, *ast.SliceNode, *ast.ChainNode,
		*ast.SequenceNode, *ast.VariableDeclaratorNode, *ast.BytesNode, *ast.ConstantNode:
		return c.fail(n, "", "this form is not available in rules")
	}
	k := c.kindOf(n)
	if k == none {
		return c.fail(n, "", "this form is not available in rules")
	}
	hint := ""
	if want == boolean {
		hint = "compare it, as in temp > 80"
	}
	return c.fail(n, hint, "this is %s, but %s is needed here", k, want)
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (c *compiler) num(n ast.Node) (numFn, error) {
	if isField(n) {
		i, err := c.slot(n, number)
		return func(w *row) float64 { return w.slots[i].num }, err
	}
	if v, ok, err := c.constant(n); ok || err != nil {
		return func(*row) float64 { return v }, err
	}
	if err := c.count(n); err != nil {
		return nil, err
	}
	switch n := n.(type) {
	case *ast.UnaryNode:
		if n.Operator != "-" && n.Operator != "+" {
			return nil, c.refuse(n, number)
		}
		a, err := c.num(n.Node)
		if err != nil || n.Operator == "+" {
			return a, err
		}
		return func(w *row) float64 { return -a(w) }, nil
	case *ast.BinaryNode:
		return c.arithmetic(n)
	case *ast.ConditionalNode:
		if !n.Ternary {
			return nil, c.refuse(n, number)
		}
		q, err := c.bool(n.Cond)
		if err != nil {
			return nil, err
		}
		a, b, err := pair(c.num, n.Exp1, n.Exp2)
		return func(w *row) float64 {
			if q(w) {
				return a(w)
			}
			return b(w)
		}, err
	case *ast.BuiltinNode:
		return c.function(n)
	}
	return nil, c.refuse(n, number)
}

// constant is the value of a literal number, with a sign before it or not.
func (c *compiler) constant(n ast.Node) (v float64, ok bool, err error) {
	switch n := n.(type) {
	case *ast.IntegerNode:
		if v := int64(n.Value); v > 1<<53 || v < -1<<53 {
			return 0, false, c.fail(n, "numbers are exact up to 9007199254740992", "the number is too large")
		}
		return float64(n.Value), true, nil
	case *ast.FloatNode:
		return n.Value, true, nil
	case *ast.UnaryNode:
		if n.Operator == "-" || n.Operator == "+" {
			v, ok, err = c.constant(n.Node)
			if n.Operator == "-" {
				// 0-v: expr's integers have no negative zero.
				v = 0 - v
			}
			return v, ok, err
		}
	}
	return 0, false, nil
}

func pair[F any](f func(ast.Node) (F, error), x, y ast.Node) (a, b F, err error) {
	if a, err = f(x); err != nil {
		return a, b, err
	}
	b, err = f(y)
	return a, b, err
}

func (c *compiler) arithmetic(n *ast.BinaryNode) (numFn, error) {
	switch n.Operator {
	case "+", "-", "*", "/", "**", "^":
	default:
		return nil, c.refuse(n, number)
	}
	a, b, err := pair(c.num, n.Left, n.Right)
	if err != nil {
		return nil, err
	}
	switch n.Operator {
	case "+":
		return func(w *row) float64 { return a(w) + b(w) }, nil
	case "-":
		return func(w *row) float64 { return a(w) - b(w) }, nil
	case "*":
		return func(w *row) float64 { return a(w) * b(w) }, nil
	case "/":
		return func(w *row) float64 { return a(w) / b(w) }, nil
	}
	return func(w *row) float64 { return math.Pow(a(w), b(w)) }, nil
}

func (c *compiler) function(n *ast.BuiltinNode) (numFn, error) {
	switch n.Name {
	case "abs", "len":
		if len(n.Arguments) != 1 {
			return nil, c.fail(n, "", "%s takes one argument and has %d", n.Name, len(n.Arguments))
		}
	case "min", "max":
		if len(n.Arguments) == 0 {
			return nil, c.fail(n, "as in max(temp, 20)", "%s needs arguments", n.Name)
		}
	default:
		return nil, c.refuse(n, number)
	}
	if n.Name == "len" {
		a, err := c.text(n.Arguments[0])
		return func(w *row) float64 { return float64(utf8.RuneCount(a(w))) }, err
	}
	f, err := c.num(n.Arguments[0])
	if err != nil {
		return nil, err
	}
	if n.Name == "abs" {
		return func(w *row) float64 {
			if v := f(w); v < 0 {
				return -v
			} else {
				return v
			}
		}, nil
	}
	for _, arg := range n.Arguments[1:] {
		b, err := c.num(arg)
		if err != nil {
			return nil, err
		}
		a := f
		// As expr does it: a later value wins only if it compares so, which
		// decides what becomes of NaN.
		if n.Name == "min" {
			f = func(w *row) float64 {
				x, y := a(w), b(w)
				if x > y {
					return y
				}
				return x
			}
		} else {
			f = func(w *row) float64 {
				x, y := a(w), b(w)
				if x < y {
					return y
				}
				return x
			}
		}
	}
	return f, nil
}

func (c *compiler) text(n ast.Node) (textFn, error) {
	if isField(n) {
		i, err := c.slot(n, text)
		return func(w *row) []byte { return w.slots[i].str }, err
	}
	if err := c.count(n); err != nil {
		return nil, err
	}
	switch n := n.(type) {
	case *ast.StringNode:
		v := []byte(n.Value)
		return func(*row) []byte { return v }, nil
	case *ast.ConditionalNode:
		if !n.Ternary {
			return nil, c.refuse(n, text)
		}
		q, err := c.bool(n.Cond)
		if err != nil {
			return nil, err
		}
		a, b, err := pair(c.text, n.Exp1, n.Exp2)
		return func(w *row) []byte {
			if q(w) {
				return a(w)
			}
			return b(w)
		}, err
	}
	return nil, c.refuse(n, text)
}

func (c *compiler) bool(n ast.Node) (boolFn, error) {
	if isField(n) {
		i, err := c.slot(n, boolean)
		return func(w *row) bool { return w.slots[i].num != 0 }, err
	}
	if err := c.count(n); err != nil {
		return nil, err
	}
	switch n := n.(type) {
	case *ast.BoolNode:
		v := n.Value
		return func(*row) bool { return v }, nil
	case *ast.UnaryNode:
		if n.Operator != "not" && n.Operator != "!" {
			return nil, c.refuse(n, boolean)
		}
		a, err := c.bool(n.Node)
		return func(w *row) bool { return !a(w) }, err
	case *ast.ConditionalNode:
		if !n.Ternary {
			return nil, c.refuse(n, boolean)
		}
		q, err := c.bool(n.Cond)
		if err != nil {
			return nil, err
		}
		a, b, err := pair(c.bool, n.Exp1, n.Exp2)
		return func(w *row) bool {
			if q(w) {
				return a(w)
			}
			return b(w)
		}, err
	case *ast.BinaryNode:
		return c.logic(n)
	}
	return nil, c.refuse(n, boolean)
}

func (c *compiler) logic(n *ast.BinaryNode) (boolFn, error) {
	switch n.Operator {
	case "and", "&&", "or", "||":
		a, b, err := pair(c.bool, n.Left, n.Right)
		if n.Operator == "and" || n.Operator == "&&" {
			return func(w *row) bool { return a(w) && b(w) }, err
		}
		return func(w *row) bool { return a(w) || b(w) }, err
	case "==", "!=":
		f, err := c.equal(n)
		if n.Operator == "==" || err != nil {
			return f, err
		}
		return func(w *row) bool { return !f(w) }, nil
	case "<", "<=", ">", ">=":
		if c.kindOf(n.Left) == text || c.kindOf(n.Right) == text {
			return c.orderText(n)
		}
		return c.order(n)
	case "startsWith", "endsWith", "contains":
		return c.search(n)
	case "matches":
		return c.matches(n)
	case "in":
		return c.in(n)
	}
	return nil, c.refuse(n, boolean)
}

// order compares numbers, which two fields of unknown kind are taken for; a
// field against a constant, which most rules are, takes one call.
func (c *compiler) order(n *ast.BinaryNode) (boolFn, error) {
	k, isConst, err := c.constant(n.Right)
	if err != nil {
		return nil, err
	}
	if isConst {
		if c.limit == nil {
			c.limit = &k
		}
		if isField(n.Left) {
			i, err := c.slot(n.Left, number)
			return compareSlot(n.Operator, i, k), err
		}
	}
	a, b, err := pair(c.num, n.Left, n.Right)
	if err != nil {
		return nil, err
	}
	if k, ok, _ := c.constant(n.Left); ok && c.limit == nil {
		c.limit = &k
	}
	switch n.Operator {
	case "<":
		return func(w *row) bool { return a(w) < b(w) }, nil
	case "<=":
		return func(w *row) bool { return a(w) <= b(w) }, nil
	case ">":
		return func(w *row) bool { return a(w) > b(w) }, nil
	}
	return func(w *row) bool { return a(w) >= b(w) }, nil
}

func compareSlot(op string, i int, k float64) boolFn {
	switch op {
	case "<":
		return func(w *row) bool { return w.slots[i].num < k }
	case "<=":
		return func(w *row) bool { return w.slots[i].num <= k }
	case ">":
		return func(w *row) bool { return w.slots[i].num > k }
	}
	return func(w *row) bool { return w.slots[i].num >= k }
}

func (c *compiler) orderText(n *ast.BinaryNode) (boolFn, error) {
	a, b, err := pair(c.text, n.Left, n.Right)
	if err != nil {
		return nil, err
	}
	switch n.Operator {
	case "<":
		return func(w *row) bool { return bytes.Compare(a(w), b(w)) < 0 }, nil
	case "<=":
		return func(w *row) bool { return bytes.Compare(a(w), b(w)) <= 0 }, nil
	case ">":
		return func(w *row) bool { return bytes.Compare(a(w), b(w)) > 0 }, nil
	}
	return func(w *row) bool { return bytes.Compare(a(w), b(w)) >= 0 }, nil
}

func (c *compiler) equal(n *ast.BinaryNode) (boolFn, error) {
	k := c.kindOf(n.Left)
	if k == none {
		k = c.kindOf(n.Right)
	}
	switch k {
	case number:
		a, b, err := pair(c.num, n.Left, n.Right)
		return func(w *row) bool { return a(w) == b(w) }, err
	case text:
		a, b, err := pair(c.text, n.Left, n.Right)
		return func(w *row) bool { return bytes.Equal(a(w), b(w)) }, err
	case boolean:
		a, b, err := pair(c.bool, n.Left, n.Right)
		return func(w *row) bool { return a(w) == b(w) }, err
	}
	for _, side := range []ast.Node{n.Left, n.Right} {
		if _, choice := side.(*ast.ConditionalNode); choice {
			return nil, c.fail(side, "compare it with a number or a text", "it cannot be told whether this is a number or text")
		}
		if !isField(side) {
			return nil, c.refuse(side, number)
		}
	}
	// Two fields of which nothing is known: as the payload has them.
	i, err := c.slot(n.Left, none)
	if err != nil {
		return nil, err
	}
	j, err := c.slot(n.Right, none)
	return func(w *row) bool {
		a, b := &w.slots[i], &w.slots[j]
		if a.kind != b.kind {
			return false
		}
		if a.kind == text {
			return bytes.Equal(a.str, b.str)
		}
		return a.num == b.num
	}, err
}

func (c *compiler) search(n *ast.BinaryNode) (boolFn, error) {
	a, b, err := pair(c.text, n.Left, n.Right)
	if err != nil {
		return nil, err
	}
	switch n.Operator {
	case "startsWith":
		return func(w *row) bool { return bytes.HasPrefix(a(w), b(w)) }, nil
	case "endsWith":
		return func(w *row) bool { return bytes.HasSuffix(a(w), b(w)) }, nil
	}
	return func(w *row) bool { return bytes.Contains(a(w), b(w)) }, nil
}

func (c *compiler) matches(n *ast.BinaryNode) (boolFn, error) {
	pattern, ok := n.Right.(*ast.StringNode)
	if !ok {
		return nil, c.fail(n.Right, `as in key matches "press-[0-9]+"`, "the pattern of matches must be written out")
	}
	re, err := regexp.Compile(pattern.Value)
	if err != nil {
		return nil, c.fail(n.Right, "", "%v", err)
	}
	a, err := c.text(n.Left)
	return func(w *row) bool { return re.Match(a(w)) }, err
}

// in looks a value up in a list of literals of one kind.
func (c *compiler) in(n *ast.BinaryNode) (boolFn, error) {
	list, ok := n.Right.(*ast.ArrayNode)
	if !ok {
		return nil, c.fail(n.Right, `as in state in ["run", "idle"]`, "a list of values must stand behind in")
	}
	if len(list.Nodes) == 0 {
		return nil, c.fail(list, "", "the list is empty")
	}
	texts, nums := map[string]struct{}{}, []float64(nil)
	for _, m := range list.Nodes {
		if err := c.count(m); err != nil {
			return nil, err
		}
		if s, ok := m.(*ast.StringNode); ok {
			texts[s.Value] = struct{}{}
		} else if v, ok, err := c.constant(m); err != nil {
			return nil, err
		} else if ok {
			nums = append(nums, v)
		} else {
			return nil, c.fail(m, "", "the list may hold numbers or texts, written out")
		}
		if len(texts) > 0 && len(nums) > 0 {
			return nil, c.fail(m, "", "the list holds both numbers and texts")
		}
	}
	if len(texts) > 0 {
		a, err := c.text(n.Left)
		return func(w *row) bool { _, has := texts[string(a(w))]; return has }, err
	}
	a, err := c.num(n.Left)
	return func(w *row) bool {
		return slices.Contains(nums, a(w))
	}, err
}
