package cloud

import (
	"bytes"
	"net/http"
	"strings"
)

// nothing answers as an endpoint would that has every stream and stores
// whatever it is given.
func nothing(target string, body []byte) (int, http.Header, []byte, error) {
	h := http.Header{"Content-Type": {"application/x-amz-json-1.1"}}
	stored := []byte(`{"SequenceNumber":"49600000000000000000000000000000000000000000000000000001","ShardId":"shardId-000000000000"}`)
	switch {
	case strings.HasSuffix(target, ".PutRecords"):
		n := bytes.Count(body, []byte(`"PartitionKey":`))
		out := bytes.Repeat(append(stored, ','), n)
		return http.StatusOK, h, append(append([]byte(`{"FailedRecordCount":0,"Records":[`), out[:max(len(out)-1, 0)]...), "]}"...), nil
	case strings.HasSuffix(target, ".PutRecord"):
		return http.StatusOK, h, stored, nil
	}
	return http.StatusOK, h, []byte(`{"StreamDescriptionSummary":{"StreamStatus":"ACTIVE"}}`), nil
}
