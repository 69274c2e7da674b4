package spool

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"modernc.org/sqlite"

	"forebay/spool/record"
)

const (
	// formatVersion is written into user_version of every file; a file with
	// a greater one is left untouched. Files from oldestFormat on are read.
	formatVersion = 2
	oldestFormat  = 1
	// application_id of the files: "FBST" for state.db, "FBSG" for segments.
	appState   = 0x46425354
	appSegment = 0x46425347

	statePageSize   = 4 << 10
	segmentPageSize = 4 << 10
)

// Result codes of SQLite that we act on (sqlite.org/rescode.html).
const (
	sqliteBusy      = 5
	sqliteNoMem     = 7
	sqliteReadOnly  = 8
	sqliteInterrupt = 9
	sqliteIOErr     = 10
	sqliteCorrupt   = 11
	sqliteFull      = 13
	sqliteCantOpen  = 14
	sqliteNotADB    = 26
)

// A database is one connection to one SQLite file. Its user serialises.
type database struct {
	*sql.Conn
	pool *sql.DB
}

// openMode says how a file is opened.
type openMode string

const (
	openWrite     openMode = "mode=rw"
	openCreate    openMode = "mode=rwc"
	openRead      openMode = "mode=ro"
	openImmutable openMode = "mode=ro&immutable=1"
)

// databaseURL names a file in the way that SQLite takes for absolute: a relative
// path would be read as the name of a host.
func databaseURL(path string, mode openMode) (*url.URL, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	abs = filepath.ToSlash(abs)
	if !strings.HasPrefix(abs, "/") {
		abs = "/" + abs // a Windows drive letter
	}
	return &url.URL{Scheme: "file", Path: abs, RawQuery: string(mode)}, nil
}

func openDatabase(ctx context.Context, path string, mode openMode, vfs string) (*database, error) {
	u, err := databaseURL(path, mode)
	if err != nil {
		return nil, err
	}
	if vfs != "" {
		u.RawQuery += "&vfs=" + url.QueryEscape(vfs)
	}
	pool, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1)
	conn, err := pool.Conn(ctx)
	if err == nil {
		db := &database{Conn: conn, pool: pool}
		if err = db.run(ctx, "PRAGMA busy_timeout=10000"); err == nil {
			return db, nil
		}
		_ = conn.Close()
	}
	_ = pool.Close()
	return nil, fmt.Errorf("open %s: %w", path, err)
}

func (d *database) Close() error {
	if d == nil {
		return nil
	}
	return errors.Join(d.Conn.Close(), d.pool.Close())
}

// run executes statements one after the other. Pragmas must each be their own
// statement: page_size counts only before journal_mode=wal, and is silently
// ignored in a list.
func (d *database) run(ctx context.Context, statements ...string) error {
	for _, s := range statements {
		if _, err := d.ExecContext(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// truncateWAL brings everything from the WAL into the file and empties the
// WAL. It fails where a reader or a full disk kept it from doing so: only
// after a nil may the file be opened immutable.
func (d *database) truncateWAL(ctx context.Context) error {
	var busy, pages, done int
	if err := d.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &pages, &done); err != nil {
		return err
	}
	if busy != 0 || pages > 0 {
		return fmt.Errorf("checkpoint left %d of %d pages in the WAL", pages-done, pages)
	}
	return nil
}

func sqliteCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()
	}
	return 0
}

// storeError is what a failed write means for a producer: ErrFull (no room;
// passes by itself), ErrReadOnly, or ErrCannotStore. The cause stays wrapped.
func storeError(err error) error {
	code := sqliteCode(err) & 0xff
	switch {
	case errors.Is(err, record.ErrFull), errors.Is(err, record.ErrReadOnly), errors.Is(err, record.ErrCannotStore):
		return err
	case code == sqliteFull, errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", record.ErrFull, err)
	case code == sqliteReadOnly, errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %w", record.ErrReadOnly, err)
	}
	return fmt.Errorf("%w: %w", record.ErrCannotStore, err)
}

// errDamaged marks what a file holds as not what it should hold.
var errDamaged = errors.New("damaged")

// asDamage marks the failure to read what must be there. What may pass by
// itself is left as it is.
func asDamage(err error) error {
	switch sqliteCode(err) & 0xff {
	case sqliteBusy, sqliteNoMem, sqliteReadOnly, sqliteInterrupt, sqliteIOErr, sqliteFull, sqliteCantOpen:
		return err
	}
	if err == nil || errors.Is(err, errDamaged) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

// isDamage reports whether a read failed because of what is in the file, so
// that trying again cannot help.
func isDamage(err error) bool {
	if errors.Is(err, errDamaged) {
		return true
	}
	switch code := sqliteCode(err); code & 0xff {
	case sqliteCorrupt, sqliteNotADB:
		return true
	case sqliteIOErr:
		// SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_DATA.
		return code == 266 || code == 522 || code == 8202
	}
	return false
}

// checkHeader reads the first 100 bytes of a SQLite file and refuses what this
// program does not read. It opens the file for reading only and touches
// nothing else, so a newer spool stays as it is.
func checkHeader(path string, app uint32) error {
	h, n, err := fileHeader(path)
	if err != nil {
		return err
	}
	if n < len(h) || string(h[:16]) != "SQLite format 3\x00" {
		return &record.FormatError{Path: path, Reason: "is not a spool's file", Hint: "the file is damaged or belongs to another program; restore it from a backup or give another directory"}
	}
	be := binary.BigEndian
	if id := be.Uint32(h[68:]); id != app {
		return &record.FormatError{Path: path, Reason: fmt.Sprintf("is a SQLite file of another program (application_id %#x)", id), Hint: "give another directory"}
	}
	newest := uint32(formatVersion)
	if app == appState {
		newest = stateVersion
	}
	if v := be.Uint32(h[60:]); v < oldestFormat || v > newest {
		return &record.FormatError{Path: path, Reason: fmt.Sprintf("has format version %d; this program reads %d to %d", v, oldestFormat, newest), Hint: "run the version of forebay that wrote it, or a newer one; nothing was changed"}
	}
	return nil
}

// fileHeader is the first bytes of a SQLite file, as far as they are there.
func fileHeader(path string) (h [100]byte, n int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, 0, err
	}
	defer f.Close()
	n, _ = f.ReadAt(h[:], 0) // what is missing makes n less
	return h, n, nil
}

// formatOf is the format version of a file, 0 if it cannot be told.
func formatOf(path string) uint32 {
	h, n, err := fileHeader(path)
	if err != nil || n < len(h) {
		return 0
	}
	return binary.BigEndian.Uint32(h[60:])
}
