package sigv4

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// The payload in chunks (aws-chunked), as the Amazon S3 API Reference has it
// in "Transferring Payload in Multiple Chunks", with and without trailing
// headers. Errors that only S3 has a name for have that name.

const (
	unsignedPayload  = "UNSIGNED-PAYLOAD"
	streamingSigned  = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	streamingTrailer = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
	streamingPlain   = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

	algorithmChunk   = "AWS4-HMAC-SHA256-PAYLOAD"
	algorithmTrailer = "AWS4-HMAC-SHA256-TRAILER"

	headerDecodedLength = "X-Amz-Decoded-Content-Length"
	headerTrailer       = "X-Amz-Trailer"
	trailerSignature    = "x-amz-trailer-signature"

	// minChunk is the least a signed chunk holds, but for the last with data.
	// It bounds the number of signatures that a body costs.
	minChunk = 8 << 10
	// maxChunkLine bounds the line before a chunk: 16 digits and a signature
	// make 97 characters.
	maxChunkLine = 128
	// maxTrailers and maxTrailerLine bound what follows the last chunk.
	maxTrailers    = 8
	maxTrailerLine = 256
)

// A payloadForm is how the payload is sent.
type payloadForm struct{ chunked, signed, trailer bool }

// formOf is the form that a declared hash stands for which is no hash.
func formOf(declared string) (payloadForm, bool) {
	switch declared {
	case unsignedPayload:
		return payloadForm{}, true
	case streamingSigned:
		return payloadForm{chunked: true, signed: true}, true
	case streamingTrailer:
		return payloadForm{chunked: true, signed: true, trailer: true}, true
	case streamingPlain:
		return payloadForm{chunked: true, trailer: true}, true
	}
	return payloadForm{}, false
}

// An unchunker takes a body apart.
type unchunker struct {
	form  payloadForm
	sig   *Signature
	key   *sum   // nil: signatures are not compared
	last  sum    // the signature before this one; the request's at first
	rest  []byte // of the body
	short bool   // a chunk under minChunk has been seen
}

func malformed(format string, args ...any) *Error {
	return refuse("IncompleteBody", "The request body is not in the aws-chunked form: "+format+".", args...)
}

func must(yes bool) string {
	if yes {
		return "must"
	}
	return "must not"
}

// payload gives what the chunks hold, written over the body.
func (u *unchunker) payload(r *http.Request, body []byte) ([]byte, error) {
	want, err := decodedLength(r)
	if err != nil {
		return nil, err
	}
	names, err := u.trailerNames(r)
	if err != nil {
		return nil, err
	}
	u.rest = body
	out := body[:0]
	for {
		data, err := u.chunk()
		if err != nil {
			return nil, err
		}
		if len(data) == 0 {
			break
		}
		out = append(out, data...) // behind what has been read
	}
	if int64(len(out)) != want {
		return nil, malformed("it holds %d bytes and X-Amz-Decoded-Content-Length says %d", len(out), want)
	}
	if u.form.trailer {
		if err := u.trailers(names, out); err != nil {
			return nil, err
		}
	} else if err := u.end(); err != nil {
		return nil, err
	}
	if len(u.rest) > 0 {
		return nil, malformed("something follows its end")
	}
	dropChunked(r.Header)
	return out, nil
}

