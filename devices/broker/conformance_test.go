package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"forebay/devices/broker"
	"forebay/spool/record"
)

// The library's own way of taking PUBLISH, as a peer to compare ours with: its
// hook withholds the acknowledgement and sends it after the commit.
type libraryHook struct {
	mochi.HookBase
	in broker.Inlet
}

func (h *libraryHook) ID() string { return "withhold" }

func (h *libraryHook) Provides(which byte) bool {
	return which == mochi.OnPublish || which == mochi.OnConnectAuthenticate || which == mochi.OnACLCheck
}

func (h *libraryHook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (h *libraryHook) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

func (h *libraryHook) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	rec := record.Record{Key: pk.TopicName, Data: bytes.Clone(pk.Payload)}
	if rec.Check() != nil {
		return pk, packets.ErrRejectPacket // never acknowledged
	}
	err := h.in.Put(context.Background(), []record.Record{rec}, func(res []record.Result) {
		if res[0].Err != nil || pk.FixedHeader.Qos == 0 {
			return
		}
		ack := packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID, ProtocolVersion: cl.Properties.ProtocolVersion,
		}
		if pk.FixedHeader.Qos == 2 {
			ack.FixedHeader.Type = packets.Pubrec
			cl.State.Inflight.Set(ack)
		}
		_ = cl.WritePacket(ack) // it fails with the connection only
	})
	if err != nil {
		return pk, err
	}
	return pk, packets.ErrRejectPacket
}

func startLibrary(tb testing.TB, in broker.Inlet) string {
	tb.Helper()
	caps := mochi.NewDefaultServerCapabilities()
	caps.TopicAliasMaximum = 64
	srv := mochi.New(&mochi.Options{Capabilities: caps, Logger: slog.New(slog.DiscardHandler)})
	if err := srv.AddHook(&libraryHook{in: in}, nil); err != nil {
		tb.Fatal(err)
	}
	if err := srv.Serve(); err != nil {
		tb.Fatal(err)
	}
	ln, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _, _ = recover(), c.Close() }() // a packet that makes it panic ends one connection here
				_ = srv.EstablishConnection("test", c)         // how it ended the client sees
			})
		}
	})
	tb.Cleanup(func() {
		if err := errors.Join(ln.Close(), srv.Close()); err != nil {
			tb.Error(err)
		}
		wg.Wait()
	})
	return ln.Addr().String()
}

// An exchange is what a client sends after CONNECT and what it must hear, in
// order but for PINGRESP, which ends it. An answer is written as its name, its
// packet identifier, and its reason code where that is not success; "END" is
// the end of the connection, with the code of DISCONNECT.
type exchange struct {
	name    string
	v5      bool
	send    []byte
	want    string
	stored  int
	library string // what the library answers instead; "" where it is not asked
	why     string // and what is the matter with it
}

