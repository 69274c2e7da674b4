package kvs

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"forebay/firmware-sim/camera"
)

// A chunk is read whole or refused, whatever is in it, and what is planned of
// it keeps the limits and lies within it.
func FuzzMovie(f *testing.F) {
	scene, at := camera.NewScene(1), time.Unix(1_800_000_000, 0)
	var enc camera.Encoder
	c := camera.Chunk{Number: 1, FPS: 2}
	for i := range 6 {
		var p camera.Picture
		scene.Draw(&p, uint64(i), at)
		nal, key := enc.Encode(&p, i%2 == 0)
		c.Samples = append(c.Samples, camera.Sample{NAL: nal[:40], Key: key})
	}
	whole := c.MP4()
	moof := bytes.Index(whole, []byte("moof")) - 4
	for _, s := range [][]byte{whole, whole[:moof], whole[moof:], whole[:len(whole)-7], []byte("G"), nil} {
		f.Add(s)
	}
	earlier, err := readMovie(bytes.NewReader(whole), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMovie(bytes.NewReader(data), earlier.track)
		if err != nil || m.init {
			return
		}
		j := &job{}
		whole, err := cut(j, m, at)
		if err != nil {
			if !isUnfit(err) {
				t.Fatal(err)
			}
			return
		}
		n := 0
		for _, g := range plan([]*clip{whole}) {
			if g.span() > maxSpan || g.bytes > maxBytes || !g.parts[0].frames[0].key {
				t.Fatalf("a fragment of %s and %d bytes", g.span(), g.bytes)
			}
			for _, p := range g.frames() {
				if n++; p.at < 0 || p.at+int64(p.size) > int64(len(data)) {
					t.Fatalf("a picture at %d of %d bytes in %d", p.at, p.size, len(data))
				}
			}
		}
		if n != len(m.samples) {
			t.Fatalf("%d of %d pictures are planned", n, len(m.samples))
		}
	})
}

// Answers are read however they are cut, with or without anything between
// them; what is none is told apart from a connection that ends.
func FuzzAcks(f *testing.F) {
	f.Add(`{"EventType":"BUFFERING","FragmentTimecode":1}{"EventType":"PERSISTED","FragmentTimecode":1}`)
	f.Add("{\"EventType\":\"ERROR\",\"ErrorId\":4004,\"ErrorCode\":\"X\"}\r\n{\"EventType\":\"IDLE\"}\n")
	f.Add("<html>")
	f.Add(`{"EventType":`)
	f.Add(strings.Repeat(" ", 100_000))
	f.Fuzz(func(t *testing.T, text string) {
		read := func(r io.Reader) (acks []ack, last error) {
			in := newAckReader(r)
			for {
				a, err := in.next()
				if err != nil {
					return acks, err
				}
				_ = a.refusal("s").Error()
				acks = append(acks, a)
			}
		}
		all, err := read(strings.NewReader(text))
		again, err2 := read(iotest.OneByteReader(strings.NewReader(text)))
		if len(all) != len(again) || errors.Is(err, errNotAck) != errors.Is(err2, errNotAck) {
			t.Fatalf("%d acks, %v; byte by byte %d, %v", len(all), err, len(again), err2)
		}
	})
}
