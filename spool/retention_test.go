package spool_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
	"forebay/spool/record"
)

// aNewBoot lets every look be that of a machine that has booted since.
func aNewBoot() (record.BootID, time.Duration) {
	var id record.BootID
	_, _ = rand.Read(id[:]) // never fails
	return id, 0
}

// A box's clocks, as a test turns them.
type clocks struct {
	mu     sync.Mutex
	wall   time.Time
	mono   time.Duration
	synced bool
	boot   record.BootID
	booted time.Duration
}

func newClocks() *clocks {
	return &clocks{wall: time.Date(2026, 11, 5, 14, 0, 0, 0, time.UTC), mono: time.Hour, boot: record.BootID{1}}
}

func (c *clocks) with(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// pass lets time pass for both clocks.
func (c *clocks) pass(d time.Duration) {
	c.with(func() { c.wall, c.mono = c.wall.Add(d), c.mono+d })
}

// jump sets the wall clock only.
func (c *clocks) jump(d time.Duration) { c.with(func() { c.wall = c.wall.Add(d) }) }

// off lets the machine be switched off for a while: it boots anew.
func (c *clocks) off(d time.Duration) {
	c.with(func() { c.wall, c.boot[0], c.booted = c.wall.Add(d), c.boot[0]+1, c.mono })
}

func (c *clocks) sync(on bool) { c.with(func() { c.synced = on }) }

func (c *clocks) now() (at time.Time) {
	c.with(func() { at = c.wall })
	return at
}

func (c *clocks) seam() spool.Seam {
	return spool.Seam{
		Mono:   func() (d time.Duration) { c.with(func() { d = c.mono }); return d },
		Synced: func() (on bool) { c.with(func() { on = c.synced }); return on },
		Boot: func() (id record.BootID, up time.Duration) {
			c.with(func() { id, up = c.boot, c.mono-c.booted })
			return id, up
		},
	}
}

// Pressure takes what is delivered first, then what is not: debug, video,
// telemetry, each for its own class or a higher one. audit, alarm and evidence
// hold their producers back and lose nothing. Every step stands in the ledger
// as a range.
func TestPressureTakesTheLeastFirst(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true, Quota: 24 << 20})
	classes := []record.Class{record.ClassDebug, record.ClassVideo, record.ClassTelemetry, record.ClassAudit, record.ClassAlarm, record.ClassEvidence}
	waiting, done := map[record.Class]*spool.Stream{}, map[record.Class]*spool.Stream{}
	acked := map[string]uint64{}
	store := func(st *spool.Stream) error {
		res, err := st.Put(t.Context(), []record.Record{{Key: "k", Data: make([]byte, 50<<10), Source: st.Name()}})
		if err == nil {
			err = res[0].Err
		}
		if err == nil {
			acked[st.Name()]++
		}
		return err
	}
	for _, c := range classes {
		done[c] = b.stream(spool.StreamConfig{Name: conf.Stream(c.String() + "-done"), Class: c, MaxAge: conf.Duration(1 << 60)})
		waiting[c] = b.stream(spool.StreamConfig{Name: conf.Stream(c.String()), Class: c})
		cursor(t, waiting[c], "up", spool.Oldest())
	}
	for range 24 { // 1.2 MB each, all mixed in time
		for _, c := range classes {
			for _, st := range []*spool.Stream{done[c], waiting[c]} {
				if err := store(st); err != nil {
					t.Fatalf("%s: %v", st.Name(), err)
				}
			}
		}
	}
	// An evidence producer that does not stop takes all that may go for it. It
	// can be refused while a WAL waits to be brought into its file; what counts
	// is a refusal when there is none.
	var refused error
	for n, settled := 0, false; refused == nil || !settled; n++ {
		if n > 2000 {
			t.Fatal("the quota does not hold")
		}
		if settled = refused != nil; settled {
			for _, c := range classes {
				for _, st := range []*spool.Stream{done[c], waiting[c]} {
					eventually(t, "all is sealed", func() bool { return spool.Sealed(st) })
				}
			}
			spool.Keep(b.Spool)
		}
		refused = store(waiting[record.ClassEvidence])
	}
	if !errors.Is(refused, record.ErrFull) || !has(b.Spool, "full") {
		t.Fatalf("%v, conditions %+v", refused, b.Stats().Conditions)
	}
	var order []string // of first appearance, a stream's delivered and undelivered ranges apart
	next := map[string]uint64{}
	for _, st := range steps(t, b.Spool, spool.StepDropped) {
		if st.First != next[st.Stream]+1 || st.Count != st.Past-st.First || !strings.Contains(st.Reason, "quota") {
			t.Errorf("after %d: %+v", next[st.Stream], st)
		}
		next[st.Stream] = st.Past - 1
		if (st.Undelivered > 0) == strings.HasSuffix(st.Stream, "-done") {
			t.Errorf("%+v", st)
		}
		if len(order) == 0 || order[len(order)-1] != st.Stream {
			order = append(order, st.Stream)
		}
	}
	want := "debug-done video-done telemetry-done audit-done alarm-done evidence-done debug video telemetry"
	if got := strings.Join(order, " "); got != want {
		t.Errorf("went in the order %s\nwant                %s", got, want)
	}
	for _, c := range []record.Class{record.ClassAudit, record.ClassAlarm, record.ClassEvidence} {
		st := waiting[c]
		recs, losses := scan(t, st, only(st), spool.After(0))
		if uint64(len(recs)) != acked[st.Name()] || len(losses) != 0 {
			t.Errorf("%s: %d of %d acknowledged records are there, losses %v", st.Name(), len(recs), acked[st.Name()], losses)
		}
	}
	for _, l := range b.Ledger().Streams {
		if l.In != acked[l.Stream] || l.Expired != next[l.Stream] {
			t.Errorf("%+v, acknowledged %d, steps up to %d", l, acked[l.Stream], next[l.Stream])
		}
	}
	// What lies in a WAL comes into the file later; that is not reckoned.
	if st := b.Stats(); st.Used > st.Quota+1<<20 {
		t.Errorf("%d of %d bytes", st.Used, st.Quota)
	}
}

