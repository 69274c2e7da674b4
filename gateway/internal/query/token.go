package query

import (
	"fmt"
	"slices"
	"strings"
)

type kind uint8

const (
	word    kind = iota // an identifier or a keyword as it is
	quoted              // an identifier in "", `` or []
	literal             // a string, a blob or a number
	bind                // ?1, :name, @name, $name
	other               // one character of an operator or of punctuation
	broken              // a string or a quoted identifier without an end
)

// A token is a run of the query's text, white space and comments left out.
type token struct {
	kind       kind
	start, end int
	name       string // of an identifier, without its quotes
}

// is reports whether the token is that keyword or that character.
func (t token) is(s string) bool {
	return (t.kind == word || t.kind == other) && strings.EqualFold(t.name, s)
}

func (t token) ident() bool { return t.kind == word || t.kind == quoted }

func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c >= 0x80
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// tokens splits a query as SQLite's own tokenizer does (tokenize.c).
func tokens(sql string) []token {
	var out []token
	for i := 0; i < len(sql); {
		end := i + 1
		t := token{kind: other, start: i}
		switch c := sql[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r':
			i = end
			continue
		case strings.HasPrefix(sql[i:], "--"):
			i = after(sql, i, "\n")
			continue
		case strings.HasPrefix(sql[i:], "/*"):
			i = after(sql, i+2, "*/")
			continue
		case c == '\'':
			end, t.kind = quote(sql, i, c, literal)
		case c == '"' || c == '`':
			end, t.kind = quote(sql, i, c, quoted)
			if t.kind == quoted {
				q := string(c)
				t.name = strings.ReplaceAll(sql[i+1:end-1], q+q, q)
			}
		case c == '[':
			if n := strings.IndexByte(sql[i:], ']'); n < 0 {
				end, t.kind = len(sql), broken
			} else {
				end, t.kind, t.name = i+n+1, quoted, sql[i+1:i+n]
			}
		case (c == 'x' || c == 'X') && i+1 < len(sql) && sql[i+1] == '\'':
			end, t.kind = quote(sql, i+1, '\'', literal)
		case isDigit(c) || c == '.' && i+1 < len(sql) && isDigit(sql[i+1]):
			end, t.kind = number(sql, i), literal
		case c == '?' || c == ':' || c == '@' || c == '$' || c == '#':
			for end < len(sql) && isWordByte(sql[end]) {
				end++
			}
			t.kind = bind
		case isWordByte(c):
			for end < len(sql) && isWordByte(sql[end]) {
				end++
			}
			t.kind = word
		}
		t.end = end
		if t.kind == word || t.kind == other {
			t.name = sql[i:end]
		}
		out = append(out, t)
		i = end
	}
	return out
}

// after is the place behind the next mark, or the end.
func after(sql string, i int, mark string) int {
	i = min(i, len(sql))
	if n := strings.Index(sql[i:], mark); n >= 0 {
		return i + n + len(mark)
	}
	return len(sql)
}

// quote is the end of what begins with the quote q; a doubled one stands for
// itself.
func quote(sql string, i int, q byte, k kind) (int, kind) {
	for i++; i < len(sql); i++ {
		if sql[i] != q {
			continue
		}
		if i+1 < len(sql) && sql[i+1] == q {
			i++
			continue
		}
		return i + 1, k
	}
	return len(sql), broken
}

func number(sql string, i int) int {
	digits := func() {
		for i < len(sql) && isWordByte(sql[i]) {
			if (sql[i] == 'e' || sql[i] == 'E') && i+1 < len(sql) && (sql[i+1] == '+' || sql[i+1] == '-') {
				i++
			}
			i++
		}
	}
	digits()
	if i < len(sql) && sql[i] == '.' {
		i++
		digits()
	}
	return min(i, len(sql))
}

// readOnly checks that the text is one statement that reads, and returns its
// tokens without a closing semicolon. SQLite's authorizer checks again, on what
// the statement compiles to.
func readOnly(sql string) ([]token, error) {
	if strings.IndexByte(sql, 0) >= 0 {
		return nil, refuse("the query holds a NUL character", "")
	}
	ts := tokens(sql)
	for len(ts) > 0 && ts[len(ts)-1].is(";") {
		ts = ts[:len(ts)-1]
	}
	if len(ts) == 0 {
		return nil, refuse("the query is empty", `write one SELECT, such as SELECT key, count(*) FROM mqtt GROUP BY key`)
	}
	for _, t := range ts {
		switch {
		case t.is(";"):
			return nil, refuse("a query is one statement", "leave out what stands behind the semicolon")
		case t.kind == broken:
			return nil, refuse(fmt.Sprintf("the quote at character %d of the query has no end", t.start+1), "")
		case t.kind == bind:
			return nil, refuse(fmt.Sprintf("%s: a query takes no parameters", sql[t.start:t.end]), "write the value itself")
		}
	}
	at := 0
	if ts[0].is("EXPLAIN") {
		for at = 1; at < len(ts) && at < 3 && (ts[at].is("QUERY") || ts[at].is("PLAN")); at++ {
		}
	}
	if at == len(ts) {
		return nil, refuse("there is nothing to explain", "")
	}
	if first := ts[at]; !first.is("SELECT") && !first.is("WITH") && !first.is("VALUES") {
		return nil, refuse(fmt.Sprintf("a query only reads; it begins with SELECT, WITH, VALUES or EXPLAIN, not with %q", sql[first.start:first.end]), "")
	}
	return ts, nil
}

