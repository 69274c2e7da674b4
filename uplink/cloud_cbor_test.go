package uplink_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"forebay/uplink"
	"forebay/uplink/kinesis"
)

const cborMedia = "application/x-amz-cbor-1.1"

// inCBOR writes in CBOR what is answered in JSON.
type inCBOR struct{ http.ResponseWriter }

func (w inCBOR) Write(b []byte) (int, error) {
	var v map[string]any
	if json.Unmarshal(b, &v) != nil {
		return w.ResponseWriter.Write(b)
	}
	w.Header().Set("Content-Type", cborMedia)
	out, err := cbor.Marshal(v)
	if err != nil {
		return 0, err
	}
	if _, err = w.ResponseWriter.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// withoutCBOR is a cloud that understands JSON alone.
func withoutCBOR(t *testing.T) (uplink.Sink, *far) {
	s, f := kinesisFar(t, kinesis.Config{})
	f.cloud.mu.Lock()
	defer f.cloud.mu.Unlock()
	f.cloud.jsonOnly = true
	return s, f
}
