package kinesisapi_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"

	"forebay/gateway/internal/kinesisapi"
	"forebay/spool"
)

// Marks that cannot be read stop nothing: it is said and counted once, what the
// other gateway repeats is stored again, and from then on it is known anew what
// is stored. The rest of the note stays.
func TestMarksThatCannotBeRead(t *testing.T) {
	for name, c := range map[string]struct {
		note  string
		whole bool // nothing of the note can be read
	}{
		"of the first form": {note: `{"tags":{"line":"4"},"marks":{"lanes":[["` + near + `",4,0,"k",1,1,1795341600]],"from":{"1":2}}}`},
		"objects":           {note: `{"tags":{"line":"4"},"marks":{"lanes":[{"lane":"` + near + `","high":{"Seq":4}}],"from":{"1":2}}}`},
		"too short":         {note: `{"tags":{"line":"4"},"marks":{"lanes":[["` + near + `","s"]],"from":{"1":2}}}`},
		"too long":          {note: `{"tags":{"line":"4"},"marks":{"lanes":[["` + near + `","s",1,0,2,0,1,1,1795341600,7]],"from":{"1":2}}}`},
		"upside down":       {note: `{"tags":{"line":"4"},"marks":{"lanes":[["` + near + `","s",9,0,2,0,1,1,1795341600]],"from":{"1":2}}}`},
		"a place of text":   {note: `{"tags":{"line":"4"},"marks":{"lanes":[],"from":{"1":"two"}}}`},
		"a list":            {note: `{"tags":{"line":"4"},"marks":[1,2]}`},
		"no JSON":           {note: "{\"tags\":{\"line\":\"4\"},\"marks\":{\"lan\x00", whole: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t, kinesisapi.Config{}, spool.Config{})
			st := b.create("site", 1)
			b.send("rising", packed(envs(near, 1, 4)...))
			if err := b.sp.SetNote(t.Context(), st, c.note); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			b = b.anotherWith(slog.New(slog.NewTextHandler(&said, nil)))
			b.send("rising", packed(envs(near, 3, 6)...))
			b.send("rising", packed(envs(near, 3, 7)...))
			kinesisapi.KeepMarks(b.srv)
			b.send("rising", packed(envs(near, 7, 8)...))
			kinesisapi.KeepMarks(b.srv)
			kinesisapi.KeepMarks(b.srv)
			want := slices.Concat(envs(near, 1, 4), envs(near, 3, 6), envs(near, 7, 7), envs(near, 8, 8))
			holds(t, st, want...)
			if n := b.srv.MarksLost(); n != 1 {
				t.Errorf("%d counted", n)
			}
			b.stop()
			if n := strings.Count(said.String(), "what was stored of other gateways' lanes is not known any more"); n != 1 || strings.Contains(said.String(), "could not be kept") {
				t.Errorf("said:\n%s", &said)
			}
			b = b.another()
			b.send("rising", packed(envs(near, 7, 9)...))
			if c.whole {
				if want = append(want, envs(near, 7, 9)...); b.srv.MarksLost() != 1 || st.Note() != c.note {
					t.Errorf("after a restart: %d counted, note %q", b.srv.MarksLost(), st.Note())
				}
				holds(t, st, want...)
				return
			}
			holds(t, st, append(want, env(near, 9))...)
			tags, err := b.client().ListTagsForStream(t.Context(), &kinesis.ListTagsForStreamInput{StreamName: aws.String("site")})
			if err != nil || len(tags.Tags) != 1 || aws.ToString(tags.Tags[0].Value) != "4" || b.srv.MarksLost() != 0 {
				t.Errorf("tags %v, %v; %d counted", tags, err, b.srv.MarksLost())
			}
		})
	}
}

// A tag that is changed before anything comes of a lane leaves marks that
// cannot be read as they are.
func TestMarksThatCannotBeReadAreKept(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 1)
	if err := b.sp.SetNote(t.Context(), st, `{"marks":[1,2]}`); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client().AddTagsToStream(t.Context(), &kinesis.AddTagsToStreamInput{StreamName: aws.String("site"), Tags: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	if n := st.Note(); n != `{"marks":[1,2],"tags":{"a":"b"}}` {
		t.Errorf("note %s", n)
	}
}

// A sender that does not say of each record by which way it came is told of
// once, and what it sends is counted.
func TestUncheckedIsToldOnce(t *testing.T) {
	b := start(t, kinesisapi.Config{}, spool.Config{})
	st := b.create("site", 1)
	var said bytes.Buffer
	b = b.anotherWith(slog.New(slog.NewTextHandler(&said, nil)))
	for range 3 {
		b.send("rising S a,b", packed(envs(near, 1, 2)...))
	}
	b.stop()
	if n := strings.Count(said.String(), "lanes are not known"); n != 1 || b.srv.Unchecked() != 3 || b.srv.MarksLost() != 0 {
		t.Errorf("%d counted, said:\n%s", b.srv.Unchecked(), &said)
	}
	holds(t, st, slices.Concat(envs(near, 1, 2), envs(near, 1, 2), envs(near, 1, 2))...)
}