func exchanges() []exchange {
	p := func(v5 bool, qos byte, id uint16, topic, payload string, props ...byte) []byte {
		return publishPacket(v5, qos, id, topic, payload, props...)
	}
	bad := func(first byte, parts ...[]byte) []byte { return frame(first, slices.Concat(parts...)) }
	sub := func(v5 bool, filter string) []byte {
		if v5 {
			return bad(0x82, []byte{0, 9, 0}, str(filter), []byte{1})
		}
		return bad(0x82, []byte{0, 9}, str(filter), []byte{1})
	}
	id := []byte{0, 1}
	return []exchange{
		{name: "QoS 0", send: p(false, 0, 0, "a", "x"), stored: 1},
		{name: "QoS 1", send: p(false, 1, 7, "a", "x"), want: "PUBACK 7", stored: 1},
		{name: "QoS 1", v5: true, send: p(true, 1, 7, "a", "x"), want: "PUBACK 7", stored: 1},
		{name: "no payload", send: p(false, 1, 7, "a", ""), want: "PUBACK 7", stored: 1},
		{name: "in order", send: slices.Concat(p(false, 1, 9, "a", "x"), p(false, 1, 3, "b", "y"), p(false, 1, 65535, "a", "z")), want: "PUBACK 9, PUBACK 3, PUBACK 65535", stored: 3},
		{name: "DUP", send: bad(0x3a, str("a"), id, []byte("x")), want: "PUBACK 1", stored: 1},
		{name: "the same id twice", send: slices.Concat(p(false, 1, 1, "a", "x"), p(false, 1, 1, "a", "y")), want: "PUBACK 1, PUBACK 1", stored: 2},
		{name: "QoS 2", send: p(false, 2, 5, "a", "x"), want: "PUBREC 5", stored: 1},
		{name: "QoS 2", v5: true, send: p(true, 2, 5, "a", "x"), want: "PUBREC 5", stored: 1},
		{name: "PUBREL of nothing", v5: true, send: []byte{0x62, 2, 0, 5}, want: "PUBCOMP 5 92"},
		{name: "alias", v5: true, send: slices.Concat(p(true, 1, 1, "a", "x", 0x23, 0, 4), p(true, 1, 2, "", "y", 0x23, 0, 4)), want: "PUBACK 1, PUBACK 2", stored: 2},
		{name: "properties", v5: true, send: p(true, 1, 1, "a", "x", 1, 1, 2, 0, 0, 0, 9, 3, 0, 1, 't', 8, 0, 1, 'r', 9, 0, 1, 'c', 0x26, 0, 1, 'k', 0, 1, 'v', 0x26, 0, 1, 'k', 0, 1, 'w'), want: "PUBACK 1", stored: 1},
		{name: "two characters beyond ASCII", send: p(false, 1, 1, "ä/水", "x"), want: "PUBACK 1", stored: 1},
		{name: "subscribe", send: sub(false, "q/+"), want: "SUBACK 9"},
		{name: "subscribe", v5: true, send: sub(true, "q/#"), want: "SUBACK 9"},

		{name: "QoS 3", v5: true, send: bad(0x36, str("a"), id, []byte{0}), want: "END 81"},
		{name: "QoS 3", send: bad(0x36, str("a"), id), want: "END"},
		{name: "DUP with QoS 0", v5: true, send: bad(0x38, str("a"), []byte{0}), want: "END 82", library: "END", why: "gives no reason"},
		{name: "DUP with QoS 0", send: bad(0x38, str("a")), want: "END"},
		{name: "id 0", v5: true, send: p(true, 1, 0, "a", "x"), want: "END 82"},
		{name: "id 0", send: p(false, 1, 0, "a", "x"), want: "END"},
		{name: "plus", v5: true, send: p(true, 1, 1, "a/+", "x"), want: "END 90", library: "END 82", why: "gives the general reason"},
		{name: "hash", send: p(false, 1, 1, "#", "x"), want: "END"},
		{name: "empty topic", v5: true, send: p(true, 1, 1, "", "x"), want: "END 82"},
		{name: "empty topic", send: p(false, 1, 1, "", "x"), want: "END"},
		{name: "NUL in the topic", v5: true, send: p(true, 1, 1, "a\x00b", "x"), want: "END 81"},
		{name: "not UTF-8", v5: true, send: p(true, 1, 1, "a\xff", "x"), want: "END 81"},
		{name: "surrogate", send: p(false, 1, 1, "\xed\xa0\x80", "x"), want: "END"},
		{name: "alias 0", v5: true, send: p(true, 1, 1, "a", "x", 0x23, 0, 0), want: "END 94"},
		{name: "alias too high", v5: true, send: p(true, 1, 1, "a", "x", 0x23, 0, 65), want: "END 94"},
		{name: "unknown alias", v5: true, send: p(true, 1, 1, "", "x", 0x23, 0, 7), want: "END 82", why: "takes it and never answers"},
		{name: "subscription id", v5: true, send: p(true, 1, 1, "a", "x", 0x0B, 1), want: "END 82"},
		{name: "unknown property", v5: true, send: p(true, 1, 1, "a", "x", 0x7e, 0), want: "END 81"},
		{name: "property of CONNECT", v5: true, send: p(true, 1, 1, "a", "x", 0x21, 0, 9), want: "END 81"},
		{name: "property twice", v5: true, send: p(true, 1, 1, "a", "x", 1, 0, 1, 0), want: "END 82", library: "PUBACK 1", why: "does not look"},
		{name: "format 2", v5: true, send: p(true, 1, 1, "a", "x", 1, 2), want: "END 82", library: "PUBACK 1", why: "does not look"},
		{name: "wildcard in the response topic", v5: true, send: p(true, 1, 1, "a", "x", 8, 0, 1, '#'), want: "END 82", library: "PUBACK 1", why: "does not look"},
		{name: "content type not UTF-8", v5: true, send: p(true, 1, 1, "a", "x", 3, 0, 1, 0xff), want: "END 81"},
		{name: "properties cut short", v5: true, send: bad(0x32, str("a"), id, []byte{9, 1}), want: "END 81"},
		{name: "property cut short", v5: true, send: p(true, 1, 1, "a", "x", 0x26, 0, 1, 'k', 0, 9, 'v'), want: "END 81"},
		{name: "length of properties of five bytes", v5: true, send: bad(0x32, str("a"), id, []byte{0x80, 0x80, 0x80, 0x80, 1}), want: "END 81"},
		{name: "topic cut short", v5: true, send: bad(0x32, []byte{0, 9, 'a'}), want: "END 81"},
		{name: "no id", v5: true, send: bad(0x32, str("a")), want: "END 81"},
		{name: "nothing", v5: true, send: []byte{0x32, 0}, want: "END 81"},
		{name: "length of five bytes", v5: true, send: []byte{0x32, 0xff, 0xff, 0xff, 0xff, 1}, want: "END 81"},
		{name: "PUBREL without its flags", v5: true, send: []byte{0x60, 2, 0, 1}, want: "END 81"},
		{name: "PUBREL cut short", v5: true, send: []byte{0x62, 1, 0}, want: "END 81"},
		{name: "after a good one", v5: true, send: slices.Concat(p(true, 1, 1, "a", "x"), p(true, 1, 0, "a", "x")), want: "END 82", stored: 1},

		{name: "SUBSCRIBE without its flags", v5: true, send: []byte{0x80, 0}, want: "END 81"},
		{name: "SUBSCRIBE cut short", v5: true, send: []byte{0x82, 2, 0, 1}, want: "END 81"},
		{name: "SUBSCRIBE with no filter", v5: true, send: []byte{0x82, 3, 0, 1, 0}, want: "END 82"},
		{name: "filter not UTF-8", v5: true, send: sub(true, "a\xff"), want: "END 81"},
		{name: "UNSUBSCRIBE with no filter", v5: true, send: []byte{0xA2, 3, 0, 1, 0}, want: "END 82"},
		{name: "second CONNECT", v5: true, send: connectPacket(hello{id: "again", v5: true}), want: "END 82"},
		{name: "type 0", v5: true, send: []byte{0x00, 0}, want: "END 81"},
		{name: "CONNACK from a client", v5: true, send: []byte{0x20, 2, 0, 0}, want: "END 82", library: "END", why: "gives no reason"},
		{name: "AUTH nobody asked for", v5: true, send: []byte{0xF0, 2, 0x18, 0}, want: "END 82", why: "never answers"},
		{name: "PINGREQ with a body", v5: true, send: []byte{0xC0, 1, 0}, want: "END 81", why: "does not look"},
		{name: "PUBACK cut short", v5: true, send: []byte{0x40, 1, 0}, want: "END 81"},
		{name: "DISCONNECT with flags", v5: true, send: []byte{0xE1, 0}, want: "END 81"},
		{name: "PINGREQ with flags", v5: true, send: []byte{0xC1, 0}, want: "END 81"},
	}
}

