package kinesisapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// canonicalRequest writes the request as signer and server must both see it
// (IAM User Guide, "Elements of an AWS API request signature").
func canonicalRequest(r *http.Request, sig *signature, payloadHash string) string {
	var b strings.Builder
	b.WriteString(r.Method)
	b.WriteByte('\n')
	b.WriteString(canonicalPath(r))
	b.WriteByte('\n')
	b.WriteString(canonicalQuery(sig.query))
	b.WriteByte('\n')
	for _, name := range sig.headers {
		b.WriteString(name)
		b.WriteByte(':')
		for i, v := range headerValues(r, name) {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strings.Join(strings.FieldsFunc(v, isBlank), " "))
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.WriteString(strings.Join(sig.headers, ";"))
	b.WriteByte('\n')
	b.WriteString(payloadHash)
	return b.String()
}

func isBlank(c rune) bool { return c == ' ' || c == '\t' }

// headerValues gives the values of a signed header, also of those that
// net/http keeps elsewhere.
func headerValues(r *http.Request, name string) []string {
	switch name {
	case "host", ":authority":
		return []string{r.Host}
	case "content-length":
		return []string{strconv.FormatInt(max(r.ContentLength, 0), 10)}
	}
	return r.Header.Values(name)
}

// canonicalPath is the path as it came over the wire, dot segments and empty
// segments taken out, encoded once more: the path of every service but S3 is
// encoded twice.
func canonicalPath(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if path == "" || path[0] != '/' {
		path = r.URL.EscapedPath() // absolute form, or a request that was never on a wire
	}
	var out []string
	for seg := range strings.SplitSeq(path, "/") {
		switch seg {
		case "", ".":
		case "..":
			out = out[:max(len(out)-1, 0)]
		default:
			out = append(out, uriEncode(seg))
		}
	}
	p := "/" + strings.Join(out, "/")
	if len(out) > 0 && strings.HasSuffix(path, "/") {
		p += "/"
	}
	return p
}

// canonicalQuery sorts the parameters by encoded name and value; a presigned
// request's signature is not part of what was signed.
func canonicalQuery(query []queryParam) string {
	if len(query) == 0 {
		return ""
	}
	parts := make([]string, 0, len(query))
	for _, p := range query {
		if p.name == "X-Amz-Signature" {
			continue
		}
		// "=" sorts after some characters that a name can hold, so that the
		// name needs an end that sorts before all of them.
		parts = append(parts, uriEncode(p.name)+"\x00"+uriEncode(p.value))
	}
	slices.Sort(parts)
	return strings.ReplaceAll(strings.Join(parts, "&"), "\x00", "=")
}

// uriEncode is AWS's UriEncode: all but the unreserved characters of RFC 3986
// as %XY in upper case.
func uriEncode(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s))
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '~':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}
