package ingest_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"forebay/gateway/internal/ingest"
	"forebay/spool/record"
)

// seeds are the golden cases of a format.
func seeds(f *testing.F, format string) {
	f.Helper()
	files, err := filepath.Glob("testdata/" + format + "/*.in")
	if err != nil || len(files) == 0 {
		f.Fatalf("%d seeds: %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// take posts a body and checks what holds for every answer.
func take(t *testing.T, query, media string, body []byte) ([]record.Record, answer) {
	t.Helper()
	to := &memory{}
	_, a := post(t, ingest.New(to, ingest.Options{}, quiet), "/ingest/plant"+query, media, body)
	if a.Stored != len(to.recs) {
		t.Fatalf("%d stored, %d in the log", a.Stored, len(to.recs))
	}
	if len(a.Errors)+a.Omitted != a.Failed {
		t.Fatalf("%d failed, %d named, %d omitted", a.Failed, len(a.Errors), a.Omitted)
	}
	for i := range to.recs {
		if r := &to.recs[i]; r.Check() != nil || query != "?format=raw" && !json.Valid(r.Data) {
			t.Fatalf("record %d: %v, %q", i, r.Check(), r.Data)
		}
	}
	return to.recs, a
}

// deep tells JSON that nests too much; it may find too much.
func deep(b []byte) bool { return bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) > 512 }

// A line is stored exactly if the standard library takes it too, and as it is.
func FuzzNDJSON(f *testing.F) {
	seeds(f, "ndjson")
	f.Fuzz(func(t *testing.T, body []byte) {
		if deep(body) || len(body) > 1<<20 || bytes.Count(body, []byte("\n")) > 9_000 {
			return
		}
		recs, a := take(t, "", "application/x-ndjson", body)
		bad := 0
		for line := range bytes.SplitSeq(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), []byte("\n")) {
			line = bytes.Trim(line, " \t\r")
			switch {
			case len(line) == 0:
			case !json.Valid(line) || !utf8.Valid(line):
				bad++
			case len(recs) == 0 || !bytes.Equal(recs[0].Data, line):
				t.Fatalf("%q is not stored", line)
			default:
				recs = recs[1:]
			}
		}
		if len(recs) > 0 || len(body) > 0 && a.Failed != bad {
			t.Fatalf("%d records too many; %d failed, want %d", len(recs), a.Failed, bad)
		}
	})
}

// The elements are those that the standard library finds.
func FuzzJSON(f *testing.F) {
	seeds(f, "json")
	f.Fuzz(func(t *testing.T, body []byte) {
		if deep(body) || len(body) > 1<<20 || bytes.Count(body, []byte(",")) > 9_000 {
			return
		}
		recs, a := take(t, "", "application/json", body)
		text := bytes.Trim(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), " \t\r\n")
		if !json.Valid(text) {
			if a.Status != 400 || a.Stored > 0 {
				t.Fatalf("%+v", a)
			}
			return
		}
		want := []json.RawMessage{text}
		if text[0] == '[' {
			if err := json.Unmarshal(text, &want); err != nil {
				t.Fatal(err)
			}
		}
		want = slices.DeleteFunc(want, func(e json.RawMessage) bool { return !utf8.Valid(e) })
		if len(want) != len(recs) {
			t.Fatalf("%d records, want %d", len(recs), len(want))
		}
		for i := range want {
			if !bytes.Equal(recs[i].Data, want[i]) {
				t.Fatalf("record %d is %q, want %q", i, recs[i].Data, want[i])
			}
		}
	})
}

