package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/gateway/internal/config"
	"forebay/spool/record"
)

var update = flag.Bool("update", false, "write the expected messages anew")

// Each testdata/*.bad.toml is refused with exactly the words in the .want file
// beside it; a new case is two new files.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			_, err := config.Load(f)
			var e *config.Error
			if !errors.As(err, &e) {
				t.Fatalf("error is %v", err)
			}
			if e.Line == 0 || e.Width == 0 {
				t.Errorf("no place is named: %+v", e)
			}
			want := strings.TrimSuffix(f, ".bad.toml") + ".want"
			got := strings.ReplaceAll(err.Error(), `\`, "/") + "\n"
			if *update {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(b) {
				t.Errorf("says\n%s\nwant\n%s", got, b)
			}
		})
	}
}

func TestGoodFile(t *testing.T) {
	c, err := config.Load("testdata/full.good.toml")
	if err != nil {
		t.Fatal(err)
	}
	if c.Gateway.Name != "edge-07" || len(c.Serial) != 1 || c.Serial[0].Baud != 9600 || c.Kinesis.Keys[0].AccessKey != "AKIDEXAMPLE" || len(c.Rules) != 1 || c.Rules[0].Severity != 1 {
		t.Errorf("read %+v", c)
	}
	if u := c.Broker.Users; len(u) != 2 || u[1].Publish == nil {
		t.Errorf("users are %+v", u)
	}
	streams := map[string]int{}
	for _, s := range c.Streams {
		streams[string(s.Name)] = s.Shards
		if s.Name == "mqtt" && (s.MaxAge.D() != 7*24*time.Hour || s.Class != record.ClassTelemetry) {
			t.Errorf("mqtt is %+v", s)
		}
	}
	if streams["sensors"] != 8 || streams["mqtt"] != 4 || streams["alarms"] != 1 || len(streams) != len(config.BuiltIn())+1 {
		t.Errorf("streams are %v", streams)
	}
}

// What Print prints reads back as the same config, and holds no secret.
func TestPrintReadsBack(t *testing.T) {
	for _, f := range []string{"", "testdata/full.good.toml"} {
		c := config.Default()
		if f != "" {
			var err error
			if c, err = config.Load(f); err != nil {
				t.Fatal(err)
			}
		}
		out, err := c.Print()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(out), "hunter2") {
			t.Errorf("a secret is printed:\n%s", out)
		}
		again, err := config.Parse("printed", out)
		if err != nil {
			t.Fatalf("does not read back: %v\n%s", err, out)
		}
		twice, err := again.Print()
		if err != nil || string(twice) != string(out) {
			t.Errorf("printed twice differs (%v):\n%s\n---\n%s", err, out, twice)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := config.Parse("f.toml", b)
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
	})
}
