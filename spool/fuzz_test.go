package spool_test

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"forebay/spool"
)

// What a damaged disk gives the index as heads of blocks may be anything.
func FuzzIndexHeads(f *testing.F) {
	head, _ := sampleBlock()
	f.Add(head, head)
	f.Add(head, []byte{})
	f.Add(head[:80], head)
	f.Add([]byte("FBK1"), []byte("FBK1"))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		one, two = bytes.Clone(one), bytes.Clone(two)
		for _, h := range [][]byte{one, two} { // let it past the checksum
			if len(h) >= 80 {
				spool.FixHead(h)
			}
		}
		if wrong := spool.IndexHeads(one, two); wrong > 0 {
			t.Errorf("%d lookups name no block", wrong)
		}
	})
}

// sampleWAL is a WAL of a few commits as SQLite writes it.
func sampleWAL(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db := sql.OpenDB(connector{path})
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range []string{"PRAGMA page_size=512", "PRAGMA journal_mode=WAL", "CREATE TABLE t(a)", "INSERT INTO t VALUES(1)", "INSERT INTO t VALUES(2)", "INSERT INTO t VALUES(3)"} {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	wal, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	return wal
}

func TestADamagedWALIsMended(t *testing.T) {
	wal := sampleWAL(t)
	if _, lost, _, err := spool.MendWAL(wal); err != nil || lost != 0 {
		t.Fatalf("a good WAL: %d lost, %v", lost, err)
	}
	frame := 24 + int(binary.BigEndian.Uint32(wal[8:]))
	commits := (len(wal) - 32) / frame
	hit := 0
	for at := 32; at < len(wal); at += 7 {
		bad := bytes.Clone(wal)
		bad[at] ^= 0x10
		mended, lost, after, err := spool.MendWAL(bad)
		if err != nil || after != 0 {
			t.Fatalf("byte %d: %d commits still lost, %v", at, after, err)
		}
		if lost == 0 {
			continue // only the last commit can be told from nothing
		}
		hit++
		if n := len(mended); n != len(bad) || lost > commits {
			t.Errorf("byte %d: %d lost of %d, %d bytes", at, lost, commits, n)
		}
		// Nothing but checksums and salts has changed.
		for f := 32; f+frame <= len(bad); f += frame {
			if !bytes.Equal(mended[f+24:f+frame], bad[f+24:f+frame]) || !bytes.Equal(mended[f:f+8], bad[f:f+8]) {
				t.Fatalf("byte %d: the frame at %d was changed", at, f)
			}
		}
	}
	if hit == 0 {
		t.Error("no damage was noticed")
	}
}

// A frame whose salts alone are damaged is told by its checksum, and a commit
// that it ends is counted: of what lies behind only the last one may be unsaid.
func TestDamagedSaltsHideNoCommit(t *testing.T) {
	wal := sampleWAL(t)
	frame := 24 + int(binary.BigEndian.Uint32(wal[8:]))
	var commits []int // the frames that end one
	for f := 32; f+frame <= len(wal); f += frame {
		if binary.BigEndian.Uint32(wal[f+4:]) != 0 {
			commits = append(commits, f)
		}
	}
	if len(commits) < 3 {
		t.Fatalf("the sample has %d commits", len(commits))
	}
	for i, f := range commits[:len(commits)-1] {
		for at := f + 8; at < f+16; at++ {
			bad := bytes.Clone(wal)
			bad[at] ^= 0x04
			mended, lost, after, err := spool.MendWAL(bad)
			if want := len(commits) - i - 1; err != nil || after != 0 || lost != want {
				t.Errorf("commit %d, byte %d: %d lost, want %d; %d after mending, %v", i, at, lost, want, after, err)
			}
			if !bytes.Equal(mended, wal) {
				t.Errorf("commit %d, byte %d: it is not as it was", i, at)
			}
		}
	}
}

// A WAL may hold anything: what is mended counts as whole, and nothing is
// written behind its end.
func FuzzMendWAL(f *testing.F) {
	wal := sampleWAL(f)
	f.Add(wal)
	for _, at := range []int{3, 20, 40, 100, 600} {
		bad := bytes.Clone(wal)
		bad[at] ^= 0xff
		f.Add(bad)
	}
	f.Add(wal[:len(wal)/2])
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, wal []byte) {
		if _, lost, after, err := spool.MendWAL(wal); lost > 0 && (err != nil || after != 0) {
			t.Errorf("%d lost, %d after mending, %v", lost, after, err)
		}
	})
}
