package shape_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"forebay/uplink/shape"
)

// Each block of testdata/bad.txt is an entry that is refused, with the words
// below it, indented.
func TestRefused(t *testing.T) {
	const file = "testdata/bad.txt"
	text := string(read(t, file))
	var got strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		var entry strings.Builder
		for line := range strings.Lines(block + "\n") {
			if !strings.HasPrefix(line, "    ") {
				entry.WriteString(line)
			}
		}
		var c shape.Config
		err := toml.NewDecoder(strings.NewReader(entry.String())).DisallowUnknownFields().Decode(&c)
		if err == nil {
			err = c.Check()
			if err == nil {
				t.Errorf("taken: %s", &entry)
				continue
			}
			field, _, _ := strings.Cut(err.Error(), ":")
			if !strings.Contains(entry.String(), field+" =") {
				t.Errorf("%s: the message does not begin with a field: %v", &entry, err)
			}
		}
		got.WriteString(entry.String())
		for line := range strings.Lines(err.Error()) {
			got.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
		}
		got.WriteString("\n")
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != text {
		t.Errorf("got\n%s\nwant\n%s", &got, text)
	}
}

// A config prints and reads back; a deadband may be a number or a text.
func TestReadsBack(t *testing.T) {
	const text = `
keys = ["plant/#"]
when = "a > 1"
deadband = { a = 0.5, b = 2, c = "3%", "d.e" = "0" }
set = { x = 1, y = 1.5, z = "t", w = false }
`
	var c, again shape.Config
	if err := toml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	if c.Deadband["a"] != (shape.Band{By: 0.5}) || c.Deadband["b"].By != 2 || c.Deadband["c"] != (shape.Band{By: 3, Percent: true}) {
		t.Errorf("read %+v", c.Deadband)
	}
	out, err := toml.Marshal(c.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	if err := toml.NewDecoder(bytes.NewReader(out)).DisallowUnknownFields().Decode(&again); err != nil {
		t.Fatal(err)
	}
	twice, err := toml.Marshal(again.WithDefaults())
	if err != nil || !bytes.Equal(twice, out) {
		t.Errorf("%v: printed\n%s\nthen\n%s", err, out, twice)
	}
	if err := again.Check(); err != nil {
		t.Error(err)
	}
	prints := map[string]bool{}
	for _, c := range []shape.Config{c, again, {}, {When: "a > 2"}} {
		p, err := newShape(t, c).Print()
		if err != nil {
			t.Fatal(err)
		}
		prints[p] = true
	}
	if len(prints) != 3 { // what stands for a default is the same
		t.Errorf("%d prints of 3 shapes", len(prints))
	}
}

// The name of a stream at the far side is that of the first entry that has one.
func TestFar(t *testing.T) {
	entries := []shape.Config{{Streams: []string{"line-*"}, When: "value > 1"}, {Streams: []string{"line-*", "mqtt"}, As: "g7.{stream}"}, {As: "all"}}
	for stream, want := range map[string]string{"line-1": "g7.line-1", "mqtt": "g7.mqtt", "alarms": "all", "refused": "refused", "line-" + strings.Repeat("x", 123): "line-" + strings.Repeat("x", 123)} {
		if got := shape.Far(entries, stream); got != want {
			t.Errorf("%s is called %s, want %s", stream, got, want)
		}
	}
}

// The examples of the documentation are taken.
func TestExamplesOfTheDocs(t *testing.T) {
	doc := string(read(t, filepath.FromSlash("../../docs/uplinks/shape.md")))
	blocks := strings.Split(doc, "```toml\n")
	if len(blocks) < 6 {
		t.Fatalf("%d examples", len(blocks)-1)
	}
	for _, b := range blocks[1:] {
		b, _, _ = strings.Cut(b, "```")
		if !strings.Contains(b, "[[uplink]]") {
			b = "[[uplink]]\nid = \"x\"\n" + b
		}
		var c struct {
			Uplink []struct {
				ID      string         `toml:"id"`
				Streams []string       `toml:"streams"`
				Shape   []shape.Config `toml:"shape"`
				Kinesis map[string]any `toml:"kinesis"`
			} `toml:"uplink"`
		}
		if err := toml.NewDecoder(strings.NewReader(b)).DisallowUnknownFields().Decode(&c); err != nil {
			t.Errorf("%v:\n%s", err, b)
			continue
		}
		for _, u := range c.Uplink {
			if len(u.Shape) == 0 {
				t.Errorf("no shape in\n%s", b)
			}
			if _, err := shape.New(u.Shape); err != nil {
				t.Errorf("%v:\n%s", err, b)
			}
		}
	}
}
