package sparkplug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"forebay/uplink/lane"
	"forebay/uplink/mqtt"
)

const (
	// stateWait is how long a new session waits for the primary host's STATE,
	// which the broker keeps and sends at once.
	stateWait = 2 * time.Second
	deathWait = 2 * time.Second
)

// A session is one MQTT connection as the edge node.
type session struct {
	s     *Sink
	c     *mqtt.Conn
	bdSeq uint8
	woken chan struct{} // the host or a command needs a look; room for one

	// Under the sink's lock.
	seq    uint8 // of the next message
	born   bool
	bornAt time.Time
	dead   bool // its death is published, or about to be: nothing may follow

	mu      sync.Mutex
	host    hostState
	rebirth bool
}

// hostState is what the primary host's STATE last said (6.4.28).
type hostState struct {
	seen   bool
	online bool
	at     int64
}

// newSession makes a session: the death as the will, then the subscriptions,
// without which a node must not be born (5.4).
func (s *Sink) newSession(ctx context.Context) (*session, error) {
	s.mu.Lock()
	x := &session{s: s, bdSeq: s.bdSeq, woken: make(chan struct{}, 1)}
	s.bdSeq++ // with every CONNECT; 255 is followed by 0
	s.mu.Unlock()
	c, err := s.cfg.Dial(ctx, mqtt.Session{
		ClientID:  s.cfg.ClientID,
		Will:      &mqtt.Will{Topic: s.cfg.topic("NDEATH", ""), Payload: death(x.bdSeq, time.Now()), QoS: 1},
		OnMessage: x.message,
		Log:       s.log,
	})
	if err != nil {
		return nil, err
	}
	x.c = c
	topics := map[string]byte{s.cfg.topic("NCMD", ""): 1}
	if s.cfg.PrimaryHost != "" {
		topics[s.stateTopic()] = 1
	}
	if err := c.Subscribe(ctx, topics); err != nil {
		c.Close()
		return nil, err
	}
	// Commands to devices are listened to so that a refused one is told of.
	if err := c.Subscribe(ctx, map[string]byte{s.cfg.topic("DCMD", "+"): 1}); err != nil {
		if !c.Alive() || ctx.Err() != nil {
			c.Close()
			return nil, err
		}
		s.log.Info("commands to devices are not listened to", "error", err)
	}
	return x, nil
}

func (s *Sink) stateTopic() string { return namespace + "/STATE/" + s.cfg.PrimaryHost }

// message takes what the broker sends. It must not block.
func (x *session) message(topic string, payload []byte) {
	s := x.s
	switch {
	case s.cfg.PrimaryHost != "" && topic == s.stateTopic():
		x.state(payload)
	case topic == s.cfg.topic("NCMD", ""):
		x.command(payload)
	default:
		s.refuse("command to a device", topic, "")
	}
}

// state takes the host's STATE; one that is older than the last counts for
// nothing.
func (x *session) state(payload []byte) {
	var in struct {
		Online    *bool  `json:"online"`
		Timestamp *int64 `json:"timestamp"`
	}
	if err := json.Unmarshal(payload, &in); err != nil || in.Online == nil || in.Timestamp == nil {
		x.s.log.Warn("the primary host's STATE is not understood", "host", x.s.cfg.PrimaryHost, "bytes", len(payload))
		return
	}
	x.mu.Lock()
	was := x.host
	if !was.seen || *in.Timestamp >= was.at {
		x.host = hostState{seen: true, online: *in.Online, at: *in.Timestamp}
	}
	changed := x.host != was
	x.mu.Unlock()
	if changed {
		x.s.log.Info("primary host", "host", x.s.cfg.PrimaryHost, "online", *in.Online)
		x.wake()
	}
}

// command takes an NCMD. The one that is obeyed is the wish for a rebirth.
func (x *session) command(payload []byte) {
	p, err := Decode(payload)
	if err != nil {
		x.s.refuse("command that is no payload", x.s.cfg.topic("NCMD", ""), "")
		return
	}
	for i := range p.Metrics {
		m := &p.Metrics[i]
		if m.Name == rebirthName && !m.Null && (m.Value.Bool || m.Value.Int == 1) {
			x.mu.Lock()
			x.rebirth = true
			x.mu.Unlock()
			x.wake()
			continue
		}
		x.s.refuse("command", x.s.cfg.topic("NCMD", ""), m.Name)
	}
}

func (x *session) wake() {
	select {
	case x.woken <- struct{}{}:
	default:
	}
}

// online reports whether the primary host is, where there is one.
func (x *session) online() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.s.cfg.PrimaryHost == "" || x.host.online
}

// serve answers the host until the session ends.
func (x *session) serve() {
	for {
		select {
		case <-x.c.Lost():
			return
		case <-x.woken:
		}
		x.mu.Lock()
		again := x.rebirth
		x.rebirth = false
		x.mu.Unlock()
		x.s.mu.Lock()
		born := x.born
		x.s.mu.Unlock()
		switch {
		case born && !x.online():
			// 5.4: publish the death, disconnect, begin anew.
			x.die()
			return
		case born && again:
			ctx, cancel := context.WithTimeout(context.Background(), x.s.timeout)
			x.s.mu.Lock()
			err := x.births(ctx)
			x.s.mu.Unlock()
			cancel()
			x.s.log.Info("reborn, as a host asked for it", "error", err)
		}
		x.s.poke()
	}
}

