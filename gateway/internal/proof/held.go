package proof

import (
	"fmt"
	"sort"
	"strings"

	"forebay/gateway/api"
	"forebay/uplink/envelope"
)

// maxOthers is how many lanes of others are counted one by one.
const maxOthers = 1000

// Held gathers what a far side holds. It is used from one goroutine.
type Held struct {
	budget Budget
	under  func(stream string) string
	lanes  map[heldKey]*heldLane // those that are compared
	known  map[string]bool       // their names
	others map[string]uint64
	more   uint64 // records of lanes that others has no room for
	apart  map[string]uint64
	strays uint64 // records under names that apart has no room for
	all    uint64
}

// A heldKey is a lane under a name of the far side. A replay's copies have the
// ids of the records that they are copies of, and lie under another name.
type heldKey struct{ under, lane string }

type heldLane struct {
	seqs, twiceSeqs   *Set
	parts, twiceParts *Spans
	high              envelope.Place
	again             uint64 // came more than once
	disorder          uint64 // came first behind a later one
}

// NewHeld gathers for a comparison with what was sent. under is the name that
// the records of a stream lie under, given what the stream is called at the far
// side (api.SentShard.Far).
func NewHeld(s api.Sent, under func(stream string) string) *Held {
	h := &Held{under: under, lanes: map[heldKey]*heldLane{}, known: map[string]bool{}, others: map[string]uint64{}, apart: map[string]uint64{}}
	far := map[uint32]string{}
	epochs := append([]string{s.Epoch}, s.Epochs...)
	for _, sh := range s.Shards {
		far[sh.Number] = sh.Far
		for _, e := range epochs {
			h.want(sh.Far, laneName(s.Gateway, e, sh.Number))
		}
	}
	for _, l := range s.Lanes {
		h.want(far[l.Shard], l.Lane)
	}
	return h
}

func (h *Held) want(far, lane string) {
	if h.lane(far, lane) == nil {
		h.known[lane] = true
		h.lanes[heldKey{h.under(far), lane}] = &heldLane{
			seqs: h.budget.NewSet(), twiceSeqs: h.budget.NewSet(), parts: h.budget.NewSpans(), twiceParts: h.budget.NewSpans(),
		}
	}
}

// lane is what is held of a lane under the name where its stream's records
// belong; nil for one that is not compared.
func (h *Held) lane(far, lane string) *heldLane { return h.lanes[heldKey{h.under(far), lane}] }

func laneName(gateway, epoch string, shard uint32) string {
	return fmt.Sprintf("%s/%s/%d", gateway, epoch, shard)
}

// Add takes the id of a record that the far side holds, in its order, and the
// name that it lies under there. Errors: the id is none, or ErrTooScattered.
func (h *Held) Add(under, id string) error {
	name, at, ok := envelope.SplitID(id)
	if !ok {
		return fmt.Errorf("%q, which the far side holds, is no record's id", id)
	}
	h.all++
	l := h.lanes[heldKey{under, name}]
	switch {
	case l != nil:
		return l.add(id, at)
	case h.known[name]:
		tally(h.apart, under, &h.strays)
	default:
		tally(h.others, name, &h.more)
	}
	return nil
}

func (l *heldLane) add(id string, at envelope.Place) error {
	var fresh, second bool
	var err error
	if at.Part == 0 {
		if fresh, err = l.seqs.Add(at.Seq); err == nil && !fresh {
			second, err = l.twiceSeqs.Add(at.Seq)
		}
	} else {
		v, fits := place(at.Seq, at.Part)
		if !fits {
			return fmt.Errorf("%s, which the far side holds, has a number that is out of all bounds", id)
		}
		if fresh, err = l.parts.Add(v); err == nil && !fresh {
			second, err = l.twiceParts.Add(v)
		}
	}
	switch {
	case err != nil:
		return err
	case second: // a third one makes it no more doubled
		l.again++
	case !fresh:
	case at.After(l.high):
		l.high = at
	default:
		l.disorder++
	}
	return nil
}

// tally counts a record under a name, or in more where there are too many.
func tally(by map[string]uint64, name string, more *uint64) {
	_, known := by[name]
	switch {
	case known:
		by[name]++
	case len(by) < maxOthers:
		by[strings.Clone(name)] = 1
	default:
		*more++
	}
}

// Others are the lanes of other gateways and epochs, by name, with what the far
// side holds of each.
func (h *Held) Others() []Other {
	out := []Other{}
	for lane, n := range h.others {
		out = append(out, Other{Lane: lane, Records: n})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Lane < out[j].Lane })
	if h.more > 0 {
		out = append(out, Other{Lane: "others", Records: h.more})
	}
	return out
}

// Elsewhere are the other names under which the far side holds records of the
// lanes that are compared, copies of replays above all, with how many, and how
// many these are together.
func (h *Held) Elsewhere() (names []Name, records uint64) {
	names, records = []Name{}, h.strays
	for name, n := range h.apart {
		names, records = append(names, Name{name, n}), records+n
	}
	sort.Slice(names, func(i, j int) bool { return names[i].Name < names[j].Name })
	if h.strays > 0 {
		names = append(names, Name{"others", h.strays})
	}
	return names, records
}
