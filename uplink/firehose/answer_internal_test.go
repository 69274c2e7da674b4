package firehose

import (
	"encoding/json"
	"testing"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// FuzzPutAnswer: nothing but an answer with an entry for each record that
// names an id is ever an acknowledgement.
func FuzzPutAnswer(f *testing.F) {
	f.Add([]byte(`{"FailedPutCount":0,"RequestResponses":[{"RecordId":"1"}]}`), uint8(1))
	f.Add([]byte(`{"RequestResponses":[{"ErrorCode":"ServiceUnavailableException","ErrorMessage":"Slow down."},{"RecordId":"1"}]}`), uint8(2))
	f.Add([]byte(`<html>Welcome</html>`), uint8(1))
	f.Add([]byte(`{"RequestResponses":null}`), uint8(0))
	s, err := New(Config{Access: aws.Access{Region: "eu-central-1"}, Stream: "s"}, lane.Home{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, n uint8) {
		entries, err := parsePut(body, int(n))
		if err != nil {
			return
		}
		if len(entries) != int(n) || !json.Valid(body) {
			t.Fatalf("%d entries for %d records out of %q", len(entries), n, body)
		}
		for _, e := range entries {
			if o := s.outcome(&e); o == nil && (e.RecordID == "" || e.ErrorCode != "") {
				t.Fatalf("%+v is taken for an acknowledgement", e)
			} else if o != nil && (o.Class == lane.OK || len(o.Error()) > 2000) {
				t.Fatalf("%+v", o)
			}
		}
	})
}
