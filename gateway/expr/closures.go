package expr

import (
	"bytes"
	"math"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/expr-lang/expr/ast"
)

// The backend: a checked tree becomes closures over a row. There are no loops
// and no allocations; what is not covered here is refused when it is compiled.
type (
	// A Cond answers yes or no.
	Cond func(*Row) bool
	// A Num yields a number, which may be an infinity or NaN.
	Num    func(*Row) float64
	textFn func(*Row) []byte
)

// kindOf tells a node's kind where it is known without asking for one.
func (c *Compiler) kindOf(n ast.Node) Kind {
	switch n := n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		return Number
	case *ast.StringNode:
		return Text
	case *ast.BoolNode:
		return Boolean
	case *ast.UnaryNode:
		if n.Operator == "-" || n.Operator == "+" {
			return Number
		}
		return Boolean
	case *ast.BinaryNode:
		switch n.Operator {
		case "+", "-", "*", "/", "**", "^", "%":
			return Number
		}
		return Boolean
	case *ast.BuiltinNode:
		return Number
	case *ast.ConditionalNode:
		if k := c.kindOf(n.Exp1); k != None {
			return k
		}
		return c.kindOf(n.Exp2)
	case *ast.IdentifierNode, *ast.MemberNode:
		if !isField(n) {
			return None
		}
		path, builtin, err := c.path(n)
		if err != nil || len(path) == 0 {
			return None
		}
		if builtin {
			return Text
		}
		for i, p := range c.schema.paths {
			if equalPath(p, path) {
				return c.types[i]
			}
		}
	}
	return None
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
func (c *Compiler) refuse(n ast.Node, want Kind) error {
	switch n := n.(type) {
	case *ast.CallNode:
		name := n.Callee.String()
		return c.fail(n, firstOf(DidYouMean(name, "abs", "min", "max", "len"), "abs, min, max and len are there"), "there is no function %s", name)
	case *ast.BuiltinNode:
		switch n.Name {
		case "abs", "min", "max", "len":
		default:
			return c.fail(n, "abs, min, max and len are there", "the function %s is not available in %ss", n.Name, c.of)
		}
	case *ast.NilNode:
		return c.fail(n, "a "+c.of+" does not look at records that lack one of its fields", "nil cannot be used")
	case *ast.ArrayNode:
		return c.fail(n, `as in state in ["run", "idle"]`, "a list can only stand behind in")
	case *ast.BinaryNode:
		switch n.Operator {
		case "%":
			return c.fail(n, "fields are numbers with a fraction", "%% is not available")
		case "..":
			return c.fail(n, "write x >= 1 and x <= 5", "ranges are not available")
		case "??":
			return c.fail(n, "a "+c.of+" does not look at records that lack one of its fields", "?? is not available")
		}
	case *ast.ConditionalNode:
		if !n.Ternary {
			return c.fail(n.Cond, "write condition ? a : b", "if is not available")
		}
	case *ast.MapNode, *ast.PairNode, *ast.PredicateNode, *ast.PointerNode, *ast.SliceNode, *ast.ChainNode,
		*ast.SequenceNode, *ast.VariableDeclaratorNode, *ast.BytesNode, *ast.ConstantNode:
		return c.fail(n, "", "this form is not available in %ss", c.of)
	}
	k := c.kindOf(n)
	if k == None {
		return c.fail(n, "", "this form is not available in %ss", c.of)
	}
	hint := ""
	if want == Boolean {
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

func (c *Compiler) num(n ast.Node) (Num, error) {
	if isField(n) {
		i, err := c.slot(n, Number)
		return func(w *Row) float64 { return w.slots[i].Num }, err
	}
	if v, ok, err := c.constant(n); ok || err != nil {
		return func(*Row) float64 { return v }, err
	}
	if err := c.count(n); err != nil {
		return nil, err
	}
	switch n := n.(type) {
	case *ast.UnaryNode:
		if n.Operator != "-" && n.Operator != "+" {
			return nil, c.refuse(n, Number)
		}
		a, err := c.num(n.Node)
		if err != nil || n.Operator == "+" {
			return a, err
		}
		return func(w *Row) float64 { return -a(w) }, nil
	case *ast.BinaryNode:
		return c.arithmetic(n)
	case *ast.ConditionalNode:
		if !n.Ternary {
			return nil, c.refuse(n, Number)
		}
		q, err := c.bool(n.Cond)
		if err != nil {
			return nil, err
		}
		a, b, err := pair(c.num, n.Exp1, n.Exp2)
		return func(w *Row) float64 {
			if q(w) {
				return a(w)
			}
			return b(w)
		}, err
	case *ast.BuiltinNode:
		return c.function(n)
	}
	return nil, c.refuse(n, Number)
}

// constant is the value of a literal number, with a sign before it or not.
func (c *Compiler) constant(n ast.Node) (v float64, ok bool, err error) {
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

func (c *Compiler) arithmetic(n *ast.BinaryNode) (Num, error) {
	switch n.Operator {
	case "+", "-", "*", "/", "**", "^":
	default:
		return nil, c.refuse(n, Number)
	}
	a, b, err := pair(c.num, n.Left, n.Right)
	if err != nil {
		return nil, err
	}
	switch n.Operator {
	case "+":
		return func(w *Row) float64 { return a(w) + b(w) }, nil
	case "-":
		return func(w *Row) float64 { return a(w) - b(w) }, nil
	case "*":
		return func(w *Row) float64 { return a(w) * b(w) }, nil
	case "/":
		return func(w *Row) float64 { return a(w) / b(w) }, nil
	}
	return func(w *Row) float64 { return math.Pow(a(w), b(w)) }, nil
}

func (c *Compiler) function(n *ast.BuiltinNode) (Num, error) {
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
		return nil, c.refuse(n, Number)
	}
	if n.Name == "len" {
		a, err := c.text(n.Arguments[0])
		return func(w *Row) float64 { return float64(utf8.RuneCount(a(w))) }, err
	}
	f, err := c.num(n.Arguments[0])
	if err != nil {
		return nil, err
	}
	if n.Name == "abs" {
		return func(w *Row) float64 {
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
			f = func(w *Row) float64 {
				x, y := a(w), b(w)
				if x > y {
					return y
				}
				return x
			}
		} else {
			f = func(w *Row) float64 {
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

func (c *Compiler) text(n ast.Node) (textFn, error) {
	if isField(n) {
		i, err := c.slot(n, Text)
		return func(w *Row) []byte { return w.slots[i].Str }, err
	}
	if err := c.count(n); err != nil {
		return nil, err
	}
	switch n := n.(type) {
	case *ast.StringNode:
		v := []byte(n.Value)
		return func(*Row) []byte { return v }, nil
	case *ast.ConditionalNode:
		if !n.Ternary {
			return nil, c.refuse(n, Text)
		}
		q, err := c.bool(n.Cond)
		if err != nil {
			return nil, err
		}
		a, b, err := pair(c.text, n.Exp1, n.Exp2)
		return func(w *Row) []byte {
			if q(w) {
				return a(w)
			}
			return b(w)
		}, err
	}
	return nil, c.refuse(n, Text)
}

func (c *Compiler) bool(n ast.Node) (Cond, error) {
	if isField(n) {
		i, err := c.slot(n, Boolean)
		return func(w *Row) bool { return w.slots[i].Num != 0 }, err
	}
	if err := c.count(n); err != nil {
		return nil, err
	}
	switch n := n.(type) {
	case *ast.BoolNode:
		v := n.Value
		return func(*Row) bool { return v }, nil
	case *ast.UnaryNode:
		if n.Operator != "not" && n.Operator != "!" {
			return nil, c.refuse(n, Boolean)
		}
		a, err := c.bool(n.Node)
		return func(w *Row) bool { return !a(w) }, err
	case *ast.ConditionalNode:
		if !n.Ternary {
			return nil, c.refuse(n, Boolean)
		}
		q, err := c.bool(n.Cond)
		if err != nil {
			return nil, err
		}
		a, b, err := pair(c.bool, n.Exp1, n.Exp2)
		return func(w *Row) bool {
			if q(w) {
				return a(w)
			}
			return b(w)
		}, err
	case *ast.BinaryNode:
		return c.logic(n)
	}
	return nil, c.refuse(n, Boolean)
}

func (c *Compiler) logic(n *ast.BinaryNode) (Cond, error) {
	switch n.Operator {
	case "and", "&&", "or", "||":
		a, b, err := pair(c.bool, n.Left, n.Right)
		if n.Operator == "and" || n.Operator == "&&" {
			return func(w *Row) bool { return a(w) && b(w) }, err
		}
		return func(w *Row) bool { return a(w) || b(w) }, err
	case "==", "!=":
		f, err := c.equal(n)
		if n.Operator == "==" || err != nil {
			return f, err
		}
		return func(w *Row) bool { return !f(w) }, nil
	case "<", "<=", ">", ">=":
		if c.kindOf(n.Left) == Text || c.kindOf(n.Right) == Text {
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
	return nil, c.refuse(n, Boolean)
}

// order compares numbers, which two fields of unknown kind are taken for; a
// field against a constant, which most rules are, takes one call.
func (c *Compiler) order(n *ast.BinaryNode) (Cond, error) {
	k, isConst, err := c.constant(n.Right)
	if err != nil {
		return nil, err
	}
	if isConst {
		if c.limit == nil {
			c.limit = &k
		}
		if isField(n.Left) {
			i, err := c.slot(n.Left, Number)
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
		return func(w *Row) bool { return a(w) < b(w) }, nil
	case "<=":
		return func(w *Row) bool { return a(w) <= b(w) }, nil
	case ">":
		return func(w *Row) bool { return a(w) > b(w) }, nil
	}
	return func(w *Row) bool { return a(w) >= b(w) }, nil
}

func compareSlot(op string, i int, k float64) Cond {
	switch op {
	case "<":
		return func(w *Row) bool { return w.slots[i].Num < k }
	case "<=":
		return func(w *Row) bool { return w.slots[i].Num <= k }
	case ">":
		return func(w *Row) bool { return w.slots[i].Num > k }
	}
	return func(w *Row) bool { return w.slots[i].Num >= k }
}

func (c *Compiler) orderText(n *ast.BinaryNode) (Cond, error) {
	a, b, err := pair(c.text, n.Left, n.Right)
	if err != nil {
		return nil, err
	}
	switch n.Operator {
	case "<":
		return func(w *Row) bool { return bytes.Compare(a(w), b(w)) < 0 }, nil
	case "<=":
		return func(w *Row) bool { return bytes.Compare(a(w), b(w)) <= 0 }, nil
	case ">":
		return func(w *Row) bool { return bytes.Compare(a(w), b(w)) > 0 }, nil
	}
	return func(w *Row) bool { return bytes.Compare(a(w), b(w)) >= 0 }, nil
}

func (c *Compiler) equal(n *ast.BinaryNode) (Cond, error) {
	k := c.kindOf(n.Left)
	if k == None {
		k = c.kindOf(n.Right)
	}
	switch k {
	case Number:
		a, b, err := pair(c.num, n.Left, n.Right)
		return func(w *Row) bool { return a(w) == b(w) }, err
	case Text:
		a, b, err := pair(c.text, n.Left, n.Right)
		return func(w *Row) bool { return bytes.Equal(a(w), b(w)) }, err
	case Boolean:
		a, b, err := pair(c.bool, n.Left, n.Right)
		return func(w *Row) bool { return a(w) == b(w) }, err
	}
	for _, side := range []ast.Node{n.Left, n.Right} {
		if _, choice := side.(*ast.ConditionalNode); choice {
			return nil, c.fail(side, "compare it with a number or a text", "it cannot be told whether this is a number or text")
		}
		if !isField(side) {
			return nil, c.refuse(side, Number)
		}
	}
	// Two fields of which nothing is known: as the payload has them.
	i, err := c.slot(n.Left, None)
	if err != nil {
		return nil, err
	}
	j, err := c.slot(n.Right, None)
	return func(w *Row) bool {
		a, b := &w.slots[i], &w.slots[j]
		if a.Kind != b.Kind {
			return false
		}
		if a.Kind == Text {
			return bytes.Equal(a.Str, b.Str)
		}
		return a.Num == b.Num
	}, err
}

func (c *Compiler) search(n *ast.BinaryNode) (Cond, error) {
	a, b, err := pair(c.text, n.Left, n.Right)
	if err != nil {
		return nil, err
	}
	switch n.Operator {
	case "startsWith":
		return func(w *Row) bool { return bytes.HasPrefix(a(w), b(w)) }, nil
	case "endsWith":
		return func(w *Row) bool { return bytes.HasSuffix(a(w), b(w)) }, nil
	}
	return func(w *Row) bool { return bytes.Contains(a(w), b(w)) }, nil
}

func (c *Compiler) matches(n *ast.BinaryNode) (Cond, error) {
	pattern, ok := n.Right.(*ast.StringNode)
	if !ok {
		return nil, c.fail(n.Right, `as in key matches "press-[0-9]+"`, "the pattern of matches must be written out")
	}
	re, err := regexp.Compile(pattern.Value)
	if err != nil {
		return nil, c.fail(n.Right, "", "%v", err)
	}
	a, err := c.text(n.Left)
	return func(w *Row) bool { return re.Match(a(w)) }, err
}

// in looks a value up in a list of literals of one kind.
func (c *Compiler) in(n *ast.BinaryNode) (Cond, error) {
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
		return func(w *Row) bool { _, has := texts[string(a(w))]; return has }, err
	}
	a, err := c.num(n.Left)
	return func(w *Row) bool {
		return slices.Contains(nums, a(w))
	}, err
}
