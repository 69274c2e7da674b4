package kinesis

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

// A packer turns records of a lane into one Kinesis record. It keeps its
// memory and is not safe for concurrent use.
type packer struct {
	env       *envelope.Writer // nil: the payload alone
	aggregate bool
	maxUnit   int  // bytes of data and key of one Kinesis record
	claims    bool // a unit's records have all come by one way

	enc   kpl.Encoder
	parts []part // of the record being looked at
	via   string // by which way that came
	text  []byte // the envelopes that were written for it
	bulk  bulk   // of the unit
	first part   // of the unit, for a unit of one; the data is a copy
	out   []byte // the finished unit

	req     []*work // the request under way
	entries []entry // its answer
}

// unknownWay is the via of records with another gateway's ids that may come in
// any order, and not once each: another uplink sent them live-first, a replay
// did, or a device that may write what it likes. See claim.
const unknownWay = "-"

// claim is what the header X-Forebay-Lanes says of a request: that the lanes in
// it rise, by which series they come and, for each record, by which way what
// another gateway wrote came to us: the series that it came to us by, and the
// lane of ours that it has waited in. There its order holds, and between two of
// them it does not.
func (s *Sink) claim(req []*work) string {
	if !s.rising {
		return ""
	}
	text := append([]byte("rising "), s.series...)
	told := false
	for i, w := range req {
		text = append(text, " ,"[min(i, 1)])
		text = append(text, w.via...)
		told = told || w.via != ""
	}
	if !told {
		return "rising " + s.series
	}
	return string(text)
}

// A part is a user record as it will travel. A stored record has one part,
// or, where it came as an aggregate, as many as there are records in it.
type part struct {
	key  string
	data []byte
}

// A unit is one Kinesis record. Its data is valid until the packer's next step.
type unit struct {
	key  string
	data []byte
	n    int // records of the lane that are complete with it
	cut  int // where n is 0: parts of the front record that it holds
	via  string
	bulk bulk
}

func (u unit) size() int { return len(u.data) + len(u.key) }

// pack puts as many of recs, from the front, into a unit as fit into limit
// bytes; skip parts of the first record have travelled already. The first one
// goes in whole up to most bytes; one of many parts is cut there, and its last
// part completes it. A part that cannot be cut may have maxUnit bytes. hash is
// the lane's explicit hash key in decimal. The error says why the first record
// can never travel.
func (p *packer) pack(l *lane.Lane, hash string, recs []record.Record, skip, limit, most int) (unit, error) {
	if !p.aggregate && p.env == nil { // a record travels as it is
		return p.alone(unit{key: recs[0].Key, n: 1}, recs[0].Data, p.maxUnit-len(recs[0].Key))
	}
	p.enc.Reset()
	p.bulk = bulk{}
	p.open(l, &recs[0])
	front := p.parts[min(skip, len(p.parts)-1):]
	u := unit{key: front[0].key, via: p.via}
	if u.key != recs[0].Key && !isKey(u.key) {
		u.key = recs[0].Key // what an aggregate calls a key need not be one
	}
	room := p.maxUnit - len(u.key)
	if !p.aggregate {
		if u.cut = 1; len(front) == 1 {
			u.n, u.cut = 1, 0
		}
		return p.alone(u, front[0].data, room)
	}
	limit = min(limit-len(u.key), room)
	p.first.key, p.first.data = front[0].key, append(p.first.data[:0], front[0].data...)
	if p.addFront(front, hash, min(most-len(u.key), room)); p.enc.Len() < len(front) {
		u.cut = p.enc.Len()
	} else {
		u.n = 1
	}
	for i := 1; u.n == i && i < len(recs); i++ {
		r := &recs[i]
		p.open(l, r)
		if p.via != u.via || p.grown(r, hash) > limit {
			break
		}
		for _, x := range p.parts {
			p.put(x, hash)
		}
		u.n++
	}
	u.bulk = p.bulk
	// A lone record travels as it is, as the KPL has it, unless a consumer
	// would take it for an aggregate or miss its key.
	if p.enc.Len() == 1 && p.first.key == u.key && !kpl.IsAggregate(p.first.data) {
		u.data = p.first.data
	} else {
		p.out = p.enc.AppendTo(p.out[:0])
		u.data = p.out
	}
	return p.alone(u, u.data, room)
}

