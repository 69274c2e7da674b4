package witness

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

// farEnd reads streams through the Kinesis protocol, from their oldest record
// on, every shard in order and parents before their children.
type farEnd struct {
	client *kinesis.Client
	shards map[[2]string]*shard // by stream and id
}

type shard struct {
	stream, id string
	parents    []string
	iterator   *string
	last       string // sequence number of the newest record read
	ended      bool
}

// record is a Kinesis record.
type record struct {
	stream, key string
	data        []byte
}

func newFarEnd(o Options) *farEnd {
	key, secret := o.AccessKey, o.SecretKey
	if key == "" {
		key, secret = "forebay-sim", "forebay-sim" // a gateway without keys takes any well-formed signature
	}
	client := kinesis.New(kinesis.Options{
		BaseEndpoint: aws.String(o.Endpoint), Region: o.Region,
		Credentials: credentials.NewStaticCredentialsProvider(key, secret, o.SessionToken),
	})
	return &farEnd{client: client, shards: map[[2]string]*shard{}}
}

// read hands every record from the last place on to each, up to the tip.
func (f *farEnd) read(ctx context.Context, stream string, each func(record)) error {
	order, err := f.list(ctx, stream)
	if err != nil {
		return err
	}
	for {
		waiting, progressed := 0, false
		for _, s := range order {
			if s.ended {
				continue
			}
			if f.blocked(s) {
				waiting++
				continue
			}
			if err := f.drain(ctx, s, each); err != nil {
				return fmt.Errorf("%s %s: %w", stream, s.id, err)
			}
			progressed = progressed || s.ended
		}
		if waiting == 0 || !progressed {
			return nil
		}
	}
}

// list finds the stream's shards, known ones included.
func (f *farEnd) list(ctx context.Context, stream string) ([]*shard, error) {
	var order []*shard
	in := &kinesis.ListShardsInput{StreamName: &stream}
	for {
		out, err := f.client.ListShards(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("list shards of %s: %w", stream, err)
		}
		for _, s := range out.Shards {
			k := [2]string{stream, aws.ToString(s.ShardId)}
			if f.shards[k] == nil {
				n := &shard{stream: stream, id: k[1]}
				for _, p := range []*string{s.ParentShardId, s.AdjacentParentShardId} {
					if p != nil {
						n.parents = append(n.parents, *p)
					}
				}
				f.shards[k] = n
			}
			order = append(order, f.shards[k])
		}
		if out.NextToken == nil {
			return order, nil
		}
		in = &kinesis.ListShardsInput{NextToken: out.NextToken}
	}
}

// blocked says that a parent that still exists was not read to its end.
func (f *farEnd) blocked(s *shard) bool {
	for _, p := range s.parents {
		if parent := f.shards[[2]string{s.stream, p}]; parent != nil && !parent.ended {
			return true
		}
	}
	return false
}

// drain reads a shard up to its tip or its end.
func (f *farEnd) drain(ctx context.Context, s *shard, each func(record)) error {
	for {
		if s.iterator == nil {
			if err := f.place(ctx, s); err != nil {
				return err
			}
		}
		out, err := f.client.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: s.iterator, Limit: aws.Int32(10_000)})
		if _, expired := errors.AsType[*types.ExpiredIteratorException](err); expired {
			s.iterator = nil
			continue
		}
		if err != nil {
			return fmt.Errorf("get records: %w", err)
		}
		for _, r := range out.Records {
			each(record{stream: s.stream, key: aws.ToString(r.PartitionKey), data: r.Data})
			s.last = aws.ToString(r.SequenceNumber)
		}
		s.iterator = out.NextShardIterator
		if s.iterator == nil {
			s.ended = true
			return nil
		}
		if len(out.Records) == 0 && aws.ToInt64(out.MillisBehindLatest) == 0 {
			return nil
		}
		if len(out.Records) == 0 { // behind, and nothing yet: the service's own pace
			if err := pause(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
	}
}

// place gets an iterator behind what was read.
func (f *farEnd) place(ctx context.Context, s *shard) error {
	in := &kinesis.GetShardIteratorInput{StreamName: &s.stream, ShardId: &s.id, ShardIteratorType: types.ShardIteratorTypeTrimHorizon}
	if s.last != "" {
		in.ShardIteratorType, in.StartingSequenceNumber = types.ShardIteratorTypeAfterSequenceNumber, &s.last
	}
	out, err := f.client.GetShardIterator(ctx, in)
	if err != nil {
		return fmt.Errorf("get shard iterator: %w", err)
	}
	s.iterator = out.ShardIterator
	return nil
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
