package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// reportDir makes the directory for the report and tries to write there, so
// that the test does not run for nothing.
func reportDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("%w: --out: make the directory for the report: %w", errUsage, err)
	}
	f, err := os.CreateTemp(dir, ".forebay-prove-")
	if err != nil {
		return fmt.Errorf("%w: --out: write to the directory for the report: %w", errUsage, err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return fmt.Errorf("--out: write to the directory for the report: %w", err)
	}
	return nil
}

// A testPlace is where the gateway under test keeps its data.
type testPlace struct {
	dir  string
	made []string // directories above it that were not there, the innermost first
}

// newTestPlace makes a directory of the test's own below base.
func newTestPlace(base, name string) (*testPlace, error) {
	p := &testPlace{}
	abs, err := filepath.Abs(base)
	if err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	for d := abs; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); !os.IsNotExist(err) {
			break
		}
		p.made = append(p.made, d)
	}
	err = os.MkdirAll(abs, 0o700)
	if err == nil {
		p.dir, err = os.MkdirTemp(abs, name+"-")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a directory for the test (--data names another place): %w", err), p.unmake())
	}
	return p, nil
}

// remove removes the test's directory, and those that were made for it. Where
// the data is kept, the test's config, which may have secrets in it, is not.
func (p *testPlace) remove(keep bool, config string) error {
	if keep {
		if err := os.Remove(config); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove the test's config: %w", err)
		}
		return nil
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("remove the test's data: %w", err)
	}
	return p.unmake()
}

// unmake removes the directories that were not there before, unless something
// else has come to lie in them.
func (p *testPlace) unmake() error {
	for _, d := range p.made {
		left, err := os.ReadDir(d)
		if os.IsNotExist(err) {
			continue // it did not come to be made
		}
		if err != nil || len(left) > 0 {
			return err
		}
		if err := os.Remove(d); err != nil {
			return err
		}
	}
	return nil
}
