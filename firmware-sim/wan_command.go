package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"forebay/firmware-sim/wan"
)

type wanCmd struct {
	Listen  string        `help:"Address of the far end, the second host of a network of four that is free here." default:"198.18.0.2:9000" placeholder:"ADDR"`
	To      string        `help:"Address that what connects there is handed on to." required:"" placeholder:"ADDR"`
	Control string        `help:"Address of the control, host:port: GET / for the counts of packets." placeholder:"ADDR"`
	Rate    int           `help:"Kilobits a second, each way; 0 is no limit." default:"2000" placeholder:"KBIT"`
	Delay   time.Duration `help:"How long a packet is under way, each way." default:"100ms"`
	Loss    float64       `help:"Share of the packets that is lost, each way." default:"0.01" placeholder:"SHARE"`
	Queue   int           `help:"Bytes that may wait before the link; more are dropped. 0 is no limit." default:"65536" placeholder:"BYTES"`
	Seed    uint64        `help:"Seed of the lots." default:"1"`
}

// wanCounts is what the control answers.
type wanCounts struct {
	Device string     `json:"device"` // of the near end
	There  wan.Counts `json:"there"`  // towards the far end
	Back   wan.Counts `json:"back"`
}

func (c wanCmd) Run(ctx context.Context, e *env) error {
	at, err := netip.ParseAddrPort(c.Listen)
	if err != nil {
		return fmt.Errorf("wan: listen: %w", err)
	}
	w, err := wan.Open(wan.Path{Rate: c.Rate * 125, Delay: c.Delay, Loss: c.Loss, Queue: c.Queue, Seed: c.Seed}, at, c.To, e.log)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	if c.Control == "" {
		return <-ran
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Control)
	if err != nil {
		stop()
		return errors.Join(fmt.Errorf("wan control: %w", err), <-ran)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
		s := wanCounts{Device: w.Device()}
		s.There, s.Back = w.Counts()
		rw.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(rw).Encode(s); err != nil {
			e.log.Debug("control answer not sent", "error", err)
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	select {
	case err = <-ran:
	case err = <-served:
		stop()
		return errors.Join(err, <-ran)
	}
	err = errors.Join(err, srv.Close())
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}
