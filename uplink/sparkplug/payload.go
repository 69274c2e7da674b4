package sparkplug

import (
	"errors"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// A Datatype is a Sparkplug data type; the numbers are the specification's
// (6.4.16).
type Datatype uint32

// The types that are written, and those that a host may write to us.
const (
	Unknown Datatype = 0
	Int64   Datatype = 4
	UInt64  Datatype = 8
	Float   Datatype = 9
	Double  Datatype = 10
	Boolean Datatype = 11
	String  Datatype = 12
	Bytes   Datatype = 17
)

// A Value is what a metric holds; Type says which field counts. Of an Int64
// the bits stand in Int, of a number that was text once the text in Text.
type Value struct {
	Type  Datatype
	Int   uint64
	Float float64
	Bool  bool
	Text  string
	Bytes []byte
}

// A Metric is one value with its name and time. A name or an alias is there.
type Metric struct {
	Name       string
	Alias      uint64 // 0: none
	Time       uint64 // milliseconds since 1970, UTC; 0: none
	Type       Datatype
	Historical bool
	Null       bool
	Value      Value
}

// A Payload is a Sparkplug B message (specification, 6.4.1).
type Payload struct {
	Time    uint64 // milliseconds since 1970, UTC; when it was sent
	Metrics []Metric
	Seq     uint8
	HasSeq  bool // NDEATH has none
}

// Field numbers of sparkplug_b.proto.
const (
	payloadTime, payloadMetrics, payloadSeq = 1, 2, 3

	metricName, metricAlias, metricTime, metricType = 1, 2, 3, 4
	metricHistorical, metricNull                    = 5, 7
	valueInt, valueLong, valueFloat, valueDouble    = 10, 11, 12, 13
	valueBool, valueString, valueBytes              = 14, 15, 16
)

// Append appends the payload in Protocol Buffers to dst.
func (p *Payload) Append(dst []byte) []byte {
	if p.Time > 0 {
		dst = appendVarint(dst, payloadTime, p.Time)
	}
	var buf []byte
	for i := range p.Metrics {
		buf = p.Metrics[i].append(buf[:0])
		dst = protowire.AppendTag(dst, payloadMetrics, protowire.BytesType)
		dst = protowire.AppendBytes(dst, buf)
	}
	if p.HasSeq {
		dst = appendVarint(dst, payloadSeq, uint64(p.Seq))
	}
	return dst
}

func appendVarint(dst []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

func (m *Metric) append(dst []byte) []byte {
	if m.Name != "" {
		dst = protowire.AppendString(protowire.AppendTag(dst, metricName, protowire.BytesType), m.Name)
	}
	if m.Alias > 0 {
		dst = appendVarint(dst, metricAlias, m.Alias)
	}
	if m.Time > 0 {
		dst = appendVarint(dst, metricTime, m.Time)
	}
	if m.Type != Unknown {
		dst = appendVarint(dst, metricType, uint64(m.Type))
	}
	if m.Historical {
		dst = appendVarint(dst, metricHistorical, 1)
	}
	if m.Null {
		return appendVarint(dst, metricNull, 1)
	}
	return m.Value.append(dst)
}

func (v *Value) append(dst []byte) []byte {
	switch v.Type {
	case Int64, UInt64:
		return appendVarint(dst, valueLong, v.Int)
	case Double:
		return protowire.AppendFixed64(protowire.AppendTag(dst, valueDouble, protowire.Fixed64Type), math.Float64bits(v.Float))
	case Boolean:
		return appendVarint(dst, valueBool, protowire.EncodeBool(v.Bool))
	case String:
		return protowire.AppendString(protowire.AppendTag(dst, valueString, protowire.BytesType), v.Text)
	case Bytes:
		return protowire.AppendBytes(protowire.AppendTag(dst, valueBytes, protowire.BytesType), v.Bytes)
	}
	return dst
}

// maxMetrics bounds what a payload that comes from outside may hold.
const maxMetrics = 10_000

var errPayload = errors.New("not a Sparkplug payload")

// Decode reads a payload. What it does not know (properties, data sets,
// templates) it passes over. A metric's datatype counts if it is there, else
// its value tells the type. The bytes are copied.
func Decode(b []byte) (Payload, error) {
	var p Payload
	err := fields(b, func(num protowire.Number, v uint64, in []byte) error {
		switch {
		case num == payloadTime && in == nil:
			p.Time = v
		case num == payloadSeq && in == nil:
			if v > 255 {
				return fmt.Errorf("%w: seq %d", errPayload, v)
			}
			p.Seq, p.HasSeq = uint8(v), true
		case num == payloadMetrics && in != nil:
			if len(p.Metrics) == maxMetrics {
				return fmt.Errorf("%w: more than %d metrics", errPayload, maxMetrics)
			}
			m, err := decodeMetric(in)
			if err != nil {
				return err
			}
			p.Metrics = append(p.Metrics, m)
		}
		return nil
	})
	return p, err
}

func decodeMetric(b []byte) (Metric, error) {
	var m Metric
	err := fields(b, func(num protowire.Number, v uint64, in []byte) error {
		if in == nil {
			m.number(num, v)
			return nil
		}
		switch num {
		case metricName:
			m.Name = string(in)
		case valueString:
			m.Value = Value{Type: String, Text: string(in)}
		case valueBytes:
			m.Value = Value{Type: Bytes, Bytes: append([]byte{}, in...)}
		}
		return nil
	})
	if m.Type == Unknown {
		m.Type = m.Value.Type
	}
	return m, err
}

// number takes a field that is a number.
func (m *Metric) number(num protowire.Number, v uint64) {
	switch num {
	case metricAlias:
		m.Alias = v
	case metricTime:
		m.Time = v
	case metricType:
		m.Type = Datatype(v)
	case metricHistorical:
		m.Historical = v != 0
	case metricNull:
		m.Null = v != 0
	case valueInt, valueLong:
		m.Value = Value{Type: UInt64, Int: v}
	case valueFloat:
		m.Value = Value{Type: Float, Float: float64(math.Float32frombits(uint32(v)))}
	case valueDouble:
		m.Value = Value{Type: Double, Float: math.Float64frombits(v)}
	case valueBool:
		m.Value = Value{Type: Boolean, Bool: v != 0}
	}
}

// fields calls f for each field of a message: with its number, or with the
// bytes of a field that has a length, which are not nil then.
func fields(b []byte, f func(num protowire.Number, v uint64, in []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", errPayload, protowire.ParseError(n))
		}
		b = b[n:]
		var (
			v  uint64
			in []byte
		)
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b)
		case protowire.Fixed32Type:
			var w uint32
			w, n = protowire.ConsumeFixed32(b)
			v = uint64(w)
		case protowire.BytesType:
			in, n = protowire.ConsumeBytes(b)
			if in == nil {
				in = []byte{}
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
			if n >= 0 {
				b = b[n:]
				continue
			}
		}
		if n < 0 {
			return fmt.Errorf("%w: %w", errPayload, protowire.ParseError(n))
		}
		b = b[n:]
		if err := f(num, v, in); err != nil {
			return err
		}
	}
	return nil
}
