package rules

import (
	"cmp"
	"crypto/md5"
	"encoding/hex"
	"slices"
	"strconv"
	"time"

	"forebay/spool/record"
)

// The states of an alarm (ISA-18.2, 5.2; IEC 62682). An alarm that waits for
// its on-delay is still normal.
const (
	StateNormal     = "normal"      // the condition does not hold, nothing is left to acknowledge
	StateUnacked    = "unacked"     // it holds and nobody has acknowledged it
	StateAcked      = "acked"       // it holds and was acknowledged, or needs no acknowledgement
	StateRTNUnacked = "rtn-unacked" // it held, has returned to normal, and nobody has acknowledged it
)

// The events that move an alarm, in the field "event" of an alarm record.
const (
	EventRaised      = "raised"       // the condition holds (again)
	EventAcked       = "acked"        // a person acknowledged it
	EventCleared     = "cleared"      // the condition no longer holds
	EventChanged     = "changed"      // the severity of a system condition changed
	EventRuleChanged = "rule-changed" // closed because the rule now means something else
	EventRuleRemoved = "rule-removed" // closed because the rule is gone or disabled
)

// An Alarm is one occurrence of a rule's condition for one key: from the raise
// to the return to normal. As the payload of an alarm record it stands for the
// transition named in Event.
type Alarm struct {
	ID       string    `json:"id"`       // rule/key/transition of the first raise: the same after any restart
	Rule     string    `json:"rule"`     // "system" for the gateway's own conditions; ID/no-data for a deadman
	Key      string    `json:"key"`      // what it is about
	Severity int       `json:"severity"` // 1 (most urgent) to 4
	State    string    `json:"state"`    // unacked, acked, rtn-unacked, normal
	Text     string    `json:"text"`
	Value    *float64  `json:"value"` // at the raise; null where there is none
	Unit     string    `json:"unit"`
	Raised   time.Time `json:"raised"`  // of the latest raise
	Changed  time.Time `json:"changed"` // of the latest transition
	AckedBy  string    `json:"acked_by,omitempty"`
	Note     string    `json:"note,omitempty"`

	Transition uint64 `json:"transition"` // rises by one per rule and key
	Event      string `json:"event"`      // of the latest transition
}

// RecordKey is the partition key of the alarm's records: rule/key, so that the
// transitions of one alarm stay in order. Where that is longer than a partition
// key may be, the MD5 of the key in hexadecimal stands for it.
func (a *Alarm) RecordKey() string {
	k := a.Rule + "/" + a.Key
	if len(k) > record.MaxKey {
		sum := md5.Sum([]byte(a.Key))
		k = a.Rule + "/" + hex.EncodeToString(sum[:])
	}
	return k
}

// Waiting reports whether the alarm waits for an acknowledgement.
func (a *Alarm) Waiting() bool { return a.State == StateUnacked || a.State == StateRTNUnacked }

// Active reports whether the condition holds.
func (a *Alarm) Active() bool { return a.State == StateUnacked || a.State == StateAcked }

// sortAlarms puts what waits for an acknowledgement first, then the more
// urgent, then what is active, then the newer.
func sortAlarms(as []Alarm) {
	rank := func(b bool) int {
		if b {
			return 0
		}
		return 1
	}
	slices.SortFunc(as, func(a, b Alarm) int {
		return cmp.Or(
			cmp.Compare(rank(a.Waiting()), rank(b.Waiting())),
			cmp.Compare(a.Severity, b.Severity),
			cmp.Compare(rank(a.Active()), rank(b.Active())),
			b.Raised.Compare(a.Raised),
			cmp.Compare(a.ID, b.ID),
		)
	})
}

// A Condition is a state of the gateway itself that an operator should know: a
// broken uplink, a full disk, a serial port that is gone. It has the life cycle
// of any alarm. It stands under the rule "system", key SOURCE/NAME.
type Condition struct {
	Source   string // who reports: uplink/site, spool, serial/press
	Name     string // what: down, full, stale
	Severity int    // 1 to 4; 0 is 3
	Active   bool   // holds now
	Text     string // what the operator reads
	Value    *float64
	Unit     string
}

func (c *Condition) key() string { return c.Source + "/" + c.Name }

type stateKey struct{ rule, key string }

// phases of an instance between its states.
type phase uint8

const (
	steady  phase = iota
	rising        // the condition holds, the on-delay runs
	falling       // the clearing condition holds, the off-delay runs
)

// A state is what is kept of one rule and key, in memory and in rules.db.
type state struct {
	Alarm
	Print   string    `json:"print"` // fingerprint of the rule that made it
	Occ     uint64    `json:"occurrence"`
	Phase   phase     `json:"phase"`
	Since   time.Time `json:"since"`    // when the phase began, by arrival; last data of a deadman
	SinceAt time.Time `json:"since_at"` // the same by the sender's clock, if it has one
	// What the alarm will say if the on-delay passes.
	NextText  string   `json:"next_text,omitempty"`
	NextValue *float64 `json:"next_value,omitempty"`
	NextUnit  string   `json:"next_unit,omitempty"`
}

func (s *state) alarm() Alarm {
	a := s.Alarm
	a.ID = s.Rule + "/" + s.Key + "/" + strconv.FormatUint(s.Occ, 10)
	if s.Value != nil {
		v := *s.Value
		a.Value = &v
	}
	return a
}
