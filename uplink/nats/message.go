package nats

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
	"forebay/uplink/lane"

	natsgo "github.com/nats-io/nats.go"
)

// The headers of a message. Those of NATS itself are in the JetStream model
// (ADR-4 and ADR-50, atomic batch publishing).
const (
	headerID           = "Nats-Msg-Id"
	headerStream       = "Nats-Expected-Stream"
	headerLast         = "Nats-Expected-Last-Subject-Sequence"
	headerLastOf       = "Nats-Expected-Last-Subject-Sequence-Subject"
	headerBatch        = "Nats-Batch-Id"
	headerBatchSeq     = "Nats-Batch-Sequence"
	headerCommit       = "Nats-Batch-Commit"
	headerLocalStream  = "Forebay-Stream"
	headerKey          = "Forebay-Key"
	headerSource       = "Forebay-Source"
	headerAt           = "Forebay-At"
	headerArrived      = "Forebay-Arrived"
	headerChunk        = "Forebay-Chunk"
	headerAttr         = "Forebay-Attr-"
	headerCover        = "Forebay-Cover" // of a run's last message, see lane.Cover
	headerType         = "Content-Type"
	maxHeaders         = 64<<10 - 1 // JetStream writes their length in 16 bits
	maxBatch           = 1000       // messages of an atomic batch, the server's default
	maxRun             = 512 << 10  // bytes of payload of a batch; one message may be larger
	batchHeaders       = len(headerBatch) + len(headerBatchSeq) + len(headerCommit) + batchIDLen + 4 + 1 + 3*4
	batchIDLen         = 24
	emptyHeader        = len("NATS/1.0\r\n\r\n")
	headerFieldSpacing = len(": \r\n")
)

// A field is one header.
type field struct{ name, value string }

// A message is one part of a record on its way. It is valid until the packer's
// next step.
type message struct {
	subject string
	id      string
	fields  []field // of the record, not of the request
	data    []byte
	pos     record.Pos
	origin  record.Origin
	part    int
	last    bool // the record is complete with it
}

// A limits is what the target takes.
type limits struct {
	message int // bytes of headers and payload
	batch   int // messages of a batch
}

// A packer makes messages of records. It is used by one lane at a time.
type packer struct {
	env      *envelope.Writer // nil: the payload alone
	id       record.Identity
	apart    string // stands before message ids
	subjects subjects
	expect   int // bytes of the headers that the first or last message has beside its own
	text     []byte
	msgs     []message
	cover    lane.Cover // of the run
	header   natsgo.Header
	values   [][]string
}

// pack makes the messages of the next run: as many as one batch may hold, from
// the front of recs, but nothing that the stream holds already. It gives how
// many records it passed by because of that, and how many bytes of payload the
// messages have. The error says why the first record that is not passed by can
// never travel.
func (p *packer) pack(l *lane.Lane, base string, recs []record.Record, m mark, lim limits) (held, size int, err error) {
	p.msgs, p.text = p.msgs[:0], p.text[:0]
	for i := range recs {
		r := &recs[i]
		origin := p.origin(r)
		start, before := len(p.msgs), len(p.text)
		p.open(l, base, r, origin)
		if err := p.check(start, lim); err != nil {
			p.msgs, p.text = p.msgs[:start], p.text[:before]
			if start > 0 {
				return held, size, nil // its turn comes when it is the first
			}
			return held, size, err
		}
		p.msgs = append(p.msgs[:start], slices.DeleteFunc(p.msgs[start:], func(x message) bool {
			return m.holds(origin, p.here(), r.Pos, x.part)
		})...)
		if len(p.msgs) == start {
			if start > 0 {
				return held, size, nil
			}
			held++
			continue
		}
		for k := start; k < len(p.msgs); k++ {
			x := &p.msgs[k]
			tight := x.size()+p.expect+batchHeaders > lim.message
			if k > 0 && (k == lim.batch || tight || size+len(x.data) > maxRun) {
				p.msgs = p.msgs[:k]
				return held, size, nil
			}
			size += len(x.data)
			if tight {
				p.msgs = p.msgs[:k+1]
				return held, size, nil
			}
		}
	}
	return held, size, nil
}

// release lets go of the records.
func (p *packer) release() {
	clear(p.msgs[:cap(p.msgs)])
	clear(p.header)
	p.msgs = p.msgs[:0]
}

func (p *packer) here() record.Origin {
	return record.Origin{Gateway: p.id.Gateway, Epoch: p.id.Epoch}
}

func (p *packer) origin(r *record.Record) record.Origin {
	if r.Origin != nil {
		return *r.Origin
	}
	return p.here()
}

// check says whether the messages from start on can travel at all.
func (p *packer) check(start int, lim limits) error {
	for i := start; i < len(p.msgs); i++ {
		x := &p.msgs[i]
		if n := x.size() - len(x.data) + p.expect; n > maxHeaders {
			return fmt.Errorf("the record's key and attributes make %d bytes of headers; a message takes %d", n, maxHeaders)
		}
		if n := x.size() + p.expect; n > lim.message {
			return fmt.Errorf("the record has %d bytes as it would travel; the target takes %d (max_payload of the server, max_msg_size of the stream)", n, lim.message)
		}
	}
	return nil
}

// size is what a message weighs in the server's limits, without the headers of
// the request.
func (x *message) size() int {
	n := emptyHeader + headerFieldSpacing + len(headerID) + len(x.id) + len(x.data)
	for _, f := range x.fields {
		n += headerFieldSpacing + len(f.name) + len(f.value)
	}
	return n
}