// hears sends what the exchange says and a PINGREQ, and writes down the answers.
func (x *exchange) hears(t *testing.T, addr string) string {
	t.Helper()
	c := connect(t, addr, hello{id: "x", v5: x.v5})
	c.send(x.send)
	_, _ = c.Write([]byte{0xC0, 0}) // the connection may have ended
	_ = c.SetReadDeadline(time.Now().Add(patience))
	want := strings.Count(x.want, ",") + 1
	if x.want == "" {
		want = 0
	}
	var heard []string
	pinged := false
	for !pinged || len(heard) < want {
		p, err := c.read()
		var ne net.Error
		switch {
		case errors.As(err, &ne) && ne.Timeout():
			return strings.Join(append(heard, "SILENCE"), ", ")
		case err != nil:
			if n := len(heard); n == 0 || !strings.HasPrefix(heard[n-1], "END") {
				heard = append(heard, "END")
			}
			return strings.Join(heard, ", ")
		case p.kind() == 13:
			pinged = true
		default:
			heard = append(heard, name(p))
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	return strings.Join(heard, ", ")
}

func name(p packet) string {
	kinds := map[byte]string{4: "PUBACK", 5: "PUBREC", 7: "PUBCOMP", 9: "SUBACK"}
	switch k := kinds[p.kind()]; {
	case p.kind() == 14:
		return fmt.Sprintf("END %02x", p.body[0])
	case k == "":
		return fmt.Sprintf("%02x % x", p.first, p.body)
	case k != "SUBACK" && p.code() != 0:
		return fmt.Sprintf("%s %d %02x", k, p.id(), p.code())
	default:
		return fmt.Sprintf("%s %d", k, p.id())
	}
}

// One list for both ways of taking PUBLISH: ours answers it word for word;
// where the library alone, in front of the same log, does not, the list says so.
func TestConformance(t *testing.T) {
	t.Parallel()
	ours, theirs := newLog(t), newLog(t)
	_, here := start(t, broker.Config{MaxPacket: 4096}, ours)
	there := startLibrary(t, theirs)
	for _, x := range exchanges() {
		version := map[bool]string{false: " in 3.1.1", true: " in 5"}[x.v5]
		t.Run(x.name+version, func(t *testing.T) {
			before := len(ours.records())
			if got := x.hears(t, here); got != x.want {
				t.Errorf("answers %q, want %q", got, x.want)
			}
			if n := len(ours.waitStored(t, before+x.stored)) - before; n != x.stored {
				t.Errorf("%d stored, want %d", n, x.stored)
			}
			want := x.want
			switch {
			case x.why != "" && x.library == "":
				return
			case x.why != "":
				want = x.library
			}
			got := x.hears(t, there)
			if got == "END" && want == "END 81" {
				return // it ends the connection over what it cannot read, and gives no reason
			}
			if got != want {
				t.Errorf("the library answers %q, want %q", got, want)
			}
		})
	}
}
