package query

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"modernc.org/sqlite"

	"forebay/spool"
	"forebay/spool/record"
)

const (
	// sampleOf is how many of a shard's newest records are looked at to learn
	// which fields there are.
	sampleOf = 200
	// listedFields is how many fields SELECT * shows.
	listedFields = 100
	// maxFields is how many fields a query may name.
	maxFields = 200
)

// stream finds a stream by the name that a query gives it; SQL does not tell
// small letters from capitals.
func (e *Engine) stream(name string) (string, bool) {
	if _, err := e.sp.Stream(name); err == nil {
		return name, true
	}
	found := ""
	for _, t := range e.sp.Streams() {
		if strings.EqualFold(t.Name(), name) {
			if found != "" {
				return "", false
			}
			found = t.Name()
		}
	}
	return found, found != ""
}

func (e *Engine) sorted(tables map[string]*table) []string { return slices.Sorted(maps.Keys(tables)) }

// compile makes the tables that the query names and finds out which fields of
// the payload it speaks of: what SQLite says is no column is one.
func (r *run) compile(ctx context.Context, c *sql.Conn, text string, ts []token) error {
	star := false
	for i, t := range ts {
		star = star || t.is("*") && i > 0 && (ts[i-1].is(".") || ts[i-1].is("SELECT") || ts[i-1].is("DISTINCT") || ts[i-1].is("ALL") || ts[i-1].is(","))
	}
	for name := range r.names.streams {
		st, err := r.engine.sp.Stream(name)
		if err != nil {
			return err
		}
		for other := range r.tables {
			if strings.EqualFold(other, name) {
				return refuse(fmt.Sprintf("the streams %s and %s differ in capitals only, which SQL does not tell apart", other, name), "ask for one at a time")
			}
		}
		if strings.HasPrefix(strings.ToLower(name), "sqlite_") {
			return refuse(fmt.Sprintf("the stream %s cannot be a table: SQLite keeps the names that begin with sqlite_ for itself", name), "")
		}
		t := &table{run: r, stream: st, index: map[record.ShardID]int64{}, anyKeys: !r.names.collate}
		for _, sh := range st.Shards() {
			t.index[sh.ID] = int64(sh.Index)
			t.ids = append(t.ids, sh.ID)
		}
		if star {
			if t.listed, err = t.sampled(ctx); err != nil {
				return err
			}
			t.fields = slices.Clone(t.listed)
		}
		r.tables[name] = t
	}
	for range maxFields {
		if err := r.declare(ctx, c); err != nil {
			return err
		}
		r.refusal = nil
		err := c.Raw(func(driverConn any) error {
			ci, ok := driverConn.(interface {
				ColumnInfo(query string) ([]sqlite.ColumnInfo, error)
			})
			if !ok {
				return fmt.Errorf("the SQLite driver %T does not tell columns", driverConn)
			}
			info, err := ci.ColumnInfo(text)
			r.columns = r.columns[:0]
			for _, col := range info {
				r.columns = append(r.columns, col.Name)
			}
			return err
		})
		if err == nil {
			return nil
		}
		again, err := r.learn(ctx, err)
		if !again {
			return err
		}
	}
	return refuse(fmt.Sprintf("the query names more than %d fields", maxFields), "")
}

// declare makes the tables that are new or have new fields.
func (r *run) declare(ctx context.Context, c *sql.Conn) error {
	for _, name := range r.engine.sorted(r.tables) {
		t := r.tables[name]
		if t.made && len(t.met) == len(t.fields) {
			continue
		}
		if t.made {
			if err := r.prepare(ctx, c, "DROP TABLE main."+ident(name)); err != nil {
				return err
			}
		}
		t.made, t.met = true, make([]bool, len(t.fields))
		if err := r.prepare(ctx, c, "CREATE VIRTUAL TABLE main."+ident(name)+" USING forebay_stream("+r.name+")"); err != nil {
			return err
		}
	}
	r.preparing = false
	return nil
}

// learn makes a field of what SQLite does not know; false with the error that
// the query ends with.
func (r *run) learn(ctx context.Context, err error) (bool, error) {
	told := r.told(err)
	message := bare(err)
	missing, ok := strings.CutPrefix(message, "no such column: ")
	if !ok {
		if missing, ok = strings.CutPrefix(message, "cannot join using column "); ok {
			missing, _, ok = strings.Cut(missing, " - ")
		}
	}
	if !ok || r.refusal != nil || ctx.Err() != nil {
		return false, told
	}
	if q, cut := strings.CutSuffix(missing, " - should this be a string literal in single-quotes?"); cut {
		missing = strings.TrimSuffix(strings.TrimPrefix(q, `"`), `"`)
	}
	of, name, err := r.owners(ctx, missing)
	if err != nil || len(of) == 0 {
		return false, errors.Join(err, told)
	}
	for _, t := range of {
		if slices.ContainsFunc(t.fields, func(f string) bool { return strings.EqualFold(f, name) }) {
			return false, told // it is there, and SQLite means something else
		}
		t.fields = append(t.fields, name)
	}
	return true, nil
}

