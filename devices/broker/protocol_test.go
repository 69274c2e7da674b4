package broker_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"forebay/devices/broker"
	"forebay/gateway/conf"
)

func TestTruncatedSubscribeEndsOneConnectionOnly(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	b, addr := start(t, broker.Config{}, log)
	other := connect(t, addr, hello{id: "other"})
	for i := range 20 {
		c := connect(t, addr, hello{id: fmt.Sprintf("evil%d", i), v5: true})
		c.send([]byte{0x82, 0x06, 0, 1, 0, 0, 1, 'a'}) // the filter's options are missing
		if code := c.ends(); code != 0x81 {
			t.Fatalf("DISCONNECT %#x", code)
		}
	}
	other.publish(1, 1, "t", "x")
	other.ack(4)
	eventually(t, "one client is left", func() bool { return b.Clients() == 1 })
}

func TestBrokenPackets(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{MaxPacket: 4096}, log)
	withID := func(topic string) []byte { return append(str(topic), 0, 1, 0) }
	cases := []struct {
		name   string
		packet []byte
		code   int // of DISCONNECT
	}{
		{"topic with NUL", frame(0x32, withID("a\x00b")), 0x81},
		{"topic not UTF-8", frame(0x32, withID("a\xff")), 0x81},
		{"surrogate in topic", frame(0x32, withID("\xed\xa0\x80")), 0x81},
		{"empty topic", frame(0x32, withID("")), 0x82},
		{"plus in topic", frame(0x32, withID("a/+/b")), 0x90},
		{"hash in topic", frame(0x32, withID("a/#")), 0x90},
		{"packet id 0", frame(0x32, append(str("a"), 0, 0, 0)), 0x82},
		{"QoS 3", frame(0x36, withID("a")), 0x81},
		{"DUP with QoS 0", frame(0x38, append(str("a"), 0)), 0x82},
		{"topic cut short", frame(0x32, []byte{0, 9, 'a'}), 0x81},
		{"no packet id", frame(0x32, str("a")), 0x81},
		{"properties cut short", frame(0x32, append(str("a"), 0, 1, 9, 1)), 0x81},
		{"unknown property", frame(0x32, append(str("a"), 0, 1, 2, 0x7e, 0)), 0x81},
		{"property twice", frame(0x32, append(str("a"), 0, 1, 4, 1, 0, 1, 0)), 0x82},
		{"subscription id", frame(0x32, append(str("a"), 0, 1, 2, 0x0B, 1)), 0x82},
		{"alias 0", frame(0x32, append(str("a"), 0, 1, 3, 0x23, 0, 0)), 0x94},
		{"alias too high", frame(0x32, append(str("a"), 0, 1, 3, 0x23, 1, 0)), 0x94},
		{"unknown alias", frame(0x32, append(str(""), 0, 1, 3, 0x23, 0, 1)), 0x82},
		{"length of five bytes", []byte{0x32, 0xff, 0xff, 0xff, 0xff, 1}, 0x81},
		{"too large", frame(0x32, append(withID("a"), make([]byte, 5000)...)), 0x95},
		{"announces 256 MB", []byte{0x32, 0xff, 0xff, 0xff, 0x7f}, 0x95},
		{"PUBREL flags", []byte{0x60, 2, 0, 1}, 0x81},
		{"PUBREL cut short", []byte{0x62, 1, 0}, 0x81},
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			c := connect(t, addr, hello{id: "x", v5: true})
			c.send(k.packet)
			if code := c.ends(); code != k.code {
				t.Errorf("DISCONNECT %#x, want %#x", code, k.code)
			}
		})
	}
	if n := len(log.records()); n != 0 {
		t.Errorf("%d records of broken packets", n)
	}
	three := connect(t, addr, hello{id: "three"})
	three.send(frame(0x32, append(str("a/+"), 0, 1)))
	three.ends()
	// Packets that the server behind us judges.
	for _, p := range [][]byte{{0xF1, 0}, {0x00, 0}, {0x80, 0}, connectPacket(hello{id: "again", v5: true}), {0x82, 2, 0, 1}, {0xA2, 3, 0, 1, 0}} {
		c := connect(t, addr, hello{id: "y", v5: true})
		c.send(p)
		c.ends()
	}
}

