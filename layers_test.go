package forebay

import (
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers is the import table of the house: which of our packages a package
// may import. A pattern ending in /* stands for the direct children. Tests
// outside the package (package x_test) may import whatever they exercise.
//
// It reads the sources rather than asking the go tool, whose answer the test
// cache would hide.
var layers = map[string][]string{
	"":                            {},
	"spool/record":                {},
	"gateway/conf":                {},
	"gateway/api":                 {},
	"spool":                       {"spool/record", "gateway/conf"},
	"spool/faultdisk":             {}, // imported by tests only, see below
	"devices/broker":              {"spool/record", "gateway/conf"},
	"devices/mqtt":                {"spool/record", "gateway/conf"},
	"devices/serial":              {"spool/record", "gateway/conf"},
	"devices/video":               {"spool/record", "gateway/conf"},
	"devices":                     {"spool/record", "gateway/conf", "devices/*"},
	"uplink/lane":                 {"spool/record"},
	"uplink/kpl":                  {},
	"uplink/cbor":                 {},
	"uplink/envelope":             {"spool/record"},
	"uplink/aws":                  {"gateway/conf", "uplink/lane", "uplink/cbor", "uplink/stranger"},
	"uplink/kinesis":              {"spool/record", "gateway/conf", "uplink/lane", "uplink/kpl", "uplink/envelope", "uplink/aws", "uplink/cbor"},
	"uplink/kvs":                  {"spool/record", "gateway/conf", "uplink/lane", "uplink/aws"},
	"uplink/s3":                   {"spool/record", "gateway/conf", "uplink/lane", "uplink/kpl", "uplink/envelope", "uplink/aws"},
	"uplink/nats":                 {"spool/record", "gateway/conf", "uplink/lane", "uplink/kpl", "uplink/envelope", "uplink/stranger"},
	"uplink/samples/consumer":     {},
	"uplink/firehose":             {"spool/record", "gateway/conf", "uplink/lane", "uplink/kpl", "uplink/envelope", "uplink/aws"},
	"uplink/shape":                {"spool/record", "gateway/conf", "gateway/expr", "uplink/envelope", "uplink/kpl"},
	"uplink/stranger":             {},
	"uplink/kafka":                {"spool/record", "gateway/conf", "uplink/lane", "uplink/kpl", "uplink/envelope", "uplink/stranger"},
	"uplink/web":                  {"gateway/conf", "uplink/lane", "uplink/stranger"},
	"uplink/http":                 {"spool/record", "gateway/conf", "uplink/lane", "uplink/kpl", "uplink/envelope", "uplink/web"},
	"uplink/opensearch":           {"spool/record", "gateway/conf", "uplink/lane", "uplink/kpl", "uplink/envelope", "uplink/aws", "uplink/web"},
	"uplink/mqtt":                 {"spool/record", "gateway/conf", "uplink/lane", "uplink/envelope", "uplink/kpl", "uplink/stranger"},
	"uplink/sparkplug":            {"spool/record", "gateway/conf", "uplink/lane", "uplink/envelope", "uplink/kpl", "uplink/mqtt"},
	"uplink":                      {"spool/record", "gateway/conf", "uplink/*"},
	"gateway/expr":                {"spool/record"},
	"gateway/internal/rules":      {"spool/record", "gateway/conf", "gateway/expr"},
	"gateway/internal/points":     {"spool/record", "gateway/conf"},
	"gateway/internal/inlet":      {"spool/record", "spool", "gateway/conf"},
	"gateway/internal/sigv4":      {},
	"gateway/internal/kinesisapi": {"spool/record", "gateway/conf", "spool", "uplink/kpl", "uplink/envelope", "uplink/cbor", "gateway/internal/sigv4"},
	"gateway/internal/ingest":     {"spool/record"},
	"gateway/internal/query":      {"spool/record", "gateway/conf", "spool"},
	"gateway/internal/localapi":   {"spool/record", "gateway/conf", "gateway/api", "spool", "gateway/internal/rules", "gateway/internal/points", "gateway/internal/query", "uplink/kpl"},
	"gateway/internal/config": {
		"gateway/conf", "spool", "spool/record", "devices", "uplink", "gateway/internal/rules",
		"gateway/internal/points", "gateway/internal/inlet", "gateway/internal/kinesisapi", "gateway/internal/localapi",
	},
	"gateway/internal/bench":     {"spool/record", "gateway/conf", "spool"},
	"gateway/internal/keep":      {},
	"gateway/internal/powertest": {"gateway/conf", "spool", "spool/record"},
	"gateway/internal/proof":     {"gateway/api", "gateway/internal/powertest", "uplink/envelope"},
	"gateway": {
		"spool/record", "gateway/conf", "gateway/api", "spool", "devices", "devices/*",
		"uplink", "uplink/*", "gateway/internal/*",
	},
	"ui/view":             {"gateway/api"},
	"ui/hmi":              {"ui/view"},
	"ui/console":          {"ui/view", "ui/hmi"},
	"ui":                  {"gateway/api", "ui/view", "ui/hmi", "ui/console"},
	"firmware-sim":        {"firmware-sim/*"},
	"firmware-sim/camera": {}, "firmware-sim/link": {}, "firmware-sim/kpl": {},
	"firmware-sim/ledger": {}, "firmware-sim/mqtt": {},
}

// stdOnly lists the packages that import nothing but the standard library and
// each other; they are what everything else is spoken in.
var stdOnly = []string{"spool/record", "gateway/conf", "gateway/api", "uplink/kpl", "uplink/cbor", "uplink/lane", "uplink/stranger", "gateway/internal/sigv4"}

func TestLayers(t *testing.T) {
	seen := map[string]bool{}
	for file, imports := range sources(t, ".") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		dir := path.Dir(file)
		if dir == "." {
			dir = ""
		}
		seen[dir] = true
		allowed, known := layers[dir]
		if !known && !strings.HasPrefix(dir, "firmware-sim/") {
			t.Errorf("%s: package %q is not in the table of layers_test.go; a new room is argued for in docs/decisions", file, dir)
			continue
		}
		for _, imp := range imports {
			ours, isOurs := strings.CutPrefix(imp, "forebay/")
			if !isOurs {
				if slices.Contains(stdOnly, dir) && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
					t.Errorf("%s imports %s: %s stays with the standard library", file, imp, dir)
				}
				continue
			}
			if strings.HasPrefix(dir, "firmware-sim") {
				if !strings.HasPrefix(ours, "firmware-sim/") {
					t.Errorf("%s imports %s: the simulator is the witness and imports nothing of ours", file, imp)
				}
				continue
			}
			if !slices.ContainsFunc(allowed, func(p string) bool {
				return p == ours || strings.HasSuffix(p, "/*") && path.Dir(ours) == strings.TrimSuffix(p, "/*")
			}) {
				t.Errorf("%s imports %s: not an arrow of layers_test.go", file, imp)
			}
		}
	}
	for dir := range layers {
		if !seen[dir] && dir != "" && !strings.HasPrefix(dir, "firmware-sim/") {
			t.Errorf("the table names %q, which has no Go file", dir)
		}
	}
}

