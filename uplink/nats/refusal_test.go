package nats_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool/record"
	"forebay/uplink/lane"
	"forebay/uplink/nats"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

// Each way in which a server or a stream says no has its class and its words,
// nothing is stored, and the lane goes on when the reason is gone.
func TestRefusals(t *testing.T) {
	const atomic = `"allow_atomic":true`
	for _, c := range []struct {
		name   string
		stream string // its fields beside the name
		before string // a request before the Send
		body   string
		cfg    nats.Config
		class  lane.Class
		words  string
		mend   string // a request that removes the reason
		with   string
	}{
		{name: "no stream", class: lane.Misconfigured, words: "does not exist", mend: "CREATE", with: `"subjects":["forebay.>"],` + atomic},
		{name: "other subjects", stream: `"subjects":["plant.>"],` + atomic, class: lane.Misconfigured, words: "does not take the subject forebay.edge-07.mqtt.1", mend: "UPDATE", with: `"subjects":["forebay.>"],` + atomic},
		{name: "full of messages", stream: `"subjects":["forebay.>"],"max_msgs":3,"discard":"new",` + atomic, class: lane.Throttled, words: "the stream is full", mend: "UPDATE", with: `"subjects":["forebay.>"],` + atomic},
		{name: "full of bytes", stream: `"subjects":["forebay.>"],"max_bytes":600,"discard":"new"`, class: lane.Throttled, words: "the stream is full", mend: "UPDATE", with: `"subjects":["forebay.>"]`},
		{name: "no acknowledgements", stream: `"subjects":["forebay.>"],"no_ack":true`, class: lane.Misconfigured, words: "acknowledges nothing", mend: "UPDATE", with: `"subjects":["forebay.>"]`},
		{name: "other names", stream: `"subjects":["forebay.>"],"subject_transform":{"src":"forebay.>","dest":"plant.>"},` + atomic, class: lane.Misconfigured, words: "under other subjects"},
		{name: "sealed", stream: `"subjects":["forebay.>"],` + atomic, before: "$JS.API.STREAM.UPDATE.TARGET", body: `{"name":"TARGET","subjects":["forebay.>"],"storage":"file","discard":"new","sealed":true,` + atomic + `}`, class: lane.Misconfigured, words: "sealed"},
		{name: "another stream", stream: `"subjects":["forebay.>"]`, before: "$JS.API.STREAM.CREATE.ANOTHER", body: `{"name":"ANOTHER","subjects":["plant.>"]}`, cfg: nats.Config{Stream: "ANOTHER"}, class: lane.Misconfigured, words: "another stream than the configured one"},
		{name: "somebody else's subject", stream: `"subjects":["forebay.>"],` + atomic, before: "forebay.edge-07.mqtt.1", body: "x", class: lane.Misconfigured, words: "not from a Forebay gateway"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := start(t, options(t.TempDir()))
			nc := client(t, srv.ClientURL())
			if c.stream != "" {
				disk := `"storage":"file",`
				request(t, nc, "$JS.API.STREAM.CREATE.TARGET", `{"name":"TARGET",`+disk+c.stream+`}`)
			}
			if c.before != "" {
				request(t, nc, c.before, c.body)
			}
			s := sink(t, identity, c.cfg, srv.ClientURL())
			o := send(t, s, batch(1, 1, 5))
			if o.Class != c.class || o.Err == nil || !strings.Contains(o.Err.Error(), c.words) {
				t.Fatalf("%d done, %v, %v; want %v and the words %q", o.Done, o.Class, o.Err, c.class, c.words)
			}
			if c.mend == "" {
				return
			}
			request(t, nc, "$JS.API.STREAM."+c.mend+".TARGET", `{"name":"TARGET","storage":"file",`+c.with+`}`)
			wantDone(t, send(t, s, batch(1, uint64(o.Done)+1, uint64(5-o.Done))), 5-o.Done)
			wantExactly(t, read(t, nc, "forebay.edge-07.mqtt.1"), identity, 1, 5)
		})
	}
}