// owners is the tables that a missing column belongs to, and its name in them.
func (r *run) owners(ctx context.Context, missing string) ([]*table, string, error) {
	var of []*table
	for _, name := range r.engine.sorted(r.tables) { // "stream.field"
		if len(missing) > len(name) && strings.EqualFold(missing[:len(name)], name) && missing[len(name)] == '.' {
			return append(of, r.tables[name]), missing[len(name)+1:], nil
		}
	}
	for alias, streams := range r.names.aliases { // "alias.field"
		if len(missing) > len(alias) && strings.EqualFold(missing[:len(alias)], alias) && missing[len(alias)] == '.' {
			for _, s := range streams {
				of = append(of, r.tables[s])
			}
			return of, missing[len(alias)+1:], nil
		}
	}
	if len(r.tables) == 1 {
		for _, t := range r.tables {
			of = append(of, t)
		}
		return of, missing, nil
	}
	for _, name := range r.engine.sorted(r.tables) {
		has, err := r.tables[name].has(ctx, missing)
		if err != nil {
			return nil, "", err
		}
		if has {
			of = append(of, r.tables[name])
		}
	}
	return of, missing, nil
}

// newest calls f with the newest records of every shard.
func (t *table) newest(ctx context.Context, f func(*record.Record)) error {
	for _, sh := range t.stream.Shards() {
		r, err := t.stream.Reader(sh.ID, spool.After(max(sh.First, sh.Next-min(sh.Next, sampleOf+1)+1)-1))
		if err != nil {
			return err
		}
		for n := 0; n < sampleOf; {
			b, err := r.Poll(ctx, sampleOf)
			if _, end := errors.AsType[*record.ShardEndError](err); end {
				break
			}
			if err != nil && !isLoss(err) {
				return errors.Join(err, r.Close())
			}
			if err == nil && len(b.Recs) == 0 {
				break
			}
			for i := range b.Recs {
				f(&b.Recs[i])
			}
			n += max(len(b.Recs), 1)
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	return nil
}

// has reports whether one of the newest records has the field.
func (t *table) has(ctx context.Context, name string) (bool, error) {
	x, found := extractor{paths: []string{path(name)}}, false
	err := t.newest(ctx, func(r *record.Record) {
		found = found || x.scan(r.Data) && x.found[0].text != nil
	})
	return found, err
}

// sampled is the fields at the top of the newest payloads, by name.
func (t *table) sampled(ctx context.Context) ([]string, error) {
	seen := map[string]string{} // by small letters
	x := extractor{}
	err := t.newest(ctx, func(r *record.Record) {
		if !x.scan(r.Data) {
			return
		}
		x.names(func(name string) {
			if isColumn(name) {
				name = "$." + name
			}
			fold := strings.ToLower(name)
			if _, ok := seen[fold]; !ok && len(seen) < listedFields && name != "" && len(name) < 256 {
				seen[fold] = strings.Clone(name)
			}
		})
	})
	return slices.Sorted(maps.Values(seen)), err
}

// names calls f with the names at the top of the payload that was scanned.
func (x *extractor) names(f func(string)) {
	x.at = 0
	x.space()
	if !x.next('{') {
		return
	}
	for {
		x.space()
		key, escaped, ok := x.text()
		if !ok {
			return
		}
		if escaped {
			f(unescape(key))
		} else {
			f(view(key[1 : len(key)-1]))
		}
		x.space()
		x.next(':')
		x.space()
		x.value(0, 0, 0)
		x.space()
		if !x.next(',') {
			return
		}
	}
}

// bare is SQLite's message without what the driver puts around it.
func bare(err error) string {
	s := err.Error()
	s = strings.TrimPrefix(s, "SQL logic error: ")
	if i := strings.LastIndex(s, " ("); i > 0 && strings.HasSuffix(s, ")") {
		s = s[:i]
	}
	return s
}

// told puts an error of SQLite into words for the one who asked.
func (r *run) told(err error) error {
	var se *sqlite.Error
	switch {
	case err == nil, r.failure != nil:
		return err
	case r.refusal != nil:
		return r.refusal
	case !errors.As(err, &se):
		return err
	}
	message := bare(err)
	if missing, ok := strings.CutPrefix(message, "no such table: "); ok {
		return refuse("there is no stream "+missing, "`forebay streams` lists them; a name with - or . stands in double quotes: \"press-shop\"")
	}
	switch se.Code() & 0xff {
	case 7, 18: // SQLITE_NOMEM, SQLITE_TOOBIG
		return &Error{Kind: TooLarge, Message: fmt.Sprintf("the query makes something larger than it may: a text or blob of more than %d bytes, or a statement of too many steps", maxValue)}
	}
	hint := ""
	if strings.HasPrefix(message, `near "-"`) || strings.HasPrefix(message, `near "."`) || strings.HasPrefix(message, "unrecognized token") {
		hint = `a name with - or . stands in double quotes: "press-shop"; a text in single ones: 'line1'`
	}
	return refuse(message, hint)
}
