package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Packet types (MQTT 5, 2.1.2) that this side of the broker reads or writes.
const (
	typeConnect    = 1
	typeConnack    = 2
	typePublish    = 3
	typePuback     = 4
	typePubrec     = 5
	typePubrel     = 6
	typePubcomp    = 7
	typeSubscribe  = 8
	typeUnsub      = 10
	typeDisconnect = 14
)

// Reason codes (MQTT 5, 2.4).
const (
	codeSuccess         = 0x00
	codeWithWill        = 0x04
	codeUnspecified     = 0x80
	codeMalformed       = 0x81
	codeProtocol        = 0x82
	codeImplementation  = 0x83
	codeBadVersion      = 0x84
	codeBadIdentifier   = 0x85
	codeBadLogin        = 0x86
	codeNotAuthorized   = 0x87
	codeUnavailable     = 0x88
	codeBusy            = 0x89
	codeBanned          = 0x8A
	codeShuttingDown    = 0x8B
	codeTopicInvalid    = 0x90
	codeUnknownPacketID = 0x92
	codeReceiveMaximum  = 0x93
	codeAliasInvalid    = 0x94
	codePacketTooLarge  = 0x95
	codeQuotaExceeded   = 0x97
	codePayloadInvalid  = 0x99
)

// A faultError is something a client must not send; it ends the connection.
// Code is what an MQTT 5 client is told in DISCONNECT.
type faultError struct {
	code byte
	text string
}

func (e *faultError) Error() string {
	return fmt.Sprintf("client broke the protocol (0x%02x): %s", e.code, e.text)
}

func malformed(text string) *faultError { return &faultError{codeMalformed, text} }
func violation(text string) *faultError { return &faultError{codeProtocol, text} }

// header reads a fixed header (MQTT 5, 2.1). n is how many bytes it has, 0 if
// more are needed; total is the whole packet with it.
func header(b []byte) (n, total int, err *faultError) {
	if len(b) < 2 {
		return 0, 0, nil
	}
	length, n, err := varint(b[1:])
	if err != nil || n == 0 {
		return 0, 0, err
	}
	return 1 + n, 1 + n + length, nil
}

// varint reads a variable byte integer (MQTT 5, 1.5.5); n is 0 if more bytes
// are needed.
func varint(b []byte) (v, n int, err *faultError) {
	for shift := 0; n < len(b); shift += 7 {
		if n == 4 {
			return 0, 0, malformed("a variable byte integer has more than four bytes")
		}
		c := b[n]
		n++
		v |= int(c&0x7f) << shift
		if c&0x80 == 0 {
			return v, n, nil
		}
	}
	if n >= 4 {
		return 0, 0, malformed("a variable byte integer has more than four bytes")
	}
	return 0, 0, nil
}

// A publish is a PUBLISH packet (3.3). Its slices point into the packet.
type publish struct {
	dup, retain bool
	qos         byte
	id          uint16
	topic       []byte
	payload     []byte
	props       *props // nil for none
}

// props are the properties of a PUBLISH or of a will (MQTT 5, 3.3.2.3). The
// strings are copies.
type props struct {
	utf8Payload   bool
	expires       bool
	expiry        uint32 // seconds
	contentType   string
	responseTopic string
	correlation   []byte
	alias         uint16
	user          [][2]string
}

// parsePublish reads a PUBLISH; first is the first byte of the packet, body
// what follows the fixed header.
func parsePublish(first byte, body []byte, v5 bool, p *publish) *faultError {
	p.dup, p.qos, p.retain = first&8 != 0, first>>1&3, first&1 != 0
	switch {
	case p.qos == 3:
		return malformed("QoS 3") // [MQTT-3.3.1-4]
	case p.dup && p.qos == 0:
		return violation("DUP with QoS 0") // [MQTT-3.3.1-2]
	}
	var ok bool
	if p.topic, body, ok = field(body); !ok {
		return malformed("the topic is cut short")
	}
	if !validText(p.topic) { // [MQTT-1.5.4-1], [MQTT-1.5.4-2], [MQTT-3.3.2-1]
		return malformed("the topic is not valid UTF-8 or holds U+0000")
	}
	if bytes.ContainsAny(p.topic, "+#") { // [MQTT-3.3.2-2]
		return &faultError{codeTopicInvalid, "the topic holds a wildcard"}
	}
	if p.qos > 0 {
		if len(body) < 2 {
			return malformed("the packet identifier is missing")
		}
		if p.id = binary.BigEndian.Uint16(body); p.id == 0 { // [MQTT-2.2.1-3]
			return violation("packet identifier 0")
		}
		body = body[2:]
	}
	if v5 {
		n, w, err := varint(body)
		if err != nil {
			return err
		}
		if w == 0 || w+n > len(body) {
			return malformed("the properties are cut short")
		}
		if n > 0 {
			p.props = new(props)
			if err := p.props.parse(body[w : w+n]); err != nil {
				return err
			}
		}
		body = body[w+n:]
	}
	if len(p.topic) == 0 && (p.props == nil || p.props.alias == 0) { // [MQTT-4.7.3-1]
		return violation("empty topic")
	}
	p.payload = body
	return nil
}

