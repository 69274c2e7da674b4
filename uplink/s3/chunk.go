package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

func hasChunk(r *record.Record) bool { return chunkLen(r) > 0 }

func chunkLen(r *record.Record) int64 { return max(r.Chunk.Len, int64(len(r.Blob))) }

// chunks sends the chunks of the records, each as an object of its own, so
// that the object with the records comes when they are there. It gives how far
// it got: a record whose chunk is lost is not among what it gives, unless that
// is the first, which is Poison.
func (s *Sink) chunks(ctx context.Context, w *work, v *view, recs []record.Record) ([]record.Record, error) {
	for i := range recs {
		if !hasChunk(&recs[i]) {
			continue
		}
		err := s.chunk(ctx, w, v, &recs[i])
		switch {
		case err == nil:
		case i > 0 && asError(err).Class == lane.Poison:
			return recs[:i], nil
		default:
			return nil, err
		}
	}
	return recs, nil
}

// chunk sends the chunk of one record.
func (s *Sink) chunk(ctx context.Context, w *work, v *view, r *record.Record) error {
	name := s.names.chunk(&v.place, r)
	if !v.sure { // an earlier try may have got this far
		w.out.Requests++
		h, err := s.store.head(ctx, name)
		if err != nil {
			return err
		}
		// What is there is the chunk only if it has its length: the answer may
		// be a portal's, and has no body to tell by.
		if h != nil && h.Get("Content-Length") == strconv.FormatInt(chunkLen(r), 10) {
			return nil
		}
	}
	body, err := s.open(w.Lane.Stream, r)
	if err != nil {
		return err
	}
	defer body.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, body)
	if err != nil {
		return lost(r, err)
	}
	put := upload{
		name: name, kind: r.Type, size: n, once: s.cfg.Conditional == "on", sum: sum.Sum(nil),
		open: func() (io.ReadCloser, error) { return s.open(w.Lane.Stream, r) },
	}
	_, err = s.put(ctx, w, &put)
	return err
}

// open opens a record's chunk. Its errors are Poison: the bytes are lost, here
// and for ever.
func (s *Sink) open(stream string, r *record.Record) (io.ReadSeekCloser, error) {
	if len(r.Blob) > 0 {
		return blob{bytes.NewReader(r.Blob)}, nil
	}
	if s.home.Chunk == nil {
		return nil, lost(r, fs.ErrNotExist)
	}
	b, err := s.home.Chunk(stream, r.Chunk)
	if err != nil {
		return nil, lost(r, err)
	}
	return b, nil
}

type blob struct{ *bytes.Reader }

func (blob) Close() error { return nil }

// lost is the error for a chunk that cannot be read. Only what says that the
// bytes are damaged or gone is final.
func lost(r *record.Record, err error) error {
	if e := (*lane.Error)(nil); errors.As(err, &e) {
		return e
	}
	damaged := (*record.CorruptError)(nil)
	switch {
	case errors.As(err, &damaged):
		return &lane.Error{Class: lane.Poison, Text: fmt.Sprintf("the %d bytes beside the record are damaged", r.Chunk.Len), Err: err}
	case errors.Is(err, fs.ErrNotExist):
		return &lane.Error{Class: lane.Poison, Text: fmt.Sprintf("the %d bytes beside the record are kept no longer", r.Chunk.Len)}
	}
	return &lane.Error{Class: lane.Transient, Text: "the bytes beside the record cannot be read", Err: err}
}
