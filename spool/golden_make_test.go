package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"forebay/spool"
	"forebay/spool/record"
)

// goldenStreams are of several classes, so that they lie in several logs.
func goldenStreams() []spool.StreamConfig {
	return []spool.StreamConfig{
		{Name: "mqtt", Shards: 4},
		{Name: "serial"},
		{Name: "video", Class: record.ClassVideo},
		{Name: "alarms", Class: record.ClassAlarm},
		{Name: "quarantine"},
	}
}

// fillGolden writes everything that a format has a place for, and reads a part
// of it through cursors. damage flips a byte of a file while the spool is
// closed.
func fillGolden(ctx context.Context, dir string, cfg spool.Config, damage func() error) (*spool.Spool, error) {
	var s *spool.Spool
	streams := map[string]*spool.Stream{}
	open := func() (err error) {
		if s, err = spool.Open(ctx, dir, cfg, nil); err != nil {
			return err
		}
		all := goldenStreams()
		if cfg.KeyFile != "" {
			all = append(all, spool.StreamConfig{Name: sealedStream, Encrypt: true})
		}
		for _, c := range all {
			if streams[string(c.Name)], err = s.Ensure(ctx, c); err != nil {
				return err
			}
		}
		return nil
	}
	put := func(stream string, recs ...record.Record) error {
		if streams[stream] == nil {
			return nil
		}
		res, err := streams[stream].Put(ctx, recs)
		for _, r := range res {
			err = errors.Join(err, r.Err)
		}
		return err
	}
	if err := open(); err != nil {
		return nil, err
	}
	for round := range 3 {
		if err := goldenRound(round, put); err != nil {
			return nil, err
		}
		if round == 2 {
			break // the newest records stay in the active segments
		}
		for _, t := range streams {
			if err := spool.Roll(t); err != nil {
				return nil, err
			}
		}
	}
	s.Shed("mqtt", 7)
	if err := s.Close(); err != nil {
		return nil, err
	}
	if err := damage(); err != nil {
		return nil, err
	}
	if err := open(); err != nil {
		return nil, err
	}
	if err := goldenRound(3, put); err != nil {
		return nil, err
	}
	s.Shed("line-1", 2)
	if err := reshapeGolden(ctx, s, streams); err != nil {
		return nil, err
	}
	return s, readGolden(ctx, s)
}

// reshapeGolden gives streams other shards, deletes one and leaves a note.
func reshapeGolden(ctx context.Context, s *spool.Spool, streams map[string]*spool.Stream) error {
	gone, err := s.CreateStream(ctx, spool.StreamConfig{Name: "gone", Shards: 2})
	if err != nil {
		return err
	}
	if _, err := gone.Put(ctx, []record.Record{{Key: "a", Source: "gone"}, {Key: "b", Source: "gone"}}); err != nil {
		return err
	}
	err = errors.Join(
		s.Delete(ctx, "gone", "ken"),
		s.Rescale(ctx, streams["mqtt"], 3),
		s.Split(ctx, streams["serial"], streams["serial"].Shards()[0].ID, record.HashKey{0x40}),
		s.SetNote(ctx, streams["alarms"], `{"tags":{"line":"1"}}`),
	)
	if sealed := streams[sealedStream]; err == nil && sealed != nil {
		err = s.Rescale(ctx, sealed, 2)
	}
	if err != nil {
		return err
	}
	for name, t := range streams {
		if _, err := t.Put(ctx, []record.Record{{Key: "behind", Source: "late", SourceSeq: uint64(len(name)), Data: []byte(name)}}); err != nil {
			return err
		}
	}
	return nil
}

