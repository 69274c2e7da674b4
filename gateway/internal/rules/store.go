package rules

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite" // the driver registers itself

	"forebay/spool/record"
)

// storeVersion is the format of rules.db, in SQLite's user_version.
const storeVersion = 1

const storeSchema = `
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE states (rule TEXT, key TEXT, data BLOB NOT NULL, PRIMARY KEY (rule, key)) WITHOUT ROWID;
CREATE TABLE firsts (rule TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE streams (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE cursors (stream TEXT, shard INTEGER, next INTEGER NOT NULL, PRIMARY KEY (stream, shard)) WITHOUT ROWID;
CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, at TEXT NOT NULL, data BLOB NOT NULL);
`

// A store is rules.db. What belongs together is committed together: the states
// of the rules, the place up to which the log made them, and the transitions
// that are still to be appended to the alarm stream.
type store struct {
	db   *sql.DB
	id   string // of this file, random: outbox rows are named by it
	sent int64  // highest outbox id ever given
}

// A spot is a shard of a stream.
type spot struct {
	stream string
	shard  record.ShardID
}

// An entry is a row of the outbox: one transition.
type entry struct {
	id   int64
	key  string
	at   time.Time
	data []byte
}

// A kept is what a store holds when it is opened.
type kept struct {
	states  []state
	firsts  map[string]uint64
	streams map[string]bool
	cursors map[spot]uint64
	outbox  []entry
	tick    time.Time
}

// A change is what one commit writes.
type change struct {
	states  map[*instance]struct{}
	gone    map[stateKey]struct{}
	firsts  map[string]uint64
	streams []string
	cursors map[spot]uint64
	dropped []spot
	outbox  []entry
	tick    time.Time
}

// openStore opens or creates rules.db. A damaged file is put aside and a new
// one begun; aside is then its new name.
func openStore(ctx context.Context, path string, now time.Time) (s *store, k kept, aside string, err error) {
	err = inspect(path)
	if err == nil {
		s, k, err = tryStore(ctx, path)
	}
	if !damaged(err) {
		return s, k, "", err
	}
	aside = path + ".damaged-" + now.UTC().Format("20060102T150405Z")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if e := os.Rename(path+suffix, aside+suffix); e != nil && !errors.Is(e, os.ErrNotExist) {
			return nil, kept{}, "", fmt.Errorf("put the damaged %s aside: %w", path, e)
		}
	}
	s, k, err = tryStore(ctx, path)
	return s, k, aside, err
}

var errDamaged = errors.New("not a database, or damaged")

func damaged(err error) bool {
	if errors.Is(err, errDamaged) {
		return true
	}
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return false
	}
	const corrupt, notADB = 11, 26 // SQLITE_CORRUPT, SQLITE_NOTADB
	return se.Code()&0xff == corrupt || se.Code()&0xff == notADB
}

// inspect reads the file's header without SQLite, which would write: a newer
// format must stay untouched.
func inspect(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the rules' state: %w", err)
	}
	defer f.Close() // only read from: a failing close loses nothing
	head := make([]byte, 100)
	switch n, err := io.ReadFull(f, head); {
	case n == 0 && errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF), err == nil && !bytes.HasPrefix(head, []byte("SQLite format 3\x00")):
		return fmt.Errorf("%s: %w", path, errDamaged)
	case err != nil:
		return fmt.Errorf("read the rules' state: %w", err)
	}
	return version(path, int(binary.BigEndian.Uint32(head[60:])))
}

func version(path string, v int) error {
	if v <= storeVersion {
		return nil
	}
	return &record.FormatError{
		Path: path, Reason: fmt.Sprintf("the rules' state has format %d; this program reads up to %d", v, storeVersion),
		Hint: "run the newer program, or move the file away and lose the state of the alarms",
	}
}

func tryStore(ctx context.Context, path string) (*store, kept, error) {
	name := (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath()
	q := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "journal_size_limit(4194304)"}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", "file:"+name+"?"+q.Encode())
	if err != nil {
		return nil, kept{}, fmt.Errorf("open the rules' state: %w", err)
	}
	db.SetMaxOpenConns(1)
	s := &store{db: db}
	k, err := s.load(ctx, path)
	if err != nil {
		return nil, kept{}, errors.Join(fmt.Errorf("open the rules' state %s: %w", path, err), db.Close())
	}
	return s, k, nil
}

func (s *store) load(ctx context.Context, path string) (kept, error) {
	k := kept{firsts: map[string]uint64{}, streams: map[string]bool{}, cursors: map[spot]uint64{}}
	var v int
	if err := s.db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v); err != nil {
		return k, err
	}
	if err := version(path, v); err != nil {
		return k, err
	}
	if v == 0 {
		if err := s.create(ctx); err != nil {
			return k, err
		}
	}
	var check string
	if err := s.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&check); err != nil {
		return k, err
	}
	if check != "ok" {
		return k, fmt.Errorf("%w: %s", errDamaged, check)
	}
	var tick string
	if err := s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'id'").Scan(&s.id); err != nil {
		return k, err
	}
	err := s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'tick'").Scan(&tick)
	if err == nil {
		k.tick, err = time.Parse(time.RFC3339Nano, tick)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return k, fmt.Errorf("read the stored tick: %w", err)
	}
	err = s.db.QueryRowContext(ctx, "SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").Scan(&s.sent)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return k, err
	}
	return k, s.tables(ctx, &k)
}

