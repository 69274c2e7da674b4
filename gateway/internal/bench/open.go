package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// smallSegment is the size of segment files that a spool with thousands of
// them has here, bytes.
const smallSegment = 256 << 10

// fullWord is what Fill says when the spool is as large as it should be.
const fullWord = "full"

// opens kills a process that fills a spool, and measures how long the next one
// takes to open it and what it then holds in memory: one large spool, and one
// of many small segments.
func (b *bench) opens(ctx context.Context) error {
	if b.Child == nil {
		return nil
	}
	if err := b.reopen(ctx, "", b.Size, 0, 0); err != nil {
		return err
	}
	return b.reopen(ctx, "small ", 0, smallSegment, b.Segments)
}

func (b *bench) reopen(ctx context.Context, small string, size, segment int64, segments int) (err error) {
	b.tell("fill a spool of %sB, %d segments or more, kill -9, open it", number(float64(size)), segments)
	dir := b.path("open")
	defer func() { err = errors.Join(err, b.remove("open")) }()
	if err := b.fillAndKill(ctx, dir, size, segment, segments); err != nil {
		return err
	}
	files, err := segmentFiles(dir)
	if err != nil {
		return err
	}
	cold := b.dropCaches()
	var out, errOut bytes.Buffer
	cmd := b.Child(ctx, "reopen", dir, b.Idle.String())
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("open the spool after kill -9: %w: %s", err, errOut.Bytes())
	}
	var o Opened
	if err := json.Unmarshal(out.Bytes(), &o); err != nil {
		return fmt.Errorf("open the spool after kill -9: %w", err)
	}
	cache := "page cache warm"
	if cold {
		cache = "page cache emptied"
	}
	what := fmt.Sprintf("%s in %d %ssegments", number(float64(o.Bytes))+"B", len(files), small)
	b.add(Line{
		Work: "reopen after kill -9, " + what, Unit: "s", Figure: one(o.Seconds), Note: fmt.Sprintf("%s; %s records", cache, number(float64(o.Records))),
		Targets: []Target{atMost("reopen after kill -9 <= 2 s", o.Seconds, 2)},
	})
	rss := Line{Work: "idle RSS, " + what, Unit: "MB", Figure: one(o.IdleMB), Note: fmt.Sprintf("%.1f MB when it was open", o.OpenMB)}
	if o.IdleMB > 0 {
		rss.Targets = []Target{below("idle RSS < 64 MB", o.IdleMB, 64)}
	}
	b.add(rss)
	return nil
}

func (b *bench) fillAndKill(ctx context.Context, dir string, size, segment int64, segments int) error {
	cmd := b.Child(ctx, "fill", dir, strconv.FormatInt(size, 10), strconv.FormatInt(segment, 10), strconv.Itoa(segments), strconv.Itoa(b.Payload))
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a process that fills a spool: %w", err)
	}
	line, err := bufio.NewReader(pipe).ReadString('\n')
	killed := cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil || line != fullWord+"\n" {
		return fmt.Errorf("the process that fills a spool ended early: %q: %w", errOut.String(), errors.Join(err, killed))
	}
	return killed
}

// Fill makes a spool of so many bytes and segments, says so, and goes on until
// it is killed. Its arguments are a directory, bytes, bytes a segment (0 is the
// default), segments and bytes a record.
func Fill(ctx context.Context, out io.Writer, args []string) (err error) {
	if len(args) != 5 {
		return errors.New("fill: a directory and four numbers are needed")
	}
	var n [4]int64
	for i := range n {
		if n[i], err = strconv.ParseInt(args[i+1], 10, 64); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	size, segment, segments := n[0], n[1], int(n[2])
	cfg := spool.Config{Gateway: "bench", Segment: conf.Size(segment), Quota: conf.Size(2*size + 4*segment*n[2] + 64<<20)}
	s, err := spool.Open(ctx, args[0], cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	st, err := makeStream(ctx, s, "bench", 4)
	if err != nil {
		return err
	}
	keys, p := shardKeys(st), randomPayloads(int(n[3]))
	recs := make([]record.Record, max(1, (128<<10)/p.size))
	told := false
	for i := 0; ; i++ {
		data := p.take(i, len(recs))
		for j := range recs {
			recs[j] = record.Record{Key: keys[j%len(keys)], Source: "bench", Data: data[j*p.size : (j+1)*p.size]}
		}
		if err := put(ctx, st, recs); err != nil {
			return err
		}
		if told || i%16 != 0 || s.Stats().Used < size {
			continue
		}
		files, err := segmentFiles(args[0])
		if err != nil {
			return err
		}
		if told = len(files) >= segments; told {
			if _, err := fmt.Fprintln(out, fullWord); err != nil {
				return err
			}
		}
	}
}

func segmentFiles(dir string) ([]string, error) {
	return filepath.Glob(filepath.Join(dir, "log-*", "*.seg"))
}

// Opened is what Reopen found.
type Opened struct {
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes"`
	Records uint64  `json:"records"`
	OpenMB  float64 `json:"open_mb"` // resident right after
	IdleMB  float64 `json:"idle_mb"` // and after a while without work
}

// Reopen opens the spool in the directory that is its first argument, waits as
// long as the second says while nothing happens, and prints what it saw.
func Reopen(ctx context.Context, out io.Writer, args []string) (err error) {
	if len(args) != 2 {
		return errors.New("reopen: a directory and a duration are needed")
	}
	idle, err := time.ParseDuration(args[1])
	if err != nil {
		return fmt.Errorf("reopen: %w", err)
	}
	if _, err := os.Stat(args[0]); err != nil {
		return err
	}
	began := time.Now()
	s, err := spool.Open(ctx, args[0], spool.Config{Gateway: "bench"}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	o := Opened{Seconds: time.Since(began).Seconds(), OpenMB: residentMB("self")}
	select {
	case <-time.After(idle):
	case <-ctx.Done():
		return ctx.Err()
	}
	o.IdleMB, o.Bytes = residentMB("self"), s.Stats().Used
	for _, st := range s.Streams() {
		for _, sh := range st.Shards() {
			o.Records += sh.Next - sh.First
		}
	}
	return json.NewEncoder(out).Encode(o)
}
