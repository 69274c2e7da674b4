package http_test

import (
	"fmt"
	"net/http"
	"testing"

	httpuplink "forebay/uplink/http"
	"forebay/uplink/lane"
)

// The sink says how much of a batch the target may have, so that it is offered
// again no shorter: a shorter one would go out under another key.
func TestTheSinkSaysWhatTheTargetMayHave(t *testing.T) {
	srv := newServer(t, nil)
	s := open(t, httpuplink.Config{URL: srv.URL, MaxRecords: 4})
	answers := func(status ...int) {
		n := 0
		srv.turn(func(w http.ResponseWriter, _ post) {
			switch n++; status[n-1] {
			case 0:
				panic(http.ErrAbortHandler)
			case 1:
				fmt.Fprint(w, "<!DOCTYPE html><title>Welcome</title>")
			default:
				w.WriteHeader(status[n-1])
			}
		})
	}
	for i, c := range []struct {
		from        int
		answers     []int
		done, again int
		class       lane.Class
	}{
		{1, []int{429}, 0, 0, lane.Throttled},
		{1, []int{200, 1}, 4, 4, lane.Offline},
		{5, []int{429}, 0, 4, lane.Transient},
		{5, []int{404}, 0, 4, lane.Misconfigured},
		{5, []int{200, 200, 0}, 8, 2, lane.Ambiguous},
		{13, []int{408}, 0, 2, lane.Transient},
		// Of what is refused it has nothing.
		{13, []int{422, 422, 503}, 0, 0, lane.Transient},
		{13, []int{422, 200}, 0, 0, lane.Poison},
		{14, []int{500}, 0, 1, lane.Ambiguous},
		{14, []int{200}, 1, 0, lane.OK},
	} {
		answers(c.answers...)
		o := send(t, s, batch(c.from, numbers(15-c.from)...))
		if o.Done != c.done || o.Again != c.again || o.Class != c.class {
			t.Errorf("step %d: %d done, %d again, %s; want %+v", i, o.Done, o.Again, o.Class, c)
		}
	}
}
