// Package mqtt is the client half of MQTT 3.1.1 (OASIS, 2014) as far as a
// publishing device needs it: an encoder, and an incremental decoder that
// also reads what a client sends, so that tests can stand in for a broker.
// It holds no connection and no state: who keeps track of acknowledgements
// has them in hand, which is why the simulator does not use a client library.
package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Type is a control packet type (2.2.1).
type Type byte

// The control packet types.
const (
	Connect    Type = 1
	Connack    Type = 2
	Publish    Type = 3
	Puback     Type = 4
	Pubrec     Type = 5
	Pubrel     Type = 6
	Pubcomp    Type = 7
	Pingreq    Type = 12
	Pingresp   Type = 13
	Disconnect Type = 14
)

func (t Type) String() string {
	switch t {
	case Connect:
		return "CONNECT"
	case Connack:
		return "CONNACK"
	case Publish:
		return "PUBLISH"
	case Puback:
		return "PUBACK"
	case Pubrec:
		return "PUBREC"
	case Pubrel:
		return "PUBREL"
	case Pubcomp:
		return "PUBCOMP"
	case Pingreq:
		return "PINGREQ"
	case Pingresp:
		return "PINGRESP"
	case Disconnect:
		return "DISCONNECT"
	}
	return fmt.Sprintf("packet type %d", byte(t))
}

// maxRemaining is the largest remaining length (2.2.3).
const maxRemaining = 268_435_455

// The errors of this package. A decoder's error means that the connection
// must be closed (4.8).
var (
	ErrMalformed = errors.New("malformed packet")
	ErrTooLong   = errors.New("packet too long")
)

// ConnectOptions are the fields of a CONNECT packet that a device uses.
type ConnectOptions struct {
	ClientID  string
	Clean     bool   // CleanSession (3.1.2.4)
	KeepAlive uint16 // seconds; 0 turns it off
	Username  string // "" sends neither name nor password
	Password  string
	WillTopic string // "" sends no will
	Will      []byte
}

// AppendConnect appends a CONNECT packet (3.1).
func AppendConnect(dst []byte, o ConnectOptions) ([]byte, error) {
	var flags byte
	n := 10 + 2 + len(o.ClientID)
	if o.Clean {
		flags |= 0x02
	}
	if o.WillTopic != "" {
		flags |= 0x04 | 1<<3 // will, at QoS 1
		n += 4 + len(o.WillTopic) + len(o.Will)
	}
	if o.Username != "" {
		flags |= 0xC0
		n += 4 + len(o.Username) + len(o.Password)
	}
	for _, s := range []string{o.ClientID, o.WillTopic, o.Username, o.Password, string(o.Will)} {
		if len(s) > 0xFFFF {
			return dst, fmt.Errorf("connect: a field of %d bytes: %w", len(s), ErrTooLong)
		}
	}
	dst = append(dst, byte(Connect)<<4)
	dst = appendLength(dst, n)
	dst = append(dst, 0, 4, 'M', 'Q', 'T', 'T', 4, flags)
	dst = binary.BigEndian.AppendUint16(dst, o.KeepAlive)
	dst = appendString(dst, o.ClientID)
	if o.WillTopic != "" {
		dst = appendString(dst, o.WillTopic)
		dst = appendString(dst, string(o.Will))
	}
	if o.Username != "" {
		dst = appendString(dst, o.Username)
		dst = appendString(dst, o.Password)
	}
	return dst, nil
}

