package camera

import "bytes"

// bits writes a bit stream, most significant bit first.
type bits struct {
	out  []byte
	acc  uint64
	held uint
}

func (b *bits) u(n uint, v uint64) {
	for ; n > 0; n-- {
		b.acc = b.acc<<1 | v>>(n-1)&1
		if b.held++; b.held == 8 {
			b.out = append(b.out, byte(b.acc))
			b.acc, b.held = 0, 0
		}
	}
}

// ue writes an unsigned Exp-Golomb code (ITU-T H.264, 9.1).
func (b *bits) ue(v uint64) {
	n := uint(0)
	for (v+1)>>(n+1) > 0 {
		n++
	}
	b.u(n, 0)
	b.u(n+1, v+1)
}

func (b *bits) align() {
	for b.held > 0 {
		b.u(1, 0)
	}
}

// trailing ends an RBSP (7.3.2.11).
func (b *bits) trailing() []byte {
	b.u(1, 1)
	b.align()
	return b.out
}

// nal makes a NAL unit without a start code: its header, and the RBSP with
// emulation prevention (7.4.1).
func nal(refIDC, unitType byte, rbsp []byte) []byte {
	out := make([]byte, 1, len(rbsp)+len(rbsp)/128+2)
	out[0] = refIDC<<5 | unitType
	zeros := 0
	for _, c := range rbsp {
		if zeros >= 2 && c <= 3 {
			out = append(out, 3)
			zeros = 0
		}
		if c == 0 {
			zeros++
		} else {
			zeros = 0
		}
		out = append(out, c)
	}
	return out
}

// The stream's profile: Constrained Baseline, level 3.
const (
	profileIDC  = 66
	constraints = 0xc0 // constraint_set0_flag and constraint_set1_flag
	levelIDC    = 30

	frameNumBits = 8
	mbWidth      = Width / 16
	mbHeight     = Height / 16

	nalSlice, nalIDR, nalSPS, nalPPS = 1, 5, 7, 8
)

// SPS is the sequence parameter set as a NAL unit (7.3.2.1.1).
func SPS() []byte {
	b := &bits{}
	b.u(8, profileIDC)
	b.u(8, constraints)
	b.u(8, levelIDC)
	b.ue(0)                // seq_parameter_set_id
	b.ue(frameNumBits - 4) // log2_max_frame_num_minus4
	b.ue(2)                // pic_order_cnt_type: shown in the order of decoding
	b.ue(1)                // max_num_ref_frames
	b.u(1, 0)              // gaps_in_frame_num_value_allowed_flag
	b.ue(mbWidth - 1)
	b.ue(mbHeight - 1)
	b.u(1, 1) // frame_mbs_only_flag
	b.u(1, 1) // direct_8x8_inference_flag
	b.u(1, 0) // frame_cropping_flag
	b.u(1, 0) // vui_parameters_present_flag
	return nal(3, nalSPS, b.trailing())
}

// PPS is the picture parameter set as a NAL unit (7.3.2.2).
func PPS() []byte {
	b := &bits{}
	b.ue(0)   // pic_parameter_set_id
	b.ue(0)   // seq_parameter_set_id
	b.u(1, 0) // entropy_coding_mode_flag: CAVLC
	b.u(1, 0) // bottom_field_pic_order_in_frame_present_flag
	b.ue(0)   // num_slice_groups_minus1
	b.ue(0)   // num_ref_idx_l0_default_active_minus1
	b.ue(0)   // num_ref_idx_l1_default_active_minus1
	b.u(1, 0) // weighted_pred_flag
	b.u(2, 0) // weighted_bipred_idc
	b.ue(0)   // pic_init_qp_minus26 (se: 0)
	b.ue(0)   // pic_init_qs_minus26
	b.ue(0)   // chroma_qp_index_offset
	b.u(1, 1) // deblocking_filter_control_present_flag
	b.u(1, 0) // constrained_intra_pred_flag
	b.u(1, 0) // redundant_pic_cnt_present_flag
	return nal(3, nalPPS, b.trailing())
}

