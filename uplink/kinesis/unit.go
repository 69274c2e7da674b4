package kinesis

import (
	"encoding/base64"
	"fmt"
	"math/big"
	"strconv"

	"forebay/spool/record"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"
)

// A packer turns records of a lane into one Kinesis record. It keeps its
// memory and is not safe for concurrent use.
type packer struct {
	env       *Envelope // nil: the payload alone
	aggregate bool
	maxUnit   int // bytes of data and key of one Kinesis record

	enc   kpl.Encoder
	one   []byte // the record being looked at, as it will travel
	first []byte // the first of the unit, for a unit of one
	out   []byte // the finished unit
}

// A unit is one Kinesis record. Its data is valid until the packer's next step.
type unit struct {
	key  string
	data []byte
	n    int // records of the lane that it holds
}

func (u unit) size() int { return len(u.data) + len(u.key) }

// pack puts as many of recs, from the front, into a unit as fit into limit
// bytes; the first one goes in as long as it is within maxUnit. hash is the
// lane's explicit hash key in decimal. The error says why the first record can
// never travel.
func (p *packer) pack(l *lane.Lane, hash string, recs []record.Record, limit int) (unit, error) {
	p.enc.Reset()
	u := unit{key: recs[0].Key}
	limit = min(limit, p.maxUnit) - len(u.key)
	most := p.maxUnit - len(u.key)
	asIs := !p.aggregate
fill:
	for i := range recs {
		r := &recs[i]
		data := p.payload(l, r)
		if i == 0 {
			p.first = append(p.first[:0], data...)
		}
		if in := p.nested(data); in != nil {
			switch {
			case i == 0 && p.sizeOf(in, data, hash) > most:
				asIs, u.n = true, 1
				break fill
			case i > 0 && p.sizeOf(in, data, hash) > limit:
				break fill
			}
			for _, r := range in.All() {
				p.enc.Add(r.Key, hash, r.Data)
			}
			u.n++
			continue
		}
		if i > 0 && p.enc.SizeWith(r.Key, hash, len(data)) > limit {
			break
		}
		p.enc.Add(r.Key, hash, data)
		u.n++
		if !p.aggregate {
			break
		}
	}
	// A lone record travels as it is, as the KPL has it, unless a consumer
	// would take it for an aggregate.
	if asIs || (p.enc.Len() == 1 && !kpl.IsAggregate(p.first)) {
		u.data = p.first
	} else {
		p.out = p.enc.AppendTo(p.out[:0])
		u.data = p.out
	}
	if len(u.data) > most {
		return u, fmt.Errorf("the record has %d bytes as it would travel; one Kinesis record takes %d (max_record)", u.size(), p.maxUnit)
	}
	return u, nil
}

// payload is a record's data as it will travel.
func (p *packer) payload(l *lane.Lane, r *record.Record) []byte {
	if p.env == nil {
		return r.Data
	}
	p.one = p.env.Append(p.one[:0], l.Stream, r)
	return p.one
}

// nested is what a payload holds that is an aggregate itself, nil if it is
// none. A consumer unpacks one level only, so its records go in one by one.
func (p *packer) nested(data []byte) *kpl.Aggregate {
	if p.env != nil || !p.aggregate || !kpl.IsAggregate(data) {
		return nil
	}
	a, err := kpl.Decode(data)
	if err != nil || a.Len() == 0 {
		return nil
	}
	return a
}

// sizeOf bounds what the unit grows to with the records of a, which came as
// data: each may grow by a wider index, a wider length and the hash key's
// index, never by more than 16 bytes.
func (p *packer) sizeOf(a *kpl.Aggregate, data []byte, hash string) int {
	return p.enc.Size() + len(data) + len(hash) + 16*(a.Len()+1)
}

// decimal is a hash key as Kinesis writes it.
func decimal(h record.HashKey) string { return new(big.Int).SetBytes(h[:]).String() }

// appendUnit appends a unit as an entry of a PutRecords request.
func appendUnit(dst []byte, u unit, hash string) []byte {
	dst = append(dst, `{"Data":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, u.data)
	dst = append(append(dst, `","ExplicitHashKey":"`...), hash...)
	dst = appendEscaped(append(dst, `","PartitionKey":"`...), u.key)
	return append(dst, `"}`...)
}

func openRequest(dst []byte, stream string) []byte {
	return append(append(append(dst, `{"StreamName":`...), strconv.Quote(stream)...), `,"Records":[`...)
}
