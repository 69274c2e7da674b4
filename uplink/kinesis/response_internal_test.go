package kinesis

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"forebay/spool/record"
	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

func testSink(t testing.TB) *Sink {
	t.Helper()
	s, err := New(Config{Access: aws.Access{Region: "eu-central-1"}, Stream: "s"}, lane.Home{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// FuzzPutRecordsAnswer: nothing but an answer with an entry for each record
// that names a sequence number is ever an acknowledgement.
func FuzzPutRecordsAnswer(f *testing.F) {
	f.Add([]byte(`{"FailedRecordCount":0,"Records":[{"SequenceNumber":"1","ShardId":"shardId-0"}]}`), uint8(1), 200, "")
	f.Add([]byte(`{"Records":[{"ErrorCode":"InternalFailure","ErrorMessage":"x"},{"SequenceNumber":"1"}]}`), uint8(2), 200, "")
	f.Add([]byte("\xa1\x67Records\x81\xa1\x6eSequenceNumber\x611"), uint8(1), 200, "")
	f.Add([]byte("\xbf\x67Records\x9f\xbf\x69ErrorCode\x61x\xff\xff\xff"), uint8(1), 200, "")
	f.Add([]byte("\xa1\x66__type\x61x"), uint8(1), 400, "")
	f.Add([]byte(`<html>Welcome</html>`), uint8(1), 200, "")
	f.Add([]byte(`{"Records":null}`), uint8(0), 200, "")
	f.Add([]byte(`{"__type":"com.amazonaws.kinesis#ValidationException:http://x","message":"records.1.member.data"}`), uint8(1), 400, "")
	f.Add([]byte(`{"message":"x"}`), uint8(1), 500, "InternalFailure:")
	f.Add([]byte(``), uint8(3), 302, "")
	sink := testSink(f)
	dec, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, FieldNameMatching: cbor.FieldNameMatchingCaseSensitive}.DecMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, n uint8, status int, kind string) {
		if status != http.StatusOK {
			e := sink.aws.Judge(status, http.Header{"X-Amzn-Errortype": {kind}}, body)
			if e.Class == lane.OK || e.Error() == "" || strings.ContainsAny(e.Error(), "\n\x00") || len(e.Error()) > 2000 {
				t.Fatalf("%+v", e)
			}
			return
		}
		if fast, ok := scanAnswer(nil, string(body), int(n)); ok {
			slow, err := unmarshalled(json.Unmarshal, body)
			if err != nil || !slices.Equal(fast, slow) {
				t.Fatalf("%q: %+v, the standard library reads %+v, %v", body, fast, slow, err)
			}
		}
		entries, asJSON, err := parsePutRecords(nil, body, int(n))
		if err != nil {
			return
		}
		if len(entries) != int(n) || json.Valid(body) != asJSON {
			t.Fatalf("%d entries for %d records out of %q", len(entries), n, body)
		}
		if slow, err := unmarshalled(dec.Unmarshal, body); !asJSON && err == nil && !slices.Equal(entries, slow) {
			t.Fatalf("%x: %+v, the library reads %+v", body, entries, slow)
		}
		for _, e := range entries {
			if o := sink.outcome(&e); o == nil && (!e.numbered || e.code != "") {
				t.Fatalf("%+v is taken for an acknowledgement", e)
			} else if o != nil && o.Class == lane.OK {
				t.Fatalf("%+v", o)
			}
		}
	})
}

