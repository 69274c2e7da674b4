package s3

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"forebay/spool/record"
	"forebay/uplink/envelope"
	"forebay/uplink/kpl"
)

// An encoder makes the body of an object. It keeps its memory and is not safe
// for concurrent use.
type encoder interface {
	// begin starts an object, which is written to dst.
	begin(dst io.Writer)
	// add adds a record, or, where part is not 0, a part of one. chunk is the
	// name of the object with its chunk, "" if there is none.
	add(stream string, r *record.Record, part int, chunk string) error
	// end completes the object.
	end() error
}

// addAll adds a record as a table wants it: what was stored as one aggregate
// is as many rows as there are records in it, the ids of which end with their
// place in it, from 1.
func addAll(e encoder, stream string, r *record.Record, chunk string) error {
	a := kpl.Open(r.Data)
	if a == nil {
		return e.add(stream, r, 0, chunk)
	}
	one := *r
	for i, x := range a.All() {
		one.Key, one.Data = x.Key, x.Data
		if err := e.add(stream, &one, i+1, chunk); err != nil {
			return err
		}
	}
	return nil
}

// mediaType of objects of records, by the end of their names.
func mediaType(c *Config) (ext, kind string) {
	if c.Objects == "parquet" {
		return ".parquet", "application/vnd.apache.parquet"
	}
	switch c.Compression {
	case "gzip":
		return ".ndjson.gz", "application/gzip"
	case "none":
		return ".ndjson", "application/x-ndjson"
	}
	return ".ndjson.zst", "application/zstd"
}

func newEncoder(c *Config, id record.Identity) (encoder, error) {
	if c.Objects == "parquet" {
		return newParquet(id), nil
	}
	n := &ndjson{}
	if c.Format != "raw" {
		n.env = envelope.New(id)
	}
	switch c.Compression {
	case "none":
		n.out = &plainly{}
	case "gzip":
		w, err := gzip.NewWriterLevel(nil, 6)
		if err != nil {
			return nil, err
		}
		n.out = w
	default:
		// A window of a megabyte finds what repeats among readings, and costs
		// a reader and us little memory.
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
		if err != nil {
			return nil, fmt.Errorf("make a zstd encoder: %w", err)
		}
		n.out = w
	}
	return n, nil
}

// A compressor is used again and again.
type compressor interface {
	io.WriteCloser
	Reset(w io.Writer)
}

// plainly compresses nothing.
type plainly struct{ io.Writer }

func (plainly) Close() error         { return nil }
func (p *plainly) Reset(w io.Writer) { p.Writer = w }

// ndjson writes a JSON object a line.
type ndjson struct {
	env  *envelope.Writer // nil: the payload alone
	out  compressor
	line []byte
}

func (n *ndjson) begin(dst io.Writer) {
	n.out.Reset(dst)
}

func (n *ndjson) end() error { return n.out.Close() }

func (n *ndjson) add(stream string, r *record.Record, part int, chunk string) error {
	n.line = n.line[:0]
	if n.env == nil {
		n.line = appendRaw(n.line, r.Data)
	} else {
		if chunk != "" {
			r = withChunk(r, chunk)
		}
		n.line = n.env.AppendPart(n.line, stream, r, part)
	}
	n.line = append(n.line, '\n')
	_, err := n.out.Write(n.line)
	return err
}

// chunkAttr names the attribute with the name of the object that holds the
// record's chunk.
const chunkAttr = "chunk_object"

func withChunk(r *record.Record, chunk string) *record.Record {
	c := *r
	c.Attrs = make(map[string]string, len(r.Attrs)+1)
	maps.Copy(c.Attrs, r.Attrs)
	c.Attrs[chunkAttr] = chunk
	return &c
}

// appendRaw writes a payload as a line of JSON: as it is where it is one, JSON
// of many lines on one, other text as a string, bytes as base64 in an object.
func appendRaw(dst, data []byte) []byte {
	switch {
	case json.Valid(data) && utf8.Valid(data):
		if bytes.ContainsAny(data, "\r\n") {
			b := bytes.NewBuffer(dst)
			if json.Compact(b, data) == nil {
				return b.Bytes()
			}
		}
		return append(dst, data...)
	case utf8.Valid(data):
		return append(envelope.AppendEscaped(append(dst, '"'), string(data)), '"')
	}
	dst = append(dst, `{"data_b64":"`...)
	return append(base64.StdEncoding.AppendEncode(dst, data), `"}`...)
}