// on_full says it per stream, whatever the class; streams that differ in it do
// not share a log.
func TestOnFullIsPerStream(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true, Quota: 12 << 20})
	held := b.stream(spool.StreamConfig{Name: "held", OnFull: spool.HoldProducer})
	plain := b.stream(spool.StreamConfig{Name: "plain"})
	said := b.stream(spool.StreamConfig{Name: "said", OnFull: spool.DropOldest})
	alarm := b.stream(spool.StreamConfig{Name: "alarm", Class: record.ClassAlarm, OnFull: spool.DropOldest})
	if spool.LogDir(held) == spool.LogDir(plain) || spool.LogDir(plain) != spool.LogDir(said) {
		t.Errorf("held %s, plain %s, said %s", spool.LogDir(held), spool.LogDir(plain), spool.LogDir(said))
	}
	for _, st := range []*spool.Stream{held, plain, alarm} {
		cursor(t, st, "up", spool.Oldest())
	}
	fill(t, held, 60, 50<<10)
	for range 300 { // more than the quota: its own oldest go
		fill(t, alarm, 1, 50<<10)
	}
	if firstKept(held) != 1 || firstKept(alarm) == 1 {
		t.Errorf("held begins at %d, alarm at %d", firstKept(held), firstKept(alarm))
	}
	var refused error
	for n := 0; refused == nil && n < 300; n++ {
		var res []record.Result
		if res, refused = held.Put(t.Context(), []record.Record{{Key: "k", Data: make([]byte, 50<<10)}}); refused == nil {
			refused = res[0].Err
		}
	}
	if !errors.Is(refused, record.ErrFull) || firstKept(held) != 1 {
		t.Errorf("%v, held begins at %d", refused, firstKept(held))
	}
	b.reopen()
	for _, name := range []string{"held", "plain", "alarm"} {
		st, err := b.Stream(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := map[string]spool.OnFull{"held": spool.HoldProducer, "alarm": spool.DropOldest}[name]; st.Config().OnFull != want {
			t.Errorf("%s: %+v", name, st.Config())
		}
	}
	again := b.stream(spool.StreamConfig{Name: "again", OnFull: spool.HoldProducer})
	held, _ = b.Stream("held")
	if spool.LogDir(again) != spool.LogDir(held) {
		t.Error("streams that agree do not share a log after a restart")
	}
}

