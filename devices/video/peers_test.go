//go:build peers

package video_test

import (
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"forebay/devices/video"
)

// ffmpeg as an encoder that pushes HLS over HTTP: init segment, fragments and
// playlist all arrive, and the fragments follow on each other.
func TestPeerFFmpegPushesHLS(t *testing.T) {
	m := &memory{}
	s, _ := start(t, video.Config{}, m)
	srv := httptest.NewServer(s)
	defer srv.Close()
	out, err := exec.Command("ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=s=320x192:r=10", "-t", "8",
		"-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "20", "-f", "hls", "-hls_time", "2", "-hls_segment_type", "fmp4",
		"-hls_fmp4_init_filename", "init.mp4", "-hls_segment_filename", srv.URL+"/video/enc/seg%d.m4s",
		"-method", "PUT", srv.URL+"/video/enc/list.m3u8").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Fatalf("ffmpeg: %v\n%s", err, out)
	}
	var millis int64
	inits, lists := 0, 0
	codec := ""
	for _, r := range m.stored() {
		x := indexOf(t, r)
		switch {
		case r.Attrs["init"] == "true":
			inits++
		case strings.HasSuffix(x.Name, ".m3u8"):
			lists++
		default:
			millis += x.DurationMS
			// The encoder pushes its init segment on a connection of its own;
			// the first fragment may be faster.
			codec = x.Codec
			if x.Discontinuity || !x.Keyframe {
				t.Errorf("%s: %s", x.Name, r.Data)
			}
		}
	}
	if inits < 1 || lists < 1 || millis != 8000 || !strings.HasPrefix(codec, "avc1.") {
		t.Errorf("%d inits, %d playlists, %d ms of video, codec %q", inits, lists, millis, codec)
	}
}
