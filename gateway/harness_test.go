package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/api"
)

// binaries builds the programs under test once for the whole package, from
// the sources as they are.
var binaries = sync.OnceValues(func() (string, error) {
	dir := os.Getenv("FOREBAY_TEST_BIN")
	for _, b := range [][2]string{{"forebay", "./gateway"}, {"forebay-sim", "./firmware-sim"}} {
		cmd := exec.CommandContext(context.Background(), "go", "build", "-o", filepath.Join(dir, b[0]+exe()), b[1])
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", b[1], err, out)
		}
	}
	return dir, nil
})

func exe() string {
	if runtime.GOOS == "windows" {
		return ".exe"
	}
	return ""
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "forebay-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := os.Setenv("FOREBAY_TEST_BIN", dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func program(t testing.TB, name string) string {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name+exe())
}

// A child is a program under test.
type child struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
	err  error         // valid after done
	out  *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// spawn starts a program; the test's end kills what is left of it and shows
// its output if the test failed.
func spawn(t testing.TB, name, program string, args ...string) *child {
	t.Helper()
	c := &child{t: t, name: name, cmd: exec.CommandContext(context.Background(), program, args...), done: make(chan struct{}), out: &lockedBuffer{}}
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			out := c.out.String()
			if len(out) > 8000 {
				out = "…" + out[len(out)-8000:]
			}
			t.Logf("%s printed:\n%s", name, out)
		}
	})
	return c
}

// kill is SIGKILL, and waits.
func (c *child) kill() {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Errorf("kill %s: %v", c.name, err)
	}
	<-c.done
}

// stop is SIGTERM; the program must end by itself.
func (c *child) stop() {
	c.t.Helper()
	if err := c.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Fatalf("stop %s: %v", c.name, err)
	}
	c.wait(30 * time.Second)
	if c.err != nil {
		c.t.Errorf("%s ended with %v", c.name, c.err)
	}
}

func (c *child) wait(d time.Duration) {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(d):
		c.t.Fatalf("%s did not end within %v", c.name, d)
	}
}

// given are the addresses that freePort gave: the system may offer one again.
var given sync.Map

// freePort is an address that nothing listens on and that no other test has.
func freePort(t testing.TB) string {
	t.Helper()
	for {
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		if _, again := given.LoadOrStore(addr, true); !again {
			return addr
		}
	}
}

// eventually polls until ok, with a deadline.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		<-tick.C
	}
}

// A gw is a gateway process with what is needed to talk to it.
type gw struct {
	*child
	api, mqtt, kinesis, data, config string
	client                           *api.Client
}

// startGateway starts one from a config text, in which API, MQTT, KINESIS and DATA
// stand for addresses and the directory that it gets.
func startGateway(t testing.TB, name, text string) *gw {
	t.Helper()
	dir := t.TempDir()
	g := &gw{api: freePort(t), mqtt: freePort(t), kinesis: freePort(t), data: filepath.Join(dir, "data"), config: filepath.Join(dir, name+".toml")}
	text = strings.NewReplacer("API", g.api, "MQTT", g.mqtt, "KINESIS", g.kinesis, "DATA", filepath.ToSlash(g.data)).Replace(text)
	if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if g.client, err = api.NewClient(g.api, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.client.Close)
	g.start(t, name)
	return g
}

func (g *gw) start(t testing.TB, name string) {
	t.Helper()
	g.child = spawn(t, name, program(t, "forebay"), "run", "--config", g.config)
	g.healthy(t)
}

func (g *gw) healthy(t testing.TB) {
	t.Helper()
	eventually(t, 20*time.Second, g.name+" serves", func() bool {
		select {
		case <-g.done:
			t.Fatalf("%s ended: %v\n%s", g.name, g.err, g.out)
		default:
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+g.api+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		_, err = io.Copy(io.Discard, resp.Body)
		return errors.Join(err, resp.Body.Close()) == nil && resp.StatusCode == http.StatusOK
	})
}

// sound stops the gateway, then checks its spool and that its ledger balanced.
func (g *gw) sound(t testing.TB) {
	t.Helper()
	l, err := g.client.Ledger(context.Background())
	if err != nil {
		t.Fatalf("read the ledger of %s: %v", g.name, err)
	}
	if !l.Balance {
		b, _ := json.MarshalIndent(l, "", " ")
		t.Errorf("the ledger of %s does not balance:\n%s", g.name, b)
	}
	g.stop()
	out, err := exec.CommandContext(t.Context(), program(t, "forebay"), "spool", "check", g.data).CombinedOutput()
	if err != nil {
		t.Errorf("spool check of %s: %v\n%s", g.name, err, out)
	}
}
