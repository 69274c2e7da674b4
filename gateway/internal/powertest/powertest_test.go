package powertest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/internal/powertest"
)

var update = flag.Bool("update", false, "write what is said of testdata/*.json beside it")

// Facts of disks that differ are dropped into testdata; what is said of each
// stands beside it and is read by a person when it changes.
func TestWhatIsSaidOfADisk(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no facts: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f := powertest.Facts{}
			in := json.NewDecoder(bytes.NewReader(b))
			in.DisallowUnknownFields()
			if err := in.Decode(&f); err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for _, s := range powertest.Judge(f) {
				fmt.Fprintf(&got, "%s %s: %s\n", s.Level, s.About, s.Text)
			}
			said := strings.TrimSuffix(path, ".json") + ".txt"
			if *update {
				if err := os.WriteFile(said, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(said)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("it says\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
}

func TestAShortRunMeasuresAndCleansUp(t *testing.T) {
	dir := t.TempDir()
	f, err := powertest.Measure(t.Context(), powertest.Options{Dir: dir, Slice: 50 * time.Millisecond, Sustain: 300 * time.Millisecond, Bytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]powertest.Latency{"grow": f.Grow, "overwrite": f.Overwrite, "commit": f.Commit} {
		if l.N < 5 || l.P50 <= 0 || l.P99 < l.P50 {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if f.SustainRate <= 0 || f.SustainBytes > 64<<20 || f.BurstRate <= 0 || f.RecordBytes < 100 || f.Total <= 0 || f.Written < 32<<20 || f.Written > 300<<20 {
		t.Errorf("%+v", f)
	}
	left(t, dir)
	if _, err := json.Marshal(f); err != nil {
		t.Error(err)
	}
	if len(powertest.Judge(f)) < 3 {
		t.Errorf("it says %v", powertest.Judge(f))
	}
}

func TestAnInterruptedRunCleansUp(t *testing.T) {
	for _, after := range []time.Duration{0, 20 * time.Millisecond, 150 * time.Millisecond} {
		dir := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := powertest.Measure(ctx, powertest.Options{Dir: dir, Slice: time.Minute, Sustain: time.Minute})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: %v", after, err)
		}
		left(t, dir)
	}
	if _, err := powertest.Measure(t.Context(), powertest.Options{Dir: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a directory that is not there is measured")
	}
}

func left(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("it left %v, %v", entries, err)
	}
}

// A lone record a second costs a whole commit; ten thousand share theirs.
func TestTheModelOfALoad(t *testing.T) {
	f := powertest.Facts{RecordBytes: 10_000, Commit: powertest.Latency{N: 10, P50: 10}}
	lone, flood := f.Modelled(1, 100), f.Modelled(10_000, 100)
	if day := 86_400 * 10_000.0; lone.BytesPerDay < 0.9*day || lone.BytesPerDay > 1.1*day {
		t.Errorf("a record a second writes %.0f a day, want about %.0f", lone.BytesPerDay, day)
	}
	if per := flood.BytesPerDay / 86_400 / 10_000; per < 220 || per > 500 {
		t.Errorf("of ten thousand a second each writes %.0f", per)
	}
}

// A report that is signed says nothing of flags, of a load that nobody knows
// and of settings that may stay; everything else it says as the command does.
func TestWhatAReportSaysOfADisk(t *testing.T) {
	for _, c := range []struct {
		change func(*powertest.Facts)
		leaves []string // out, by what they are about
	}{
		{func(*powertest.Facts) {}, []string{"wear", "settings", "settings"}},
		{func(f *powertest.Facts) { f.Load = powertest.Load{From: "The gateway edge", BytesPerDay: 1e9} }, []string{"settings", "settings"}},
		{func(f *powertest.Facts) { f.Device.LifeUsed = 90 }, []string{"wear", "settings", "settings"}},
		{func(f *powertest.Facts) { f.Free = 600 << 20 }, []string{"wear", "settings"}}, // a quota that is little stays
	} {
		f := powertest.Facts{
			Dir: "/data", FileSystem: "ext4", Total: 1e12, Free: 5e11, Device: powertest.Device{Kind: "nvme", Bytes: 1e12, LifeUsed: -1},
			Overwrite: powertest.Latency{N: 5000, Seconds: 1, P50: .2, P99: 1}, Commit: powertest.Latency{N: 500, Seconds: 1, P50: 2, P99: 4}, RecordBytes: 9000, SustainRate: 1e8, SustainS: 5,
		}
		c.change(&f)
		short := powertest.JudgeForReport(f)
		var out []string
		for _, s := range powertest.Judge(f) {
			if !slices.Contains(short, s) {
				out = append(out, s.About)
			}
		}
		if len(short) < 3 || !slices.Equal(out, c.leaves) {
			t.Errorf("%+v: it leaves out %v, want %v; it says %v", f.Load, out, c.leaves, short)
		}
	}
}