// die publishes the death, which a DISCONNECT keeps the broker from doing, and
// ends the session.
func (x *session) die() {
	if x.c.Alive() {
		ctx, cancel := context.WithTimeout(context.Background(), deathWait)
		x.s.mu.Lock()
		x.born, x.dead = false, true
		p, err := x.c.Publish(ctx, x.s.cfg.topic("NDEATH", ""), 1, false, death(x.bdSeq, time.Now()))
		x.s.mu.Unlock()
		if err == nil {
			err = p.Wait(ctx, 0)
		}
		if err != nil {
			// The will says it.
			x.c.HangUp()
		}
		cancel()
	}
	x.c.Close()
}

// births publishes those of the node and of its devices. The sink's lock is
// held.
func (x *session) births(ctx context.Context) error {
	now := time.Now()
	x.seq = 0
	if !x.born {
		x.bornAt = now
	}
	x.born = true
	if _, err := x.publish(ctx, "NBIRTH", "", nodeBirth(x.bdSeq, now)); err != nil {
		return err
	}
	for _, d := range x.s.known.list {
		if err := x.birth(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// birth publishes a device's. The sink's lock is held.
func (x *session) birth(ctx context.Context, d *device) error {
	d.unborn = false
	_, err := x.publish(ctx, "DBIRTH", d.name, d.birth(x.s.cfg.Aliases, int(x.s.cfg.MaxPayload), time.Now()))
	return err
}

var errDead = errors.New("the node has said its death")

// publish sends a message with the next seq, and gives its size. The sink's
// lock is held, so that messages go out in the order of their numbers.
func (x *session) publish(ctx context.Context, verb, device string, p *Payload) (int, error) {
	if x.dead {
		return 0, errDead
	}
	p.Seq, p.HasSeq = x.seq, true
	x.seq++
	topic := x.s.cfg.topic(verb, device)
	b := p.Append(nil)
	if _, err := x.c.Publish(ctx, topic, 0, false, b); err != nil {
		return 0, fmt.Errorf("%s: %w", verb, err)
	}
	return len(topic) + len(b), nil
}

// barrier waits until the broker has read all that was sent before.
func (x *session) barrier(ctx context.Context, bytes int) error {
	x.s.mu.Lock()
	p, err := x.c.Publish(ctx, x.s.cfg.BarrierTopic, 1, false, []byte("1"))
	x.s.mu.Unlock()
	if err != nil {
		return err
	}
	return p.Wait(ctx, bytes)
}

// ready gives a session in which the node is born, and makes what of it there
// is not. The error is a *lane.Error or ctx's.
func (s *Sink) ready(ctx context.Context) (*session, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	x := s.now
	gone := x == nil || x.dead
	s.mu.Unlock()
	if gone || !x.c.Alive() {
		s.leave(x)
		var err error
		if x, err = s.newSession(ctx); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.now = x
		s.mu.Unlock()
		s.running.Go(x.serve)
		if err := s.awaitState(ctx, x); err != nil {
			return nil, err
		}
	}
	if !x.online() {
		return nil, &lane.Error{Class: lane.Offline, Text: fmt.Sprintf("the primary host %s is not online; records are kept until it is", s.cfg.PrimaryHost)}
	}
	s.mu.Lock()
	if x.born {
		s.mu.Unlock()
		return x, nil
	}
	err := x.births(ctx)
	s.mu.Unlock()
	if err == nil {
		err = x.barrier(ctx, 0)
	}
	if err != nil {
		return nil, s.stillborn(x, err)
	}
	s.mu.Lock()
	s.stillbirths = 0
	s.mu.Unlock()
	// A host that went offline meanwhile was not looked at.
	x.wake()
	return x, nil
}

// stillborn ends a session whose births the broker did not take.
func (s *Sink) stillborn(x *session, err error) *lane.Error {
	why, far := x.c.Why()
	s.leave(x)
	if why != nil {
		err = why
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if far {
		s.stillbirths++
	}
	if s.stillbirths >= 3 {
		return &lane.Error{Class: lane.Misconfigured, Err: err, Text: fmt.Sprintf(
			"the broker has ended the connection %d times in a row when the node was born; does it allow %s/%s/# and %s, and births of that size?", s.stillbirths, namespace, s.cfg.Group, s.cfg.BarrierTopic)}
	}
	return &lane.Error{Class: lane.Transient, Text: "the node could not be born", Err: err}
}

// awaitState waits for the first STATE of the primary host.
func (s *Sink) awaitState(ctx context.Context, x *session) error {
	if s.cfg.PrimaryHost == "" {
		return nil
	}
	limit := time.NewTimer(stateWait)
	defer limit.Stop()
	for {
		x.mu.Lock()
		seen := x.host.seen
		x.mu.Unlock()
		if seen {
			return nil
		}
		select {
		case <-s.poked:
		case <-limit.C:
			return nil // it is not online then
		case <-x.c.Lost():
			err, _ := x.c.Why()
			return &lane.Error{Class: lane.Offline, Text: "the connection to the broker has ended", Err: err}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leave ends a session without a word; others may be using it.
func (s *Sink) leave(x *session) {
	if x == nil {
		return
	}
	s.mu.Lock()
	if s.now != x {
		s.mu.Unlock()
		return
	}
	s.now = nil
	s.mu.Unlock()
	x.c.HangUp()
	s.running.Go(x.c.Close)
}

// refuse counts a command that is not obeyed, and tells of it.
func (s *Sink) refuse(what, topic, name string) {
	s.refused.Add(1)
	s.log.Warn("a command was refused: this gateway does not write to the plant", "what", what, "topic", strings.ToValidUTF8(topic, ""), "metric", name)
}
