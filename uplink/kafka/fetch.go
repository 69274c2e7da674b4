package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// maxFetch bounds what one request brings of a partition, in bytes; a
	// batch that is larger comes all the same.
	maxFetch = 1 << 20
	// fetchTries is how often in a row a partition may have moved.
	fetchTries = 10
)

// A part is one partition to read.
type part struct {
	topic     string
	id        kadm.TopicID
	partition int32
}

// readPart reads the records of a partition from offset from up to, and not
// with, offset to, in order. A place where records were removed is passed.
// committed leaves out what belongs to transactions that were not committed;
// without it the control records are among the records. It gives the offset
// behind what was read.
func (s *Sink) readPart(ctx context.Context, p part, from, to int64, committed bool, each func(*kgo.Record) error) (int64, error) {
	opts := kgo.ProcessFetchPartitionOpts{
		Topic: p.topic, Partition: p.partition, Offset: from,
		KeepControlRecords: !committed, IsolationLevel: kgo.ReadUncommitted(),
	}
	if committed {
		opts.IsolationLevel = kgo.ReadCommitted()
	}
	for tries, idle := 0, 0; opts.Offset < to; {
		rp, err := s.fetch(ctx, p, opts.Offset, committed)
		if err == nil {
			err = kerr.ErrorForCode(rp.ErrorCode)
		}
		if errors.Is(err, kerr.OffsetOutOfRange) && rp.LogStartOffset > opts.Offset {
			opts.Offset = rp.LogStartOffset // retention was faster
			continue
		}
		if err != nil {
			if tries++; tries > fetchTries || !kerr.IsRetriable(err) {
				return opts.Offset, fmt.Errorf("read partition %d of topic %s: %w", p.partition, p.topic, err)
			}
			if err := pause(ctx, 50*time.Millisecond<<min(tries, 4)); err != nil {
				return opts.Offset, err
			}
			continue
		}
		tries = 0
		// The position goes on behind what was delivered; batches without a
		// record that is kept move it as well.
		fp, next := kgo.ProcessFetchPartition(opts, rp, kgo.DefaultDecompressor(), nil)
		if fp.Err != nil {
			return opts.Offset, fmt.Errorf("read partition %d of topic %s: %w", p.partition, p.topic, fp.Err)
		}
		for _, r := range fp.Records {
			if r.Offset >= to {
				return to, nil
			}
			if err := each(r); err != nil {
				return r.Offset, err
			}
		}
		if next > opts.Offset {
			opts.Offset = next
			continue
		}
		// Either nothing is left between here and the end, or a leader that is
		// new in office does not know yet that it may show it.
		if end := reach(rp, committed); end >= to {
			return opts.Offset, nil
		}
		if idle++; idle > fetchTries {
			return opts.Offset, fmt.Errorf("read partition %d of topic %s: it ends before offset %d: %w", p.partition, p.topic, to, kerr.OffsetNotAvailable)
		}
	}
	return opts.Offset, nil
}

// reach is up to where a leader lets us read.
func reach(rp *kmsg.FetchResponseTopicPartition, committed bool) int64 {
	if committed {
		return rp.LastStableOffset
	}
	return rp.HighWatermark
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// fetch asks the partition's leader once.
func (s *Sink) fetch(ctx context.Context, p part, offset int64, committed bool) (*kmsg.FetchResponseTopicPartition, error) {
	leader, err := s.leader(ctx, p)
	if err != nil {
		return nil, err
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = 500
	req.MinBytes = 1
	req.MaxBytes = maxFetch
	if committed {
		req.IsolationLevel = 1
	}
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = p.topic, p.id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = p.partition, offset, maxFetch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	kresp, err := s.admin.Broker(int(leader)).RetriableRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, ok := kresp.(*kmsg.FetchResponse)
	if !ok {
		return nil, errors.New("the answer is not one to a fetch")
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	if resp.ThrottleMillis > 0 && empty(resp) {
		return nil, kerr.ThrottlingQuotaExceeded // over its quota, a reader is given nothing
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, kerr.UnknownTopicOrPartition
	}
	return &resp.Topics[0].Partitions[0], nil
}

func empty(resp *kmsg.FetchResponse) bool {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if len(p.RecordBatches) > 0 || p.ErrorCode != 0 {
				return false
			}
		}
	}
	return true
}

// leader is the broker that has a partition.
func (s *Sink) leader(ctx context.Context, p part) (int32, error) {
	found, err := s.describe(ctx, p.topic)
	if err != nil {
		return 0, err
	}
	d, ok := found.Partitions[p.partition]
	if !ok {
		return 0, kerr.UnknownTopicOrPartition
	}
	if d.Err != nil {
		return 0, d.Err
	}
	if d.Leader < 0 {
		return 0, kerr.LeaderNotAvailable
	}
	return d.Leader, nil
}
