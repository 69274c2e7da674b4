package faultdisk

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sector is what a disk writes whole or not at all, bytes.
const sector = 512

// A Replay is the disk at one moment of a record: what is surely on it, and
// what was done but not yet synced. From that it builds the images that a
// power cut at this moment can leave.
//
// The model is what POSIX promises, which is less than ext4 or XFS keep:
//
//   - A file's bytes and length are surely there once a sync of that file that
//     began after the write has ended. Until then every write and truncation
//     may be there or not, each for itself, in any order with those of other
//     files, and of a write any of its 512-byte sectors.
//   - A name made, changed or removed in a directory is surely so once a sync of
//     that directory that began later has ended. Until then the changes of one
//     directory may be there up to any of them, in their order (a journal);
//     directories are independent of each other and of files' bytes. What lies
//     in a directory whose own name is not there is gone.
//   - After a failed sync of a file, what it should have covered is on the disk
//     or is not, by lot, and no later sync brings it there.
type Replay struct {
	// Unsynced, where set, lets syncs count for nothing: a control that must
	// lose something, else the test that uses this is blind.
	Unsynced func(Event) bool

	root  string
	at    int // events applied
	rng   *rand.Rand
	files map[int]*inode
	dirs  map[string]*directory
}

type inode struct {
	durable []byte
	pending []change
}

// A change is a write, or a truncation where data is nil.
type change struct {
	at   int
	off  int64
	data []byte
}

type directory struct {
	durable map[string]int // file by name; 0 is a directory
	pending []naming
}

type naming struct {
	at   int
	op   Op
	name string
	to   string
	file int
}

// NewReplay begins with an empty directory root, which is taken to be durable.
// Events outside of it are not allowed.
func NewReplay(root string, seed uint64) *Replay {
	return &Replay{
		root: filepath.Clean(root), rng: rand.New(rand.NewPCG(seed, 1)), files: map[int]*inode{},
		dirs: map[string]*directory{".": {durable: map[string]int{}}},
	}
}

// Apply takes the next event of the record in.
func (r *Replay) Apply(e Event) error {
	at := r.at
	r.at++
	if e.Op == Mark {
		return nil
	}
	rel, err := filepath.Rel(r.root, e.Path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return fmt.Errorf("replay: %s is outside of %s", e.Path, r.root)
	}
	if e.Failed != nil {
		if e.Op == Sync {
			r.settle(e.File, e.Covers, true)
		}
		return nil
	}
	switch e.Op {
	case Create, Mkdir, Rename, Remove:
		d := r.dirs[filepath.Dir(rel)]
		if d == nil {
			return fmt.Errorf("replay: %s %s: no such directory", e.Op, rel)
		}
		d.pending = append(d.pending, naming{at, e.Op, filepath.Base(rel), filepath.Base(e.To), e.File})
		switch e.Op {
		case Create:
			r.files[e.File] = &inode{}
		case Mkdir:
			r.dirs[rel] = &directory{durable: map[string]int{}}
		case Rename:
			if filepath.Dir(e.To) != filepath.Dir(e.Path) {
				return errors.New("replay: a rename into another directory is not in the model")
			}
		}
	case Write, Truncate:
		f := r.files[e.File]
		if f == nil {
			return fmt.Errorf("replay: %s to %s, which was never created", e.Op, rel)
		}
		c := change{at, e.Off, e.Data}
		if e.Op == Truncate {
			c = change{at, e.Size, nil}
		}
		f.pending = append(f.pending, c)
	case Sync:
		if r.Unsynced == nil || !r.Unsynced(e) {
			r.settle(e.File, e.Covers, false)
		}
	case SyncDir:
		if d := r.dirs[rel]; d != nil && (r.Unsynced == nil || !r.Unsynced(e)) {
			n := 0
			for n < len(d.pending) && d.pending[n].at < e.Covers {
				d.pending[n].apply(d.durable)
				n++
			}
			d.pending = slices.Delete(d.pending, 0, n)
		}
	}
	return nil
}

