package camera_test

import (
	"encoding/binary"
	"errors"
	"fmt"

	"forebay/firmware-sim/camera"
)

// The decoder of the tests: as much of ITU-T H.264 and ISO/IEC 14496-12 as a
// stream of I_PCM and P_Skip macroblocks needs, written apart from the encoder.

type bitReader struct {
	b  []byte
	at int // bits
}

var errShort = errors.New("stream ends early")

func (r *bitReader) bit() (int, error) {
	if r.at/8 >= len(r.b) {
		return 0, errShort
	}
	v := int(r.b[r.at/8]>>(7-r.at%8)) & 1
	r.at++
	return v, nil
}

func (r *bitReader) u(n int) (v int, err error) {
	for range n {
		b, err := r.bit()
		if err != nil {
			return 0, err
		}
		v = v<<1 | b
	}
	return v, nil
}

func (r *bitReader) ue() (int, error) {
	zeros := 0
	for {
		b, err := r.bit()
		if err != nil {
			return 0, err
		}
		if b == 1 {
			break
		}
		zeros++
	}
	rest, err := r.u(zeros)
	return 1<<zeros - 1 + rest, err
}

// more is more_rbsp_data: is there anything before the stop bit?
func (r *bitReader) more() bool {
	last := len(r.b) - 1
	for last >= 0 && r.b[last] == 0 {
		last--
	}
	if last < 0 {
		return false
	}
	stop := last*8 + 7
	for i := 0; r.b[last]>>i&1 == 0; i++ {
		stop--
	}
	return r.at < stop
}

// want reads codes and compares them: bits > 0 is u(bits), 0 is ue.
func (r *bitReader) want(pairs ...int) error {
	for i := 0; i < len(pairs); i += 2 {
		var v int
		var err error
		if pairs[i] == 0 {
			v, err = r.ue()
		} else {
			v, err = r.u(pairs[i])
		}
		if err != nil {
			return err
		}
		if v != pairs[i+1] {
			return fmt.Errorf("code %d is %d, want %d", i/2, v, pairs[i+1])
		}
	}
	return nil
}

func unescape(nal []byte) ([]byte, error) {
	out := []byte{}
	zeros := 0
	for i, c := range nal {
		if zeros >= 2 && c < 3 {
			return nil, fmt.Errorf("byte %d: 00 00 %02x inside a NAL unit", i, c)
		}
		if zeros >= 2 && c == 3 {
			zeros = 0
			continue
		}
		if c == 0 {
			zeros++
		} else {
			zeros = 0
		}
		out = append(out, c)
	}
	return out, nil
}

type decoder struct {
	pic      camera.Picture
	frameNum int
	idrID    int
	started  bool
}

func (d *decoder) slice(nal []byte) (key bool, err error) {
	rbsp, err := unescape(nal)
	if err != nil {
		return false, err
	}
	key = nal[0]&31 == 5
	if !key && nal[0]&31 != 1 || nal[0]>>5 == 0 {
		return false, fmt.Errorf("NAL header is %02x", nal[0])
	}
	if !key && !d.started {
		return false, errors.New("stream does not begin with an IDR picture")
	}
	r := &bitReader{b: rbsp[1:]}
	if key {
		err = r.want(0, 0, 0, 7, 0, 0, 8, 0)
		if err == nil {
			var id int
			if id, err = r.ue(); err == nil && d.started && id == d.idrID {
				err = errors.New("two IDR pictures have the same idr_pic_id")
			}
			d.idrID, d.frameNum, d.started = id, 0, true
		}
		if err == nil {
			err = r.want(1, 0, 1, 0)
		}
	} else {
		d.frameNum++
		err = r.want(0, 0, 0, 5, 0, 0, 8, d.frameNum%256, 1, 0, 1, 0, 1, 0)
	}
	if err == nil {
		err = r.want(0, 0, 0, 1) // slice_qp_delta, disable_deblocking_filter_idc
	}
	if err != nil {
		return key, fmt.Errorf("slice header: %w", err)
	}
	return key, d.macroblocks(r, key)
}

