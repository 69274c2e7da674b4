package query

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"modernc.org/sqlite/vtab"

	"forebay/spool"
	"forebay/spool/record"
)

// The columns that every stream has; the payload's fields stand behind them.
const (
	colShard = iota
	colSeq
	colTS
	colKey
	colDevice
	colSource
	colType
	colData
	colArrived
	colAt
	colAttrs
	colBytes
	colID
	nColumns
)

// column says how a column is declared. Hidden ones are left out of SELECT *.
type column struct {
	name, decl string
	hidden     bool
}

var columns = [nColumns]column{
	{"shard", "INTEGER", false},
	{"seq", "INTEGER", false},
	{"ts", "REAL", false},
	{"key", "TEXT", false},
	{"device", "TEXT", false},
	{"source", "TEXT", false},
	{"type", "TEXT", false},
	{"data", "", false},
	{"arrived", "REAL", true},
	{"at", "REAL", true},
	{"attrs", "TEXT", true},
	{"bytes", "INTEGER", true},
	{"id", "TEXT", true},
}

func isColumn(name string) bool {
	for _, c := range columns {
		if strings.EqualFold(c.name, name) {
			return true
		}
	}
	return false
}

// A module makes the tables of streams; which, and for which query, it is told
// by the table's name and the query's number.
type module struct{ engine *Engine }

func (m module) Create(ctx vtab.Context, args []string) (vtab.Table, error) {
	return m.Connect(ctx, args)
}

func (m module) Connect(ctx vtab.Context, args []string) (vtab.Table, error) {
	if len(args) != 4 {
		return nil, errors.New("the table is made by the query alone")
	}
	r := m.engine.find(args[3])
	if r == nil || r.tables[args[2]] == nil {
		return nil, errors.New("the table is made by the query alone")
	}
	t := r.tables[args[2]]
	return t, ctx.Declare(t.declaration())
}

// A table is one stream as SQL sees it.
type table struct {
	run     *run
	stream  *spool.Stream
	index   map[record.ShardID]int64
	ids     []record.ShardID // by index
	listed  []string         // fields that SELECT * shows
	fields  []string         // all fields, the listed ones first
	made    bool             // as a table of the connection, with these fields
	anyKeys bool             // keys are compared byte by byte in all of the query
	met     []bool           // fields that some record had
}

func (t *table) declaration() string {
	var b strings.Builder
	b.WriteString("CREATE TABLE x(")
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(ident(c.name) + " " + c.decl)
		if c.hidden {
			b.WriteString(" HIDDEN")
		}
	}
	for i, f := range t.fields {
		b.WriteString(", " + ident(f))
		if i >= len(t.listed) {
			b.WriteString(" HIDDEN")
		}
	}
	b.WriteString(")")
	return b.String()
}

// path is where in the payload a field lies: "$." says that a name is the
// payload's even though a column has it.
func path(fieldName string) string { return strings.TrimPrefix(fieldName, "$.") }

// knows reports whether the stream had the shard when the query began: one that
// came since has no number in it.
func (t *table) knows(id record.ShardID) bool {
	_, ok := t.index[id]
	return ok
}

func (t *table) total() int64 {
	var n uint64
	for _, sh := range t.stream.Shards() {
		n += sh.Next - sh.First
	}
	return int64(n)
}

// BestIndex takes bounds on the times, the numbers, the shard and the key.
// SQLite compares again: what is taken here only leaves records out that it
// would leave out.
func (t *table) BestIndex(info *vtab.IndexInfo) error {
	var plan strings.Builder
	fmt.Fprintf(&plan, "%x", info.ColUsed)
	cost, args := float64(t.total())+10, 0
	for i := range info.Constraints {
		c := &info.Constraints[i]
		op := map[vtab.ConstraintOp]string{vtab.OpEQ: "=", vtab.OpGT: ">", vtab.OpGE: ">", vtab.OpLT: "<", vtab.OpLE: "<"}[c.Op]
		if !c.Usable || op == "" {
			continue
		}
		switch c.Column {
		case colTS, colArrived, colAt, colSeq:
			if op == "=" {
				cost /= 1000
			} else {
				cost /= 4
			}
		case colShard, colKey:
			if op != "=" || c.Column == colKey && !t.anyKeys {
				continue
			}
			cost /= 2
		default:
			continue
		}
		c.ArgIndex = args
		args++
		fmt.Fprintf(&plan, " %d%s", c.Column, op)
	}
	info.IdxStr = plan.String()
	info.EstimatedCost, info.EstimatedRows = max(cost, 1), max(int64(cost), 1)
	return nil
}

