package video

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

// A Track is what an init segment (ISO/IEC 14496-12, moov) says about the
// video; a bare fragment needs it to tell its duration.
type Track struct {
	ID          uint32
	Timescale   uint32 // units a second
	Codec       string // as in RFC 6381, "avc1.42C01E"; else the sample entry's four characters
	sampleLen   uint32 // trex defaults
	sampleFlags uint32
	length      uint64 // mdhd; 0 in a file of fragments
	isVideo     bool
}

// A Fragment is what can be read off a chunk of fragmented MP4 at little cost.
type Fragment struct {
	Init     *Track    // the chunk holds a moov
	Bare     bool      // a moov and no fragment: an init segment
	Known    bool      // there is a fragment, and its track's timescale is known
	Codec    string    // "" where it is not known
	Sequence uint32    // mfhd of the first fragment; 0 where there is none
	Decode   uint64    // tfdt of the first fragment, in units of the timescale
	HasTime  bool      // there is a tfdt
	Length   uint64    // of all fragments, in units of the timescale
	Scale    uint32    // units a second
	Key      bool      // the first sample is a sync sample
	Start    time.Time // from prft; zero where there is none
	samples  int
}

// Duration is the length as a time span.
func (f Fragment) Duration() time.Duration {
	if f.Scale == 0 {
		return 0
	}
	return units(f.Length, f.Scale)
}

func units(n uint64, scale uint32) time.Duration {
	const most = 365 * 24 * 3600
	s := min(n/uint64(scale), most)
	return time.Duration(s)*time.Second + time.Duration(n%uint64(scale))*time.Second/time.Duration(scale)
}

// IsMP4 reports whether data begins as an MP4 file or segment does.
func IsMP4(data []byte) bool {
	if len(data) < 8 {
		return false
	}
	switch string(data[4:8]) {
	case "ftyp", "styp", "moov", "moof", "sidx", "prft", "emsg":
		return true
	}
	return false
}

// ReadFragment reads the boxes of an MP4 chunk. earlier is the track of the
// camera's last init segment, nil if there was none. It never fails: what it
// does not understand it leaves out. It keeps no reference to data.
func ReadFragment(data []byte, earlier *Track) Fragment {
	f := Fragment{}
	track := earlier
	moofs, media := 0, false
	var clock prft
	var first *Track // what sidx says of the first track, where no init came
	eachBox(data, func(kind string, body []byte) bool {
		switch kind {
		case "moov":
			if t := readMoov(body); t != nil {
				f.Init, track = t, t
			}
		case "prft":
			if moofs == 0 {
				clock = readPrft(body)
			}
		case "sidx":
			if first == nil {
				first = readSidx(body)
			}
		case "moof":
			if track == nil {
				track = first
			}
			moofs++
			f.addMoof(body, track)
		case "mdat":
			media = true
		}
		return true
	})
	f.Bare = f.Init != nil && moofs == 0 && !media
	if track != nil {
		f.Codec = track.Codec
		if moofs == 0 && f.Init != nil && media { // a file without fragments
			f.Length, f.Key = track.length, true
		}
		if !f.Bare && track.Timescale > 0 && (moofs > 0 || f.Length > 0) {
			f.Known, f.Scale = true, track.Timescale
		}
	}
	if clock.set && f.Known && f.HasTime {
		f.Start = clock.at
		if f.Decode > clock.media {
			f.Start = f.Start.Add(units(f.Decode-clock.media, f.Scale))
		} else {
			f.Start = f.Start.Add(-units(clock.media-f.Decode, f.Scale))
		}
	}
	return f
}