// max_age_hard removes whatever is older, undelivered evidence too, neither
// before its time nor more than the slack after it.
func TestALegalLimitBeatsEverything(t *testing.T) {
	c := newClocks()
	b := newBox(t, spool.Config{Now: c.now}, c.seam())
	const hard, slack = 8 * time.Hour, time.Hour
	video := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassEvidence, OnFull: spool.HoldProducer, MaxAgeHard: conf.Duration(hard)})
	free := b.stream(spool.StreamConfig{Name: "free", Class: record.ClassEvidence})
	if spool.LogDir(video) == spool.LogDir(free) {
		t.Error("they share a log")
	}
	cursor(t, video, "up", spool.Oldest())
	cursor(t, free, "up", spool.Oldest())
	fill(t, free, 1, 10)
	var taken []time.Duration // by sequence number
	var at time.Duration
	told := false
	for at < 30*time.Hour {
		if at < 12*time.Hour { // a record every 7 minutes, then none
			fill(t, video, 1, 10)
			taken = append(taken, at)
		}
		if at%(70*time.Minute) == 0 { // a restart makes no segment live longer
			b.reopen()
			video, _ = b.Stream("video")
		}
		c.pass(7 * time.Minute)
		at += 7 * time.Minute
		spool.Keep(b.Spool)
		told = told || has(b.Spool, "max-age")
		first := firstKept(video)
		for i, was := range taken {
			age, kept := at-was, uint64(i+1) >= first
			if !kept && age <= hard {
				t.Fatalf("at %v: record %d went at the age of %v", at, i+1, age)
			}
			if kept && age > hard+slack+8*time.Minute { // one pass of this loop
				t.Fatalf("at %v: record %d is still there at the age of %v", at, i+1, age)
			}
		}
	}
	if first := firstKept(video); first != uint64(len(taken))+1 {
		t.Errorf("begins at %d, had %d", first, len(taken))
	}
	if st, _ := b.Stream("free"); firstKept(st) != 1 {
		t.Error("a stream without the limit lost records by it")
	}
	var sum, undelivered uint64
	for _, st := range steps(t, b.Spool, spool.StepMaxAge) {
		sum, undelivered = sum+st.Count, undelivered+st.Undelivered
	}
	if sum != uint64(len(taken)) || undelivered != sum || !told {
		t.Errorf("%d steps' records, %d undelivered, of %d; conditions %+v", sum, undelivered, len(taken), b.Stats().Conditions)
	}
}

