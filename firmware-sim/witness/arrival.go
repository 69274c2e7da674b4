package witness

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"

	"forebay/firmware-sim/kpl"
	"forebay/firmware-sim/ledger"
)

// arrival is a record of the far end, unwrapped.
type arrival struct {
	id       id     // device "" where it is none of a simulator's
	run      string // "" for chunks, which do not carry it
	sum      string
	key      string
	envelope string // the gateway's id; "" in raw format
	alarm    *Alarm
}

// open takes a Kinesis record apart: an aggregate into its user records, each
// out of its envelope.
func open(key string, data []byte) (arrivals []arrival, aggregate bool, err error) {
	recs, aggregate, err := kpl.Decode(data)
	if err != nil {
		return nil, aggregate, err
	}
	if !aggregate {
		recs = []kpl.Record{{Key: key, Data: data}}
	}
	for _, r := range recs {
		arrivals = append(arrivals, unwrap(r.Key, r.Data))
	}
	return arrivals, aggregate, nil
}

// unwrap reads a payload, in a gateway's envelope or raw.
func unwrap(key string, data []byte) arrival {
	a := arrival{key: key}
	var env struct {
		ID      string          `json:"id"`
		Stream  *string         `json:"stream"` // "mqtt" if it is left out
		Key     *string         `json:"key"`
		T       *json.Number    `json:"t"`
		Arrived string          `json:"arrived"` // instead of t, in the first form of envelopes
		Data    json.RawMessage `json:"data"`
		Base64  *string         `json:"data_b64"`
	}
	payload, stream := data, ""
	if bytes.HasPrefix(data, []byte(`{"id":`)) && json.Unmarshal(data, &env) == nil &&
		strings.Count(env.ID, "/") >= 3 && (env.T != nil || env.Arrived != "") {
		a.envelope, stream, payload = env.ID, "mqtt", env.Data
		if env.Stream != nil {
			stream = *env.Stream
		}
		if env.Key != nil {
			a.key = *env.Key
		}
		if env.Base64 != nil {
			b, err := base64.StdEncoding.DecodeString(*env.Base64)
			if err != nil {
				return a
			}
			payload = b
		}
	}
	a.read(stream, payload)
	return a
}

// read finds out whose payload it is.
func (a *arrival) read(stream string, payload []byte) {
	var p struct {
		Device string  `json:"device"`
		Seq    *uint64 `json:"seq"`
		Run    string  `json:"run"`

		Camera string `json:"camera"`
		Name   string `json:"name"`
		SHA256 string `json:"sha256"`

		ID         string  `json:"id"`
		Rule       string  `json:"rule"`
		Key        string  `json:"key"`
		Event      string  `json:"event"`
		Transition *uint64 `json:"transition"`
	}
	if json.Unmarshal(payload, &p) != nil {
		return
	}
	switch {
	case (stream == "alarms" || stream == "") && p.Rule != "" && p.Event != "" && p.Transition != nil:
		a.alarm = &Alarm{ID: p.ID, Rule: p.Rule, Key: p.Key, Event: p.Event, Transition: *p.Transition}
	case p.Camera != "" && p.SHA256 != "":
		a.id, a.sum = chunkID(p.Camera, p.Name, p.SHA256), p.SHA256
	case p.Device != "" && p.Seq != nil:
		a.id, a.run, a.sum = id{device: p.Device, seq: *p.Seq}, p.Run, ledger.Sum(payload)
	}
}
