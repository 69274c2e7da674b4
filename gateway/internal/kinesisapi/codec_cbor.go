package kinesisapi

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	lib "github.com/fxamacker/cbor/v2"

	"forebay/spool/record"
	"forebay/uplink/cbor"
)

const (
	cborType = "application/x-amz-cbor-1.1"

	// maxCBORDepth is how deep values may be nested; the deepest request of the
	// API has four levels.
	maxCBORDepth = 16
)

// epochTag is the tag of a time (RFC 8949, section 3.4.2).
const epochTag = 1

// cborCodec is the encoding that AWS calls CBOR 1.1 and that its SDKs for Java
// send: the members of AWS JSON 1.1, blobs as byte strings, and times as tag 1
// over milliseconds (RFC 8949 means seconds by it).
type cborCodec struct {
	enc lib.EncMode
	dec lib.DecMode
}

func newCBOR() (*cborCodec, error) {
	enc, err := lib.EncOptions{OmitEmpty: lib.OmitEmptyGoValue}.EncMode()
	if err != nil {
		return nil, fmt.Errorf("set up the CBOR encoder: %w", err)
	}
	dec, err := lib.DecOptions{
		DupMapKey:         lib.DupMapKeyEnforcedAPF,
		MaxNestedLevels:   maxCBORDepth,
		MaxArrayElements:  maxValues,
		MaxMapPairs:       maxValues,
		IndefLength:       lib.IndefLengthAllowed,
		FieldNameMatching: lib.FieldNameMatchingCaseSensitive,
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
	if body[0]&cbor.Major != cbor.Map {
		return serialization("The request is not one CBOR map.")
	}
	err := c.dec.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	if kind, ok := errors.AsType[*lib.UnmarshalTypeError](err); ok {
		_, field, _ := strings.Cut(kind.StructFieldName, ".") // behind the package
		_, field, _ = strings.Cut(field, ".")                 // behind the type
		return serialization("%s can not be converted to the type of%s.", kind.CBORType, quoted(field))
	}
	if twice, ok := errors.AsType[*lib.DupMapKeyError](err); ok {
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
	b = append(b, cbor.Map|3)
	b = cbor.AppendText(b, "EncryptionType")
	b = cbor.AppendText(b, "NONE")
	b = cbor.AppendText(b, "Records")
	return cbor.AppendHead(b, cbor.Array, uint64(records))
}

func (*cborCodec) putStored(b []byte, _ int, at *numberedShard, seq uint64) []byte {
	b = append(b, cbor.Map|2)
	b = cbor.AppendText(b, "ShardId")
	b = cbor.AppendText(b, at.name)
	b = cbor.AppendText(b, "SequenceNumber")
	b = cbor.AppendHead(b, cbor.Text, sequenceDigits)
	return at.numbers.append(b, seq)
}

func (*cborCodec) putFailed(b []byte, _ int, code, text string) []byte {
	b = append(b, cbor.Map|2)
	b = cbor.AppendText(b, "ErrorCode")
	b = cbor.AppendText(b, code)
	b = cbor.AppendText(b, "ErrorMessage")
	return cbor.AppendText(b, text)
}

func (*cborCodec) putsTail(b []byte, failed int) []byte {
	b = cbor.AppendText(b, "FailedRecordCount")
	return cbor.AppendHead(b, cbor.Uint, uint64(failed))
}

// How many members and records there will be is known at the end only: both
// the answer and its list are of indefinite length, as Java's own encoder
// writes all that it writes.
func (*cborCodec) getsHead(b []byte) []byte {
	b = append(b, cbor.Map|cbor.Indefinite)
	b = cbor.AppendText(b, "Records")
	return append(b, cbor.Array|cbor.Indefinite)
}

func (*cborCodec) getRecord(b []byte, _ int, at *numberedShard, r *record.Record) []byte {
	b = append(b, cbor.Map|5)
	b = cbor.AppendText(b, "SequenceNumber")
	b = cbor.AppendHead(b, cbor.Text, sequenceDigits)
	b = at.numbers.append(b, r.Pos.Seq)
	b = cbor.AppendText(b, "ApproximateArrivalTimestamp")
	b = appendCBOREpoch(b, r.Arrived)
	b = cbor.AppendText(b, "PartitionKey")
	b = cbor.AppendText(b, r.Key)
	b = cbor.AppendText(b, "EncryptionType")
	b = cbor.AppendText(b, "NONE")
	b = cbor.AppendText(b, "Data")
	b = cbor.AppendHead(b, cbor.Bytes, uint64(len(r.Data)))
	return append(b, r.Data...)
}

// cborRecordRoom is what a record has besides its key and its data.
const cborRecordRoom = 192

func (*cborCodec) getRoom(r *record.Record) int { return cborRecordRoom + len(r.Key) + len(r.Data) }

func (c *cborCodec) getsTail(b []byte, t *getsTail) ([]byte, error) {
	b = append(b, cbor.Break) // of Records
	b = cbor.AppendText(b, "MillisBehindLatest")
	b = cbor.AppendHead(b, cbor.Uint, uint64(max(t.MillisBehindLatest, 0)))
	if t.NextShardIterator != "" {
		b = cbor.AppendText(b, "NextShardIterator")
		b = cbor.AppendText(b, t.NextShardIterator)
	}
	if t.ContinuationSequenceNumber != "" {
		b = cbor.AppendText(b, "ContinuationSequenceNumber")
		b = cbor.AppendText(b, t.ContinuationSequenceNumber)
	}
	if len(t.ChildShards) > 0 {
		b = cbor.AppendText(b, "ChildShards")
		shards, err := c.encode(t.ChildShards)
		if err != nil {
			return nil, err
		}
		b = append(b, shards...)
	}
	return append(b, cbor.Break), nil
}

// appendCBOREpoch writes tag 1 over milliseconds since 1970.
func appendCBOREpoch(b []byte, t time.Time) []byte {
	b = append(b, cbor.Tag|epochTag)
	ms := t.UnixMilli()
	if ms < 0 {
		return cbor.AppendHead(b, cbor.NegInt, uint64(-1-ms))
	}
	return cbor.AppendHead(b, cbor.Uint, uint64(ms))
}

// MarshalCBOR writes tag 1 over milliseconds since 1970.
func (e epoch) MarshalCBOR() ([]byte, error) { return appendCBOREpoch(nil, time.Time(e)), nil }

// UnmarshalCBOR reads milliseconds since 1970, as an integer or a float, with
// or without tag 1: the unit is the encoding's, whatever the number looks like.
func (e *epoch) UnmarshalCBOR(b []byte) error {
	fault := &lib.UnmarshalTypeError{CBORType: "value", GoType: "time", StructFieldName: "kinesisapi.epoch.Timestamp"}
	r := cbor.NewReader(b)
	first, arg := r.Head()
	if first&cbor.Major == cbor.Tag {
		if arg != epochTag {
			return fault
		}
		first, arg = r.Head()
	}
	var ms float64
	switch {
	case !r.AtEnd():
		return fault
	case first&cbor.Major == cbor.Uint:
		ms = float64(arg)
	case first&cbor.Major == cbor.NegInt:
		ms = -1 - float64(arg)
	case first == cbor.Half:
		ms = halfFloat(uint16(arg))
	case first == cbor.Single:
		ms = float64(math.Float32frombits(uint32(arg)))
	case first == cbor.Double:
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
