package proof

import (
	"fmt"
	"strings"
	"time"

	"forebay/gateway/api"
)

// What a comparison comes to.
const (
	NoGap     = "no gap"
	HasGap    = "gap"
	NotProven = "not proven"
	Nothing   = "nothing to compare"
)

// maxGaps is how many gaps are named one by one.
const maxGaps = 200

// A Verdict is what holding a far side against the ledger and the log came to.
type Verdict struct {
	At      time.Time  `json:"at"`
	Version string     `json:"version"`
	Gateway string     `json:"gateway"`
	Epoch   string     `json:"epoch"`
	Uplink  string     `json:"uplink"`
	Target  string     `json:"target"`
	From    *time.Time `json:"from,omitempty"`
	To      *time.Time `json:"to,omitempty"`
	Seconds float64    `json:"seconds"`

	Result string   `json:"result"` // NoGap, HasGap, NotProven, Nothing
	Why    []string `json:"why"`    // what qualifies the result, in words

	// Compared is how many records the far side ought to hold, those that were
	// filtered or refused included where they are known by number only. Found
	// are those it holds, Missing those it does not and nothing explains.
	Compared uint64 `json:"compared"`
	Found    uint64 `json:"found"`
	Missing  uint64 `json:"missing"`
	// Explained are absent and counted as filtered, refused, expired or corrupt.
	Explained uint64 `json:"explained"`
	// Older are absent and older than what the target keeps.
	Older uint64 `json:"older"`
	// Unknown cannot be compared.
	Unknown uint64 `json:"unknown"`
	// Waiting are not handed on yet, of whatever time. They are not compared.
	Waiting uint64 `json:"waiting"`
	// Again is how many came more than once under their name, however often,
	// Disorder how many came first behind a later one of their lane; -1 where the
	// target has no order.
	Again    uint64 `json:"duplicates"`
	Disorder int64  `json:"out_of_order"`
	// Held is how many ids the target gave, of whatever gateway and name.
	Held uint64 `json:"held"`
	// Elsewhere is how many of these are of lanes that are compared and lie under
	// other names than the uplink's own, as a replay's copies do. They stand in
	// for nothing that is missing.
	Elsewhere uint64 `json:"under_other_names"`
	Names     []Name `json:"other_names,omitempty"` // those names

	Shards []ShardVerdict `json:"shards"`
	Gaps   []Gap          `json:"gaps"`
	// GapsMore is how many gaps are not in Gaps.
	GapsMore int     `json:"gaps_more,omitempty"`
	Others   []Other `json:"others"`
}

// A ShardVerdict is the verdict on one shard here.
type ShardVerdict struct {
	Stream    string `json:"stream"`
	Shard     string `json:"shard"`
	Number    uint32 `json:"number"`
	First     uint64 `json:"first"` // of the range that the uplink has passed
	Last      uint64 `json:"last"`
	Compared  uint64 `json:"compared"`
	Found     uint64 `json:"found"`
	Missing   uint64 `json:"missing"`
	Explained uint64 `json:"explained"`
	Older     uint64 `json:"older"`
	Unknown   uint64 `json:"unknown"`
	Waiting   uint64 `json:"waiting"`
	Again     uint64 `json:"duplicates"`
	Disorder  uint64 `json:"out_of_order"`
	// ByCount says that of the absent records only the number can be told from
	// that of filtered and refused ones, not which they are.
	ByCount bool `json:"by_count,omitempty"`
}

// A Gap is consecutive records that the far side does not hold.
type Gap struct {
	Stream  string     `json:"stream"`
	Shard   string     `json:"shard"`
	First   string     `json:"first"` // id
	Last    string     `json:"last"`
	Records uint64     `json:"records"`
	From    *time.Time `json:"from,omitempty"` // arrival of the first and the last, where the log still has them
	To      *time.Time `json:"to,omitempty"`
	// Among says that only some of these are missing: others were filtered.
	Among bool `json:"among,omitempty"`

	// Where the log has them; 0 for ids of other gateways.
	Seq, LastSeq uint64 `json:"-"`
}

// An Other is a lane that was not compared.
type Other struct {
	Lane    string `json:"lane"`
	Records uint64 `json:"records"`
}

// A Name is one of the far side, under which records lie.
type Name struct {
	Name    string `json:"name"`
	Records uint64 `json:"records"`
}

// Terms are what a comparison takes into account.
type Terms struct {
	Window  bool // only records that arrived within some time are compared
	Ordered bool // the target has an order
	// Keeps is since when the target keeps what arrived; zero: for ever.
	Keeps time.Time
}

type comparison struct {
	*Verdict
	sent  api.Sent
	held  *Held
	terms Terms
	lanes map[uint32][]api.SentLane // by shard
}

