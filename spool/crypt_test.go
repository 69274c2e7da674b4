package spool_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"testing"

	"forebay/spool"
)

// run of bytes from..from+n.
func run(from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(from + i)
	}
	return b
}

func vault(t *testing.T) *spool.Vault {
	t.Helper()
	v, err := spool.NewVault(run(0, 32), 5, 9, run(64, 32))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func salt() [16]byte { return [16]byte(run(100, 16)) }

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The answers were worked out by another program from docs/format.md, with
// Python's hmac and the AES-GCM of its package cryptography.
func TestEncryptionGivesTheKnownAnswers(t *testing.T) {
	v := vault(t)
	if v.Name() != "ce0f389dff6cd5ba" {
		t.Errorf("the master key's name is %s", v.Name())
	}
	key, err := v.Unwrap(unhex(t, "c8c9cacbcccdcecfd0d1d2d369ea17cf9707f82df74666272f5b74ae59d3b5b1d22a8bd25418749ac98ddbc1da9abae934a4c3c5efa6cb1f298fc644"))
	if err != nil || !bytes.Equal(key, run(64, 32)) {
		t.Errorf("unwrap: %x, %v", key, err)
	}
	plain, err := v.Open(3, 7, run(200, 12), unhex(t, "984383c642cf82a988d45f61a859828e07a46033dea0c167634c2a01f5614ede"), []byte("head"))
	if err != nil || string(plain) != "temperature 21.5" {
		t.Errorf("open: %q, %v", plain, err)
	}
	long := make([]byte, 2*65536+10)
	for i := range long {
		long[i] = byte(i*7 + i/251)
	}
	for name, c := range map[string]struct {
		plain []byte
		len   int
		hex   string // of the sealed bytes, or their SHA-256
	}{
		"short":     {[]byte("a frame"), 23, "9abc52973c1c0d5b4f189baf49b0bbfc6e6353572078d3"},
		"one piece": {long[:65536], 65552, "e0418fa8b487b85d9fb2f8b1e185e111d8cf66842b67d0d80f94179c018321f8"},
		"three":     {long, 131130, "d326fdb7593dab8809535886d8052d4d6e4d7e2072de5609816f7161aa035ff2"},
	} {
		sealed, err := v.SealChunk(3, 7, salt(), c.plain)
		if err != nil {
			t.Fatal(err)
		}
		got := sealed
		if len(c.hex) == 64 {
			sum := sha256.Sum256(sealed)
			got = sum[:]
		}
		if len(sealed) != c.len || hex.EncodeToString(got) != c.hex {
			t.Errorf("%s: %d bytes, %x", name, len(sealed), got)
		}
		if opened, err := v.OpenChunk(3, 7, salt(), sealed, int64(len(c.plain))); err != nil || !bytes.Equal(opened, c.plain) {
			t.Errorf("%s does not open: %v", name, err)
		}
	}
}

func TestWhatWasChangedDoesNotOpen(t *testing.T) {
	v := vault(t)
	wrapped := v.Wrap()
	if again := v.Wrap(); bytes.Equal(wrapped, again) {
		t.Error("a nonce was used twice")
	}
	if key, err := v.Unwrap(wrapped); err != nil || !bytes.Equal(key, run(64, 32)) {
		t.Errorf("%x, %v", key, err)
	}
	for i := range wrapped {
		bad := slices.Clone(wrapped)
		bad[i] ^= 4
		if _, err := v.Unwrap(bad); err == nil {
			t.Fatalf("a key with byte %d changed is taken", i)
		}
	}
	for what, other := range map[string]func() (*spool.Vault, error){
		"master": func() (*spool.Vault, error) { return spool.NewVault(run(1, 32), 5, 9, run(64, 32)) },
		"key id": func() (*spool.Vault, error) { return spool.NewVault(run(0, 32), 6, 9, run(64, 32)) },
		"stream": func() (*spool.Vault, error) { return spool.NewVault(run(0, 32), 5, 8, run(64, 32)) },
	} {
		o, err := other()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Unwrap(wrapped); err == nil {
			t.Errorf("another %s opens the key", what)
		}
	}
	nonce, sealed, err := v.Seal(3, 7, []byte("temperature"), []byte("head"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := v.Open(3, 7, nonce, sealed, []byte("head")); err != nil || string(p) != "temperature" {
		t.Errorf("%q, %v", p, err)
	}
	for what, open := range map[string]func() ([]byte, error){
		"log":     func() ([]byte, error) { return v.Open(4, 7, nonce, sealed, []byte("head")) },
		"segment": func() ([]byte, error) { return v.Open(3, 8, nonce, sealed, []byte("head")) },
		"head":    func() ([]byte, error) { return v.Open(3, 7, nonce, sealed, []byte("heat")) },
		"nonce":   func() ([]byte, error) { return v.Open(3, 7, run(1, 12), sealed, []byte("head")) },
		"end":     func() ([]byte, error) { return v.Open(3, 7, nonce, sealed[:len(sealed)-1], []byte("head")) },
	} {
		if _, err := open(); err == nil {
			t.Errorf("a block opens with another %s", what)
		}
	}
}

// The pieces of a chunk cannot be cut off, exchanged or moved to another one.
func TestPiecesOfAChunkKeepTheirPlace(t *testing.T) {
	v := vault(t)
	const piece, sealedPiece = 64 << 10, 64<<10 + 16
	plain := run(0, 3*piece)
	sealed, err := v.SealChunk(3, 7, salt(), plain)
	if err != nil {
		t.Fatal(err)
	}
	swapped := slices.Clone(sealed)
	copy(swapped, sealed[sealedPiece:2*sealedPiece])
	copy(swapped[sealedPiece:], sealed[:sealedPiece])
	for what, c := range map[string]struct {
		sealed []byte
		n      int64
	}{
		"cut by a piece":     {sealed[:2*sealedPiece], 2 * piece},
		"cut by a byte":      {sealed[:len(sealed)-1], 3*piece - 1},
		"pieces swapped":     {swapped, 3 * piece},
		"a length too great": {sealed, 3*piece + 1},
		"first piece only":   {sealed[:sealedPiece], piece},
	} {
		if _, err := v.OpenChunk(3, 7, salt(), c.sealed, c.n); err == nil {
			t.Errorf("%s: it opens", what)
		}
	}
	other := salt()
	other[0]++
	if _, err := v.OpenChunk(3, 7, other, sealed, 3*piece); err == nil {
		t.Error("it opens with another salt")
	}
}