// A path finds what the standard library finds.
func FuzzKeyField(f *testing.F) {
	f.Add([]byte(`{"a":{"b":"x"}}`))
	f.Add([]byte(`{"a":{"b":1.50},"a":{"\u0062":"\ud83d\ude00"}}`))
	f.Add([]byte(`{"a":{"b":[]},"c":{"b":1}}`))
	f.Add([]byte(`{"a":[{"b":1}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if deep(body) || len(body) > 1<<20 || !json.Valid(body) || !utf8.Valid(body) || bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) {
			return
		}
		recs, a := take(t, "?key_field=a.b", "application/json", body)
		want, ok := lookup(body, "a", "b")
		if ok = ok && want != "" && utf8.RuneCountInString(want) <= record.MaxKey; !ok {
			if a.Failed != 1 {
				t.Fatalf("%+v; there is no key", a)
			}
			return
		}
		if len(recs) != 1 || recs[0].Key != want {
			t.Fatalf("%+v %+v; want the key %q", a, recs, want)
		}
	})
}

// lookup walks a path with the standard library's decoder of tokens.
func lookup(text []byte, path ...string) (value string, ok bool) {
	for _, name := range path {
		dec := json.NewDecoder(bytes.NewReader(text))
		if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
			return "", false
		}
		var found json.RawMessage
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return "", false
			}
			var v json.RawMessage
			if err := dec.Decode(&v); err != nil {
				return "", false
			}
			if key == name {
				found = v
			}
		}
		if text = found; text == nil {
			return "", false
		}
	}
	switch text[0] {
	case '{', '[', 'n':
		return "", false
	case '"':
		return value, json.Unmarshal(text, &value) == nil
	}
	return string(text), true
}

// Rows and cells are those that the standard library finds.
func FuzzCSV(f *testing.F) {
	seeds(f, "csv")
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 1<<20 || bytes.Count(body, []byte("\n")) > 9_000 {
			return
		}
		recs, a := take(t, "", "text/csv", body)
		body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
		rd := csv.NewReader(bytes.NewReader(body))
		rd.FieldsPerRecord = -1
		head, err := rd.Read()
		if err != nil {
			if a.Status != 400 || a.Stored > 0 {
				t.Fatalf("%+v; the header: %v", a, err)
			}
			return
		}
		if a.Status == 400 && a.Failed == 0 {
			return // names that are empty, or the same, or too many
		}
		bad := 0
		for {
			row, err := rd.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || len(row) != len(head) || !utf8.ValidString(strings.Join(row, "")) {
				bad++
				continue
			}
			if len(recs) == 0 {
				t.Fatalf("the row %q is not stored", row)
			}
			same(t, recs[0].Data, head, row)
			recs = recs[1:]
		}
		if len(recs) > 0 || a.Failed != bad {
			t.Fatalf("%d records too many; %d failed, want %d", len(recs), a.Failed, bad)
		}
	})
}

// same compares an object with a row. The standard library makes LF of a CRLF
// between quotes, which we keep.
func same(t *testing.T, data []byte, head, row []string) {
	t.Helper()
	got := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	for i, cell := range row {
		v, ok := got[strings.ReplaceAll(head[i], "\r\n", "\n")]
		if !ok {
			for k := range got {
				if strings.ReplaceAll(k, "\r\n", "\n") == head[i] {
					v, ok = got[k], true
				}
			}
		}
		switch v := v.(type) {
		case nil:
			if ok || cell != "" {
				t.Fatalf("%s: %q is missing", data, cell)
			}
		case json.Number:
			if string(v) != cell {
				t.Fatalf("%s: %q", data, cell)
			}
		case string:
			if strings.ReplaceAll(v, "\r\n", "\n") != cell {
				t.Fatalf("%s: %q", data, cell)
			}
			var n float64
			if json.Unmarshal([]byte(cell), &n) == nil && strings.TrimSpace(cell) == cell && cell != "null" {
				t.Fatalf("%s: the number %q is a text", data, cell)
			}
		}
	}
}

// A record that is written as line protocol again is the same record.
func FuzzLine(f *testing.F) {
	seeds(f, "line")
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 1<<20 || bytes.Count(body, []byte("\n")) > 9_000 {
			return
		}
		recs, _ := take(t, "", "text/plain", body)
		if len(recs) == 0 {
			return
		}
		var again bytes.Buffer
		for i := range recs {
			if !encode(t, &again, &recs[i]) {
				return
			}
		}
		second, a := take(t, "", "text/plain", again.Bytes())
		if a.Failed > 0 || len(second) != len(recs) {
			t.Fatalf("%q: %+v", again.Bytes(), a)
		}
		for i := range recs {
			if !bytes.Equal(recs[i].Data, second[i].Data) || !recs[i].At.Equal(second[i].At) || recs[i].Key != second[i].Key {
				t.Fatalf("record %d:\n%s %q\n%s %q\nby %q", i, recs[i].Data, recs[i].Key, second[i].Data, second[i].Key, again.Bytes())
			}
		}
	})
}

// encode writes a record as line protocol; false for what has no one form
// there: a name that ends with a backslash, or one before a character that
// a backslash escapes.
func encode(t *testing.T, b *bytes.Buffer, r *record.Record) bool {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(r.Data))
	dec.UseNumber()
	token := func() json.Token {
		tok, err := dec.Token()
		if err != nil {
			t.Fatalf("%s: %v", r.Data, err)
		}
		return tok
	}
	ok := true
	word := func(s, special string) {
		for i := range len(s) {
			if s[i] == '\\' && (i+1 == len(s) || strings.IndexByte(special, s[i+1]) >= 0) {
				ok = false
			}
			if strings.IndexByte(special, s[i]) >= 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
		}
	}
	members := func(each func(key string, value json.Token)) {
		token() // {
		for dec.More() {
			key := token().(string)
			each(key, token())
		}
		token() // }
	}
	token() // {
	for dec.More() {
		switch name := token().(string); name {
		case "name":
			s := token().(string)
			ok = ok && s[0] != '#' && s[0] != ' '
			word(s, ", ")
		case "tags":
			members(func(key string, value json.Token) {
				b.WriteByte(',')
				word(key, ", =")
				b.WriteByte('=')
				word(value.(string), ", =")
			})
		case "fields":
			sep := byte(' ')
			members(func(key string, value json.Token) {
				b.WriteByte(sep)
				sep = ','
				word(key, ", =")
				b.WriteByte('=')
				switch v := value.(type) {
				case string:
					b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`)
				case json.Number:
					if n, err := v.Float64(); err != nil || math.IsInf(n, 0) {
						t.Fatalf("%s: %v", v, err)
					}
					b.WriteString(v.String())
				case bool:
					b.WriteString(strconv.FormatBool(v))
				default:
					t.Fatalf("%s: a field is %v", r.Data, value)
				}
			})
		case "time":
			token()
		default:
			t.Fatalf("%s has the member %q", r.Data, name)
		}
	}
	if !r.At.IsZero() {
		b.WriteString(" " + strconv.FormatInt(r.At.UnixNano(), 10))
	}
	b.WriteByte('\n')
	return ok && b.Len() < 1<<20
}

// Whatever a request says, there is an answer, and its counts are right.
func FuzzRequest(f *testing.F) {
	f.Add("format=csv&delimiter=;&key_field=a", "text/csv", "", []byte("a;b\n1;2\n"))
	f.Add("format=line&precision=s", "", "gzip", []byte("m v=1 1\n"))
	f.Add("atomic=true&time_field=t", "application/json", "", []byte(`[{"t":1}]`))
	f.Add("key=%41&format=raw", "x/y", "identity", []byte("x"))
	f.Fuzz(func(t *testing.T, query, media, encoding string, body []byte) {
		to := &memory{}
		h := ingest.New(to, ingest.Options{MaxBody: 1 << 20}, quiet)
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/ingest/plant", bytes.NewReader(body))
		r.URL.RawQuery = query
		r.Header.Set("Content-Type", media)
		if encoding != "" {
			r.Header.Set("Content-Encoding", encoding)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var a answer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains([]int{200, 400, 413, 415, 429}, w.Code) || a.Stored != len(to.recs) || w.Code != 200 && a.Message == "" {
			t.Fatalf("%d %s, %d in the log", w.Code, w.Body, len(to.recs))
		}
	})
}