// open makes the messages of a record. An aggregate that was stored as one
// record goes in one by one: whoever reads a subject expects records.
func (p *packer) open(l *lane.Lane, base string, r *record.Record, origin record.Origin) {
	if in := kpl.Open(r.Data); in != nil {
		one := *r
		n := 0
		for _, x := range in.All() {
			one.Key, one.Data = x.Key, x.Data
			if one.Check() != nil {
				one.Key = r.Key // what an aggregate calls a key need not be one
			}
			n++
			p.add(l, base, &one, origin, n)
		}
	} else {
		p.add(l, base, r, origin, 0)
	}
	p.msgs[len(p.msgs)-1].last = true
}

func (p *packer) add(l *lane.Lane, base string, r *record.Record, origin record.Origin, part int) {
	x := message{subject: base, data: r.Data, pos: r.Pos, origin: origin, part: part}
	id := record.Identity{Gateway: origin.Gateway, Epoch: origin.Epoch}.AppendID(nil, r.Pos)
	if part > 0 {
		id = strconv.AppendInt(append(id, '/'), int64(part), 10)
	}
	x.id = p.apart + string(id)
	if p.subjects.keyed {
		x.subject = string(appendKey([]byte(base), r.Key))
	}
	if p.env == nil {
		x.fields = fields(l.Stream, r)
	} else {
		start := len(p.text)
		p.text = p.env.AppendPart(p.text, l.Stream, r, part)
		x.data = p.text[start:len(p.text):len(p.text)] // stays when p.text moves
	}
	p.msgs = append(p.msgs, x)
}

// fields is what stands in headers where the payload travels alone.
func fields(stream string, r *record.Record) []field {
	f := []field{{headerLocalStream, stream}, {headerKey, clean(r.Key)}, {headerSource, clean(r.Source)}}
	if r.Type != "" {
		f = append(f, field{headerType, clean(r.Type)})
	}
	if !r.At.IsZero() {
		f = append(f, field{headerAt, r.At.UTC().Format(time.RFC3339Nano)})
	}
	if !r.Arrived.IsZero() {
		f = append(f, field{headerArrived, r.Arrived.UTC().Format(time.RFC3339Nano)})
	}
	if n := max(r.Chunk.Len, int64(len(r.Blob))); n > 0 {
		f = append(f, field{headerChunk, strconv.FormatInt(n, 10)})
	}
	names := make([]string, 0, len(r.Attrs))
	for name := range r.Attrs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f = append(f, field{headerAttr + headerName(name), clean(r.Attrs[name])})
	}
	return f
}

// clean is a text as the value of a header, byte for byte to be had back:
// controls, a space at either end and % itself are written as % and two
// hexadecimal digits.
func clean(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == '%' || r == 0x7f }) < 0 && strings.TrimSpace(s) == s {
		return s
	}
	return percent(s, func(i int, c byte) bool {
		return c < ' ' || c == '%' || c == 0x7f || c == ' ' && (i == 0 || i == len(s)-1)
	})
}

// headerName is a text as part of a header's name: what is neither letter nor
// digit nor - _ . is written as % and two hexadecimal digits.
func headerName(s string) string {
	return percent(s, func(_ int, c byte) bool {
		return (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '_' && c != '.'
	})
}

func percent(s string, escape func(i int, c byte) bool) string {
	const hex = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+8)
	for i := range len(s) {
		if c := s[i]; escape(i, c) {
			b = append(b, '%', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return string(b)
}

// A request is what the headers of a run say beside the records' own.
type request struct {
	stream string // the JetStream stream that is meant
	last   uint64 // the sequence number behind which the run stands
	lastOf string // the subjects that this is about, where they are many
	batch  string // "" where the run is one message
}

// wire makes message i of the run at hand as it is published. It is valid until
// the next call.
func (p *packer) wire(i int, q request) *natsgo.Msg {
	x := &p.msgs[i]
	if p.header == nil {
		p.header = make(natsgo.Header)
	}
	clear(p.header)
	n := 0
	set := func(name, value string) {
		if n == len(p.values) {
			p.values = append(p.values, make([]string, 1))
		}
		p.values[n][0] = value
		p.header[name] = p.values[n]
		n++
	}
	set(headerID, x.id)
	for _, f := range x.fields {
		set(f.name, f.value)
	}
	if i == 0 {
		set(headerStream, q.stream)
		set(headerLast, strconv.FormatUint(q.last, 10))
		if q.lastOf != "" {
			set(headerLastOf, q.lastOf)
		}
	}
	if i == len(p.msgs)-1 && p.cover != (lane.Cover{}) {
		set(headerCover, p.cover.String())
	}
	if q.batch != "" {
		set(headerBatch, q.batch)
		set(headerBatchSeq, strconv.Itoa(i+1))
		if i == len(p.msgs)-1 {
			set(headerCommit, "1")
		}
	}
	return &natsgo.Msg{Subject: x.subject, Header: p.header, Data: x.data}
}

// expected is how many bytes the headers of a request take at most, beside
// those of a batch.
func expected(stream, family string, keyed bool) int {
	n := 3*headerFieldSpacing + len(headerStream) + len(stream) + len(headerLast) + 20 + len(headerCover) + lane.MaxCover
	if keyed {
		n += headerFieldSpacing + len(headerLastOf) + len(family)
	}
	return n
}