// What a server takes in a message is asked of it; what goes beyond that is
// poison, exactly there, also where the limit came later than the question.
func TestTooLarge(t *testing.T) {
	for _, c := range []struct {
		name string
		o    func(*server.Options)
		size string
		late string
	}{
		{name: "max_payload", o: func(o *server.Options) { o.MaxPayload = 8 << 10 }, size: "-1"},
		{name: "max_msg_size", size: "8192"},
		{name: "later", size: "-1", late: "8192"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t.TempDir())
			if c.o != nil {
				c.o(o)
			}
			srv := start(t, o)
			nc := client(t, srv.ClientURL())
			fields := `"allow_atomic":true,"max_msg_size":`
			create(t, nc, fields+c.size)
			s := sink(t, identity, nats.Config{}, srv.ClientURL())
			wantDone(t, send(t, s, batch(1, 1, 1)), 1)
			if c.late != "" {
				request(t, nc, "$JS.API.STREAM.UPDATE.TARGET", `{"name":"TARGET","subjects":["forebay.>"],`+onDisk+`,`+fields+c.late+`}`)
			}
			b := batch(1, 2, 40)
			b.Recs[20].Data = []byte(`"` + strings.Repeat("x", 9000) + `"`)
			done := 0
			var out lane.Outcome
			for range 10 { // each Send learns a little
				out = send(t, s, lane.Batch{Lane: b.Lane, Recs: b.Recs[done:]})
				if done += out.Done; out.Class == lane.Poison {
					break
				}
			}
			if done != 20 || out.Class != lane.Poison {
				t.Fatalf("%d done, %v, %v; want 20 and poison", done, out.Class, out.Err)
			}
			wantDone(t, send(t, s, lane.Batch{Lane: b.Lane, Recs: b.Recs[21:]}), 19)
			if n := len(read(t, nc, "forebay.edge-07.mqtt.1")); n != 40 {
				t.Errorf("%d messages, want 40", n)
			}
		})
	}
}

// Headers have a limit of their own.
func TestTooManyAttributes(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	create(t, client(t, srv.ClientURL()), `"allow_atomic":true`)
	b := batch(1, 1, 3)
	b.Recs[1].Attrs = map[string]string{"a": strings.Repeat("%", 30_000)}
	wantClass(t, send(t, sink(t, identity, nats.Config{Format: "raw"}, srv.ClientURL()), b), 1, lane.Poison, "bytes of headers")
}

// The server's words about permissions are the operator's.
func TestPermissions(t *testing.T) {
	for _, c := range []struct {
		name  string
		deny  server.Permissions
		words string
	}{
		{"publish", server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"forebay.>"}}}, "forebay.edge-07.mqtt.1"},
		{"stream info", server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.INFO.>"}}}, "STREAM.INFO.TARGET"},
		{"last message", server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.STREAM.MSG.GET.>"}}}, "STREAM.MSG.GET.TARGET"},
		{"inbox", server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}}, "_INBOX"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t.TempDir())
			o.Users = []*server.User{{Username: "edge", Password: "right", Permissions: &c.deny}, {Username: "admin", Password: "right"}}
			srv := start(t, o)
			nc := client(t, srv.ClientURL(), natsgo.UserInfo("admin", "right"))
			create(t, nc, `"allow_atomic":true`)
			cfg := nats.Config{User: "edge", Password: conf.NewSecret("right")}
			wantClass(t, send(t, sink(t, identity, cfg, srv.ClientURL()), batch(1, 1, 5)), 0, lane.Auth, c.words)
			if n := len(read(t, nc, "forebay.>")); n != 0 {
				t.Errorf("%d messages", n)
			}
		})
	}
	t.Run("inbox_prefix", func(t *testing.T) {
		o := options(t.TempDir())
		o.Users = []*server.User{{Username: "edge", Password: "right", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"forebay.edge-07.>", "$JS.API.STREAM.INFO.TARGET", "$JS.API.STREAM.MSG.GET.TARGET"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"answers.edge.>"}},
		}}, {Username: "admin", Password: "right"}}
		srv := start(t, o)
		nc := client(t, srv.ClientURL(), natsgo.UserInfo("admin", "right"))
		create(t, nc, `"allow_atomic":true`)
		cfg := nats.Config{User: "edge", Password: conf.NewSecret("right"), InboxPrefix: "answers.edge"}
		wantDone(t, send(t, sink(t, identity, cfg, srv.ClientURL()), batch(1, 1, 5)), 5)
	})
}

