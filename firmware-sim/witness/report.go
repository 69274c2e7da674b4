package witness

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Report is the witness's account of one ledger and one far end.
type Report struct {
	Run        string `json:"run"`
	Lost       int    `json:"lost"`         // acknowledged, and not at the far end as they were sent
	OutOfOrder int    `json:"out_of_order"` // first arrivals behind a later record of the same key and device
	Duplicated int    `json:"duplicated"`   // records that arrived more than once

	Acknowledged    int `json:"acknowledged"`
	Arrived         int `json:"arrived"`                      // of the acknowledged ones
	NotAcknowledged int `json:"not_acknowledged_but_arrived"` // QoS 0, lines that know no acknowledgement, answers that never came
	Altered         int `json:"altered"`                      // arrived with other bytes than were sent: counted as not arrived
	WrongKey        int `json:"wrong_key"`                    // MQTT records whose partition key is not their topic

	RepeatedByUplink int `json:"repeated_by_uplink"` // further arrivals under the same gateway id
	RepeatedBySender int `json:"repeated_by_sender"` // further arrivals under another id, or in raw format, where ids are not known
	RepeatedByOrder  int `json:"repeated_by_order"`  // of those: what a device was told to send twice

	Records    int `json:"records"`    // read at the far end, aggregates taken apart
	Aggregates int `json:"aggregates"` // KPL aggregates among what was read
	Foreign    int `json:"foreign"`    // records that are not of this ledger
	Malformed  int `json:"malformed"`  // aggregates with a right checksum and a wrong content
	Sessions   int `json:"sessions"`   // of the simulator, in the ledger
	Faults     int `json:"faults"`     // injected

	Kinds              map[string]*Kind `json:"kinds"`
	Alarms             []Alarm          `json:"alarms"`
	LostExamples       []string         `json:"lost_examples,omitempty"`
	DisorderedExamples []string         `json:"disordered_examples,omitempty"`
	AlteredExamples    []string         `json:"altered_examples,omitempty"`
	Problems           []string         `json:"problems,omitempty"` // why something may not have been read
}

// Kind is the report on one kind of device.
type Kind struct {
	Acknowledged    int    `json:"acknowledged"`
	Arrived         int    `json:"arrived"`
	Lost            int    `json:"lost"`
	OutOfOrder      int    `json:"out_of_order"`
	Duplicated      int    `json:"duplicated"`
	Altered         int    `json:"altered"`
	NotAcknowledged int    `json:"not_acknowledged_but_arrived"`
	Sent            int    `json:"sent_without_acknowledgement"` // by ways that know none
	Dropped         uint64 `json:"dropped_by_device"`            // thrown away by full devices: never the gateway's
}

// Alarm is an alarm record that arrived.
type Alarm struct {
	ID         string `json:"id"`
	Rule       string `json:"rule"`
	Key        string `json:"key"`
	Event      string `json:"event"`
	Transition uint64 `json:"transition"`
	Arrived    int    `json:"arrived"` // how often
}

// OK says that nothing was lost and nothing out of order.
func (r Report) OK() bool { return r.Lost == 0 && r.OutOfOrder == 0 }

// Line is the result in one line.
func (r Report) Line() string {
	return fmt.Sprintf("lost %d, out of order %d, duplicated %d", r.Lost, r.OutOfOrder, r.Duplicated)
}

func (r *Report) example(list *[]string, name id) {
	if len(*list) < maxExamples {
		*list = append(*list, name.String())
	}
}

// Write prints the report for people; Line is a line of its own.
func (r Report) Write(w io.Writer) error {
	var b strings.Builder
	b.WriteString(r.Line() + "\n")
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := []string{"kind", "acknowledged", "arrived", "lost", "out of order", "duplicated", "altered", "not acknowledged but arrived", ""}
	lines := []string{strings.Join(head, "\t")}
	for _, name := range slices.Sorted(maps.Keys(r.Kinds)) {
		k := r.Kinds[name]
		lines = append(lines, fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t", name, k.Acknowledged, k.Arrived, k.Lost,
			k.OutOfOrder, k.Duplicated, k.Altered, k.NotAcknowledged))
	}
	lines = append(lines, fmt.Sprintf("all\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t", r.Acknowledged, r.Arrived, r.Lost,
		r.OutOfOrder, r.Duplicated, r.Altered, r.NotAcknowledged))
	if _, err := io.WriteString(t, strings.Join(lines, "\n")+"\n"); err != nil {
		return err
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "far end: %d records, %d aggregates, %d not of this ledger; repeated %d times by the uplink, %d by senders (%d of them on purpose)\n",
		r.Records, r.Aggregates, r.Foreign, r.RepeatedByUplink, r.RepeatedBySender, r.RepeatedByOrder)
	if r.WrongKey+r.Malformed > 0 {
		fmt.Fprintf(&b, "wrong partition key %d, malformed aggregates %d\n", r.WrongKey, r.Malformed)
	}
	events := map[string]int{}
	for _, a := range r.Alarms {
		events[a.Event]++
	}
	for _, name := range slices.Sorted(maps.Keys(events)) {
		fmt.Fprintf(&b, "alarms %s: %d\n", name, events[name])
	}
	for _, e := range []struct {
		what string
		list []string
	}{{"lost", r.LostExamples}, {"out of order", r.DisorderedExamples}, {"altered", r.AlteredExamples}, {"problem", r.Problems}} {
		for _, s := range e.list {
			fmt.Fprintf(&b, "%s: %s\n", e.what, s)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
