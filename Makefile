# make demo   shows the main job on this machine
# make test   runs all tests: units, properties, fuzz corpora, end to end
# make help   lists the rest
# Demo, test and bench need root, for network namespaces, and Debian 12's packages,
# which they install.

GO ?= go
FUZZTIME ?= 30s
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo development)

.PHONY: help build deps demo test unit e2e fabric fabric-tools fabric-up fabric-down bench bench-tables bench-dhcp bench-leases bench-servers bench-deps lint fuzz generate vectors clean

help:
	@echo "make build    build the programs into bin/"
	@echo "make demo     show the main job: lease, warrant, recovery"
	@echo "make test     lint and run all tests (root)"
	@echo "make unit     run the tests that need no root"
	@echo "make e2e      run the end-to-end tests (root)"
	@echo "make fabric   run the tests against Hyperledger Fabric, which it builds and starts"
	@echo "make fabric-up, fabric-down   a small Fabric network, to try things out"
	@echo "make bench    run the benchmarks, which print ratios (root)"
	@echo "make bench-tables   write the tables and plots in docs/benchmarks.md anew (root), which are of"
	@echo "   make bench-dhcp      gidserver beside Kea, ISC dhcpd and a UDP echo"
	@echo "   make bench-leases    ten thousand leases to ten million"
	@echo "   make bench-servers   two servers on one PostgreSQL"
	@echo "make lint     gofmt, go vet, staticcheck, govulncheck"
	@echo "make fuzz     run each fuzz target for FUZZTIME ($(FUZZTIME))"
	@echo "make generate compile the XDP program anew (clang, libbpf-dev)"
	@echo "make vectors  write the published test vectors anew"

# All programs are static but tracectl, which loads the modules of hardware tokens
# (PKCS #11) where a C compiler is at hand to build it so.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/ ./cmd/...
	@if command -v $${CC:-gcc} >/dev/null; then CGO_ENABLED=1 $(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/ ./cmd/tracectl; \
	else echo "No C compiler: bin/tracectl cannot use hardware tokens"; fi

deps:
	@scripts/deps.sh

demo: deps build
	@$(GO) run ./internal/demo -bin bin

test: deps lint unit e2e fabric

unit:
	$(GO) test -race ./...
	$(GO) test -tags purego ./idcodec
	GID_SIM_SEEDS=8 $(GO) test -count=1 -run TestServersThatShare ./dhcpv6

# Four at a time: with more, programs that are built to find races wait longer for two
# processors than their peers wait for them.
e2e: deps
	$(GO) test -count=1 -timeout 30m -tags e2e -parallel 4 ./test/... ./lease/pebblestore ./lease/sqlstore ./ledgeranchor/embedded ./mail/journal ./sava/xdp
	cd lease/sqlstore/cockroach && $(GO) test -count=1 ./...

# Fabric's own programs, at the versions that deploy/fabric/tools and its ca name.
fabric-tools: bin/fabric/peer

bin/fabric/peer: deploy/fabric/tools/go.mod deploy/fabric/tools/ca/go.mod
	@echo "Building Hyperledger Fabric's peer, orderer, CA and tools; the first time takes minutes"
	mkdir -p bin/fabric/config
	cd deploy/fabric/tools && $(GO) build -o ../../../bin/fabric/ $(addprefix github.com/hyperledger/fabric/cmd/,configtxgen cryptogen orderer osnadmin peer)
	cd deploy/fabric/tools/ca && $(GO) build -o ../../../../bin/fabric/ $(addprefix github.com/hyperledger/fabric-ca/cmd/,fabric-ca-server fabric-ca-client)
	cd deploy/fabric/tools && cp "$$($(GO) list -m -f '{{.Dir}}' github.com/hyperledger/fabric)"/sampleconfig/core.yaml "$$($(GO) list -m -f '{{.Dir}}' github.com/hyperledger/fabric)"/sampleconfig/orderer.yaml ../../../bin/fabric/config/
	chmod -R u+w bin/fabric && touch $@

fabric: fabric-tools
	$(GO) test -count=1 -timeout 20m -p 1 -tags fabric ./ledgeranchor/fabric ./internal/fabricup

# A small network for development; FABRIC_FLAGS="--orderers 4" for BFT.
fabric-up: build fabric-tools
	$(GO) build -o bin/fabricup ./internal/fabricup
	bin/fabricup up --dir fabric-network $(FABRIC_FLAGS)

fabric-down:
	bin/fabricup down --dir fabric-network

lint:
	@scripts/lint.sh

bench-deps:
	@scripts/deps.sh bench

# Each writes its tables and its plot into docs/benchmarks.md. One after the other, also with make -j: each takes
# the whole machine.
bench-tables:
	$(MAKE) bench-dhcp
	$(MAKE) bench-leases
	$(MAKE) bench-servers

bench-dhcp bench-leases bench-servers: export GID_BENCH_TABLE = $(CURDIR)/docs/benchmarks.md

bench-dhcp: bench-deps build
	$(GO) test -count=1 -timeout 25m -run "^$$" -bench FourMessage -benchtime 1x -tags e2e ./test/bench

bench-leases:
	GID_BENCH_LEASES=10000000 $(GO) test -count=1 -timeout 60m -run "^$$" -bench ManyLeases -benchtime 2x ./dhcpv6

bench-servers: bench-deps build
	$(GO) test -count=1 -timeout 25m -run "^$$" -bench ServersOnOne -benchtime 1x -tags e2e ./test/bench

bench: bench-deps build fabric-tools
	$(GO) test -run '^$$' -bench . -benchtime 2s ./idcodec ./dhcpv6 ./sava
	$(GO) test -run '^$$' -bench SealedByAll -benchtime 3x ./cmd/gidserver
	$(GO) test -run '^$$' -bench . -benchtime 5x ./ledgeranchor/embedded
	$(GO) test -run '^$$' -bench 'Report|TenThousand' -benchtime 1x ./trace
	$(GO) test -run '^$$' -bench Resolution -benchtime 50x ./trace
	$(GO) test -count=1 -timeout 40m -run "^$$" -bench . -benchtime 1x -tags e2e ./sava/xdp ./lease/sqlstore ./test/bench
	$(GO) test -count=1 -timeout 20m -run "^$$" -bench . -benchtime 1x -tags fabric ./ledgeranchor/fabric

fuzz:
	@scripts/fuzz.sh $(FUZZTIME)

generate:
	C_INCLUDE_PATH=/usr/include/$$(uname -m)-linux-gnu $(GO) generate ./sava/xdp

vectors:
	$(GO) test ./idcodec ./ledgeranchor -run VectorFile -update

clean:
	rm -rf bin
