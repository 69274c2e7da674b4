package spool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"forebay/spool/record"
)

// keysSchema is the part of state.db that holds wrapped data keys, and for
// every shard from where to where a key was in use. A key that was erased
// keeps its row without the key.
const keysSchema = `
CREATE TABLE IF NOT EXISTS keys(id INTEGER PRIMARY KEY AUTOINCREMENT, stream INTEGER NOT NULL, made INTEGER NOT NULL, master TEXT NOT NULL,
	wrapped BLOB, erased INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sealed(key INTEGER NOT NULL, shard INTEGER NOT NULL, first INTEGER NOT NULL, past INTEGER NOT NULL,
	PRIMARY KEY(key, shard)) WITHOUT ROWID;
`

// A keyring holds the data keys of a spool's encrypted streams.
type keyring struct {
	path   string     // of the master key, for hints
	master *masterKey // nil: none is configured

	mu     sync.RWMutex // all below
	live   map[uint32]*dataKey
	last   map[uint32]*segmentKey // by key, of the segment used last
	lastOf map[uint32]segmentID
	erased map[uint32]time.Time
}

type segmentID struct {
	log     uint32
	segment uint64
}

// A sealedRange is records that were sealed with a key, past excluded.
type sealedRange struct {
	key         uint32
	first, past uint64
}

// An erasedKey is why a block cannot be opened any more.
type erasedKey struct {
	id uint32
	at time.Time
}

func (e *erasedKey) Error() string {
	return fmt.Sprintf("its key was erased at %s", e.at.UTC().Format(time.RFC3339))
}

// openKeys reads the master key and unwraps the data keys. Where a stream is
// encrypted and the master key is missing or another one, the spool is not
// opened: the stream could neither be read nor take records, and its producers
// would wait for an answer for ever.
func (s *Spool) openKeys(ctx context.Context) error {
	if err := s.state.db.run(ctx, keysSchema); err != nil {
		return fmt.Errorf("open state.db: %w", storeError(err))
	}
	k, err := openKeyring(ctx, s.state.db, s.cfg, s.dir)
	if err != nil {
		return fmt.Errorf("open the spool: %w", err)
	}
	s.keys = k
	if len(k.erased) > 0 {
		// A crash right after an erasure may have left the key in the WAL.
		if err := s.state.db.truncateWAL(ctx); err != nil {
			s.log.Warn("WAL of state.db could not be emptied after an erasure; it is at the next stop", "error", err)
		}
	}
	return nil
}

func openKeyring(ctx context.Context, db *database, cfg Config, dir string) (*keyring, error) {
	r := &keyring{
		live: map[uint32]*dataKey{}, last: map[uint32]*segmentKey{}, lastOf: map[uint32]segmentID{},
		erased: map[uint32]time.Time{},
	}
	var err error
	if r.path, err = cfg.keyPath(); err != nil {
		return nil, err
	}
	if r.path != "" {
		if r.master, err = loadMasterKey(r.path, dir, cfg.KeyCredential != ""); err != nil {
			return nil, err
		}
	}
	err = each(ctx, db, `SELECT k.id, k.stream, k.master, k.wrapped, k.erased, coalesce(s.name, '') FROM keys k LEFT JOIN streams s ON s.id = k.stream ORDER BY k.id`,
		func(scan func(...any) error) error {
			var id uint32
			var stream, erased int64
			var master, name string
			var wrapped []byte
			if err := scan(&id, &stream, &master, &wrapped, &erased, &name); err != nil {
				return err
			}
			if wrapped == nil {
				r.erased[id] = time.Unix(0, erased)
				return nil
			}
			secret, err := r.unwrap(id, stream, master, name, wrapped)
			if err != nil {
				return err
			}
			r.live[id] = &dataKey{id: id, stream: stream, secret: secret}
			return nil
		})
	return r, err
}