// alone makes data the unit's, if there is room for it.
func (p *packer) alone(u unit, data []byte, room int) (unit, error) {
	if u.data = data; len(data) > room {
		return u, fmt.Errorf("the record has %d bytes as it would travel; one Kinesis record takes %d (max_record)", u.size(), p.maxUnit)
	}
	return u, nil
}

// addFront begins a unit with the parts of its first record that fit into most
// bytes, at least one.
func (p *packer) addFront(parts []part, hash string, most int) {
	for i, x := range parts {
		if i > 0 && p.enc.SizeWith(x.key, hash, len(x.data)) > most {
			return
		}
		p.put(x, hash)
	}
}

// put puts a part into the unit.
func (p *packer) put(x part, hash string) {
	p.enc.Add(x.key, hash, x.data)
	p.bulk.add(x.key, x.data)
}

// grown is what the unit grows to with the parts of r, in bytes: exactly where
// it is one, else at most. Of an aggregate each record may grow by its
// envelope, a wider index, a wider length and the hash key's index; the last
// three never by more than 16 bytes.
func (p *packer) grown(r *record.Record, hash string) int {
	if len(p.parts) == 1 && !kpl.IsAggregate(r.Data) {
		return p.enc.SizeWith(p.parts[0].key, hash, len(p.parts[0].data))
	}
	n := p.enc.Size() + len(r.Key) + len(r.Data) + len(p.text) + len(hash) + 16*(len(p.parts)+1)
	return n
}

// open makes the parts of a record as they will travel. What another gateway
// has put into an envelope stays as it is, id and all. A consumer unpacks one
// level only, so an aggregate's records go in one by one.
func (p *packer) open(l *lane.Lane, r *record.Record) {
	p.parts, p.text, p.via = p.parts[:0], p.text[:0], ""
	if p.claims {
		if by, rises := envelope.LanesBy(r.Type); rises {
			p.via = by + "." + strconv.FormatUint(uint64(l.Shard), 10)
		}
	}
	in := p.nested(r.Data)
	if in == nil {
		p.add(l, r, 0)
		return
	}
	one := *r
	for i, x := range in.All() {
		one.Key, one.Data = x.Key, x.Data
		p.add(l, &one, i+1)
	}
}

// add adds a part: number n of its record, 0 if the record has no others.
func (p *packer) add(l *lane.Lane, r *record.Record, n int) {
	data := r.Data
	if p.claims && p.via == "" {
		if _, _, ok := envelope.LaneOf(data); ok {
			p.via = unknownWay
		}
	}
	if p.env != nil {
		start := len(p.text)
		p.text = p.env.AppendPart(p.text, l.Stream, r, n)
		data = p.text[start:len(p.text):len(p.text)] // stays when p.text moves
	}
	p.parts = append(p.parts, part{r.Key, data})
}

// nested is what a payload holds that is an aggregate itself, nil if it is
// none, or if the payload is to travel alone and as it is.
func (p *packer) nested(data []byte) *kpl.Aggregate {
	if p.env == nil && !p.aggregate {
		return nil
	}
	return kpl.Open(data)
}

// isKey reports whether a key is within the log's limits, which are Kinesis's.
func isKey(key string) bool {
	c := record.Record{Key: key}
	return c.Check() == nil
}

// mostDigits is how many digits a hash key has at most.
const mostDigits = 39

// appendDecimal appends a hash key as Kinesis writes it.
func appendDecimal(dst []byte, h record.HashKey) []byte {
	const chunk = 10_000_000_000_000_000_000 // the largest power of ten in 64 bits: 19 digits at a time
	hi, lo := binary.BigEndian.Uint64(h[:8]), binary.BigEndian.Uint64(h[8:])
	var text [2 * 19]byte
	at := len(text)
	for {
		var rest uint64
		high, r := hi/chunk, hi%chunk
		lo, rest = bits.Div64(r, lo, chunk)
		if hi = high; hi == 0 && lo == 0 {
			return append(strconv.AppendUint(dst, rest, 10), text[at:]...)
		}
		at -= 19
		digits(text[at+10:at+19], uint32(rest%1_000_000_000))
		rest /= 1_000_000_000
		digits(text[at+1:at+10], uint32(rest%1_000_000_000))
		text[at] = byte('0' + rest/1_000_000_000)
	}
}

// digits writes all nine digits of v.
func digits(dst []byte, v uint32) {
	for i := len(dst) - 1; i >= 0; i-- {
		dst[i] = byte('0' + v%10)
		v /= 10
	}
}
