package kafka_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/uplink/kafka"
	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// send sends one batch.
func send(t *testing.T, s *kafka.Sink, b lane.Batch) lane.Outcome {
	t.Helper()
	return s.Send(t.Context(), []lane.Batch{b})[0]
}

// want fails unless the outcome is of that class and says the words.
func want(t *testing.T, o lane.Outcome, done int, class lane.Class, words string) {
	t.Helper()
	if o.Done != done || o.Class != class || (o.Err == nil) != (class == lane.OK) || o.Err != nil && !strings.Contains(o.Err.Error(), words) {
		t.Fatalf("%d done, %s, %v; want %d, %s, %q", o.Done, o.Class, o.Err, done, class, words)
	}
}

func closes(t *testing.T, s *kafka.Sink) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// both runs a test with and without transactions.
func both(t *testing.T, f func(t *testing.T, cfg kafka.Config)) {
	for _, m := range []string{"on", "off"} {
		t.Run("transactions "+m, func(t *testing.T) {
			t.Parallel()
			f(t, kafka.Config{Topic: "target", Transactions: m})
		})
	}
}

func TestTopicsAreCreatedWhereThatIsWanted(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, cfg kafka.Config) {
		c := newCluster(t)
		s := newSink(t, c, cfg)
		defer closes(t, s)
		want(t, send(t, s, batchOf(laneOf(1), 1, 3)), 0, lane.Misconfigured, "create_partitions")
		cfg.Topic, cfg.CreatePartitions = "plant-{stream}", 3
		s2 := newSink(t, c, cfg)
		defer closes(t, s2)
		want(t, send(t, s2, batchOf(laneOf(1), 1, 3)), 3, lane.OK, "")
		if i := c.TopicInfo("plant-mqtt"); i == nil || len(c.PartitionInfos("plant-mqtt")) != 3 {
			t.Errorf("%+v", i)
		}
	})
}

// One stream's topic that is missing does not hold up another's.
func TestTopicsFailAlone(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, cfg kafka.Config) {
		c := newCluster(t, kfake.SeedTopics(1, "plant-mqtt"))
		cfg.Topic = "plant-{stream}"
		s := newSink(t, c, cfg)
		defer closes(t, s)
		other := batchOf(laneOf(2), 1, 5)
		other.Lane.Stream = "serial"
		out := s.Send(t.Context(), []lane.Batch{other, batchOf(laneOf(4), 1, 5), batchOf(laneOf(1), 1, 5)})
		want(t, out[0], 0, lane.Misconfigured, "plant-serial")
		want(t, out[1], 5, lane.OK, "")
		want(t, out[2], 5, lane.OK, "")
	})
}

// A record that the broker refuses is found among those that it takes, which
// arrive.
func TestPoisonIsFoundExactly(t *testing.T) {
	t.Parallel()
	big := make([]byte, 1500<<10)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range big {
		big[i] = byte(rng.Uint32())
	}
	both(t, func(t *testing.T, cfg kafka.Config) {
		for name, bad := range map[string][]byte{"too large": big, "not valid": []byte("not valid")} {
			t.Run(name, func(t *testing.T) {
				c := newCluster(t, kfake.SeedTopics(2, "target"))
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "target", Err: kerr.InvalidRecord, Count: -1, When: func(r kmsg.Request) bool {
					return bytes.Contains(r.(*kmsg.ProduceRequest).AppendTo(nil), []byte("not valid"))
				}})
				cfg.Format, cfg.Compression, cfg.MaxMessage = "raw", "none", 8<<20
				s := newSink(t, c, cfg)
				defer closes(t, s)
				want(t, send(t, s, batchOf(laneOf(7), 1, 1)), 1, lane.OK, "")
				var in []lane.Batch
				for i := range 4 {
					in = append(in, batchOf(laneOf(i+1), 1, 50))
				}
				in[1].Recs[30].Data, in[3].Recs[0].Data = bad, bad
				out := s.Send(t.Context(), in)
				want(t, out[0], 50, lane.OK, "")
				want(t, out[1], 30, lane.Poison, "target")
				want(t, out[2], 50, lane.OK, "")
				want(t, out[3], 0, lane.Poison, "target")
				in[1].Recs = in[1].Recs[31:]
				want(t, send(t, s, in[1]), 19, lane.OK, "")
				n := 0
				for _, msgs := range read(t, c.ListenAddrs(), "target") {
					n += len(msgs)
				}
				if n < 150 || cfg.Transactions == "on" && n != 150 {
					t.Errorf("%d records of 150 arrived", n)
				}
			})
		}
	})
}