// A jump of the wall clock makes nothing old, be it while the spool is open or
// while it is closed, whether the machine has booted in between or not.
func TestNoJumpExpiresAnything(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for _, boot := range []bool{false, true} {
		for _, jump := range []time.Duration{10 * year, -10 * year, time.Hour, -time.Hour} {
			t.Run(fmt.Sprintf("%v boot %v", jump, boot), func(t *testing.T) {
				c := newClocks()
				b := newBox(t, spool.Config{Now: c.now}, c.seam())
				age := conf.Duration(48 * time.Hour)
				old := b.stream(spool.StreamConfig{Name: "old", MaxAge: age})
				legal := b.stream(spool.StreamConfig{Name: "legal", MaxAgeHard: age})
				n := 0
				for _, turn := range []func(){
					func() {},
					func() { c.jump(jump) },
					func() { spool.Keep(b.Spool) },
					func() {
						b.close()
						c.jump(-jump)
						if boot {
							c.off(0)
						}
						b.open()
					},
					func() {
						b.close()
						c.jump(jump)
						if boot {
							c.off(time.Minute)
						}
						b.open()
					},
				} {
					turn()
					old, _ = b.Stream("old")
					legal, _ = b.Stream("legal")
					for _, st := range []*spool.Stream{old, legal} {
						fill(t, st, 2, 10)
						if err := spool.Roll(st); err != nil {
							t.Fatal(err)
						}
					}
					n += 2
					spool.Keep(b.Spool)
					for _, st := range []*spool.Stream{old, legal} {
						recs, _ := scan(t, st, only(st), spool.After(0))
						if len(recs) != n {
							t.Fatalf("%s has %d records of %d", st.Name(), len(recs), n)
						}
						for i, r := range recs {
							if r.Pos.Seq != uint64(i+1) {
								t.Fatalf("record %d stands at %d", r.Pos.Seq, i+1)
							}
						}
					}
				}
				// And what is old by the monotonic clock goes, whatever the wall says.
				c.with(func() { c.mono += 100 * time.Hour })
				eventually(t, "what is old goes", func() bool {
					spool.Keep(b.Spool)
					return firstKept(old) == uint64(n)+1 && firstKept(legal) == uint64(n)+1
				})
			})
		}
	}
}

// The time a spool was closed counts in full where the system vouches for its
// clock, or the machine itself measured it; else a day of it does, and the rest
// as soon as somebody vouches.
func TestHowMuchOfAPauseCounts(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		name          string
		before, after bool // synchronised
		boot          bool
		gone          time.Duration // what was kept for this long is gone after a week
		kept          time.Duration
		later         bool // the rest counts when the clock is synchronised
	}{
		{"vouched for", true, true, true, week - time.Hour, week + time.Hour, false},
		{"not now", true, false, true, 23 * time.Hour, 25 * time.Hour, true},
		{"not then", false, true, true, 23 * time.Hour, 25 * time.Hour, false},
		{"never", false, false, true, 23 * time.Hour, 25 * time.Hour, false},
		{"the machine ran on", false, false, false, week - time.Hour, week + time.Hour, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := newClocks()
			b := newBox(t, spool.Config{Now: cl.now}, cl.seam())
			cl.sync(c.before)
			for name, age := range map[string]time.Duration{"gone": c.gone, "kept": c.kept, "legal-gone": c.gone, "legal-kept": c.kept} {
				sc := spool.StreamConfig{Name: conf.Stream(name), MaxAge: conf.Duration(age)}
				if strings.HasPrefix(name, "legal") {
					sc.MaxAge, sc.MaxAgeHard = 0, sc.MaxAge
				}
				fill(t, b.stream(sc), 1, 10)
			}
			b.close()
			if c.boot {
				cl.off(week)
			} else {
				cl.pass(week)
			}
			cl.sync(c.after)
			b.open()
			first := func(name string) uint64 {
				spool.Keep(b.Spool)
				st, err := b.Stream(name)
				if err != nil {
					t.Fatal(err)
				}
				return firstKept(st)
			}
			if first("gone") != 2 || first("legal-gone") != 2 || first("kept") != 1 || first("legal-kept") != 1 {
				t.Errorf("gone %d %d, kept %d %d", first("gone"), first("legal-gone"), first("kept"), first("legal-kept"))
			}
			cl.sync(true)
			if want := map[bool]uint64{false: 1, true: 2}[c.later]; first("kept") != want || first("legal-kept") != want {
				t.Errorf("once it is synchronised: kept begins at %d and %d, want %d", first("kept"), first("legal-kept"), want)
			}
		})
	}
}

