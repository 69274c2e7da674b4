package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

const anewConfig = `
[gateway]
name = "near"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "KINESIS"
[api]
listen = "API"
[[stream]]
name = "press"
`

// natsTarget is a NATS server of its own, and how many messages a stream of it
// has on a subject.
func natsTarget(t *testing.T) (url string, count func(stream, subject string) uint64) {
	t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	nc, err := natsgo.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return srv.ClientURL(), func(stream, subject string) (n uint64) {
		t.Helper()
		js, err := nc.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		info, err := js.StreamInfo(stream, &natsgo.StreamInfoRequest{SubjectsFilter: subject})
		if err != nil {
			return 0 // not created yet
		}
		for _, k := range info.State.Subjects {
			n += k
		}
		return n
	}
}

// An uplink that began with the newest records and is made anew to bring the
// oldest says so, and passes none of them as sent; at another place in the
// target it brings all.
func TestAnUplinkMadeAnew(t *testing.T) {
	url, count := natsTarget(t)
	g := startGateway(t, "near", anewConfig)
	plain, err := os.ReadFile(g.config)
	if err != nil {
		t.Fatal(err)
	}
	become := func(uplink string) {
		t.Helper()
		g.stop()
		text := string(plain) + strings.ReplaceAll(uplink, "SERVER", url)
		if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		g.start(t, "near")
	}
	uplink := func(id, from, more string) string {
		return "[[uplink]]\nid = \"" + id + "\"\nstreams = [\"press\"]\nfrom = \"" + from + "\"\nretry_max = \"1s\"\n[uplink.nats]\nservers = [\"SERVER\"]\ncreate_stream = true\n" + more
	}
	const target = "stream = \"TARGET\"\n"
	fillPress(t, g, 0, 300)
	become(uplink("one", "newest", target))
	fillPress(t, g, 300, 200)
	eventually(t, 30*time.Second, "the newest are handed on", func() bool { return count("TARGET", "forebay.near.press.*") == 200 })
	eventually(t, 30*time.Second, "that is known", func() bool { return cloud(t, g).Waiting == 0 })

	become(uplink("two", "oldest", target))
	eventually(t, 30*time.Second, "the uplink says what is wrong", func() bool {
		u := cloud(t, g)
		return u.Class == "misconfigured" && strings.Contains(u.Error, "but only from 301 on")
	})
	if u := cloud(t, g); u.Waiting != 500 || u.Delivered != 0 {
		t.Errorf("%d wait, %d are delivered", u.Waiting, u.Delivered)
	}

	// Under the id and from the place that it had it goes on.
	become(uplink("one", "oldest", target))
	fillPress(t, g, 500, 10)
	eventually(t, 30*time.Second, "the first uplink goes on", func() bool { return count("TARGET", "forebay.near.press.*") == 210 })

	become(uplink("two", "oldest", "stream = \"OTHER\"\nsubject = \"again.{gateway}.{stream}.{shard}\"\n"))
	eventually(t, 30*time.Second, "all are handed on", func() bool { return count("OTHER", "again.near.press.*") == 510 })
	eventually(t, 30*time.Second, "that is known", func() bool { return cloud(t, g).Waiting == 0 })
	g.sound(t)
}

// An uplink whose shape was changed in place and that is made anew does not pass
// as sent what the shape before left out.
func TestAShapedUplinkMadeAnew(t *testing.T) {
	url, count := natsTarget(t)
	const all = "forebay.near.press.*"
	g := startGateway(t, "near", anewConfig)
	plain, err := os.ReadFile(g.config)
	if err != nil {
		t.Fatal(err)
	}
	become := func(id, shape string) {
		t.Helper()
		g.stop()
		text := string(plain) + "[[uplink]]\nid = \"" + id + "\"\nstreams = [\"press\"]\nretry_max = \"1s\"\n[uplink.nats]\nservers = [\"" + url + "\"]\ncreate_stream = true\nstream = \"TARGET\"\n" + shape
		if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		g.start(t, "near")
	}
	sent := func(n uint64) {
		t.Helper()
		eventually(t, 30*time.Second, "the records are handed on", func() bool { return count("TARGET", all) == n && cloud(t, g).Waiting == 0 })
	}
	become("one", "[[uplink.shape]]\nstreams = [\"press\"]\nwhen = \"n > 239\"\n")
	fillPress(t, g, 0, 300)
	sent(60)
	become("one", "")
	for i := range 3 {
		fillPress(t, g, 300+50*i, 50)
		sent(uint64(110 + 50*i))
	}
	become("two", "")
	eventually(t, 30*time.Second, "the uplink says what is wrong", func() bool {
		u := cloud(t, g)
		return u.Class == "misconfigured" && strings.Contains(u.Error, "but only from 301 on")
	})
	if u := cloud(t, g); u.Waiting != 450 || u.Delivered != 0 {
		t.Errorf("%d wait, %d are delivered", u.Waiting, u.Delivered)
	}
	g.sound(t)
}

// A gateway that lost state.db goes on: an uplink that began with the newest
// sends nothing twice, and what it was never to send counts as left out, also
// where the gateway is started again before the target can be reached.
func TestAnUplinkAfterALostState(t *testing.T) {
	url, count := natsTarget(t)
	const all = "forebay.near.press.*"
	g := startGateway(t, "near", anewConfig)
	plain, err := os.ReadFile(g.config)
	if err != nil {
		t.Fatal(err)
	}
	write := func(url string) {
		t.Helper()
		text := string(plain) + "[[uplink]]\nid = \"one\"\nstreams = [\"press\"]\nfrom = \"newest\"\nretry_max = \"1s\"\n[uplink.nats]\nservers = [\"" + url + "\"]\ncreate_stream = true\nstream = \"TARGET\"\n"
		if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fillPress(t, g, 0, 300)
	g.stop()
	write(url)
	g.start(t, "near")
	fillPress(t, g, 300, 200)
	eventually(t, 30*time.Second, "the newest are handed on", func() bool { return count("TARGET", all) == 200 && cloud(t, g).Waiting == 0 })
	g.stop()
	lost, err := filepath.Glob(filepath.Join(g.data, "spool", "state.db*"))
	if err != nil || len(lost) == 0 {
		t.Fatalf("no state.db: %v", err)
	}
	for _, path := range lost {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	write("nats://127.0.0.1:1") // nobody is there
	g.start(t, "near")
	eventually(t, 30*time.Second, "all waits again", func() bool { return cloud(t, g).Waiting == 500 })
	g.stop()
	write(url)
	g.start(t, "near")
	fillPress(t, g, 500, 10)
	eventually(t, 30*time.Second, "the uplink goes on", func() bool { return count("TARGET", all) == 210 && cloud(t, g).Waiting == 0 })
	if u := cloud(t, g); u.Delivered != 210 || u.Error != "" {
		t.Errorf("%d are delivered, %q", u.Delivered, u.Error)
	}
	g.sound(t)
}
