package kinesisapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"forebay/spool"
)

// A note is what this door keeps with a stream and the log knows nothing of.
// The spool stores it as JSON beside the stream and deletes it with the stream.
type note struct {
	// Mode is ON_DEMAND where a client asked for it; "" is PROVISIONED. It
	// changes nothing but the answers: a box has the throughput it has.
	Mode string `json:"mode,omitempty"`
	// MaxRecordKiB bounds data and key of a record; 0 is 1024.
	MaxRecordKiB int               `json:"max_record_kib,omitempty"`
	Tags         map[string]string `json:"tags,omitempty"`
	Consumers    []consumer        `json:"consumers,omitempty"`
	// Marks say what is stored of other gateways' lanes.
	Marks *keptMarks `json:"marks,omitempty"`

	// rest is what a newer program keeps here and this one does not know.
	rest map[string]json.RawMessage
}

// A consumer is a name under which SubscribeToShard may be called.
type consumer struct {
	Name    string            `json:"name"`
	Created time.Time         `json:"created"`
	Tags    map[string]string `json:"tags,omitempty"`
}

// members are the keys of a note that this program knows.
var members = []string{"mode", "max_record_kib", "tags", "consumers", "marks"}

// noteOf reads a stream's note; a stream without one has the zero note. The
// note's maps and slices are the caller's own.
func (s *Server) noteOf(st *spool.Stream) (note, error) {
	n, err := parseNote(st.Note())
	if err != nil {
		return note{}, fmt.Errorf("read the note of stream %s: %w", st.Name(), err)
	}
	return n, nil
}

func parseNote(text string) (note, error) {
	var n note
	if text == "" {
		return n, nil
	}
	if err := errors.Join(json.Unmarshal([]byte(text), &n), json.Unmarshal([]byte(text), &n.rest)); err != nil {
		return note{}, err
	}
	maps.DeleteFunc(n.rest, func(m string, _ json.RawMessage) bool {
		return slices.ContainsFunc(members, func(known string) bool { return strings.EqualFold(known, m) })
	})
	return n, nil
}

// noteToShow is noteOf where many streams are shown: one whose note cannot be
// read is shown without it.
func (s *Server) noteToShow(st *spool.Stream) note {
	n, err := s.noteOf(st)
	if err != nil {
		s.log.Error("stream is shown without what this endpoint keeps with it", "stream", st.Name(), "error", err)
	}
	return n
}

// encode gives the text to be stored, "" for a note that says nothing.
func (n note) encode() (string, error) {
	known, err := json.Marshal(n)
	if err != nil {
		return "", fmt.Errorf("write a note: %w", err)
	}
	all := maps.Clone(n.rest)
	if all == nil {
		all = map[string]json.RawMessage{}
	}
	if err := json.Unmarshal(known, &all); err != nil {
		return "", fmt.Errorf("write a note: %w", err)
	}
	if len(all) == 0 {
		return "", nil
	}
	b, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("write a note: %w", err)
	}
	return string(b), nil
}

// changeNote changes a stream's note, one caller after the other; the change
// is durable when it returns nil. An error of change leaves the note as it is
// and is returned as it is.
func (s *Server) changeNote(ctx context.Context, st *spool.Stream, change func(*note) error) error {
	s.changes.Lock()
	defer s.changes.Unlock()
	return s.setNote(ctx, st, change)
}

// setNote is changeNote for a caller that holds changes.
func (s *Server) setNote(ctx context.Context, st *spool.Stream, change func(*note) error) error {
	n, err := s.noteOf(st)
	if err != nil {
		return err
	}
	if err := change(&n); err != nil {
		return err
	}
	text, err := n.encode()
	if err != nil {
		return err
	}
	if text == st.Note() {
		return nil
	}
	if err := s.spool.SetNote(ctx, st, text); err != nil {
		return s.storeError(fmt.Errorf("keep the note of stream %s: %w", st.Name(), err), st.Name())
	}
	return nil
}
