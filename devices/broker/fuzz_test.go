package broker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"forebay/gateway/conf"
	"forebay/spool/record"
)

func FuzzPublish(f *testing.F) {
	f.Add(byte(0x32), []byte("\x00\x01a\x00\x07payload"), false)
	f.Add(byte(0x3d), []byte("\x00\x01a\x00\x07\x03\x23\x00\x01x"), true)
	f.Add(byte(0x30), []byte("\x00\x00\x07\x26\x00\x01a\x00\x01b"), true)
	f.Add(byte(0x32), []byte("\x00\x03a/b\x00\x01\x09\x03\x00\x01t\x02\x00\x00\x00\x01\x01"), true)
	f.Add(byte(0x36), []byte{}, false)
	f.Fuzz(func(t *testing.T, first byte, body []byte, v5 bool) {
		var p publish
		if err := parsePublish(first, body, v5, &p); err != nil {
			if err.code < codeUnspecified {
				t.Errorf("fault with code %#x", err.code)
			}
			return
		}
		if !utf8.Valid(p.topic) || bytes.ContainsAny(p.topic, "+#\x00") {
			t.Errorf("topic %q", p.topic)
		}
		if len(p.topic)+len(p.payload) > len(body) || (p.qos > 0) != (p.id > 0) || p.qos > 2 {
			t.Errorf("%+v of %d bytes", p, len(body))
		}
		if !bytes.HasSuffix(body, p.payload) {
			t.Errorf("payload %q is not the end of the packet", p.payload)
		}
		if len(p.topic) == 0 {
			return
		}
		tp := newTopic(string(p.topic), nil)
		rec := record.Record{Key: tp.key, Data: p.payload}
		if p.props != nil {
			rec.Attrs = attrs(p.props.user)
		}
		if tp.long != "" {
			rec.Attrs = withTopic(rec.Attrs, tp.long)
		}
		if err := rec.Check(); err != nil && len(p.topic) < 65500 {
			t.Errorf("record: %v", err)
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte{0x30, 0x80, 0x01})
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
	f.Add([]byte{0xC0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, total, err := header(b)
		if err == nil && n > 0 && (n < 2 || n > 5 || total < n || total > 5+268435455) {
			t.Errorf("header of %d bytes, packet of %d", n, total)
		}
		_ = checkFilters(b, true, true)
		_ = checkFilters(b, false, false)
	})
}

// FuzzConnection feeds what a client might send after a CONNECT: the broker
// lives on, and what it acknowledges it has stored.
func FuzzConnection(f *testing.F) {
	b, err := New(Config{MaxPacket: 4096}, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	if err := b.begin(); err != nil {
		f.Fatal(err)
	}
	var stored atomic.Int64
	// Not TCP: there are not enough ports.
	ln, err := new(net.ListenConfig).Listen(f.Context(), "unix", filepath.Join(f.TempDir(), "s"))
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{b: b, in: countInlet{&stored}, stop: make(chan struct{})}
	r.wg.Go(func() { r.accept(ctx, ln) })
	var fan sync.WaitGroup
	fan.Go(func() { b.fan.run(b.core) })
	f.Cleanup(func() {
		r.shutdown(ln, cancel)
		b.fan.close()
		fan.Wait()
		if err := b.core.close(); err != nil {
			f.Error(err)
		}
	})
	hello := func(version byte) []byte {
		c := []byte{0, 4, 'M', 'Q', 'T', 'T', version, 2, 0, 60}
		if version == 5 {
			c = append(c, 0)
		}
		c = append(c, 0, 1, 'f')
		return append([]byte{0x10, byte(len(c))}, c...)
	}
	f.Add(byte(5), []byte{0x82, 0x06, 0, 1, 0, 0, 1, 'a'})
	f.Add(byte(4), []byte{0x82, 6, 0, 1, 0, 1, '#', 0, 0x32, 6, 0, 1, 'a', 0, 7, 'x'})
	f.Add(byte(5), []byte{0x82, 7, 0, 1, 0, 0, 1, '#', 2, 0x35, 7, 0, 1, 'a', 0, 7, 0, 'x', 0x62, 2, 0, 7, 0x50, 2, 0, 1, 0x70, 2, 0, 1})
	f.Add(byte(5), []byte{0xA2, 6, 0, 1, 0, 0, 1, '#', 0xE0, 2, 4, 0})
	f.Add(byte(5), []byte{0xF0, 2, 0x18, 0, 0xC0, 0, 0x10, 0})
	f.Add(byte(0), []byte{0x10, 14, 0, 4, 'M', 'Q', 'T', 'T', 5, 0xfe, 0, 60, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, version byte, data []byte) {
		before := stored.Load()
		c, err := new(net.Dialer).DialContext(t.Context(), "unix", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if version == 4 || version == 5 {
			data = append(hello(version), data...)
		}
		if _, err := c.Write(data); err != nil {
			return
		}
		if err := c.(*net.UnixConn).CloseWrite(); err != nil {
			return
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer, err := io.ReadAll(c)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection hangs after % x", data)
		}
		acks := int64(0)
		for len(answer) > 0 {
			n, total, fault := header(answer)
			if fault != nil || n == 0 || total > len(answer) {
				break // cut short by the end
			}
			if answer[0]>>4 == typePuback && total == n+2 { // PUBREC may come twice for one record
				acks++
			}
			answer = answer[total:]
		}
		if now := stored.Load() - before; acks > now {
			t.Errorf("%d acknowledged, %d stored", acks, now)
		}
	})
}

type countInlet struct{ n *atomic.Int64 }

func (c countInlet) Put(_ context.Context, recs []record.Record, done func([]record.Result)) error {
	c.n.Add(int64(len(recs)))
	done(make([]record.Result, len(recs)))
	return nil
}

func TestWhatMayBeSubscribedTo(t *testing.T) {
	for _, c := range []struct {
		filter string
		ok     bool
	}{
		{"#", true},
		{"a/+/#", true},
		{"$share/g/a/#", true},
		{"", false},
		{"a/#/b", false},
		{"$share/g/", false},
		{strings.Repeat("a/", maxLevels-1) + "a", true},
		{strings.Repeat("a/", maxLevels) + "a", false},
	} {
		if got := subscribable(c.filter); got != c.ok {
			t.Errorf("a filter of %d levels, %.20q: %v, want %v", levels(c.filter), c.filter, got, c.ok)
		}
	}
}

func FuzzFilters(f *testing.F) {
	for _, s := range [][2]string{{"#", "a/b"}, {"a/#", "a"}, {"+/b", "a/b"}, {"+", "/"}, {"a/+/c", "a/b/c"}, {"+/#", "$SYS/x"}, {"#", "$a/b"}, {"$share/g/a", "a"}, {"$share/g/", "a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, filter, topic string) {
		parsed, err := conf.ParseFilter(filter)
		if err != nil || topic == "" {
			return
		}
		want := parsed.Match(topic)
		if topic[0] == '$' && strings.ContainsAny(filter[:1], "+#") {
			want = false
		}
		if got := match(parsed, topic); got != want {
			t.Errorf("match(%q, %q) = %v", filter, topic, got)
		}
		if f := unshare(filter); !strings.HasSuffix(filter, f) {
			t.Errorf("%q is shared as %q", filter, f)
		}
	})
}

// A panicConn makes whoever reads from it panic.
type panicConn struct{ net.Conn }

func (panicConn) Read([]byte) (int, error) { panic("boom") }

func TestPanicEndsTheConnectionOnly(t *testing.T) {
	b, err := New(Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.begin(); err != nil {
		t.Fatal(err)
	}
	k := b.core
	here, there := net.Pipe()
	c := newConn(b, panicConn{here}, nil)
	_, c.cancel = context.WithCancel(context.Background())
	var f *faultError
	if err := k.attach(c); !errors.As(err, &f) || f.code != codeMalformed {
		t.Errorf("attach: %v", err)
	}
	c.out.wait()
	if _, err := there.Read(make([]byte, 1)); err == nil {
		t.Error("connection is still open")
	}
	if err := k.close(); err != nil {
		t.Error(err)
	}
}
