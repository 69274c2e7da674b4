//go:build peers

package camera_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"forebay/firmware-sim/camera"
)

func run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil || errs.Len() > 0 {
		t.Fatalf("%s: %v\n%s", name, err, errs.String())
	}
	return out.Bytes()
}

// ffmpeg decodes every pixel as it was drawn; ffprobe counts the frames and
// finds profile, rate and start of each chunk.
func TestPeerFFmpegDecodesEveryPixel(t *testing.T) {
	const chunks, perChunk = 5, 30
	pics := shots(11, chunks*perChunk)
	dir := t.TempDir()
	var enc camera.Encoder
	for c := range chunks {
		chunk := camera.Chunk{Number: uint32(c + 1), Frame: uint64(c * perChunk), FPS: 10}
		var want []byte
		for i := range perChunk {
			p := &pics[c*perChunk+i]
			nal, key := enc.Encode(p, i == 0)
			chunk.Samples = append(chunk.Samples, camera.Sample{NAL: nal, Key: key})
			want = append(append(append(want, p.Y[:]...), p.Cb[:]...), p.Cr[:]...)
		}
		file := filepath.Join(dir, fmt.Sprintf("chunk%d.mp4", c))
		if err := os.WriteFile(file, chunk.MP4(), 0o600); err != nil {
			t.Fatal(err)
		}
		got := run(t, "ffmpeg", "-v", "warning", "-i", file, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-")
		if !bytes.Equal(got, want) {
			t.Errorf("chunk %d: %d bytes of picture, want %d, or other pixels", c, len(got), len(want))
		}
		probe := string(run(t, "ffprobe", "-v", "warning", "-count_frames", "-of", "csv=p=0", "-show_entries",
			"stream=codec_name,profile,width,height,has_b_frames,level,r_frame_rate,start_time,nb_read_frames", file))
		line := fmt.Sprintf("h264,Constrained Baseline,%d,%d,0,30,10/1,%d.000000,%d", camera.Width, camera.Height, c*perChunk/10, perChunk)
		if strings.TrimSpace(probe) != line {
			t.Errorf("chunk %d: ffprobe says %q, want %q", c, probe, line)
		}
	}
}
