package aws

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"forebay/uplink/cbor"
	"forebay/uplink/lane"
)

// A refusal is what a service says of a request that it did not do.
type refusal struct {
	code, message string
	serverTime    string // as S3 tells it beside RequestTimeTooSkewed
}

// read finds code and message in an answer: awsJson, the same in CBOR,
// REST-JSON, REST-XML and the query protocol's XML. The code is "" where the answer is none of them.
func read(h http.Header, body []byte) refusal {
	r := refusal{code: h.Get("X-Amzn-ErrorType")}
	switch text := bytes.TrimLeft(body, " \t\r\n"); {
	case bytes.HasPrefix(text, []byte("{")):
		var msg struct {
			Type    string `json:"__type"`
			Code    string `json:"code"`
			Message string `json:"message"`
		}
		if json.Unmarshal(text, &msg) == nil {
			r.message = msg.Message
			if r.code == "" {
				r.code = msg.Type
			}
			if r.code == "" {
				r.code = msg.Code
			}
		}
	case isCBOR(body):
		kind, message := readCBOR(body)
		r.message = message
		if r.code == "" {
			r.code = kind
		}
	case bytes.HasPrefix(text, []byte("<?xml")), bytes.HasPrefix(text, []byte("<Error")):
		type fault struct{ Code, Message, ServerTime string }
		var msg struct {
			XMLName xml.Name
			fault
			Error fault
		}
		if xml.Unmarshal(text, &msg) == nil && (msg.XMLName.Local == "Error" || msg.XMLName.Local == "ErrorResponse") {
			f := msg.fault
			if f.Code == "" {
				f = msg.Error
			}
			r.message, r.serverTime = f.Message, f.ServerTime
			if r.code == "" {
				r.code = f.Code
			}
		}
	}
	// "prefix#Code:http://..." is how awsJson1.1 may write a code.
	r.code, _, _ = strings.Cut(r.code, ":")
	if i := strings.LastIndexByte(r.code, '#'); i >= 0 {
		r.code = r.code[i+1:]
	}
	return r
}

// isCBOR reports whether an answer is a map in CBOR, of which a tag may say that
// it is CBOR.
func isCBOR(body []byte) bool {
	r := cbor.NewReader(body)
	r.Untag()
	return r.Peek()&cbor.Major == cbor.Map
}

// readCBOR finds code and message of an error in the form that AWS calls CBOR
// 1.1: the members of awsJson1.1. Both are "" where it is none.
func readCBOR(body []byte) (kind, message string) {
	r := cbor.NewReader(body)
	r.Untag()
	code := ""
	for n := r.Items(cbor.Map, maxMembers); r.Another(&n); {
		var into *string
		switch string(r.Whole(cbor.Text)) {
		case "__type":
			into = &kind
		case "code":
			into = &code
		case "message", "Message":
			into = &message
		}
		if r.Untag(); into == nil || r.Peek()&cbor.Major != cbor.Text {
			r.Skip()
			continue
		}
		*into = string(r.Whole(cbor.Text))
	}
	if !r.AtEnd() {
		return "", ""
	}
	return cmp.Or(kind, code), message
}

// maxMembers is how many members an error may have.
const maxMembers = 100

// Judge says what an answer that is not a success means.
func (c *Client) Judge(status int, h http.Header, body []byte) *lane.Error {
	return c.judge(status, h, read(h, body))
}

func (c *Client) judge(status int, h http.Header, r refusal) *lane.Error {
	var e *lane.Error
	if r.code != "" {
		e = c.Classify(r.code, r.message, status)
	} else {
		e = c.foreign(status, h)
	}
	e.RetryAfter = retryAfter(h)
	return e
}

// Classify turns a service's code into what the pump does about it; status is
// that of the whole answer, 200 where the code is about one entry of it.
func (c *Client) Classify(code, message string, status int) *lane.Error {
	e := &lane.Error{Code: Short(code), Text: Short(message)}
	ours := false
	if c.classify != nil {
		e.Class, ours = c.classify(code, strings.ToLower(message), status)
	}
	if !ours {
		e.Class = classOf(code, strings.ToLower(message), status)
	}
	switch e.Class {
	case lane.Auth:
		e.Text = strings.TrimSuffix("the target refuses the credentials: "+e.Text, ": ")
	case lane.ClockSkew:
		e.Text = strings.TrimSuffix("the target says that this machine's clock is wrong: "+e.Text, ": ")
	}
	return e
}

