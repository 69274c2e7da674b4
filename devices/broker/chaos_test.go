package broker_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"forebay/devices/broker"
	"forebay/spool/record"
)

// Clients that come and go, a log that refuses now and then: what is
// acknowledged is stored, in order, and no memory is held at the end.
func TestChaos(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	var mu sync.Mutex
	dice := rand.New(rand.NewPCG(1, 2))
	trouble := true
	log.failWith(func(*record.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if !trouble {
			return nil
		}
		switch n := dice.IntN(2000); {
		case n < 2:
			return record.ErrFull
		case n < 4:
			return &record.InvalidError{Field: "data"}
		}
		return nil
	})
	b, addr := start(t, broker.Config{MaxPending: 50, MaxPendingBytes: 64 << 10}, log)
	time.AfterFunc(2*time.Second, func() { mu.Lock(); trouble = false; mu.Unlock() })
	acked := make([]map[string]bool, 8)
	var wg sync.WaitGroup
	for k := range acked {
		acked[k] = map[string]bool{}
		wg.Go(func() { chaosClient(t, addr, k, acked[k]) })
	}
	wg.Wait()
	stored := map[string]int{}
	for _, r := range log.records() {
		stored[string(r.Data[:12])]++
	}
	n := 0
	for k := range acked {
		for s := range acked[k] {
			n++
			if stored[s] == 0 {
				t.Fatalf("%s is acknowledged and not stored", s)
			}
		}
	}
	if n == 0 {
		t.Error("nothing was acknowledged")
	}
	eventually(t, "all connections are gone", func() bool { return b.Clients() == 0 })
	eventually(t, "no memory is held", func() bool { return b.Pending() == 0 })
	eventually(t, "nobody is held back", func() bool { s, _ := b.Health(); return s == "up" })
}

func chaosClient(t *testing.T, addr string, k int, acked map[string]bool) {
	dice := rand.New(rand.NewPCG(uint64(k), 7))
	serial := 0
	for round := range 12 {
		c := connect(t, addr, hello{id: fmt.Sprint("c", k), v5: k%2 == 0, persistent: k%3 == 0})
		sent := map[uint16]string{}
		var out []byte
		for id := uint16(1); id <= 400; id++ {
			serial++
			s := fmt.Sprintf("%02d-%09d", k, serial)
			qos := byte(dice.IntN(2))
			if qos == 1 {
				sent[id] = s
			}
			pad := make([]byte, dice.IntN(300))
			out = append(out, publishPacket(c.v5, qos, id, fmt.Sprint("t/", id%5), s+string(pad))...)
		}
		ended := make(chan struct{})
		go func() { // may be cut off
			defer close(ended)
			_ = c.SetWriteDeadline(time.Now().Add(patience))
			_, _ = c.Write(out)
		}()
		want := len(sent)
		if round%3 == 1 {
			want = dice.IntN(want)
		}
		last := uint16(0)
		for want > 0 {
			_ = c.SetReadDeadline(time.Now().Add(patience))
			p, err := c.read()
			if err != nil {
				break // 3.1.1, and a message that can never be stored
			}
			if p.kind() != 4 {
				continue
			}
			want--
			id := binary.BigEndian.Uint16(p.body)
			if id <= last {
				t.Errorf("acknowledgement of %d after %d", id, last)
			}
			last = id
			if p.code() == 0 {
				acked[sent[id]] = true
			}
		}
		_ = c.Close()
		<-ended
	}
}

func TestSilentClientIsClosed(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	b, addr := start(t, broker.Config{}, log)
	h := hello{id: "a", keepalive: 1, will: append(str("state"), str("silent")...), willFlags: 4}
	began := time.Now()
	connect(t, addr, h).ends()
	if d := time.Since(began); d < 1400*time.Millisecond {
		t.Errorf("closed after %s", d)
	}
	log.waitStored(t, 1)
	eventually(t, "it is gone", func() bool { return b.Clients() == 0 })
}
