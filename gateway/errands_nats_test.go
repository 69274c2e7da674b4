package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

// A target that tells repeated records by how far a lane has come takes a
// replay all the same, and each record of it once, though the gateway is killed
// in the midst of it; and so it does a record that it had refused.
func TestReplayAndRedriveToNATS(t *testing.T) {
	dir := t.TempDir()
	options := func(most int32) *server.Options {
		return &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true, MaxPayload: most}
	}
	srv, err := server.NewServer(options(16 << 10))
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
	config, _, _ := strings.Cut(errandConfig, "[uplink.kinesis]")
	g := startGateway(t, "near", strings.NewReplacer("NAME", "near", "LIMIT", "8000").Replace(config)+`
[uplink.nats]
servers = ["`+srv.ClientURL()+`"]
stream = "TARGET"
create_stream = true
`)
	nc, err := natsgo.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	count := func(subject string) uint64 {
		t.Helper()
		js, err := nc.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		info, err := js.StreamInfo("TARGET", &natsgo.StreamInfoRequest{SubjectsFilter: subject})
		if err != nil {
			return 0 // not created yet
		}
		n := uint64(0)
		for _, k := range info.State.Subjects {
			n += k
		}
		return n
	}
	do := func(in string, args ...string) {
		t.Helper()
		if code, out, errs := forebay(t, in, append(args, "--api", g.api)...); code != exitOK {
			t.Fatalf("%v: exit code %d: %s%s", args, code, out, errs)
		}
	}
	fillPress(t, g, 0, 3000)
	eventually(t, 60*time.Second, "all is handed on", func() bool { return count("forebay.near.press.*") == 3000 })
	do("", "uplink", "replay", "cloud", "--stream", "press")
	eventually(t, 30*time.Second, "the replay is under way", func() bool { return count("forebay.near.replay-1-press.*") > 0 })
	g.kill()
	g.start(t, "near again")
	eventually(t, 60*time.Second, "the replay is done", func() bool { return len(cloud(t, g).Errands) == 0 })
	if again, was := count("forebay.near.replay-1-press.*"), count("forebay.near.press.*"); again != 3000 || was != 3000 {
		t.Errorf("%d records came again beside %d", again, was)
	}

	do(strings.Repeat("y", 20<<10), "put", "press", "large")
	fillPress(t, g, 3000, 10)
	eventually(t, 30*time.Second, "one record is refused", func() bool {
		l, err := g.client.Refused(t.Context(), "cloud", 0)
		return err == nil && len(l.Letters) == 1 && cloud(t, g).Waiting == 0
	})
	if err := srv.ReloadOptions(options(64 << 10)); err != nil {
		t.Fatal(err)
	}
	g.kill()
	g.start(t, "near a last time")
	do("", "uplink", "redrive", "cloud", "--all")
	eventually(t, 30*time.Second, "the redrive is done", func() bool { return len(cloud(t, g).Errands) == 0 })
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	m, err := js.GetLastMsg("TARGET", "forebay.near.press.1073741824")
	if err != nil || !bytes.Contains(m.Data, []byte(`"redrive.id":"near/`)) {
		t.Errorf("the record that was refused: %v, %v", m, err)
	}
	g.sound(t)
}