// An Encoder makes H.264 without loss: macroblocks are sent as their samples
// (I_PCM) or, where nothing changed, skipped (P_Skip).
type Encoder struct {
	last     *Picture // the reference; nil before the first frame
	frameNum uint64   // since the last IDR picture
	idr      uint64
}

// Encode makes the slice of a picture as a NAL unit. The first picture, and
// each with key set, is an IDR picture: it needs no other.
func (e *Encoder) Encode(p *Picture, key bool) (slice []byte, isKey bool) {
	key = key || e.last == nil
	b := &bits{out: make([]byte, 0, 4096)}
	b.ue(0) // first_mb_in_slice
	if key {
		e.frameNum = 0
		b.ue(7) // slice_type I, of all slices
	} else {
		b.ue(5) // slice_type P, of all slices
	}
	b.ue(0) // pic_parameter_set_id
	b.u(frameNumBits, e.frameNum%(1<<frameNumBits))
	if key {
		b.ue(e.idr % 2) // idr_pic_id: differs between IDR pictures that follow on each other
		e.idr++
		b.u(1, 0) // no_output_of_prior_pics_flag
		b.u(1, 0) // long_term_reference_flag
	} else {
		b.u(1, 0) // num_ref_idx_active_override_flag
		b.u(1, 0) // ref_pic_list_modification_flag_l0
		b.u(1, 0) // adaptive_ref_pic_marking_mode_flag
	}
	b.ue(0) // slice_qp_delta (se: 0)
	b.ue(1) // disable_deblocking_filter_idc: off, or the samples would change
	e.macroblocks(b, p, key)
	kept := *p
	e.last = &kept
	e.frameNum++
	if key {
		return nal(3, nalIDR, b.trailing()), true
	}
	return nal(2, nalSlice, b.trailing()), false
}

// macroblocks writes the slice data (7.3.4).
func (e *Encoder) macroblocks(b *bits, p *Picture, key bool) {
	const iPCM = 25 // mb_type in an I slice; in a P slice 5 more (tables 7-11, 7-13)
	skipped := uint64(0)
	for my := range mbHeight {
		for mx := range mbWidth {
			if key {
				b.ue(iPCM)
			} else {
				if sameMB(p, e.last, mx, my) {
					skipped++
					continue
				}
				b.ue(skipped) // mb_skip_run
				skipped = 0
				b.ue(5 + iPCM)
			}
			b.align() // pcm_alignment_zero_bit
			writePCM(b, p, mx, my)
		}
	}
	if skipped > 0 {
		b.ue(skipped)
	}
}

// lumaRow and chromaRow are one row of a macroblock: 16 samples, or 8 of one
// of the chroma planes.
func lumaRow(p *Picture, mx, my, j int) []byte {
	at := (my*16+j)*Width + mx*16
	return p.Y[at : at+16]
}

func chromaRow(plane []byte, mx, my, j int) []byte {
	at := (my*8+j)*(Width/2) + mx*8
	return plane[at : at+8]
}

// writePCM writes the samples of a macroblock: luma, Cb, Cr (7.3.5).
func writePCM(b *bits, p *Picture, mx, my int) {
	for j := range 16 {
		b.out = append(b.out, lumaRow(p, mx, my, j)...)
	}
	for _, plane := range [][]byte{p.Cb[:], p.Cr[:]} {
		for j := range 8 {
			b.out = append(b.out, chromaRow(plane, mx, my, j)...)
		}
	}
}

func sameMB(p, o *Picture, mx, my int) bool {
	for j := range 16 {
		if !bytes.Equal(lumaRow(p, mx, my, j), lumaRow(o, mx, my, j)) {
			return false
		}
	}
	for j := range 8 {
		if !bytes.Equal(chromaRow(p.Cb[:], mx, my, j), chromaRow(o.Cb[:], mx, my, j)) ||
			!bytes.Equal(chromaRow(p.Cr[:], mx, my, j), chromaRow(o.Cr[:], mx, my, j)) {
			return false
		}
	}
	return true
}