// Everything in the directory counts.
func TestTheQuotaCountsEveryFile(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true, Quota: 64 << 20})
	st := b.stream(spool.StreamConfig{Name: "video", Class: record.ClassVideo})
	fill(t, st, 20, 10<<10)
	if err := blob(t, st, 1<<20); err != nil {
		t.Fatal(err)
	}
	b.close()
	for _, name := range []string{"state.db.v1", "log-00001/0000000001.seg.moved", "log-00001/note"} {
		if err := os.WriteFile(filepath.Join(b.dir, name), make([]byte, 300_001), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.open()
	spool.Keep(b.Spool)
	var onDisk int64
	err := filepath.WalkDir(b.dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			var fi fs.FileInfo
			if fi, err = e.Info(); err == nil {
				onDisk += fi.Size()
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if used := b.Stats().Used; used < onDisk-64<<10 || used > onDisk+64<<10 || used < 3*300_001+1<<20 {
		t.Errorf("used %d, %d on the disk", used, onDisk)
	}
}

// A cursor that stands still is told of with what it pins, and how to give it
// up; doing so ends it.
func TestAStalledCursorIsTold(t *testing.T) {
	c := newClocks()
	b := newBox(t, spool.Config{Now: c.now}, c.seam())
	st := b.stream(spool.StreamConfig{Name: "mqtt"})
	alone := cursor(t, st, "old", spool.Oldest())
	cursor(t, st, "cloud", spool.Oldest())
	fill(t, st, 7, 10)
	if err := alone.Close(); err != nil {
		t.Fatal(err)
	}
	told := func() string {
		spool.Keep(b.Spool)
		for _, c := range b.Stats().Conditions {
			if c.Kind == "stalled" {
				return c.Text
			}
		}
		return ""
	}
	c.pass(59 * time.Minute)
	if got := told(); got != "" {
		t.Errorf("too early: %s", got)
	}
	b.reopen() // does not begin the hour anew
	st, _ = b.Stream("mqtt")
	open := cursor(t, st, "cloud", spool.Oldest())
	c.pass(2 * time.Minute)
	if got := told(); !strings.Contains(got, `cursor "old" of stream "mqtt"`) || !strings.Contains(got, "7 records") || !strings.Contains(got, "forebay cursor drop mqtt old") || strings.Contains(got, "cloud") {
		t.Errorf("after an hour: %q", got)
	}
	c.pass(24 * time.Hour)
	if got := told(); !strings.Contains(got, `cursor "cloud"`) {
		t.Errorf("after a day: %q", got)
	}
	if err := open.Commit(7, record.Tally{}); err == nil {
		t.Fatal("a commit without a tally was taken")
	}
	batch, err := open.Next(t.Context(), 10)
	if err == nil {
		err = open.Commit(batch.Next-1, record.Tally{Delivered: uint64(len(batch.Recs))})
	}
	if err == nil {
		err = st.DropCursor(t.Context(), "old", "kim")
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := told(); got != "" {
		t.Errorf("nothing waits: %q", got)
	}
}

// The least bound that is allowed lets a log live.
func TestTheLeastMaxBytesIsEnough(t *testing.T) {
	b := newBox(t, spool.Config{NoPacking: true})
	st := b.stream(spool.StreamConfig{Name: "small", MaxBytes: 512 << 10})
	for range 5 {
		fill(t, st, 3, 1000)
		spool.Keep(b.Spool)
	}
	if first := firstKept(st); first != 1 {
		t.Errorf("begins at %d: 15 kB do not fit into 512 KiB", first)
	}
	for range 100 {
		fill(t, st, 1, 10<<10)
	}
	spool.Keep(b.Spool)
	if sh := st.Shards()[0]; sh.First == 1 || sh.Next != 116 || sh.Next-sh.First < 3 { // segments that are not sealed yet take room
		t.Errorf("%+v", sh)
	}
}

func TestRetentionSettingsAreChecked(t *testing.T) {
	for field, c := range map[string]spool.StreamConfig{
		"on_full":      {Name: "a", OnFull: "wait"},
		"max_age_hard": {Name: "a", MaxAgeHard: conf.Duration(time.Second)},
		"max_age_hard: 1h is less than retention, 2h": {Name: "a", MaxAgeHard: conf.Duration(time.Hour), MaxAge: conf.Duration(2 * time.Hour)},
	} {
		if err := c.Check(); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}