func (d *decoder) macroblocks(r *bitReader, key bool) error {
	const all = camera.Width / 16 * camera.Height / 16
	for mb := 0; mb < all; mb++ {
		if !key {
			run, err := r.ue()
			if err != nil {
				return err
			}
			if mb += run; mb == all && !r.more() {
				return nil
			}
			if mb >= all {
				return errors.New("too many macroblocks are skipped")
			}
		}
		mbType := 25
		if !key {
			mbType = 30
		}
		if err := r.want(0, mbType); err != nil {
			return fmt.Errorf("macroblock %d: %w", mb, err)
		}
		for r.at%8 != 0 {
			if err := r.want(1, 0); err != nil {
				return fmt.Errorf("macroblock %d: alignment: %w", mb, err)
			}
		}
		if len(r.b) < r.at/8+384 {
			return errShort
		}
		pcm := r.b[r.at/8:]
		r.at += 384 * 8
		x, y := mb%(camera.Width/16), mb/(camera.Width/16)
		for i := range 256 {
			d.pic.Y[(y*16+i/16)*camera.Width+x*16+i%16] = pcm[i]
		}
		for i := range 64 {
			at := (y*8+i/8)*camera.Width/2 + x*8 + i%8
			d.pic.Cb[at], d.pic.Cr[at] = pcm[256+i], pcm[320+i]
		}
		if !key && !r.more() && mb < all-1 {
			return errors.New("slice ends early")
		}
	}
	if r.more() {
		return errors.New("slice goes on behind the last macroblock")
	}
	return nil
}

// parameterSets checks SPS and PPS as far as a decoder of I_PCM needs them.
func parameterSets(sps, pps []byte) error {
	s, err := unescape(sps)
	if err != nil {
		return err
	}
	r := &bitReader{b: s}
	if err := r.want(8, 0x67, 8, 66, 8, 0xc0, 8, 30, 0, 0, 0, 4, 0, 2, 0, 1, 1, 0,
		0, camera.Width/16-1, 0, camera.Height/16-1, 1, 1, 1, 1, 1, 0, 1, 0); err != nil || r.more() {
		return fmt.Errorf("SPS: %w (more %v)", err, r.more())
	}
	if s, err = unescape(pps); err != nil {
		return err
	}
	r = &bitReader{b: s}
	if err := r.want(8, 0x68, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0); err != nil || r.more() {
		return fmt.Errorf("PPS: %w (more %v)", err, r.more())
	}
	return nil
}

// boxes finds a box by its path.
func findBox(data []byte, path ...string) []byte {
	for _, want := range path {
		var found []byte
		for len(data) >= 8 && found == nil {
			n := int(binary.BigEndian.Uint32(data))
			if n < 8 || n > len(data) {
				return nil
			}
			if string(data[4:8]) == want {
				found = data[8:n]
			}
			data = data[n:]
		}
		if found == nil {
			return nil
		}
		data = found
	}
	return data
}

// A movie is what a chunk holds.
type movie struct {
	number, timescale uint32
	decode, length    uint64
	samples           [][]byte // slice NAL units
	keys              []bool   // as trun says
}

func parseMP4(data []byte) (m movie, err error) {
	stsd := findBox(data, "moov", "trak", "mdia", "minf", "stbl", "stsd")
	mdhd, mfhd := findBox(data, "moov", "trak", "mdia", "mdhd"), findBox(data, "moof", "mfhd")
	tfdt, trun := findBox(data, "moof", "traf", "tfdt"), findBox(data, "moof", "traf", "trun")
	if stsd == nil || mdhd == nil || mfhd == nil || len(tfdt) != 12 || len(trun) < 12 {
		return m, errors.New("boxes are missing")
	}
	avcC := findBox(findBox(stsd[8:], "avc1")[78:], "avcC")
	spsLen := int(binary.BigEndian.Uint16(avcC[6:]))
	ppsAt := 8 + spsLen + 3
	if err := parameterSets(avcC[8:8+spsLen], avcC[ppsAt:]); err != nil {
		return m, err
	}
	m.timescale, m.number, m.decode = binary.BigEndian.Uint32(mdhd[12:]), binary.BigEndian.Uint32(mfhd[4:]), binary.BigEndian.Uint64(tfdt[4:])
	moofAt := 0
	for string(data[moofAt+4:moofAt+8]) != "moof" {
		moofAt += int(binary.BigEndian.Uint32(data[moofAt:]))
	}
	at := moofAt + int(binary.BigEndian.Uint32(trun[8:]))
	for run := trun[12:]; len(run) >= 12; run = run[12:] {
		m.length += uint64(binary.BigEndian.Uint32(run))
		size := int(binary.BigEndian.Uint32(run[4:]))
		if at+size > len(data) || int(binary.BigEndian.Uint32(data[at:])) != size-4 {
			return m, fmt.Errorf("sample %d is not where trun says", len(m.samples))
		}
		m.samples = append(m.samples, data[at+4:at+size])
		m.keys = append(m.keys, binary.BigEndian.Uint32(run[8:])&0x10000 == 0)
		at += size
	}
	if int(binary.BigEndian.Uint32(trun[4:])) != len(m.samples) || at != len(data) {
		return m, errors.New("samples do not fill the chunk")
	}
	return m, nil
}