func (t *table) Open() (vtab.Cursor, error) { return &cursor{t: t}, nil }
func (t *table) Disconnect() error          { return nil }
func (t *table) Destroy() error             { return nil }

// A cursor is one pass over a stream; a join makes many with one cursor.
type cursor struct {
	t    *table
	scan *spool.Scanner
	part spool.Part
	i    int
	eof  bool
	key  string // only this one, where hasKey
	has  bool
	x    extractor
	read bool // the fields of this record were looked for
	json bool // and it is JSON
}

// Filter begins a pass.
func (c *cursor) Filter(_ int, plan string, vals []vtab.Value) error {
	c.has, c.eof, c.part, c.i = false, false, spool.Part{}, 0
	words := strings.Fields(plan)
	used, err := strconv.ParseUint(words[0], 16, 64)
	if err != nil {
		return err
	}
	span := spool.Span{}
	for i, w := range words[1:] {
		col, err := strconv.Atoi(w[:len(w)-1])
		if err != nil {
			return err
		}
		if err := c.bound(&span, col, w[len(w)-1], vals[i]); err != nil {
			return c.t.run.fail(err)
		}
	}
	const told = 1<<colShard | 1<<colSeq | 1<<colID
	span.HeadsOnly = used&^told == 0 && !c.has
	span.WithoutData = used&(1<<colDevice|1<<colData|1<<colBytes) == 0 && used>>nColumns == 0
	if c.eof {
		return nil
	}
	if c.x.paths == nil {
		for _, f := range c.t.fields {
			c.x.paths = append(c.x.paths, path(f))
		}
		c.x.paths = append(c.x.paths, "device")
	}
	scan, err := c.t.stream.Scanner(span)
	if err != nil {
		return c.t.run.fail(err)
	}
	c.t.run.scanning(c.scan, scan)
	c.scan = scan
	return c.load()
}

// bound takes a comparison into the span.
func (c *cursor) bound(span *spool.Span, col int, op byte, v vtab.Value) error {
	if v == nil {
		c.eof = true // nothing compares with NULL
		return nil
	}
	switch col {
	case colKey:
		if s, ok := v.(string); ok {
			c.key, c.has = strings.Clone(s), true
		}
	case colShard:
		if f, ok := number64(v); ok {
			if f != math.Trunc(f) || f < 0 || f >= float64(len(c.t.ids)) {
				c.eof = true
			} else if id := c.t.ids[int(f)]; span.Shards == nil || span.Shards[0] == id {
				span.Shards = []record.ShardID{id}
			} else {
				c.eof = true
			}
		}
	case colSeq:
		f, ok := number64(v)
		if !ok {
			return nil
		}
		if f = max(f, 0); op != '<' && f < 1<<62 { // rounded down: one too many does no harm
			span.FirstSeq = max(span.FirstSeq, uint64(max(f*(1-1e-15)-1, 0)))
		} else if op != '<' {
			c.eof = true
		}
		if last := uint64(min(f*(1+1e-15)+1, 1<<62)); op != '>' && (span.LastSeq == 0 || last < span.LastSeq) {
			span.LastSeq = last
		}
	default:
		f, ok := number64(v)
		if !ok {
			return refuse(fmt.Sprintf("%s is a number of seconds since 1970 and is compared with %s", columns[col].name, shown(v)),
				"write unixepoch('2026-11-05 14:00:00'), or now()-3600")
		}
		since, until := &span.SinceEvent, &span.UntilEvent
		if col == colArrived {
			since, until = &span.Since, &span.Until
		}
		if lo := moment(f, -2*time.Microsecond); op != '<' && lo.After(*since) {
			*since = lo
		}
		if hi := moment(f, 2*time.Microsecond); op != '>' && (until.IsZero() || hi.Before(*until)) {
			*until = hi
		}
	}
	return nil
}

