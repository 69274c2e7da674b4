package aws

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"

	"forebay/uplink/lane"
)

// Sign signs a request that another client makes, with the service's time. For
// services that want it, "aoss" among them, the header X-Amz-Content-Sha256 is
// set and signed. refused tells that the answer said no to the credentials:
// the next request looks for them anew. The error is a *lane.Error.
func (c *Client) Sign(ctx context.Context, req *http.Request, body []byte) (refused func(), err error) {
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	keys, err := c.creds.get(ctx)
	if err != nil {
		return nil, &lane.Error{Class: lane.Auth, Text: "there are no credentials to sign with", Err: err}
	}
	req.Header.Set("X-Amz-Content-Sha256", digest)
	if err := c.signer.SignHTTP(ctx, keys, req, digest, c.service, c.region, c.clock.now()); err != nil {
		return nil, &lane.Error{Class: lane.Auth, Text: "the request cannot be signed", Err: err}
	}
	return func() { c.creds.refused(keys) }, nil
}

// LearnTime takes the time from the Date of an answer that another client got
// and that is surely the service's; secure says that it came over TLS.
func (c *Client) LearnTime(h http.Header, secure bool) {
	if t, err := http.ParseTime(h.Get("Date")); err == nil {
		c.clock.learn(t, secure)
	}
}
