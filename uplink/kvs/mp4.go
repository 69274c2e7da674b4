package kvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// A track is what a chunk's moov says about its video (ISO/IEC 14496-12).
type track struct {
	id            uint32
	scale         uint32 // units a second
	codec         string // as Matroska names it
	private       []byte // avcC or hvcC as it stands: Matroska's CodecPrivate
	width, height int
	length, flags uint32 // trex defaults of a sample
	size          uint32
}

func (t *track) same(o *track) bool {
	return t.codec == o.codec && t.width == o.width && t.height == o.height && string(t.private) == string(o.private)
}

// A sample is one coded picture of a chunk. Times are in units of the track.
type sample struct {
	at   int64 // bytes from the start of the chunk
	size uint32
	pts  int64
	dts  int64
	dur  uint32
	sync bool
}

// A movie is the index of a chunk's video: a few dozen bytes a picture.
type movie struct {
	track   *track
	samples []sample
	init    bool // an init segment: a moov and no picture
}

// An unfit error says why a chunk can never be sent.
type unfit string

func (u unfit) Error() string { return string(u) }

const (
	maxMoov    = 1 << 20
	maxMoof    = 4 << 20
	maxSamples = 100_000 // an hour at 25 pictures a second is 90,000
	notSync    = 1 << 16 // sample_is_non_sync_sample
)

// readMovie reads the index of a chunk of fragmented MP4. earlier is the
// track of the camera's last init segment, nil if there was none. An error
// that is unfit is for good; others come from r.
func readMovie(r io.ReadSeeker, earlier *track) (movie, error) {
	m := movie{track: earlier}
	size, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return m, err
	}
	seen, own := false, false
	for at := int64(0); at+8 <= size; {
		kind, head, length, err := topBox(r, at, size)
		if err != nil {
			return m, err
		}
		if !seen && !begins(kind) {
			return m, unfit("it is not an MP4 file")
		}
		seen = true
		switch kind {
		case "moov":
			body, err := readBox(r, at+head, length-head, maxMoov)
			if err != nil {
				return m, err
			}
			if m.track, err = readMoov(body); err != nil {
				return m, err
			}
			own = true
		case "moof":
			body, err := readBox(r, at+head, length-head, maxMoof)
			if err != nil {
				return m, err
			}
			if m.track == nil {
				return m, unfit("it is a fragment whose init segment was not seen; have the camera send whole files, or start the uplink before the camera")
			}
			if err := m.addMoof(body, at, size); err != nil {
				return m, err
			}
		}
		at += length
	}
	switch {
	case !seen:
		return m, unfit("it is not an MP4 file")
	case len(m.samples) == 0 && own:
		if m.init, err = hasNoMedia(r, size); err == nil && !m.init {
			return m, unfit("it is an MP4 file without fragments; fragmented MP4 is needed")
		}
		return m, err
	case len(m.samples) == 0:
		return m, unfit("it holds no picture")
	case !m.samples[0].sync:
		return m, unfit("it does not begin with a key frame")
	}
	return m, nil
}

func begins(kind string) bool {
	switch kind {
	case "ftyp", "styp", "moov", "moof", "sidx", "prft", "emsg", "free", "skip":
		return true
	}
	return false
}

// hasNoMedia reports whether there is no mdat.
func hasNoMedia(r io.ReadSeeker, size int64) (bool, error) {
	for at := int64(0); at+8 <= size; {
		kind, _, length, err := topBox(r, at, size)
		if err != nil || kind == "mdat" {
			return false, err
		}
		at += length
	}
	return true, nil
}

// topBox reads the head of the box at a place of the file.
func topBox(r io.ReadSeeker, at, size int64) (kind string, head, length int64, err error) {
	var b [16]byte
	if _, err := r.Seek(at, io.SeekStart); err != nil {
		return "", 0, 0, err
	}
	if _, err := io.ReadFull(r, b[:8]); err != nil {
		return "", 0, 0, err
	}
	kind, head, length = string(b[4:8]), 8, int64(be32(b[:], 0))
	switch length {
	case 0: // to the end of the file
		length = size - at
	case 1:
		if size-at < 16 {
			return "", 0, 0, unfit("it is cut off")
		}
		if _, err := io.ReadFull(r, b[8:]); err != nil {
			return "", 0, 0, err
		}
		head, length = 16, int64(binary.BigEndian.Uint64(b[8:]))
	}
	if length < head || length > size-at {
		return "", 0, 0, unfit("it is cut off, or not an MP4 file")
	}
	return kind, head, length, nil
}

