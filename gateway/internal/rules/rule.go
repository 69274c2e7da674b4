// Package rules watches the log and raises alarms.
//
// An Engine is the pure part: rules compiled to closures, and the alarm life
// cycle of ISA-18.2 per rule and key; it has no clock and does no I/O. A Loop
// is the rest: it follows the streams that the rules name, keeps the state of
// the rules in rules.db, and appends every transition of an alarm as a record
// of the stream "alarms", once.
package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"forebay/gateway/conf"
	"forebay/gateway/expr"
)

const (
	// AlarmStream is where the transitions of alarms are appended.
	AlarmStream = "alarms"
	// SystemRule is the rule name under which the gateway's own conditions
	// stand; no rule may be called so.
	SystemRule = "system"
	// noDataSuffix makes the name of a rule's deadman.
	noDataSuffix = "/no-data"
)

// A Rule is one [[rule]] of the config file.
//
// A rule looks at a record only if the record has every field that the rule's
// expression names, with the kind that it is used as; else the state stays.
type Rule struct {
	ID       conf.Name     `toml:"id"`        // stable name; required
	From     conf.Stream   `toml:"from"`      // stream that is watched; default "mqtt"
	Match    string        `toml:"match"`     // topic filter on the partition key, with + and #; default "#"
	Key      string        `toml:"key"`       // what one alarm is about, such as "{1}/{2}" (what + stood for) or "{device}" (a field); default the partition key
	When     string        `toml:"when"`      // condition, such as "temp > 80 and state == \"run\""; required unless no_data is set
	Clear    string        `toml:"clear"`     // condition that ends it, such as "temp < 77"; default: not when
	For      conf.Duration `toml:"for"`       // on-delay: how long `when` must hold; default 0
	OffDelay conf.Duration `toml:"off_delay"` // how long the clearing condition must hold; default 0
	Severity Severity      `toml:"severity"`  // critical, high, medium, low, or 1 to 4; default medium (3)
	Text     string        `toml:"text"`      // what the operator reads; {value} {unit} {key} {limit} {rule} {1} and any field; default "{rule}: {key} {value} {unit}"
	Value    string        `toml:"value"`     // number that is shown, a field or an expression; default the one number field of `when`, else "value"
	Unit     string        `toml:"unit"`      // of the value, UCUM; default the payload's field "unit"
	Ack      string        `toml:"ack"`       // "required" (default) or "none"
	NoData   conf.Duration `toml:"no_data"`   // raise a separate alarm, ID/no-data, when a key that was seen is silent for so long; default off
	Disabled bool          `toml:"disabled"`  // the rule is kept in the file but does nothing
}

// A Severity is 1 (most urgent) to 4; 0 is not set.
type Severity int

var severities = []string{"critical", "high", "medium", "low"}

// UnmarshalText reads 1 to 4, critical, high, medium or low.
func (s *Severity) UnmarshalText(b []byte) error {
	v := strings.ToLower(strings.TrimSpace(string(b)))
	if n, err := strconv.Atoi(v); err == nil && n >= 1 && n <= len(severities) {
		*s = Severity(n)
		return nil
	}
	for i, name := range severities {
		if v == name {
			*s = Severity(i + 1)
			return nil
		}
	}
	hint := expr.DidYouMean(v, severities...)
	if hint != "" {
		hint = "; " + hint
	}
	return fmt.Errorf("%q is not a severity; use critical, high, medium, low or 1 to 4%s", b, hint)
}

// MarshalText is the inverse of UnmarshalText.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func (s Severity) String() string {
	if s == 0 {
		return "medium"
	}
	if s < 1 || int(s) > len(severities) {
		return strconv.Itoa(int(s))
	}
	return severities[s-1]
}

// Check says whether the rule can be loaded. An error names the setting before
// the first colon; one about an expression shows the column with a caret.
func (r *Rule) Check() error {
	_, err := compileRule(*r, expr.NewSchema())
	return err
}

