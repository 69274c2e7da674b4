package s3

import (
	"bytes"
	"encoding/json"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/parquet-go/parquet-go"

	"forebay/spool/record"
	"forebay/uplink/envelope"
)

// A row is the schema of Parquet objects. Times are in microseconds, UTC. What
// came here in another gateway's envelope stands in it as that gateway wrote
// it. Data is the payload where it is text, Bytes where it is not; Value is
// its number, where it is one, or JSON with a number in the field "value".
type row struct {
	ID         string            `parquet:"id"`
	Gateway    string            `parquet:"gateway,dict"`
	Epoch      string            `parquet:"epoch,dict"`
	Shard      int64             `parquet:"shard,dict"`
	Seq        int64             `parquet:"seq,delta"`
	Stream     string            `parquet:"stream,dict"`
	Key        string            `parquet:"key,dict"`
	At         time.Time         `parquet:"at,optional,timestamp(microsecond),delta"`
	Arrived    int64             `parquet:"arrived,timestamp(microsecond),delta"`
	Source     string            `parquet:"source,dict"`
	Type       string            `parquet:"type,dict"`
	Attrs      map[string]string `parquet:"attrs" parquet-key:"key,dict" parquet-value:"value,dict"`
	Value      *float64          `parquet:"value,optional"`
	Data       []byte            `parquet:"data,optional,string"`
	Bytes      []byte            `parquet:"data_bytes,optional"`
	Chunk      *string           `parquet:"chunk,optional"`
	ChunkBytes *int64            `parquet:"chunk_bytes,optional"`
}

const (
	// rowsAtOnce is how many rows are handed to the writer together.
	rowsAtOnce = 256
	// pageBytes is about how large a page grows before it is compressed: each
	// column holds one, so that 256 KiB cost five times the memory.
	pageBytes = 64 << 10
)

// parquetWriter writes rows.
type parquetWriter struct {
	here   record.Origin
	schema *parquet.Schema
	w      *parquet.GenericWriter[row]
	rows   []row
	size   int // of the payloads in rows

	of    record.Origin // of the record before
	epoch string        // of it, as text
	text  []byte
}

func newParquet(id record.Identity) *parquetWriter {
	return &parquetWriter{here: record.Origin{Gateway: id.Gateway, Epoch: id.Epoch}, schema: parquet.SchemaOf(row{}), rows: make([]row, 0, rowsAtOnce)}
}

func (p *parquetWriter) begin(dst io.Writer) {
	clear(p.rows)
	p.rows, p.size = p.rows[:0], 0
	// A writer is not used again: v0.32.0 forgets the names of the columns in
	// the footer after Reset, and readers other than its own then fail.
	p.w = parquet.NewGenericWriter[row](dst, p.schema,
		// Version 1 of the data page is what every reader knows.
		parquet.DataPageVersion(1), parquet.Compression(&parquet.Zstd), parquet.PageBufferSize(pageBytes), parquet.CreatedBy("forebay", "", ""))
}

func (p *parquetWriter) end() error {
	if err := p.flush(); err != nil {
		return err
	}
	defer func() { p.w = nil }()
	return p.w.Close()
}

func (p *parquetWriter) flush() error {
	_, err := p.w.Write(p.rows)
	clear(p.rows)
	p.rows, p.size = p.rows[:0], 0
	return err
}

func (p *parquetWriter) add(stream string, r *record.Record, part int, chunk string) error {
	p.rows = append(p.rows, p.row(stream, r, part, chunk))
	p.size += len(r.Data)
	if len(p.rows) == rowsAtOnce || p.size > pageBytes {
		return p.flush()
	}
	return nil
}

func (p *parquetWriter) row(stream string, r *record.Record, part int, chunk string) row {
	if envelope.Forwarded(r) {
		if o, err := envelope.Open(r.Data); err == nil {
			return foreignRow(&o, r.Key)
		}
	}
	o := &p.here
	if r.Origin != nil {
		o = r.Origin
	}
	if *o != p.of || p.epoch == "" {
		p.of, p.epoch = *o, o.Epoch.String()
	}
	x := row{
		ID: p.name(r.Pos, part), Gateway: o.Gateway, Epoch: p.epoch, Shard: int64(r.Pos.Shard), Seq: int64(r.Pos.Seq),
		Stream: stream, Key: r.Key, At: r.At, Arrived: r.Arrived.UnixMicro(), Source: r.Source, Type: r.Type, Attrs: r.Attrs,
	}
	if n := max(r.Chunk.Len, int64(len(r.Blob))); n > 0 {
		x.ChunkBytes = &n
	}
	if chunk != "" {
		x.Chunk = &chunk
	}
	x.payload(r.Data)
	return x
}

// name is the id of a record of the origin at hand, or of a part of one.
func (p *parquetWriter) name(pos record.Pos, part int) string {
	b := append(append(p.text[:0], p.of.Gateway...), '/')
	b = append(append(b, p.epoch...), '/')
	b = strconv.AppendUint(b, uint64(pos.Shard), 10)
	b = strconv.AppendUint(append(b, '/'), pos.Seq, 10)
	if part > 0 {
		b = strconv.AppendInt(append(b, '/'), int64(part), 10)
	}
	p.text = b
	return string(b)
}

// foreignRow is the row of what came in another gateway's envelope, perhaps
// with its key beside it.
func foreignRow(o *envelope.Opened, key string) row {
	if o.Key != "" {
		key = o.Key
	}
	x := row{
		ID: o.ID, Stream: o.Stream, Key: key, At: o.At, Arrived: o.Arrived.UnixMicro(),
		Source: o.Source, Type: o.Type, Attrs: o.Attrs,
	}
	x.Gateway, x.Epoch, x.Shard, x.Seq = splitID(o.ID)
	if o.Chunk > 0 {
		x.ChunkBytes = &o.Chunk
	}
	x.payload(o.Data)
	return x
}

// splitID takes GATEWAY/EPOCH/SHARD/SEQ and perhaps /INDEX apart.
func splitID(id string) (gateway, epoch string, shard, seq int64) {
	f := strings.Split(id, "/")
	for i := len(f) - 3; i > 0; i-- {
		if len(f[i]) != 16 {
			continue
		}
		sh, err1 := strconv.ParseInt(f[i+1], 10, 64)
		sq, err2 := strconv.ParseInt(f[i+2], 10, 64)
		if err1 == nil && err2 == nil {
			return strings.Join(f[:i], "/"), f[i], sh, sq
		}
	}
	return "", "", 0, 0
}

// payload sets Data or Bytes, and Value.
func (x *row) payload(data []byte) {
	if len(data) == 0 {
		return
	}
	if !utf8.Valid(data) {
		x.Bytes = data
		return
	}
	x.Data, x.Value = data, number(data)
}

// number is the number that a payload is or has in its field "value", nil if
// there is none.
func number(data []byte) *float64 {
	text := bytes.TrimSpace(data)
	if len(text) == 0 {
		return nil
	}
	if text[0] == '{' {
		if !bytes.Contains(text, []byte(`"value"`)) {
			return nil
		}
		var in struct {
			Value json.RawMessage `json:"value"`
		}
		if json.Unmarshal(text, &in) != nil {
			return nil
		}
		text = in.Value
	}
	if len(text) == 0 || (text[0] != '-' && (text[0] < '0' || text[0] > '9')) || !json.Valid(text) {
		return nil
	}
	v, err := strconv.ParseFloat(string(text), 64)
	if err != nil || math.IsInf(v, 0) {
		return nil
	}
	return &v
}
