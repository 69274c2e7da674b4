package kvs

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"forebay/uplink/aws"
	"forebay/uplink/lane"
)

// An index is what we need of the Data of a chunk's record.
type index struct {
	Camera string    `json:"camera"`
	Name   string    `json:"name"`
	Start  time.Time `json:"start"`
	Codec  string    `json:"codec"`
}

// media is the media type of a stream of such chunks.
func (x *index) media() string {
	if strings.HasPrefix(x.Codec, "hvc1") || strings.HasPrefix(x.Codec, "hev1") {
		return "video/h265"
	}
	return "video/h264"
}

func poison(format string, a ...any) *lane.Error {
	return &lane.Error{Class: lane.Poison, Text: fmt.Sprintf(format, a...)}
}

// read reads a record's index. What can be told from it alone is told here.
func (j *job) read(s *Sink) {
	r := j.rec
	if chunkLen(r) == 0 {
		j.err = poison("it is no video: nothing lies beside the record")
		return
	}
	if err := json.Unmarshal(r.Data, &j.index); err != nil || j.index.Camera == "" {
		j.err = poison("the record's data does not say which camera its video is of")
		return
	}
	if name := s.cfg.name(s.gateway, j.index.Camera, j.lane.Stream); !streamRE.MatchString(name) {
		j.err = poison("%q cannot be the name of a Kinesis video stream", aws.Short(name))
		return
	}
	if kind, ok := strings.CutPrefix(r.Type, "image/"); ok {
		j.err = poison("it is a picture (%s); Kinesis Video takes H.264 and H.265 in fragmented MP4", aws.Short(kind))
		return
	}
	if r.Type == "video/mp2t" {
		j.err = poison("it is an MPEG transport stream; Kinesis Video takes H.264 and H.265 in fragmented MP4: have the camera or encoder write that")
		return
	}
	for _, t := range []time.Time{j.index.Start, r.At, r.Arrived} {
		if t.Year() >= 1970 {
			j.start = t
			break
		}
	}
	if j.start.IsZero() {
		j.err = poison("nothing says when it was taken")
	}
}

// load reads the index of a job's chunk, once it is sure that all of its bytes
// are as they were stored. An init segment is done with it.
func (s *Sink) load(j *job) *lane.Error {
	c, err := s.open(j)
	if err != nil {
		return asError(err)
	}
	defer c.Close() //nolint:errcheck // opened for reading only
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{c}); err != nil {
		return lost(j.rec, err)
	}
	own := source{j.lane.Stream, j.index.Camera}
	s.mu.Lock()
	earlier := s.inits[own]
	s.mu.Unlock()
	m, err := readMovie(c, earlier)
	if err == nil && m.track != earlier {
		s.mu.Lock()
		s.inits[own] = m.track
		s.mu.Unlock()
	}
	if err == nil && m.init {
		j.done = true // it travels as codec parameters of what follows
		return nil
	}
	if err == nil {
		j.clip, err = cut(j, m, j.start)
	}
	switch {
	case err == nil:
		j.pieces = len(j.clip.pieces)
		return nil
	case isUnfit(err):
		return poison("chunk %s cannot be handed on: %v", aws.Short(j.index.Name), err)
	}
	return lost(j.rec, err)
}

// tags are the metadata of a fragment: the ids of the records in it.
func (s *Sink) tags(f *fragment) []tag {
	var out []tag
	for i := range f.parts {
		p := &f.parts[i]
		name, id := "FOREBAY_ID", s.home.ID.Of(p.job.rec)
		if i > 0 {
			name = fmt.Sprintf("FOREBAY_ID_%d", i+1)
		}
		if p.pieces > 1 {
			id = fmt.Sprintf("%s/%d", id, p.index+1)
			out = append(out, tag{"FOREBAY_PIECES", fmt.Sprint(p.pieces)})
		}
		out = append(out, tag{name, id})
	}
	return out
}
