package kinesisapi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"forebay/spool/record"
)

const (
	cborType = "application/x-amz-cbor-1.1"

	// maxCBORDepth is how deep values may be nested; the deepest request of the
	// API has four levels.
	maxCBORDepth = 16
)

// The major types of CBOR (RFC 8949, section 3.1), where they stand in an
// item's first byte, and the first bytes that have a meaning of their own.
const (
	cborUint   = 0 << 5
	cborNegInt = 1 << 5
	cborBytes  = 2 << 5
	cborText   = 3 << 5
	cborArray  = 4 << 5
	cborMap    = 5 << 5
	cborTag    = 6 << 5
	cborSimple = 7 << 5

	cborMajor      = 7 << 5
	cborIndefinite = 31
	cborHalf       = cborSimple | 25
	cborSingle     = cborSimple | 26
	cborDouble     = cborSimple | 27
	cborBreak      = cborSimple | 31
	cborEpochTag   = 1
)

// cborCodec is the encoding that AWS calls CBOR 1.1 and that its SDKs for Java
// send: the members of AWS JSON 1.1, blobs as byte strings, and times as tag 1
// over milliseconds (RFC 8949 means seconds by it).
type cborCodec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newCBOR() (*cborCodec, error) {
	enc, err := cbor.EncOptions{OmitEmpty: cbor.OmitEmptyGoValue}.EncMode()
	if err != nil {
		return nil, fmt.Errorf("set up the CBOR encoder: %w", err)
	}
	dec, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:   maxCBORDepth,
		MaxArrayElements:  maxValues,
		MaxMapPairs:       maxValues,
		IndefLength:       cbor.IndefLengthAllowed,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode()
	if err != nil {
		return nil, fmt.Errorf("set up the CBOR decoder: %w", err)
	}
	return &cborCodec{enc, dec}, nil
}

func (*cborCodec) mediaType() string { return cborType }

func (c *cborCodec) decode(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	if body[0]&cborMajor != cborMap {
		return serialization("The request is not one CBOR map.")
	}
	err := c.dec.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	if kind, ok := errors.AsType[*cbor.UnmarshalTypeError](err); ok {
		_, field, _ := strings.Cut(kind.StructFieldName, ".") // behind the package
		_, field, _ = strings.Cut(field, ".")                 // behind the type
		return serialization("%s can not be converted to the type of%s.", kind.CBORType, quoted(field))
	}
	if twice, ok := errors.AsType[*cbor.DupMapKeyError](err); ok {
		return serialization("The member%s stands twice.", quoted(fmt.Sprint(twice.Key)))
	}
	return serialization("The request is not one CBOR map: %s.", strings.TrimPrefix(err.Error(), "cbor: "))
}

func (c *cborCodec) encode(answer any) ([]byte, error) {
	b, err := c.enc.Marshal(answer)
	if err != nil {
		return nil, internalFailure(fmt.Errorf("encode an answer in CBOR: %w", err))
	}
	return b, nil
}

func (*cborCodec) putsHead(b []byte, records int) []byte {
	b = append(b, cborMap|3)
	b = appendText(b, "EncryptionType")
	b = appendText(b, "NONE")
	b = appendText(b, "Records")
	return appendHead(b, cborArray, uint64(records))
}

func (*cborCodec) putStored(b []byte, _ int, at *numberedShard, seq uint64) []byte {
	b = append(b, cborMap|2)
	b = appendText(b, "ShardId")
	b = appendText(b, at.name)
	b = appendText(b, "SequenceNumber")
	b = appendHead(b, cborText, sequenceDigits)
	return at.numbers.append(b, seq)
}

func (*cborCodec) putFailed(b []byte, _ int, code, text string) []byte {
	b = append(b, cborMap|2)
	b = appendText(b, "ErrorCode")
	b = appendText(b, code)
	b = appendText(b, "ErrorMessage")
	return appendText(b, text)
}

func (*cborCodec) putsTail(b []byte, failed int) []byte {
	b = appendText(b, "FailedRecordCount")
	return appendHead(b, cborUint, uint64(failed))
}

// How many members and records there will be is known at the end only: both
// the answer and its list are of indefinite length, as Java's own encoder
// writes all that it writes.
func (*cborCodec) getsHead(b []byte) []byte {
	b = append(b, cborMap|cborIndefinite)
	b = appendText(b, "Records")
	return append(b, cborArray|cborIndefinite)
}

func (*cborCodec) getRecord(b []byte, _ int, at *numberedShard, r *record.Record) []byte {
	b = append(b, cborMap|5)
	b = appendText(b, "SequenceNumber")
	b = appendHead(b, cborText, sequenceDigits)
	b = at.numbers.append(b, r.Pos.Seq)
	b = appendText(b, "ApproximateArrivalTimestamp")
	b = appendCBOREpoch(b, r.Arrived)
	b = appendText(b, "PartitionKey")
	b = appendText(b, r.Key)
	b = appendText(b, "EncryptionType")
	b = appendText(b, "NONE")
	b = appendText(b, "Data")
	b = appendHead(b, cborBytes, uint64(len(r.Data)))
	return append(b, r.Data...)
}

// cborRecordRoom is what a record has besides its key and its data.
const cborRecordRoom = 192

func (*cborCodec) getRoom(r *record.Record) int { return cborRecordRoom + len(r.Key) + len(r.Data) }

