package firehose

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

// A packer turns records of a lane into one Firehose record. It keeps its
// memory and is not safe for concurrent use.
type packer struct {
	env   *envelope.Writer // nil: the payload alone
	delim string
	per   int          // records of ours in one; 0: as many as fit
	gz    *gzip.Writer // nil: as it is
	most  int          // bytes of one before it is compressed

	lines []byte // of the unit
	text  []byte // of the record being looked at
	ends  []int  // where each of its parts ends in text
	out   bytes.Buffer
}

func newPacker(c Config, home lane.Home) *packer {
	c = c.WithDefaults()
	p := &packer{delim: c.Delimiter, per: c.PerRecord, most: maxData}
	if p.delim == noDelimiter {
		p.delim = ""
	}
	if c.Format != "raw" {
		p.env = envelope.New(home.ID)
	}
	if c.Compression == "gzip" {
		p.gz = gzip.NewWriter(io.Discard)
		p.most -= 1 << 10 // what does not compress grows a little
	}
	return p
}

// A packed is one Firehose record. Its data is valid until the packer's next
// step.
type packed struct {
	data []byte
	n    int // records of the lane that are complete with it
	cut  int // where n is 0: parts of the front record that it holds
}

// pack puts as many of recs, from the front, into a Firehose record as fit
// into limit bytes; skip parts of the first record have travelled already. A
// first record of many parts is cut where it is too long, and its last part
// completes it. The error says why the first record can never travel.
func (p *packer) pack(l *lane.Lane, recs []record.Record, skip, limit int) (packed, error) {
	limit = min(limit, p.most)
	p.open(l, &recs[0])
	skip = min(skip, len(p.ends)-1)
	start, last := 0, skip+1
	if skip > 0 {
		start = p.ends[skip-1]
	}
	for last < len(p.ends) && p.ends[last]-start <= limit && (p.per == 0 || last-skip < p.per) {
		last++
	}
	p.lines = append(p.lines[:0], p.text[start:p.ends[last-1]]...)
	if len(p.lines) > p.most {
		return packed{}, fmt.Errorf("the record has %d bytes as it would travel; one Firehose record takes %d", len(p.lines), p.most)
	}
	if last < len(p.ends) {
		return packed{data: p.finish(), cut: last - skip}, nil
	}
	n, parts := 1, last-skip
	for ; n < len(recs); n++ {
		p.open(l, &recs[n])
		parts += len(p.ends)
		if len(p.lines)+len(p.text) > limit || p.per > 0 && parts > p.per {
			break
		}
		p.lines = append(p.lines, p.text...)
	}
	return packed{data: p.finish(), n: n}, nil
}

// finish is the lines as they travel.
func (p *packer) finish() []byte {
	if p.gz == nil {
		return p.lines
	}
	p.out.Reset()
	p.gz.Reset(&p.out)
	// Writes to memory do not fail.
	_, _ = p.gz.Write(p.lines)
	_ = p.gz.Close()
	return p.out.Bytes()
}

// open writes a record's parts as they will travel. What another gateway has
// put into an envelope stays as it is, id and all. Nobody behind Firehose
// opens an aggregate, so its records go one by one.
func (p *packer) open(l *lane.Lane, r *record.Record) {
	p.text, p.ends = p.text[:0], p.ends[:0]
	if a := kpl.Open(r.Data); a != nil {
		one := *r
		for i, x := range a.All() {
			one.Key, one.Data = x.Key, x.Data
			p.add(l, &one, i+1)
		}
		return
	}
	p.add(l, r, 0)
}

// add adds a part: number n of its record, 0 if the record has no others.
func (p *packer) add(l *lane.Lane, r *record.Record, n int) {
	if p.env == nil {
		p.text = append(p.text, r.Data...)
	} else {
		p.text = p.env.AppendPart(p.text, l.Stream, r, n)
	}
	if start := p.start(); !bytes.HasSuffix(p.text[start:], []byte(p.delim)) {
		p.text = append(p.text, p.delim...)
	}
	p.ends = append(p.ends, len(p.text))
}

// start is where the part that is being written begins.
func (p *packer) start() int {
	if len(p.ends) == 0 {
		return 0
	}
	return p.ends[len(p.ends)-1]
}

func appendEntry(dst, data []byte) []byte {
	dst = append(dst, `{"Data":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, data)
	return append(dst, `"}`...)
}
