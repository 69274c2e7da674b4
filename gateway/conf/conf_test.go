package conf_test

import (
	"encoding"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
)

func TestWordsReadAndPrintThemselves(t *testing.T) {
	for _, c := range []struct {
		in   string
		into encoding.TextUnmarshaler
		out  string // "" means: refused
	}{
		{"250ms", new(conf.Duration), "250ms"},
		{"30d", new(conf.Duration), "30d"},
		{"1h30m", new(conf.Duration), "1h30m"},
		{"72h", new(conf.Duration), "3d"},
		{"90s", new(conf.Duration), "1m30s"},
		{"0.5d", new(conf.Duration), "12h"},
		{"ten", new(conf.Duration), ""},
		{"-1s", new(conf.Duration), ""},
		{"10", new(conf.Duration), ""},
		{"64MiB", new(conf.Size), "64MiB"},
		{"1.5GB", new(conf.Size), "1500MB"},
		{"4096", new(conf.Size), "4KiB"},
		{"7", new(conf.Size), "7B"},
		{"-1", new(conf.Size), ""},
		{"many", new(conf.Size), ""},
		{"9e30GB", new(conf.Size), ""},
		{"line-1_a", new(conf.Name), "line-1_a"},
		{"Line", new(conf.Name), ""},
		{"../x", new(conf.Name), ""},
		{"", new(conf.Name), ""},
		{strings.Repeat("a", 64), new(conf.Name), ""},
		{"Plant.1-a_b", new(conf.Stream), "Plant.1-a_b"},
		{"a/b", new(conf.Stream), ""},
		{strings.Repeat("a", 129), new(conf.Stream), ""},
		{"127.0.0.1:1883", new(conf.Listen), "127.0.0.1:1883"},
		{"off", new(conf.Listen), "off"},
		{"1883", new(conf.Listen), ""},
		{"a:99999", new(conf.Listen), ""},
		{"a/+/#", new(conf.Filter), "a/+/#"},
		{"a/#/b", new(conf.Filter), ""},
		{"a/b+", new(conf.Filter), ""},
		{"", new(conf.Filter), ""},
		{"a/\x00", new(conf.Filter), ""},
		{"a/\xff", new(conf.Filter), ""},
		{strings.Repeat("a", 65536), new(conf.Filter), ""},
	} {
		err := c.into.UnmarshalText([]byte(c.in))
		if (err != nil) != (c.out == "") {
			t.Errorf("%T of %q: error %v, want it refused: %v", c.into, c.in, err, c.out == "")
			continue
		}
		if err != nil {
			continue
		}
		b, err := c.into.(encoding.TextMarshaler).MarshalText()
		if err != nil || string(b) != c.out {
			t.Errorf("%T of %q prints as %q (%v), want %q", c.into, c.in, b, err, c.out)
		}
	}
}

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		match         bool
	}{
		{"#", "a/b", true},
		{"a/#", "a", true},
		{"a/#", "a/b/c", true},
		{"a/#", "b", false},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a/b/d", false},
		{"a/+", "a/b/c", false},
		{"a/+", "a", false},
		{"+/+", "/x", true},
		{"a/b", "a/b", true},
		{"a/b", "a/b/", false},
		{"+", "", true},
	} {
		f, err := conf.ParseFilter(c.filter)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Match(c.topic); got != c.match {
			t.Errorf("%q matches %q: %v, want %v", c.filter, c.topic, got, c.match)
		}
	}
	f, err := conf.ParseFilter("plant/+/cell/+/#")
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := f.Capture("plant/l1/cell/c7/temp/x"); !ok || !slices.Equal(got, []string{"l1", "c7"}) || len(got) != f.Plus() {
		t.Errorf("captures %q, %v", got, ok)
	}
	if _, ok := f.Capture("plant/l1"); ok {
		t.Error("captures from a topic that does not match")
	}
	if n := testing.AllocsPerRun(100, func() { f.Match("plant/l1/cell/c7/temp/x") }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}

// slowCovers says it level by level, by the words of MQTT 5, 4.7.1.
func slowCovers(allow, want []string) bool {
	switch {
	case len(allow) > 0 && allow[0] == "#":
		return true
	case len(allow) == 0 || len(want) == 0:
		return len(allow) == len(want)
	case want[0] == "#" || (allow[0] != "+" && allow[0] != want[0]):
		return false
	}
	return slowCovers(allow[1:], want[1:])
}

func FuzzFilter(f *testing.F) {
	for _, s := range [][2]string{{"#", "a/b"}, {"a/#", "a"}, {"a/#", "a/+"}, {"+/b", "a/b"}, {"+", "/"}, {"a/+/c", "a/b/c"}, {"a/+", "a/#"}, {"+/#", "#"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, text, other string) {
		filter, err := conf.ParseFilter(text)
		if err != nil {
			return
		}
		if !filter.Covers(text) {
			t.Errorf("%q does not cover itself", text)
		}
		if _, err := conf.ParseFilter(other); err != nil {
			return
		}
		want := slowCovers(strings.Split(text, "/"), strings.Split(other, "/"))
		if got := filter.Covers(other); got != want {
			t.Errorf("%q covers %q: %v, want %v", text, other, got, want)
		}
		if got := filter.Match(other); !strings.ContainsAny(other, "+#") && got != want {
			t.Errorf("%q matches %q: %v, want %v", text, other, got, want)
		}
	})
}

func TestASecretNeverPrintsItself(t *testing.T) {
	s := conf.NewSecret("hunter2")
	for _, f := range []string{"%v", "%s", "%+v", "%#v", "%q"} {
		if out := fmt.Sprintf(f, struct{ S conf.Secret }{s}); strings.Contains(out, "hunter2") {
			t.Errorf("%s prints %s", f, out)
		}
	}
	if b, err := s.MarshalText(); err != nil || strings.Contains(string(b), "hunter2") {
		t.Errorf("MarshalText gives %q, %v", b, err)
	}
	path := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(path, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FOREBAY_TEST_SECRET", "from the environment")
	for in, want := range map[string]string{"file:" + path: "from a file", "env:FOREBAY_TEST_SECRET": "from the environment", "plain": "plain"} {
		if got, err := conf.NewSecret(in).Reveal(); err != nil || got != want {
			t.Errorf("%q reveals %q, %v", in, got, err)
		}
	}
	if _, err := conf.NewSecret("env:FOREBAY_TEST_NOT_SET").Reveal(); err == nil {
		t.Error("a missing variable reveals nothing and gives no error")
	}
}

func TestLoopback(t *testing.T) {
	for addr, want := range map[conf.Listen]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, ":1": false, "0.0.0.0:1": false, "10.0.0.1:1": false, "example.com:1": false} {
		if addr.Loopback() != want {
			t.Errorf("%s is loopback: %v, want %v", addr, !want, want)
		}
	}
	if got := conf.Duration(0).Or(time.Second); got != time.Second {
		t.Errorf("zero is %v", got)
	}
}

func TestSpanInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", time.Microsecond: "0 ms", 250 * time.Millisecond: "250 ms", 1500 * time.Millisecond: "1.5 s", 9 * time.Second: "9 s",
		59 * time.Second: "59 s", time.Minute: "1 min", 90 * time.Second: "1 min 30 s", 2 * time.Hour: "2 h", 2*time.Hour + 59*time.Second: "2 h",
		3*time.Hour + 5*time.Minute + time.Second: "3 h 5 min", 76 * time.Hour: "3 d 4 h", -10 * time.Minute: "-10 min",
	} {
		if got := conf.Duration(d).InWords(); got != want {
			t.Errorf("%v is %q in words, want %q", d, got, want)
		}
	}
}
