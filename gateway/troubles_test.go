package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"forebay/spool/record"
)

const troubleConfig = `
[gateway]
name = "troubled"
data = "DATA"
[mqtt]
listen = "off"
[kinesis]
listen = "off"
[api]
listen = "API"
[[stream]]
name = "press"
[[uplink]]
id = "cloud"
streams = ["press"]
[uplink.http]
url = "TARGET"
`

// A troubled is a gateway whose uplink's target answers with a status of ours
// to what holds the word bad.
func troubled(t *testing.T) (g *gw, answer *atomic.Int64, problem func() string) {
	t.Helper()
	answer = new(atomic.Int64)
	far := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Contains(body, []byte("bad")) {
			return
		}
		w.WriteHeader(int(answer.Load()))
	}))
	t.Cleanup(far.Close)
	answer.Store(http.StatusOK)
	g = startGateway(t, "troubled", strings.ReplaceAll(troubleConfig, "TARGET", far.URL))
	return g, answer, func() string {
		st, err := g.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range st.Problems {
			if p.Kind == "uplink/cloud" {
				return p.Text
			}
		}
		return ""
	}
}

// Refused records that were sent again and taken are no problem any more, and
// no alarm.
func TestRefusedThenTaken(t *testing.T) {
	g, answer, problem := troubled(t)
	do := func(args ...string) string {
		t.Helper()
		code, out, errs := forebay(t, "", append(args, "--api", g.api)...)
		if code != exitOK {
			t.Fatalf("%v: exit code %d: %s%s", args, code, out, errs)
		}
		return out
	}
	says := func(what string) {
		t.Helper()
		eventually(t, 30*time.Second, "the problem says "+what, func() bool {
			text := problem()
			return what == "" && text == "" || what != "" && strings.Contains(text, what)
		})
	}
	over := func() {
		t.Helper()
		eventually(t, 30*time.Second, "the redrive is over", func() bool { return len(cloud(t, g).Errands) == 0 })
	}
	put := func(text string) {
		t.Helper()
		if _, err := g.client.Put(t.Context(), "press", "a", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	put(`"good"`) // a target that takes nothing refuses nothing for good
	eventually(t, 30*time.Second, "the target has taken one", func() bool { return cloud(t, g).Delivered == 1 })
	answer.Store(http.StatusUnprocessableEntity)
	put(`"bad"`)
	put(`"bad"`)
	says("can never take 2 records; they are kept in the stream refused")
	if text := problem(); !strings.Contains(text, "forebay uplink redrive cloud --all") {
		t.Error(text)
	}
	list, err := g.client.Refused(t.Context(), "cloud", 0)
	if err != nil || len(list.Letters) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	answer.Store(http.StatusOK)
	do("uplink", "redrive", "cloud", "--id", list.Letters[0].ID)
	says("can never take 1 record; it is kept")
	over()
	do("uplink", "redrive", "cloud", "--all")
	says("")
	eventually(t, 30*time.Second, "the alarm has ended", func() bool {
		alarms, err := g.client.Alarms(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range alarms {
			if a.Key == "uplink/cloud/refused" && a.State != "rtn-unacked" {
				return false
			}
		}
		return len(alarms) > 0
	})
	if u := cloud(t, g); u.Refused != 2 {
		t.Errorf("%d refused since the start", u.Refused)
	}
	g.sound(t)
}

// An error that no time mends is an alarm, with the advice in it.
func TestWhatDoesNotMendItselfIsAlarmed(t *testing.T) {
	g, answer, problem := troubled(t)
	answer.Store(http.StatusUnauthorized)
	if _, err := g.client.Put(t.Context(), "press", "a", []byte(`"bad"`)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "it is a problem", func() bool {
		text := problem()
		return strings.Contains(text, "Uplink cloud is down") && strings.Contains(text, "HTTP 401") && strings.Contains(text, "What to do: renew or correct the credentials") &&
			strings.Contains(text, "at the latest every 1 min;")
	})
	alarms, err := g.client.Alarms(t.Context())
	if err != nil || len(alarms) != 1 || alarms[0].Key != "uplink/cloud/down" || !strings.Contains(alarms[0].Text, "What to do: ") {
		t.Errorf("%+v, %v", alarms, err)
	}
	answer.Store(http.StatusOK)
	eventually(t, 30*time.Second, "nothing is wrong any more", func() bool { return problem() == "" })
	g.sound(t)
}

// Letters count as mended against what was refused since the start: those of
// before are not in the uplink's count.
func TestMendedLetters(t *testing.T) {
	e := &errands{begun: map[record.ShardID]uint64{1: 10}, mended: map[string]int64{}}
	check := func(when string, want uint64) {
		t.Helper()
		if n := e.unmended("cloud", 5); n != want {
			t.Errorf("%s: %d of 5 are not mended, want %d", when, n, want)
		}
	}
	old, young := record.Pos{Shard: 1, Seq: 9}, record.Pos{Shard: 1, Seq: 10}
	check("at first", 5)
	e.mend("cloud", []record.Pos{old, young, young}, record.Tally{Delivered: 3})
	check("two since the start, one of before", 3)
	e.mend("cloud", []record.Pos{young}, record.Tally{Refused: 1})
	check("refused again", 3)
	e.mend("cloud", []record.Pos{old}, record.Tally{Refused: 1})
	check("one of before is refused again", 4)
	e.mend("cloud", []record.Pos{young, young, young, young, young, young}, record.Tally{Delivered: 1})
	check("most are not kept any more", 3)
	e.mend("other", []record.Pos{young}, record.Tally{Delivered: 1})
	check("another uplink's", 3)
}
