package nats

import (
	"net/url"
	"strings"
	"testing"

	"forebay/spool/record"

	"github.com/nats-io/nats-server/v2/server"
)

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		pattern, subject string
		want             bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.b.c", false},
		{"a.b.c", "a.b", false},
		{"a.*", "a.b", true},
		{"a.*", "a.b.c", false},
		{"a.>", "a.b.c", true},
		{"a.>", "a", false},
		{">", "a.b", true},
		{"*.b", "a.c", false},
	} {
		if got := covers(c.pattern, c.subject); got != c.want {
			t.Errorf("%s covers %s: %v", c.pattern, c.subject, got)
		}
	}
}

// FuzzSubject: whatever a key is, its subject is one that a server takes, lies
// in the lane's family, and tells the key.
func FuzzSubject(f *testing.F) {
	for _, k := range []string{"plant/line1", "", "/", "a.b", "*", ">", "%", "\x00\r\n\t ", "é/温", "a//b", "%2E"} {
		f.Add(k)
	}
	s := subjects{keyed: true}
	f.Fuzz(func(t *testing.T, key string) {
		subject := string(appendKey([]byte("x"), key))
		if !server.IsValidPublishSubject(subject) || strings.ContainsAny(subject, " \t\r\n") {
			t.Fatalf("%q makes %q", key, subject)
		}
		if !covers(s.family("x"), subject) {
			t.Fatalf("%q is not in the family", subject)
		}
		var levels []string
		for _, tok := range strings.Split(subject, ".")[1:] {
			if tok == "%" {
				tok = ""
			}
			level, err := url.PathUnescape(tok)
			if err != nil {
				t.Fatal(err)
			}
			levels = append(levels, level)
		}
		if back := strings.Join(levels, "/"); back != key {
			t.Fatalf("%q comes back as %q", key, back)
		}
	})
}

// FuzzMark: an id of ours is read as it was written, and nothing else makes it
// fail but by saying no.
func FuzzMark(f *testing.F) {
	f.Add("edge-07", uint64(7), uint32(3), uint64(9), 0)
	f.Add("a/b/0123456789abcdef/1", uint64(1<<63), uint32(0), uint64(1<<63), 12)
	f.Add("edge", uint64(0x1111111111111111), uint32(1111111111), uint64(1111111111111111), 1111)
	f.Fuzz(func(t *testing.T, gateway string, epoch uint64, shard uint32, seq uint64, part int) {
		parseMark(gateway)
		if seq == 0 || part < 0 || part > 1<<30 {
			return
		}
		id := record.Identity{Gateway: gateway, Epoch: record.Epoch(epoch)}.ID(record.Pos{Shard: record.ShardID(shard), Seq: seq})
		want := mark{record.Origin{Gateway: gateway, Epoch: record.Epoch(epoch)}, record.ShardID(shard), seq, part}
		if part > 0 {
			id += "/" + itoa(part)
		}
		if got, ok := parseMark(id); !ok || got != want {
			t.Fatalf("%q is read as %+v, %v", id, got, ok)
		}
	})
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func TestWhatAMarkHolds(t *testing.T) {
	here, before, after := record.Origin{Gateway: "g", Epoch: 5}, record.Origin{Gateway: "g", Epoch: 4}, record.Origin{Gateway: "g", Epoch: 6}
	for _, c := range []struct {
		m    mark
		o    record.Origin
		seq  uint64
		part int
		want bool
	}{
		{mark{}, here, 1, 0, false},
		{mark{here, 1, 10, 0}, here, 10, 0, true},
		{mark{here, 1, 10, 0}, here, 11, 0, false},
		{mark{here, 2, 10, 0}, here, 9, 0, false}, // another shard
		{mark{here, 1, 10, 3}, here, 10, 3, true},
		{mark{here, 1, 10, 3}, here, 10, 4, false},
		{mark{here, 1, 10, 3}, here, 9, 7, true},
		{mark{here, 1, 10, 0}, before, 9, 0, true},   // lies in front of it in the log
		{mark{before, 1, 10, 0}, here, 9, 0, false},  // the same number, not the same record
		{mark{after, 1, 10, 0}, here, 9, 0, false},   // a clone's
		{mark{before, 1, 10, 0}, before, 9, 0, true}, // from before a restore
	} {
		if got := c.m.holds(c.o, here, record.Pos{Shard: 1, Seq: c.seq}, c.part); got != c.want {
			t.Errorf("%+v holds %v %d/%d: %v", c.m, c.o, c.seq, c.part, got)
		}
	}
}