// Compare holds a far side against what was sent.
func Compare(sent api.Sent, held *Held, terms Terms) *Verdict {
	c := &comparison{
		Verdict: &Verdict{At: sent.At, Gateway: sent.Gateway, Epoch: sent.Epoch, Uplink: sent.Uplink, Why: []string{}, Shards: []ShardVerdict{}, Gaps: []Gap{}, Held: held.all, Others: held.Others()},
		sent:    sent, held: held, terms: terms, lanes: map[uint32][]api.SentLane{},
	}
	c.Names, c.Elsewhere = held.Elsewhere()
	for _, l := range sent.Lanes {
		c.lanes[l.Shard] = append(c.lanes[l.Shard], l)
	}
	for i := range sent.Shards {
		c.shard(&sent.Shards[i])
	}
	for _, l := range held.lanes {
		c.Again += l.again
		c.Disorder += int64(l.disorder)
	}
	if !terms.Ordered {
		c.Disorder = -1
	}
	switch {
	case c.Missing > 0:
		c.Result = HasGap
	case c.Unknown > 0:
		c.Result = NotProven
	case c.Compared == 0:
		c.Result = Nothing
	default:
		c.Result = NoGap
	}
	if c.Older > 0 {
		c.say("%d records are older than what the target keeps: that they are not there is no gap", c.Older)
	}
	switch {
	case c.Result != Nothing:
	case terms.Window:
		c.say("of that time the uplink has delivered nothing that could be compared")
	default:
		c.say("the uplink has delivered nothing that could be compared")
	}
	return c.Verdict
}

func (c *comparison) say(format string, args ...any) {
	c.Why = append(c.Why, fmt.Sprintf(format, args...))
}

// shard compares what one shard's cursor has passed.
func (c *comparison) shard(sh *api.SentShard) {
	c.Waiting += sh.Waiting
	if sh.Next <= sh.Start {
		return
	}
	v := ShardVerdict{Stream: sh.Stream, Shard: sh.ID, Number: sh.Number, First: sh.Start, Last: sh.Next - 1, Waiting: sh.Waiting}
	if sum := sh.Delivered + sh.Filtered + sh.Refused + sh.Expired + sh.Corrupt; sum != sh.Next-sh.Start {
		c.say("the ledger itself does not add up for stream %s, %s: %d records were passed, and %d are accounted for", sh.Stream, sh.ID, sh.Next-sh.Start, sum)
		v.Unknown++
	}
	var gaps []Gap
	gaps = c.gone(sh, &v, gaps)
	for i := range c.lanes[sh.Number] {
		gaps = c.lane(&c.lanes[sh.Number][i], sh, &v, gaps)
	}
	c.excuse(sh, &v, gaps)
	c.Compared += v.Compared
	c.Found += v.Found
	c.Missing += v.Missing
	c.Explained += v.Explained
	c.Older += v.Older
	c.Unknown += v.Unknown
	c.Shards = append(c.Shards, v)
}

// excuse sets what is absent against what the ledger says was not delivered.
// v.Missing is all that is absent.
func (c *comparison) excuse(sh *api.SentShard, v *ShardVerdict, gaps []Gap) {
	budget := sh.Filtered + sh.Expired + sh.Corrupt + (sh.Refused - min(sh.RefusedKnown, sh.Refused))
	budget -= min(budget, sh.Unreadable) // those are not expected either
	absent := v.Missing
	if absent == 0 {
		return
	}
	v.Explained = min(absent, budget)
	v.Missing = absent - v.Explained
	v.ByCount = v.Explained > 0
	if sh.Filtered > 0 && (c.terms.Window || sh.Aggregates > 0 && sh.Forwarded > 0) {
		// The count is of all that was ever passed, and of stored records.
		why := "the count of filtered records is not of this time alone"
		if !c.terms.Window {
			why = "of what other gateways sent in aggregates, filtered records are not counted one by one"
		}
		c.say("stream %s, %s: %d records are absent, and whether that is because they were filtered cannot be told: %s", sh.Stream, sh.ID, absent, why)
		if c.terms.Window {
			v.Unknown += v.Explained
		} else {
			v.Unknown, v.Missing, v.Explained = v.Unknown+absent, 0, 0
		}
		if v.Missing == 0 {
			return
		}
	}
	if v.Missing == 0 {
		c.say("stream %s, %s: %d records are absent, and the ledger counts %d as filtered, refused, expired or corrupt; which ones it does not say", sh.Stream, sh.ID, absent, budget)
		return
	}
	for _, g := range gaps {
		if len(c.Gaps) >= maxGaps || g.First == "" {
			c.GapsMore++
			continue
		}
		g.Among = v.ByCount
		c.Gaps = append(c.Gaps, g)
	}
}

