package s3

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/parquet-go/parquet-go"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/lane"
)

// ReadBack calls held with the folder and the id of every record in the bucket's
// objects that this gateway wrote, under whatever epoch: folder by folder, hour by
// hour, and within an hour each lane in its order. Records of [from, to) by
// arrival are given, where a zero time is no bound; of raw objects, and of
// records that came here in another gateway's envelope, the hour counts. The
// parts of an aggregate have ids of their own, ending with "/" and their place. An error of held ends it and is returned.
//
// Raw objects hold no ids; those are told from names and metadata, where the
// object holds every record from its first to its last.
func (s *Sink) ReadBack(ctx context.Context, from, to time.Time, held func(under, id string) error) error {
	streams, err := s.prefixes(ctx, s.names.prefix)
	if err != nil {
		return err
	}
	for _, p := range streams {
		name := strings.TrimSuffix(strings.TrimPrefix(p, s.names.prefix), "/")
		if name == "_chunks" || name == "_forebay" {
			continue
		}
		here := func(id string) error { return held(name, id) }
		days, err := s.prefixes(ctx, p+"dt=")
		if err != nil {
			return err
		}
		for _, d := range days {
			hours, err := s.prefixes(ctx, d+"hr=")
			if err != nil {
				return err
			}
			for _, h := range hours {
				if err := s.readHour(ctx, h, from, to, here); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// Under is the folder of a stream's records.
func (s *Sink) Under(stream string) string { return escape(stream, true) }

// prefixes lists the parts of names up to the next slash.
func (s *Sink) prefixes(ctx context.Context, prefix string) ([]string, error) {
	var out []string
	q := url.Values{"prefix": {prefix}, "delimiter": {"/"}}
	for {
		l, err := s.store.list(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, p := range l.CommonPrefixes {
			out = append(out, p.Prefix)
		}
		if !l.IsTruncated || l.NextContinuationToken == "" {
			return out, nil
		}
		q.Set("continuation-token", l.NextContinuationToken)
	}
}

// readHour reads the objects of one hour, whose names begin with prefix.
func (s *Sink) readHour(ctx context.Context, prefix string, from, to time.Time, held func(id string) error) error {
	at, err := time.Parse("/dt=2006-01-02/hr=15/", prefix[max(len(prefix)-len("/dt=2006-01-02/hr=15/"), 0):])
	if err != nil {
		return nil // none of ours
	}
	if !to.IsZero() && !at.Before(to) || !from.IsZero() && !at.Add(time.Hour).After(from) {
		return nil
	}
	var found []object
	q := url.Values{"prefix": {prefix + escape(s.home.ID.Gateway, false) + "."}}
	for {
		l, err := s.store.list(ctx, q)
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		for _, c := range l.Contents {
			if o, ours := s.names.parse(c.Key); ours {
				o.size = c.Size
				found = append(found, o)
			}
		}
		if !l.IsTruncated || l.NextContinuationToken == "" {
			break
		}
		q.Set("continuation-token", l.NextContinuationToken)
	}
	slices.SortFunc(found, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.origin.Epoch, b.origin.Epoch), cmp.Compare(a.shard, b.shard), cmp.Compare(a.first, b.first))
	})
	for i := range found {
		if err := s.readObject(ctx, &found[i], from, to, held); err != nil {
			return fmt.Errorf("read %s: %w", found[i].name, err)
		}
	}
	return nil
}

// maxRead is the largest object that is read into memory, as Parquet must be.
const maxRead = 1 << 30

func (s *Sink) readObject(ctx context.Context, o *object, from, to time.Time, held func(id string) error) error {
	resp, err := s.store.get(ctx, o.name, o.size)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	here := o.origin.Gateway + "/" + o.origin.Epoch.String() + "/"
	give := func(id string, arrived time.Time) error {
		if strings.HasPrefix(id, here) && (!from.IsZero() && arrived.Before(from) || !to.IsZero() && !arrived.Before(to)) {
			return nil
		}
		return held(id)
	}
	all := func(id string, _ time.Time) error { return held(id) }
	switch o.ext {
	case "parquet":
		if o.size > maxRead {
			return fmt.Errorf("it has %d bytes, too many to read", o.size)
		}
		b, err := io.ReadAll(io.LimitReader(resp.Body, o.size+1))
		if err != nil {
			return err
		}
		return readParquet(b, give)
	case "ndjson":
		return s.readLines(resp.Body, o, resp.Header, give, all)
	case "ndjson.gz":
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			return err
		}
		return s.readLines(z, o, resp.Header, give, all)
	case "ndjson.zst":
		z, err := zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return err
		}
		defer z.Close()
		return s.readLines(z, o, resp.Header, give, all)
	}
	return fmt.Errorf("its name ends with .%s, which is nothing that is read here", o.ext)
}

// maxLine is the longest line there is: 10 MiB as base64 in an envelope.
const maxLine = 32 << 20

// readLines reads NDJSON. What its lines are the object's header says.
func (s *Sink) readLines(r io.Reader, o *object, h http.Header, give, held func(string, time.Time) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	raw, n := h.Get(metaFormat) == "raw", uint64(0)
	for lines.Scan() {
		n++
		if raw {
			continue
		}
		e, err := envelope.Open(lines.Bytes())
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if err := give(e.ID, e.Arrived); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil || !raw {
		return err
	}
	last, ok1 := metaNumber(h, metaLast)
	recs, ok2 := metaNumber(h, metaCount)
	if !ok1 || !ok2 || recs != n || last-o.first+1 != n {
		return &lane.Error{Class: lane.Misconfigured, Text: "its lines are raw and hold no ids, and its records cannot be told from their number"}
	}
	id := record.Identity{Gateway: o.origin.Gateway, Epoch: o.origin.Epoch}
	for seq := o.first; seq <= last; seq++ {
		if err := held(id.ID(record.Pos{Shard: o.shard, Seq: seq}), time.Time{}); err != nil {
			return err
		}
	}
	return nil
}

// idRow is what ReadBack needs of a row.
type idRow struct {
	ID      string `parquet:"id"`
	Arrived int64  `parquet:"arrived,timestamp(microsecond)"`
}

// readParquet reads the ids of a Parquet object. The decoder panics at some
// kinds of damage: that is an error here.
func readParquet(b []byte, give func(string, time.Time) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the Parquet is damaged: %v", p)
		}
	}()
	f, err := parquet.OpenFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	r := parquet.NewGenericReader[idRow](f)
	defer r.Close()
	rows := make([]idRow, 512)
	for {
		n, err := r.Read(rows)
		for i := range rows[:n] {
			if err := give(rows[i].ID, time.UnixMicro(rows[i].Arrived)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
