package kinesisapi

import (
	"context"
	"fmt"
	"math"
	"time"

	"forebay/gateway/conf"
	"forebay/spool"
)

// A stream's retention, in the API's hours. AWS begins at 24.
const (
	shortestRetention = 1
	longestRetention  = 8760
	// untilQuota is the number for a stream without an age limit: its records
	// stay until the spool's quota asks for their room. It is set like any
	// other retention and shown as it was set.
	untilQuota = longestRetention + 1
)

func (s *Server) retentionOperations() map[string]operation {
	return map[string]operation{
		"Kinesis_20131202.IncreaseStreamRetentionPeriod": {toAdminister, decoded(s.increaseRetention)},
		"Kinesis_20131202.DecreaseStreamRetentionPeriod": {toAdminister, decoded(s.decreaseRetention)},
	}
}

// retentionHours is a stream's retention as the API can say it.
func retentionHours(st *spool.Stream) int {
	age := st.Config().MaxAge.D()
	if age <= 0 {
		return untilQuota
	}
	return min(max(int(math.Ceil(age.Hours())), shortestRetention), longestRetention)
}

type retentionInput struct {
	streamRef
	RetentionPeriodHours *int
}

func (s *Server) increaseRetention(ctx context.Context, c *call, in *retentionInput) (any, error) {
	return s.changeRetention(ctx, c, in, func(have, want int, stream string) error {
		if want < have {
			return invalidArgument("Requested retention period (%d hours) for stream %s can not be shorter than existing retention period (%d hours). Use DecreaseRetentionPeriod API.", want, stream, have)
		}
		return nil
	})
}

func (s *Server) decreaseRetention(ctx context.Context, c *call, in *retentionInput) (any, error) {
	return s.changeRetention(ctx, c, in, func(have, want int, stream string) error {
		if want > have {
			return invalidArgument("Requested retention period (%d hours) for stream %s can not be longer than existing retention period (%d hours). Use IncreaseRetentionPeriod API.", want, stream, have)
		}
		return nil
	})
}

func (s *Server) changeRetention(ctx context.Context, c *call, in *retentionInput, allowed func(have, want int, stream string) error) (any, error) {
	var f faults
	f.stream(in.streamRef)
	if in.RetentionPeriodHours == nil {
		f.null("retentionPeriodHours")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	want := *in.RetentionPeriodHours
	switch {
	case want < shortestRetention:
		return nil, invalidArgument("Minimum allowed retention period is %d hours. Requested retention period (%d hours) is too short.", shortestRetention, want)
	case want > untilQuota:
		return nil, invalidArgument("Maximum allowed retention period is %d hours, and %d stands for as long as the gateway's quota allows. Requested retention period (%d hours) is too long.", longestRetention, untilQuota, want)
	}
	s.changes.Lock()
	defer s.changes.Unlock()
	st, err := c.find(in.streamRef)
	if err != nil {
		return nil, err
	}
	if err := s.setByConfig(st, "given another retention", "set retention in its [[stream]] in the config file"); err != nil {
		return nil, err
	}
	have := retentionHours(st)
	if err := allowed(have, want, st.Name()); err != nil {
		return nil, err
	}
	if want == have {
		return nil, nil
	}
	sc := st.Config()
	sc.MaxAge = conf.Duration(time.Duration(want) * time.Hour)
	if want == untilQuota {
		sc.MaxAge = 0
	}
	sc.Shards = 0 // as they are
	if err := sc.Check(); err != nil {
		return nil, invalidArgument("Stream %s cannot have a retention period of %d hours: %s.", st.Name(), want, err)
	}
	if _, err := s.spool.Ensure(ctx, sc); err != nil {
		return nil, s.storeError(fmt.Errorf("change the retention of stream %s: %w", st.Name(), err), st.Name())
	}
	s.log.Info("retention changed", "stream", st.Name(), "hours", want, "by", c.by())
	return nil, nil
}
