package kafka

import (
	"context"
	"sync"

	"forebay/uplink/lane"

	"github.com/twmb/franz-go/pkg/kgo"
)

// takeOver takes over the transactional ids of all producers, once in a sink's
// life and before the first of them begins: an earlier sink may have had a lane
// with another producer, and what it left pending must have ended before the
// places are read.
func (s *Sink) takeOver(ctx context.Context) error {
	if !s.cfg.transactional() {
		return nil
	}
	s.over.Lock()
	defer s.over.Unlock()
	if s.over.done {
		return nil
	}
	var wg sync.WaitGroup
	errs := make([]error, len(s.producers))
	for n := range s.producers {
		wg.Go(func() { errs[n] = s.takeOverOne(ctx, n) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	s.over.done = true
	return nil
}

func (s *Sink) takeOverOne(ctx context.Context, n int) error {
	p := newProducer(s, n)
	p.wire = new(wire)
	cl, err := kgo.NewClient(p.options()...)
	if err != nil {
		return &lane.Error{Class: lane.Misconfigured, Text: "the client cannot be made", Err: err}
	}
	defer cl.Close()
	id, _, err := cl.ProducerID(ctx)
	if err == nil && id < 0 {
		err = errNoTransactions()
	}
	if err != nil {
		return classify(err, p.wire, lane.Offline)
	}
	return nil
}

func errNoTransactions() error {
	return &lane.Error{Class: lane.Misconfigured, Text: "the brokers do not know transactions; set transactions = \"off\""}
}
