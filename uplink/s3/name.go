package s3

import (
	"fmt"
	"mime"
	"strconv"
	"strings"
	"time"

	"forebay/spool/record"
)

// A place is where objects of one lane lie, whose records were stored under
// one name and epoch and arrived within one hour.
type place struct {
	stream string
	origin record.Origin
	shard  record.ShardID
	hour   int64 // since 1970, UTC
}

// Hours with a year of four digits, as Hive writes dates; a clock beyond them
// is taken for the nearest.
var (
	firstHour = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).Unix() / 3600
	lastHour  = time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC).Unix() / 3600
)

// hourOf is the hour of a time.
func hourOf(t time.Time) int64 {
	s := t.Unix()
	h := s / 3600
	if s%3600 < 0 {
		h--
	}
	return min(max(h, firstHour), lastHour)
}

// names makes and reads the names of objects.
type names struct {
	prefix string // ends with a slash
	here   record.Origin
	ext    string // of objects of records
}

func (n *names) placeOf(stream string, r *record.Record) place {
	p := place{stream: stream, origin: n.here, shard: r.Pos.Shard, hour: hourOf(r.Arrived)}
	if r.Origin != nil {
		p.origin = *r.Origin
	}
	return p
}

// partition is "STREAM/dt=YYYY-MM-DD/hr=HH/".
func (p *place) partition() string {
	return escape(p.stream, true) + time.Unix(p.hour*3600, 0).UTC().Format("/dt=2006-01-02/hr=15/")
}

// lane is what the names of the place's objects begin with, before the
// sequence number.
func (p *place) lane() string {
	return escape(p.origin.Gateway, false) + "." + p.origin.Epoch.String() + "." + strconv.FormatUint(uint64(p.shard), 10) + "."
}

// list is what all objects of records of a place begin with.
func (n *names) list(p *place) string { return n.prefix + p.partition() + p.lane() }

// object is the name of the object whose first record has the given sequence
// number. The number stands there turned around first, so that a target,
// which lists names in their order, lists the newest object of a place first.
func (n *names) object(p *place, first uint64) string {
	return n.list(p) + turned(first) + n.ext
}

// chunk is the name of the object with the bytes of a record's chunk. It lies
// beside the objects of records and not among them, where a reader of tables
// would stumble over it.
func (n *names) chunk(p *place, r *record.Record) string {
	return n.prefix + "_chunks/" + p.partition() + p.lane() + strconv.FormatUint(r.Pos.Seq, 10) + extension(r.Type)
}

// guard is the object that shows whether the target creates only what is not
// there.
func (n *names) guard() string { return n.prefix + "_forebay/" + escape(n.here.Gateway, false) }

func turned(seq uint64) string {
	return fmt.Sprintf("%016x.%d", ^seq, seq)
}

// first reads the sequence number out of a name that begins with list; false
// for an object that is none of ours.
func first(name, list string) (uint64, bool) {
	rest, ok := strings.CutPrefix(name, list)
	if !ok || len(rest) < 18 || rest[16] != '.' {
		return 0, false
	}
	v, err := strconv.ParseUint(rest[:16], 16, 64)
	if err != nil || !strings.HasPrefix(rest, turned(^v)+".") {
		return 0, false
	}
	return ^v, true
}

// An object is one that holds records, as its name says.
type object struct {
	name string
	size int64
	place
	first uint64
	ext   string // "ndjson.zst"
}

// parse reads the name of an object of records; false for one that is none.
func (n *names) parse(name string) (object, bool) {
	o := object{name: name}
	rest, ok := strings.CutPrefix(name, n.prefix)
	if !ok {
		return o, false
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 4 {
		return o, false
	}
	at, err := time.Parse("dt=2006-01-02/hr=15", parts[1]+"/"+parts[2])
	if err != nil {
		return o, false
	}
	o.hour = hourOf(at)
	f := strings.SplitN(parts[3], ".", 6) // gateway, epoch, shard, turned, first, extension
	if len(f) != 6 {
		return o, false
	}
	epoch, err1 := strconv.ParseUint(f[1], 16, 64)
	shard, err2 := strconv.ParseUint(f[2], 10, 32)
	seq, err3 := strconv.ParseUint(f[4], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return o, false
	}
	o.stream = unescape(parts[0])
	o.origin = record.Origin{Gateway: unescape(f[0]), Epoch: record.Epoch(epoch)}
	o.shard, o.first, o.ext = record.ShardID(shard), seq, f[5]
	own := names{prefix: n.prefix, ext: "." + o.ext}
	return o, own.object(&o.place, seq) == name
}

const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

// escape writes what is not plain as "!" and two hexadecimal digits; dots stay
// where they may, but for the names of directories.
func escape(s string, dots bool) string {
	if dots && (s == "." || s == "..") {
		dots = false
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; strings.IndexByte(plain, c) >= 0 || c == '.' && dots {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "!%02x", c)
		}
	}
	return b.String()
}

// unescape is the inverse of escape.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '!' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// extension is what the name of a chunk ends with.
func extension(mediaType string) string {
	base, _, err := mime.ParseMediaType(mediaType)
	if err != nil {
		return ".bin"
	}
	switch base {
	case "video/mp4":
		return ".mp4"
	case "video/mp2t":
		return ".ts"
	case "video/x-matroska", "video/matroska":
		return ".mkv"
	case "video/webm":
		return ".webm"
	case "video/quicktime":
		return ".mov"
	case "video/x-msvideo":
		return ".avi"
	case "image/jpeg":
		return ".jpg"
	case "image/png":
		return ".png"
	case "image/webp":
		return ".webp"
	case "audio/aac":
		return ".aac"
	case "audio/wav", "audio/x-wav":
		return ".wav"
	case "application/json":
		return ".json"
	case "text/plain":
		return ".txt"
	case "text/csv":
		return ".csv"
	}
	return ".bin"
}
