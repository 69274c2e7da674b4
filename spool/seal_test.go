package spool_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// keyFile writes a master key and returns its path.
func keyFile(t *testing.T, first byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(path, []byte(hex.EncodeToString(run(int(first), 32))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func secretBox(t *testing.T) *box {
	t.Helper()
	return newBox(t, spool.Config{KeyFile: keyFile(t, 1), NoPacking: true})
}

const canary = "CANARY-7f3a91"

// secrets are records of which every secret part carries the canary: small
// ones, Data in the chunk file, blobs of several pieces.
func secrets(n int) []record.Record {
	var recs []record.Record
	for i := range n {
		r := record.Record{
			Key: fmt.Sprintf("%s-key-%d", canary, i), Source: "src", SourceSeq: uint64(i + 1),
			Attrs: map[string]string{"note": canary + "-attr"}, Data: fmt.Appendf(nil, "%s-data-%d", canary, i),
		}
		switch i % 5 {
		case 3:
			r.Data = bytes.Repeat([]byte(canary+"-outside."), 20_000+i)
		case 4:
			r.Blob = bytes.Repeat([]byte(canary+"-blob."), 12_000+i)
		}
		recs = append(recs, r)
	}
	return recs
}

// sameSecrets reads a stream and compares it with what was written.
func sameSecrets(t *testing.T, st *spool.Stream, want []record.Record) {
	t.Helper()
	got, losses := scan(t, st, only(st), spool.Oldest())
	if len(got) != len(want) || len(losses) > 0 {
		t.Fatalf("%d records of %d, losses %v", len(got), len(want), losses)
	}
	for i, r := range got {
		w := want[i]
		if r.Key != w.Key || !bytes.Equal(r.Data, w.Data) || r.Attrs["note"] != w.Attrs["note"] || r.Chunk.Len != int64(len(w.Blob)) {
			t.Fatalf("record %d is another", i)
		}
		if len(w.Blob) == 0 {
			continue
		}
		c, err := st.OpenChunk(r.Chunk)
		if err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(all, w.Blob) {
			t.Errorf("the chunk of record %d: %d bytes, %v", i, len(all), err)
		}
		if _, err := c.Seek(-70_000, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		if end, err := io.ReadAll(c); err != nil || !bytes.Equal(end, w.Blob[len(w.Blob)-70_000:]) {
			t.Errorf("the end of the chunk of record %d: %d bytes, %v", i, len(end), err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// found lists the files below dir that hold the bytes.
func found(t *testing.T, dir string, what []byte) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, what) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestAnEncryptedStreamLeavesNothingInClear(t *testing.T) {
	b := secretBox(t)
	st := b.stream(spool.StreamConfig{Name: "secret", Encrypt: true})
	b.stream(spool.StreamConfig{Name: "plain"})
	want := secrets(25)
	for i := 0; i < len(want); i += 5 {
		put(t, st, want[i:i+5]...)
		if i == 10 {
			if err := spool.Roll(st); err != nil {
				t.Fatal(err)
			}
		}
	}
	sameSecrets(t, st, want)
	spool.DropCache(st)
	sameSecrets(t, st, want)
	if files := found(t, b.dir, []byte(canary)); len(files) > 0 {
		t.Errorf("while it is open the canary lies in %v", files)
	}
	b.reopen()
	if files := found(t, b.dir, []byte(canary)); len(files) > 0 {
		t.Errorf("after a close the canary lies in %v", files)
	}
	if st, _ = b.Stream("secret"); !st.Config().Encrypt {
		t.Error("the stream forgot that it is encrypted")
	}
	sameSecrets(t, st, want)
	if s := spool.Scrub(b.Spool); s.Damaged != 0 {
		t.Errorf("%+v", s)
	}
	plain, _ := b.Stream("plain")
	if spool.LogDir(st) == spool.LogDir(plain) {
		t.Error("it shares a log with a plain stream")
	}
	put(t, plain, record.Record{Key: canary})
	if files := found(t, b.dir, []byte(canary)); len(files) == 0 {
		t.Error("the search is blind: it does not find a plain record")
	}
}

// Another key, none, or one that is not guarded: the spool stays closed, the
// error says which file and what to do, and nothing is changed.
func TestTheRightKeyIsNeeded(t *testing.T) {
	b := secretBox(t)
	st := b.stream(spool.StreamConfig{Name: "secret", Encrypt: true})
	put(t, st, secrets(5)...)
	good := b.cfg
	b.close()
	inside := filepath.Join(b.dir, "log-00001", "key")
	key, err := os.ReadFile(good.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, data []byte, mode os.FileMode) string {
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dir := t.TempDir()
	cases := map[string]spool.Config{
		"none":         {},
		"missing":      {KeyFile: filepath.Join(dir, "nowhere")},
		"another":      {KeyFile: keyFile(t, 2)},
		"no key":       {KeyFile: write(filepath.Join(dir, "short"), []byte("abc"), 0o600)},
		"a directory":  {KeyFile: dir},
		"inside":       {KeyFile: write(inside, key, 0o600)},
		"no credental": {KeyCredential: "forebay-spool"},
	}
	if runtime.GOOS != "windows" {
		cases["readable by others"] = spool.Config{KeyFile: write(filepath.Join(dir, "open"), key, 0o644)}
	}
	for name, cfg := range cases {
		s, err := spool.Open(t.Context(), b.dir, cfg, nil)
		e, ok := errors.AsType[*spool.KeyError](err)
		if !ok || e.Hint == "" || (cfg.KeyFile != "" && !strings.Contains(err.Error(), cfg.KeyFile)) {
			t.Errorf("%s: %v", name, err)
		}
		if s != nil {
			_ = s.Close()
		}
	}
	if err := os.Remove(inside); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", write2(t, "forebay-spool", run(1, 32)))
	b.cfg = spool.Config{KeyCredential: "forebay-spool"}
	b.open()
	st, _ = b.Stream("secret")
	sameSecrets(t, st, secrets(5))
	for field, cfg := range map[string]spool.Config{
		"key_credential": {KeyFile: "a", KeyCredential: "b"}, "key_credential: ": {KeyCredential: "a/b"},
	} {
		if err := cfg.Check(); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// write2 makes a directory with one file.
func write2(t *testing.T, name string, data []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o440); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEncryptingAsksForAKey(t *testing.T) {
	b := newBox(t, spool.Config{})
	_, err := b.Ensure(t.Context(), spool.StreamConfig{Name: "secret", Encrypt: true})
	if e, ok := errors.AsType[*spool.KeyError](err); !ok || e.Hint == "" {
		t.Errorf("%v", err)
	}
	if _, err := b.Stream("secret"); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("a stream was made all the same: %v", err)
	}
	b.stream(spool.StreamConfig{Name: "secret2"}) // and the spool works on
}

func TestEncryptionIsTurnedOnAndNeverOff(t *testing.T) {
	b := secretBox(t)
	alone := spool.StreamConfig{Name: "alone", Class: record.ClassVideo}
	st := b.stream(alone)
	put(t, st, record.Record{Key: "before"})
	b.stream(spool.StreamConfig{Name: "one"})
	b.stream(spool.StreamConfig{Name: "two"})
	if _, err := b.Ensure(t.Context(), spool.StreamConfig{Name: "two", Encrypt: true}); err == nil || !strings.HasPrefix(err.Error(), "encrypt:") {
		t.Errorf("a stream that shares its log: %v", err)
	}
	alone.Encrypt = true
	b.stream(alone)
	put(t, st, secrets(5)...)
	joins := b.stream(spool.StreamConfig{Name: "joins", Class: record.ClassVideo})
	if spool.LogDir(joins) == spool.LogDir(st) {
		t.Error("a plain stream joined the log")
	}
	for range 2 {
		recs, losses := scan(t, st, only(st), spool.Oldest())
		if len(recs) != 6 || len(losses) > 0 || recs[0].Key != "before" || recs[1].Key != secrets(1)[0].Key {
			t.Errorf("%d records, %v", len(recs), losses)
		}
		if files := found(t, b.dir, []byte(canary)); len(files) > 0 {
			t.Errorf("the canary lies in %v", files)
		}
		alone.Encrypt = false
		b.reopen()
		if st = b.stream(alone); !st.Config().Encrypt {
			t.Error("it was turned off")
		}
	}
	res, err := b.Erase(t.Context(), "alone", "anna")
	if err != nil || res.Records != 5 {
		t.Errorf("%+v, %v", res, err)
	}
	recs, losses := scan(t, st, only(st), spool.Oldest())
	if len(recs) != 1 || recs[0].Key != "before" || len(losses) != 1 {
		t.Errorf("what was stored in clear is there still: %d records, %v", len(recs), losses)
	}
}

// What was erased cannot be had by any way that led to it before, also not by
// those who held a piece of it in memory, nor after a restart.
func TestWhatIsErasedIsGone(t *testing.T) {
	b := secretBox(t)
	st := b.stream(spool.StreamConfig{Name: "secret", Encrypt: true})
	other := b.stream(spool.StreamConfig{Name: "other", Encrypt: true})
	put(t, other, record.Record{Key: "other"})
	want := secrets(25)
	for i := 0; i < len(want); i += 5 {
		put(t, st, want[i:i+5]...)
		if i == 10 {
			if err := spool.Roll(st); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := cursor(t, st, "up", spool.Oldest())
	cold, err := st.Reader(only(st), spool.Oldest())
	if err != nil {
		t.Fatal(err)
	}
	spool.DropCache(st)
	for range 2 { // both stand within a block that is in memory
		if batch, err := c.Poll(t.Context(), 1); err != nil || len(batch.Recs) != 1 {
			t.Fatal(err)
		}
		if batch, err := cold.Poll(t.Context(), 1); err != nil || len(batch.Recs) != 1 {
			t.Fatal(err)
		}
	}
	recs, _ := scan(t, st, only(st), spool.Oldest())
	ref := recs[4].Chunk
	chunk, err := st.OpenChunk(ref)
	if err != nil {
		t.Fatal(err)
	}
	wrapped := spool.WrappedKeys(t.Context(), b.Spool)
	if len(wrapped) != 2 || len(found(t, b.dir, wrapped[0])) == 0 {
		t.Fatalf("%d wrapped keys", len(wrapped))
	}

	if spool.ColdBlocks(b.Spool) == 0 {
		t.Error("no block is in memory; the test shows nothing")
	}
	res, err := b.Erase(t.Context(), "secret", "anna")
	if err != nil || res.Records != 25 || res.Keys != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	told, err := b.Steps(t.Context(), 0)
	if n := len(told); err != nil || n == 0 || told[n-1].Kind != spool.StepErased || told[n-1].First != 1 || told[n-1].Past != 26 || told[n-1].Undelivered != 25 ||
		told[n-1].Reason != "key 1 was deleted by anna" {
		t.Errorf("the ledger's steps are %+v, %v", told, err)
	}
	if n := spool.ColdBlocks(b.Spool); n != 0 {
		t.Errorf("%d blocks are still in memory", n)
	}
	if files := found(t, b.dir, wrapped[0]); len(files) > 0 {
		t.Errorf("the wrapped key lies in %v still", files)
	}
	if len(found(t, b.dir, wrapped[1])) == 0 {
		t.Error("the other stream's key went too")
	}
	isErased := func(what string, err error, from uint64) {
		t.Helper()
		e, ok := errors.AsType[*record.ErasedError](err)
		if !ok || !errors.Is(err, record.ErrErased) || e.From != from || e.To != 26 || e.Hint == "" || e.At.IsZero() {
			t.Errorf("%s: %v", what, err)
		}
		if _, ok := errors.AsType[*record.TrimmedError](err); !ok {
			t.Errorf("%s: not a loss that readers know: %v", what, err)
		}
	}
	_, err = c.Poll(t.Context(), 100)
	isErased("a cursor within a block", err, 3)
	_, err = cold.Poll(t.Context(), 100)
	isErased("a reader within a block", err, 3)
	if b, err := cold.Poll(t.Context(), 100); err != nil || len(b.Recs) != 0 || b.Next != 26 {
		t.Errorf("the reader does not go on: %+v, %v", b, err)
	}
	if _, err := io.ReadAll(chunk); !errors.Is(err, record.ErrErased) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an open chunk: %v", err)
	}
	_ = chunk.Close()
	put(t, st, record.Record{Key: "after"})
	for round := range 2 {
		for what, from := range map[string]spool.Start{"oldest": spool.Oldest(), "after": spool.After(0)} {
			recs, losses := scan(t, st, only(st), from)
			if len(recs) != 1 || recs[0].Key != "after" || recs[0].Pos.Seq != 26 || len(losses) != 1 {
				t.Fatalf("%d, %s: %d records, %v", round, what, len(recs), losses)
			}
			isErased(what, losses[0], 1)
		}
		if recs, _ := scan(t, st, only(st), spool.Since(time.Now().Add(-time.Hour))); len(recs) != 1 {
			t.Errorf("by time: %d records", len(recs))
		}
		for what, span := range map[string]spool.Span{"all": {}, "heads": {HeadsOnly: true}, "by time": {Since: time.Now().Add(-time.Hour)}} {
			_, n, losses := pass(t, st, span)
			if n != 1 || len(losses) != 1 {
				t.Fatalf("%d, a pass over %s: %d records, %v", round, what, n, losses)
			}
			isErased("a pass over "+what, losses[0], 1)
		}
		if _, err := st.OpenChunk(ref); !errors.Is(err, record.ErrErased) {
			t.Errorf("open a chunk: %v", err)
		}
		if s := spool.Scrub(b.Spool); s.Damaged != 0 {
			t.Errorf("scrubbing takes it for damage: %+v", s)
		}
		for _, l := range b.Ledger().Streams {
			if l.Stream == "secret" && (l.In != 26 || l.Expired != 25 || l.Kept != 1 || l.Corrupt != 0) {
				t.Errorf("ledger %+v", l)
			}
		}
		b.reopen()
		st, _ = b.Stream("secret")
		other, _ = b.Stream("other")
	}
	if got := line(t, b.Spool, "up", "secret"); got.Expired != 0 && got.Expired+got.Delivered+got.Pending != got.In {
		t.Errorf("ledger %+v", got)
	}
	if recs, losses := scan(t, other, only(other), spool.Oldest()); len(recs) != 1 || len(losses) > 0 {
		t.Errorf("the other stream: %d records, %v", len(recs), losses)
	}
	if res, err := b.Erase(t.Context(), "secret", "anna"); err != nil || res.Records != 1 {
		t.Errorf("once more: %+v, %v", res, err)
	}
	b.stream(spool.StreamConfig{Name: "plain"})
	if _, err := b.Erase(t.Context(), "plain", "anna"); !errors.Is(err, spool.ErrNotEncrypted) {
		t.Errorf("%v", err)
	}
	if _, err := b.Erase(t.Context(), "nothing", "anna"); !errors.Is(err, record.ErrNoStream) {
		t.Errorf("%v", err)
	}
}

// Producers go on while the stream is erased again and again; every record is
// there or was erased, none is lost otherwise.
func TestErasingWhileProducersWrite(t *testing.T) {
	b := secretBox(t)
	st := b.stream(spool.StreamConfig{Name: "secret", Encrypt: true})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan uint64)
	go func() {
		var n uint64
		for ctx.Err() == nil {
			res, err := st.Put(context.WithoutCancel(ctx), []record.Record{{Key: "k", Data: []byte(canary)}, {Key: "l", Blob: []byte(canary)}})
			if err != nil || res[0].Err != nil || res[1].Err != nil {
				t.Errorf("put: %v %v", res, err)
				break
			}
			n += 2
		}
		done <- n
	}()
	var erased uint64
	for range 8 {
		before := st.Shards()[0].Next
		eventually(t, "records come in", func() bool { return st.Shards()[0].Next > before+4 })
		res, err := b.Erase(t.Context(), "secret", "anna")
		if err != nil {
			t.Fatal(err)
		}
		erased += res.Records
	}
	stop()
	n := <-done
	spool.DropCache(st)
	recs, losses := scan(t, st, only(st), spool.After(0))
	if uint64(len(recs))+erased != n || len(losses) == 0 {
		t.Errorf("%d stored, %d erased, %d read; %v", n, erased, len(recs), losses)
	}
	for _, err := range losses {
		if !errors.Is(err, record.ErrErased) {
			t.Errorf("%v", err)
		}
	}
}

func TestTheMasterKeyIsChanged(t *testing.T) {
	b := secretBox(t)
	st := b.stream(spool.StreamConfig{Name: "secret", Encrypt: true})
	put(t, st, secrets(10)...)
	wrapped := spool.WrappedKeys(t.Context(), b.Spool)[0]
	old := b.cfg
	fresh := spool.Config{KeyFile: keyFile(t, 50)}
	if _, err := spool.Rekey(t.Context(), b.dir, old, fresh); err == nil {
		t.Error("it was changed while the spool is open")
	}
	b.close()
	if _, err := spool.Rekey(t.Context(), b.dir, fresh, old); err == nil {
		t.Error("it was changed without the key in use")
	}
	if n, err := spool.Rekey(t.Context(), b.dir, old, fresh); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if files := found(t, b.dir, wrapped); len(files) > 0 {
		t.Errorf("the key as it was wrapped before lies in %v", files)
	}
	if _, err := spool.Open(t.Context(), b.dir, old, nil); err == nil {
		t.Error("the old master key opens it")
	}
	b.cfg = fresh
	b.open()
	st, _ = b.Stream("secret")
	sameSecrets(t, st, secrets(10))
}

// Any byte of an encrypted log that changes costs the records of its block, and
// says so; none is served wrong.
func TestChangedCiphertextIsNeverServed(t *testing.T) {
	src := secretBox(t)
	st := src.stream(spool.StreamConfig{Name: "secret", Encrypt: true})
	want := secrets(25)
	for i := range want {
		put(t, st, want[i])
		if i == 12 {
			if err := spool.Roll(st); err != nil {
				t.Fatal(err)
			}
		}
	}
	src.close()
	rng := rand.New(rand.NewPCG(11, uint64(time.Now().UnixNano())))
	lost := 0
	for range 25 {
		dir := copyTree(t, src.dir)
		files := dataFiles(t, dir)
		file := files[rng.IntN(len(files))]
		fi, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		at := rng.Int64N(fi.Size())
		if err := flip(file, at); err != nil {
			t.Fatal(err)
		}
		s, err := spool.Open(t.Context(), dir, src.cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		spool.Scrub(s)
		st, err := s.Stream("secret")
		if err != nil {
			t.Fatal(err)
		}
		recs, losses := scan(t, st, only(st), spool.After(0))
		n := len(recs)
		for _, l := range losses {
			if e, ok := errors.AsType[*record.CorruptError](l); ok {
				n += int(e.To - e.From)
				lost++
			}
			if e, ok := errors.AsType[*record.TrimmedError](l); ok {
				n += int(e.To - e.From)
			}
		}
		if n < len(want) {
			t.Errorf("byte %d of %s: %d records read or lost of %d", at, filepath.Base(file), n, len(want))
		}
		for _, r := range recs {
			w := want[r.Pos.Seq-1]
			if r.Key != w.Key || !bytes.Equal(r.Data, w.Data) {
				t.Errorf("byte %d of %s: record %d is served wrong", at, filepath.Base(file), r.Pos.Seq)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if lost == 0 {
		t.Error("no flip hit a record; the test shows nothing")
	}
}

// Somebody who can make checksums right, but has no key, changes a block: it
// does not open.
func TestAForgedBlockDoesNotOpen(t *testing.T) {
	for name, forge := range map[string]func(head, body []byte){
		"body":       func(_, body []byte) { body[0] ^= 1 },
		"arrival":    func(head, _ []byte) { head[48] ^= 1 },
		"event time": func(head, _ []byte) { head[80] ^= 1 },
		"nonce":      func(head, _ []byte) { head[100] ^= 1 },
		"source":     func(head, _ []byte) { i := bytes.Index(head, []byte("src")); head[i] = 'S' },
		"in clear":   func(head, _ []byte) { clear(head[96:100]); head[6] &^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			b := secretBox(t)
			b.damage = name == "in clear" || name == "source" // only that shows without the key
			st := b.stream(spool.StreamConfig{Name: "secret", Encrypt: true})
			for range 3 {
				put(t, st, secrets(1)...)
			}
			if err := spool.Roll(st); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the segment is sealed", func() bool { return spool.Sealed(st) })
			if err := spool.Forge(t.Context(), filepath.Join(spool.LogDir(st), "0000000001.seg"), 2, forge); err != nil {
				t.Fatal(err)
			}
			b.reopen()
			st, _ = b.Stream("secret")
			recs, losses := scan(t, st, only(st), spool.Oldest())
			if e, ok := errors.AsType[*record.CorruptError](errors.Join(losses...)); !ok || len(recs) != 2 || e.From != 2 || e.To != 3 || e.File == "" || e.Hint == "" {
				t.Errorf("%d records, %v", len(recs), losses)
			}
		})
	}
}

// Retention and classes work on encrypted streams as on others.
func TestEncryptedStreamsGrowOld(t *testing.T) {
	b := newBox(t, spool.Config{KeyFile: keyFile(t, 1), NoPacking: true})
	st := b.stream(spool.StreamConfig{Name: "secret", Encrypt: true, MaxBytes: 4 << 20, MaxAge: conf.Duration(time.Hour)})
	fill(t, st, 300, 50<<10)
	sh := st.Shards()[0]
	recs, losses := scan(t, st, sh.ID, spool.After(0))
	if sh.First == 1 || len(losses) != 1 || errors.Is(losses[0], record.ErrErased) || len(recs) != int(sh.Next-sh.First) {
		t.Errorf("%+v, %d records, %v", sh, len(recs), losses)
	}
}
