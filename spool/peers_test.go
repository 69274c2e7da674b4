//go:build peers

package spool_test

import (
	"bytes"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// recipe is the fenced blocks of the chapter "Reading without Forebay" of
// docs/format.md, in order.
func recipe(t *testing.T) (sh, sql []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash("../docs/format.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, ok := strings.Cut(string(b), "\n## Reading without Forebay\n")
	if !ok {
		t.Fatal("docs/format.md has lost the chapter")
	}
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	for _, m := range regexp.MustCompile("(?s)```(sh|sql)\n(.*?)```").FindAllStringSubmatch(chapter, -1) {
		if m[1] == "sh" {
			sh = append(sh, m[2])
		} else {
			sql = append(sql, m[2])
		}
	}
	if len(sh) != 3 || len(sql) != 2 {
		t.Fatalf("the chapter has %d blocks of sh and %d of SQL", len(sh), len(sql))
	}
	return sh, sql
}

func shell(t *testing.T, dir, script string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", script)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil || errs.Len() > 0 {
		t.Fatalf("%s: %v\n%s", script, err, errs.String())
	}
	return out.Bytes()
}

// With the page and the sqlite3 shell alone, every record comes out as the
// spool gives it.
func TestPeerSqliteShellReadsWhatThePageSays(t *testing.T) {
	sh, sql := recipe(t)
	for dir, want := range goldens(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			src := unpackGolden(t, filepath.Join(dir, "spool.tar.gz"))
			segs, err := filepath.Glob(filepath.Join(src, "log-*", "*.seg"))
			if err != nil || len(segs) == 0 {
				t.Fatalf("no segments: %v", err)
			}
			got, answered := map[record.Pos]goldenRecord{}, false
			for i, seg := range segs {
				// The page speaks of one segment; here it stands for each.
				in := func(text string) string {
					text = strings.ReplaceAll(text, "log-00001", filepath.Base(filepath.Dir(seg)))
					return strings.ReplaceAll(text, "0000000001", strings.TrimSuffix(filepath.Base(seg), ".seg"))
				}
				before := tree(t, src)
				work := t.TempDir()
				if err := os.CopyFS(work, os.DirFS(src)); err != nil {
					t.Fatal(err)
				}
				shell(t, work, in(strings.Replace(sh[0], "cd look\n", "", 1)))
				look := filepath.Join(work, "look")
				if out := shell(t, look, in(sh[1])); i == 0 && !bytes.Contains(out, []byte("46424B31")) {
					t.Errorf("a look shows no block: %s", out)
				}
				write := func(name, text string) {
					if err := os.WriteFile(filepath.Join(look, name), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				write("read.sql", in(sql[0]))
				write("ask.sql", in(sql[1]))
				answered = answered || bytes.Contains(shell(t, look, in(sh[2])), []byte(`{"name":"temp"`))
				write("ask.sql", in(askAll))
				for pos, r := range readCSV(t, shell(t, look, in(sh[2]))) {
					if _, twice := got[pos]; twice {
						t.Errorf("record %v is read twice", pos)
					}
					got[pos] = r
				}
				for path, sum := range tree(t, src) {
					if before[path] != sum {
						t.Errorf("%s was changed", path)
					}
				}
			}
			if !answered {
				t.Error("the page's question is not answered")
			}
			want.Records = slices.DeleteFunc(want.Records, func(r goldenRecord) bool { return r.Stream == want.Sealed })
			compareShell(t, got, want)
		})
	}
}

// askAll shows every column; what lies in the chunk file in hexadecimal digits
// too.
const askAll = `.mode csv
SELECT shard, seq, arrived, at, source, source_number, type, hash_key, key, attributes,
  hex(coalesce(data, substr(readfile('0000000001.chunks'), data_offset + 1, data_length))),
  iif(blob_offset, hex(substr(readfile('0000000001.chunks'), blob_offset + 1, blob_length)), '') FROM record;
`

func readCSV(t *testing.T, b []byte) map[record.Pos]goldenRecord {
	t.Helper()
	out := map[record.Pos]goldenRecord{}
	number := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	moment := func(s string) time.Time {
		if s == "" {
			return time.Time{}
		}
		at, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	digest := func(s string) (int, string) {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return len(b), sum(b)
	}
	for rows := csv.NewReader(bytes.NewReader(b)); ; {
		row, err := rows.Read()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		r := goldenRecord{
			Shard: record.ShardID(number(row[0])), Seq: number(row[1]), Arrived: moment(row[2]), At: moment(row[3]), Source: row[4],
			Type: row[6], HashKey: strings.ToLower(row[7]), Key: row[8],
		}
		if row[5] != "" {
			r.SourceSeq = number(row[5])
		}
		r.Size, r.Data = digest(row[10])
		if row[11] != "" {
			_, r.Blob = digest(row[11])
		}
		if row[9] != "" {
			r.Attrs = map[string]string{"": row[9]}
		}
		out[record.Pos{Shard: r.Shard, Seq: r.Seq}] = r
	}
}

func compareShell(t *testing.T, got map[record.Pos]goldenRecord, want golden) {
	t.Helper()
	for _, w := range want.Records {
		pos := record.Pos{Shard: w.Shard, Seq: w.Seq}
		g, ok := got[pos]
		if !ok {
			t.Errorf("record %v is not read", pos)
			continue
		}
		var attrs []string
		for k, v := range w.Attrs {
			attrs = append(attrs, fmt.Sprintf("'%s' '%s'", k, v))
			if !strings.Contains(g.Attrs[""], attrs[len(attrs)-1]) {
				t.Errorf("record %v has the attributes %s", pos, g.Attrs[""])
			}
		}
		if n := len(strings.Join(attrs, " ")); n != len(g.Attrs[""]) {
			t.Errorf("record %v has the attributes %s, want %v", pos, g.Attrs[""], w.Attrs)
		}
		if !g.At.Equal(w.At) || !g.Arrived.Equal(w.Arrived) || g.Source != w.Source || g.SourceSeq != w.SourceSeq || g.Type != w.Type ||
			g.HashKey != w.HashKey || g.Key != w.Key || g.Size != w.Size || g.Data != w.Data || g.Blob != w.Blob {
			t.Errorf("record %v is\n%+v\nwant\n%+v", pos, g, w)
		}
		delete(got, pos)
	}
	// The shell does not look at checksums: it may also read something of the
	// block that is damaged.
	n := 0
	for _, l := range want.Ledger.Streams {
		n += int(l.Corrupt)
	}
	if len(got) > n {
		t.Errorf("%d more records are read than are known", len(got))
	}
}

// quoted is hexadecimal digits as the shell writes them into CSV.
func quoted(b []byte) string {
	if len(b) == 0 {
		return `""`
	}
	return fmt.Sprintf("%X", b)
}

// A large block, packed and in the chunk file, with keys and attributes long enough for two-byte lengths,
// keeps the recipe quick enough to be used.
func TestPeerSqliteShellReadsALargeBlock(t *testing.T) {
	sh, sql := recipe(t)
	b := newBox(t, spool.Config{})
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	rng := rand.NewChaCha8([32]byte{2})
	var recs []record.Record
	for i := range 1_500 {
		recs = append(recs, record.Record{Key: strings.Repeat("é", i%250+1), HashKey: &record.HashKey{byte(i)}, Source: "s", SourceSeq: uint64(i + 1), Data: bytes.Repeat([]byte("x"), i%300)})
		_, _ = rng.Read(recs[i].Data[:i%300/2]) // never fails; half of it cannot be packed
	}
	put(t, st, recs...)
	work := t.TempDir()
	if err := os.CopyFS(work, os.DirFS(b.dir)); err != nil {
		t.Fatal(err)
	}
	shell(t, work, strings.Replace(sh[0], "cd look\n", "", 1))
	look := filepath.Join(work, "look")
	for name, text := range map[string]string{"read.sql": sql[0], "ask.sql": ".mode csv\nSELECT seq, hex(key), hex(data), substr(hash_key, 1, 2) FROM record ORDER BY seq;\nSELECT max(codec), max(beside) FROM fixed;\n"} {
		if err := os.WriteFile(filepath.Join(look, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Fields(string(shell(t, look, sh[2])))
	var want []string
	for i, r := range recs {
		want = append(want, fmt.Sprintf("%d,%X,%s,%02X", i+1, r.Key, quoted(r.Data), r.HashKey[0]))
	}
	want = append(want, "1,2") // packed, and in the chunk file
	if !slices.Equal(lines, want) {
		t.Errorf("%d lines, want %d; the first is %s, want %s", len(lines), len(want), lines[0], want[0])
	}
}