func (r *Rule) fields() error {
	var n conf.Name
	switch {
	case r.ID == "":
		return errors.New("id: a rule needs one, such as \"press-overheat\"")
	case n.UnmarshalText([]byte(r.ID)) != nil:
		return fmt.Errorf("id: %w", n.UnmarshalText([]byte(r.ID)))
	case r.ID == SystemRule:
		return fmt.Errorf("id: %q is the gateway's own name; take another", r.ID)
	case r.From == AlarmStream:
		return fmt.Errorf("from: %q is what rules write; a rule on it would answer itself", r.From)
	case r.From != "" && !conf.ValidStream(string(r.From)):
		return fmt.Errorf("from: %q is not a stream name", r.From)
	case r.Severity < 0 || int(r.Severity) > len(severities):
		return fmt.Errorf("severity: %d is not 1 to 4", r.Severity)
	case r.For < 0, r.OffDelay < 0, r.NoData < 0:
		return errors.New("for: a delay cannot be negative")
	case r.When == "" && r.NoData == 0:
		return errors.New("when: a rule needs a condition, such as \"value > 80\", or no_data")
	case r.When == "" && r.Clear != "":
		return errors.New("clear: there is no `when` that it could clear")
	case r.NoData > 0 && r.NoData.D() < time.Second:
		return fmt.Errorf("no_data: %s is too short; at least 1s", r.NoData)
	case r.Ack != "" && r.Ack != "required" && r.Ack != "none":
		hint := expr.DidYouMean(r.Ack, "required", "none")
		return fmt.Errorf("ack: %q is not \"required\" or \"none\"%s", r.Ack, strings.TrimRight("; "+hint, "; "))
	}
	return nil
}

// fingerprint changes when the meaning of the rule does: then its alarms are
// closed. Text, severity, unit and the value shown do not count.
func (r *Rule) fingerprint() string {
	ack := r.Ack
	if ack == "" {
		ack = "required"
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %q %d %d %q %d", r.stream(), r.match(), r.Key, r.When, r.Clear, r.For, r.OffDelay, ack, r.NoData))
	return hex.EncodeToString(sum[:8])
}

func (r *Rule) stream() string {
	if r.From == "" {
		return "mqtt"
	}
	return string(r.From)
}

func (r *Rule) match() string {
	if r.Match == "" {
		return "#"
	}
	return r.Match
}

// A compiled rule.
type compiled struct {
	index    int
	id       string
	noDataID string
	stream   string
	filter   conf.Filter
	print    string
	severity int
	unit     string
	ack      bool

	when, clear expr.Cond
	value       expr.Num
	whenNeeds   expr.Needs
	clearNeeds  expr.Needs
	valueNeeds  expr.Needs
	unitSlot    int // of the payload's unit, -1 if the rule has its own
	limit       *float64
	on, off     time.Duration
	noData      time.Duration

	key       template
	keyIsKey  bool // the alarm key is the partition key
	keyStatic bool // the alarm key follows from the partition key alone
	text      template
	live      int // instances of `when`
}

func compileRule(r Rule, s *expr.Schema) (*compiled, error) {
	if err := r.fields(); err != nil {
		return nil, err
	}
	c := &compiled{
		id: string(r.ID), noDataID: string(r.ID) + noDataSuffix, stream: r.stream(), print: r.fingerprint(), unit: r.Unit, unitSlot: -1,
		ack: r.Ack != "none", on: r.For.D(), off: r.OffDelay.D(), noData: r.NoData.D(), severity: int(r.Severity),
	}
	if c.severity == 0 {
		c.severity = 3
	}
	var err error
	if c.filter, err = conf.ParseFilter(r.match()); err != nil {
		return nil, fmt.Errorf("match: %w", err)
	}
	if err := c.expressions(r, s); err != nil {
		return nil, err
	}
	if r.Unit == "" {
		c.unitSlot = s.Field([]string{"unit"})
	}
	if err := c.templates(r, s); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *compiled) expressions(r Rule, s *expr.Schema) error {
	cc := expr.NewCompiler(s, "rule")
	var err error
	if r.When != "" {
		if c.when, c.whenNeeds, err = cc.Condition(r.When); err != nil {
			return fmt.Errorf("when: %w", err)
		}
		c.limit = cc.Limit()
	}
	nums := cc.Numbers()
	if r.Clear != "" {
		if c.clear, c.clearNeeds, err = cc.Condition(r.Clear); err != nil {
			return fmt.Errorf("clear: %w", err)
		}
	}
	if r.Value != "" {
		if c.value, c.valueNeeds, err = cc.Number(r.Value); err != nil {
			return fmt.Errorf("value: %w", err)
		}
		return nil
	}
	i := s.Field([]string{"value"})
	if len(nums) == 1 {
		i = nums[0]
	}
	c.value, c.valueNeeds = expr.FieldNumber(i)
	return nil
}

func (c *compiled) templates(r Rule, s *expr.Schema) error {
	var err error
	c.keyIsKey = r.Key == "" || r.Key == "{key}"
	if c.key, err = parseTemplate(r.Key, s, c.filter.Plus(), nil, true); err != nil {
		return fmt.Errorf("key: %w", err)
	}
	c.keyStatic = true
	for _, p := range c.key.parts {
		c.keyStatic = c.keyStatic && p.place != slotPlace
	}
	text := r.Text
	if text == "" {
		text = "{rule}: {key} {value} {unit}"
	}
	if c.text, err = parseTemplate(text, s, c.filter.Plus(), c.limit, false); err != nil {
		return fmt.Errorf("text: %w", err)
	}
	return nil
}
