package kinesisapi_test

import (
	"testing"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// TestSequenceNumberForOrdering takes what a producer may hold: 0 before its
// first record, as AWS's developer guide does it, and numbers of records, also
// of a stream that was deleted and made again. A shard's numbers rise anyway.
func TestSequenceNumberForOrdering(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	b.create("s", 1)
	cl, ctx := b.client(), t.Context()
	number := "0"
	put := func() {
		t.Helper()
		in := putRecord("s", "k", "x")
		in.SequenceNumberForOrdering = &number
		out, err := cl.PutRecord(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		number = *out.SequenceNumber
	}
	put()
	put()
	if err := b.sp.Delete(ctx, "s", ""); err != nil {
		t.Fatal(err)
	}
	b.clock.Move(1e10)
	b.create("s", 1)
	put()
}
