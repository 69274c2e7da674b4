package spool_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// Golden spools are spools as an earlier build left them. Every later build
// opens a copy of each, finds every record, place and count that want.json
// names, and goes on writing. A directory that is dropped into
// testdata/spools/ is found by itself:
//
//	spool.tar.gz   the spool's files; one made by kill -9 has its WALs and lock
//	want.json      what is in it
//	master.key     only if a stream of it is encrypted
//
// They are written by
//
//	go test ./spool -run GoldenSpools -golden.write v1
//
// once for a format version, by the build whose format it is.
var goldenWrite = flag.String("golden.write", "", "write the golden spools PREFIX-closed, PREFIX-killed and PREFIX-sealed")

const goldenDir = "testdata/spools"

// A golden is want.json.
type golden struct {
	Gateway string
	Epoch   string // of all records
	Killed  bool
	Damaged string // the one file that was damaged, below the spool
	Sealed  string `json:",omitzero"` // the stream that is encrypted
	Records []goldenRecord
	Ledger  spool.Ledger
	Places  []goldenPlace
	Shapes  []goldenShape `json:",omitempty"` // from version 3 of state.db on
}

// A goldenShape is a shard of a stream that was split or merged, or has a note.
type goldenShape struct {
	Stream, Note      string
	Shard             record.ShardID
	From, To          string // hex
	Created, Closed   time.Time
	Next              uint64
	Parents, Children []record.ShardID
}

type goldenRecord struct {
	Stream    string
	Shard     record.ShardID
	Seq       uint64
	Key       string
	HashKey   string `json:",omitzero"`
	At        time.Time
	Arrived   time.Time
	Mono      time.Duration
	TimeQ     record.TimeQuality
	Source    string
	SourceSeq uint64
	Type      string            `json:",omitzero"`
	Attrs     map[string]string `json:",omitempty"`
	Size      int
	Data      string // SHA-256
	Blob      string `json:",omitzero"` // SHA-256
}

// A goldenPlace is where a cursor stands: the first record not yet passed.
type goldenPlace struct {
	Name, Stream string
	Shard        record.ShardID
	Next         uint64
}

func goldenConfig() spool.Config {
	return spool.Config{Gateway: "golden", Segment: 256 << 10, Quota: 64 << 20}
}

// goldenConfigOf is goldenConfig with the key of the golden spool in dir, if it
// has one. A key must be readable by its owner only, which git does not keep.
func goldenConfigOf(t *testing.T, dir string) spool.Config {
	t.Helper()
	c := goldenConfig()
	b, err := os.ReadFile(filepath.Join(dir, goldenKey))
	if errors.Is(err, fs.ErrNotExist) {
		return c
	}
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), goldenKey)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c.KeyFile = path
	return c
}

// goldenKey is the file with the key, and sealedStream the encrypted stream.
const (
	goldenKey    = "master.key"
	sealedStream = "secret"
)

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// look reads everything that a spool holds.
func look(ctx context.Context, s *spool.Spool) (golden, error) {
	g := golden{Gateway: s.Identity().Gateway, Epoch: s.Identity().Epoch.String()}
	for _, t := range s.Streams() {
		for _, sh := range t.Shards() {
			for b, err := range t.Scan(ctx, sh.ID, spool.Oldest()) {
				if _, ok := errors.AsType[*record.CorruptError](err); ok {
					continue
				}
				if err != nil {
					return g, err
				}
				for i := range b.Recs {
					r, err := goldenOf(t, &b.Recs[i])
					if err != nil {
						return g, err
					}
					g.Records = append(g.Records, r)
				}
			}
		}
	}
	g.Shapes = shapesOf(s)
	g.Ledger = s.Ledger() // after reading: damage is counted when it is met
	return g, g.Ledger.Balanced()
}

func shapesOf(s *spool.Spool) (out []goldenShape) {
	for _, t := range s.Streams() {
		all := t.Shards()
		if t.Note() == "" && !slices.ContainsFunc(all, func(sh spool.Shard) bool { return !sh.Open() }) {
			continue
		}
		for _, sh := range all {
			out = append(out, goldenShape{
				Stream: t.Name(), Note: t.Note(), Shard: sh.ID, From: hex.EncodeToString(sh.From[:]), To: hex.EncodeToString(sh.To[:]),
				Created: sh.Created, Closed: sh.Closed, Next: sh.Next, Parents: sh.Parents, Children: sh.Children,
			})
		}
	}
	return out
}