// classOf knows the codes that mean the same in all services (API references,
// Common Errors; S3, Error responses). message is in lower case.
func classOf(code, message string, status int) lane.Class {
	switch code {
	case "ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException",
		"ThrottlingException", "Throttling", "ThrottledException", "RequestThrottled", "RequestThrottledException",
		"RequestLimitExceeded", "TooManyRequestsException", "BandwidthLimitExceeded", "PriorRequestNotComplete", "SlowDown":
		return lane.Throttled
	case "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
		return lane.ClockSkew
	case "InvalidSignatureException", "SignatureDoesNotMatch", "InvalidSignature":
		if strings.Contains(message, "signature expired") || strings.Contains(message, "signature not yet current") {
			return lane.ClockSkew
		}
		return lane.Auth
	case "UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "InvalidToken", "IncompleteSignature",
		"IncompleteSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "AccessDenied",
		"AccessDeniedException", "AllAccessDisabled", "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired",
		"NotAuthorized", "NotAuthorizedException", "NotSignedUp", "OptInRequired", "KMSAccessDeniedException":
		return lane.Auth
	case "ResourceNotFoundException", "UnknownOperationException", "SerializationException",
		"KMSDisabledException", "KMSInvalidStateException", "KMSNotFoundException", "KMSOptInRequired":
		return lane.Misconfigured
	case "ResourceInUseException", // it is being created or changed
		"RequestTimeout": // S3: our body did not come in time
		return lane.Transient
	case "RequestEntityTooLarge", "RequestEntityTooLargeException", "RecordTooLargeException", "EntityTooLarge":
		return lane.Poison
	case "ServiceUnavailable", "ServiceUnavailableException", "ServiceUnavailableError":
		return lane.Transient
	case "InternalFailure", "InternalFailureException", "InternalServerError", "InternalServiceException", "InternalError":
		if status == http.StatusOK { // of one entry: the rest of the answer is sound
			return lane.Transient
		}
		return lane.Ambiguous
	}
	switch {
	case status == http.StatusTooManyRequests:
		return lane.Throttled
	case status >= 500:
		return lane.Ambiguous
	case status == http.StatusOK:
		return lane.Transient
	}
	return lane.Misconfigured
}

// foreign judges an answer that does not look like the service's at all: a
// proxy, a load balancer, a captive portal.
func (c *Client) foreign(status int, h http.Header) *lane.Error {
	e := &lane.Error{Class: lane.Offline, Text: c.Portal(status, h)}
	switch {
	case status == http.StatusTooManyRequests:
		e.Class, e.Text = lane.Throttled, "HTTP 429 too many requests"
	case status == http.StatusRequestEntityTooLarge:
		e.Class, e.Text = lane.Poison, "HTTP 413: the request is larger than the target takes"
	case status == http.StatusServiceUnavailable:
		e.Class, e.Text = lane.Transient, "HTTP 503 service unavailable"
	case status >= 500:
		// A gateway in between may have passed the request on.
		e.Class, e.Text = lane.Ambiguous, fmt.Sprintf("HTTP %d %s", status, http.StatusText(status))
	case status == http.StatusProxyAuthRequired:
		e.Class, e.Text = lane.Misconfigured, proxyWants
	}
	return e
}

const proxyWants = "HTTP 407: the proxy wants a user and password; set proxy, proxy_user and proxy_password"

// Portal is what an operator reads when something answers that is not the
// service.
func (c *Client) Portal(status int, h http.Header) string {
	kind, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		kind = "no media type"
	}
	s := fmt.Sprintf("something that is not %s answered (HTTP %d, %s)", c.name, status, Short(kind))
	if status >= 300 && status < 400 {
		s += " with a redirect"
	}
	return s + ": captive portal?"
}

// retryAfter reads the header of RFC 9110, section 10.2.3, seconds only.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || n < 0 || n > 3600 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// Short keeps what a stranger wrote printable, and within a line of a log.
func Short(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
