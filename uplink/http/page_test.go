package http_test

import (
	"fmt"
	"net/http"
	"testing"

	httpuplink "forebay/uplink/http"
	"forebay/uplink/lane"
)

// A login page is no acknowledgement, however its maker wrote its header.
func TestAPageWithACarelessHeaderIsNoAcknowledgement(t *testing.T) {
	for kind, body := range map[string]string{
		"text/html; charset":                       "Please log in",
		"text/html; charset=utf-8; charset=latin1": "Please log in",
		"Text/HTML;":                               "Please log in",
		"text/html, text/plain":                    "Please log in",
		"":                                         "<!-- portal --><html>Please log in</html>",
		"text/plain":                               `<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0"><html/>`,
	} {
		srv := newServer(t, func(w http.ResponseWriter, _ post) {
			w.Header()["Content-Type"] = []string{kind}
			fmt.Fprint(w, body)
		})
		o := send(t, open(t, httpuplink.Config{URL: srv.URL}), batch(1, "1"))
		if o.Done != 0 || o.Class != lane.Offline {
			t.Errorf("%q, %q: %+v", kind, body, o)
		}
	}
}

// A stream may have a name that means another folder to a server.
func TestAStreamsNameLeadsToNoOtherPath(t *testing.T) {
	srv := newServer(t, nil)
	s := open(t, httpuplink.Config{URL: srv.URL + "/in/{stream}/x"})
	b := batch(1, "1")
	b.Lane.Stream = ".."
	o := s.Send(t.Context(), []lane.Batch{b})[0]
	if o.Done != 0 || o.Class != lane.Misconfigured {
		t.Errorf("%+v; came: %q", o, srv.came())
	}
}