// eachBox walks the boxes of one level; yield false ends it.
func eachBox(data []byte, yield func(kind string, body []byte) bool) {
	for len(data) >= 8 {
		size, head := uint64(binary.BigEndian.Uint32(data)), uint64(8)
		kind := string(data[4:8])
		switch size {
		case 0: // to the end of the file
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

// readMoov picks the video track, or the first track if none is video.
func readMoov(moov []byte) *Track {
	var best *Track
	eachBox(moov, func(kind string, body []byte) bool {
		if kind == "trak" {
			if t := readTrak(body); t != nil && (best == nil || t.isVideo && !best.isVideo) {
				best = t
			}
		}
		return best == nil || !best.isVideo
	})
	if best == nil {
		return nil
	}
	eachBox(child(moov, "mvex"), func(kind string, b []byte) bool {
		// trex: version and flags, track, description, duration, size, flags
		if kind == "trex" && len(b) >= 24 && be32(b, 4) == best.ID {
			best.sampleLen, best.sampleFlags = be32(b, 12), be32(b, 20)
		}
		return true
	})
	return best
}

// readSidx is the track and its timescale as a segment index names them
// (8.16.3): enough for a fragment's duration.
func readSidx(b []byte) *Track {
	if len(b) < 12 {
		return nil
	}
	return &Track{ID: be32(b, 4), Timescale: be32(b, 8)}
}

func be32(b []byte, at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }

func readTrak(trak []byte) *Track {
	t := &Track{}
	tkhd, mdhd := child(trak, "tkhd"), child(trak, "mdia", "mdhd")
	// The ID stands behind two times of 4 bytes, or of 8 in version 1; so does
	// mdhd's timescale.
	for _, f := range []struct {
		box []byte
		to  *uint32
	}{{tkhd, &t.ID}, {mdhd, &t.Timescale}} {
		at := 12
		if len(f.box) > 0 && f.box[0] == 1 {
			at = 20
		}
		if len(f.box) < at+4 {
			return nil
		}
		*f.to = be32(f.box, at)
	}
	switch {
	case mdhd[0] == 1 && len(mdhd) >= 32:
		t.length = binary.BigEndian.Uint64(mdhd[24:])
	case mdhd[0] == 0 && len(mdhd) >= 20:
		t.length = uint64(be32(mdhd, 16))
	}
	if hdlr := child(trak, "mdia", "hdlr"); len(hdlr) >= 12 {
		t.isVideo = string(hdlr[8:12]) == "vide"
	}
	if stsd := child(trak, "mdia", "minf", "stbl", "stsd"); len(stsd) > 8 {
		eachBox(stsd[8:], func(kind string, entry []byte) bool {
			t.Codec = codecOf(kind, entry)
			return false
		})
	}
	return t
}

// codecOf is the codec string of RFC 6381, section 3.3, for H.264, whose
// profile, constraints and level are avcC's bytes 1 to 3 (ISO/IEC 14496-15,
// 5.3.3.1); for other codecs it is the sample entry's name.
func codecOf(kind string, entry []byte) string {
	for _, c := range []byte(kind) {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	const visualSampleEntry = 78 // bytes before its child boxes
	if (kind == "avc1" || kind == "avc3") && len(entry) > visualSampleEntry {
		if avcC := child(entry[visualSampleEntry:], "avcC"); len(avcC) >= 4 {
			return fmt.Sprintf("%s.%02X%02X%02X", kind, avcC[1], avcC[2], avcC[3])
		}
	}
	return kind
}

const notSync = 1 << 16 // sample_is_non_sync_sample

// addMoof adds the fragment of the track, or of the first track if that is not
// known.
func (f *Fragment) addMoof(moof []byte, track *Track) {
	if mfhd := child(moof, "mfhd"); len(mfhd) >= 8 && f.Sequence == 0 {
		f.Sequence = be32(mfhd, 4)
	}
	eachBox(moof, func(kind string, traf []byte) bool {
		if kind != "traf" {
			return true
		}
		tfhd := child(traf, "tfhd")
		if len(tfhd) < 8 || track != nil && be32(tfhd, 4) != track.ID {
			return true
		}
		if tfdt := child(traf, "tfdt"); len(tfdt) >= 8 && !f.HasTime && f.samples == 0 {
			f.HasTime = true
			if f.Decode = uint64(be32(tfdt, 4)); tfdt[0] == 1 && len(tfdt) >= 12 {
				f.Decode = binary.BigEndian.Uint64(tfdt[4:])
			}
		}
		f.addRuns(traf, tfhd, track)
		return false
	})
}

// addRuns sums the samples of a track fragment (8.8.7 tfhd, 8.8.8 trun).
func (f *Fragment) addRuns(traf, tfhd []byte, track *Track) {
	var length, flags uint32
	if track != nil {
		length, flags = track.sampleLen, track.sampleFlags
	}
	rest := tfhd[8:]
	next := func(present bool, size int, to *uint32) {
		if !present || len(rest) < size {
			return
		}
		if to != nil {
			*to = be32(rest, 0)
		}
		rest = rest[size:]
	}
	has := be32(tfhd, 0)
	next(has&0x01 != 0, 8, nil) // base data offset
	next(has&0x02 != 0, 4, nil) // sample description
	next(has&0x08 != 0, 4, &length)
	next(has&0x10 != 0, 4, nil) // sample size
	next(has&0x20 != 0, 4, &flags)
	eachBox(traf, func(kind string, b []byte) bool {
		if kind == "trun" && len(b) >= 8 {
			f.addRun(b, length, flags)
		}
		return true
	})
}

func (f *Fragment) addRun(trun []byte, length, flags uint32) {
	has, count := be32(trun, 0), uint64(be32(trun, 4))
	rest := trun[8:]
	skip := func(present bool) {
		if present && len(rest) >= 4 {
			rest = rest[4:]
		}
	}
	skip(has&0x001 != 0) // data offset
	firstFlags := flags
	if has&0x004 != 0 && len(rest) >= 4 {
		firstFlags = be32(rest, 0)
		rest = rest[4:]
	}
	width, flagsAt := 0, 0
	for _, bit := range []uint32{0x100, 0x200, 0x400, 0x800} { // duration, size, flags, composition offset
		if bit == 0x400 {
			flagsAt = width
		}
		if has&bit != 0 {
			width += 4
		}
	}
	if width > 0 {
		count = min(count, uint64(len(rest)/width))
	}
	if has&0x400 != 0 && has&0x004 == 0 && count > 0 {
		firstFlags = be32(rest, flagsAt)
	}
	if f.samples == 0 && count > 0 {
		f.Key = firstFlags&notSync == 0
	}
	f.samples += int(min(count, 1<<20))
	if has&0x100 == 0 {
		f.Length += min(count, 1<<20) * uint64(length)
		return
	}
	for i := range int(count) {
		f.Length += uint64(be32(rest, i*width))
	}
}

// A prft says at which wall-clock time a media time was captured (8.16.5).
type prft struct {
	at    time.Time
	media uint64
	set   bool
}

func readPrft(b []byte) prft {
	// version and flags, track, NTP time, media time of 4 or 8 bytes
	if len(b) < 20 {
		return prft{}
	}
	p := prft{media: uint64(be32(b, 16)), set: true}
	if b[0] == 1 {
		if len(b) < 24 {
			return prft{}
		}
		p.media = binary.BigEndian.Uint64(b[16:])
	}
	const ntpToUnix = 2208988800 // seconds from 1900 to 1970
	ntp := binary.BigEndian.Uint64(b[8:])
	nanos := ((ntp&0xffffffff)*uint64(time.Second) + 1<<31) >> 32 // rounded
	p.at = time.Unix(int64(ntp>>32)-ntpToUnix, int64(nanos)).UTC()
	if y := p.at.Year(); y < 2000 || y > 2100 { // a camera without a clock
		return prft{}
	}
	return p
}

// isJPEG reports whether data begins as a JPEG picture does (SOI, then a marker).
func isJPEG(data []byte) bool { return bytes.HasPrefix(data, []byte{0xff, 0xd8, 0xff}) }
