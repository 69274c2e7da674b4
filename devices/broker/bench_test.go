package broker_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"forebay/devices/broker"
)

// flood sends messages of QoS 1 until the counter is used up, window at most
// unacknowledged, and reads the acknowledgements.
func flood(ctx context.Context, addr, id string, window int, left *atomic.Int64) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(connectPacket(hello{id: id})); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		return err
	}
	one := publishPacket(false, 1, 1, "plant/line1/"+id+"/temperature", strings.Repeat("x", 100))
	at := 2 + 2 + len("plant/line1/"+id+"/temperature")
	if one[1]&0x80 != 0 {
		at++
	}
	out := make([]byte, 0, window*len(one))
	in := make([]byte, 4*window)
	var next uint16
	flying, have := 0, 0
	for {
		out = out[:0]
		for flying < window && left.Add(-1) >= 0 {
			if next++; next == 0 {
				next = 1
			}
			binary.BigEndian.PutUint16(one[at:], next)
			out = append(out, one...)
			flying++
		}
		if len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				return err
			}
		}
		if flying == 0 {
			return nil
		}
		n, err := c.Read(in[have:])
		if err != nil {
			return err
		}
		have += n
		for i := 0; i+4 <= have; i += 4 {
			if in[i] != 0x40 {
				return fmt.Errorf("packet %02x where PUBACK should be", in[i])
			}
			flying--
		}
		copy(in, in[have/4*4:have])
		have %= 4
	}
}

func benchFlood(b *testing.B, publishers, window int) {
	log := newLog(b)
	log.keep = false
	_, addr := start(b, broker.Config{}, log)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for i := range publishers {
		wg.Go(func() {
			if err := flood(b.Context(), addr, fmt.Sprintf("p%d", i), window, &left); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	if log.mu.Lock(); log.count != b.N {
		b.Errorf("%d records of %d messages", log.count, b.N)
	}
	log.mu.Unlock()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// QoS 1, 100 bytes, generator and broker on the same cores, a log that commits at once.
func BenchmarkQoS1_8x100(b *testing.B)  { benchFlood(b, 8, 100) }
func BenchmarkQoS1_1x1(b *testing.B)    { benchFlood(b, 1, 1) }
func BenchmarkQoS1_200x50(b *testing.B) { benchFlood(b, 200, 50) }
