package video_test

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/devices/video"
)

// A golden case is a chunk in testdata, as an encoder wrote it, and beside it
// what must be read off it.
type golden struct {
	After    string    `json:"after,omitempty"` // the init segment that came before
	Codec    string    `json:"codec"`
	Bare     bool      `json:"bare"`
	Millis   int64     `json:"duration_ms"`
	Sequence uint32    `json:"sequence"`
	Decode   uint64    `json:"decode"`
	Scale    uint32    `json:"scale"`
	Key      bool      `json:"key"`
	Start    time.Time `json:"start"`
}

func TestReadFragmentGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 7 {
		t.Fatalf("golden cases are missing: %v, %v", files, err)
	}
	for _, file := range files {
		var want golden
		if err := json.Unmarshal(read(t, file), &want); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var earlier *video.Track
		if want.After != "" {
			earlier = video.ReadFragment(read(t, filepath.Join("testdata", want.After)), nil).Init
		}
		f := video.ReadFragment(read(t, strings.TrimSuffix(file, ".json")), earlier)
		got := golden{
			After: want.After, Codec: f.Codec, Bare: f.Bare, Millis: f.Duration().Milliseconds(),
			Sequence: f.Sequence, Decode: f.Decode, Scale: f.Scale, Key: f.Key, Start: f.Start,
		}
		if got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", file, got, want)
		}
	}
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// box makes an MP4 box of its parts.
func box(kind string, parts ...[]byte) []byte {
	body := []byte{}
	for _, p := range parts {
		body = append(body, p...)
	}
	out := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return append(append(out, kind...), body...)
}

func words(w ...uint32) (out []byte) {
	for _, v := range w {
		out = binary.BigEndian.AppendUint32(out, v)
	}
	return out
}

// fragment makes moof and mdat for track 1: count samples of the track's
// default length.
func fragment(sequence, decode, count uint32) []byte {
	traf := box("traf", box("tfhd", words(0, 1)), box("tfdt", words(0, decode)), box("trun", words(0, count)))
	return append(box("moof", box("mfhd", words(0, sequence)), traf), box("mdat", []byte("x"))...)
}

// moov makes an init for a video track 1 with 1000 units a second and samples
// of 100.
func moov() []byte {
	trak := box("trak", box("tkhd", words(0, 0, 0, 1)),
		box("mdia", box("mdhd", words(0, 0, 0, 1000, 0)), box("hdlr", words(0, 0), []byte("vide"))))
	return append(box("ftyp", []byte("iso5")), box("moov", trak, box("mvex", box("trex", words(0, 1, 1, 100, 0, 0))))...)
}

func TestReadFragmentDamaged(t *testing.T) {
	whole := append(moov(), fragment(7, 500, 20)...)
	f := video.ReadFragment(whole, nil)
	if f.Duration() != 2*time.Second || f.Sequence != 7 || f.Decode != 500 || !f.Key {
		t.Fatalf("whole: %+v", f)
	}
	for i := range whole {
		if d := video.ReadFragment(whole[:i], nil).Duration(); d != 0 && d != 2*time.Second {
			t.Errorf("cut at %d: duration %v", i, d)
		}
	}
	big := video.ReadFragment(append(moov(), fragment(1, 0, 0xffffffff)...), nil)
	if big.Duration() > 30*time.Hour*24 {
		t.Errorf("4 billion samples: duration %v", big.Duration())
	}
}

// The video's time counts, wherever its fragment stands among the others.
func TestReadFragmentTakesTheVideoTrack(t *testing.T) {
	sound := box("traf", box("tfhd", words(0, 2)), box("tfdt", words(0, 77)), box("trun", words(0, 5)))
	picture := box("traf", box("tfhd", words(0, 1)), box("tfdt", words(0, 3000)), box("trun", words(0, 10)))
	for _, trafs := range [][][]byte{{sound, picture}, {picture, sound}} {
		f := video.ReadFragment(append(moov(), box("moof", trafs...)...), nil)
		if f.Decode != 3000 || f.Duration() != time.Second {
			t.Errorf("time %d, duration %v", f.Decode, f.Duration())
		}
	}
}

// Whatever comes, the reader ends, and what it says can be used.
func FuzzReadFragment(f *testing.F) {
	files, err := filepath.Glob("testdata/*.m*")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		if !strings.HasSuffix(file, ".json") {
			f.Add(read(f, file))
		}
	}
	f.Add(append(moov(), fragment(1, 0, 3)...))
	init := video.ReadFragment(moov(), nil).Init
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, earlier := range []*video.Track{nil, init} {
			g := video.ReadFragment(data, earlier)
			if d := g.Duration(); d < 0 || d > 367*24*time.Hour {
				t.Errorf("duration is %v", d)
			}
			if g.Bare && g.Init == nil || g.Known && g.Scale == 0 {
				t.Errorf("contradiction: %+v", g)
			}
			if !g.Start.IsZero() && (g.Start.Year() < 1999 || g.Start.Year() > 2102) {
				t.Errorf("start is %v", g.Start)
			}
			for _, c := range g.Codec {
				if c < ' ' || c > '~' {
					t.Errorf("codec is %q", g.Codec)
				}
			}
		}
	})
}