func goldenOf(t *spool.Stream, r *record.Record) (goldenRecord, error) {
	g := goldenRecord{
		Stream: t.Name(), Shard: r.Pos.Shard, Seq: r.Pos.Seq, Key: strings.Clone(r.Key), At: r.At, Arrived: r.Arrived, Mono: r.Mono, TimeQ: r.TimeQ,
		Source: strings.Clone(r.Source), SourceSeq: r.SourceSeq, Type: strings.Clone(r.Type), Size: len(r.Data), Data: sum(r.Data),
	}
	for k, v := range r.Attrs {
		if g.Attrs == nil {
			g.Attrs = map[string]string{}
		}
		g.Attrs[strings.Clone(k)] = strings.Clone(v)
	}
	if r.HashKey != nil {
		g.HashKey = hex.EncodeToString(r.HashKey[:])
	}
	if !r.Chunk.IsZero() {
		c, err := t.OpenChunk(r.Chunk)
		if err != nil {
			return g, err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		if err != nil {
			return g, err
		}
		g.Blob = sum(b)
	}
	return g, nil
}

// writeGolden makes one golden spool.
func writeGolden(t *testing.T, name string, killed, sealed bool) {
	src := filepath.Join(t.TempDir(), "spool")
	var want golden
	if killed {
		cmd, lines, _ := startChild(t, "golden", src)
		if !lines.Scan() {
			t.Fatalf("child: %v", lines.Err())
		}
		if err := json.Unmarshal(lines.Bytes(), &want); err != nil {
			t.Fatalf("child: %v: %s", err, lines.Text())
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	} else {
		var err error
		cfg := goldenConfig()
		if sealed {
			cfg.KeyFile = keyFile(t, 1)
		}
		if want, err = makeGolden(t.Context(), src, cfg, func(s *spool.Spool) error { return s.Close() }); err != nil {
			t.Fatal(err)
		}
	}
	want.Killed = killed
	if sealed {
		want.Sealed = sealedStream
	}
	to := filepath.Join(goldenDir, name)
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	if sealed {
		if err := os.CopyFS(to, os.DirFS(filepath.Dir(keyFile(t, 1)))); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.MarshalIndent(want, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, "want.json"), append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := pack(filepath.Join(to, "spool.tar.gz"), src); err != nil {
		t.Fatal(err)
	}
}

const goldenDamaged = "log-00001/0000000001.seg"

func makeGolden(ctx context.Context, dir string, cfg spool.Config, end func(*spool.Spool) error) (golden, error) {
	s, err := fillGolden(ctx, dir, cfg, func() error {
		return spoil(ctx, filepath.Join(dir, filepath.FromSlash(goldenDamaged)))
	})
	if err != nil {
		return golden{}, err
	}
	want, err := look(ctx, s)
	if err != nil {
		return golden{}, err
	}
	for _, t := range s.Streams() {
		for _, sh := range t.Shards() {
			for _, name := range []string{"cloud", "lake"} {
				if at, ok := spool.Place(s, name, sh.ID); ok {
					want.Places = append(want.Places, goldenPlace{name, t.Name(), sh.ID, at})
				}
			}
		}
	}
	want.Damaged = goldenDamaged
	return want, errors.Join(spool.Flush(s), end(s))
}

// goldenChild says what it has written and waits to be killed.
func goldenChild(ctx context.Context, dir string) error {
	want, err := makeGolden(ctx, dir, goldenConfig(), func(*spool.Spool) error { return nil })
	if err != nil {
		return err
	}
	b, err := json.Marshal(want)
	if err != nil {
		return err
	}
	fmt.Println(string(b))
	_, err = io.ReadAll(os.Stdin)
	return err
}

// spoil changes a byte in the body of the first block that is wider than that.
func spoil(ctx context.Context, path string) error {
	db := sql.OpenDB(connector{path})
	_, err := db.ExecContext(ctx, `UPDATE block SET body = substr(body, 1, 99) || iif(substr(body, 100, 1) = x'00', x'01', x'00') || substr(body, 101)
		WHERE id = (SELECT min(id) FROM block WHERE length(body) > 200)`)
	return errors.Join(err, db.Close())
}

func pack(to, dir string) error {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		return err
	}
	return os.WriteFile(to, b.Bytes(), 0o644)
}

// unpackGolden gives a copy of a golden spool.
func unpackGolden(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "spool")
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func goldens(t *testing.T) map[string]golden {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(goldenDir, "*", "want.json"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("there are no golden spools: %v", err)
	}
	out := map[string]golden{}
	for _, path := range dirs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var g golden
		if err := json.Unmarshal(b, &g); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out[filepath.Dir(path)] = g
	}
	return out
}

func TestGoldenSpools(t *testing.T) {
	if *goldenWrite != "" {
		writeGolden(t, *goldenWrite+"-closed", false, false)
		writeGolden(t, *goldenWrite+"-killed", true, false)
		writeGolden(t, *goldenWrite+"-sealed", false, true)
	}
	for dir, want := range goldens(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			spoolDir := unpackGolden(t, filepath.Join(dir, "spool.tar.gz"))
			if _, err := os.Stat(filepath.Join(spoolDir, "lock")); want.Killed && err != nil {
				t.Errorf("a killed one has a lock: %v", err)
			}
			checkGolden(t, spoolDir, want)
			cfg := goldenConfigOf(t, dir)
			s, err := spool.Open(t.Context(), spoolDir, cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			compareGolden(t, s, want)
			goOn(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			checkGolden(t, spoolDir, want)
			if s, err = spool.Open(t.Context(), spoolDir, cfg, nil); err != nil {
				t.Fatal(err)
			}
			goOn(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			checkGolden(t, spoolDir, want)
		})
	}
}

// checkGolden runs Check; all it may find is what was damaged on purpose.
func checkGolden(t *testing.T, dir string, want golden) {
	t.Helper()
	r, err := spool.Check(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		if !strings.Contains(filepath.ToSlash(p), want.Damaged) {
			t.Errorf("check found: %s", p)
		}
	}
	if len(r.Problems) == 0 {
		t.Error("check did not find the damage")
	}
}

func compareGolden(t *testing.T, s *spool.Spool, want golden) {
	t.Helper()
	for _, p := range want.Places {
		if at, ok := spool.Place(s, p.Name, p.Shard); !ok || at != p.Next {
			t.Errorf("cursor %s of %s, shard %d, is at %d (%v), want %d", p.Name, p.Stream, p.Shard, at, ok, p.Next)
		}
	}
	got, err := look(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for id, pos := range ids(t, s) {
		if want := fmt.Sprintf("%s/%s/%d/%d", want.Gateway, want.Epoch, pos.Shard, pos.Seq); id != want {
			t.Fatalf("a record's id is %s, want %s", id, want)
		}
	}
	plain := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if len(got.Records) != len(want.Records) {
		t.Errorf("%d records, want %d", len(got.Records), len(want.Records))
	}
	for i := range min(len(got.Records), len(want.Records)) {
		if g, w := plain(got.Records[i]), plain(want.Records[i]); g != w {
			t.Fatalf("record %d is\n%s\nwant\n%s", i, g, w)
		}
	}
	if g, w := plain(got.Shapes), plain(want.Shapes); g != w {
		t.Errorf("shards:\n%s\nwant\n%s", g, w)
	}
	for _, l := range []struct{ what, got, want string }{
		{"sources", plain(got.Ledger.Sources), plain(want.Ledger.Sources)},
		{"streams", plain(got.Ledger.Streams), plain(want.Ledger.Streams)},
		{"cursors", plain(got.Ledger.Cursors), plain(want.Ledger.Cursors)},
	} {
		if l.got != l.want {
			t.Errorf("ledger of %s:\n%s\nwant\n%s", l.what, l.got, l.want)
		}
	}
}

// goOn appends to every shard of every stream and reads it back.
func goOn(t *testing.T, s *spool.Spool) {
	t.Helper()
	for _, st := range s.Streams() {
		for _, sh := range st.Shards() {
			if !sh.Open() {
				continue
			}
			data := fmt.Appendf(nil, "later %d", sh.Next)
			res := put(t, st, record.Record{Key: "later", HashKey: &sh.From, Source: "later", Data: data, Blob: data})
			if res[0].Pos != (record.Pos{Shard: sh.ID, Seq: sh.Next}) {
				t.Fatalf("stored at %v, want %d of shard %d", res[0].Pos, sh.Next, sh.ID)
			}
			recs, losses := scan(t, st, sh.ID, spool.After(sh.Next-1))
			if len(losses) > 0 || len(recs) != 1 || !bytes.Equal(recs[0].Data, data) {
				t.Fatalf("read back %d records, losses %v", len(recs), losses)
			}
		}
	}
	for _, at := range []struct{ name, stream string }{{"cloud", "video"}, {"lake", "mqtt"}} {
		st, err := s.Stream(at.stream)
		if err != nil {
			t.Fatal(err)
		}
		for _, sh := range st.Shards() {
			c, err := st.Cursor(t.Context(), at.name, sh.ID, spool.Oldest())
			if err != nil {
				t.Fatal(err)
			}
			if err := passGolden(t.Context(), c, sh.Next); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Ledger().Balanced(); err != nil {
		t.Error(err)
	}
}

// A build leaves what a newer one wrote as it is: no file of it changes, none
// is made, and it says what to do.
func TestANewerFormatIsRefusedUntouched(t *testing.T) {
	for dir := range goldens(t) {
		for _, file := range []string{"state.db", "log-00001/*.seg"} {
			t.Run(filepath.Base(dir)+" "+file[:5], func(t *testing.T) {
				spoolDir := unpackGolden(t, filepath.Join(dir, "spool.tar.gz"))
				files, err := filepath.Glob(filepath.Join(spoolDir, filepath.FromSlash(file)))
				if err != nil || len(files) == 0 {
					t.Fatalf("no files: %v", err)
				}
				patch(t, slices.Max(files), 63, 99) // user_version
				before := tree(t, spoolDir)
				var wrong *record.FormatError
				if _, err := spool.Open(t.Context(), spoolDir, goldenConfig(), nil); !errors.As(err, &wrong) || wrong.Hint == "" || !strings.Contains(err.Error(), "99") {
					t.Errorf("open answers %v", err)
				}
				if _, err := spool.Check(t.Context(), spoolDir); !errors.As(err, &wrong) {
					t.Errorf("check answers %v", err)
				}
				after := tree(t, spoolDir)
				for path := range after {
					if after[path] != before[path] {
						t.Errorf("%s was made or changed", path)
					}
				}
				if len(after) != len(before) {
					t.Errorf("%d files, were %d", len(after), len(before))
				}
			})
		}
	}
}