func (r *keyring) unwrap(id uint32, stream int64, master, name string, wrapped []byte) ([]byte, error) {
	switch {
	case r.master == nil:
		return nil, &KeyError{
			Reason: fmt.Sprintf("is needed for the encrypted stream %q, and none is configured", name),
			Hint:   "set key_file or key_credential in [spool] to the key whose name is " + master,
		}
	case r.master.name != master:
		return nil, &KeyError{
			Path: r.path, Reason: fmt.Sprintf("is another one (its name is %s) than stream %q was encrypted with (%s)", r.master.name, name, master),
			Hint: "bring back the key that was in use; without it the stream cannot be read",
		}
	}
	secret, err := r.master.unwrap(id, stream, wrapped)
	if err != nil {
		return nil, &KeyError{
			Path: r.path, Reason: fmt.Sprintf("does not open key %d of stream %q: %v", id, name, err),
			Hint: "state.db is damaged; restore it from a backup",
		}
	}
	return secret, nil
}

// newest is the key that a stream's records are sealed with now, nil for a
// stream that is not encrypted.
func (r *keyring) newest(stream int64) *dataKey {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var k *dataKey
	for _, d := range r.live {
		if d.stream == stream && (k == nil || d.id > k.id) {
			k = d
		}
	}
	return k
}

// segment is the key of a segment's blocks that were sealed with key id. An
// *erasedKey, or damage where there never was such a key.
func (r *keyring) segment(id, log uint32, segment uint64) (*segmentKey, error) {
	at := segmentID{log, segment}
	s, err := r.derived(id, at)
	if err != nil || s != nil {
		return s, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.live[id]
	if k == nil {
		return nil, r.missing(id)
	}
	if s, err = k.of(log, segment); err == nil {
		r.last[id], r.lastOf[id] = s, at
	}
	return s, err
}

// derived is the key of the segment that was asked for last; nil where it was
// another one.
func (r *keyring) derived(id uint32, at segmentID) (*segmentKey, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	switch {
	case r.live[id] == nil:
		return nil, r.missing(id)
	case r.lastOf[id] == at:
		return r.last[id], nil
	}
	return nil, nil
}

// missing is why a key is not there; mu is held.
func (r *keyring) missing(id uint32) error {
	if at, ok := r.erased[id]; ok {
		return &erasedKey{id, at}
	}
	return fmt.Errorf("%w: state.db knows no key %d; was it restored from an older backup than the segment?", errDamaged, id)
}

// gone tells when a key was erased; false while it lives.
func (r *keyring) gone(id uint32) (time.Time, bool) {
	if id == 0 {
		return time.Time{}, false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	at, ok := r.erased[id]
	return at, ok
}

// makeKey stores a new key for a stream, whose shards are sealed from first on.
// It is called within a transaction of state.db; add takes the key up when that
// was committed.
func (s *Spool) makeKey(ctx context.Context, stream int64, first map[record.ShardID]uint64) (*dataKey, error) {
	m := s.keys.master
	if m == nil {
		return nil, &KeyError{Reason: "is needed for an encrypted stream, and none is configured", Hint: "make one with: openssl rand -hex 32 > FILE; chmod 600 FILE; and set key_file or key_credential in [spool]"}
	}
	res, err := s.state.db.ExecContext(ctx, "INSERT INTO keys(stream, made, master, wrapped, erased) VALUES(?,?,?,?,0)", stream, s.now().UnixNano(), m.name, []byte{})
	if err != nil {
		return nil, err
	}
	id, err := res.LastInsertId()
	if err != nil {
		return nil, err
	}
	k := newDataKey(uint32(id), stream)
	if err := s.state.exec(ctx, "UPDATE keys SET wrapped=? WHERE id=?", m.wrap(k.id, stream, k.secret), id); err != nil {
		return nil, err
	}
	for shard, at := range first {
		if err := s.state.exec(ctx, "INSERT INTO sealed VALUES(?,?,?,0)", id, shard, int64(at)); err != nil {
			return nil, err
		}
	}
	return k, nil
}

func (r *keyring) add(k *dataKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[k.id] = k
}