// settle ends the doubt about what was done to a file before an event.
func (r *Replay) settle(id, covers int, failed bool) {
	f := r.files[id]
	if f == nil {
		return
	}
	n := 0
	for n < len(f.pending) && f.pending[n].at < covers {
		if !failed || r.rng.IntN(2) == 0 {
			f.durable = f.pending[n].apply(f.durable)
		}
		n++
	}
	f.pending = slices.Delete(f.pending, 0, n)
}

func (c change) apply(b []byte) []byte {
	if c.data == nil {
		return resize(b, c.off)
	}
	if end := c.off + int64(len(c.data)); end > int64(len(b)) {
		b = resize(b, end)
	}
	copy(b[c.off:], c.data)
	return b
}

func resize(b []byte, n int64) []byte {
	if n <= int64(len(b)) {
		return b[:n]
	}
	old := len(b)
	b = slices.Grow(b, int(n)-old)[:n]
	clear(b[old:])
	return b
}

// torn applies some sectors of a write.
func (c change) torn(b []byte, rng *rand.Rand) []byte {
	for from := c.off; from < c.off+int64(len(c.data)); {
		to := min((from/sector+1)*sector, c.off+int64(len(c.data)))
		if rng.IntN(2) == 0 {
			b = change{off: from, data: c.data[from-c.off : to-c.off]}.apply(b)
		}
		from = to
	}
	return b
}

func (n naming) apply(names map[string]int) {
	switch n.op {
	case Create, Mkdir:
		names[n.name] = n.file
	case Remove:
		delete(names, n.name)
	case Rename:
		names[n.to] = names[n.name]
		delete(names, n.name)
	}
}

// A Cut says what of the unsynced a power cut leaves.
type Cut uint8

const (
	// Kept is all of it: the process was killed.
	Kept Cut = iota
	// Lost is nothing of it.
	Lost
	// Torn is anything between, by lot.
	Torn
)

// Image writes what a cut at this moment leaves into an empty directory.
func (r *Replay) Image(dir string, cut Cut, rng *rand.Rand) error {
	names := make([]string, 0, len(r.dirs))
	for name := range r.dirs {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(a, "/"), strings.Count(b, "/")), strings.Compare(a, b))
	})
	there := map[string]bool{".": true}
	for _, name := range names {
		if !there[name] {
			continue
		}
		d := r.dirs[name]
		now := map[string]int{}
		maps.Copy(now, d.durable)
		for _, n := range d.pending[:pick(len(d.pending), cut, rng)] {
			n.apply(now)
		}
		for _, child := range sorted(now) {
			path := filepath.Join(dir, name, child)
			if now[child] == 0 {
				there[filepath.Join(name, child)] = true
				if err := os.Mkdir(path, 0o750); err != nil {
					return err
				}
				continue
			}
			if err := os.WriteFile(path, r.files[now[child]].content(cut, rng), 0o640); err != nil {
				return err
			}
		}
	}
	return nil
}

func sorted(m map[string]int) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// pick is how many of n changes in their order are there.
func pick(n int, cut Cut, rng *rand.Rand) int {
	switch cut {
	case Kept:
		return n
	case Lost:
		return 0
	}
	return rng.IntN(n + 1)
}

func (f *inode) content(cut Cut, rng *rand.Rand) []byte {
	if len(f.pending) == 0 || cut == Lost {
		return f.durable
	}
	b := slices.Clone(f.durable)
	how := 0 // all
	if cut == Torn {
		how = rng.IntN(4)
	}
	switch how {
	case 0, 1:
		n := len(f.pending)
		if how == 1 { // the first ones, the last of them torn
			n = rng.IntN(n + 1)
		}
		for _, c := range f.pending[:n] {
			b = c.apply(b)
		}
		if n < len(f.pending) && f.pending[n].data != nil {
			b = f.pending[n].torn(b, rng)
		}
	default: // any of them
		for _, c := range f.pending {
			switch lot := rng.IntN(3); {
			case lot == 0:
				b = c.apply(b)
			case lot == 1 && c.data != nil && how == 3:
				b = c.torn(b, rng)
			}
		}
	}
	return b
}