func (s *store) create(ctx context.Context) error {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a Commit it does nothing; else the error that led here counts
	if _, err := tx.ExecContext(ctx, storeSchema); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO meta VALUES ('id', ?)", hex.EncodeToString(id[:])); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", storeVersion)); err != nil {
		return err
	}
	return tx.Commit()
}

func (s *store) tables(ctx context.Context, k *kept) error {
	each := func(query string, row func(scan func(...any) error) error) error {
		rows, err := s.db.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close() // rows.Err below tells what went wrong
		for rows.Next() {
			if err := row(rows.Scan); err != nil {
				return err
			}
		}
		return rows.Err()
	}
	return errors.Join(
		each("SELECT data FROM states ORDER BY rule, key", func(scan func(...any) error) error {
			var b []byte
			if err := scan(&b); err != nil {
				return err
			}
			var st state
			if err := json.Unmarshal(b, &st); err != nil {
				return fmt.Errorf("%w: a rule's state: %w", errDamaged, err)
			}
			k.states = append(k.states, st)
			return nil
		}),
		each("SELECT rule, n FROM firsts", func(scan func(...any) error) error {
			var r string
			var n int64
			err := scan(&r, &n)
			k.firsts[r] = uint64(n)
			return err
		}),
		each("SELECT name FROM streams", func(scan func(...any) error) error {
			var n string
			err := scan(&n)
			k.streams[n] = true
			return err
		}),
		each("SELECT stream, shard, next FROM cursors", func(scan func(...any) error) error {
			var p spot
			var n int64
			err := scan(&p.stream, &p.shard, &n)
			k.cursors[p] = uint64(n)
			return err
		}),
		each("SELECT id, key, at, data FROM outbox ORDER BY id", func(scan func(...any) error) error {
			var x entry
			var at string
			if err := scan(&x.id, &x.key, &at, &x.data); err != nil {
				return err
			}
			var err error
			if x.at, err = time.Parse(time.RFC3339Nano, at); err != nil {
				return fmt.Errorf("%w: a transition's time: %w", errDamaged, err)
			}
			k.outbox = append(k.outbox, x)
			return nil
		}),
	)
}

// commit writes a change in one transaction. When it returns nil, all of it is
// on disk; else none of it.
func (s *store) commit(ctx context.Context, c *change) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin to store the rules' state: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // after a Commit it does nothing; else the error that led here counts
	if err := c.write(ctx, tx); err != nil {
		return fmt.Errorf("store the rules' state: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit the rules' state: %w", err)
	}
	return nil
}

func (c *change) write(ctx context.Context, tx *sql.Tx) error {
	var errs []error
	exec := func(query string, args ...any) {
		if len(errs) == 0 {
			if _, err := tx.ExecContext(ctx, query, args...); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for in := range c.states {
		b, err := json.Marshal(&in.state)
		if err != nil {
			return fmt.Errorf("rule %s, key %s: %w", in.Rule, in.Key, err)
		}
		exec("INSERT INTO states VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET data = excluded.data", in.Rule, in.Key, b)
	}
	for k := range c.gone {
		exec("DELETE FROM states WHERE rule = ? AND key = ?", k.rule, k.key)
	}
	for r, n := range c.firsts {
		exec("INSERT INTO firsts VALUES (?, ?) ON CONFLICT DO UPDATE SET n = excluded.n", r, int64(n))
	}
	for _, n := range c.streams {
		exec("INSERT INTO streams VALUES (?) ON CONFLICT DO NOTHING", n)
	}
	for p, n := range c.cursors {
		exec("INSERT INTO cursors VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET next = excluded.next", p.stream, int64(p.shard), int64(n))
	}
	for _, p := range c.dropped {
		exec("DELETE FROM cursors WHERE stream = ? AND shard = ?", p.stream, int64(p.shard))
	}
	for _, x := range c.outbox {
		exec("INSERT INTO outbox VALUES (?, ?, ?, ?)", x.id, x.key, x.at.Format(time.RFC3339Nano), x.data)
	}
	if !c.tick.IsZero() {
		exec("INSERT INTO meta VALUES ('tick', ?) ON CONFLICT DO UPDATE SET value = excluded.value", c.tick.UTC().Format(time.RFC3339Nano))
	}
	return errors.Join(errs...)
}

// delivered removes the outbox rows up to an id.
func (s *store) delivered(ctx context.Context, upTo int64) error {
	if _, err := s.db.ExecContext(ctx, "DELETE FROM outbox WHERE id <= ?", upTo); err != nil {
		return fmt.Errorf("remove delivered transitions: %w", err)
	}
	return nil
}

func (s *store) close() error { return s.db.Close() }

// name is how the record of an outbox row is known again in the alarm stream.
func (s *store) name(id int64) string { return fmt.Sprintf("%s/%d", s.id, id) }

// mine reports whether a name is one of this store's.
func (s *store) mine(name string) bool { return strings.HasPrefix(name, s.id+"/") }