func shown(v vtab.Value) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("%T", v)
}

// number64 is a number, also where it stands as text: SQLite would take it for
// one.
func number64(v vtab.Value) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	case string:
		f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
		return f, err == nil
	}
	return 0, false
}

// moment is a number of seconds as a time, and a little beside it, because a
// number of that size tells quarters of a microsecond apart at best.
func moment(sec float64, beside time.Duration) time.Time {
	const most = 2e11 // beyond the year 8000
	whole := math.Floor(min(max(sec, -6e10), most))
	return time.Unix(int64(whole), int64((min(max(sec, -6e10), most)-whole)*1e9)).Add(beside).UTC()
}

func seconds(t time.Time) float64 { return float64(t.Unix()) + float64(t.Nanosecond())/1e9 }

func (c *cursor) Next() error {
	c.i++
	c.read = false
	return c.settle()
}

// settle goes to the first record from here on that has the key.
func (c *cursor) settle() error {
	if c.part.Recs == nil && c.i < c.part.Len() || c.match() {
		return nil
	}
	return c.load()
}

// match goes to the next record of the part that has the key.
func (c *cursor) match() bool {
	for ; c.i < len(c.part.Recs); c.i++ {
		if !c.has || c.part.Recs[c.i].Key == c.key {
			return true
		}
	}
	return false
}

// load gets the next part.
func (c *cursor) load() error {
	for {
		p, err := c.t.run.next(c.scan)
		c.read, c.i, c.part = false, 0, p
		switch {
		case errors.Is(err, io.EOF):
			c.eof = true
			return nil
		case err != nil && !isLoss(err):
			return c.t.run.fail(err)
		case err != nil:
			c.t.run.warn(fmt.Sprintf("stream %s: %v", c.t.stream.Name(), err))
			continue
		case !c.t.knows(p.Shard), p.Recs != nil && !c.match():
		default:
			return nil
		}
	}
}

func isLoss(err error) bool {
	_, trimmed := errors.AsType[*record.TrimmedError](err)
	_, corrupt := errors.AsType[*record.CorruptError](err)
	return trimmed || corrupt
}

func (c *cursor) Eof() bool { return c.eof }

func (c *cursor) pos() record.Pos {
	if c.part.Recs == nil {
		return record.Pos{Shard: c.part.Shard, Seq: c.part.First + uint64(c.i)}
	}
	return c.part.Recs[c.i].Pos
}

// Rowid is unique within the table, as SQLite's OR needs it.
func (c *cursor) Rowid() (int64, error) {
	p := c.pos()
	return c.t.index[p.Shard]<<48 | int64(p.Seq), nil
}

func (c *cursor) Close() error { return nil }

func (c *cursor) Column(col int) (vtab.Value, error) {
	switch p := c.pos(); col {
	case colShard:
		return c.t.index[p.Shard], nil
	case colSeq:
		return int64(p.Seq), nil
	case colID:
		return record.Identity{Gateway: c.part.Origin.Gateway, Epoch: c.part.Origin.Epoch}.ID(p), nil
	}
	r := &c.part.Recs[c.i]
	switch col {
	case colTS:
		if !r.At.IsZero() {
			return seconds(r.At), nil
		}
		return seconds(r.Arrived), nil
	case colArrived:
		return seconds(r.Arrived), nil
	case colAt:
		if r.At.IsZero() {
			return nil, nil
		}
		return seconds(r.At), nil
	case colKey:
		return text(r.Key), nil
	case colSource:
		return text(r.Source), nil
	case colType:
		if r.Type == "" {
			return nil, nil
		}
		return text(r.Type), nil
	case colBytes:
		return int64(len(r.Data)) + r.Chunk.Len, nil
	case colAttrs:
		if len(r.Attrs) == 0 {
			return nil, nil
		}
		b, err := json.Marshal(r.Attrs)
		return view(b), err
	case colData:
		if len(r.Data) > maxValue {
			return nil, c.t.run.fail(&Error{Kind: TooLarge, Message: fmt.Sprintf("record %d of shard %d of %s has %d bytes of data; a query takes values up to %d", r.Pos.Seq, c.t.index[r.Pos.Shard], c.t.stream.Name(), len(r.Data), maxValue), Hint: fmt.Sprintf("leave it out: WHERE bytes <= %d", maxValue)})
		}
		return payload(r.Data), nil
	case colDevice:
		return c.device(r)
	}
	return c.field(r, col-nColumns)
}

