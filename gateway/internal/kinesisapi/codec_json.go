package kinesisapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"forebay/spool/record"
)

const (
	jsonType = "application/x-amz-json-1.1"

	// maxValues is how many values a request may have, nested ones and those
	// that nothing reads included: a list of a million empty objects is short
	// to write and long to hold.
	maxValues = 20000
)

// jsonCodec is AWS JSON 1.1: blobs are base64, times are seconds.
type jsonCodec struct{}

func (jsonCodec) mediaType() string { return jsonType }

func (jsonCodec) decode(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	if !utf8.Valid(body) {
		return serialization("The request is not valid UTF-8.")
	}
	if len(body) > maxValues && jsonValues(body) > maxValues {
		return serialization("The request has more than %d values.", maxValues)
	}
	err := json.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if kind.Field == "" {
			return serialization("The request is not one JSON object but %s.", kind.Value)
		}
		return serialization("%s can not be converted to the type of%s.", kind.Value, quoted(memberPath(kind.Field)))
	}
	if _, ok := errors.AsType[base64.CorruptInputError](err); ok {
		return serialization("A blob is not in base64: %s.", err)
	}
	return serialization("The request is not one JSON object: %s.", err)
}

// memberPath is a path of fields without the embedded structs, which are no
// members of a request.
func memberPath(fields string) string {
	path := slices.DeleteFunc(strings.Split(fields, "."), func(f string) bool { return f == "" || f[0] >= 'a' })
	return strings.Join(path, ".")
}

// jsonValues is about how many values a text has, if it is JSON.
func jsonValues(b []byte) int {
	n := 1
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '[', '{', ',':
			n++
		case '"':
			i = jsonStringEnd(b, i+1)
		}
	}
	return n
}

// jsonStringEnd is where the quote stands that ends the string which begins at
// i; the end of b if none does.
func jsonStringEnd(b []byte, i int) int {
	for i < len(b) {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			break
		}
		at := i + n
		slashes := 0
		for at-slashes > i && b[at-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return at
		}
		i = at + 1
	}
	return len(b)
}

func (jsonCodec) encode(answer any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(answer); err != nil {
		return nil, internalFailure(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func (jsonCodec) putsHead(b []byte, _ int) []byte {
	return append(b, `{"EncryptionType":"NONE","Records":[`...)
}

func (jsonCodec) putStored(b []byte, i int, at *numberedShard, seq uint64) []byte {
	b = comma(b, i)
	b = append(b, `{"ShardId":"`...)
	b = append(b, at.name...)
	b = append(b, `","SequenceNumber":"`...)
	b = at.numbers.append(b, seq)
	return append(b, `"}`...)
}

func (jsonCodec) putFailed(b []byte, i int, code, text string) []byte {
	b = comma(b, i)
	b = append(b, `{"ErrorCode":`...)
	b = appendString(b, code)
	b = append(b, `,"ErrorMessage":`...)
	b = appendString(b, text)
	return append(b, '}')
}

func (jsonCodec) putsTail(b []byte, failed int) []byte {
	b = append(b, `],"FailedRecordCount":`...)
	b = strconv.AppendInt(b, int64(failed), 10)
	return append(b, '}')
}

func (jsonCodec) getsHead(b []byte) []byte { return append(b, `{"Records":[`...) }

func (jsonCodec) getRecord(b []byte, i int, at *numberedShard, r *record.Record) []byte {
	b = comma(b, i)
	b = append(b, `{"SequenceNumber":"`...)
	b = at.numbers.append(b, r.Pos.Seq)
	b = append(b, `","ApproximateArrivalTimestamp":`...)
	b = appendEpoch(b, r.Arrived)
	b = append(b, `,"PartitionKey":`...)
	b = appendString(b, r.Key)
	b = append(b, `,"EncryptionType":"NONE","Data":"`...)
	b = appendBase64(b, r.Data)
	return append(b, `"}`...)
}

// jsonRecordRoom is what a record has besides its key and its data.
const jsonRecordRoom = 256

func (jsonCodec) getRoom(r *record.Record) int {
	return jsonRecordRoom + 6*len(r.Key) + base64.StdEncoding.EncodedLen(len(r.Data))
}

func (c jsonCodec) getsTail(b []byte, t *getsTail) ([]byte, error) {
	members, err := c.encode(t)
	if err != nil {
		return nil, err
	}
	b = append(b, `],`...)
	return append(b, members[1:]...), nil // it has members, so that a comma stands before them
}

func comma(b []byte, i int) []byte {
	if i == 0 {
		return b
	}
	return append(b, ',')
}

// appendString writes a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendEscaped(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// appendEscaped is appendString for text that cannot stand as it is. Bytes that
// are not UTF-8 become U+FFFD.
func appendEscaped(b []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r) // U+FFFD for what is no rune
			i += n
			continue
		}
		i++
	}
	return append(b, '"')
}

// MarshalJSON writes seconds since 1970 with a fraction of milliseconds.
func (e epoch) MarshalJSON() ([]byte, error) { return appendEpoch(nil, time.Time(e)), nil }

func appendEpoch(b []byte, t time.Time) []byte {
	ms := t.UnixMilli()
	if ms < 0 {
		return strconv.AppendFloat(b, float64(ms)/1000, 'f', 3, 64)
	}
	b = strconv.AppendInt(b, ms/1000, 10)
	frac := ms % 1000
	return append(b, '.', byte('0'+frac/100), byte('0'+frac/10%10), byte('0'+frac%10))
}

// UnmarshalJSON reads seconds since 1970.
func (e *epoch) UnmarshalJSON(b []byte) error {
	sec, err := strconv.ParseFloat(string(b), 64)
	if err != nil || !(math.Abs(sec) <= latestTime) { // NaN too
		return &json.UnmarshalTypeError{Value: "value"}
	}
	*e = epoch(time.UnixMilli(int64(math.Round(sec * 1000))))
	return nil
}
