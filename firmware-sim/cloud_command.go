package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"forebay/firmware-sim/cloud"
)

type cloudCmd struct {
	Listen     string        `help:"Address of the cloud." required:"" placeholder:"ADDR"`
	To         string        `help:"The Kinesis endpoint behind it, one that asks for no keys; none takes everything and keeps nothing." required:"" placeholder:"URL"`
	Control    string        `help:"Address of the control, host:port: POST /faults (JSON), POST /reshard?stream=NAME&shards=N; GET / for the state." placeholder:"ADDR"`
	Seed       uint64        `help:"Seed of the lots." default:"1"`
	EntryFails float64       `help:"Share of the records of PutRecords that are refused." placeholder:"SHARE"`
	FailBefore float64       `help:"Share of requests answered with 500 before anything is stored." placeholder:"SHARE"`
	FailAfter  float64       `help:"Share of requests answered with 500 after all is stored." placeholder:"SHARE"`
	CutBefore  float64       `help:"Share of requests whose connection is cut before anything is stored." placeholder:"SHARE"`
	CutAfter   float64       `help:"Share of requests whose connection is cut after all is stored." placeholder:"SHARE"`
	Throttle   bool          `help:"Hold each shard to 1,000 records and 1 MB a second."`
	Clock      time.Duration `help:"How far the cloud's clock is ahead; what is signed more than 5 minutes away is refused." placeholder:"DURATION"`
	Slow       time.Duration `help:"Hold every answer back." placeholder:"DURATION"`
	Header     []string      `help:"A header of requests that is handed on to the endpoint. Can be repeated." placeholder:"NAME"`
	Mode       string        `help:"The way to the cloud: up, down, half-open, portal." enum:"up,down,half-open,portal" default:"up"`
}

func (c cloudCmd) Run(ctx context.Context, e *env) error {
	f := cloud.Faults{
		EntryFails: c.EntryFails, FailBefore: c.FailBefore, FailAfter: c.FailAfter, CutBefore: c.CutBefore, CutAfter: c.CutAfter,
		Throttle: c.Throttle, Clock: cloud.Duration(c.Clock), Slow: cloud.Duration(c.Slow),
	}
	if c.Mode != "up" {
		f.Mode = c.Mode
	}
	cl, err := cloud.New(c.To, c.Seed, f, e.log, c.Header...)
	if err != nil {
		return err
	}
	doors := map[string]http.Handler{c.Listen: cl}
	if c.Control != "" {
		doors[c.Control] = cl.Control()
	}
	served := make(chan error, len(doors))
	var servers []*http.Server
	for addr, h := range doors {
		lis, lerr := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		if lerr != nil {
			err = fmt.Errorf("cloud: %w", lerr)
			break
		}
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
		servers = append(servers, srv)
		go func() { served <- srv.Serve(lis) }()
	}
	left := len(servers)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-served:
			left--
		}
	}
	for _, srv := range servers {
		err = errors.Join(err, srv.Close())
	}
	for range left {
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
	}
	return err
}
