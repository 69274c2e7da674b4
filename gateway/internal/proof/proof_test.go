package proof_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/powertest"
	"forebay/gateway/internal/proof"
)

var update = flag.Bool("update", false, "write what the golden report is now")

const epoch = "0123456789abcdef"

// one is a shard of which the uplink has passed 1 to last, all delivered.
func one(last uint64) api.Sent {
	return api.Sent{
		Gateway: "edge", Epoch: epoch, Epochs: []string{epoch}, Uplink: "cloud",
		Shards: []api.SentShard{{Stream: "line", Far: "line", ID: "shardId-000000000000", Number: 9, Start: 1, Next: last + 1, First: 1, Delivered: last}},
		Lanes:  []api.SentLane{{Lane: "edge/" + epoch + "/9", Stream: "line", Shard: 9, Ranges: [][2]uint64{{1, last}}}},
	}
}

func id(seq uint64) string { return fmt.Sprintf("edge/%s/9/%d", epoch, seq) }

// under is how the far side of these tests names what it holds.
func under(stream string) string { return stream }

func hold(t *testing.T, sent api.Sent, ids ...string) *proof.Held {
	t.Helper()
	h := proof.NewHeld(sent, under)
	for _, s := range ids {
		if err := h.Add("line", s); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// TestCompareFindsWhatIsMissing takes records out at random, across the edges
// of words and pages, sends some twice, and holds the verdict against a map.
func TestCompareFindsWhatIsMissing(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 40 {
		last := uint64(1 + rng.IntN(20_000))
		out := map[uint64]bool{}
		for range rng.IntN(30) {
			from := 1 + rng.Uint64N(last)
			for v := from; v <= min(last, from+rng.Uint64N(200)); v++ {
				out[v] = true
			}
		}
		sent, again := one(last), uint64(0)
		h := proof.NewHeld(sent, under)
		for v := uint64(1); v <= last; v++ {
			if out[v] {
				continue
			}
			for n := range 1 + rng.IntN(10)/9 {
				if err := h.Add("line", id(v)); err != nil {
					t.Fatal(err)
				}
				again += uint64(min(n, 1))
			}
		}
		v := proof.Compare(sent, h, proof.Terms{Ordered: true})
		if v.Missing != uint64(len(out)) || v.Found != last-uint64(len(out)) || v.Again != again || v.Disorder != 0 || v.Compared != last {
			t.Fatalf("round %d: %d are out of %d: %+v", round, len(out), last, v)
		}
		if want := map[bool]string{true: proof.HasGap, false: proof.NoGap}[len(out) > 0]; v.Result != want {
			t.Fatalf("round %d: %s", round, v.Result)
		}
		named := uint64(0)
		for i, g := range v.Gaps {
			if !out[g.Seq] || !out[g.LastSeq] || out[g.Seq-1] || out[g.LastSeq+1] || g.First != id(g.Seq) || g.Last != id(g.LastSeq) || i > 0 && g.Seq <= v.Gaps[i-1].LastSeq {
				t.Fatalf("round %d: gap %+v", round, g)
			}
			named += g.Records
		}
		if named != v.Missing {
			t.Fatalf("round %d: the gaps have %d records, %d are missing", round, named, v.Missing)
		}
	}
}

func TestCompare(t *testing.T) {
	keeps := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		sent  func(*api.Sent)
		held  []string
		terms proof.Terms
		want  string // result, missing, explained, older, unknown, duplicates, out of order
	}{
		"all":           {held: []string{id(1), id(2), id(3), id(4)}, terms: proof.Terms{Ordered: true}, want: "no gap 0 0 0 0 0 0"},
		"out of order":  {held: []string{id(1), id(3), id(2), id(4)}, terms: proof.Terms{Ordered: true}, want: "no gap 0 0 0 0 0 1"},
		"without order": {held: []string{id(1), id(3), id(2), id(4), id(4)}, want: "no gap 0 0 0 0 1 -1"},
		"nothing there": {want: "gap 4 0 0 0 0 -1"},
		"another epoch": {held: []string{"edge/00000000000000aa/9/1", id(2), id(3), id(4)}, want: "gap 1 0 0 0 0 -1"},
		"filtered":      {sent: func(s *api.Sent) { s.Shards[0].Delivered, s.Shards[0].Filtered = 3, 1 }, held: []string{id(1), id(3), id(4)}, want: "no gap 0 1 0 0 0 -1"},
		"filtered, and one more": {
			sent: func(s *api.Sent) { s.Shards[0].Delivered, s.Shards[0].Filtered = 3, 1 },
			held: []string{id(1), id(4)}, want: "gap 1 1 0 0 0 -1",
		},
		"filtered, of a time": {
			sent: func(s *api.Sent) { s.Shards[0].Delivered, s.Shards[0].Filtered = 3, 1 },
			held: []string{id(1), id(3), id(4)}, terms: proof.Terms{Window: true}, want: "not proven 0 1 0 1 0 -1",
		},
		"a ledger that does not add up": {sent: func(s *api.Sent) { s.Shards[0].Delivered = 3 }, held: []string{id(1), id(2), id(3), id(4)}, want: "not proven 0 0 0 1 0 -1"},
		"older than is kept": {
			sent: func(s *api.Sent) { s.Lanes[0].Old = 2 }, held: []string{id(3)},
			terms: proof.Terms{Keeps: keeps}, want: "gap 1 0 2 0 0 -1",
		},
		"gone from the log": {
			sent: func(s *api.Sent) { s.Shards[0].First, s.Lanes[0].Ranges = 3, [][2]uint64{{3, 4}} },
			held: []string{id(1), id(3), id(4)}, want: "gap 1 0 0 0 0 -1",
		},
		"gone from the log, under an epoch before": {
			sent: func(s *api.Sent) {
				s.Epochs = []string{"00000000000000aa", epoch}
				s.Shards[0].First, s.Lanes[0].Ranges = 3, [][2]uint64{{3, 4}}
			},
			held: []string{"edge/00000000000000aa/9/1", "edge/00000000000000aa/9/2", id(3), id(4)}, want: "no gap 0 0 0 0 0 -1",
		},
		"gone from both, the oldest": {
			sent: func(s *api.Sent) { s.Shards[0].First, s.Lanes[0].Ranges = 4, [][2]uint64{{4, 4}} },
			held: []string{id(3), id(4)}, terms: proof.Terms{Keeps: keeps}, want: "no gap 0 0 2 0 0 -1",
		},
		"gone from both, behind one that is there": {
			sent: func(s *api.Sent) { s.Shards[0].First, s.Lanes[0].Ranges = 4, [][2]uint64{{4, 4}} },
			held: []string{id(1), id(3), id(4)}, terms: proof.Terms{Keeps: keeps}, want: "gap 1 0 0 0 0 -1",
		},
		"parts": {
			sent: func(s *api.Sent) { s.Lanes[0].Ranges, s.Lanes[0].Parts = [][2]uint64{{1, 3}}, [][3]uint64{{4, 1, 3}} },
			held: []string{id(1), id(2), id(3), id(4) + "/1", id(4) + "/3"}, want: "gap 1 0 0 0 0 -1",
		},
		"another gateway's": {
			sent: func(s *api.Sent) {
				s.Lanes[0] = api.SentLane{Lane: "cell/" + epoch + "/2", Stream: "line", Shard: 9, Ranges: [][2]uint64{{5, 8}}}
				s.Shards[0].Forwarded = 4
			},
			held: []string{"cell/" + epoch + "/2/5", "cell/" + epoch + "/2/6", "cell/" + epoch + "/2/8"}, want: "gap 1 0 0 0 0 -1",
		},
		"filtered among another gateway's aggregates": {
			sent: func(s *api.Sent) {
				s.Shards[0].Delivered, s.Shards[0].Filtered, s.Shards[0].Forwarded, s.Shards[0].Aggregates = 3, 1, 4, 1
			},
			held: []string{id(1)}, want: "not proven 0 0 0 3 0 -1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			sent := one(4)
			if c.sent != nil {
				c.sent(&sent)
			}
			v := proof.Compare(sent, hold(t, sent, c.held...), c.terms)
			if got := fmt.Sprint(v.Result, " ", v.Missing, " ", v.Explained, " ", v.Older, " ", v.Unknown, " ", v.Again, " ", v.Disorder); got != c.want {
				t.Errorf("%s, want %s: %+v", got, c.want, v)
			}
			if (v.Result == proof.HasGap) != (len(v.Gaps) > 0) {
				t.Errorf("%s with gaps %+v", v.Result, v.Gaps)
			}
		})
	}
}