// add notes records that are absent.
func add(gaps []Gap, g Gap) []Gap {
	if len(gaps) > maxGaps { // one more than are shown, so that it is known that there are more
		gaps[maxGaps].Records += g.Records
		return gaps
	}
	return append(gaps, g)
}

// gone compares the records that the log no longer has. Their epoch is one of
// those that the ledger knows.
func (c *comparison) gone(sh *api.SentShard, v *ShardVerdict, gaps []Gap) []Gap {
	end := min(sh.First, sh.Next)
	if sh.Start >= end {
		return gaps
	}
	n := end - sh.Start
	if c.terms.Window || sh.Forwarded > 0 {
		why := "their times are not known"
		if !c.terms.Window {
			why = "records of other gateways are among them, whose ids are not known"
		}
		c.say("stream %s, %s: %d records that the log no longer has were not compared: %s", sh.Stream, sh.ID, n, why)
		return gaps
	}
	var sets []*Set
	var parts []*Spans
	names := []string{}
	epochs := c.sent.Epochs
	if len(epochs) == 0 {
		epochs = []string{c.sent.Epoch}
	}
	for _, e := range epochs {
		name := laneName(c.sent.Gateway, e, sh.Number)
		names = append(names, name)
		if l := c.held.lane(sh.Far, name); l != nil {
			sets, parts = append(sets, l.seqs), append(parts, l.parts)
		}
	}
	name := names[len(names)-1]
	v.Compared += n
	found, old := n, !c.terms.Keeps.IsZero()
	missing(sh.Start, end-1, sets, func(first, last uint64) {
		for first <= last && hasPart(parts, first) { // one that travelled in parts
			first++
		}
		if first > last {
			return
		}
		count := last - first + 1
		found -= count
		// A target that keeps only what is young lets go of the oldest first.
		if old && first == sh.Start {
			v.Older += count
			return
		}
		v.Missing += count
		gaps = add(gaps, Gap{Stream: sh.Stream, Shard: sh.ID, First: fmt.Sprintf("%s/%d", name, first), Last: fmt.Sprintf("%s/%d", name, last), Records: count, Seq: first, LastSeq: last})
	})
	v.Found += found
	return gaps
}

func hasPart(parts []*Spans, seq uint64) bool {
	v, ok := place(seq, 1)
	if !ok {
		return false
	}
	for _, p := range parts {
		if p.Has(v) {
			return true
		}
	}
	return false
}

// lane compares what the log still has of one lane.
func (c *comparison) lane(l *api.SentLane, sh *api.SentShard, v *ShardVerdict, gaps []Gap) []Gap {
	have := c.held.lane(sh.Far, l.Lane)
	v.Again += have.again
	v.Disorder += have.disorder
	ours := strings.HasPrefix(l.Lane, c.sent.Gateway+"/") && strings.HasSuffix(l.Lane, fmt.Sprintf("/%d", sh.Number))
	for _, r := range l.Ranges {
		v.Compared += r[1] - r[0] + 1
		v.Found += have.seqs.count(r[0], r[1])
		missing(r[0], r[1], []*Set{have.seqs}, func(first, last uint64) {
			if first <= l.Old {
				n := min(last, l.Old) - first + 1
				v.Older += n
				if first += n; first > last {
					return
				}
			}
			v.Missing += last - first + 1
			g := Gap{Stream: l.Stream, Shard: sh.ID, First: fmt.Sprintf("%s/%d", l.Lane, first), Last: fmt.Sprintf("%s/%d", l.Lane, last), Records: last - first + 1}
			if ours {
				g.Seq, g.LastSeq = first, last
			}
			gaps = add(gaps, g)
		})
	}
	for _, p := range l.Parts {
		n := p[2] - p[1] + 1
		v.Compared += n
		from := uint64(0) // the first absent part of a run
		for part := p[1]; part <= p[2]+1; part++ {
			at, ok := place(p[0], part)
			absent := part <= p[2] && (!ok || !have.parts.Has(at))
			if absent {
				if n--; p[0] <= l.Old {
					v.Older++
				} else if v.Missing++; from == 0 {
					from = part
				}
				continue
			}
			if from > 0 {
				g := Gap{Stream: l.Stream, Shard: sh.ID, First: fmt.Sprintf("%s/%d/%d", l.Lane, p[0], from), Last: fmt.Sprintf("%s/%d/%d", l.Lane, p[0], part-1), Records: part - from}
				if ours {
					g.Seq, g.LastSeq = p[0], p[0]
				}
				gaps = add(gaps, g)
				from = 0
			}
		}
		v.Found += n
	}
	return gaps
}
