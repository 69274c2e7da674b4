package kvs_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"forebay/spool/record"
	"forebay/uplink/lane"
)

// What every sink promises the pump is tested for all of them in the package
// uplink (TestSinkContract), with payloads that are any bytes. This one takes
// nothing but video, which lies beside the records, so it keeps each clause
// here:
//
//	order       every record of every lane arrives, in order; Done is the whole batch; Probe; a Send of nothing   TestContractOrder
//	payloads    what arrives is what was sent                                                                      TestContractPayloads, TestAClip, TestLongChunks
//	poison      a record that can never be taken stops its lane exactly there, and its lane only                   TestContractPoison, TestWhatIsNoVideo, TestAFragmentIsRefused
//	flaky       whatever happens, what is done has arrived, in order, and the rest arrives when it is sent again    TestFlaky, TestFaults
//	gone        a far side that is not there is Offline, and Probe says so                                         TestContractGone, TestGone
//	concurrent  Sends of different lanes at a time                                                                 TestContractConcurrent
//	cancelled   an ended context acknowledges nothing                                                              TestContractCancelled, TestCancelled

// laneOf is a lane with a camera of its own.
func laneOf(n int) lane.Lane { return lane.Lane{Stream: "s", Shard: record.ShardID(n)} }

func cameraOf(l lane.Lane) string { return fmt.Sprintf("cam%d", l.Shard) }

func farOf(l lane.Lane) string { return "edge-07-" + cameraOf(l) }

// batchOf is n chunks of a lane's camera, which goes on where it was.
func (r *rig) batchOf(l lane.Lane, f *film, n int) lane.Batch {
	b := lane.Batch{Lane: l}
	for range n {
		rec := r.film(f, 2, 2)
		rec.Pos.Shard = l.Shard
		b.Recs = append(b.Recs, rec)
	}
	return b
}

func TestContractOrder(t *testing.T) {
	r := newRig(t, nil).slack()
	var batches []lane.Batch
	for i := range 5 {
		l := laneOf(i + 1)
		batches = append(batches, r.batchOf(l, newFilm(cameraOf(l)), 10*i+1))
	}
	out := r.Send(t.Context(), batches)
	if len(out) != len(batches) {
		t.Fatalf("%d outcomes for %d lanes", len(out), len(batches))
	}
	for i, b := range batches {
		if o := out[i]; o.Done != len(b.Recs) || o.Class != lane.OK || o.Err != nil || o.Bytes <= 0 {
			t.Fatalf("lane %d: %+v", i, o)
		}
		if got := r.ids(farOf(b.Lane)); !slices.Equal(got, idsOf(b.Recs)) {
			t.Errorf("lane %d: %q", i, got)
		}
	}
	if err := r.Probe(t.Context()); err != nil {
		t.Errorf("Probe: %v", err)
	}
	if out := r.Send(t.Context(), nil); len(out) != 0 {
		t.Errorf("a Send of nothing: %v", out)
	}
}

// Pictures of any bytes and sizes arrive as they are.
func TestContractPayloads(t *testing.T) {
	r := newRig(t, nil).slack()
	f := newFilm("cam1")
	var recs []record.Record
	for _, n := range []int{2, 3, 7, 38} { // from a second to the longest that is one fragment
		recs = append(recs, r.film(f, n, n))
	}
	recs[1].Chunk, recs[1].Blob = record.ChunkRef{}, r.disk.chunks[recs[1].Chunk.Off] // in the record itself
	if o := r.send(t, recs); o.Done != len(recs) {
		t.Fatalf("%+v", o)
	}
	got := r.fragments(stream)
	if len(got) != len(recs) {
		t.Fatalf("%d fragments", len(got))
	}
	for i, g := range got {
		var all []byte
		for _, b := range g.blocks {
			all = append(all, b.data...)
		}
		if !bytes.Equal(all, pictures(r.disk.chunks[int64(i+1)])) {
			t.Errorf("chunk %d: %d bytes of pictures", i, len(all))
		}
	}
}

func TestContractPoison(t *testing.T) {
	r := newRig(t, nil).slack()
	bad, good := r.batchOf(laneOf(1), newFilm("cam1"), 10), r.batchOf(laneOf(2), newFilm("cam2"), 10)
	r.disk.chunks[bad.Recs[4].Chunk.Off] = []byte("no video at all")
	out := r.Send(t.Context(), []lane.Batch{bad, good})
	if out[0].Done != 4 || out[0].Class != lane.Poison || out[0].Err == nil {
		t.Errorf("lane with a bad record: %+v", out[0])
	}
	if out[1].Done != 10 {
		t.Errorf("the other lane: %+v", out[1])
	}
	rest := bad
	rest.Recs = bad.Recs[5:]
	if o := r.Send(t.Context(), []lane.Batch{rest})[0]; o.Done != 5 {
		t.Errorf("behind it: %+v", o)
	}
	if got := r.ids(farOf(bad.Lane)); !slices.Equal(got, idsOf(slices.Delete(slices.Clone(bad.Recs), 4, 5))) {
		t.Errorf("%q", got)
	}
}

func TestContractGone(t *testing.T) {
	r := newRig(t, nil).slack()
	b := r.batchOf(laneOf(1), newFilm("cam1"), 3)
	r.stand.Close()
	if o := r.Send(t.Context(), []lane.Batch{b})[0]; o.Done != 0 || o.Class != lane.Offline || o.Err == nil {
		t.Errorf("%+v, want offline", o)
	}
	if err := r.Probe(t.Context()); err == nil {
		t.Error("Probe finds it")
	}
}

func TestContractConcurrent(t *testing.T) {
	r := newRig(t, nil).slack()
	batches := make([][]lane.Batch, 4)
	want := make([][]string, 4)
	for i := range batches {
		l := laneOf(i + 1)
		f := newFilm(cameraOf(l))
		for range 5 {
			b := r.batchOf(l, f, 6)
			batches[i], want[i] = append(batches[i], b), append(want[i], idsOf(b.Recs)...)
		}
	}
	var wg sync.WaitGroup
	for _, own := range batches {
		wg.Go(func() {
			for _, b := range own {
				if o := r.Send(t.Context(), []lane.Batch{b})[0]; o.Done != len(b.Recs) {
					t.Errorf("%+v", o)
				}
			}
		})
	}
	wg.Wait()
	for i := range want {
		if got := r.ids(farOf(laneOf(i + 1))); !slices.Equal(got, want[i]) {
			t.Errorf("lane %d: %q", i, got)
		}
	}
}

func TestContractCancelled(t *testing.T) {
	r := newRig(t, nil).slack()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := r.batchOf(laneOf(1), newFilm("cam1"), 3)
	if o := r.Send(ctx, []lane.Batch{b})[0]; o.Done == 3 || o.Class == lane.OK {
		t.Errorf("%+v", o)
	}
}