// A disk that fails on purpose, and reaches into SQLite's memory for it, is no
// part of the product.
func TestOnlyTestsBreakDisks(t *testing.T) {
	users := 0
	for file, imports := range sources(t, ".") {
		if !slices.Contains(imports, "forebay/spool/faultdisk") {
			continue
		}
		users++
		if !strings.HasSuffix(file, "_test.go") {
			t.Errorf("%s imports spool/faultdisk; only tests may", file)
		}
	}
	if users == 0 {
		t.Error("nothing imports spool/faultdisk")
	}
}

// Only ui/main.go opens a window; everything else of the console is tested
// without one.
func TestOnlyMainOpensAWindow(t *testing.T) {
	for file, imports := range sources(t, "ui") {
		if slices.Contains(imports, "fyne.io/fyne/v2/app") && file != "ui/main.go" {
			t.Errorf("%s imports fyne/v2/app; only ui/main.go may", file)
		}
		if slices.ContainsFunc(imports, func(s string) bool { return strings.HasPrefix(s, "fyne.io/") }) && path.Dir(file) == "ui/view" {
			t.Errorf("%s imports Fyne; ui/view is pure Go", file)
		}
	}
}

func TestNoForbiddenNames(t *testing.T) {
	for file := range sources(t, ".") {
		for part := range strings.SplitSeq(path.Dir(file), "/") {
			if slices.Contains([]string{"util", "utils", "common", "types", "helpers", "models", "misc"}, part) {
				t.Errorf("%s: name a package by what it knows", file)
			}
		}
	}
}

// sources maps each Go file below root to what it imports.
func sources(t *testing.T, root string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		for _, cg := range f.Comments {
			for _, c := range cg.List {
				if constraint.IsGoBuild(c.Text) && strings.Contains(c.Text, "ignore") {
					t.Errorf("%s is left out of every build; delete it", p)
				}
			}
		}
		imports := []string{}
		for _, s := range f.Imports {
			v, err := strconv.Unquote(s.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, v)
		}
		out[filepath.ToSlash(p)] = imports
		return nil
	})
	if err != nil {
		t.Fatalf("read the sources: %v", err)
	}
	return out
}
