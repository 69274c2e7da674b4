package broker

import (
	"fmt"
	"strconv"
	"time"
)

// Return codes of a CONNACK of MQTT 3.1.1 (table 3.1).
const (
	returnVersion     = 1
	returnIdentifier  = 2
	returnUnavailable = 3
	returnBadLogin    = 4
	returnNotAllowed  = 5
)

// hello looks at the first packet for what the server behind us answers in
// MQTT 5's words to everybody. A protocol level that we do not speak is
// answered here (3.1.1, [MQTT-3.1.2-2]): how the rest of that packet is to be
// read nobody knows. Anything else that is wrong with it is not judged here.
func (c *conn) hello(first byte, body []byte) *faultError {
	name, rest, ok := field(body)
	if first>>4 != typeConnect || !ok || len(rest) < 4 {
		return nil
	}
	level, clean := rest[0], rest[1]&2 != 0
	switch string(name) {
	case "MQTT":
		ok = level == 4 || level == 5
	case "MQIsdp": // MQTT 3.1
		ok = level == 3
	default:
		return nil
	}
	c.level = level
	if !ok {
		c.out.queue([]byte{typeConnack << 4, 2, 0, returnVersion})
		return violation(fmt.Sprintf("protocol level %d is not supported", level))
	}
	if level < 5 {
		id, _, ok := field(rest[4:])
		c.nameless = ok && len(id) == 0 && !clean
	}
	return nil
}

// returnCode is the code of a CONNACK in the client's words: MQTT 3.1.1 has
// five. False where none of them fits.
func (c *conn) returnCode(code byte) (byte, bool) {
	if c.level == 5 || code <= returnNotAllowed {
		return code, true
	}
	if c.nameless { // [MQTT-3.1.3-8]
		return returnIdentifier, true
	}
	switch code {
	case codeBadVersion:
		return returnVersion, true
	case codeBadIdentifier:
		return returnIdentifier, true
	case codeUnavailable, codeBusy:
		return returnUnavailable, true
	case codeBadLogin:
		return returnBadLogin, true
	case codeNotAuthorized, codeBanned:
		return returnNotAllowed, true
	}
	return 0, false
}

const (
	// refusedEvery is how often a connection's refused messages are logged.
	refusedEvery = 10 * time.Second
	// shownTopic is how much of a topic is logged, in bytes.
	shownTopic = 128
)

// refusedPublish counts and logs a message that can never be stored, at most
// one line every refusedEvery. Called by the goroutine that reads, by the log's,
// and by the one that tries again.
func (c *conn) refusedPublish(what, topic string, code byte) {
	c.b.refused.Add(1)
	c.b.errs.Add(1)
	c.told.Lock()
	defer c.told.Unlock()
	now := time.Now()
	if now.Before(c.tellAt) {
		c.untold++
		return
	}
	c.tellAt = now.Add(refusedEvery)
	c.b.log.Warn(what, "client", c.sess.id, "user", c.acl.user(), "topic", strconv.Quote(topic[:min(len(topic), shownTopic)]),
		"reason", fmt.Sprintf("0x%02x", code), "unlogged_before", c.untold)
	c.untold = 0
}
