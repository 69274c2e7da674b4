package camera

import "encoding/binary"

// A Sample is one coded picture.
type Sample struct {
	NAL []byte // one slice NAL unit, no start code
	Key bool
}

// A Chunk is a piece of video that stands alone: it begins with an IDR picture.
type Chunk struct {
	Number  uint32 // of the chunk, from 1
	Frame   uint64 // number of its first frame
	FPS     int
	Samples []Sample
}

// tick is the length of a frame; the timescale is tick times the frame rate.
const tick = 1000

const trackID = 1

// MP4 is the chunk as a file: ftyp, moov, moof, mdat (ISO/IEC 14496-12). Its
// decode time runs on from chunk to chunk, so that a gap can be seen.
func (c Chunk) MP4() []byte {
	timescale := uint32(c.FPS * tick)
	out := box("ftyp", []byte("iso6"), u32(0), []byte("iso6mp41avc1"))
	out = append(out, moov(timescale)...)
	moof := c.moof(0)
	moof = c.moof(uint32(len(moof)) + 8) // the samples begin behind mdat's head
	out = append(out, moof...)
	var media []byte
	for _, s := range c.Samples {
		media = append(append(media, u32(uint32(len(s.NAL)))...), s.NAL...)
	}
	return append(out, box("mdat", media)...)
}

func (c Chunk) moof(dataOffset uint32) []byte {
	const (
		defaultBaseIsMoof                  = 0x020000
		hasOffset, hasLen, hasSize, hasFlg = 0x001, 0x100, 0x200, 0x400
		sync, notSync                      = 0x02000000, 0x01010000 // depends on none; on others, not a sync sample
	)
	run := [][]byte{u32(hasOffset | hasLen | hasSize | hasFlg), u32(uint32(len(c.Samples))), u32(dataOffset)}
	for _, s := range c.Samples {
		flags := uint32(notSync)
		if s.Key {
			flags = sync
		}
		run = append(run, u32(tick), u32(uint32(len(s.NAL)+4)), u32(flags))
	}
	tfdt := binary.BigEndian.AppendUint64(u32(1<<24), c.Frame*tick)
	return box("moof",
		box("mfhd", u32(0), u32(c.Number)),
		box("traf",
			box("tfhd", u32(defaultBaseIsMoof), u32(trackID)),
			box("tfdt", tfdt),
			box("trun", run...)))
}

func moov(timescale uint32) []byte {
	matrix := join(u32(0x10000), u32(0), u32(0), u32(0), u32(0x10000), u32(0), u32(0), u32(0), u32(0x40000000))
	stbl := box("stbl",
		box("stsd", u32(0), u32(1), avc1()),
		box("stts", u32(0), u32(0)),
		box("stsc", u32(0), u32(0)),
		box("stsz", u32(0), u32(0), u32(0)),
		box("stco", u32(0), u32(0)))
	minf := box("minf",
		box("vmhd", u32(1), u32(0), u32(0)),
		box("dinf", box("dref", u32(0), u32(1), box("url ", u32(1)))),
		stbl)
	mdia := box("mdia",
		box("mdhd", u32(0), u32(0), u32(0), u32(timescale), u32(0), u16(0x55c4), u16(0)), // "und"
		box("hdlr", u32(0), u32(0), []byte("vide"), make([]byte, 12), []byte("camera\x00")),
		minf)
	tkhd := box("tkhd", u32(3), u32(0), u32(0), u32(trackID), u32(0), u32(0), make([]byte, 16),
		matrix, u32(Width<<16), u32(Height<<16))
	mvhd := box("mvhd", u32(0), u32(0), u32(0), u32(1000), u32(0), u32(0x10000), u16(0x100), make([]byte, 10),
		matrix, make([]byte, 24), u32(trackID+1))
	return box("moov", mvhd, box("trak", tkhd, mdia),
		box("mvex", box("trex", u32(0), u32(trackID), u32(1), u32(tick), u32(0), u32(0))))
}

// avc1 is the sample entry with avcC (ISO/IEC 14496-15, 5.3.3 and 5.4.2).
func avc1() []byte {
	sps, pps := SPS(), PPS()
	avcC := box("avcC",
		[]byte{1, profileIDC, constraints, levelIDC, 0xff, 0xe1}, // lengths of 4 bytes, one SPS
		u16(uint16(len(sps))), sps, []byte{1}, u16(uint16(len(pps))), pps)
	return box("avc1", make([]byte, 6), u16(1), make([]byte, 16), u16(Width), u16(Height),
		u32(0x480000), u32(0x480000), u32(0), u16(1), make([]byte, 32), u16(24), u16(0xffff), avcC)
}

func box(kind string, parts ...[]byte) []byte {
	body := join(parts...)
	return append(append(u32(uint32(8+len(body))), kind...), body...)
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func u16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