func TestBeforeConnect(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{}, log)
	for _, p := range [][]byte{
		publishPacket(false, 1, 1, "t", "x"),
		{0xC0, 0},
		frame(0x10, []byte{0, 4, 'M', 'Q', 'T', 'T', 9, 2, 0, 60, 0, 1, 'a'}),
		frame(0x10, []byte{0, 4, 'M', 'Q', 'T'}),
		{0x10, 0xff, 0xff, 0xff, 0x7f},
	} {
		c := dial(t, addr)
		c.send(p)
		_ = c.SetReadDeadline(time.Now().Add(patience))
		for {
			p, err := c.read()
			if err != nil {
				if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
					t.Fatal("connection is still open")
				}
				break
			}
			if p.kind() != 2 || p.body[1] == 0 {
				t.Fatalf("packet %02x % x", p.first, p.body)
			}
		}
	}
	// CONNECT and PUBLISH in one segment, without waiting (3.1.4).
	c := dial(t, addr)
	c.send(append(connectPacket(hello{id: "eager"}), publishPacket(false, 1, 5, "t", "x")...))
	c.ack(2)
	if p := c.ack(4); p.id() != 5 {
		t.Errorf("PUBACK % x", p.body)
	}
	if n := len(log.records()); n != 1 {
		t.Errorf("%d records, want the eager one", n)
	}
}

// Every byte on its own, every message size around the buffers' sizes.
func TestFraming(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	_, addr := start(t, broker.Config{}, log)
	c := connect(t, addr, hello{id: "slow"})
	for _, x := range publishPacket(false, 1, 1, "drip", "drop") {
		c.send([]byte{x})
	}
	c.ack(4)
	sizes := []int{0, 1, 100, 118, 119, 500, 2000, 2038, 2048, 2049, 4096, 16000, 65520, 65536, 65537, 131072, 1 << 20}
	var all []byte
	for i, n := range sizes {
		all = append(all, publishPacket(false, 1, uint16(i+2), fmt.Sprint("size/", n), strings.Repeat(string(rune('a'+i)), n))...)
	}
	go func() { _, _ = c.Write(all) }()
	for i := range sizes {
		if p := c.ack(4); int(p.id()) != i+2 {
			t.Fatalf("acknowledgement %d is for %d", i, p.id())
		}
	}
	r := log.records()
	for i, n := range sizes {
		if got := r[i+1]; got.Key != fmt.Sprint("size/", n) || string(got.Data) != strings.Repeat(string(rune('a'+i)), n) {
			t.Errorf("size %d: key %q, %d bytes", n, got.Key, len(got.Data))
		}
	}
}

