//go:build peers

package kvs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// decoded counts the pictures of what went over the only connection, as
// ffprobe decodes them, and has ffmpeg decode it all without a complaint. It
// gives the MD5 of each picture.
func decoded(t *testing.T, r *rig, stream string) (n int, sums []string) {
	t.Helper()
	r.stand.mu.Lock()
	raw := r.raw[stream]
	r.stand.mu.Unlock()
	if len(raw) != 1 {
		t.Fatalf("%d connections", len(raw))
	}
	path := filepath.Join(t.TempDir(), "sent.mkv")
	if err := os.WriteFile(path, raw[0].Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out := run(t, "ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", path)
	n, err := strconv.Atoi(strings.Trim(out, ","))
	if err != nil {
		t.Fatalf("ffprobe: %q", out)
	}
	return n, md5s(t, path)
}

func md5s(t *testing.T, path string) (sums []string) {
	t.Helper()
	for line := range strings.Lines(run(t, "ffmpeg", "-v", "error", "-xerror", "-i", path, "-an", "-fps_mode", "passthrough", "-f", "framemd5", "-")) {
		if !strings.HasPrefix(line, "#") {
			f := strings.Split(strings.TrimSpace(line), ",")
			sums = append(sums, strings.TrimSpace(f[len(f)-1]))
		}
	}
	return sums
}

// ffmpeg reads the simulator's camera's video as it travelled: every picture,
// no errors.
func TestPeerFFmpegReadsWhatWasSent(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	f.fps = 10
	recs := []record.Record{r.film(f, 20, 20), r.film(f, 4, 4), r.film(f, 250, 25), r.film(f, 20, 10)}
	if o := r.send(t, recs); o.Done != len(recs) {
		t.Fatalf("%+v", o)
	}
	if n, sums := decoded(t, r, stream); n != 294 || len(sums) != 294 {
		t.Errorf("%d pictures counted, %d decoded", n, len(sums))
	}
}

// H.264 with B pictures and H.265, both by independent encoders: each picture
// is the one that ffmpeg decodes from the chunk itself.
func TestPeerOtherEncoders(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"h264 with B pictures", []string{"-c:v", "libx264", "-bf", "2"}},
		{"h264 of avc3", []string{"-c:v", "libx264", "-tag:v", "avc3"}},
		{"h265", []string{"-c:v", "libx265", "-x265-params", "log-level=none", "-tag:v", "hvc1"}},
		{"h265 of hev1", []string{"-c:v", "libx265", "-x265-params", "log-level=none", "-tag:v", "hev1"}},
		{"with sound", []string{"-f", "lavfi", "-i", "sine=r=8000", "-c:a", "aac", "-shortest", "-c:v", "libx264"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "chunk.mp4")
			args := []string{"-v", "error", "-f", "lavfi", "-t", "6", "-i", "testsrc=s=320x192:r=10"}
			if c.args[0] == "-f" {
				args = append(args, c.args[:4]...)
				c.args = c.args[4:]
			}
			args = append(args, c.args...)
			args = append(args, "-t", "6", "-pix_fmt", "yuv420p", "-g", "20", "-movflags", "frag_keyframe+empty_moov+default_base_moof", path)
			run(t, "ffmpeg", args...)
			chunk, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			r := newRig(t, nil).slack()
			if o := r.send(t, []record.Record{r.put("cam1", "video/mp4", began, chunk)}); o.Done != 1 || o.Class != lane.OK {
				t.Fatalf("%+v", o)
			}
			n, got := decoded(t, r, stream)
			want := md5s(t, path)
			if n != len(want) || len(want) < 50 || strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("%d pictures counted, %d decoded, want %d and the same", n, len(got), len(want))
			}
		})
	}
}
