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
	wanted map[string]bool // lanes that are compared
	lanes  map[string]*heldLane
	others map[string]uint64
	more   uint64 // records of lanes that others has no room for
	all    uint64
}

type heldLane struct {
	seqs     *Set
	parts    *Spans
	high     envelope.Place
	again    uint64 // came more than once
	disorder uint64 // came first behind a later one
}

// NewHeld gathers for a comparison with what was sent.
func NewHeld(s api.Sent) *Held {
	h := &Held{wanted: map[string]bool{}, lanes: map[string]*heldLane{}, others: map[string]uint64{}}
	for _, l := range s.Lanes {
		h.wanted[l.Lane] = true
	}
	epochs := append([]string{s.Epoch}, s.Epochs...)
	for _, sh := range s.Shards {
		for _, e := range epochs {
			h.wanted[laneName(s.Gateway, e, sh.Number)] = true
		}
	}
	return h
}

func laneName(gateway, epoch string, shard uint32) string {
	return fmt.Sprintf("%s/%s/%d", gateway, epoch, shard)
}

// Add takes the id of a record that the far side holds, in its order. Errors:
// the id is none, or ErrTooScattered.
func (h *Held) Add(id string) error {
	name, at, ok := envelope.SplitID(id)
	if !ok {
		return fmt.Errorf("%q, which the far side holds, is no record's id", id)
	}
	h.all++
	if !h.wanted[name] {
		h.other(name)
		return nil
	}
	l := h.lanes[name]
	if l == nil {
		l = &heldLane{seqs: h.budget.NewSet(), parts: h.budget.NewSpans()}
		h.lanes[strings.Clone(name)] = l
	}
	var fresh bool
	var err error
	if at.Part == 0 {
		fresh, err = l.seqs.Add(at.Seq)
	} else {
		v, fits := place(at.Seq, at.Part)
		if !fits {
			return fmt.Errorf("%s, which the far side holds, has a number that is out of all bounds", id)
		}
		fresh, err = l.parts.Add(v)
	}
	switch {
	case err != nil:
		return err
	case !fresh:
		l.again++
	case at.After(l.high):
		l.high = at
	default:
		l.disorder++
	}
	return nil
}

func (h *Held) other(lane string) {
	if _, known := h.others[lane]; known || len(h.others) < maxOthers {
		h.others[lane]++
		return
	}
	h.more++
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
