package kvs_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A block is one picture as it arrived.
type block struct {
	ms   int64
	key  bool
	data []byte
}

// A fragment is one cluster as it arrived.
type fragment struct {
	ms     int64
	blocks []block
	tags   map[string]string
	size   int
	conn   int
}

func (f *fragment) last() int64 {
	last := f.ms
	for _, b := range f.blocks {
		last = max(last, b.ms)
	}
	return last
}

// length is how long the fragment is shown: up to its last picture, which is
// shown for as long as the one before it.
func (f *fragment) length() int64 {
	n := len(f.blocks)
	if n < 2 {
		return 0
	}
	return f.last() - f.ms + f.blocks[n-1].ms - f.blocks[n-2].ms
}

// A matroska reads what a producer may send to Kinesis Video, and nothing
// else.
type matroska struct {
	r       *bufio.Reader
	codec   string
	private []byte
	buffer  func(ms int64) // called when a cluster begins
}

// element reads an element's head. A size of -1 is not known.
func (m *matroska) element() (id uint32, size int64, err error) {
	first, err := m.r.ReadByte()
	if err != nil {
		return 0, 0, err
	}
	width := 1
	for mask := byte(0x80); width <= 4 && first&mask == 0; mask >>= 1 {
		width++
	}
	if width > 4 {
		return 0, 0, fmt.Errorf("%#x begins no element", first)
	}
	id = uint32(first)
	for range width - 1 {
		b, err := m.r.ReadByte()
		if err != nil {
			return 0, 0, io.ErrUnexpectedEOF
		}
		id = id<<8 | uint32(b)
	}
	if first, err = m.r.ReadByte(); err != nil {
		return 0, 0, io.ErrUnexpectedEOF
	}
	width = 1
	mask := byte(0x80)
	for ; width <= 8 && first&mask == 0; mask >>= 1 {
		width++
	}
	if width > 8 {
		return 0, 0, fmt.Errorf("a size begins with 0")
	}
	value, ones := uint64(first&(mask-1)), first&(mask-1) == mask-1
	for range width - 1 {
		b, err := m.r.ReadByte()
		if err != nil {
			return 0, 0, io.ErrUnexpectedEOF
		}
		value, ones = value<<8|uint64(b), ones && b == 0xff
	}
	if ones {
		return id, -1, nil
	}
	return id, int64(value), nil
}

