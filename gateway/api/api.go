// Package api holds the nouns that a gateway shows to the outside, and a
// Client that fetches them. It is the whole of what a console, a script or
// the command line knows about a running gateway; JSON field names are stable.
package api

import (
	"bytes"
	"encoding/json"
	"time"
)

// Status is GET /v1/status: the gateway at a glance.
type Status struct {
	Gateway   string     `json:"gateway"`          // configured name
	Title     string     `json:"title,omitempty"`  // what people call the place
	Version   string     `json:"version"`          // of the program
	Epoch     string     `json:"epoch"`            // of the spool, 16 hex digits
	Started   time.Time  `json:"started"`          // of this process
	Now       time.Time  `json:"now"`              // the gateway's wall clock
	ClockOff  *float64   `json:"clock_offset_ms"`  // measured against an uplink's Date; null where unknown
	In        Rate       `json:"in"`               // what arrives from all sources
	Disk      Disk       `json:"disk"`             // the spool's room
	Streams   int        `json:"streams"`          // how many
	Devices   int        `json:"devices"`          // how many configured or seen
	Uplinks   []Uplink   `json:"uplinks"`          // state of each
	Alarms    AlarmCount `json:"alarms"`           // counts by state
	Listening []Listener `json:"listening"`        // open doors
	Problems  []Problem  `json:"problems"`         // what a person should know, worst first
	Rules     int        `json:"rules"`            // how many are loaded
	RSS       int64      `json:"rss_bytes"`        // memory of the process
	Spool     string     `json:"spool"`            // directory
	ReadOnly  bool       `json:"spool_read_only"`  // the disk takes no writes
	SafeUntil time.Time  `json:"last_commit_time"` // when the newest commit was made
}

// Rate is a flow, averaged over the last ten seconds, and its total since the
// process started.
type Rate struct {
	Records float64 `json:"records_per_second"`
	Bytes   float64 `json:"bytes_per_second"`
	Total   uint64  `json:"records_total"`
}

// Disk is the room of the spool.
type Disk struct {
	Used     int64    `json:"used_bytes"`    // by the spool, everything counted
	Quota    int64    `json:"quota_bytes"`   // what it may use
	Free     int64    `json:"free_bytes"`    // on the file system
	Full     bool     `json:"full"`          // producers are being held back
	DaysLeft *float64 `json:"days_left"`     // until the quota at the present rate; null where it does not grow
	Waiting  int64    `json:"waiting_bytes"` // not yet delivered by every uplink, estimate
	Scrub    Scrub    `json:"scrub"`
}

// Scrub is what the spool's scrubber has done: it reads closed segments in the
// background and verifies them.
type Scrub struct {
	Running  bool       `json:"running"`
	Segments uint64     `json:"segments"`  // read since the gateway started
	Bytes    uint64     `json:"bytes"`     // read since the gateway started
	Damaged  uint64     `json:"damaged"`   // blocks, chunks and files found damaged since then
	LastPass *time.Time `json:"last_pass"` // end of the last whole pass; null if there was none
}

// AlarmCount counts alarms by state.
type AlarmCount struct {
	Unacked int `json:"unacknowledged"`
	Active  int `json:"active"`
	All     int `json:"all"`
}

// Listener is an open door.
type Listener struct {
	Kind string `json:"kind"` // mqtt, kinesis, api
	Addr string `json:"address"`
	TLS  bool   `json:"tls"`
}

// Problem is a sentence for the operator.
type Problem struct {
	Kind  string    `json:"kind"` // disk, uplink, source, clock, corrupt
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
}

// Stream is one of GET /v1/streams.
type Stream struct {
	Name      string   `json:"name"`
	Class     string   `json:"class"`
	Records   uint64   `json:"records"`       // kept now
	Total     uint64   `json:"records_total"` // ever appended
	Bytes     int64    `json:"bytes"`         // kept now, estimate (the log is shared)
	Retention string   `json:"retention"`     // "1d", "1d, 64MiB", "until the quota", "until the quota, at most 3d"
	In        Rate     `json:"in"`
	Shards    []Shard  `json:"shards"`
	Cursors   []Cursor `json:"cursors"`
}

