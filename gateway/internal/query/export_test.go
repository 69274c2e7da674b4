package query

// A Span is where a token lies.
type Span struct{ Start, End int }

// Tokens splits a query.
func Tokens(sql string) []Span {
	out := []Span{}
	for _, t := range tokens(sql) {
		out = append(out, Span{t.start, t.end})
	}
	return out
}

// Rewrite makes names with dots what SQLite understands.
func Rewrite(sql string, streams ...string) (string, error) {
	ts, err := readOnly(sql)
	if err != nil {
		return "", err
	}
	find := func(name string) (string, bool) {
		for _, s := range streams {
			if s == name {
				return s, true
			}
		}
		return "", false
	}
	return rewrite(sql, ts, survey(ts, find), find), nil
}

// Fields finds the fields of a payload; false if it is not JSON.
func Fields(data []byte, paths ...string) ([]any, bool) {
	x := extractor{paths: paths}
	ok := x.scan(data)
	out := make([]any, len(paths))
	for i, f := range x.found {
		if f.text != nil {
			out[i] = f.value()
		}
	}
	return out, ok
}

// Functions are those that a query may call.
func Functions() []string { return functions }