// goldenRound stores some of everything.
func goldenRound(round int, put func(string, ...record.Record) error) error {
	at := time.Date(2026, 11, 20, 12, round, 0, 123456789, time.UTC)
	var recs []record.Record
	for i := range 40 {
		n := round*40 + i
		r := record.Record{
			Key: fmt.Sprintf("plant/line%d/temp", n%9), Source: "mqtt", SourceSeq: uint64(n + 1), Type: "application/json",
			Data: fmt.Appendf(nil, `{"name":"temp","value":%d.5,"unit":"Cel","n":%d}`, 20+n%5, n),
		}
		switch n % 4 {
		case 1:
			r.At, r.TimeQ = at.Add(-time.Duration(n)*time.Hour), record.TimeDevice
		case 2:
			r.Attrs = map[string]string{"topic": strings.Repeat("long/", 20), "größe": "ja", "empty": ""}
		case 3:
			r.HashKey = &record.HashKey{byte(n * 7), 15: byte(n)}
			r.TimeQ, r.Type = record.TimeUnsynchronised, ""
		}
		recs = append(recs, r)
	}
	large := bytes.Repeat(fmt.Appendf(nil, "waveform %d ", round), 30_000) // beyond what a block holds
	return errors.Join(
		put("mqtt", recs...),
		put("mqtt", record.Record{Key: "waveform", Source: "mqtt", SourceSeq: uint64(1000 + round), Type: "application/octet-stream", Data: large}),
		put("serial", record.Record{Key: "line-1", Source: "line-1", SourceSeq: uint64(2*round + 1), Data: []byte("+0012.3 kg\r\n")},
			record.Record{Key: "line-1", Source: "line-1", SourceSeq: uint64(2*round + 2)}),
		put("video", record.Record{Key: "camera-1", Source: "video", Type: "video/mp4", Data: []byte(`{"camera":"camera-1"}`), Blob: bytes.Repeat([]byte{byte(round), 1, 2, 3}, 5_000)},
			record.Record{Key: "camera-1", Source: "video", Type: "image/jpeg", Blob: []byte("small")}),
		put("alarms", record.Record{Key: "hot/line1", Source: "rules", Type: "application/json", Data: []byte(`{"event":"raised"}`), At: at}),
		goldenBeside(round, put),
		put(sealedStream, record.Record{Key: "door", Source: "gate", SourceSeq: uint64(round + 1), Type: "text/plain", Attrs: map[string]string{"who": "nobody"}, Data: fmt.Appendf(nil, "open %d", round)},
			record.Record{Key: "door", Source: "gate", Data: large[:260<<10*(round/3)], Blob: bytes.Repeat([]byte{byte(round), 9}, 4_000)}),
		put("quarantine", record.Record{Key: "plant/bad", Source: "mqtt", SourceSeq: uint64(2000 + round), Data: []byte{0xff, 0xfe, byte(round)}}),
	)
}

// goldenBeside stores, once, a body that is large enough to lie in the chunk
// file and that cannot be packed.
func goldenBeside(round int, put func(string, ...record.Record) error) error {
	if round != 1 {
		return nil
	}
	data := make([]byte, 80<<10)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data) // never fails
	return put("mqtt", record.Record{Key: "picture", Source: "mqtt", SourceSeq: 3000, Data: data[:40<<10]}, record.Record{Key: "picture", Source: "mqtt", SourceSeq: 3001, Data: data[40<<10:]})
}

// readGolden leaves cursors at the beginning, in the middle and at the end.
func readGolden(ctx context.Context, s *spool.Spool) error {
	for _, c := range []struct {
		name, stream string
		part         uint64 // of 4
	}{{"cloud", "mqtt", 4}, {"cloud", "alarms", 2}, {"cloud", "video", 0}, {"lake", "mqtt", 1}, {"lake", "quarantine", 4}} {
		t, err := s.Stream(c.stream)
		if err != nil {
			return err
		}
		for _, sh := range t.Shards() {
			cur, err := t.Cursor(ctx, c.name, sh.ID, spool.Oldest())
			if err != nil {
				return err
			}
			if err := passGolden(ctx, cur, 1+(sh.Next-1)*c.part/4); err != nil {
				return err
			}
			if err := cur.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

func passGolden(ctx context.Context, cur *spool.Cursor, to uint64) error {
	for cur.Committed() < to {
		b, err := cur.Next(ctx, int(min(to-cur.Committed(), 10)))
		if _, ok := errors.AsType[*record.CorruptError](err); ok {
			continue
		}
		if err != nil {
			return err
		}
		tally := record.Tally{Delivered: uint64(len(b.Recs))}
		if tally.Delivered > 2 {
			tally = record.Tally{Delivered: tally.Delivered - 2, Filtered: 1, Refused: 1}
		}
		if err := cur.Commit(b.Next-1, tally); err != nil {
			return err
		}
	}
	return nil
}
