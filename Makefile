# Forebay. `make demo` to see it, `make test` to trust it, `make build` to use it.
SHELL := /bin/bash
GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.1.0-dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
STATIC := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s

.PHONY: build gateway sim console fmt vet lint test test-peers race crash cloud powercut wan soak fuzz bench bench-kinesis bench-uplink cross docs demo clean

build: gateway sim ## the programs into bin/; the console where cgo and its packages are there
	@if .ci/console-packages --check; then $(MAKE) --no-print-directory console; \
	else echo "bin/forebay-console is left out: it needs a C compiler and the packages that '.ci/console-packages --print' names"; fi

gateway:
	$(STATIC) -o bin/forebay ./gateway
sim:
	$(STATIC) -o bin/forebay-sim ./firmware-sim
console:
	CGO_ENABLED=1 $(GO) build -trimpath -tags migrated_fynedo -ldflags '-s -w' -o bin/forebay-console ./ui

fmt:
	gofmt -w $$(git ls-files '*.go')
vet:
	CGO_ENABLED=0 $(GO) build ./...
	CGO_ENABLED=0 $(GO) vet ./...
lint: ## the pinned linter; built once, kept in Go's cache
	$(GO) run $(LINT) run ./...

test: ## everything that needs nothing but Go, git and make
	CGO_ENABLED=0 $(GO) vet ./...
	CGO_ENABLED=0 $(GO) test -timeout 20m ./...

test-peers: ## against real peers: mosquitto, the AWS CLI and SDKs, kinesalite, aws-kinesis-agg, Telegraf, ffmpeg
	.ci/peers

# Thousands of openings of damaged files tell the race detector nothing.
IMAGES := WholeSpool|FailPoint|WriteLog|FlippedBytes|CutFiles|ADamagedBlock|DamagedWords|KilledSpoolIsBackedUp|Golden
# What ./gateway itself tests are programs of their own, built without the detector.
race: ## the parts with goroutines, under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short -timeout 20m -skip '$(IMAGES)' $$($(GO) list ./spool/... ./devices/... ./uplink/... ./gateway/... ./firmware-sim/... | grep -v '/gateway$$')

crash: ## the long form of the tests that kill, cut, fail and flip: about an hour; the power cuts need root
	CGO_ENABLED=0 FOREBAY_CRASH_ROUNDS=200 $(GO) test -v -count=1 -timeout 3h -run 'Kill' ./spool
	CGO_ENABLED=0 $(GO) test -v -count=8 -timeout 3h -run 'Kill' ./gateway/internal/rules
	CGO_ENABLED=0 FOREBAY_IMAGES=10000 FOREBAY_FAILPOINTS=5000 $(GO) test -v -count=1 -timeout 3h -run 'WriteLog|FailPoint|ASyncError' ./spool
	CGO_ENABLED=0 FOREBAY_FLIPS=10000000 FOREBAY_CUTS=4000 $(GO) test -v -count=1 -timeout 3h -run 'WholeSpool' ./spool
	$(MAKE) --no-print-directory cloud
	$(MAKE) --no-print-directory powercut CUTS=100 FULL_SECONDS=60

cloud: ## a million records through a cloud that misbehaves, fifty kills
	CGO_ENABLED=0 FOREBAY_CLOUD_RECORDS=1000000 FOREBAY_CLOUD_KILLS=50 $(GO) test -v -count=1 -timeout 1h -run 'ACloudThatMisbehaves' ./gateway

CUTS ?= 6
FULL_SECONDS ?= 5
powercut: ## power cuts and full, failing, read-only disks on loop mounts; needs root
	CGO_ENABLED=0 FOREBAY_POWER_CUTS=$(CUTS) FOREBAY_FULL_SECONDS=$(FULL_SECONDS) $(GO) test -tags powercut -v -count=1 -timeout 1h \
	  -run 'PowerCut|AFullDisk|TurnsReadOnly|InodeTable|WrongPermissions' ./spool

wan: ## the narrow and lossy path through the kernel's own TCP; needs root and /dev/net/tun
	CGO_ENABLED=0 $(GO) test -tags wan -v -count=1 -timeout 5m -run 'PathOfTheKernel' ./firmware-sim/wan

soak: ## the end-to-end run for an hour instead of a minute
	CGO_ENABLED=0 FOREBAY_E2E=1h $(GO) test -count=1 -timeout 2h -run 'EndToEnd' ./gateway

fuzz: ## every fuzz target for FUZZTIME
	@set -e; for p in $$($(GO) list ./...); do \
	  for f in $$(CGO_ENABLED=0 $(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "== $$p $$f"; CGO_ENABLED=0 $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$p; done; done

bench: gateway sim ## figures with a rival in the same run; BENCHFLAGS=--full for the sizes the targets name
	bin/forebay bench spool $(BENCHFLAGS)
	.ci/bench-weak
	.ci/bench-mqtt
	.ci/bench-kinesis
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench . -benchtime 1s ./gateway/expr ./gateway/internal/rules ./gateway/internal/sigv4 ./gateway/internal/ingest ./ui/hmi
	$(MAKE) --no-print-directory bench-uplink

bench-uplink: ## the uplinks: our client beside the AWS SDK, drains from the disk, slow, capped and lossy links (the last needs root); FOREBAY_BACKLOG_MB=5000 for the size that the target names
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench AgainstTheSDK -benchtime 1x -v ./uplink/kinesis
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench 'DrainFromDisk|DrainMemory|SlowLink|LossyLink' -benchtime 1x -timeout 1h -v ./gateway
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench . -skip AgainstTheSDK -benchtime 1s ./uplink/...

bench-kinesis: gateway sim ## the Kinesis endpoint beside kinesalite
	.ci/bench-kinesis

cross: ## the static programs for every machine they are meant for
	@set -e; for t in linux/amd64 linux/arm64 linux/arm windows/amd64; do \
	  echo "== $$t"; ext=; [ $${t%/*} = windows ] && ext=.exe; \
	  for d in gateway:forebay firmware-sim:forebay-sim; do \
	    GOOS=$${t%/*} GOARCH=$${t#*/} GOARM=7 $(STATIC) -o bin/$${t%/*}-$${t#*/}/$${d#*:}$$ext ./$${d%:*}; done; done

docs: gateway sim ## the printed help and defaults; fails if the committed ones differ
	.ci/docs
	git diff --exit-code -- docs/

demo: ## the main job on this machine
	@.ci/demo

clean:
	rm -rf bin demo-data