// A topic that takes nothing is not a reason to call every record poison.
func TestNothingIsTaken(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, cfg kafka.Config) {
		c := newCluster(t, kfake.SeedTopics(2, "target"))
		h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "target", Err: kerr.InvalidRecord, Count: -1})
		s := newSink(t, c, cfg)
		defer closes(t, s)
		want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 0, lane.Misconfigured, "INVALID_RECORD")
		h.Remove()
		want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 5, lane.OK, "")
	})
}

func TestErrorsByClass(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, cfg kafka.Config) {
		for _, f := range []struct {
			err   *kerr.Error
			class lane.Class
			words string
		}{
			{kerr.TopicAuthorizationFailed, lane.Auth, "allow Describe and Write"},
			{kerr.InvalidTimestamp, lane.ClockSkew, "our clock"},
			{kerr.ThrottlingQuotaExceeded, lane.Throttled, "quota"},
			{kerr.NotEnoughReplicas, lane.Transient, "replicas"},
			{kerr.PolicyViolation, lane.Misconfigured, "POLICY_VIOLATION"},
		} {
			t.Run(f.err.Message, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t, kfake.SeedTopics(2, "target"))
				s := newSink(t, c, cfg)
				defer closes(t, s)
				want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 5, lane.OK, "")
				h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "target", Err: f.err, Count: -1})
				want(t, send(t, s, batchOf(laneOf(1), 6, 5)), 0, f.class, f.words)
				h.Remove()
				want(t, send(t, s, batchOf(laneOf(1), 6, 5)), 5, lane.OK, "")
			})
		}
	})
}

// A broker that takes everything and answers nothing holds a Send up for the
// request's timeout and no longer; what it was asked is read back later.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for _, key := range []kmsg.Key{kmsg.Produce, kmsg.EndTxn, kmsg.Metadata, kmsg.Fetch} {
		t.Run(key.Name(), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, kfake.SeedTopics(2, "target"))
			first := newSink(t, c, kafka.Config{Topic: "target"})
			want(t, send(t, first, batchOf(laneOf(3), 1, 1)), 1, lane.OK, "")
			closes(t, first)
			on := make(chan struct{})
			c.ControlKey(key.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				select {
				case <-on:
					return nil, nil, false
				default:
					return nil, nil, true
				}
			})
			cfg := kafka.Config{Topic: "target", RequestTimeout: conf.Duration(time.Second)}
			s := newSink(t, c, cfg)
			defer closes(t, s)
			o := send(t, s, batchOf(laneOf(1), 1, 5))
			if o.Done != 0 || o.Class != lane.Ambiguous && o.Class != lane.Offline {
				t.Fatalf("%+v", o)
			}
			close(on)
			want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 5, lane.OK, "")
			n := 0
			for _, msgs := range read(t, c.ListenAddrs(), "target") {
				n += len(msgs)
			}
			if n != 6 {
				t.Errorf("%d records of 6 arrived", n)
			}
		})
	}
}

// The transaction was committed, and nobody heard of it: the records are done
// without being sent again.
func TestCommittedUnheard(t *testing.T) {
	t.Parallel()
	link := &badLink{rng: rand.New(rand.NewPCG(1, 1))}
	c := newCluster(t, kfake.ListenFn(link.listen), kfake.SeedTopics(1, "target"))
	s := newSink(t, c, kafka.Config{Topic: "target", RequestTimeout: conf.Duration(time.Second)})
	defer closes(t, s)
	want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 5, lane.OK, "")
	sent := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "target", Observe: true, Count: -1})
	c.ControlKey(kmsg.EndTxn.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		link.mute.Store(true) // the cluster ends it, and its answer gets nowhere
		return nil, nil, false
	})
	o := send(t, s, batchOf(laneOf(1), 6, 5))
	if o.Done != 0 || o.Class != lane.Ambiguous && o.Class != lane.Offline {
		t.Fatalf("%+v", o)
	}
	link.mute.Store(false)
	before := sent.Hits()
	want(t, send(t, s, batchOf(laneOf(1), 6, 5)), 5, lane.OK, "")
	again := newSink(t, c, kafka.Config{Topic: "target"})
	defer closes(t, again)
	want(t, send(t, again, batchOf(laneOf(1), 1, 10)), 10, lane.OK, "")
	if n := sent.Hits(); before != 1 || n != before {
		t.Errorf("%d requests with records, then %d with some that the topic held", before, n-before)
	}
	balance(t, c.ListenAddrs(), "target", 1, 10)
}