// Shard is a part of a stream.
type Shard struct {
	ID     string     `json:"id"`     // shardId-000000000000, as Kinesis names it
	Number uint32     `json:"number"` // within the spool
	First  uint64     `json:"first"`  // oldest sequence number kept
	Next   uint64     `json:"next"`   // sequence number that the next record gets
	From   string     `json:"hash_from"`
	To     string     `json:"hash_to"`
	Oldest *time.Time `json:"oldest"` // arrival of the oldest record kept; null if none
	Newest *time.Time `json:"newest"`

	State    string   `json:"state"`    // open, or closed by a split or a merge: it takes no more records
	Parents  []string `json:"parents"`  // ids of the shards that it came of; they hold the earlier records of its keys
	Children []string `json:"children"` // ids of the shards that hold the later ones
}

// Open reports whether the shard takes records; one of a gateway that does not
// tell does.
func (s Shard) Open() bool { return s.State != "closed" }

// Cursor is a reader's durable place in a shard.
type Cursor struct {
	Name    string `json:"name"`
	Shard   string `json:"shard"`
	Next    uint64 `json:"next"`
	Pending uint64 `json:"pending"`
}

// Device is one of GET /v1/devices: a source, or a client seen on one.
type Device struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`   // mqtt-broker, mqtt, serial, video, kinesis
	State    string    `json:"state"`  // up, connecting, degraded, down
	Reason   string    `json:"reason"` // in words, where not up
	Stream   string    `json:"stream"`
	LastSeen time.Time `json:"last_seen"`
	Rate     Rate      `json:"rate"`
	Taken    uint64    `json:"taken"`       // records on disk
	Shed     uint64    `json:"shed"`        // lost before the log, counted
	Quar     uint64    `json:"quarantined"` // kept raw because they did not decode
	Errors   uint64    `json:"errors"`
	Clients  int       `json:"clients"` // connections, for brokers and doors
	// Aggregates is how many records that were taken since the start were KPL
	// aggregates, for the Kinesis endpoint.
	Aggregates uint64 `json:"aggregates,omitempty"`
	// Of what other gateways send to the Kinesis endpoint, since the start:
	// records that came again and were stored already, records that were stored
	// without a look at that, and streams of which it was not known any more.
	Repeated  uint64 `json:"repeated,omitempty"`
	Unchecked uint64 `json:"unchecked,omitempty"`
	MarksLost uint64 `json:"lane_marks_lost,omitempty"`
}

// Uplink is one of GET /v1/uplinks.
type Uplink struct {
	ID        string     `json:"id"`
	Kind      string     `json:"kind"`
	Target    string     `json:"target"` // where to, in words
	State     string     `json:"state"`  // up, connecting, down, throttled, paused
	Since     time.Time  `json:"since"`  // of the state
	Error     string     `json:"error"`  // last error in words, "" when up
	Class     string     `json:"error_class"`
	Advice    string     `json:"advice,omitempty"`    // what is done about the error, and what a person can do
	PausedBy  string     `json:"paused_by,omitempty"` // who paused it
	RetryAt   *time.Time `json:"retry_at"`
	Waiting   uint64     `json:"waiting_records"`
	WaitBytes int64      `json:"waiting_bytes"` // estimate
	Oldest    *time.Time `json:"oldest"`        // arrival of the oldest waiting record
	Out       Rate       `json:"out"`
	DrainBps  float64    `json:"drain_bytes_per_second"` // of the last time it moved
	ETA       *float64   `json:"eta_seconds"`            // until nothing waits, at drain minus arrivals; null where unknown
	Delivered uint64     `json:"delivered_total"`
	Filtered  uint64     `json:"filtered_total"` // left out on purpose
	Refused   uint64     `json:"refused_total"`
	Retries   uint64     `json:"retries_total"`
	WireBytes uint64     `json:"wire_bytes_total"`

	LimitKbit int         `json:"limit_kbit"` // what it may send now, kilobits a second; 0: no limit
	Capped    bool        `json:"capped"`     // that limit holds it back
	Used      UplinkUsage `json:"used"`
	Cost      UplinkCost  `json:"cost"`
	// ClockOff is how far the target's clock is ahead of the gateway's, by the
	// target's answers; null where they do not tell.
	ClockOff *float64 `json:"clock_offset_ms"`
	// CommandsRefused counts the commands that a Sparkplug host gave and that
	// were not obeyed, as all but the wish for a rebirth; absent elsewhere.
	CommandsRefused *uint64  `json:"commands_refused_total,omitempty"`
	Errands         []Errand `json:"errands,omitempty"` // replays and redrives beside it
}

// Alarm is one of GET /v1/alarms. Its life cycle is ISA-18.2's.
type Alarm struct {
	ID       string    `json:"id"` // rule/key/transition number: the same after any restart
	Rule     string    `json:"rule"`
	Key      string    `json:"key"`      // the device it is about
	Severity int       `json:"severity"` // 1 (most urgent) to 4
	State    string    `json:"state"`    // unacked, acked, rtn-unacked, normal
	Text     string    `json:"text"`
	Value    *float64  `json:"value"`
	Unit     string    `json:"unit"`
	Raised   time.Time `json:"raised"`
	Changed  time.Time `json:"changed"`
	AckedBy  string    `json:"acked_by,omitempty"`
	Note     string    `json:"note,omitempty"`
}

// AckRequest is the body of POST /v1/alarms/ack.
type AckRequest struct {
	IDs  []string `json:"ids"`
	By   string   `json:"by"`
	Note string   `json:"note"`
}

// AckResult answers it.
type AckResult struct {
	Acked   []string `json:"acked"`
	Unknown []string `json:"unknown"` // ids that are not waiting for an acknowledgement
}

// Point is one of GET /v1/points: a measured value that the console shows as
// a tile. Its config is the gateway's; nothing is configured in the console.
type Point struct {
	ID      string     `json:"id"`    // config name
	Label   string     `json:"label"` // "Line 1 temp"
	Place   string     `json:"place"` // site/area/line/cell
	Unit    string     `json:"unit"`
	Low     float64    `json:"low"` // of the scale
	High    float64    `json:"high"`
	NormLow *float64   `json:"normal_low"` // of the normal band
	NormHi  *float64   `json:"normal_high"`
	Limit   *float64   `json:"limit"` // alarm limit, where a rule names one
	Value   *float64   `json:"value"` // null until the first record
	At      *time.Time `json:"at"`
	Quality string     `json:"quality"`         // good, uncertain, bad
	Alarm   int        `json:"alarm_severity"`  // 0 none
	Trend   []Sample   `json:"trend,omitempty"` // oldest first
}

// Sample is the least and the greatest value of a column of a trend.
type Sample struct {
	At  time.Time `json:"t"`
	Min float64   `json:"min"`
	Max float64   `json:"max"`
}

// Camera is one of GET /v1/cameras.
type Camera struct {
	ID         string     `json:"id"`
	Label      string     `json:"label"`
	LastChunk  *time.Time `json:"last_chunk"` // arrival
	LastFrame  *time.Time `json:"last_frame"` // arrival of the newest still picture
	FPS        float64    `json:"fps"`        // of the stills
	Codec      string     `json:"codec"`
	Chunks     uint64     `json:"chunks"`
	Bytes      uint64     `json:"bytes"`
	Gaps       uint64     `json:"gaps"`
	FrameURL   string     `json:"frame_url"` // path of the newest still, "" where there is none
	StaleAfter float64    `json:"stale_after_seconds"`
}

// Record is one of GET /v1/streams/{stream}/records, and a line of `tail --json`.
// One that came inside a KPL aggregate has the aggregate's place, times and
// source, and a Sub; its ID ends in "/" and Sub.
type Record struct {
	ID      string            `json:"id"`
	Stream  string            `json:"stream"`
	Shard   string            `json:"shard"`
	Seq     uint64            `json:"seq"`
	Key     string            `json:"key"`
	HashKey string            `json:"hash_key,omitempty"` // explicit hash key, decimal, where the producer gave one
	At      *time.Time        `json:"at,omitempty"`
	Arrived time.Time         `json:"arrived"`
	Source  string            `json:"source,omitempty"`
	Type    string            `json:"type,omitempty"`
	Attrs   map[string]string `json:"attrs,omitempty"`
	Data    json.RawMessage   `json:"data,omitempty"`     // where the payload is JSON
	Text    *string           `json:"text,omitempty"`     // where it is other UTF-8 text
	Base64  []byte            `json:"data_b64,omitempty"` // else
	Chunk   int64             `json:"chunk_bytes,omitempty"`
	Sub     int               `json:"sub,omitempty"` // index within a KPL aggregate, from 1
}

// AppendJSON appends the record as one line of JSON, without a line feed. A
// JSON payload stands in it byte for byte, as json.Marshal would not leave it
// (unless it has line breaks: then without its white space).
func (r Record) AppendJSON(b []byte) ([]byte, error) {
	data := r.Data
	if len(data) == 0 || bytes.ContainsAny(data, "\r\n") {
		line, err := json.Marshal(r)
		return append(b, line...), err
	}
	r.Data = nil
	line, err := json.Marshal(r)
	if err != nil {
		return b, err
	}
	b = append(b, line[:len(line)-1]...)
	b = append(b, `,"data":`...)
	b = append(b, data...)
	return append(b, '}'), nil
}

// Ledger is GET /v1/ledger: for every record, where it went.
type Ledger struct {
	At      time.Time      `json:"at"`
	Epoch   string         `json:"epoch"`
	Sources []SourceLedger `json:"sources"`
	Uplinks []UplinkLedger `json:"uplinks"`
	Streams []StreamLedger `json:"streams"`
	Logs    []LogLedger    `json:"logs"`
	Chain   LedgerChain    `json:"chain"`
	Steps   []LedgerStep   `json:"steps,omitempty"` // only where they are asked for: ?steps=N
	Balance bool           `json:"balanced"`        // every line adds up, the counts agree, the chain holds
	Problem string         `json:"problem,omitempty"`
}

// SourceLedger counts what came before the log.
type SourceLedger struct {
	Source      string `json:"source"`
	Taken       uint64 `json:"taken"`
	Shed        uint64 `json:"shed"`
	Quarantined uint64 `json:"quarantined"`
}

// StreamLedger counts what the log holds: in = kept + expired + corrupt.
type StreamLedger struct {
	Stream  string `json:"stream"`
	In      uint64 `json:"in"`
	Kept    uint64 `json:"kept"`
	Expired uint64 `json:"expired"` // removed by retention or quota
	Corrupt uint64 `json:"corrupt"`
}

// UplinkLedger is one line per cursor name and stream:
// in = delivered + filtered + pending + expired + refused + corrupt, where
// `in` counts from where the cursor began.
type UplinkLedger struct {
	Uplink    string `json:"uplink"`
	Stream    string `json:"stream"`
	In        uint64 `json:"in"`
	Delivered uint64 `json:"delivered"`
	Filtered  uint64 `json:"filtered"`
	Pending   uint64 `json:"pending"`
	Expired   uint64 `json:"expired"` // removed before delivery: lost, and counted
	Refused   uint64 `json:"refused"`
	Corrupt   uint64 `json:"corrupt"`
}

// Event is one server-sent event of GET /v1/events. The first is a snapshot;
// later ones carry the whole of what changed, so that a reader never merges
// fields. Seq rises by one; with Last-Event-ID the stream resumes, and where
// the gateway no longer knows that far back it sends a snapshot again.
type Event struct {
	Seq      uint64    `json:"seq"`
	Kind     string    `json:"kind"` // snapshot, status, alarms, points, cameras, devices, streams
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	Status   *Status   `json:"status,omitempty"`
	Alarms   []Alarm   `json:"alarms,omitempty"` // the whole list, when Kind is alarms
	Points   []Point   `json:"points,omitempty"` // values only, Trend empty, when Kind is points
	Cameras  []Camera  `json:"cameras,omitempty"`
	Devices  []Device  `json:"devices,omitempty"`
	Streams  []Stream  `json:"streams,omitempty"`
}

// Snapshot is everything a console needs to draw its first frame.
type Snapshot struct {
	Status  Status   `json:"status"`
	Alarms  []Alarm  `json:"alarms"`
	Points  []Point  `json:"points"`
	Cameras []Camera `json:"cameras"`
	Devices []Device `json:"devices"`
	Streams []Stream `json:"streams"`
}

// Error is the body of every answer that is not 2xx.
type Error struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string {
	if e.Hint != "" {
		return e.Message + " (" + e.Hint + ")"
	}
	return e.Message
}
