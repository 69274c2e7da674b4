//go:build peers

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/uplink/envelope"
)

// mosquitto starts one with a config of its own.
func mosquitto(t *testing.T, addr, text string) *child {
	t.Helper()
	_, p := port(t, addr)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "user root\nlistener %s 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n%s", p, text), 0o600); err != nil {
		t.Fatal(err)
	}
	program := "mosquitto"
	if _, err := exec.LookPath(program); err != nil {
		program = "/usr/sbin/mosquitto"
	}
	c := spawn(t, "mosquitto", program, "-c", conf)
	eventually(t, 10*time.Second, "mosquitto listens", func() bool {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		return err == nil && c.Close() == nil
	})
	return c
}

// certificates writes ca.crt, and NAME.crt and NAME.key for each name.
func certificates(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	for i, name := range append([]string{"ca"}, names...) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		if ca == nil {
			tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
			ca, caKey = tmpl, key
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		priv, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".crt", "CERTIFICATE", der)
		write(name+".key", "PRIVATE KEY", priv)
	}
	return dir
}

// delivered waits until an uplink has nothing left.
func delivered(t *testing.T, g *gw, within time.Duration, n uint64) {
	t.Helper()
	eventually(t, within, "everything is delivered", func() bool {
		u, err := g.client.Uplinks(context.Background())
		return err == nil && len(u) == 1 && u[0].Delivered >= n && u[0].Waiting == 0
	})
}

// mosquitto that asks for a client certificate takes what the gateway hands
// on, and again after both were away; mosquitto_sub, with a certificate of its
// own, reads all of it in order.
func TestPeerUplinkMosquitto(t *testing.T) {
	certs := certificates(t, "broker", "edge", "reader")
	far := freePort(t)
	_, p := port(t, far)
	text := fmt.Sprintf("cafile %[1]s/ca.crt\ncertfile %[1]s/broker.crt\nkeyfile %[1]s/broker.key\nrequire_certificate true\nuse_identity_as_username true\nlog_type all\n", certs)
	broker := mosquitto(t, far, text)
	reader := func(broker *child) *child {
		c := spawn(t, "mosquitto_sub", "mosquitto_sub", "-h", "127.0.0.1", "-p", p, "--cafile", certs+"/ca.crt", "--cert", certs+"/reader.crt", "--key", certs+"/reader.key",
			"-q", "1", "-t", "acme/plant1/#", "-F", "%t %p")
		eventually(t, 10*time.Second, "the reader has subscribed", func() bool { return strings.Contains(broker.out.String(), "Sending SUBACK") })
		return c
	}
	sub := reader(broker)
	g := startGateway(t, "edge", plainConfig+fmt.Sprintf(`
[[uplink]]
id = "far"
streams = ["mqtt"]
retry_max = "2s"
[uplink.mqtt]
broker = "ssl://%s"
ca = "%[2]s/ca.crt"
cert = "%[2]s/edge.crt"
key = "%[2]s/edge.key"
alpn = "x-amzn-mqtt-ca"
topic = "acme/plant1/{stream}/{key}"
`, far, certs))
	_, mp := port(t, g.mqtt)
	put := func(from, n int) {
		for k := range 3 {
			var lines bytes.Buffer
			for i := range n {
				fmt.Fprintf(&lines, "%d\n", from+i)
			}
			tool(t, lines.Bytes(), "mosquitto_pub", "-h", "127.0.0.1", "-p", mp, "-q", "1", "-t", fmt.Sprint("line/", k), "-l")
		}
	}
	put(0, 200)
	delivered(t, g, 30*time.Second, 600)
	broker.kill()
	put(200, 200) // while it is away
	g.kill()      // so that the reader is there first
	sub2 := reader(mosquitto(t, far, text))
	g.start(t, "edge")
	delivered(t, g, 60*time.Second, 600)
	next := map[string]int{}
	for line := range strings.Lines(sub.out.String() + sub2.out.String()) {
		topic, payload, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || !strings.HasPrefix(topic, "acme/plant1/mqtt/") {
			continue
		}
		e, err := envelope.Open([]byte(payload))
		if err != nil || !strings.HasSuffix(topic, e.Key) {
			t.Fatalf("%s %s: %v", topic, payload, err)
		}
		var n int
		if _, err := fmt.Sscan(string(e.Data), &n); err != nil || n > next[e.Key] {
			t.Fatalf("%s: %s before %d", e.Key, e.Data, next[e.Key])
		}
		if n == next[e.Key] {
			next[e.Key]++
		}
	}
	for k := range 3 {
		if key := fmt.Sprint("line/", k); next[key] != 400 {
			t.Errorf("%s: %d of 400 arrived", key, next[key])
		}
	}
	g.sound(t)
}