// keywords that may stand directly before a name that is no alias.
var keywords = strings.Fields(`ALL AND AS ASC BETWEEN BY CASE CAST COLLATE CROSS CURRENT DESC DISTINCT ELSE END ESCAPE
	EXCEPT EXISTS EXPLAIN FILTER FOLLOWING FROM FULL GLOB GROUP HAVING IN INNER INTERSECT IS ISNULL JOIN LEFT LIKE LIMIT
	MATERIALIZED NATURAL NOT NOTNULL NULL OFFSET ON OR ORDER OUTER OVER PARTITION PLAN PRECEDING QUERY RANGE RECURSIVE
	REGEXP RIGHT ROWS SELECT THEN UNION USING VALUES WHEN WHERE WINDOW WITH`)

func isKeyword(t token) bool {
	return t.kind == word && slices.Contains(keywords, strings.ToUpper(t.name))
}

// names is what a query's text tells of the names in it.
type names struct {
	streams map[string]bool     // streams that are named
	aliases map[string][]string // other names of tables, in small letters, and the streams they stand for
	collate bool                // some comparison is not byte by byte
}

// survey finds the streams that a query names and what it calls them.
func survey(ts []token, stream func(string) (string, bool)) names {
	n := names{streams: map[string]bool{}, aliases: map[string][]string{}}
	at := func(i int) token {
		if i < 0 || i >= len(ts) {
			return token{}
		}
		return ts[i]
	}
	for i, t := range ts {
		n.collate = n.collate || t.is("COLLATE")
		if !t.ident() {
			continue
		}
		if s, ok := stream(t.name); ok {
			n.streams[s] = true
		}
		if isKeyword(t) || at(i-1).is(".") || at(i+1).is(".") || at(i+1).is("(") && !at(i-1).is("WITH") && !at(i-1).is(",") && !at(i-1).is("RECURSIVE") {
			continue
		}
		prev := at(i - 1)
		subject := at(i - 2)
		alias := prev.is("AS")
		switch {
		case alias:
		case prev.ident() && !isKeyword(prev):
			alias, subject = true, prev
		case prev.is(")"), prev.is("WITH"), prev.is("RECURSIVE"), at(i+1).is("AS") && (at(i+2).is("(") || at(i+2).is("MATERIALIZED") || at(i+2).is("NOT")):
			alias, subject = true, token{}
		}
		if !alias {
			continue
		}
		key := strings.ToLower(t.name)
		of := n.aliases[key]
		if subject.ident() && !isKeyword(subject) {
			if s, ok := stream(subject.name); ok && !slices.Contains(of, s) {
				of = append(of, s)
			}
		}
		n.aliases[key] = of
	}
	return n
}

// table reports whether a name stands for a table in the query.
func (n names) table(name string, stream func(string) (string, bool)) bool {
	if _, ok := stream(name); ok {
		return true
	}
	_, ok := n.aliases[strings.ToLower(name)]
	return ok
}

// rewrite makes names with dots what SQLite understands: motor.temp, where
// motor is no table, becomes the one column "motor.temp"; s.motor.temp becomes
// s."motor.temp"; and press.raw, where that is a stream, "press.raw".
func rewrite(sql string, ts []token, n names, stream func(string) (string, bool)) string {
	var out strings.Builder
	done := 0
	for i := 0; i < len(ts); i++ {
		if !ts[i].ident() || isKeyword(ts[i]) || i > 0 && ts[i-1].is(".") {
			continue
		}
		parts := []string{ts[i].name}
		j := i
		for j+2 < len(ts) && ts[j+1].is(".") && ts[j+2].ident() {
			j += 2
			parts = append(parts, ts[j].name)
		}
		if len(parts) < 2 || j+1 < len(ts) && ts[j+1].is("(") {
			continue
		}
		text, ok := chain(parts, n, stream)
		if ok {
			out.WriteString(sql[done:ts[i].start])
			out.WriteString(text)
			done = ts[j].end
		}
		i = j
	}
	out.WriteString(sql[done:])
	return out.String()
}

func chain(parts []string, n names, stream func(string) (string, bool)) (string, bool) {
	if !n.table(parts[0], stream) {
		for k := len(parts); k >= 2; k-- {
			s, ok := stream(strings.Join(parts[:k], "."))
			if !ok {
				continue
			}
			n.streams[s] = true
			if k == len(parts) {
				return ident(s), true
			}
			return ident(s) + "." + ident(strings.Join(parts[k:], ".")), true
		}
		if strings.EqualFold(parts[0], "main") && n.table(parts[1], stream) {
			return "", false
		}
		return ident(strings.Join(parts, ".")), true
	}
	if len(parts) == 2 {
		return "", false
	}
	return ident(parts[0]) + "." + ident(strings.Join(parts[1:], ".")), true
}

// ident quotes an identifier.
func ident(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
