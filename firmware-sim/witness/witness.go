// Package witness compares a simulator's ledger with what arrived at the far
// end. It shares nothing with the gateway: it reads through the Kinesis
// protocol with Amazon's client, takes aggregates apart with its own decoder,
// and knows the envelope from its description.
package witness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
)

// Options say what is compared.
type Options struct {
	Ledger       string        // file
	Endpoint     string        // of the far end's Kinesis protocol
	Region       string        // any, where the far end is a gateway
	Streams      []string      // every stream that this ledger's records may be in
	Wait         time.Duration // poll until everything acknowledged is there, at most so long; 0 reads once
	AccessKey    string        // "" is any
	SecretKey    string
	SessionToken string
}

// ErrNothingAcknowledged is returned beside a report whose ledger holds no
// acknowledgement: such a report proves nothing.
var ErrNothingAcknowledged = errors.New("the ledger holds no acknowledged record, so nothing was verified")

// pollEvery is the pause between two looks at the far end.
const pollEvery = 250 * time.Millisecond

// Verify reads the ledger and the far end. What it cannot read at the far end
// is named in the report's Problems, and counts as not arrived.
func Verify(ctx context.Context, o Options) (Report, error) {
	f, err := os.Open(o.Ledger)
	if err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	a, err := readLedger(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return Report{}, fmt.Errorf("verify: ledger %s: %w", o.Ledger, err)
	}
	if a.finish().Acknowledged == 0 {
		return a.finish(), ErrNothingAcknowledged
	}
	far := newFarEnd(o)
	end := time.Now().Add(o.Wait)
	for {
		problems := readAll(ctx, far, o.Streams, a)
		if err := ctx.Err(); err != nil {
			return Report{}, fmt.Errorf("verify: %w", err)
		}
		if (a.missing() == 0 && len(problems) == 0) || !time.Now().Before(end) {
			a.report.Problems = problems
			return a.finish(), nil
		}
		if err := pause(ctx, pollEvery); err != nil {
			return Report{}, fmt.Errorf("verify: %w", err)
		}
	}
}

// readAll reads every stream up to its tip and says what it could not read.
func readAll(ctx context.Context, far *farEnd, streams []string, a *account) (problems []string) {
	for _, stream := range streams {
		err := far.read(ctx, stream, func(r record) {
			recs, aggregate, err := open(r.key, r.data)
			if aggregate {
				a.report.Aggregates++
			}
			if err != nil {
				a.report.Malformed++
				return
			}
			for _, rec := range recs {
				a.arrive(r.stream, rec)
			}
		})
		var gone *types.ResourceNotFoundException
		switch {
		case errors.As(err, &gone):
			problems = append(problems, fmt.Sprintf("the far end has no stream %s", stream))
		case err != nil:
			problems = append(problems, err.Error())
		}
	}
	return problems
}
