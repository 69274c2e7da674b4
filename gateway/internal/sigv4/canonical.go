package sigv4

import (
	"crypto/sha256"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

func canonicalHash(r *http.Request, sig *Signature, payloadHash string) sum {
	return sha256.Sum256(appendCanonical(make([]byte, 0, 1024), r, sig, payloadHash))
}

// appendCanonical writes the request as signer and server must both see it
// (IAM User Guide, "Elements of an AWS API request signature").
func appendCanonical(b []byte, r *http.Request, sig *Signature, payloadHash string) []byte {
	b = append(append(b, r.Method...), '\n')
	b = append(appendPath(b, r), '\n')
	b = append(appendQuery(b, sig.query), '\n')
	for _, name := range sig.headers {
		b = append(append(b, name...), ':')
		b = append(appendHeader(b, r, name), '\n')
	}
	for i, name := range sig.headers {
		if i == 0 {
			b = append(b, '\n')
		} else {
			b = append(b, ';')
		}
		b = append(b, name...)
	}
	return append(append(b, '\n'), payloadHash...)
}

// appendHeader writes the values of a signed header, also of those that
// net/http keeps elsewhere.
func appendHeader(b []byte, r *http.Request, name string) []byte {
	var values []string
	switch name {
	case "host", ":authority":
		return appendTrimmed(b, r.Host)
	case "content-length":
		return strconv.AppendInt(b, max(r.ContentLength, 0), 10)
	case "transfer-encoding":
		values = r.TransferEncoding
	default:
		values = r.Header.Values(name)
	}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendTrimmed(b, v)
	}
	return b
}

// appendTrimmed writes a value without the blanks at its ends and with single
// ones in between.
func appendTrimmed(b []byte, v string) []byte {
	start, blank := len(b), false
	for i := range len(v) {
		c := v[i]
		if c == ' ' || c == '\t' {
			blank = true
			continue
		}
		if blank && len(b) > start {
			b = append(b, ' ')
		}
		blank = false
		b = append(b, c)
	}
	return b
}

// appendPath writes the path as it came over the wire, dot segments and empty
// segments taken out, encoded once more: the path of every service but S3 is
// encoded twice.
func appendPath(b []byte, r *http.Request) []byte {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if path == "" || path[0] != '/' {
		path = r.URL.EscapedPath() // absolute form, or a request that was never on a wire
	}
	start := len(b)
	for seg := range strings.SplitSeq(path, "/") {
		switch seg {
		case "", ".":
		case "..":
			b = b[:max(start, start+strings.LastIndexByte(string(b[start:]), '/'))]
		default:
			b = appendEncoded(append(b, '/'), seg)
		}
	}
	if len(b) == start || strings.HasSuffix(path, "/") {
		b = append(b, '/')
	}
	return b
}

// appendQuery writes the parameters sorted by encoded name and value; a
// presigned request's signature is not part of what was signed.
func appendQuery(b []byte, query []param) []byte {
	if len(query) == 0 {
		return b
	}
	parts := make([]string, 0, len(query))
	for _, p := range query {
		if p.name == "X-Amz-Signature" {
			continue
		}
		// "=" sorts after some characters that a name can hold, so that the
		// name needs an end that sorts before all of them.
		e := appendEncoded(make([]byte, 0, len(p.name)+len(p.value)+16), p.name)
		parts = append(parts, string(appendEncoded(append(e, 0), p.value)))
	}
	slices.Sort(parts)
	for i, p := range parts {
		if i > 0 {
			b = append(b, '&')
		}
		name, value, _ := strings.Cut(p, "\x00")
		b = append(append(append(b, name...), '='), value...)
	}
	return b
}

// appendEncoded is AWS's UriEncode: all but the unreserved characters of RFC
// 3986 as %XY in upper case.
func appendEncoded(b []byte, s string) []byte {
	const hexDigits = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '~':
			b = append(b, c)
		default:
			b = append(b, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return b
}
