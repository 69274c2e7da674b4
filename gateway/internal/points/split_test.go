package points_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"forebay/gateway/internal/points"
	"forebay/spool/record"
)

// splitLog is a stream with a shard that was split: shard 1 ends when the test
// says so, shard 2 came of it.
type splitLog struct {
	end      chan struct{}
	followed map[record.ShardID]int
}

func (l *splitLog) Shards(context.Context, string) ([]points.Shard, error) {
	return []points.Shard{{ID: 1}, {ID: 2, Parents: []record.ShardID{1}}}, nil
}

func (l *splitLog) Follow(_ context.Context, _ string, shard record.ShardID, _ time.Time) (points.Reader, error) {
	l.followed[shard]++
	return &splitReader{log: l, shard: shard}, nil
}

type splitReader struct {
	log   *splitLog
	shard record.ShardID
	read  bool
}

func (r *splitReader) Next(ctx context.Context, _ int) (record.Batch, error) {
	if !r.read {
		r.read = true
		return record.Batch{Recs: []record.Record{{Key: "k", Arrived: time.Now(), Data: []byte{'0' + byte(r.shard)}}}}, nil
	}
	end := r.log.end
	if r.shard == 2 {
		end = nil
	}
	select {
	case <-ctx.Done():
		return record.Batch{}, ctx.Err()
	case <-end:
		return record.Batch{}, &record.ShardEndError{Shard: 1, Children: []record.ShardID{2}}
	}
}

func (*splitReader) Close() error { return nil }

func TestAChildIsReadBehindItsParent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &splitLog{end: make(chan struct{}), followed: map[record.ShardID]int{}}
		k, err := points.NewKeeper([]points.Config{{ID: "p", Key: "k"}}, log, points.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if v := k.Snapshot(false)[0].Value; *v != 1 || log.followed[2] != 0 {
			t.Errorf("before the parent's end the value is %v and the child is followed %d times", *v, log.followed[2])
		}
		close(log.end)
		synctest.Wait()
		if v := k.Snapshot(false)[0].Value; *v != 2 || log.followed[1] != 1 || log.followed[2] != 1 {
			t.Errorf("after it the value is %v; followed were %v", *v, log.followed)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