func readBox(r io.ReadSeeker, at, length, most int64) ([]byte, error) {
	if length > most {
		return nil, unfit(fmt.Sprintf("its index is larger than %d bytes", most))
	}
	if _, err := r.Seek(at, io.SeekStart); err != nil {
		return nil, err
	}
	b := make([]byte, length)
	_, err := io.ReadFull(r, b)
	return b, err
}

// eachBox walks the boxes of one level; yield false ends it.
func eachBox(data []byte, yield func(kind string, body []byte) bool) {
	for len(data) >= 8 {
		size, head := uint64(be32(data, 0)), uint64(8)
		kind := string(data[4:8])
		switch size {
		case 0:
			size = uint64(len(data))
		case 1:
			if len(data) < 16 {
				return
			}
			size, head = binary.BigEndian.Uint64(data[8:]), 16
		}
		if size < head || size > uint64(len(data)) {
			return
		}
		if !yield(kind, data[head:size]) {
			return
		}
		data = data[size:]
	}
}

// child is the first box of a path, nil if there is none.
func child(data []byte, path ...string) []byte {
	for _, want := range path {
		var found []byte
		eachBox(data, func(kind string, body []byte) bool {
			if kind == want {
				found = body
			}
			return found == nil
		})
		if found == nil {
			return nil
		}
		data = found
	}
	return data
}

func be32(b []byte, at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }

// readMoov picks the first video track.
func readMoov(moov []byte) (*track, error) {
	var t *track
	var why error
	eachBox(moov, func(kind string, trak []byte) bool {
		if hdlr := child(trak, "mdia", "hdlr"); kind != "trak" || len(hdlr) < 12 || string(hdlr[8:12]) != "vide" {
			return true
		}
		t, why = readTrak(trak)
		return false
	})
	switch {
	case why != nil:
		return nil, why
	case t == nil:
		return nil, unfit("it has no video track")
	}
	eachBox(child(moov, "mvex"), func(kind string, b []byte) bool {
		// trex: version and flags, track, description, duration, size, flags
		if kind == "trex" && len(b) >= 24 && be32(b, 4) == t.id {
			t.length, t.size, t.flags = be32(b, 12), be32(b, 16), be32(b, 20)
		}
		return true
	})
	return t, nil
}

func readTrak(trak []byte) (*track, error) {
	t := &track{}
	// The ID stands behind two times of 4 bytes, or of 8 in version 1; so does
	// mdhd's timescale.
	for _, f := range []struct {
		box []byte
		to  *uint32
	}{{child(trak, "tkhd"), &t.id}, {child(trak, "mdia", "mdhd"), &t.scale}} {
		at := 12
		if len(f.box) > 0 && f.box[0] == 1 {
			at = 20
		}
		if len(f.box) < at+4 {
			return nil, unfit("its video track is damaged")
		}
		*f.to = be32(f.box, at)
	}
	if t.scale == 0 {
		return nil, unfit("its video track has no timescale")
	}
	stsd := child(trak, "mdia", "minf", "stbl", "stsd")
	if len(stsd) <= 8 {
		return nil, unfit("its video track is damaged")
	}
	var why error
	eachBox(stsd[8:], func(kind string, entry []byte) bool {
		why = t.readEntry(kind, entry)
		return false
	})
	if why == nil && t.private == nil {
		why = unfit("its video track is damaged")
	}
	return t, why
}

// readEntry reads a visual sample entry (ISO/IEC 14496-12, 12.1.3; 14496-15,
// 5.4.2 and 8.4.1).
func (t *track) readEntry(kind string, entry []byte) error {
	const visual = 78 // bytes before its child boxes
	config := ""
	switch kind {
	case "avc1", "avc3":
		t.codec, config = codecAVC, "avcC"
	case "hvc1", "hev1":
		t.codec, config = codecHEVC, "hvcC"
	case "encv":
		return unfit("its video is encrypted")
	default:
		return unfit(fmt.Sprintf("its video is %q; only H.264 and H.265 are handed on", printable(kind)))
	}
	if len(entry) < visual {
		return unfit("its video track is damaged")
	}
	t.width, t.height = int(binary.BigEndian.Uint16(entry[24:])), int(binary.BigEndian.Uint16(entry[26:]))
	if t.private = child(entry[visual:], config); len(t.private) < 7 {
		return unfit("its video track has no " + config)
	}
	t.private = append([]byte(nil), t.private...)
	return nil
}

func printable(s string) string {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return "?"
		}
	}
	return s
}