func TestFenced(t *testing.T) {
	t.Parallel()
	c := newCluster(t, kfake.SeedTopics(1, "target"))
	a, b := newSink(t, c, kafka.Config{Topic: "target"}), newSink(t, c, kafka.Config{Topic: "target"})
	defer closes(t, a)
	defer closes(t, b)
	want(t, send(t, a, batchOf(laneOf(1), 1, 5)), 5, lane.OK, "")
	want(t, send(t, b, batchOf(laneOf(1), 1, 10)), 10, lane.OK, "")
	want(t, send(t, a, batchOf(laneOf(1), 6, 10)), 0, lane.Misconfigured, "another gateway")
	want(t, send(t, a, batchOf(laneOf(1), 6, 10)), 10, lane.OK, "")
	balance(t, c.ListenAddrs(), "target", 1, 15)
}

func TestLogin(t *testing.T) {
	t.Parallel()
	for mechanism, kind := range map[string]string{"SCRAM-SHA-256": "scram-sha-256", "SCRAM-SHA-512": "scram-sha-512", "PLAIN": "plain"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			secret := filepath.Join(t.TempDir(), "secret")
			write := func(s string) {
				if err := os.WriteFile(secret, []byte(s+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c := newCluster(t, kfake.EnableSASL(), kfake.Superuser(mechanism, "forebay", "right"), kfake.SeedTopics(1, "target"))
			c.ControlKey(kmsg.SASLAuthenticate.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
				// kfake closes the connection where brokers answer first.
				resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
				resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
				return resp, nil, true
			})
			write("wrong")
			s := newSink(t, c, kafka.Config{Topic: "target", TLS: "off", SASL: kind, Username: "forebay", Password: conf.NewSecret("file:" + secret)})
			defer closes(t, s)
			want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 0, lane.Auth, "")
			want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 0, lane.Offline, "at the login")
			if err := s.Probe(t.Context()); err == nil || strings.Contains(err.Error(), "wrong") {
				t.Errorf("Probe: %v", err)
			}
			write("right") // is read anew, without a restart
			want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 5, lane.OK, "")
			if err := s.Probe(t.Context()); err != nil {
				t.Errorf("Probe: %v", err)
			}
		})
	}
}

// A user who may write to the topic and nothing else gets on without
// transactions, and is told so.
func TestAccessRules(t *testing.T) {
	t.Parallel()
	topic := func(op kmsg.ACLOperation) kfake.ACL {
		return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: "target", Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
	}
	c := newCluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.SeedTopics(1, "target"),
		kfake.Superuser("SCRAM-SHA-256", "admin", "admin"),
		kfake.User("SCRAM-SHA-256", "forebay", "right", topic(kmsg.ACLOperationWrite), topic(kmsg.ACLOperationDescribe)))
	cfg := kafka.Config{Topic: "target", SASL: "scram-sha-256", Username: "forebay", Password: conf.NewSecret("right")}
	s := newSink(t, c, cfg)
	defer closes(t, s)
	want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 0, lane.Auth, `transactions = "off"`)
	cfg.Transactions = "off"
	s = newSink(t, c, cfg)
	defer closes(t, s)
	want(t, send(t, s, batchOf(laneOf(1), 1, 5)), 5, lane.OK, "")
}

// Connections are encrypted, and each side shows who it is.
func TestTLS(t *testing.T) {
	t.Parallel()
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	c := newCluster(t, kfake.SeedTopics(1, "target"), kfake.TLS(&tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ours.pair(t, "broker")},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}))
	cert, key := ours.files(t, "gateway")
	bad, badKey := others.files(t, "gateway")
	for _, f := range []struct {
		cfg   kafka.Config
		done  int
		class lane.Class
		words string
	}{
		{kafka.Config{CA: ours.file, Cert: cert, Key: key}, 5, lane.OK, ""},
		{kafka.Config{CA: others.file, Cert: cert, Key: key}, 0, lane.Offline, "set ca to the authority's file"},
		{kafka.Config{CA: ours.file, Cert: bad, Key: badKey}, 0, lane.Auth, "our certificate"},
		{kafka.Config{CA: ours.file}, 0, lane.Auth, "our certificate"},
		{kafka.Config{TLS: "off"}, 0, lane.Offline, "TLS"},
	} {
		f.cfg.Topic, f.cfg.Transactions = "target", "off"
		s := newSink(t, c, f.cfg)
		o := send(t, s, batchOf(laneOf(1), 1, 5))
		want(t, o, f.done, f.class, f.words)
		closes(t, s)
	}
}

// What answers in HTML is no broker.
func TestCaptivePortal(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\nConnection: close\r\n\r\n")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	both(t, func(t *testing.T, cfg kafka.Config) {
		cfg.Brokers = []string{l.Addr().String()}
		s := newSink(t, nil, cfg)
		defer closes(t, s)
		o := send(t, s, batchOf(laneOf(1), 1, 5))
		if o.Done != 0 || o.Class != lane.Offline {
			t.Errorf("%+v", o)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := s.Probe(ctx); err == nil {
			t.Error("Probe finds a broker")
		}
	})
}
