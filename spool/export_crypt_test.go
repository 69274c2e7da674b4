package spool

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"hash/crc32"
)

// A Vault is the primitives of encryption, for tests with known answers.
type Vault struct {
	master *masterKey
	key    *dataKey
}

// NewVault takes a master key's bytes and a data key.
func NewVault(master []byte, id uint32, stream int64, key []byte) (*Vault, error) {
	m, err := newMasterKey(master)
	return &Vault{m, &dataKey{id: id, stream: stream, secret: key}}, err
}

// Name is the master key's name.
func (v *Vault) Name() string { return v.master.name }

// Wrap wraps the data key.
func (v *Vault) Wrap() []byte { return v.master.wrap(v.key.id, v.key.stream, v.key.secret) }

// Unwrap opens a wrapped key.
func (v *Vault) Unwrap(wrapped []byte) ([]byte, error) {
	return v.master.unwrap(v.key.id, v.key.stream, wrapped)
}

// Seal seals a block's body.
func (v *Vault) Seal(log uint32, segment uint64, plain, aad []byte) (nonce, sealed []byte, err error) {
	k, err := v.key.of(log, segment)
	if err != nil {
		return nil, nil, err
	}
	var n [nonceBytes]byte
	_, _ = rand.Read(n[:])
	return n[:], k.blocks.Seal(nil, n[:], plain, aad), nil
}

// Open opens a block's body.
func (v *Vault) Open(log uint32, segment uint64, nonce, sealed, aad []byte) ([]byte, error) {
	k, err := v.key.of(log, segment)
	if err != nil {
		return nil, err
	}
	return k.open(nonce, sealed, aad)
}

// SealChunk seals a chunk with a given salt.
func (v *Vault) SealChunk(log uint32, segment uint64, salt [16]byte, plain []byte) ([]byte, error) {
	k, err := v.key.of(log, segment)
	if err != nil {
		return nil, err
	}
	c, err := k.chunk(&salt)
	if err != nil {
		return nil, err
	}
	return c.sealTo(nil, plain, 0, pieces(int64(len(plain)))), nil
}

// OpenChunk opens a whole chunk of n bytes.
func (v *Vault) OpenChunk(log uint32, segment uint64, salt [16]byte, sealed []byte, n int64) ([]byte, error) {
	k, err := v.key.of(log, segment)
	if err != nil {
		return nil, err
	}
	c, err := k.chunk(&salt)
	if err != nil {
		return nil, err
	}
	return c.openAll(sealed, n)
}

// ColdBlocks is how many blocks readers share that are behind the tail.
func ColdBlocks(s *Spool) int {
	s.cold.mu.Lock()
	defer s.cold.mu.Unlock()
	return len(s.cold.blocks)
}

// WrappedKeys are the wrapped keys in state.db, by id.
func WrappedKeys(ctx context.Context, s *Spool) (out [][]byte) {
	s.state.disk.Lock()
	defer s.state.disk.Unlock()
	_ = each(ctx, s.state.db, "SELECT wrapped FROM keys WHERE wrapped IS NOT NULL ORDER BY id", func(scan func(...any) error) error {
		var b []byte
		err := scan(&b)
		out = append(out, b)
		return err
	})
	return out
}

// Forge changes a block and makes its checksums right.
func Forge(ctx context.Context, path string, id int64, change func(head, body []byte)) error {
	db, err := openDatabase(ctx, path, openWrite, "")
	if err != nil {
		return err
	}
	var head, body []byte
	if err := db.QueryRowContext(ctx, "SELECT head, body FROM block WHERE id=?", id).Scan(&head, &body); err != nil {
		return err
	}
	change(head, body)
	binary.LittleEndian.PutUint32(head[72:], crc32.Checksum(body, castagnoli))
	putHeadCRC(head)
	if _, err := db.ExecContext(ctx, "UPDATE block SET head=?, body=? WHERE id=?", head, body, id); err != nil {
		return err
	}
	if err := db.truncateWAL(ctx); err != nil {
		return err
	}
	return db.Close()
}
