package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// stopWithin is how long a program has to end in order before it is killed.
const stopWithin = 20 * time.Second

// child is a program of the demo, in a process group of its own, so that
// Ctrl-C reaches the demo alone, which then stops them in the right order.
type child struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended and err is set
	err  error
}

func start(name, program, logFile string, args ...string) (*child, error) {
	// No context: stop ends it, in order, and kills it at the last resort.
	log, err := os.Create(logFile)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, cmd: exec.CommandContext(context.Background(), program, args...), log: log, done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	ownGroup(c.cmd)
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	go func() {
		c.err = errors.Join(c.cmd.Wait(), log.Close())
		close(c.done)
	}()
	return c, nil
}

// ended reports whether the program has ended.
func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// stop asks the program to end, waits for it, and kills it at the last
// resort. A program that ended by itself before is an error.
func (c *child) stop() error {
	if c == nil {
		return nil
	}
	if c.ended() {
		return c.gone()
	}
	if err := terminate(c.cmd.Process); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(fmt.Errorf("stop %s: %w", c.name, err), c.kill())
	}
	last := time.NewTimer(stopWithin)
	defer last.Stop()
	select {
	case <-c.done:
		var exit *exec.ExitError
		if c.err != nil && !errors.As(c.err, &exit) {
			return fmt.Errorf("stop %s: %w", c.name, c.err)
		}
		return nil
	case <-last.C:
		return errors.Join(fmt.Errorf("%s did not end within %v and was killed; see %s", c.name, stopWithin, c.log.Name()), c.kill())
	}
}

func (c *child) kill() error {
	err := killGroup(c.cmd.Process)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-c.done
	return err
}

// gone says in words that the program ended and what it said last.
func (c *child) gone() error {
	err := fmt.Errorf("%s ended by itself (%v); see %s", c.name, exitText(c.err), c.log.Name())
	if tail := lastLines(c.log.Name(), 8); tail != "" {
		err = fmt.Errorf("%w\n%s", err, tail)
	}
	return err
}

func exitText(err error) string {
	if err == nil {
		return "exit 0"
	}
	return err.Error()
}

func lastLines(file string, n int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(b[max(0, len(b)-8192):]), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// ready waits until the program serves: GET url answers 200.
func (c *child) ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("no answer yet")
	for {
		select {
		case <-c.done:
			return c.gone()
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve %s: %w; see %s", c.name, url, last, c.log.Name())
		case <-tick.C:
		}
		if _, err := get(ctx, url); err == nil {
			return nil
		} else if ctx.Err() == nil {
			last = err
		}
	}
}

// get fetches a small answer of a gateway.
func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	err = errors.Join(err, res.Body.Close())
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, bytes.TrimSpace(b[:min(len(b), 200)]))
	}
	return b, err
}
