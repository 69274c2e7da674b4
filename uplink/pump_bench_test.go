package uplink_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/kinesis"
	"forebay/uplink/lane"
)

// endless is a cursor over as many equal records as it is told.
type endless struct {
	recs []record.Record
	next uint64
	end  uint64
	done atomic.Uint64
	full chan struct{}
}

func (c *endless) Poll(_ context.Context, most int) (record.Batch, error) {
	n := int(min(uint64(most), c.end-c.next, uint64(len(c.recs))))
	for i := range n {
		c.next++
		c.recs[i].Pos.Seq = c.next
	}
	return record.Batch{Recs: c.recs[:n], Next: c.next + 1}, nil
}

func (c *endless) Next(ctx context.Context, most int) (record.Batch, error) {
	if b, err := c.Poll(ctx, most); len(b.Recs) > 0 || err != nil {
		return b, err
	}
	<-ctx.Done()
	return record.Batch{}, ctx.Err()
}

func (c *endless) Commit(upTo uint64, _ record.Tally) error {
	c.done.Store(upTo)
	if upTo == c.end {
		close(c.full)
	}
	return nil
}

func (c *endless) Backlog() record.Backlog {
	return record.Backlog{Records: c.end - c.done.Load()}
}

type benchLog []uplink.LaneCursor

func (l benchLog) Lanes(context.Context) ([]uplink.LaneCursor, error) { return l, nil }
func (l benchLog) Refuse(context.Context, string, record.Record, string) error {
	return fmt.Errorf("a benchmark refuses nothing")
}

// nullKinesis takes everything and looks at nothing.
func nullKinesis(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), "PutRecords") {
		fmt.Fprint(w, `{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE"}}`)
		return
	}
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return
	}
	if r.Header.Get("Content-Type") == cborMedia {
		n := bytes.Count(body, []byte("\x6cPartitionKey"))
		fmt.Fprint(w, "\xa1\x67Records\x9f"+strings.Repeat("\xa1\x6eSequenceNumber\x611", n)+"\xff")
		return
	}
	n := bytes.Count(body, []byte(`"PartitionKey":`))
	fmt.Fprint(w, `{"Records":[`+strings.Repeat(`{"SequenceNumber":"1","ShardId":"a"},`, n-1)+`{"SequenceNumber":"1","ShardId":"a"}]}`)
}

// BenchmarkDrain prints how many records a second go from a log in memory
// through the pump and the Kinesis sink to a null HTTP server in the same
// process: 100-byte JSON payloads, four lanes.
func BenchmarkDrain(b *testing.B) {
	for _, format := range []string{"envelope", "raw"} {
		for _, lanes := range []int{1, 4} {
			b.Run(fmt.Sprintf("%s/lanes=%d", format, lanes), func(b *testing.B) {
				srv := httptest.NewServer(http.HandlerFunc(nullKinesis))
				defer srv.Close()
				cfg := uplink.Config{ID: "x", Kinesis: kinesisConfig(&cloud{srv: srv}, kinesis.Config{Format: format})}
				quiet := slog.New(slog.DiscardHandler)
				sink, err := uplink.New(cfg, lane.Home{ID: identity, Log: quiet})
				if err != nil {
					b.Fatal(err)
				}
				data := fmt.Appendf(nil, `{"name":"temp","value":21.53,"unit":"Cel","quality":"good","time":"2026-11-22T10:00:00.123Z","n":%8d}`, 1)
				var log benchLog
				per := uint64(max(b.N/lanes, 1))
				for i := range lanes {
					c := &endless{end: per, full: make(chan struct{})}
					for range 4096 {
						c.recs = append(c.recs, record.Record{
							Key: "site/area/line/press-1/temp", Source: "mqtt", Data: data, Arrived: time.Now(), At: time.Now(), Pos: record.Pos{Shard: record.ShardID(i)},
						})
					}
					log = append(log, uplink.LaneCursor{Lane: laneOf(i), Cursor: c})
				}
				p := uplink.NewPump(cfg, sink, log, uplink.Options{Logger: quiet})
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				b.ReportAllocs()
				b.SetBytes(int64(len(data)))
				b.ResetTimer()
				go func() { done <- p.Run(ctx) }()
				for _, l := range log {
					<-l.Cursor.(*endless).full
				}
				b.StopTimer()
				b.ReportMetric(float64(per)*float64(lanes)/b.Elapsed().Seconds(), "records/s")
				b.ReportMetric(float64(p.Status().WireBytes)/float64(per)/float64(lanes), "wire-B/record")
				cancel()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
				if err := sink.Close(); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
