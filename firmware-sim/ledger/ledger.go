// Package ledger is the simulator's own account of what happened on its
// floor: every record that a gateway acknowledged, every record that was sent
// and not acknowledged, and every fault that was injected. The witness
// compares it with what arrived at the far end, so nothing enters it before
// it is true: an acknowledgement is written after it was received.
//
// The file is JSON lines. The first is a begin event; a simulator that
// crashed goes on in the same file with a further begin event and a session
// number one higher.
package ledger

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// What an Event says.
const (
	Begin   = "begin"   // a session starts: Run, Seed, Session, Version
	Ack     = "ack"     // the gateway acknowledged the record: it must arrive
	Sent    = "sent"    // sent by a way that knows no acknowledgement: it may arrive
	Unacked = "unacked" // sent, and no acknowledgement came until the end: it may arrive
	Dropped = "dropped" // Count records thrown away by the device's own full buffer
	Fault   = "fault"   // a fault was injected
	End     = "end"     // the session ended in order
)

// Kinds of devices.
const (
	MQTT   = "mqtt"
	Serial = "serial"
	Camera = "camera"
)

// Version of the file's format.
const Version = 1

// SessionSpan is how far apart the sequence numbers of two sessions start: a
// simulator that crashed does not know how far it had come, and must never
// give a number twice.
const SessionSpan = 1_000_000_000

// Event is one line.
type Event struct {
	Event  string    `json:"e"`
	Kind   string    `json:"kind,omitempty"`   // of the device; of the fault where Event is fault
	Device string    `json:"device,omitempty"` // unique over all kinds
	Key    string    `json:"key,omitempty"`    // MQTT topic, serial port id, camera id
	Seq    uint64    `json:"seq,omitempty"`    // rises by one per device within a session
	QoS    byte      `json:"qos,omitempty"`
	Name   string    `json:"name,omitempty"`  // of a video chunk
	Bytes  int64     `json:"bytes,omitempty"` // of a video chunk
	Sum    string    `json:"sum,omitempty"`   // Sum of the payload; the whole SHA-256 in hex of a chunk
	Again  bool      `json:"again,omitempty"` // the device was told to send this record twice
	Count  uint64    `json:"count,omitempty"` // of dropped records
	At     time.Time `json:"at"`

	Run     string  `json:"run,omitempty"`     // begin: names this ledger's records among others
	Seed    uint64  `json:"seed,omitempty"`    // begin
	Session uint64  `json:"session,omitempty"` // begin: 0 is the first
	Version int     `json:"version,omitempty"` // begin
	Seconds float64 `json:"seconds,omitempty"` // fault: how long
	By      float64 `json:"by,omitempty"`      // fault: how much, in the point's unit
}

// Sum is the digest by which a payload is recognised: the first 8 bytes of
// its SHA-256 in hex.
func Sum(payload []byte) string {
	s := sha256.Sum256(payload)
	return hex.EncodeToString(s[:8])
}

// Ledger is an open ledger file. Its methods may be called from several
// goroutines.
type Ledger struct {
	run     string
	session uint64

	mu  sync.Mutex
	f   *os.File
	buf bytes.Buffer
	err error // the first write error; every later write fails with it
}

// Open creates the file, or goes on in one that a simulator left behind: a
// line that was cut off by a crash is removed first.
func Open(path string, seed uint64) (*Ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	l := &Ledger{f: f}
	if err := l.resume(); err != nil {
		return nil, errors.Join(fmt.Errorf("open ledger %s: %w", path, err), f.Close())
	}
	begin := Event{Event: Begin, Run: l.run, Seed: seed, Session: l.session, Version: Version, At: time.Now()}
	if err := l.Write(begin); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// resume finds the run and the session, and cuts off a torn line.
func (l *Ledger) resume() error {
	first := true
	whole, err := Read(l.f, func(e Event) error {
		if e.Event != Begin {
			if first {
				return errors.New("line 1 is not a begin event: this is not a ledger")
			}
			return nil
		}
		if first {
			l.run, first = e.Run, false
		}
		l.session = e.Session + 1
		return nil
	})
	if err != nil {
		return err
	}
	if first {
		var b [8]byte
		if _, err := rand.Read(b[:]); err != nil {
			return err
		}
		l.run = hex.EncodeToString(b[:])
	}
	if err := l.f.Truncate(whole); err != nil {
		return err
	}
	_, err = l.f.Seek(whole, io.SeekStart)
	return err
}

// Run names this ledger's records: devices put it into their payloads.
func (l *Ledger) Run() string { return l.run }

// FirstSeq is the first sequence number that devices use in this session.
func (l *Ledger) FirstSeq() uint64 { return l.session*SessionSpan + 1 }

// Write appends events as one batch; they are with the operating system when
// it returns. After an error the ledger takes nothing more: a witness with
// holes would call a loss what was its own.
func (l *Ledger) Write(events ...Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.buf.Reset()
	enc := json.NewEncoder(&l.buf)
	for i := range events {
		if err := enc.Encode(&events[i]); err != nil {
			l.err = fmt.Errorf("write ledger: %w", err)
			return l.err
		}
	}
	if _, err := l.f.Write(l.buf.Bytes()); err != nil {
		l.err = fmt.Errorf("write ledger: %w", err)
	}
	return l.err
}

// Close writes the end event and closes the file.
func (l *Ledger) Close() error {
	err := l.Write(Event{Event: End, At: time.Now()})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = errors.New("write ledger: it is closed")
	}
	if cerr := l.f.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close ledger: %w", cerr))
	}
	return err
}

// Read calls each for every event and returns how many bytes hold whole
// events. A torn last line is what a crash leaves: it is passed over. A bad
// line anywhere else is an error that names the line.
func Read(r io.Reader, each func(Event) error) (whole int64, err error) {
	br := bufio.NewReaderSize(r, 1<<16)
	var torn error
	for n := 1; ; n++ {
		line, rerr := br.ReadBytes('\n')
		if rerr != nil && rerr != io.EOF {
			return whole, fmt.Errorf("line %d: %w", n, rerr)
		}
		if len(line) > 0 && torn != nil {
			return whole, torn
		}
		if rerr == io.EOF {
			return whole, nil // a line without its end is torn
		}
		var e Event
		if jerr := json.Unmarshal(line, &e); jerr != nil {
			torn = fmt.Errorf("line %d: %w", n, jerr) // torn only if it is the last
			continue
		}
		if e.Event == Begin && e.Version > Version {
			return whole, fmt.Errorf("line %d: format version %d is newer than this program's %d", n, e.Version, Version)
		}
		if err := each(e); err != nil {
			return whole, err
		}
		whole += int64(len(line))
	}
}
