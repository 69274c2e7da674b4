package mqtt_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"forebay/firmware-sim/mqtt"
)

const limit = 1 << 20

func TestPublishRoundTrip(t *testing.T) {
	for qos := range byte(3) {
		b, err := mqtt.AppendPublish(nil, "a/b", []byte("payload"), qos, true, 7)
		if err != nil {
			t.Fatal(err)
		}
		for cut := range b {
			if _, n, err := mqtt.Decode(b[:cut], limit); n != 0 || err != nil {
				t.Fatalf("qos %d cut at %d: n %d, %v", qos, cut, n, err)
			}
		}
		p, n, err := mqtt.Decode(append(b, 0xFF), limit)
		if err != nil || n != len(b) {
			t.Fatalf("n %d of %d, %v", n, len(b), err)
		}
		if p.Type != mqtt.Publish || string(p.Topic) != "a/b" || string(p.Payload) != "payload" || p.QoS != qos {
			t.Fatalf("got %+v", p)
		}
		if wantDup := qos > 0; p.Dup != wantDup {
			t.Errorf("qos %d: dup %v", qos, p.Dup)
		}
		if qos > 0 && p.ID != 7 {
			t.Errorf("id %d", p.ID)
		}
	}
}

// TestOnTheWire holds the bytes of the standard's own examples of layout.
func TestOnTheWire(t *testing.T) {
	connect, err := mqtt.AppendConnect(nil, mqtt.ConnectOptions{ClientID: "d1", Clean: true, KeepAlive: 10})
	if err != nil {
		t.Fatal(err)
	}
	publish, err := mqtt.AppendPublish(nil, "a/b", []byte("x"), 1, false, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"connect", connect, "\x10\x0e\x00\x04MQTT\x04\x02\x00\x0a\x00\x02d1"},
		{"publish", publish, "\x32\x08\x00\x03a/b\x00\x0ax"},
		{"puback", mqtt.AppendAck(nil, mqtt.Puback, 0x0102), "\x40\x02\x01\x02"},
		{"pubrel", mqtt.AppendAck(nil, mqtt.Pubrel, 1), "\x62\x02\x00\x01"},
		{"connack", mqtt.AppendConnack(nil, true, 0), "\x20\x02\x01\x00"},
		{"disconnect", mqtt.AppendEmpty(nil, mqtt.Disconnect), "\xe0\x00"},
	} {
		if string(c.got) != c.want {
			t.Errorf("%s: % x, want % x", c.name, c.got, c.want)
		}
		if _, n, err := mqtt.Decode(c.got, limit); err != nil || n != len(c.got) {
			t.Errorf("%s: decoded %d of %d bytes, %v", c.name, n, len(c.got), err)
		}
	}
}

func TestConnectFields(t *testing.T) {
	b, err := mqtt.AppendConnect(nil, mqtt.ConnectOptions{
		ClientID: "press1", KeepAlive: 30, Username: "u", Password: "p", WillTopic: "w", Will: []byte("gone"),
	})
	if err != nil {
		t.Fatal(err)
	}
	p, n, err := mqtt.Decode(b, limit)
	if err != nil || n != len(b) || p.ClientID != "press1" || p.KeepAlive != 30 || p.Clean {
		t.Fatalf("%+v, %d of %d, %v", p, n, len(b), err)
	}
	if _, err := mqtt.AppendConnect(nil, mqtt.ConnectOptions{ClientID: strings.Repeat("x", 70000)}); !errors.Is(err, mqtt.ErrTooLong) {
		t.Errorf("a client id of 70,000 bytes: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for name, b := range map[string]string{
		"length of five bytes": "\x30\xff\xff\xff\xff\x01",
		"puback of 3 bytes":    "\x40\x03\x00\x01\x00",
		"puback id 0":          "\x40\x02\x00\x00",
		"pubrel without bits":  "\x60\x02\x00\x01",
		"qos 3":                "\x36\x05\x00\x01a\x00\x01",
		"topic past the end":   "\x30\x04\x00\x09ab",
		"empty topic":          "\x30\x02\x00\x00",
		"subscribe":            "\x82\x02\x00\x01",
	} {
		if _, _, err := mqtt.Decode([]byte(b), limit); !errors.Is(err, mqtt.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := mqtt.Decode([]byte("\x30\xff\xff\x7f"), limit); !errors.Is(err, mqtt.ErrTooLong) {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := mqtt.AppendPublish(nil, "", nil, 0, false, 0); err == nil {
		t.Error("an empty topic was encoded")
	}
	if _, err := mqtt.AppendPublish(nil, "t", nil, 1, false, 0); err == nil {
		t.Error("packet id 0 was encoded")
	}
}

// FuzzDecode: whatever decodes must lie within the input, and a PUBLISH must
// encode to the same packet again.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"\x32\x08\x00\x03a/b\x00\x0ax", "\x40\x02\x01\x02", "\x20\x02\x00\x00", "\xd0\x00",
		"\x10\x0e\x00\x04MQTT\x04\x02\x00\x0a\x00\x02d1", "\x30\xff\xff\xff\xff\x01", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, n, err := mqtt.Decode(b, limit)
		if n < 0 || n > len(b) || (err != nil && n != 0) {
			t.Fatalf("n %d of %d, %v", n, len(b), err)
		}
		if err != nil || n == 0 || p.Type != mqtt.Publish {
			return
		}
		again, err := mqtt.AppendPublish(nil, string(p.Topic), p.Payload, p.QoS, p.Dup, p.ID)
		if err != nil {
			t.Fatal(err)
		}
		q, m, err := mqtt.Decode(again, limit)
		if err != nil || m != len(again) || q.ID != p.ID || !bytes.Equal(q.Payload, p.Payload) || !bytes.Equal(q.Topic, p.Topic) {
			t.Fatalf("%+v became %+v, %v", p, q, err)
		}
	})
}