func TestOthersAreCountedApart(t *testing.T) {
	sent := one(1)
	h := hold(t, sent, id(1), "b/00000000000000aa/1/1", "a/00000000000000aa/1/1", "a/00000000000000aa/1/1")
	v := proof.Compare(sent, h, proof.Terms{})
	if len(v.Others) != 2 || v.Others[0].Lane != "a/00000000000000aa/1" || v.Others[0].Records != 2 || v.Held != 4 {
		t.Errorf("%+v", v)
	}
	if err := h.Add("line", "no id"); err == nil {
		t.Error("what is no id was taken")
	}
}

// TestOtherNames: what lies under another name stands in for nothing, makes
// nothing doubled, and is counted apart.
func TestOtherNames(t *testing.T) {
	sent := one(4)
	h := hold(t, sent, id(1), id(4), id(4), id(4))
	for _, x := range [][2]string{{"replay-1-line", id(1)}, {"replay-1-line", id(2)}, {"replay-2-line", id(2)}, {"replay-1-line", id(2)}, {"replay-1-line", "cell/00000000000000aa/1/1"}} {
		if err := h.Add(x[0], x[1]); err != nil {
			t.Fatal(err)
		}
	}
	v := proof.Compare(sent, h, proof.Terms{Ordered: true})
	if v.Result != proof.HasGap || v.Missing != 2 || v.Found != 2 || len(v.Gaps) != 1 || v.Gaps[0].First != id(2) || v.Gaps[0].Last != id(3) {
		t.Errorf("a gap that copies would hide: %+v", v)
	}
	if want := []proof.Name{{"replay-1-line", 3}, {"replay-2-line", 1}}; v.Elsewhere != 4 || !slices.Equal(v.Names, want) {
		t.Errorf("%d under other names: %v, want %v", v.Elsewhere, v.Names, want)
	}
	if v.Again != 1 || v.Disorder != 0 || v.Held != 9 || len(v.Others) != 1 {
		t.Errorf("one record is there three times under its name: %+v", v)
	}
}