// addMoof adds the samples of the track in a fragment at the given place of a
// file of the given size.
func (m *movie) addMoof(moof []byte, at, size int64) (err error) {
	eachBox(moof, func(kind string, traf []byte) bool {
		if tfhd := child(traf, "tfhd"); kind == "traf" && len(tfhd) >= 8 && be32(tfhd, 4) == m.track.id {
			err = m.addTraf(traf, tfhd, at, size)
		}
		return err == nil
	})
	return err
}

var errDamaged = unfit("a fragment in it is damaged")

// addTraf adds a track fragment (8.8.7 tfhd, 8.8.12 tfdt).
func (m *movie) addTraf(traf, tfhd []byte, base, size int64) error {
	d := defaults{length: m.track.length, size: m.track.size, flags: m.track.flags}
	has, rest := be32(tfhd, 0), tfhd[8:]
	for _, f := range []struct {
		bit  uint32
		size int
		to   *uint32
	}{{0x01, 8, nil}, {0x02, 4, nil}, {0x08, 4, &d.length}, {0x10, 4, &d.size}, {0x20, 4, &d.flags}} {
		if has&f.bit == 0 {
			continue
		}
		if len(rest) < f.size {
			return errDamaged
		}
		if f.bit == 0x01 {
			base = int64(binary.BigEndian.Uint64(rest))
		}
		if f.to != nil {
			*f.to = be32(rest, 0)
		}
		rest = rest[f.size:]
	}
	dts := int64(0)
	if n := len(m.samples); n > 0 {
		dts = m.samples[n-1].dts + int64(m.samples[n-1].dur)
	}
	if tfdt := child(traf, "tfdt"); len(tfdt) >= 8 {
		if dts = int64(be32(tfdt, 4)); tfdt[0] == 1 && len(tfdt) >= 12 {
			dts = int64(binary.BigEndian.Uint64(tfdt[4:]) & (1<<62 - 1))
		}
	}
	next, err := base, error(nil)
	eachBox(traf, func(kind string, b []byte) bool {
		if kind == "trun" {
			dts, next, err = m.addRun(b, d, dts, base, next, size)
		}
		return err == nil
	})
	return err
}

type defaults struct{ length, size, flags uint32 }

// addRun adds the samples of a run (8.8.8): what it does not say of each is as
// d says. It gives where the next run goes on.
func (m *movie) addRun(trun []byte, d defaults, dts, base, next, size int64) (int64, int64, error) {
	if len(trun) < 8 {
		return 0, 0, errDamaged
	}
	has, count, rest := be32(trun, 0), int(be32(trun, 4)), trun[8:]
	first := d.flags
	if has&0x001 != 0 && len(rest) >= 4 {
		next, rest = base+int64(int32(be32(rest, 0))), rest[4:]
	}
	if has&0x004 != 0 && len(rest) >= 4 {
		first, rest = be32(rest, 0), rest[4:]
	}
	width := 0
	for _, bit := range []uint32{0x100, 0x200, 0x400, 0x800} {
		if has&bit != 0 {
			width += 4
		}
	}
	if count < 0 || count > maxSamples-len(m.samples) || count*width > len(rest) {
		return 0, 0, errDamaged
	}
	for i := range count {
		s, flags, offset := sample{dts: dts, dur: d.length, size: d.size}, d.flags, int64(0)
		if i == 0 {
			flags = first
		}
		if has&0x100 != 0 {
			s.dur, rest = be32(rest, 0), rest[4:]
		}
		if has&0x200 != 0 {
			s.size, rest = be32(rest, 0), rest[4:]
		}
		if has&0x400 != 0 {
			if i > 0 || has&0x004 == 0 {
				flags = be32(rest, 0)
			}
			rest = rest[4:]
		}
		if has&0x800 != 0 {
			if offset = int64(be32(rest, 0)); trun[0] > 0 {
				offset = int64(int32(be32(rest, 0)))
			}
			rest = rest[4:]
		}
		s.at, s.pts, s.sync = next, dts+offset, flags&notSync == 0
		if s.at < 0 || s.at+int64(s.size) > size || s.size == 0 {
			return 0, 0, errDamaged
		}
		next, dts = next+int64(s.size), dts+int64(s.dur)
		m.samples = append(m.samples, s)
	}
	return dts, next, nil
}

// span is a number of the track's units as a time.
func (t *track) span(units int64) time.Duration {
	scale := int64(t.scale)
	s := units / scale
	const most = 365 * 24 * 3600
	if s > most || s < -most {
		return most * time.Second
	}
	return time.Duration(s)*time.Second + time.Duration(units%scale)*time.Second/time.Duration(scale)
}

func isUnfit(err error) bool {
	_, ok := errors.AsType[unfit](err)
	return ok
}