func (m *matroska) body(size int64) ([]byte, error) {
	if size < 0 || size > 64<<20 {
		return nil, fmt.Errorf("an element of %d bytes", size)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(m.r, b); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

// children reads the elements within one.
func children(body []byte, each func(id uint32, body []byte) error) error {
	in := &matroska{r: bufio.NewReader(bytes.NewReader(body))}
	for {
		id, size, err := in.element()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := in.body(size)
		if err != nil {
			return err
		}
		if err := each(id, b); err != nil {
			return err
		}
	}
}

func number(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// head reads up to the end of Tracks.
func (m *matroska) head() error {
	id, size, err := m.element()
	if err != nil || id != 0x1A45DFA3 {
		return fmt.Errorf("no EBML header but %#x: %w", id, err)
	}
	b, err := m.body(size)
	if err != nil {
		return err
	}
	doc := ""
	if err := children(b, func(id uint32, b []byte) error {
		if id == 0x4282 {
			doc = string(b)
		}
		return nil
	}); err != nil || doc != "matroska" {
		return fmt.Errorf("DocType %q: %w", doc, err)
	}
	if id, size, err = m.element(); err != nil || id != 0x18538067 || size != -1 {
		return fmt.Errorf("no open segment but %#x of %d bytes: %w", id, size, err)
	}
	if id, size, err = m.element(); err != nil || id != 0x1549A966 {
		return fmt.Errorf("no Info but %#x: %w", id, err)
	}
	if b, err = m.body(size); err != nil {
		return err
	}
	scale := uint64(0)
	if err := children(b, func(id uint32, b []byte) error {
		if id == 0x2AD7B1 {
			scale = number(b)
		}
		return nil
	}); err != nil || scale != 1_000_000 {
		return fmt.Errorf("a timestamp scale of %d: %w", scale, err)
	}
	if id, size, err = m.element(); err != nil || id != 0x1654AE6B {
		return fmt.Errorf("no Tracks but %#x: %w", id, err)
	}
	if b, err = m.body(size); err != nil {
		return err
	}
	return m.tracks(b)
}

func (m *matroska) tracks(b []byte) error {
	n := 0
	if err := children(b, func(id uint32, b []byte) error {
		if id != 0xAE {
			return fmt.Errorf("%#x in Tracks", id)
		}
		n++
		have := map[uint32][]byte{}
		if err := children(b, func(id uint32, b []byte) error { have[id] = b; return nil }); err != nil {
			return err
		}
		m.codec, m.private = string(have[0x86]), have[0x63A2]
		if number(have[0xD7]) != 1 || number(have[0x73C5]) == 0 || number(have[0x83]) != 1 {
			return fmt.Errorf("track %d, UID %d, type %d", number(have[0xD7]), number(have[0x73C5]), number(have[0x83]))
		}
		size := map[uint32]uint64{}
		err := children(have[0xE0], func(id uint32, b []byte) error { size[id] = number(b); return nil })
		if err != nil || size[0xB0] == 0 || size[0xBA] == 0 {
			return fmt.Errorf("a picture of %v: %w", size, err)
		}
		return nil
	}); err != nil {
		return err
	}
	if n != 1 || m.codec != "V_MPEG4/ISO/AVC" && m.codec != "V_MPEGH/ISO/HEVC" || len(m.private) < 7 || m.private[0] != 1 {
		return fmt.Errorf("%d tracks, codec %q, private data of %d bytes", n, m.codec, len(m.private))
	}
	return nil
}

// next reads the next fragment with its metadata; io.EOF is the end.
func (m *matroska) next() (*fragment, error) {
	f := &fragment{tags: map[string]string{}}
	for {
		id, size, err := m.element()
		if err != nil {
			return nil, err
		}
		switch id {
		case 0x1254C367:
			b, err := m.body(size)
			if err == nil {
				err = f.addTags(b)
			}
			if err != nil {
				return nil, err
			}
		case 0x1F43B675:
			f.size = int(size)
			return f, m.cluster(f, size)
		default:
			return nil, fmt.Errorf("%#x in the segment", id)
		}
	}
}

func (f *fragment) addTags(b []byte) error {
	return children(b, func(id uint32, b []byte) error {
		if id != 0x7373 {
			return fmt.Errorf("%#x in Tags", id)
		}
		return children(b, func(id uint32, b []byte) error {
			if id != 0x67C8 {
				return nil
			}
			var name, value string
			err := children(b, func(id uint32, b []byte) error {
				switch id {
				case 0x45A3:
					name = string(b)
				case 0x4487:
					value = string(b)
				}
				return nil
			})
			if _, twice := f.tags[name]; twice || name == "" || len(name) > 128 || len(value) > 256 || err != nil {
				return fmt.Errorf("tag %q is %q: %w", name, value, err)
			}
			f.tags[name] = value
			return nil
		})
	})
}

func (m *matroska) cluster(f *fragment, size int64) error {
	if size < 0 {
		return fmt.Errorf("a cluster of unknown size")
	}
	in := &matroska{r: bufio.NewReader(io.LimitReader(m.r, size))}
	for first := true; ; first = false {
		id, size, err := in.element()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		b, err := in.body(size)
		if err != nil {
			return err
		}
		switch {
		case first && id == 0xE7:
			f.ms = int64(number(b))
			m.buffer(f.ms)
		case !first && id == 0xA3 && len(b) > 4 && b[0] == 0x81 && b[3]&^0x80 == 0:
			f.blocks = append(f.blocks, block{ms: f.ms + int64(int16(binary.BigEndian.Uint16(b[1:]))), key: b[3]&0x80 != 0, data: b[4:]})
		default:
			return fmt.Errorf("%#x of %d bytes in a cluster", id, len(b))
		}
	}
	if len(f.blocks) == 0 || !f.blocks[0].key || f.blocks[0].ms != f.ms {
		return fmt.Errorf("a cluster that does not begin with a key frame at its time")
	}
	for i, b := range f.blocks {
		if err := m.picture(b); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
	}
	return nil
}

// picture looks at the NAL units of a block: their lengths of four bytes make
// up the whole of it, and only a key frame has an IDR picture.
func (m *matroska) picture(b block) error {
	if m.codec != "V_MPEG4/ISO/AVC" {
		return nil
	}
	idr := false
	for rest := b.data; len(rest) > 0; {
		if len(rest) < 5 {
			return fmt.Errorf("%d bytes behind the last NAL unit", len(rest))
		}
		n := int(binary.BigEndian.Uint32(rest))
		if n == 0 || n > len(rest)-4 {
			return fmt.Errorf("a NAL unit of %d bytes in %d", n, len(rest))
		}
		idr = idr || rest[4]&0x1f == 5
		rest = rest[4+n:]
	}
	if idr != b.key {
		return fmt.Errorf("key frame %t, IDR picture %t", b.key, idr)
	}
	return nil
}