// A count of failures that the entries do not bear out says that one of those
// that look stored is not. Fewer than are named are no matter: these are named.
func TestFailedRecordCount(t *testing.T) {
	for body, want := range map[string]error{
		`{"FailedRecordCount":1,"Records":[{"SequenceNumber":"1"},{"SequenceNumber":"2"}]}`:                       errFailed,
		`{"Records":[{"SequenceNumber":"1"},{"ErrorCode":"x"}],"FailedRecordCount":2}`:                            errFailed,
		`{"FailedRecordCount":1,"Records":[{"SequenceNumber":"1"},{"ErrorCode":"x"}]}`:                            nil,
		`{"FailedRecordCount":0,"Records":[{"SequenceNumber":"1"},{"ErrorCode":"x"}]}`:                            nil,
		`{"FailedRecordCount":null,"Records":[{"SequenceNumber":"1"},{"SequenceNumber":"2"}]}`:                    nil,
		`{"FailedRecordCount":2,"FailedRecordCount":0,"Records":[{"SequenceNumber":"1"},{"SequenceNumber":"2"}]}`: errFailed,
		"\xa2\x71FailedRecordCount\x01\x67Records\x82\xa1\x6eSequenceNumber\x611\xa1\x6eSequenceNumber\x612":      errFailed,
		"\xa2\x67Records\x82\xa1\x6eSequenceNumber\x611\xa1\x69ErrorCode\x61x\x71FailedRecordCount\xc1\x02":       errFailed,
		"\xa2\x71FailedRecordCount\x01\x67Records\x82\xa1\x6eSequenceNumber\x611\xa1\x69ErrorCode\x61x":           nil,
		"\xa2\x71FailedRecordCount\xf6\x67Records\x82\xa1\x6eSequenceNumber\x611\xa1\x6eSequenceNumber\x612":      nil,
	} {
		entries, _, err := parsePutRecords(nil, []byte(body), 2)
		if !errors.Is(err, want) || err == nil && len(entries) != 2 {
			t.Errorf("%q: %+v, %v, want %v", body, entries, err, want)
		}
	}
}

// What an entry says twice does not count, in either order and form.
func TestEntriesThatSayAThingTwice(t *testing.T) {
	for _, entry := range []string{
		`"ErrorCode":"x","ErrorCode":"","SequenceNumber":"1"`,
		`"ErrorCode":"","ErrorCode":"x","SequenceNumber":"1"`,
		`"ErrorCode":"x","ErrorCode":null,"SequenceNumber":"1"`,
		`"ErrorCode":"x","errorcode":"","SequenceNumber":"1"`,
		`"ErrorCode":"x","ErrorCode":"x"`,
		`"SequenceNumber":"","SequenceNumber":"1"`,
		`"SequenceNumber":null,"SequenceNumber":"1"`,
		`"SequenceNumber":"1","SequenceNumber":"2"`,
		`"ErrorCode":"x","ErrorMessage":"a","ErrorMessage":"b"`,
		`"SequenceNumber":"1"}],"Records":[{"SequenceNumber":"2"`,
	} {
		if entries, _, err := parsePutRecords(nil, []byte(`{"Records":[{`+entry+`}]}`), 1); err == nil {
			t.Errorf("%s: %+v", entry, entries)
		}
	}
	for _, entry := range []string{
		"\xa3\x69ErrorCode\x61x\x69ErrorCode\xf6\x6eSequenceNumber\x611",
		"\xa3\x69ErrorCode\x60\x69ErrorCode\x61x\x6eSequenceNumber\x611",
		"\xa2\x6eSequenceNumber\xf6\x6eSequenceNumber\x611",
		"\xa3\x69ErrorCode\x61x\x6cErrorMessage\x61a\x6cErrorMessage\x61b",
	} {
		if entries, _, err := parsePutRecords(nil, []byte("\xa1\x67Records\x81"+entry), 1); err == nil {
			t.Errorf("%q: %+v", entry, entries)
		}
	}
	entries, asJSON, err := parsePutRecords(nil, []byte(`{"Records":[{"ErrorCode":null,"ErrorMessage":"","SequenceNumber":"1","ShardId":""}]}`), 1)
	if err != nil || !asJSON || !slices.Equal(entries, []entry{{numbered: true}}) {
		t.Errorf("each thing once: %+v, %v", entries, err)
	}
}

// unmarshalled are the entries of an answer as a library reads them.
func unmarshalled(read func([]byte, any) error, body []byte) (entries []entry, err error) {
	var out struct {
		Records []struct{ SequenceNumber, ErrorCode, ErrorMessage string }
	}
	err = read(body, &out)
	for _, r := range out.Records {
		entries = append(entries, entry{r.SequenceNumber != "", r.ErrorCode, r.ErrorMessage})
	}
	return entries, err
}