func (c *cborCodec) getsTail(b []byte, t *getsTail) ([]byte, error) {
	b = append(b, cborBreak) // of Records
	b = appendText(b, "MillisBehindLatest")
	b = appendHead(b, cborUint, uint64(max(t.MillisBehindLatest, 0)))
	if t.NextShardIterator != "" {
		b = appendText(b, "NextShardIterator")
		b = appendText(b, t.NextShardIterator)
	}
	if t.ContinuationSequenceNumber != "" {
		b = appendText(b, "ContinuationSequenceNumber")
		b = appendText(b, t.ContinuationSequenceNumber)
	}
	if len(t.ChildShards) > 0 {
		b = appendText(b, "ChildShards")
		shards, err := c.encode(t.ChildShards)
		if err != nil {
			return nil, err
		}
		b = append(b, shards...)
	}
	return append(b, cborBreak), nil
}

// appendHead writes an item's first byte and its argument in the shortest form.
func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= math.MaxUint8:
		return append(b, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, cborText, uint64(len(s))), s...)
}

// appendCBOREpoch writes tag 1 over milliseconds since 1970.
func appendCBOREpoch(b []byte, t time.Time) []byte {
	b = append(b, cborTag|cborEpochTag)
	ms := t.UnixMilli()
	if ms < 0 {
		return appendHead(b, cborNegInt, uint64(-1-ms))
	}
	return appendHead(b, cborUint, uint64(ms))
}

// MarshalCBOR writes tag 1 over milliseconds since 1970.
func (e epoch) MarshalCBOR() ([]byte, error) { return appendCBOREpoch(nil, time.Time(e)), nil }

// UnmarshalCBOR reads milliseconds since 1970, as an integer or a float, with
// or without tag 1: the unit is the encoding's, whatever the number looks like.
func (e *epoch) UnmarshalCBOR(b []byte) error {
	fault := &cbor.UnmarshalTypeError{CBORType: "value", GoType: "time", StructFieldName: "kinesisapi.epoch.Timestamp"}
	r := cborReader{b: b}
	first, arg := r.head()
	if first&cborMajor == cborTag {
		if arg != cborEpochTag {
			return fault
		}
		first, arg = r.head()
	}
	var ms float64
	switch {
	case r.bad || r.at != len(b):
		return fault
	case first&cborMajor == cborUint:
		ms = float64(arg)
	case first&cborMajor == cborNegInt:
		ms = -1 - float64(arg)
	case first == cborHalf:
		ms = halfFloat(uint16(arg))
	case first == cborSingle:
		ms = float64(math.Float32frombits(uint32(arg)))
	case first == cborDouble:
		ms = math.Float64frombits(arg)
	default:
		return fault
	}
	if !(math.Abs(ms) <= latestTime*1000) { // NaN too
		return fault
	}
	*e = epoch(time.UnixMilli(int64(math.Round(ms))))
	return nil
}

// halfFloat reads IEEE 754's binary16, which Go has no type for (RFC 8949,
// appendix D).
func halfFloat(h uint16) float64 {
	exp, mant := int(h>>10&0x1f), float64(h&0x3ff)
	var v float64
	switch exp {
	case 0:
		v = math.Ldexp(mant, -24)
	case 31:
		v = math.Inf(1)
		if mant != 0 {
			v = math.NaN()
		}
	default:
		v = math.Ldexp(mant+1024, exp-25)
	}
	if h&0x8000 != 0 {
		v = -v
	}
	return v
}

// A cborReader goes over the items of a request. Once something is not as it
// should be, bad is set and stays.
type cborReader struct {
	b   []byte
	at  int
	bad bool
}

// head reads an item's first byte and its argument, which for an indefinite
// length and the break is 0.
func (r *cborReader) head() (first byte, arg uint64) {
	if r.bad || r.at >= len(r.b) {
		r.bad = true
		return 0, 0
	}
	first = r.b[r.at]
	r.at++
	info := first & 31
	switch {
	case info < 24:
		return first, uint64(info)
	case info == cborIndefinite:
		return first, 0
	case info > 27:
		r.bad = true
		return 0, 0
	}
	n := 1 << (info - 24)
	if len(r.b)-r.at < n {
		r.bad = true
		return 0, 0
	}
	for _, c := range r.b[r.at : r.at+n] {
		arg = arg<<8 | uint64(c)
	}
	r.at += n
	return first, arg
}

// string reads a byte or text string of definite length; it points into the
// request.
func (r *cborReader) string(major byte) []byte {
	first, n := r.head()
	if r.bad || first&cborMajor != major || first&31 == cborIndefinite || n > uint64(len(r.b)-r.at) {
		r.bad = true
		return nil
	}
	from := r.at
	r.at += int(n)
	return r.b[from:r.at:r.at]
}

// items begins an array or a map. It gives the number of its items or pairs, -1
// if only a break ends them.
func (r *cborReader) items(major byte) int {
	first, n := r.head()
	switch {
	case r.bad || first&cborMajor != major || n > maxValues:
		r.bad = true
		return 0
	case first&31 == cborIndefinite:
		return -1
	}
	return int(n)
}

// another reports whether another item follows; n counts down from what items
// gave.
func (r *cborReader) another(n *int) bool {
	switch {
	case r.bad:
		return false
	case *n < 0:
		if r.at < len(r.b) && r.b[r.at] == cborBreak {
			r.at++
			return false
		}
		return true
	case *n == 0:
		return false
	}
	*n--
	return true
}
