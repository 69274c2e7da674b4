package kinesis

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"forebay/uplink/lane"
)

// FuzzPutRecordsAnswer: nothing but an answer with an entry for each record
// that names a sequence number is ever an acknowledgement.
func FuzzPutRecordsAnswer(f *testing.F) {
	f.Add([]byte(`{"FailedRecordCount":0,"Records":[{"SequenceNumber":"1","ShardId":"shardId-0"}]}`), uint8(1), 200, "")
	f.Add([]byte(`{"Records":[{"ErrorCode":"InternalFailure","ErrorMessage":"x"},{"SequenceNumber":"1"}]}`), uint8(2), 200, "")
	f.Add([]byte(`<html>Welcome</html>`), uint8(1), 200, "")
	f.Add([]byte(`{"Records":null}`), uint8(0), 200, "")
	f.Add([]byte(`{"__type":"com.amazonaws.kinesis#ValidationException:http://x","message":"records.1.member.data"}`), uint8(1), 400, "")
	f.Add([]byte(`{"message":"x"}`), uint8(1), 500, "InternalFailure:")
	f.Add([]byte(``), uint8(3), 302, "")
	f.Fuzz(func(t *testing.T, body []byte, n uint8, status int, kind string) {
		if status != http.StatusOK {
			e := failure(status, http.Header{"X-Amzn-Errortype": {kind}}, body)
			if e.Class == lane.OK || e.Error() == "" || strings.ContainsAny(e.Error(), "\n\x00") || len(e.Error()) > 2000 {
				t.Fatalf("%+v", e)
			}
			return
		}
		entries, err := parsePutRecords(body, int(n))
		if err != nil {
			return
		}
		if len(entries) != int(n) || !json.Valid(body) {
			t.Fatalf("%d entries for %d records out of %q", len(entries), n, body)
		}
		for _, e := range entries {
			if o := e.outcome(); o == nil && (e.SequenceNumber == "" || e.ErrorCode != "") {
				t.Fatalf("%+v is taken for an acknowledgement", e)
			} else if o != nil && o.Class == lane.OK {
				t.Fatalf("%+v", o)
			}
		}
	})
}

// The classes decide what becomes of records, so they are pinned one by one.
func TestClasses(t *testing.T) {
	for _, c := range []struct {
		status  int
		code    string
		message string
		class   lane.Class
		split   bool
	}{
		{400, "ProvisionedThroughputExceededException", "Rate exceeded", lane.Throttled, false},
		{400, "LimitExceededException", "", lane.Throttled, false},
		{400, "com.amazonaws#ThrottlingException", "", lane.Throttled, false},
		{429, "", "", lane.Throttled, false},
		{400, "UnrecognizedClientException", "The security token included in the request is invalid.", lane.Auth, false},
		{400, "InvalidSignatureException", "The request signature we calculated does not match", lane.Auth, false},
		{403, "AccessDeniedException", "User is not authorized", lane.Auth, false},
		{400, "ExpiredTokenException", "", lane.Auth, false},
		{403, "MissingAuthenticationTokenException", "", lane.Auth, false},
		{400, "InvalidSignatureException", "Signature expired: 20150830T123600Z is now earlier than 20261122T100000Z", lane.ClockSkew, false},
		{400, "InvalidSignatureException", "Signature not yet current: 20350830T123600Z", lane.ClockSkew, false},
		{403, "RequestTimeTooSkewed", "", lane.ClockSkew, false},
		{400, "ResourceNotFoundException", "Stream x under account 1 not found.", lane.Misconfigured, false},
		{400, "ResourceInUseException", "Stream x not ACTIVE", lane.Transient, false},
		{400, "UnknownOperationException", "", lane.Misconfigured, false},
		{400, "SerializationException", "", lane.Misconfigured, false},
		{400, "SomethingNewException", "", lane.Misconfigured, false},
		{400, "ValidationException", "1 validation error detected: Value '' at 'streamName' failed", lane.Misconfigured, false},
		{400, "ValidationException", "1 validation error detected: Value at 'records.1.member.data' failed", lane.Poison, true},
		{400, "InvalidArgumentException", "ExplicitHashKey", lane.Poison, true},
		{413, "", "", lane.Poison, true},
		{500, "InternalFailure", "", lane.Ambiguous, false},
		{500, "", "", lane.Ambiguous, false},
		{502, "", "", lane.Ambiguous, false},
		{504, "", "", lane.Ambiguous, false},
		{503, "", "", lane.Transient, false},
		{503, "ServiceUnavailable", "", lane.Transient, false},
		{302, "", "", lane.Offline, false},
		{403, "", "", lane.Offline, false},
		{404, "", "", lane.Offline, false},
		{407, "", "", lane.Misconfigured, false},
	} {
		body := []byte("<html>")
		if c.code != "" {
			b, err := json.Marshal(map[string]string{"__type": c.code, "message": c.message})
			if err != nil {
				t.Fatal(err)
			}
			body = b
		}
		e := failure(c.status, http.Header{}, body)
		if e.Class != c.class || e.split != c.split {
			t.Errorf("%d %s %s: %v, split %v; want %v, %v", c.status, c.code, c.message, e.Class, e.split, c.class, c.split)
		}
	}
	for code, class := range map[string]lane.Class{
		"ProvisionedThroughputExceededException": lane.Throttled,
		"InternalFailure":                        lane.Transient,
		"KMSThrottlingException":                 lane.Throttled,
		"KMSDisabledException":                   lane.Misconfigured,
		"SomethingNew":                           lane.Transient,
	} {
		if e := (&entry{ErrorCode: code}).outcome(); e == nil || e.Class != class {
			t.Errorf("entry with %s: %v, want %v", code, e, class)
		}
	}
}

// A slow link is not given more than it can carry within the timeout.
func TestPace(t *testing.T) {
	p := pace{limit: maxRequest / 8}
	const timeout = defaultLimit
	for range 5 {
		p.took(p.size(), timeout, timeout, nil)
	}
	if p.size() != minPace {
		t.Errorf("after five timeouts: %d", p.size())
	}
	for range 20 {
		p.took(p.size(), timeout/100, timeout, nil)
	}
	if p.size() != maxRequest {
		t.Errorf("after twenty fast ones: %d", p.size())
	}
	p.took(100, timeout/100, timeout, nil)
	p.took(p.size(), timeout/2, timeout, nil)
	if p.size() != maxRequest/2 {
		t.Errorf("after a slow one: %d", p.size())
	}
}
