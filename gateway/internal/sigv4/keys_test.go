package sigv4

import (
	"strconv"
	"sync"
	"testing"
)

// TestSigningKeysAreBounded: however many regions and days a client names.
func TestSigningKeysAreBounded(t *testing.T) {
	var k signingKeys
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 2 * maxSigningKeys {
				sig := &Signature{AccessKey: "AK", Region: strconv.Itoa(i % (maxSigningKeys + 10)), Service: "kinesis", date: "20261122"}
				secret := "secret " + strconv.Itoa(worker%2)
				key, fresh := k.of(sig, secret)
				if want := derive(secret, sig); key != want {
					t.Errorf("the key of region %s is %x, want %x", sig.Region, key, want)
				}
				if fresh {
					k.keep(sig, secret, key)
				}
			}
		})
	}
	wg.Wait()
	if n := len(k.m); n == 0 || n > maxSigningKeys {
		t.Errorf("%d keys are kept", n)
	}
	sig := &Signature{AccessKey: "AK", Region: "r", Service: "kinesis", date: "20261122"}
	k.keep(sig, "s", derive("s", sig))
	if _, fresh := k.of(sig, "s"); fresh {
		t.Error("a key that was kept is derived again")
	}
	for _, other := range []*Signature{
		{AccessKey: "B", Region: "r", Service: "kinesis", date: "20261122"},
		{AccessKey: "AK", Region: "q", Service: "kinesis", date: "20261122"},
		{AccessKey: "AK", Region: "r", Service: "firehose", date: "20261122"},
		{AccessKey: "AK", Region: "r", Service: "kinesis", date: "20261123"},
	} {
		if _, fresh := k.of(other, "s"); !fresh {
			t.Errorf("a key is used for %+v that was made for another", other)
		}
	}
}