// TestNothingToCompare: nothing is no proof.
func TestNothingToCompare(t *testing.T) {
	for name, change := range map[string]func(*api.Sent){
		"of that time":       func(s *api.Sent) { s.Lanes = nil },
		"nothing passed yet": func(s *api.Sent) { s.Lanes, s.Shards[0].Next, s.Shards[0].Delivered = nil, 1, 0 },
	} {
		sent := one(4)
		sent.Shards[0].Waiting = 7
		change(&sent)
		v := proof.Compare(sent, proof.NewHeld(sent, under), proof.Terms{Window: name == "of that time"})
		if v.Result != proof.Nothing || len(v.Why) != 1 || v.Waiting != 7 || v.Elsewhere != 0 {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// TestMemoryIsBounded: numbers that lie far apart end with an error, and not
// with the machine's memory.
func TestMemoryIsBounded(t *testing.T) {
	var b proof.Budget
	s := b.NewSet()
	var err error
	n := 0
	for v := uint64(0); err == nil && n < 1<<20; v += 1 << 12 {
		_, err = s.Add(v)
		n++
	}
	if err == nil || n > 300_000 {
		t.Errorf("%d pages: %v", n, err)
	}
	full := (&proof.Budget{}).NewSet()
	for v := range uint64(4 << 20) { // in order they cost next to nothing
		if _, err := full.Add(v); err != nil {
			t.Fatal(err)
		}
	}
	if full.Len() != 4<<20 || !full.Has(4<<20-1) || full.Has(4<<20) {
		t.Errorf("%d", full.Len())
	}
}

func TestSpans(t *testing.T) {
	var b proof.Budget
	s := b.NewSpans()
	for _, v := range []uint64{5, 7, 6, 1, 2, 6, 9} {
		if _, err := s.Add(v); err != nil {
			t.Fatal(err)
		}
	}
	if want := [][2]uint64{{1, 2}, {5, 7}, {9, 9}}; !slices.Equal(s.All(), want) {
		t.Errorf("%v, want %v", s.All(), want)
	}
	p := b.NewParts()
	for _, v := range [][2]uint64{{3, 1}, {3, 2}, {4, 1}, {3, 4}} {
		if err := p.Add(v[0], v[1]); err != nil {
			t.Fatal(err)
		}
	}
	if want := [][3]uint64{{3, 1, 2}, {3, 4, 4}, {4, 1, 1}}; !slices.Equal(p.All(), want) {
		t.Errorf("%v, want %v", p.All(), want)
	}
	if p.Add(1<<60, 1) == nil {
		t.Error("a place without room was taken")
	}
}

func sample() *proof.Report {
	at := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	sent := one(4)
	h := proof.NewHeld(sent, under)
	for _, v := range []uint64{1, 2, 4, 4} {
		if err := h.Add("line", id(v)); err != nil {
			panic(err)
		}
	}
	v := proof.Compare(sent, h, proof.Terms{Ordered: true})
	v.Target, v.Version = "Kinesis at http://10.0.0.5:4567, stream prove-20261123-080000", "1.0.0"
	return &proof.Report{
		Format: 1, Name: "prove-20261123-080000", Began: at, Ended: at.Add(3 * time.Minute), Version: "1.0.0", System: "linux/arm64", Host: "box-7 <cell>",
		Gateway: "edge", Config: strings.Repeat("ab", 32), Uplink: "cloud", Kind: "kinesis", Target: "Kinesis at http://10.0.0.5:4567, stream press-shop",
		Left: "the stream prove-20261123-080000", Why: []string{},
		Disk:     powertest.Facts{Dir: "/data", FileSystem: "ext4", Device: powertest.Device{Kind: "emmc", Model: "DG4008"}, Grow: powertest.Latency{N: 100, P50: 1.5, P99: 4}, SustainRate: 20e6, SustainS: 5},
		Findings: []powertest.Finding{{Level: powertest.Note, About: "speed", Text: "A lone record takes 2 ms."}, {Level: powertest.Danger, About: "sync", Text: "The disk seems to lie."}},
		Figures: proof.Figures{
			Seconds: 120, Written: 4, Acknowledged: 4, Again: 1, TwiceHere: 1, LostThere: 1, TwiceThere: 1, AckP50: 2, AckP99: 8.5, AckMax: 40,
			Kills: 3, Restart: .5, Cuts: 1, CutFor: 42, Backlog: 1000, Drain: 3.25, Drained: true, Rest: .02, Balanced: true,
			DrainKill: &proof.DrainKill{Shown: true, Waited: 990, After: 1.5, Waiting: 640, Before: 360, Rest: 650},
		},
		Events:  []proof.Event{{At: at, What: "the gateway under test serves"}, {At: at.Add(time.Minute), What: "the link is cut"}},
		Verdict: v,
	}
}

// TestGoldenReport: the report's two files are, byte for byte, what testdata
// says.
func TestGoldenReport(t *testing.T) {
	r := sample()
	r.Judge()
	text, sum, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := r.HTML(&page, sum); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"report.json": text, "report.html": page.Bytes()} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is otherwise; if it should be, go test -update:\n%s", name, got)
		}
	}
	for _, outside := range []string{"http://www", "https://", "src=", "@import", "<script", "<cell>"} {
		if bytes.Contains(page.Bytes(), []byte(outside)) {
			t.Errorf("the page has %q", outside)
		}
	}
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*proof.Report)
		want   string
	}{
		"as it should be":  {func(*proof.Report) {}, proof.Passed},
		"lost here":        {func(r *proof.Report) { r.Figures.LostHere = 1 }, proof.Failed},
		"a gap":            {func(r *proof.Report) { r.Verdict.Result, r.Verdict.Missing = proof.HasGap, 1 }, proof.Failed},
		"not proven":       {func(r *proof.Report) { r.Verdict.Result = proof.NotProven }, proof.Failed},
		"nothing compared": {func(r *proof.Report) { r.Verdict.Result, r.Verdict.Found = proof.Nothing, 0 }, proof.Failed},
		"nothing found":    {func(r *proof.Report) { r.Verdict.Found = 0 }, proof.Failed},
		"not verified":     {func(r *proof.Report) { r.Verdict = nil }, proof.Failed},
		"unbalanced":       {func(r *proof.Report) { r.Figures.Balanced = false }, proof.Failed},
		"a damaged spool":  {func(r *proof.Report) { r.Figures.Problems = 1 }, proof.Failed},
		"not drained":      {func(r *proof.Report) { r.Figures.Undelivered = 1 }, proof.Failed},
		"nothing acked":    {func(r *proof.Report) { r.Figures.Acknowledged = 0 }, proof.Failed},
		"a disk that lies": {func(r *proof.Report) { r.Findings[0].Level = powertest.Danger }, proof.Reservations},
		"no link cut":      {func(r *proof.Report) { r.Figures.Cuts = 0 }, proof.Reservations},
		"no kill in the drain": {func(r *proof.Report) {
			*r.Figures.DrainKill = proof.DrainKill{Waited: 9, After: .01, Why: "the backlog of 9 records had gone"}
		}, proof.Reservations},
		"killed too early": {func(r *proof.Report) { r.Figures.EarlyKill = true }, proof.Reservations},
		"cut when down":    {func(r *proof.Report) { r.Figures.DownAtCut = true }, proof.Reservations},
		"no kill":          {func(r *proof.Report) { r.Figures.Kills = 0 }, proof.Reservations},
	} {
		r := sample()
		r.Findings = r.Findings[:1]
		r.Verdict.Result, r.Verdict.Missing = proof.NoGap, 0
		c.change(r)
		if r.Judge(); r.Result != c.want || (len(r.Why) == 0) != (c.want == proof.Passed) {
			t.Errorf("%s: %s, %v; want %s", name, r.Result, r.Why, c.want)
		}
	}
}