// The classes decide what becomes of records, so they are pinned one by one.
func TestClasses(t *testing.T) {
	sink := testSink(t)
	for _, c := range []struct {
		status  int
		code    string
		message string
		class   lane.Class
	}{
		{400, "ProvisionedThroughputExceededException", "Rate exceeded", lane.Throttled},
		{400, "LimitExceededException", "", lane.Throttled},
		{400, "com.amazonaws#ThrottlingException", "", lane.Throttled},
		{429, "", "", lane.Throttled},
		{400, "UnrecognizedClientException", "The security token included in the request is invalid.", lane.Auth},
		{400, "InvalidSignatureException", "The request signature we calculated does not match", lane.Auth},
		{403, "AccessDeniedException", "User is not authorized", lane.Auth},
		{400, "ExpiredTokenException", "", lane.Auth},
		{403, "MissingAuthenticationTokenException", "", lane.Auth},
		{400, "InvalidSignatureException", "Signature expired: 20150830T123600Z is now earlier than 20261122T100000Z", lane.ClockSkew},
		{400, "InvalidSignatureException", "Signature not yet current: 20350830T123600Z", lane.ClockSkew},
		{403, "RequestTimeTooSkewed", "", lane.ClockSkew},
		{400, "ResourceNotFoundException", "Stream x under account 1 not found.", lane.Misconfigured},
		{400, "ResourceInUseException", "Stream x not ACTIVE", lane.Transient},
		{400, "UnknownOperationException", "", lane.Misconfigured},
		{400, "SerializationException", "", lane.Misconfigured},
		{400, "SomethingNewException", "", lane.Misconfigured},
		{400, "ValidationException", "1 validation error detected: Value '' at 'streamName' failed", lane.Misconfigured},
		{400, "ValidationException", "1 validation error detected: Value at 'records.1.member.data' failed", lane.Poison},
		{400, "InvalidArgumentException", "ExplicitHashKey", lane.Poison},
		{413, "", "", lane.Poison},
		{500, "InternalFailure", "", lane.Ambiguous},
		{500, "", "", lane.Ambiguous},
		{502, "", "", lane.Ambiguous},
		{504, "", "", lane.Ambiguous},
		{503, "", "", lane.Transient},
		{503, "ServiceUnavailable", "", lane.Transient},
		{302, "", "", lane.Offline},
		{403, "", "", lane.Offline},
		{404, "", "", lane.Offline},
		{407, "", "", lane.Misconfigured},
	} {
		body := []byte("<html>")
		if c.code != "" {
			b, err := json.Marshal(map[string]string{"__type": c.code, "message": c.message})
			if err != nil {
				t.Fatal(err)
			}
			body = b
		}
		e := sink.aws.Judge(c.status, http.Header{}, body)
		if e.Class != c.class {
			t.Errorf("%d %s %s: %v, want %v", c.status, c.code, c.message, e.Class, c.class)
		}
	}
	for code, class := range map[string]lane.Class{
		"ProvisionedThroughputExceededException": lane.Throttled,
		"InternalFailure":                        lane.Transient,
		"KMSThrottlingException":                 lane.Throttled,
		"KMSDisabledException":                   lane.Misconfigured,
		"SomethingNew":                           lane.Transient,
	} {
		if e := sink.outcome(&entry{code: code}); e == nil || e.Class != class {
			t.Errorf("entry with %s: %v, want %v", code, e, class)
		}
	}
}

func TestDecimal(t *testing.T) {
	for _, s := range []string{
		"0", "1", "9999999999999999999", "10000000000000000000", "18446744073709551615", "18446744073709551616",
		"99999999999999999999999999999999999999", "100000000000000000000000000000000000000", "340282366920938463463374607431768211455",
	} {
		n, ok := new(big.Int).SetString(s, 10)
		if !ok {
			t.Fatal(s)
		}
		var h record.HashKey
		n.FillBytes(h[:])
		if got := string(appendDecimal(nil, h)); got != s {
			t.Errorf("%s is written as %s", s, got)
		}
	}
}
