package broker

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// libraryPublish is how the library reads a PUBLISH; a panic is a refusal.
func libraryPublish(first byte, body []byte, v5 bool) (pk packets.Packet, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	pk.ProtocolVersion = 4
	if v5 {
		pk.ProtocolVersion = 5
	}
	if pk.FixedHeader.Decode(first) != nil {
		return pk, false
	}
	pk.FixedHeader.Remaining = len(body)
	if pk.PublishDecode(body) != nil {
		return pk, false
	}
	return pk, pk.PublishValidate(maxAliases) == packets.CodeSuccess
}

// FuzzPublishAgainstTheLibrary: what ours takes the library takes, too, and
// reads the same out of it. (Ours refuses more, see TestConformance.)
func FuzzPublishAgainstTheLibrary(f *testing.F) {
	f.Add(byte(0x32), []byte("\x00\x01a\x00\x07payload"), false)
	f.Add(byte(0x33), []byte("\x00\x03a/b\x00\x07\x05\x02\x00\x00\x00\x09x"), true)
	f.Add(byte(0x3d), []byte("\x00\x01a\x00\x07\x03\x23\x00\x01x"), true)
	f.Add(byte(0x30), []byte("\x00\x01a\x0d\x26\x00\x01a\x00\x01b\x09\x00\x03abcx"), true)
	f.Add(byte(0x34), []byte("\x00\x00\x00\x01\x03\x23\x00\x40"), true)
	f.Add(byte(0x32), []byte("\x00\x01a\x00\x01\x0c\x01\x01\x03\x00\x01t\x08\x00\x03r/sx"), true)
	f.Add(byte(0x30), []byte("\x00\x01a\x80\x00"), true)
	f.Fuzz(func(t *testing.T, first byte, body []byte, v5 bool) {
		first = typePublish<<4 | first&0x0f
		var p publish
		if parsePublish(first, body, v5, &p) != nil {
			return
		}
		pk, ok := libraryPublish(first, bytes.Clone(body), v5)
		if !ok {
			t.Fatalf("the library refuses %02x % x", first, body)
		}
		if string(p.topic) != pk.TopicName || !bytes.Equal(p.payload, pk.Payload) || p.id != pk.PacketID {
			t.Errorf("topic %q id %d payload %q; the library reads %q %d %q", p.topic, p.id, p.payload, pk.TopicName, pk.PacketID, pk.Payload)
		}
		if p.qos != pk.FixedHeader.Qos || p.dup != pk.FixedHeader.Dup || p.retain != pk.FixedHeader.Retain {
			t.Errorf("flags %+v; the library reads %+v", p, pk.FixedHeader)
		}
		var q props
		if p.props != nil {
			q = *p.props
		}
		l := pk.Properties
		user := [][2]string(nil)
		for _, u := range l.User {
			user = append(user, [2]string{u.Key, u.Val})
		}
		if q.contentType != l.ContentType || q.responseTopic != l.ResponseTopic || !bytes.Equal(q.correlation, l.CorrelationData) ||
			q.alias != l.TopicAlias || q.expiry != l.MessageExpiryInterval || q.utf8Payload != (l.PayloadFormat == 1) || !slices.Equal(q.user, user) {
			t.Errorf("properties %+v; the library reads %+v", q, l)
		}
	})
}

// FuzzRemainingLength: the length of a packet is what the library reads, and
// is known at the first byte where it can be.
func FuzzRemainingLength(f *testing.F) {
	for _, b := range [][]byte{{0}, {0x7f}, {0x80, 1}, {0xff, 0x7f}, {0x80, 0x80, 1}, {0xff, 0xff, 0xff, 0x7f}, {0xff, 0xff, 0xff, 0xff, 1}, {0x80}, {0x80, 0}, {}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, total, fault := header(append([]byte{0x30}, b...))
		length, used, err := packets.DecodeLength(bytes.NewReader(b))
		switch {
		case fault != nil: // the library reads some that have five bytes and more
			if len(b) < 4 || b[0]&b[1]&b[2]&b[3]&0x80 == 0 || fault.code != codeMalformed {
				t.Errorf("% x is refused: %v", b, fault)
			}
		case n == 0: // more bytes are needed
			if err == nil {
				t.Errorf("% x is not whole; the library reads %d", b, length)
			}
			if len(b) > 3 {
				t.Errorf("% x is not enough to tell", b)
			}
		default:
			if err != nil || total-n != length || n-1 != used {
				t.Errorf("% x is %d in %d bytes; the library reads %d in %d, %v", b, total-n, n-1, length, used, err)
			}
		}
		for cut := range b { // no earlier end, and no other one
			if m, _, f := header(append([]byte{0x30}, b[:cut]...)); f == nil && m > 0 && m != n {
				t.Errorf("% x ends after %d bytes, and after %d", b, m-1, n-1)
			}
		}
	})
}

// FuzzProperties: what was read of a PUBLISH's properties is what another
// writer writes, however they are ordered.
func FuzzProperties(f *testing.F) {
	f.Add(true, uint32(9), "text/plain", "a/b", []byte("c"), uint16(3), "k", "v", "w")
	f.Add(false, uint32(0), "", "", []byte(nil), uint16(0), "", "", "")
	f.Add(false, uint32(1<<31), "t", "", []byte{0, 0xff}, uint16(64), "ä", "水", "")
	f.Fuzz(func(t *testing.T, utf8Payload bool, expiry uint32, contentType, response string, correlation []byte, alias uint16, key, v1, v2 string) {
		if len(contentType)+len(response)+len(correlation)+len(key)+len(v1)+len(v2) > 60_000 || strings.ContainsAny(response, "+#") {
			return // the library writes no such response topic
		}
		pk := packets.Packet{
			ProtocolVersion: 5, FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, TopicName: "t", PacketID: 7, Payload: []byte("x"),
			Mods: packets.Mods{AllowResponseInfo: true},
			Properties: packets.Properties{
				PayloadFormatFlag: utf8Payload, MessageExpiryInterval: expiry, ContentType: contentType, ResponseTopic: response,
				CorrelationData: correlation, TopicAlias: alias, TopicAliasFlag: alias > 0,
				User: []packets.UserProperty{{Key: key, Val: v1}, {Key: key, Val: v2}},
			},
		}
		if utf8Payload {
			pk.Properties.PayloadFormat = 1
		}
		var buf bytes.Buffer
		if err := pk.PublishEncode(&buf); err != nil {
			return
		}
		b := buf.Bytes()
		n, total, fault := header(b)
		if fault != nil || n == 0 || total != len(b) {
			t.Fatalf("header of % x: %d, %d, %v", b, n, total, fault)
		}
		valid := alias <= maxAliases
		for _, s := range []string{contentType, response, key, v1, v2} {
			valid = valid && validText([]byte(s))
		}
		var p publish
		fault = parsePublish(b[0], b[n:], true, &p)
		if (fault == nil) != valid {
			t.Fatalf("valid is %v: %v", valid, fault)
		}
		if fault != nil {
			return
		}
		q := p.props
		if q == nil {
			t.Fatal("no properties")
		}
		if q.utf8Payload != utf8Payload || q.expiry != expiry || q.contentType != contentType || q.responseTopic != response || !bytes.Equal(q.correlation, correlation) || q.alias != alias {
			t.Errorf("%+v", q)
		}
		if !slices.Equal(q.user, [][2]string{{key, v1}, {key, v2}}) {
			t.Errorf("user properties %q", q.user)
		}
	})
}
