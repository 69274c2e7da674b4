package broker

import (
	"strconv"
	"strings"
	"time"

	"forebay/spool/record"
)

const (
	// attrTopic holds a topic that is too long for a partition key.
	attrTopic = "topic"
	// attrDropped counts the user properties that were over the limits.
	attrDropped = "user_properties_dropped"
	// maxTopicBytes bounds the topics remembered for a connection, in bytes.
	maxTopicBytes = 256 << 10
	// maxUnreleased bounds the packet identifiers of QoS 2 between PUBLISH and
	// PUBREL, for a session.
	maxUnreleased = 8192
)

// States of a packet identifier of QoS 2.
const (
	qos2Unknown = iota
	qos2Pending // waits for its commit
	qos2Stored  // PUBREC is due
	qos2Acked   // PUBREC is queued or sent; PUBREL not received
)

// A session outlives a connection where the client wants it to (3.1.2.4). It
// lives in memory: after a restart of the gateway, CONNACK says that no
// session is there, and what the client sends again is stored again.
type session struct {
	id string
	// conn is the connection at hand, or the last one. Guarded by Broker.mu.
	conn *conn
	// busy are connections that may have something on its way to the log, in
	// their order. Guarded by Broker.mu.
	busy []*conn
	// late is the will that waits for its delay. Guarded by Broker.mu.
	late *lateWill
	// qos2 holds what of QoS 2 is on its way ([MQTT-4.3.3-2], method B).
	// Guarded by the mu of the connection whose turn it is: the next one waits
	// until the last one's commits are through.
	qos2 map[uint16]byte
}

// predecessor waits until nothing of the client's last connection is on its
// way to the log, so that order holds across a reconnect.
func (c *conn) predecessor() error {
	for len(c.before) > 0 {
		select {
		case <-c.before[0].drained:
			c.before = c.before[1:]
		case <-c.gone:
			return errClosed
		}
	}
	c.before = nil
	return nil
}

// undrained are those of conns that have something on its way to the log.
func undrained(conns []*conn) []*conn {
	var left []*conn
	for _, c := range conns {
		select {
		case <-c.drained:
		default:
			left = append(left, c)
		}
	}
	return left
}

// duplicate says whether a packet of QoS 2 is known already, and answers it
// then; else the identifier is taken.
func (c *conn) duplicate(id uint16) (bool, *faultError) {
	c.mu.Lock()
	state, n := c.sess.qos2[id], len(c.sess.qos2)
	switch {
	case state == qos2Unknown && n < maxUnreleased:
		c.sess.qos2[id] = qos2Pending
	case state == qos2Acked:
		c.sess.qos2[id] = qos2Stored
	}
	c.mu.Unlock()
	switch {
	case state == qos2Pending, state == qos2Stored: // its PUBREC will come
		return true, nil
	case state == qos2Acked:
		c.answer(entry{rec: -1, id: id, kind: typePubrec})
		return true, nil
	case n >= maxUnreleased:
		return false, &faultError{codeReceiveMaximum, "too many packets of QoS 2 without PUBREL"}
	}
	return false, nil
}

// forget frees the identifier of a packet that is refused.
func (c *conn) forget(id uint16) {
	c.mu.Lock()
	delete(c.sess.qos2, id)
	c.mu.Unlock()
}

// acked says that a PUBREC went out, in the order of answers. Locked.
func (c *conn) acked(id uint16) {
	if c.sess.qos2[id] == qos2Stored {
		c.sess.qos2[id] = qos2Acked
	}
}

// release frees an identifier, after its PUBREC, and says whether it was taken.
func (c *conn) release(id uint16) (known bool, err error) {
	due := func() bool {
		state := c.sess.qos2[id]
		return state == qos2Pending || state == qos2Stored
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if due() {
		c.mu.Unlock()
		err := c.submit() // the PUBREC may be in what was read just now
		c.mu.Lock()
		if err != nil {
			return false, err
		}
	}
	for due() && !c.closed {
		c.change.Wait()
	}
	if c.closed {
		return false, errClosed
	}
	_, known = c.sess.qos2[id]
	delete(c.sess.qos2, id)
	return known, nil
}

// A topic is what a connection remembers of a topic name.
type topic struct {
	name string
	key  string // partition key
	long string // the name, if key is its MD5
	code byte   // reason why the client may not publish to it; 0 if it may
	deep bool   // too many levels to be fanned out

	asked  uint64 // fanout.version at the last question
	wanted bool
}

// topicOf finds the topic of a PUBLISH, by name or alias.
func (c *conn) topicOf(p *publish) (*topic, *faultError) {
	var alias uint16
	if p.props != nil {
		alias = p.props.alias
	}
	if len(p.topic) == 0 {
		if t := c.aliases[alias]; t != nil {
			return t, nil
		}
		return nil, violation("unknown topic alias") // 3.3.2.3.4
	}
	t := c.topics[string(p.topic)]
	if t == nil {
		t = newTopic(string(p.topic), c.acl)
		if len(c.topics) >= maxTopics || c.topicBytes+len(t.name) > maxTopicBytes {
			clear(c.topics)
			c.topicBytes = 0
		}
		c.topics[t.name] = t
		c.topicBytes += len(t.name)
	}
	if alias > 0 {
		c.aliases[alias] = t
	}
	return t, nil
}

func newTopic(name string, acl *account) *topic {
	t := &topic{name: name, deep: levels(name) > maxLevels}
	var long bool
	if t.key, long = record.KeyOf(name); long {
		t.long = name
	}
	switch {
	case len(name) >= 4 && strings.EqualFold(name[:4], "$SYS"): // 4.7.2: the server's own
		t.code = codeTopicInvalid
	case !acl.mayPublish(name):
		t.code = codeNotAuthorized
	}
	return t
}

// attrs are user properties within the limits of a record: a name that comes
// twice keeps its last value.
func attrs(user [][2]string) map[string]string {
	if len(user) == 0 {
		return nil
	}
	m := make(map[string]string, min(len(user), record.MaxAttrs))
	size, dropped := 0, 0
	for _, u := range user {
		old, known := m[u[0]]
		grown := size + len(u[1]) - len(old)
		if !known {
			grown += len(u[0])
		}
		if grown > record.MaxAttrBytes/2 || (!known && len(m) >= record.MaxAttrs-2) {
			dropped++
			continue
		}
		m[u[0]], size = u[1], grown
	}
	if dropped > 0 {
		m[attrDropped] = strconv.Itoa(dropped)
	}
	return m
}

func withTopic(m map[string]string, name string) map[string]string {
	if m == nil || len(name) > record.MaxAttrBytes/2-64 {
		m = make(map[string]string, 1)
	}
	m[attrTopic] = name
	return m
}

// A will is what a client wants said when it is gone (3.1.2.5).
type will struct {
	topic   string
	payload []byte
	qos     byte
	retain  bool
	props   *props
	delay   time.Duration
}

// A lateWill waits for its delay; cancel ends that, sent or not.
type lateWill struct {
	cancel chan struct{}
	send   bool // set before cancel is closed: the session ended
}