// A link on which nothing comes through any more, in either direction, is found
// out by the request's timeout, however much was being written, and left.
func TestHalfOpen(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	create(t, nc, `"allow_atomic":true`)
	cab := newCable(t, srv.ClientURL())
	cfg := nats.Config{RequestTimeout: conf.Duration(time.Second)}
	s := sink(t, identity, cfg, cab.url())
	wantDone(t, send(t, s, batch(1, 1, 5)), 5)
	cab.mute.Store(true)
	wantClass(t, send(t, s, batch(1, 6, 5)), 0, lane.Ambiguous, "does not answer any more")
	if err := s.Probe(t.Context()); err == nil {
		t.Error("Probe finds it")
	} else if e := (*lane.Error)(nil); !errors.As(err, &e) || e.Class != lane.Offline {
		t.Errorf("Probe: %v", err)
	}
	cab.mute.Store(false)
	wantDone(t, send(t, s, batch(1, 6, 5)), 5)
	wantExactly(t, read(t, nc, "forebay.edge-07.mqtt.1"), identity, 1, 10)
}

// A server that reads nothing does not hold a Send that is to end.
func TestStuckInAWrite(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	create(t, client(t, srv.ClientURL()), `"allow_atomic":true`)
	cab := newCable(t, srv.ClientURL())
	s := sink(t, identity, nats.Config{}, cab.url())
	wantDone(t, send(t, s, batch(1, 1, 1)), 1)
	cab.stall()
	ctx, cancel := context.WithCancel(t.Context())
	large := make([]byte, 60<<10)
	var lanes []lane.Batch
	for i := range 30 {
		b := batch(record.ShardID(2+i), 1, 100)
		for k := range b.Recs {
			b.Recs[k].Data = large
		}
		lanes = append(lanes, b)
	}
	done := make(chan []lane.Outcome, 1)
	go func() { done <- s.Send(ctx, lanes) }()
	<-cab.stuck
	cancel()
	for _, o := range <-done {
		if o.Done != 0 || o.Class != lane.Ambiguous && o.Class != lane.Offline {
			t.Errorf("%+v", o)
		}
	}
}

// What is no NATS server is never taken for one.
func TestAPortal(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>log in</html>\r\n"))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-over
	})
	s := sink(t, identity, nats.Config{}, "nats://"+l.Addr().String())
	wantClass(t, send(t, s, batch(1, 1, 5)), 0, lane.Offline, "does not answer as a NATS server")
}

// A responder that is no stream acknowledges nothing.
func TestAnotherResponder(t *testing.T) {
	srv := start(t, options(t.TempDir()))
	nc := client(t, srv.ClientURL())
	request(t, nc, "$JS.API.STREAM.CREATE.TARGET", `{"name":"TARGET","subjects":["plant.>"],`+onDisk+`}`)
	if _, err := nc.Subscribe("forebay.>", func(m *natsgo.Msg) { _ = m.Respond([]byte("ok")) }); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	s := sink(t, identity, nats.Config{}, srv.ClientURL())
	wantClass(t, send(t, s, batch(1, 1, 5)), 0, lane.Misconfigured, "not a JetStream stream")
}

// A server that is about to shut down is left for another one before it does;
// the other members are learned from the first.
func TestLameDuck(t *testing.T) {
	o := options(t.TempDir())
	o.LameDuckDuration, o.LameDuckGracePeriod = time.Second, 20*time.Millisecond
	srv := start(t, o)
	create(t, client(t, srv.ClientURL()), `"allow_atomic":true`)
	o2 := options(t.TempDir())
	other := start(t, o2)
	nc := client(t, other.ClientURL())
	create(t, nc, `"allow_atomic":true`)
	s := sink(t, identity, nats.Config{}, srv.ClientURL(), other.ClientURL())
	wantDone(t, send(t, s, batch(1, 1, 5)), 5)
	go srv.LameDuckShutdown()
	until(t, "the other server is not used", func() bool {
		o := send(t, s, batch(2, 1, 5))
		if o.Class == lane.Ambiguous {
			t.Fatalf("%v", o.Err)
		}
		return len(read(t, nc, "forebay.edge-07.mqtt.2")) == 5
	})
	srv.WaitForShutdown()
}
