package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"forebay/gateway/api"
	"forebay/gateway/internal/localapi"
	"forebay/spool/record"
	"forebay/uplink"
	"forebay/uplink/lane"
)

// errandsFile, in the data directory, keeps what is to be sent again beside the
// uplinks, how far that is, and which refused records were sent again. It is no
// part of the spool: an errand is no cursor, so it holds nothing back from
// retention and stands in no ledger, and a restored box does not inherit it.
const errandsFile = "errands.json"

// auditAgain is the pause before what could not be audited is tried again.
const auditAgain = 5 * time.Second

const (
	kindReplay  = "replay"
	kindRedrive = "redrive"
)

// A task is an errand as the file keeps it.
type task struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"`
	Uplink  string    `json:"uplink"`
	Stream  string    `json:"stream,omitempty"`
	As      string    `json:"as,omitempty"`
	From    time.Time `json:"from,omitzero"`
	To      time.Time `json:"to,omitzero"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Parts   []*part   `json:"parts"`
	Refused uint64    `json:"refused,omitempty"`
	Missed  uint64    `json:"missed,omitempty"`
	Left    uint64    `json:"left,omitempty"` // letters beyond what one redrive takes
	// Over is why it has ended, and OverBy by whom; of one that is in the file
	// yet no trace is kept yet.
	Over   string `json:"over,omitempty"`
	OverBy string `json:"over_by,omitempty"`
}

// A part is a lane of an errand: of a replay the records [First, End) of a
// shard, of a redrive its letters, which get the numbers from 1 on in a lane
// that nothing else ever has. What lies before Next is done.
type part struct {
	Stream  string         `json:"stream"`
	Shard   record.ShardID `json:"shard"`
	First   uint64         `json:"first"`
	Next    uint64         `json:"next"`
	End     uint64         `json:"end"`
	Letters []record.Pos   `json:"letters,omitempty"`
}

// An errandBook is the file.
type errandBook struct {
	Epoch  string         `json:"epoch"` // numbers of records count in it alone
	Count  map[string]int `json:"count"` // errands there were, by uplink
	Orders []*task        `json:"orders"`
	// Names are those that replays have used, by uplink: a far side may take
	// what comes under a name a second time for a repetition.
	Names map[string][]string `json:"names"`
	Lanes record.ShardID      `json:"lanes"` // that redrives have used
	// Redriven are the letters that were sent again, by uplink and shard of the
	// stream refused.
	Redriven map[string]map[record.ShardID][]uplink.Span `json:"redriven"`
}

// errands does what is sent again beside the uplinks.
type errands struct {
	g    *gateway
	path string
	log  *slog.Logger
	kick chan struct{}

	mu    sync.Mutex
	book  errandBook
	moved bool
	runs  map[string]*errandRun
	// begun is where the shards of the stream refused stood at the start, and
	// mended how many of the letters since then were sent again and taken, by
	// uplink, less those of before that were refused anew.
	begun  map[record.ShardID]uint64
	mended map[string]int64
}

// An errandRun is an errand under way.
type errandRun struct {
	o    *task
	pump *uplink.Pump
	sink uplink.Sink
	stop context.CancelFunc // under errands.mu; nil before it runs
}

func openErrands(g *gateway, path string) (*errands, error) {
	e := &errands{g: g, path: path, log: g.log.With("part", "errands"), kick: make(chan struct{}, 1), runs: map[string]*errandRun{}, begun: refusedEnds(g.sp), mended: map[string]int64{}}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err == nil:
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		err = dec.Decode(&e.book)
		fallthrough
	default:
		if err != nil {
			return nil, fmt.Errorf("read what is sent again: %s: %w (where it cannot be mended, remove it: replays and redrives end then)", path, err)
		}
	}
	b := &e.book
	if epoch := g.sp.Identity().Epoch.String(); b.Epoch != epoch {
		if len(b.Orders) > 0 {
			e.log.Warn("replays and redrives of another epoch of the spool are given up", "errands", len(b.Orders))
		}
		b.Epoch, b.Orders, b.Redriven, b.Lanes = epoch, nil, nil, 0
	}
	if b.Count == nil {
		b.Count = map[string]int{}
	}
	if b.Names == nil {
		b.Names = map[string][]string{}
	}
	if b.Redriven == nil {
		b.Redriven = map[string]map[record.ShardID][]uplink.Span{}
	}
	b.Orders = slices.DeleteFunc(b.Orders, func(o *task) bool {
		_, err := e.config(o.Uplink)
		if err != nil {
			e.log.Warn("errand is given up: its uplink is in the config no more", "errand", o.ID)
		}
		return err != nil
	})
	return e, nil
}

func (e *errands) config(id string) (uplink.Config, error) {
	for _, c := range e.g.cfg.Uplinks {
		if string(c.ID) == id {
			return c, nil
		}
	}
	return uplink.Config{}, fmt.Errorf("uplink %q: %w", id, localapi.ErrNoUplink)
}

// add puts an order into the file, and it on its way. e.mu is held.
func (e *errands) add(o *task) error {
	b := &e.book
	b.Count[o.Uplink]++
	if o.As != "" {
		b.Names[o.Uplink] = append(b.Names[o.Uplink], o.As)
	}
	b.Orders = append(b.Orders, o)
	if err := e.write(); err != nil {
		b.Orders = b.Orders[:len(b.Orders)-1]
		return err
	}
	select {
	case e.kick <- struct{}{}:
	default:
	}
	return nil
}

// next is the number of an uplink's next errand. e.mu is held.
func (e *errands) next(uplink, kind string) (n int, id string) {
	n = e.book.Count[uplink] + 1
	return n, fmt.Sprintf("%s~%s-%d", uplink, kind, n)
}

// write replaces the file; e.mu is held.
func (e *errands) write() error {
	text, err := json.Marshal(&e.book)
	if err == nil {
		err = replaceFile(e.path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("note what is sent again: %w", err)
	}
	e.moved = false
	return nil
}

// save writes how far the errands are. Lost, it goes out again since then.
func (e *errands) save() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.moved {
		return
	}
	if err := e.write(); err != nil {
		e.log.Error("cannot keep how far replays and redrives are", "error", err)
	}
}

// run does the errands until ctx ends.
func (e *errands) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer e.save()
	defer wg.Wait()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for _, r := range e.waiting() {
			wg.Go(func() { e.do(ctx, r) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.kick:
		case <-tick.C:
			e.save()
		}
	}
}

// waiting opens what is not under way yet.
func (e *errands) waiting() (out []*errandRun) {
	e.g.pauses.hold(func(paused map[string]pause) { out = e.openAll(paused) })
	return out
}

func (e *errands) openAll(paused map[string]pause) []*errandRun {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*errandRun
	for _, o := range e.book.Orders {
		if e.runs[o.ID] != nil {
			continue
		}
		if o.Over != "" {
			e.runs[o.ID] = &errandRun{o: o}
			out = append(out, e.runs[o.ID])
			continue
		}
		_, held := paused[o.Uplink]
		r, err := e.open(o, held)
		if err != nil {
			e.log.Error("errand cannot begin", "errand", o.ID, "error", err)
			o.Over, o.OverBy = "given up: "+err.Error(), "forebay"
			r = &errandRun{o: o}
		}
		e.runs[o.ID] = r
		out = append(out, r)
	}
	return out
}

// open makes the pump of an errand. e.mu is held.
func (e *errands) open(o *task, paused bool) (*errandRun, error) {
	cfg, err := e.config(o.Uplink)
	if err != nil {
		return nil, err
	}
	beside, err := e.g.plant.pump(o.Uplink)
	if err != nil {
		return nil, err
	}
	var log uplink.Log
	home := lane.Home{ID: e.g.sp.Identity(), Log: e.log}
	if o.Kind == kindReplay {
		plain := cfg
		if cfg, err = cfg.Replay(o.ID, o.Stream, o.As); err != nil {
			return nil, err
		}
		view := newForUplink(e.g.sp, cfg, e.log)
		home.Chunk = view.openChunk
		if log, err = e.replayLog(o, plain, view); err != nil {
			return nil, err
		}
	} else {
		cfg = cfg.Redrive(o.ID)
		log = &redriveLog{e: e, o: o, cursors: map[record.ShardID]uplink.Cursor{}}
	}
	sink, err := uplink.NewApart(cfg, home)
	if err != nil {
		return nil, err
	}
	return &errandRun{o: o, sink: sink, pump: uplink.NewPump(cfg, sink, log, uplink.Options{Logger: e.log, Paused: paused, Beside: beside})}, nil
}

// do does one errand. When it is over, it is in the file no more.
func (e *errands) do(ctx context.Context, r *errandRun) {
	if r.pump != nil {
		runCtx, stop := context.WithCancel(ctx)
		defer stop()
		e.mu.Lock()
		r.stop = stop
		if r.o.Over != "" {
			stop()
		}
		e.mu.Unlock()
		err := errors.Join(r.pump.Run(runCtx), r.sink.Close())
		if err != nil {
			e.log.Warn("errand did not end well", "errand", r.o.ID, "error", err)
		}
	}
	e.mu.Lock()
	o := *r.o
	if o.Over == "" { // the gateway stops; it goes on at the next start
		e.mu.Unlock()
		return
	}
	e.mu.Unlock()
	note := fmt.Sprintf("%s: %d of %s, %d refused, %d not kept any more", o.Over, o.done(), count(o.total(), "record", "records"), o.Refused, o.Missed)
	e.log.Info("errand is over", "errand", o.ID, "note", note)
	// Its trace is kept first, however long that takes: one that is over and
	// still in the file is told of again after a restart, twice rather than never.
	for said := false; ; said = true {
		err := e.g.plant.audit(context.WithoutCancel(ctx), act{Event: "uplink-" + o.Kind + "-ended", Object: "uplink/" + o.ID, By: o.OverBy, Note: note})
		if err == nil {
			break
		}
		if !said {
			e.log.Error("no trace of an errand's end could be kept yet", "errand", o.ID, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(auditAgain):
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.runs, o.ID)
	e.book.Orders = slices.DeleteFunc(e.book.Orders, func(x *task) bool { return x == r.o })
	e.moved = true // where it cannot be written now
	if err := e.write(); err != nil {
		e.log.Error("an errand that is over stays in the file", "errand", o.ID, "error", err)
	}
}

// end says that an errand is over, if nobody has said so. e.mu is held.
func (e *errands) end(id, why, by string) bool {
	r := e.runs[id]
	if r == nil || r.o.Over != "" {
		return false
	}
	r.o.Over, r.o.OverBy, e.moved = why, by, true
	if r.stop != nil {
		r.stop()
	}
	return true
}

// pumps are those of an uplink's errands.
func (e *errands) pumps(id string) (out []*uplink.Pump) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.runs {
		if r.o.Uplink == id && r.pump != nil {
			out = append(out, r.pump)
		}
	}
	return out
}

// list shows the errands of an uplink.
func (e *errands) list(id string) []api.Errand {
	var out []api.Errand
	var pumps []*uplink.Pump
	e.mu.Lock()
	for _, o := range e.book.Orders {
		if o.Uplink != id {
			continue
		}
		out = append(out, o.show())
		if r := e.runs[o.ID]; r != nil {
			pumps = append(pumps, r.pump)
		} else {
			pumps = append(pumps, nil)
		}
	}
	e.mu.Unlock()
	for i, p := range pumps { // a pump asks its log while it is locked
		if p == nil {
			continue
		}
		s := p.Status()
		out[i].State, out[i].Error = s.State, s.Error
		if s.ETAKnown {
			eta := s.ETA.Seconds()
			out[i].ETA = &eta
		}
	}
	return out
}

// show is the order as the API has it, before it is under way.
func (o *task) show() api.Errand {
	return api.Errand{
		ID: o.ID, Kind: o.Kind, Uplink: o.Uplink, Stream: o.Stream, As: o.As, From: moment(o.From), To: moment(o.To), By: o.By, At: o.At,
		State: "waiting", Total: o.total(), Done: o.done(), Refuse: o.Refused, Missed: o.Missed, Left: o.Left,
	}
}

func (o *task) total() (n uint64) {
	for _, p := range o.Parts {
		n += p.End - p.First
	}
	return n
}

func (o *task) done() (n uint64) {
	for _, p := range o.Parts {
		n += p.Next - p.First
	}
	return n
}

// An errandCursor is an uplink's cursor over a part: bounded, and kept in the
// file of errands.
type errandCursor struct {
	e    *errands
	o    *task
	p    *part
	poll func(ctx context.Context, max int) (record.Batch, error)

	read, handed, missed uint64 // read: behind what was read
}

// Poll reads on. Every record of a part is there or lost, so nothing is ever
// waited for.
func (c *errandCursor) Poll(ctx context.Context, limit int) (record.Batch, error) {
	for {
		if c.read >= c.p.End {
			c.settle(0, record.Tally{})
			return record.Batch{Shard: c.p.Shard, Next: c.read}, record.ErrClosed
		}
		b, err := c.poll(ctx, limit)
		switch from, to, loss := lost(err); {
		case loss:
			c.lose(max(from, c.read), to)
			continue
		case errors.Is(err, record.ErrNoStream):
			c.lose(c.read, c.p.End)
			continue
		case err != nil:
			return b, err
		}
		for len(b.Recs) > 0 && b.Recs[len(b.Recs)-1].Pos.Seq >= c.p.End {
			b.Recs = b.Recs[:len(b.Recs)-1]
		}
		if n := len(b.Recs); n > 0 {
			c.lose(c.read, b.Recs[0].Pos.Seq)
			c.handed = b.Recs[n-1].Pos.Seq
			c.read = c.handed + 1
			return b, nil
		}
		c.lose(c.read, c.p.End) // nothing of it is there
	}
}

// Next is Poll.
func (c *errandCursor) Next(ctx context.Context, limit int) (record.Batch, error) {
	return c.Poll(ctx, limit)
}

// lose passes over what is not kept any more.
func (c *errandCursor) lose(from, to uint64) {
	to = min(to, c.p.End)
	if from >= to {
		return
	}
	c.missed += to - from
	c.read = to
	c.settle(0, record.Tally{})
}

// Commit moves the place.
func (c *errandCursor) Commit(upTo uint64, t record.Tally) error {
	c.settle(upTo+1, t)
	return nil
}

// settle moves the place to next, and where all that was read is done also over
// what was lost behind it.
func (c *errandCursor) settle(next uint64, t record.Tally) {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	was := c.p.Next
	next = max(next, was)
	if c.handed < next {
		next = max(next, c.read)
		c.o.Missed += c.missed
		c.missed = 0
	}
	c.p.Next = min(next, c.p.End)
	c.o.Refused += t.Refused
	if c.o.Kind == kindRedrive {
		c.e.mend(c.o.Uplink, c.p.Letters[was-1:c.p.Next-1], t)
		for _, pos := range c.p.Letters[was-1 : c.p.Next-1] {
			c.e.redriven(c.o.Uplink, pos)
		}
	}
	c.e.moved = c.e.moved || c.p.Next != was
}

// Backlog is what is left of the part.
func (c *errandCursor) Backlog() record.Backlog {
	c.e.mu.Lock()
	defer c.e.mu.Unlock()
	return record.Backlog{Records: c.p.End - c.p.Next}
}

// lost is the range that an error of reading tells of.
func lost(err error) (from, to uint64, ok bool) {
	var (
		trimmed *record.TrimmedError
		corrupt *record.CorruptError
	)
	switch {
	case errors.As(err, &trimmed):
		return trimmed.From, trimmed.To, true
	case errors.As(err, &corrupt):
		return corrupt.From, corrupt.To, true
	}
	return 0, 0, false
}
