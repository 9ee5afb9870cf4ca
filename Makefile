# The words a newcomer would guess. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help run build test check e2e bench bench-http bench-parts fuzz generate needs

PROCS       ?= 2
FUZZTIME    ?= 10s
COUNT       ?= 6
CONNECTIONS ?= 16

# Modules of their own, so that the core drags in nothing of theirs.
MODULES  := contrib/gin contrib/echo contrib/grpc examples/grpc bench

# Hashing passwords is arithmetic in one goroutine, and SQLite is C made into Go
# that locks for itself: watched for races they take many times as long, and
# nothing of ours is found.
RACE := -race -gcflags=golang.org/x/crypto/...=-race=false -gcflags=modernc.org/...=-race=false

# What these test runs in processes of their own, built as it is shipped.
OUTSIDE := e2e|instances|proxies

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

run: build ## build and start on ./data, with an administrator and a key on the first start
	@mkdir -p -m 700 data && exec bin/ostiary serve --bootstrap --database sqlite:data/ostiary.db

build: ## build bin/ostiary
	go build -o bin/ostiary ./cmd/ostiary

# Half as much of the processor then goes to collecting garbage.
test: export GOGC = 200
test: needs ## everything: Go (with the race detector), Rego, command scripts, JavaScript client
	go test $(RACE) -shuffle=on -p $(PROCS) -timeout 25m $$(go list ./... | grep -vE '/($(OUTSIDE))$$')
	go test -shuffle=on -p $(PROCS) -timeout 25m $$(go list ./... | grep -E '/($(OUTSIDE))$$')
	@for m in $(MODULES); do (cd $$m && go test $(RACE) -shuffle=on -p $(PROCS) ./...) || exit 1; done

check: ## formatting, vet, staticcheck, staircase, Rego, generated files, go.mod
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these" >&2; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go test -run 'Staircase|Documentation|Formatted|Generated' . ./policies/... ./cmd/... ./server/...
	go mod tidy -diff
	@for m in $(MODULES); do (cd $$m && go vet ./... && go tool -modfile=$(CURDIR)/go.mod staticcheck ./... && go mod tidy -diff) || exit 1; done

e2e: needs ## only the end-to-end tests with the real JavaScript client
	go test -count=1 -v -timeout 25m ./e2e

bench: ## one decision beside other engines, in one table
	cd bench && go run . engines

bench-http: ## servers beside others', in one table; POSTGRES=URL and CERBOS=BINARY add Better Auth and Cerbos
	cd bench && go run . -connections $(CONNECTIONS) -postgres "$(POSTGRES)" -cerbos "$(CERBOS)" http

bench-parts: ## the benchmarks of each package, ready for `go tool benchstat`
	go test -run '^$$' -bench . -benchmem -count $(COUNT) -p 1 ./...

fuzz: ## every fuzz target for FUZZTIME (10s)
	@for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep '^Fuzz'); do \
		go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

generate: ## rewrite what is generated from the code: ostiary.yaml, docs/configuration.md, api/go1.txt
	go test -count=1 -run Generated ./cmd/ostiary -update
	go test -count=1 -run GeneratedAPI . -update

needs:
	@.ci/needs