// Property identifiers (MQTT 5, 2.2.2.2).
const (
	propFormat       = 0x01
	propExpiry       = 0x02
	propContentType  = 0x03
	propResponse     = 0x08
	propCorrelation  = 0x09
	propSubscription = 0x0B
	propTopicAlias   = 0x23
	propUser         = 0x26
)

func (q *props) parse(b []byte) *faultError {
	var seen [256]bool
	for len(b) > 0 {
		id := b[0]
		if seen[id] && id != propUser {
			return violation(fmt.Sprintf("property 0x%02x is there twice", id))
		}
		seen[id] = true
		rest, err := q.property(id, b[1:])
		if err != nil {
			return err
		}
		b = rest
	}
	return nil
}

func (q *props) property(id byte, b []byte) ([]byte, *faultError) {
	short := malformed("a property is cut short")
	switch id {
	case propFormat:
		if len(b) < 1 {
			return nil, short
		}
		if b[0] > 1 {
			return nil, violation("payload format indicator above 1")
		}
		q.utf8Payload = b[0] == 1
		return b[1:], nil
	case propExpiry:
		if len(b) < 4 {
			return nil, short
		}
		q.expires, q.expiry = true, binary.BigEndian.Uint32(b)
		return b[4:], nil
	case propTopicAlias:
		if len(b) < 2 {
			return nil, short
		}
		if q.alias = binary.BigEndian.Uint16(b); q.alias == 0 || q.alias > maxAliases { // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
			return nil, &faultError{codeAliasInvalid, "topic alias out of range"}
		}
		return b[2:], nil
	case propCorrelation:
		v, rest, ok := field(b)
		if !ok {
			return nil, short
		}
		q.correlation = bytes.Clone(v)
		return rest, nil
	case propContentType, propResponse:
		v, rest, ok := field(b)
		if !ok || !validText(v) {
			return nil, malformed("a text property is cut short or not valid UTF-8")
		}
		if id == propContentType {
			q.contentType = string(v)
			return rest, nil
		}
		if bytes.ContainsAny(v, "+#") { // [MQTT-3.3.2-14]
			return nil, violation("the response topic holds a wildcard")
		}
		q.responseTopic = string(v)
		return rest, nil
	case propUser:
		k, rest, ok := field(b)
		if !ok || !validText(k) {
			return nil, malformed("a user property is cut short or not valid UTF-8")
		}
		v, rest, ok := field(rest)
		if !ok || !validText(v) {
			return nil, malformed("a user property is cut short or not valid UTF-8")
		}
		q.user = append(q.user, [2]string{string(k), string(v)})
		return rest, nil
	case propSubscription: // [MQTT-3.3.4-6]
		return nil, violation("a client must not send a subscription identifier in PUBLISH")
	}
	return nil, malformed(fmt.Sprintf("property 0x%02x does not belong in PUBLISH", id))
}

// checkFilters says whether a SUBSCRIBE (3.8) or UNSUBSCRIBE (3.10) is whole:
// the server behind us panics on some that are not.
func checkFilters(body []byte, v5, options bool) *faultError {
	short := malformed("a list of topic filters is cut short")
	if len(body) < 2 {
		return short
	}
	body = body[2:]
	if v5 {
		n, w, err := varint(body)
		if err != nil {
			return err
		}
		if w == 0 || w+n > len(body) {
			return short
		}
		body = body[w+n:]
	}
	for len(body) > 0 {
		f, rest, ok := field(body)
		if !ok || (options && len(rest) == 0) {
			return short
		}
		if !validText(f) {
			return malformed("a topic filter is not valid UTF-8 or holds U+0000")
		}
		if body = rest; options {
			body = rest[1:]
		}
	}
	return nil
}

// field reads two bytes of length and as many bytes.
func field(b []byte) (v, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(b[0])<<8 | int(b[1])
	if len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

func validText(b []byte) bool { return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 }

// appendAck writes PUBACK, PUBREC or PUBCOMP (3.4, 3.5, 3.7). MQTT 3.1.1 knows
// success only; MQTT 5 may leave a code of success out.
func appendAck(b []byte, kind byte, id uint16, code byte, v5 bool) []byte {
	if v5 && code != codeSuccess {
		return append(b, kind<<4, 3, byte(id>>8), byte(id), code)
	}
	return append(b, kind<<4, 2, byte(id>>8), byte(id))
}
