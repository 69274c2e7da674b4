package spool

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Encryption is written down in docs/format.md; the two change together.
const (
	keyBytes   = 32
	nonceBytes = 12
	tagBytes   = 16
	saltBytes  = 16
	// chunkPiece is how much of a chunk is sealed at once, bytes of plain text.
	chunkPiece = 64 << 10

	infoWrap    = "forebay wrap v1"
	infoName    = "forebay key name v1"
	infoSegment = "forebay segment v1"
	infoBlock   = "forebay block v1"
	infoChunk   = "forebay chunk v1"
)

// errSealed is returned where sealed bytes do not open: they were changed, or
// the key is another one.
var errSealed = errors.New("encrypted bytes do not open: they were changed, or belong to another key")

// expand derives 32 bytes for one purpose: HKDF's expand step with SHA-256 (RFC
// 5869), of which 32 bytes are the first block.
func expand(secret []byte, info string) []byte {
	h := hmac.New(sha256.New, secret)
	_, _ = h.Write(append([]byte(info), 1)) // a hash never fails
	return h.Sum(nil)
}

// newGCM is AES-256-GCM (NIST SP 800-38D) with 12 bytes of nonce and 16 of tag.
func newGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// A masterKey wraps data keys. It never seals data itself.
type masterKey struct {
	wrapping cipher.AEAD
	name     string // 16 hex digits, tells two keys apart and nothing more
}

func newMasterKey(secret []byte) (*masterKey, error) {
	if len(secret) != keyBytes {
		return nil, fmt.Errorf("a master key has %d bytes, not %d", keyBytes, len(secret))
	}
	w, err := newGCM(expand(secret, infoWrap))
	if err != nil {
		return nil, err
	}
	return &masterKey{wrapping: w, name: hex.EncodeToString(expand(secret, infoName)[:8])}, nil
}

// wrapAAD binds a wrapped key to its place, so that two of them cannot be
// exchanged.
func wrapAAD(id uint32, stream int64) []byte {
	b := binary.LittleEndian.AppendUint32([]byte("forebay key"), id)
	return binary.LittleEndian.AppendUint64(b, uint64(stream))
}

// wrap is nonce and sealed key, 60 bytes.
func (m *masterKey) wrap(id uint32, stream int64, key []byte) []byte {
	out := make([]byte, nonceBytes, nonceBytes+keyBytes+tagBytes)
	_, _ = rand.Read(out) // never fails (crypto/rand)
	return m.wrapping.Seal(out, out, key, wrapAAD(id, stream))
}

func (m *masterKey) unwrap(id uint32, stream int64, wrapped []byte) ([]byte, error) {
	if len(wrapped) != nonceBytes+keyBytes+tagBytes {
		return nil, errShort
	}
	key, err := m.wrapping.Open(nil, wrapped[:nonceBytes], wrapped[nonceBytes:], wrapAAD(id, stream))
	if err != nil {
		return nil, errSealed
	}
	return key, nil
}

// A dataKey is the key of one stream from its making to its erasure.
type dataKey struct {
	id     uint32
	stream int64
	secret []byte
}

func newDataKey(id uint32, stream int64) *dataKey {
	k := &dataKey{id: id, stream: stream, secret: make([]byte, keyBytes)}
	_, _ = rand.Read(k.secret) // never fails (crypto/rand)
	return k
}

// A segmentKey is a dataKey's part for one segment. A key per segment keeps
// the number of random nonces under one key far below what they are good for.
type segmentKey struct {
	id     uint32
	secret []byte
	blocks cipher.AEAD
}

// of derives the key of a segment.
func (k *dataKey) of(log uint32, segment uint64) (*segmentKey, error) {
	info := binary.LittleEndian.AppendUint32([]byte(infoSegment), log)
	s := &segmentKey{id: k.id, secret: expand(k.secret, string(binary.LittleEndian.AppendUint64(info, segment)))}
	var err error
	s.blocks, err = newGCM(expand(s.secret, infoBlock))
	return s, err
}

// open returns new memory.
func (s *segmentKey) open(nonce, sealed, aad []byte) ([]byte, error) {
	plain, err := s.blocks.Open(nil, nonce, sealed, aad)
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// A chunkSeal seals one chunk piece by piece, so that a reader opens any part
// of a long one by itself. Its key is its own: no nonce of a piece is ever
// used twice.
type chunkSeal struct {
	aead cipher.AEAD
}

func (s *segmentKey) chunk(salt *[saltBytes]byte) (*chunkSeal, error) {
	a, err := newGCM(expand(s.secret, infoChunk+string(salt[:])))
	return &chunkSeal{a}, err
}

// sealedLen is how many bytes a chunk of n bytes takes when sealed.
func sealedLen(n int64) int64 { return n + pieces(n)*tagBytes }

func pieces(n int64) int64 { return max((n+chunkPiece-1)/chunkPiece, 1) }

// pieceNonce numbers the pieces, and tells the last one, so that a chunk that
// was cut at a piece's end does not open.
func pieceNonce(i int64, last bool) []byte {
	var n [nonceBytes]byte
	binary.LittleEndian.PutUint64(n[:], uint64(i))
	if last {
		n[nonceBytes-1] = 1
	}
	return n[:]
}

// sealTo appends the sealed pieces from..to of plain to dst.
func (c *chunkSeal) sealTo(dst, plain []byte, from, to int64) []byte {
	total := pieces(int64(len(plain)))
	for i := from; i < to; i++ {
		p := plain[i*chunkPiece:]
		dst = c.aead.Seal(dst, pieceNonce(i, i == total-1), p[:min(len(p), chunkPiece)], nil)
	}
	return dst
}

// open appends piece i, of a chunk of n bytes, to dst. It may be opened in
// place.
func (c *chunkSeal) open(dst, sealed []byte, i, n int64) ([]byte, error) {
	plain, err := c.aead.Open(dst, pieceNonce(i, i == pieces(n)-1), sealed, nil)
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// openAll opens a whole chunk of n bytes.
func (c *chunkSeal) openAll(sealed []byte, n int64) ([]byte, error) {
	if int64(len(sealed)) != sealedLen(n) {
		return nil, errShort
	}
	out := make([]byte, 0, n)
	for i := range pieces(n) {
		p := sealed[i*(chunkPiece+tagBytes):]
		p = p[:min(len(p), chunkPiece+tagBytes)]
		var err error
		if out, err = c.open(out, p, i, n); err != nil {
			return nil, err
		}
	}
	return out, nil
}