func decodedLength(r *http.Request) (int64, error) {
	values := r.Header[headerDecodedLength]
	if len(values) != 1 {
		return 0, refuse("MissingContentLength", "You must provide the X-Amz-Decoded-Content-Length HTTP header, once.")
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil {
		return 0, refuse("MissingContentLength", "X-Amz-Decoded-Content-Length must be a number of bytes. Got%s.", quoted(values[0]))
	}
	return int64(n), nil
}

// trailerNames are the trailing headers that the request announces, sorted.
func (u *unchunker) trailerNames(r *http.Request) ([]string, error) {
	if !u.form.trailer {
		return nil, nil
	}
	var names []string
	for _, v := range r.Header[headerTrailer] {
		for name := range strings.SplitSeq(v, ",") {
			name = strings.ToLower(strings.TrimSpace(name))
			if newChecksum(name) == nil {
				return nil, refuse("InvalidRequest", "The value specified in the x-amz-trailer header is not supported:%s.", quoted(name))
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if n := len(names); n == 0 || n > maxTrailers || len(slices.Compact(slices.Clone(names))) < n {
		return nil, refuse("InvalidRequest", "The x-amz-trailer header must name the trailing checksum, each once.")
	}
	return names, nil
}

// chunk takes the next chunk off; the last is empty.
func (u *unchunker) chunk() ([]byte, error) {
	line, ok := u.line(maxChunkLine)
	if !ok {
		return nil, malformed("the line before a chunk is missing or too long")
	}
	digits, ext, extended := strings.Cut(line, ";")
	if extended != u.form.signed {
		return nil, malformed("the line before a chunk %s have a signature", must(u.form.signed))
	}
	size, err := strconv.ParseUint(digits, 16, 32)
	if err != nil {
		return nil, malformed("the size of a chunk must be a hexadecimal number")
	}
	if size > uint64(len(u.rest)) {
		return nil, malformed("it ends within a chunk")
	}
	data := u.rest[:size]
	if u.form.signed {
		if size > 0 && u.short {
			return nil, refuse("InvalidChunkSizeError", "Only the last chunk is allowed to have a size less than %d bytes.", minChunk)
		}
		u.short = size < minChunk
		given, ok := strings.CutPrefix(ext, "chunk-signature=")
		if err := u.check(given, ok, algorithmChunk, emptySum, data); err != nil {
			return nil, err
		}
	}
	u.rest = u.rest[size:]
	if size > 0 {
		if err := u.end(); err != nil {
			return nil, err
		}
	}
	return data, nil
}

var emptySum = hex.EncodeToString(sha256.New().Sum(nil))

// check compares a signature of a chunk or of the trailers, and makes it the
// one that the next is built on. lines stand before the hash of data.
func (u *unchunker) check(given string, found bool, what, lines string, data []byte) error {
	var sent sum
	if !found || !decodeSum(&sent, given) {
		return malformed("a signature must be %d lower-case hexadecimal digits", hex.EncodedLen(len(sent)))
	}
	if u.key == nil {
		return nil
	}
	b := u.sig.appendScope(append(make([]byte, 0, 384), what...))
	b = hex.AppendEncode(append(b, '\n'), u.last[:])
	if lines != "" {
		b = append(append(b, '\n'), lines...)
	}
	hash := sha256.Sum256(data)
	want := mac(u.key[:], hex.AppendEncode(append(b, '\n'), hash[:]))
	if subtle.ConstantTimeCompare(want[:], sent[:]) != 1 {
		return badSignature(textMismatch)
	}
	u.last = want
	return nil
}

// trailers reads the trailing headers and checks what they say of the payload.
func (u *unchunker) trailers(names []string, payload []byte) error {
	values := make(map[string]string, len(names))
	signature, signed := "", false
	for range maxTrailers + 2 {
		line, ok := u.line(maxTrailerLine)
		if !ok {
			return malformed("a line of the trailer is missing or too long")
		}
		name, value, ok := strings.Cut(line, ":")
		name = strings.ToLower(strings.TrimSpace(name))
		value = strings.TrimSpace(value) // some write a line feed before the line's end
		_, twice := values[name]
		switch {
		case line == "":
			if signed != u.form.signed {
				return malformed("the trailer %s have a signature", must(u.form.signed))
			}
			return u.checkTrailers(names, values, signature, payload)
		case !ok || signed || twice:
			return malformed("a line of the trailer is not one header, each once, the signature last")
		case name == trailerSignature:
			signature, signed = value, true
		case !slices.Contains(names, name):
			return malformed("the trailer%s is not announced by X-Amz-Trailer", quoted(name))
		default:
			values[name] = value
		}
	}
	return malformed("its trailer has too many lines")
}

func (u *unchunker) checkTrailers(names []string, values map[string]string, signature string, payload []byte) error {
	var canonical bytes.Buffer
	for _, name := range names {
		canonical.WriteString(name + ":" + values[name] + "\n")
	}
	if u.form.signed {
		if err := u.check(signature, true, algorithmTrailer, "", canonical.Bytes()); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := checkChecksum(name, values[name], payload); err != nil {
			return err
		}
	}
	return nil
}

// line takes a line off, without its end; false if it is not there or longer
// than most.
func (u *unchunker) line(most int) (string, bool) {
	i := bytes.Index(u.rest[:min(len(u.rest), most+2)], []byte("\r\n"))
	if i < 0 {
		return "", false
	}
	line := string(u.rest[:i])
	u.rest = u.rest[i+2:]
	return line, true
}

// end takes the end of a line off.
func (u *unchunker) end() error {
	if !bytes.HasPrefix(u.rest, []byte("\r\n")) {
		return malformed("a chunk is not followed by an end of line")
	}
	u.rest = u.rest[2:]
	return nil
}

// dropChunked takes aws-chunked out of the request's Content-Encoding, which
// the payload has no more.
func dropChunked(h http.Header) {
	var left []string
	for _, v := range h["Content-Encoding"] {
		for coding := range strings.SplitSeq(v, ",") {
			if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "aws-chunked") {
				left = append(left, coding)
			}
		}
	}
	if len(left) == 0 {
		h.Del("Content-Encoding")
		return
	}
	h.Set("Content-Encoding", strings.Join(left, ", "))
}