func TestSysTopicsAreNotTaken(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	b, addr := start(t, broker.Config{}, log)
	c := connect(t, addr, hello{id: "five", v5: true})
	c.publish(1, 1, "$SYS/broker/uptime", "1")
	if p := c.ack(4); p.code() != 0x90 {
		t.Errorf("PUBACK % x", p.body)
	}
	c.publish(0, 0, "$SYS/broker/uptime", "1")
	c.publish(1, 2, "homie/$name", "1")
	if p := c.ack(4); p.id() != 2 || p.code() != 0 {
		t.Errorf("PUBACK % x", p.body)
	}
	three := connect(t, addr, hello{id: "three"})
	three.publish(1, 1, "$sys/x", "1")
	three.ends()
	if n := b.Refused(); n != 3 {
		t.Errorf("%d refused, want 3", n)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	cfg := broker.Config{Users: []broker.User{
		{Name: "press", Password: conf.NewSecret("right"), Publish: []string{"plant/press/#"}},
		{Name: "tool", Password: conf.NewSecret("secret"), Publish: []string{}, Subscribe: []string{"plant/+/temp"}},
		{Name: "all", Password: conf.NewSecret("secret"), Subscribe: []string{"#"}},
	}}
	b, addr := start(t, cfg, log)
	for _, h := range []hello{{id: "a"}, {id: "a", user: "press", pass: "wrong"}, {id: "a", user: "nobody", pass: "right"}, {id: "a", user: "press", pass: ""}} {
		c := dial(t, addr)
		c.send(connectPacket(h))
		if p, err := c.read(); err == nil && (p.kind() != 2 || p.body[1] == 0) {
			t.Errorf("%+v: CONNACK % x", h, p.body)
		}
		c.ends()
	}
	if b.Errors() < 3 {
		t.Errorf("%d errors", b.Errors())
	}
	press := connect(t, addr, hello{id: "press", v5: true, user: "press", pass: "right"})
	press.publish(1, 1, "plant/press/temp", "1")
	press.publish(1, 2, "plant/other/temp", "2")
	press.publish(1, 3, "plant/press", "3")
	for i, want := range []byte{0, 0x87, 0} {
		if p := press.ack(4); int(p.id()) != i+1 || p.code() != want {
			t.Errorf("PUBACK % x, want code %#x", p.body, want)
		}
	}
	press3 := connect(t, addr, hello{id: "press3", user: "press", pass: "right"})
	press3.publish(1, 2, "plant/other/temp", "2")
	press3.ends()
	tool := connect(t, addr, hello{id: "tool", user: "tool", pass: "secret"})
	for filter, want := range map[string]byte{
		"plant/press/temp": 0, "plant/+/temp": 0, "plant/#": 0x80, "#": 0x80, "+/+/temp": 0x80,
		"$share/g/plant/a/temp": 0, "$share/g/#": 0x80, "plant/+/temp/x": 0x80, "a/#/b": 0x80, "a+/b": 0x80,
	} {
		tool.send(frame(0x82, append(append([]byte{0, 1}, str(filter)...), 0)))
		if p := tool.ack(9); p.body[2] != want {
			t.Errorf("SUBACK of %q: %#x, want %#x", filter, p.body[2], want)
		}
	}
	if got := log.payloads(); len(got) != 2 {
		t.Errorf("stored %q", got)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	user := []broker.User{{Name: "a", Password: conf.NewSecret("b")}}
	for want, cfg := range map[string]broker.Config{
		"":                  {},
		"listen: ":          {Listen: "0.0.0.0:1883"},
		"listen: \"0.0.0.":  {Listen: "0.0.0.0:1883", Users: user},
		"listen: \":1883\"": {Listen: ":1883", TLSCert: "c", TLSKey: "k"},
		"tls_key: ":         {TLSKey: "k"},
		"tls_cert: ":        {TLSCert: "c"},
		"max_packet: ":      {MaxPacket: 1 << 30},
		"max_pending: ":     {MaxPending: 65536},
		"max_connections: ": {MaxConnections: -1},
		"name: ":            {Users: []broker.User{{}}},
		"name: user":        {Users: append(user, user...)},
		"password: ":        {Users: []broker.User{{Name: "a"}}},
		"publish: ":         {Users: []broker.User{{Name: "a", Password: conf.NewSecret("b"), Publish: []string{"a/#/b"}}}},
		"subscribe: ":       {Users: []broker.User{{Name: "a", Password: conf.NewSecret("b"), Subscribe: []string{""}}}},
	} {
		err := cfg.Check()
		switch {
		case want == "" && err != nil:
			t.Errorf("defaults: %v", err)
		case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
			t.Errorf("error %v, want %s…", err, want)
		}
	}
	full := broker.Config{Listen: "0.0.0.0:1883", Users: user, TLSCert: "c", TLSKey: "k"}
	if err := full.Check(); err != nil {
		t.Errorf("users and TLS are set: %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	_, addr := start(t, broker.Config{MaxConnections: 3}, newLog(t))
	var first *raw
	for i := range 3 {
		c := connect(t, addr, hello{id: fmt.Sprint(i)})
		if first == nil {
			first = c
		}
	}
	c := dial(t, addr)
	c.send(connectPacket(hello{id: "one more"}))
	if p := c.ack(2); p.body[1] != 3 {
		t.Errorf("CONNACK % x", p.body)
	}
	c.ends()
	_ = first.Close()
	eventually(t, "there is room again", func() bool {
		c := dial(t, addr)
		c.send(connectPacket(hello{id: "later"}))
		return c.next().body[1] == 0
	})
}

func TestPortIsTakenForAWhile(t *testing.T) {
	t.Parallel()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { _ = ln.Close() })
	_, addr := start(t, broker.Config{Listen: conf.Listen(ln.Addr().String())}, newLog(t))
	connect(t, addr, hello{id: "a"})
}