// AppendPublish appends a PUBLISH packet (3.3). id is left out at QoS 0 and
// must not be 0 otherwise.
func AppendPublish(dst []byte, topic string, payload []byte, qos byte, dup bool, id uint16) ([]byte, error) {
	n := 2 + len(topic) + len(payload)
	if qos > 0 {
		n += 2
	}
	switch {
	case topic == "" || len(topic) > 0xFFFF:
		return dst, fmt.Errorf("publish: topic of %d bytes: %w", len(topic), ErrMalformed)
	case n > maxRemaining:
		return dst, fmt.Errorf("publish: %d bytes: %w", n, ErrTooLong)
	case qos > 2 || (qos > 0 && id == 0):
		return dst, fmt.Errorf("publish: qos %d, id %d: %w", qos, id, ErrMalformed)
	}
	first := byte(Publish)<<4 | qos<<1
	if dup && qos > 0 {
		first |= 0x08
	}
	dst = append(dst, first)
	dst = appendLength(dst, n)
	dst = appendString(dst, topic)
	if qos > 0 {
		dst = binary.BigEndian.AppendUint16(dst, id)
	}
	return append(dst, payload...), nil
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP packet.
func AppendAck(dst []byte, t Type, id uint16) []byte {
	first := byte(t) << 4
	if t == Pubrel {
		first |= 0x02 // reserved bits (3.6.1)
	}
	dst = append(dst, first, 2)
	return binary.BigEndian.AppendUint16(dst, id)
}

// AppendConnack appends a CONNACK packet (3.2).
func AppendConnack(dst []byte, sessionPresent bool, code byte) []byte {
	var present byte
	if sessionPresent {
		present = 1
	}
	return append(dst, byte(Connack)<<4, 2, present, code)
}

// AppendEmpty appends a packet without a body: PINGREQ, PINGRESP, DISCONNECT.
func AppendEmpty(dst []byte, t Type) []byte { return append(dst, byte(t)<<4, 0) }

func appendString(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

func appendLength(dst []byte, n int) []byte {
	for n >= 0x80 {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

// Packet is a decoded packet. Topic and Payload of a PUBLISH point into the
// decoder's input.
type Packet struct {
	Type           Type
	QoS            byte
	Dup            bool
	Retain         bool
	ID             uint16
	SessionPresent bool // CONNACK
	Code           byte // CONNACK: 0 is accepted (3.2.2.3)
	ClientID       string
	KeepAlive      uint16
	Clean          bool
	Topic          []byte
	Payload        []byte
}

// Decode reads the first packet of b and says how many bytes it took. 0 and a
// nil error mean that b does not hold a whole packet yet. A packet whose
// remaining length is over limit is refused with ErrTooLong before it is
// whole; every other error is ErrMalformed.
func Decode(b []byte, limit int) (Packet, int, error) {
	var p Packet
	length, head, err := decodeLength(b)
	if err != nil || head == 0 {
		return p, 0, err
	}
	if length > limit {
		return p, 0, fmt.Errorf("%d bytes: %w", length, ErrTooLong)
	}
	if len(b) < head+length {
		return p, 0, nil
	}
	p.Type = Type(b[0] >> 4)
	body, flags := b[head:head+length], b[0]&0x0F
	switch p.Type {
	case Publish:
		err = p.publish(body, flags)
	case Connect:
		err = p.connect(body, flags)
	case Connack:
		if flags != 0 || len(body) != 2 || body[0] > 1 {
			err = bad(p.Type, "body")
			break
		}
		p.SessionPresent, p.Code = body[0] == 1, body[1]
	case Puback, Pubrec, Pubrel, Pubcomp:
		want := byte(0)
		if p.Type == Pubrel {
			want = 2
		}
		if flags != want || len(body) != 2 {
			err = bad(p.Type, "body")
			break
		}
		if p.ID = binary.BigEndian.Uint16(body); p.ID == 0 {
			err = bad(p.Type, "packet id 0")
		}
	case Pingreq, Pingresp, Disconnect:
		if flags != 0 || len(body) != 0 {
			err = bad(p.Type, "body")
		}
	default:
		err = bad(p.Type, "not expected by a publisher")
	}
	if err != nil {
		return Packet{}, 0, err
	}
	return p, head + length, nil
}

// decodeLength reads the remaining length; head is 0 where b ends within it.
func decodeLength(b []byte) (length, head int, err error) {
	for i := 1; i < len(b); i++ {
		if i > 4 {
			return 0, 0, fmt.Errorf("remaining length over four bytes: %w", ErrMalformed)
		}
		length |= int(b[i]&0x7F) << (7 * (i - 1))
		if b[i] < 0x80 {
			return length, i + 1, nil
		}
	}
	if len(b) > 4 {
		return 0, 0, fmt.Errorf("remaining length over four bytes: %w", ErrMalformed)
	}
	return 0, 0, nil
}

func (p *Packet) publish(body []byte, flags byte) error {
	p.QoS, p.Dup, p.Retain = flags>>1&3, flags&8 != 0, flags&1 != 0
	topic, rest, ok := cutString(body)
	switch {
	case p.QoS == 3, p.QoS == 0 && p.Dup:
		return bad(Publish, "flags")
	case !ok || len(topic) == 0 || !utf8.Valid(topic):
		return bad(Publish, "topic")
	}
	if p.QoS > 0 {
		if len(rest) < 2 {
			return bad(Publish, "packet id")
		}
		if p.ID = binary.BigEndian.Uint16(rest); p.ID == 0 {
			return bad(Publish, "packet id 0")
		}
		rest = rest[2:]
	}
	p.Topic, p.Payload = topic, rest
	return nil
}

func (p *Packet) connect(body []byte, flags byte) error {
	name, rest, ok := cutString(body)
	if flags != 0 || !ok || string(name) != "MQTT" || len(rest) < 4 || rest[0] != 4 {
		return bad(Connect, "protocol")
	}
	p.Clean = rest[1]&2 != 0
	p.KeepAlive = binary.BigEndian.Uint16(rest[2:])
	id, _, ok := cutString(rest[4:])
	if !ok {
		return bad(Connect, "client id")
	}
	p.ClientID = string(id)
	return nil
}

func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

func bad(t Type, what string) error { return fmt.Errorf("%s: %s: %w", t, what, ErrMalformed) }
