package kafka

import (
	"testing"

	"forebay/spool/record"
)

// A place's key is read back as it was written, whatever the gateway is
// called, and nothing else is taken for one.
func FuzzKey(f *testing.F) {
	const scope = "forebay.edge-07.site"
	f.Add([]byte(scope+" plant edge-07/0000000000001234/3"), "edge-07", uint64(0x1234), uint32(3))
	f.Add([]byte(scope+" plant a/b c/0000000000000001/4294967295"), "a/b c", uint64(1), uint32(1<<32-1))
	f.Add([]byte(scope+" plant /x/-1"), "", uint64(0), uint32(0))
	f.Add([]byte(scope+"-2 plant edge-07/0000000000001234/3"), " ", uint64(1<<63), uint32(7))
	f.Fuzz(func(t *testing.T, key []byte, gateway string, epoch uint64, shard uint32) {
		want := place{topic: "plant", of: record.Origin{Gateway: gateway, Epoch: record.Epoch(epoch)}, shard: record.ShardID(shard)}
		if got, ok := parseKey(appendKey(nil, scope, want), scope); !ok || got != want {
			t.Fatalf("%+v, %v; want %+v", got, ok, want)
		}
		if p, ok := parseKey(key, scope); ok {
			if q, ok := parseKey(appendKey(nil, scope, p), scope); !ok || p != q {
				t.Fatalf("%q: %+v, then %+v, %v", key, p, q, ok)
			}
		}
	})
}
