package witness

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"forebay/firmware-sim/ledger"
)

// maxExamples is how many lost or disordered records a report names.
const maxExamples = 20

// id names a record of the simulator: a device and its number, or a camera
// and the name of a chunk.
type id struct {
	device string
	seq    uint64
	name   string
}

// chunkID: a camera that starts again uses its names again, so that only the
// digest tells its chunks apart.
func chunkID(camera, name, sum string) id { return id{device: camera, name: name + " " + sum} }

func (r id) String() string {
	if r.name != "" {
		return r.device + " " + r.name
	}
	return fmt.Sprintf("%s %d", r.device, r.seq)
}

// claim is what the ledger and the far end say about one record.
type claim struct {
	kind     string
	key      string
	sum      string
	order    uint64 // place among the device's records
	acked    bool
	again    bool   // the device was told to send it twice
	arrived  int    // as it was sent
	envelope string // the gateway's id of the first arrival
}

// account compares. It is filled from the ledger first, then with what
// arrived, in the order of the far end's shards.
type account struct {
	run    string
	claims map[id]*claim
	kinds  map[string]string // of each device
	last   map[track]uint64  // greatest place seen
	chunks map[string]uint64 // chunks of each camera in the ledger
	report Report
}

// track is what order is kept in: a key of a stream, as far as it carries one
// device's records.
type track struct{ stream, key, device string }

// readLedger starts an account.
func readLedger(r io.Reader) (*account, error) {
	a := &account{
		claims: map[id]*claim{}, kinds: map[string]string{}, last: map[track]uint64{}, chunks: map[string]uint64{},
		report: Report{Kinds: map[string]*Kind{}},
	}
	if _, err := ledger.Read(r, func(e ledger.Event) error { a.note(e); return nil }); err != nil {
		return nil, err
	}
	if a.run == "" {
		return nil, fmt.Errorf("there is no begin event: this is not a ledger")
	}
	return a, nil
}

// note takes an event of the ledger.
func (a *account) note(e ledger.Event) {
	switch e.Event {
	case ledger.Begin:
		if a.run == "" {
			a.run = e.Run
		}
		a.report.Sessions++
	case ledger.Fault:
		a.report.Faults++
	case ledger.Dropped:
		a.kind(e.Kind).Dropped += e.Count
	case ledger.Ack, ledger.Sent, ledger.Unacked:
		r := id{device: e.Device, seq: e.Seq}
		if e.Kind == ledger.Camera {
			r = chunkID(e.Device, e.Name, e.Sum)
		}
		a.kinds[e.Device] = e.Kind
		c := a.claims[r]
		if c == nil {
			c = &claim{kind: e.Kind, key: e.Key, sum: e.Sum, order: e.Seq}
			if e.Kind == ledger.Camera {
				a.chunks[e.Device]++
				c.order = a.chunks[e.Device]
			}
			a.claims[r] = c
			if e.Event == ledger.Sent {
				a.kind(e.Kind).Sent++
			}
		}
		c.again = c.again || e.Again
		if e.Event == ledger.Ack && !c.acked {
			c.acked = true
			a.kind(e.Kind).Acknowledged++
		}
	}
}

func (a *account) kind(name string) *Kind {
	k := a.report.Kinds[name]
	if k == nil {
		k = &Kind{}
		a.report.Kinds[name] = k
	}
	return k
}

// arrive takes a record of the far end.
func (a *account) arrive(stream string, rec arrival) {
	a.report.Records++
	if rec.alarm != nil {
		a.alarm(rec)
		return
	}
	if rec.id.device == "" || (rec.run != "" && rec.run != a.run) {
		a.report.Foreign++
		return
	}
	c := a.claims[rec.id]
	switch {
	case c == nil && rec.run != a.run:
		a.report.Foreign++ // a chunk, or a line, that this ledger knows nothing of
		return
	case c == nil: // sent, and the simulator died before it could say so
		c = &claim{kind: a.kinds[rec.id.device], key: rec.key, sum: rec.sum, order: rec.id.seq}
		if c.kind == "" {
			c.kind = ledger.MQTT
		}
		a.claims[rec.id] = c
	case c.sum != rec.sum:
		a.report.Altered++
		a.kind(c.kind).Altered++
		a.report.example(&a.report.AlteredExamples, rec.id)
		return
	case c.kind == ledger.MQTT && c.key != rec.key:
		a.report.WrongKey++
	}
	k := a.kind(c.kind)
	c.arrived++
	switch c.arrived {
	case 1:
		c.envelope = rec.envelope
		a.first(stream, rec, c, k)
	case 2:
		k.Duplicated++
		a.report.Duplicated++
	}
	if c.arrived > 1 {
		switch {
		case rec.envelope != "" && rec.envelope == c.envelope:
			a.report.RepeatedByUplink++
		default:
			a.report.RepeatedBySender++
			if c.again {
				a.report.RepeatedByOrder++
			}
		}
	}
}

// first counts a first occurrence and its order.
func (a *account) first(stream string, rec arrival, c *claim, k *Kind) {
	if c.acked {
		k.Arrived++
	} else {
		k.NotAcknowledged++
	}
	t := track{stream, rec.key, rec.id.device}
	if c.order < a.last[t] {
		k.OutOfOrder++
		a.report.OutOfOrder++
		a.report.example(&a.report.DisorderedExamples, rec.id)
		return
	}
	a.last[t] = c.order
}

func (a *account) alarm(rec arrival) {
	for i := range a.report.Alarms {
		if seen := &a.report.Alarms[i]; seen.ID == rec.alarm.ID && seen.Event == rec.alarm.Event && seen.Transition == rec.alarm.Transition {
			seen.Arrived++
			return
		}
	}
	rec.alarm.Arrived = 1
	a.report.Alarms = append(a.report.Alarms, *rec.alarm)
}

// missing counts what was acknowledged and has not arrived.
func (a *account) missing() int {
	n := 0
	for _, k := range a.report.Kinds {
		n += k.Acknowledged - k.Arrived
	}
	return n
}

// finish draws the sums.
func (a *account) finish() Report {
	r := a.report
	r.Run = a.run
	r.Lost, r.Acknowledged, r.Arrived, r.NotAcknowledged = 0, 0, 0, 0
	for _, k := range r.Kinds {
		k.Lost = k.Acknowledged - k.Arrived
		r.Lost += k.Lost
		r.Acknowledged += k.Acknowledged
		r.Arrived += k.Arrived
		r.NotAcknowledged += k.NotAcknowledged
	}
	var lost []id
	for name, c := range a.claims {
		if c.acked && c.arrived == 0 {
			lost = append(lost, name)
		}
	}
	slices.SortFunc(lost, func(a, b id) int {
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.seq, b.seq), cmp.Compare(a.name, b.name))
	})
	r.LostExamples = nil
	for _, name := range lost {
		r.example(&r.LostExamples, name)
	}
	return r
}