// A host made of the npm packages sparkplug-client and sparkplug-payload takes
// the gateway as it is: births, data, the backlog as history, a rebirth when
// it asks, and death.
func TestPeerSparkplugHost(t *testing.T) {
	far := freePort(t)
	mosquitto(t, far, "")
	g := startGateway(t, "edge", plainConfig+fmt.Sprintf(`
[[uplink]]
id = "scada"
streams = ["mqtt"]
retry_max = "2s"
[uplink.sparkplug]
broker = "tcp://%s"
group = "plant"
primary_host = "scada"
`, far))
	_, mp := port(t, g.mqtt)
	put := func(from, n int) {
		var lines bytes.Buffer
		for i := range n {
			fmt.Fprintf(&lines, "{\"value\":%d,\"on\":%v,\"text\":\"t%d\"}\n", from+i, i%2 == 0, from+i)
		}
		tool(t, lines.Bytes(), "mosquitto_pub", "-h", "127.0.0.1", "-p", mp, "-q", "1", "-t", "line4/press", "-l")
	}
	put(0, 100)
	old := time.Now()
	eventually(t, 20*time.Second, "the uplink waits for its host", func() bool {
		u, err := g.client.Uplinks(context.Background())
		return err == nil && len(u) == 1 && u[0].Waiting == 100 && strings.Contains(fmt.Sprintf("%+v", u[0]), "scada is not online") && time.Since(old) > 6*time.Second
	})
	t.Setenv("NODE_PATH", os.Getenv("FOREBAY_NODE_MODULES"))
	host := spawn(t, "host", "node", "testdata/peers/sparkplug-host.js", "mqtt://"+far, "plant", "edge")
	delivered(t, g, 60*time.Second, 100)
	type metric struct {
		Name, Type, Value, Time string
		Historical              bool
	}
	type message struct {
		Topic   string
		Seq     *string
		Metrics []metric
	}
	read := func() (all []message) {
		for line := range strings.Lines(host.out.String()) {
			var m message
			if json.Unmarshal([]byte(line), &m) == nil && m.Topic != "" {
				all = append(all, m)
			}
		}
		return all
	}
	count := func(verb string) (n int) {
		for _, m := range read() {
			if strings.Contains(m.Topic, "/"+verb+"/") {
				n++
			}
		}
		return n
	}
	eventually(t, 20*time.Second, "a rebirth", func() bool { return count("NBIRTH") == 2 && count("DBIRTH") >= 2 })
	put(100, 50)
	delivered(t, g, 30*time.Second, 150)
	values := func() (old, now []string) {
		for _, m := range read() {
			if !strings.Contains(m.Topic, "/DDATA/edge/mqtt") {
				continue
			}
			for _, x := range m.Metrics {
				switch {
				case x.Name != "line4/press/value":
				case x.Historical:
					old = append(old, x.Value)
				default:
					now = append(now, x.Value)
				}
			}
		}
		return old, now
	}
	eventually(t, 10*time.Second, "all values", func() bool { _, now := values(); return len(now) >= 51 })
	history, present := values()
	for i := range 100 {
		if len(history) != 100 || history[i] != fmt.Sprint(i) {
			t.Fatalf("history is %q", history)
		}
	}
	for i, v := range present { // the last of the backlog is said as the present
		if v != fmt.Sprint(99+i) {
			t.Fatalf("present is %q", present)
		}
	}
	if len(present) != 51 {
		t.Errorf("present is %q", present)
	}
	g.sound(t) // it stops the gateway
	eventually(t, 10*time.Second, "the death", func() bool { return count("NDEATH") > 0 })
	t.Logf("the host read %d messages: %d births of the node, %d of the device, %d values of history", len(read()), count("NBIRTH"), count("DBIRTH"), len(history))
	seq := -1
	for _, m := range read() {
		switch {
		case strings.Contains(m.Topic, "/NDEATH/"):
			if m.Seq != nil && *m.Seq != "0" { // the decoder's default
				t.Errorf("NDEATH with seq %s", *m.Seq)
			}
		case strings.Contains(m.Topic, "/NBIRTH/"):
			seq = 0
		default:
			if seq = (seq + 1) % 256; m.Seq == nil || *m.Seq != fmt.Sprint(seq) {
				t.Errorf("%s: seq %v, want %d", m.Topic, m.Seq, seq)
			}
		}
	}
}