// text is a string as SQLite may hold it.
func text(s string) any {
	if strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s) {
		return []byte(s)
	}
	return s
}

// payload is text where it can be, else a blob.
func payload(b []byte) any {
	s := view(b)
	if strings.IndexByte(s, 0) >= 0 || !utf8.Valid(b) {
		return b
	}
	return s
}

func (c *cursor) look(r *record.Record) {
	if !c.read {
		c.read, c.json = true, c.x.scan(r.Data)
	}
}

func (c *cursor) field(r *record.Record, i int) (vtab.Value, error) {
	if i < 0 || i >= len(c.t.fields) {
		return nil, nil
	}
	c.look(r)
	f := c.x.found[i]
	if f.text == nil {
		return nil, nil
	}
	c.t.met[i] = true
	v := f.value()
	if s, ok := v.(string); ok {
		if len(s) > maxValue {
			return nil, c.t.run.fail(&Error{Kind: TooLarge, Message: fmt.Sprintf("the field %s of record %d of shard %d has %d bytes; a query takes values up to %d", c.t.fields[i], r.Pos.Seq, c.t.index[r.Pos.Shard], len(s), maxValue)})
		}
		return text(s), nil
	}
	return v, nil
}

// device is the payload's own field "device"; else the topic, or the partition
// key, without its last level, which names what was measured; or all of it
// where it has one level only.
func (c *cursor) device(r *record.Record) (vtab.Value, error) {
	c.look(r)
	if f := c.x.found[len(c.t.fields)]; f.text != nil && f.text[0] != 'n' {
		v := f.value()
		if s, ok := v.(string); ok {
			return text(s), nil
		}
		return v, nil
	}
	topic := r.Key
	if t := r.Attrs["topic"]; t != "" {
		topic = t
	}
	if i := strings.LastIndexByte(topic, '/'); i > 0 {
		topic = topic[:i]
	}
	return text(topic), nil
}

// An output takes the rows of the result: the query runs as INSERT INTO it, in
// one call that SQLite can be interrupted in.
type output struct{ engine *Engine }

func (o output) Create(ctx vtab.Context, args []string) (vtab.Table, error) {
	return o.Connect(ctx, args)
}

func (o output) Connect(ctx vtab.Context, args []string) (vtab.Table, error) {
	if len(args) != 4 {
		return nil, errors.New("the table is made by the query alone")
	}
	r := o.engine.find(args[3])
	if r == nil {
		return nil, errors.New("the table is made by the query alone")
	}
	var b strings.Builder
	for i := range r.columns {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "c%d", i)
	}
	return &sink{r}, ctx.Declare("CREATE TABLE x(" + b.String() + ")")
}

// VolatileArgs lets values be lent instead of copied.
func (output) VolatileArgs() bool { return true }

type sink struct{ run *run }

func (s *sink) BestIndex(*vtab.IndexInfo) error { return errors.New("the table is only written") }

func (s *sink) Open() (vtab.Cursor, error)               { return nil, errors.New("the table is only written") }
func (s *sink) Disconnect() error                        { return nil }
func (s *sink) Destroy() error                           { return nil }
func (s *sink) Delete(int64) error                       { return errors.New("the table is only written") }
func (s *sink) Insert(cols []vtab.Value, _ *int64) error { return s.run.take(cols) }
func (s *sink) Update(int64, []vtab.Value, *int64) error {
	return errors.New("the table is only written")
}
