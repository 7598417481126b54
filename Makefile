# One makefile for everything; `make help` lists the targets.
#
#   make                    build/release/broker
#   make SAN=asan test      the same with AddressSanitizer and UBSan, in build/asan
#   make unit UNIT=test_line
#
# Everything that is made lands below build/<variant>/.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := all

# ---- what the user may set --------------------------------------------------------------------

SAN         ?=#             asan, tsan or cov; empty is the release build
UNIT        ?= test_*#      which unit tests, shell patterns
SEEDS       ?= 1000#        how many seeds the simulation plays
T           ?= 60#          seconds that each fuzz target runs
FIRST       ?= 1#           and from which one on
INTEGRATION ?= test_*.py#   which integration tests, shell patterns
TEST_JOBS   ?= 4#             integration tests at a time; most of them wait most of the time
PREFIX      ?= /usr/local
DESTDIR     ?=
sysconfdir  ?= $(PREFIX)/etc
bindir      ?= $(PREFIX)/bin
mandir      ?= $(PREFIX)/share/man
bashdir     ?= $(PREFIX)/share/bash-completion/completions
zshdir      ?= $(PREFIX)/share/zsh/site-functions
unitdir     ?= $(PREFIX)/lib/systemd/system
sysctldir   ?= $(PREFIX)/lib/sysctl.d
datadir     ?= $(PREFIX)/share/broker
sysusersdir ?= $(PREFIX)/lib/sysusers.d

ifeq ($(origin CC),default)
CC := gcc
endif

# ---- variants ---------------------------------------------------------------------------------

VARIANT := $(or $(strip $(SAN)),release)
BUILD   := build/$(VARIANT)
NPROC   := $(shell nproc)

ifeq ($(VARIANT),release)
OPTIMIZE := -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
else ifeq ($(VARIANT),asan)
OPTIMIZE := -O1 -fno-omit-frame-pointer -DWITH_ASAN
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all
else ifeq ($(VARIANT),tsan)
OPTIMIZE := -O1 -fno-omit-frame-pointer -DWITH_TSAN
SANITIZE := -fsanitize=thread
else ifeq ($(VARIANT),cov)
OPTIMIZE := -O0 -DWITH_COVERAGE
SANITIZE := --coverage
else ifeq ($(VARIANT),fuzz)
# Only clang has libFuzzer.
CC       := clang
OPTIMIZE := -O1 -fno-omit-frame-pointer -DWITH_ASAN
SANITIZE := -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
else
$(error SAN=$(SAN): want asan, tsan or cov, or nothing for the release build)
endif

# ---- flags ------------------------------------------------------------------------------------

# Libraries the broker cannot do without, and those it uses where they are installed: each of the
# latter defines HAVE_<NAME>.
PACKAGES := liburing hwloc libconfuse ck libssl libcrypto libcrypt jansson
OPTIONAL := libsystemd libseccomp libllhttp
FOUND    := $(foreach p,$(OPTIONAL),$(if $(shell pkg-config --exists $(p) 2>&1 && echo yes),$(p)))
upper     = $(shell echo '$(1)' | tr 'a-z-' 'A-Z_')

# Evaluated once, and silent when something is missing: `make deps` and `make help` must work on
# a machine that has none of it. The rule for $(BUILD)/flags complains.
PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) $(FOUND) 2>/dev/null)
PKG_LIBS   := $(shell pkg-config --libs $(PACKAGES) $(FOUND) 2>/dev/null)
# Debian's wslay has no file for pkg-config either.
PKG_LIBS   += -lwslay
# Without llhttp its predecessor parses HTTP; Debian's has no file for pkg-config.
PKG_LIBS   += $(if $(filter libllhttp,$(FOUND)),,-lhttp_parser)

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes \
	-Wmissing-prototypes -Wvla -Wwrite-strings -Wcast-qual -Wundef -Wformat=2 -Wswitch-enum

# gcc's flow analysis misfires on instrumented code; the release build has the warning.
ifneq ($(SANITIZE),)
MISFIRES := $(if $(findstring gcc,$(CC)),-Wno-maybe-uninitialized)
endif

# A warning stops the build only where nobody is there to read it.
ifneq ($(filter 1 true yes,$(CI) $(WERROR)),)
WARNINGS += -Werror
endif

# No -march: the binaries must run on every x86-64 and every aarch64.
CPPFLAGS_ALL := -D_GNU_SOURCE -DBROKER_VERSION='"$(shell cat VERSION)"' -Iinclude -Ibench \
	$(foreach p,$(FOUND),-DHAVE_$(call upper,$(p))) $(PKG_CFLAGS) $(CPPFLAGS)
CFLAGS_ALL   := -std=c11 -g $(OPTIMIZE) $(SANITIZE) $(WARNINGS) $(MISFIRES) \
	-fstack-protector-strong -fPIE -pthread $(CFLAGS)
LDFLAGS_ALL  := -pie -Wl,-z,relro,-z,now -Wl,--as-needed $(SANITIZE) -pthread $(LDFLAGS)

# ---- files ------------------------------------------------------------------------------------

ROOMS      := base engine topic protocol broker session admin
LIB_SRCS   := $(sort $(wildcard $(ROOMS:%=src/%/*.c) $(ROOMS:%=src/%/*/*.c)))
LOAD_SRCS  := $(sort $(wildcard bench/load/*.c))
FUZZ_SRCS  := $(sort $(wildcard tests/fuzz/fuzz_*.c))
SIM_SRCS   := $(sort $(wildcard tests/sim/*.c))
FAULT_SRCS := $(sort $(wildcard tests/faults/*.c))
COUNT_SRCS := $(sort $(wildcard bench/instructions/*.c))
UNIT_SRCS  := $(sort $(wildcard $(patsubst %,tests/unit/%.c,$(UNIT))))
INTEG_SRCS := $(sort $(wildcard $(addprefix tests/integration/,$(INTEGRATION))))

object    = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIB      := $(BUILD)/libbroker.a
LOAD_LIB := $(if $(LOAD_SRCS),$(BUILD)/libload.a)
BROKER   := $(BUILD)/broker
LOAD     := $(if $(LOAD_SRCS),$(BUILD)/broker-load)
UNITS    := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(UNIT_SRCS))

C_SRCS   := $(sort $(shell find src tests bench -name '*.c' 2>/dev/null))
C_FILES  := $(C_SRCS) $(sort $(shell find include src tests bench -name '*.h' 2>/dev/null))
SCRIPTS  := $(wildcard deploy/deps deploy/up deploy/check deploy/test-bare .ci/run \
	tests/lint/layers deploy/completion/broker.bash \
	deploy/tune.sh deploy/trace/run deploy/ec2/bench deploy/ec2/user-data \
	deploy/deb/build deploy/rpm/build deploy/dist deploy/sbom deploy/test-deb deploy/chroot.sh \
	deploy/npm/fetch deploy/examples/ll-hls/up deploy/examples/ll-hls/objects \
	deploy/examples/cluster/up deploy/examples/one-topic/up)
MAN1     := $(wildcard docs/man/*.1)
MAN5     := $(wildcard docs/man/*.5)

# ---- build ------------------------------------------------------------------------------------

.PHONY: all
all: $(BROKER) $(LOAD) ## Build the broker (and broker-load)

# These two hold the compiler with its flags, and the names of the sources, and are touched only
# when that changes: another CC or VERSION, or a file that is gone, rebuilds what it must.
$(BUILD)/flags: NOW   = $(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(LDFLAGS_ALL) $(PKG_LIBS)
$(BUILD)/sources: NOW = $(LIB_SRCS) $(LOAD_SRCS)
.PHONY: FORCE
$(BUILD)/flags $(BUILD)/sources: FORCE
	@pkg-config --print-errors --exists $(PACKAGES) || { echo "try: make deps" >&2; exit 1; }
	mkdir -p $(@D)
	cat >$@.new <<'END'
	$(NOW)
	END
	if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	echo "  CC    $<"
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -MMD -MP -c -o $@ $<

# The page is part of the object.
$(BUILD)/obj/src/admin/page.o: src/admin/page.html

# One object per source file, so that a test can put another ring.o in front of the archive and
# the linker leaves the real one out.
$(LIB): $(call object,$(LIB_SRCS)) $(BUILD)/sources
	@echo "  AR    $@"
	rm -f $@
	$(AR) rcs $@ $(filter %.o,$^)

# The load generator without its main, so that tests can link its parts.
$(BUILD)/libload.a: $(call object,$(filter-out %/main.c,$(LOAD_SRCS))) $(BUILD)/sources
	@echo "  AR    $@"
	rm -f $@
	$(AR) rcs $@ $(filter %.o,$^)

$(BROKER): $(call object,src/main.c) $(LIB)
	@echo "  LD    $@"
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(PKG_LIBS)

$(BUILD)/broker-load: $(call object,bench/load/main.c) $(LOAD_LIB) $(LIB)
	@echo "  LD    $@"
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(PKG_LIBS) -lm

# The simulation: its ring and its clock come before the archive, and the broker's own calls to
# these functions pass through it.
SIM_WRAPS := malloc calloc realloc aligned_alloc free malloc_usable_size strdup block_new line_session_ended shard_publish topic_sequence \
	home_subscribe subscription_answered audience_deliver stream_join stream_join_pinned subscription_new topic_letter_new mailbox_push mailbox_pop

$(BUILD)/sim: $(call object,$(SIM_SRCS)) $(LIB)
	@echo "  LD    $@"
	$(CC) $(LDFLAGS_ALL) $(SIM_WRAPS:%=-Wl,--wrap=%) -o $@ $^ $(PKG_LIBS)

# Stands between the broker and the libraries that it calls, to make their calls fail; not
# sanitized itself, or it would have to come after the sanitizer.
$(BUILD)/faults.so: $(FAULT_SRCS) $(BUILD)/flags
	@echo "  LD    $@"
	$(CC) $(CPPFLAGS_ALL) -std=c11 -g -O2 $(WARNINGS) -fPIC -shared -pthread -o $@ $(FAULT_SRCS)

$(BUILD)/limit $(BUILD)/receive: $(BUILD)/%: $(call object,bench/limit/%.c)
	@echo "  LD    $@"
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(PKG_LIBS)

# Its kernel comes before the archive's clock and before liburing.
$(BUILD)/replay: $(call object,$(COUNT_SRCS)) $(LIB)
	@echo "  LD    $@"
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(PKG_LIBS)

$(BUILD)/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(LIB)
	@echo "  LD    $@"
	$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $^ $(PKG_LIBS)

# Whole connections, in the simulation's world.
$(BUILD)/fuzz_broker: $(BUILD)/obj/tests/fuzz/fuzz_broker.o \
		$(call object,$(filter-out %/runner.c,$(SIM_SRCS))) $(LIB)
	@echo "  LD    $@"
	$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer $(SIM_WRAPS:%=-Wl,--wrap=%) -o $@ $^ $(PKG_LIBS)

# Scripts for the simulation's world.
WORLD_TESTS := test_world test_world_users test_world_patterns test_world_nats test_world_mqtt test_world_turns test_world_survey \
		test_world_websocket
$(WORLD_TESTS:%=$(BUILD)/tests/%): $(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o \
		$(call object,$(filter-out %/runner.c,$(SIM_SRCS))) $(LIB)
	@echo "  LD    $@"
	mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) $(SIM_WRAPS:%=-Wl,--wrap=%) -o $@ $^ -lcmocka $(PKG_LIBS)

$(BUILD)/tests/%: $(BUILD)/obj/tests/unit/%.o $(LOAD_LIB) $(LIB)
	@echo "  LD    $@"
	mkdir -p $(@D)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ -lcmocka $(PKG_LIBS)

# Objects are kept when a pattern rule chain made them.
.SECONDARY:

-include $(patsubst %.o,%.d,$(call object,src/main.c $(LIB_SRCS) $(LOAD_SRCS) $(UNIT_SRCS) $(SIM_SRCS) $(COUNT_SRCS) $(FUZZ_SRCS)))

.PHONY: run
run: all ## Build and start the broker on config/broker.conf
	@exec $(BROKER) -c config/broker.conf

# ---- tests ------------------------------------------------------------------------------------

# A sanitizer's report ends the program with a status of its own, which no test expects.
export ASAN_OPTIONS  ?= exitcode=99:allocator_may_return_null=1:detect_stack_use_after_return=1:strict_string_checks=1
export LSAN_OPTIONS  ?= exitcode=99
export UBSAN_OPTIONS ?= exitcode=99:print_stacktrace=1
export TSAN_OPTIONS  ?= exitcode=99:halt_on_error=1:second_deadlock_stack=1$(if \
	$(wildcard tests/tsan.supp),:suppressions=$(abspath tests/tsan.supp))

# gcc 12's ThreadSanitizer gives up when the kernel spreads mappings over too many random bits;
# it needs a fixed layout, where that is allowed (a container may refuse it).
UNDER := $(if $(filter tsan,$(VARIANT)),$(shell setarch -R true 2>/dev/null && echo setarch -R))

.PHONY: test
test: ## Run unit and integration tests of this variant
	@$(MAKE) unit
	$(MAKE) integration

# A program that ends well without cmocka's closing line has run nothing: that is a failure too.
.PHONY: unit
unit: $(UNITS) ## Run the unit tests (UNIT=pattern picks some)
	@if test -z "$(UNITS)"; then
		echo "unit ($(VARIANT)): no $(patsubst %,tests/unit/%.c,$(UNIT))" >&2
		exit 1
	fi
	rm -f $(UNITS:=.status)
	play() { timeout -k 5 600 $(UNDER) $$1 >$$1.log 2>&1 && echo 0 >$$1.status || echo $$? >$$1.status; }
	export -f play
	# The largest first: it takes longest.
	ls -S $(UNITS) | xargs -P$(NPROC) -I{} $(SHELL) -c 'play {}'
	failed=0 tests=0
	for t in $(UNITS); do
		echo "$${t##*/}"
		status=$$(cat $$t.status 2>&1 || :)
		if test "$$status" = 0 && grep -E '^\[  PASSED  \] [0-9]+ test' $$t.log; then
			n=$$(awk '/^\[  PASSED  \] [0-9]+ test/ { n += $$4 } END { print n + 0 }' $$t.log)
			tests=$$((tests + n))
		else
			cat $$t.log
			echo "$${t##*/}: FAILED, status $$status"
			failed=$$((failed + 1))
		fi
	done
	echo "unit ($(VARIANT)): $(words $(UNITS)) programs, $$tests tests passed, $$failed programs failed"
	test $$failed = 0

.PHONY: integration
integration: $(BROKER) $(LOAD) $(BUILD)/faults.so ## Run the integration tests (INTEGRATION=pattern picks some)
	@if test -z "$(INTEG_SRCS)"; then
		echo "integration ($(VARIANT)): no $(addprefix tests/integration/,$(INTEGRATION))" >&2
		exit 1
	fi
	BROKER=$(abspath $(BROKER)) PYTHONDONTWRITEBYTECODE=1 \
		$(UNDER) /usr/bin/python3 -m pytest -q -rfEs -n $(TEST_JOBS) -p no:cacheprovider $(INTEG_SRCS)

.PHONY: differences
differences: $(BROKER) ## Compare with nats-server what random commands bring (SECONDS=60, SEED=number)
	@BROKER=$(abspath $(BROKER)) PYTHONDONTWRITEBYTECODE=1 SECONDS=$(or $(SECONDS),60) SEED=$(or $(SEED),$$(date +%s)) \
		/usr/bin/python3 -m pytest -q -s -p no:cacheprovider -k random_commands tests/integration/test_nats.py

.PHONY: storms
storms: $(BROKER) $(LOAD) ## Attack the broker at full size, a healthy pair beside it (STORMS=options)
	@BROKER=$(abspath $(BROKER)) PYTHONDONTWRITEBYTECODE=1 tests/storms/run.py $(STORMS)

.PHONY: soak
soak: $(BROKER) $(LOAD) ## Everything at once for T=2m (s, m, h), memory and latency plotted to SOAK=build/soak
	@BROKER=$(abspath $(BROKER)) PYTHONDONTWRITEBYTECODE=1 tests/storms/soak.py \
		--time $(T) --out $(or $(SOAK),build/soak)

soak: T = 2m

.PHONY: sim
sim: $(BUILD)/sim ## Play SEEDS=1000 simulated brokers, and the seeds that ever failed
	@echo "sim ($(VARIANT)): $(SEEDS) seeds from $(FIRST)"
	$< --first $(FIRST) --seeds $(SEEDS) --regressions tests/sim/regressions

# A failing test leaves its broker's log in the report, and the stack of the call that failed.
.PHONY: faults
faults: ## Let every allocation, request and call of OpenSSL of the broker fail, one by one
	@FAULTS=all $(MAKE) INTEGRATION='test_faults*.py' integration

.PHONY: cluster-faults
cluster-faults: ## Three hosts, one or three servers: killed, paused, cut off, slow (RUNS=5)
	@CLUSTER=$(or $(RUNS),5) $(MAKE) INTEGRATION='test_upstream_log.py' integration

# What a run finds new stays in build/fuzz; an input that fails belongs into the corpus.
FUZZED := $(FUZZ_SRCS:tests/fuzz/fuzz_%.c=fuzz-%)

.PHONY: fuzz fuzz-run $(FUZZED)
fuzz: ## Fuzz every parser for T=60 seconds each, and the broker's sessions (clang)
	@$(MAKE) -k -j$(NPROC) SAN=fuzz fuzz-run

fuzz-run: $(FUZZED)
	@echo "fuzz: $(words $(FUZZED)) targets, $(T) s each, no failure"

$(FUZZED): fuzz-%: $(BUILD)/fuzz_%
	@mkdir -p $(BUILD)/corpus/$*
	if ! $< -max_total_time=$(T) -max_len=2048 -timeout=10 -print_final_stats=1 -verbosity=0 \
		-artifact_prefix=$(BUILD)/$*- $(BUILD)/corpus/$* \
		tests/fuzz/corpus/$* >$(BUILD)/$*.log 2>&1; then
		tail -n 60 $(BUILD)/$*.log
		echo "fuzz $*: FAILED"
		exit 1
	fi
	awk '/number_of_executed/ { print "fuzz $*: " $$2 " inputs" }' $(BUILD)/$*.log

# Goes on after a failure, so that one run shows all there is to mend.
.PHONY: check
check: ## Lint, then all tests: release, asan, fuzzing, and the threaded ones under tsan
	@logs=build/check summary= failures= failed=0
	rm -rf $$logs
	mkdir -p $$logs
	step() {
		name=$$1 begun=$$SECONDS result=ok
		shift
		echo "==== $$name"
		$(MAKE) -j$(NPROC) "$$@" 2>&1 | tee $$logs/$$name.log || { result=FAILED; failed=1; }
		last=$$(grep -v '^make' $$logs/$$name.log | tail -n 1 || :)
		printf -v line '%-20s %-6s %4d s  %s\n' $$name $$result $$((SECONDS - begun)) "$$last"
		summary+=$$line
		test $$result = ok || failures+=$$name:$$'\n'$$(grep -aE '^(FAILED|ERROR|E  ) ?|FAILED|ERROR: |error: ' \
			$$logs/$$name.log | cut -c 1-200 | head -n 40 | sed 's/^/  /' || :)$$'\n'
	}
	step lint                lint
	step release-build       SAN= all
	step release-unit        SAN= unit
	step release-integration SAN= integration
	step release-sim         SAN= sim
	step release-count       SAN= bench-instructions
	step asan-build          SAN=asan all
	step asan-unit           SAN=asan unit
	step asan-integration    SAN=asan integration
	step asan-sim            SAN=asan SEEDS=60 sim
	step fuzz                SAN= T=2 fuzz
	step tsan-build          SAN=tsan all
	step tsan-unit           SAN=tsan UNIT='test_mailbox*' unit
	step tsan-integration    SAN=tsan INTEGRATION='test_threads*.py' integration
	printf '\n==== summary\n%s\n' "$$summary"
	if test $$failed = 0; then
		echo "check: all passed in $$SECONDS s"
	else
		printf '%s\n' "$$failures"
		echo "check: FAILED after $$SECONDS s"
		exit 1
	fi

# ---- bench ------------------------------------------------------------------------------------

.PHONY: bench
bench: $(BROKER) $(LOAD) $(BUILD)/limit ## Measure broker, peers and limit, write a report (QUICK=1: 5 minutes)
	@test "$(VARIANT)" = release || { echo "bench: SAN=$(SAN) measures nothing" >&2; exit 1; }
	bench/peers/build --no-install || echo "bench: goes on with the peers that are there" >&2
	bench/run.py $(if $(filter 1 true yes,$(QUICK)),--quick) $(BENCH)

# The newest full report in the tree is what a change is held against.
BASELINE ?= $(lastword $(sort $(filter-out %-quick %-knobs,$(wildcard bench/reports/*))))

.PHONY: bench-knobs
bench-knobs: $(BROKER) $(LOAD) $(BUILD)/limit ## Measure what each knob of engine { } does, write a report: about 10 minutes
	bench/knobs.py $(BENCH)

.PHONY: bench-cluster
bench-cluster: $(BROKER) $(LOAD) ## Measure what a cluster as upstream costs: about 4 minutes
	bench/peers/build --no-install || echo "bench: goes on with the peers that are there" >&2
	bench/cluster.py $(BENCH)

.PHONY: bench-kernel
bench-kernel: $(BUILD)/limit $(BUILD)/receive ## Try newer ways of the kernel beside those of the broker: about 4 minutes
	bench/limit/tries $(BENCH)

# Counts repeat exactly, so unlike times they can be held against a file in the tree.
.PHONY: bench-instructions
bench-instructions: $(BUILD)/replay ## Fail when the broker's own code takes more instructions (UPDATE=1: new baseline)
	@test "$(VARIANT)" = release || { echo "bench-instructions: SAN=$(SAN) measures nothing" >&2; exit 1; }
	bench/instructions/count $(if $(filter 1 true yes,$(UPDATE)),--update)

.PHONY: bench-gate
bench-gate: bench-instructions ## Fail when the main figures are worse than in the newest report (BASELINE=directory)
	@test -n "$(BASELINE)" || { echo "bench-gate: no report in bench/reports; try: make bench" >&2; exit 1; }
	$(MAKE) bench QUICK=1 BENCH="--rounds 4 --out build/bench-gate \
		--only each100,each1000,fan100,fan1000,many,one2one,seg8k,seg1m,fan100-tls,many-tls"
	bench/compare --gate $(BASELINE) build/bench-gate

# ---- house keeping ----------------------------------------------------------------------------

# clang sees every source file as well: it warns about other things than gcc. cppcheck gets no
# --library=posix,gnu: in Debian 12 these are wrong about mmap(2) and accept4(2).
.PHONY: lint
lint: $(call object,src/main.c) $(LIB) ## Layers, circles, format, cppcheck, clang's warnings, shellcheck
	@tests/lint/layers --self-test
	tests/lint/layers .
	CC="$(CC)" tests/lint/circles --self-test
	tests/lint/circles . $(BUILD)/obj
	if test -n "$(C_SRCS)"; then
		clang-format --dry-run -Werror $(C_FILES)
		echo "clang-format: $(words $(C_FILES)) files are in shape"
		mkdir -p build/lint
		cppcheck --quiet --std=c11 --language=c -j$(NPROC) --cppcheck-build-dir=build/lint \
			--enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
			-D_GNU_SOURCE -D__linux__ -DBROKER_VERSION='""' -Iinclude -Ibench $(C_SRCS)
		echo "cppcheck: no complaint"
		printf '%s\n' $(C_SRCS) | xargs -P$(NPROC) -n8 clang $(CPPFLAGS_ALL) \
			-std=c11 $(WARNINGS) -Werror -fsyntax-only
		echo "clang: no warning"
	fi
	shellcheck -x $(SCRIPTS)
	mandoc -Tlint -Wwarning $(MAN1) $(MAN5)
	echo "lint: no complaint"

.PHONY: format
format: ## Bring all C files into shape with clang-format
	@test -z "$(C_FILES)" || clang-format -i $(C_FILES)

.PHONY: deps
deps: ## Install and fetch what building and testing need
	@deploy/deps build test examples

.PHONY: check-bare
check-bare: ## Prove deploy/check and deploy/up in a bare Debian 12, builds elsewhere (root)
	@deploy/test-bare

# ---- install ----------------------------------------------------------------------------------

CONFIG_DIR := $(DESTDIR)$(sysconfdir)/broker

.PHONY: install
install: all ## Install below PREFIX (/usr/local); DESTDIR is put in front
	@install -D -m 755 -t $(DESTDIR)$(bindir) $(BROKER) $(LOAD)
	test -z "$(MAN1)" || install -D -m 644 -t $(DESTDIR)$(mandir)/man1 $(MAN1)
	test -z "$(MAN5)" || install -D -m 644 -t $(DESTDIR)$(mandir)/man5 $(MAN5)
	install -D -m 644 deploy/completion/broker.bash $(DESTDIR)$(bashdir)/broker
	$(if $(LOAD),ln -sf broker $(DESTDIR)$(bashdir)/broker-load)
	install -D -m 644 deploy/completion/broker.zsh $(DESTDIR)$(zshdir)/_broker
	install -D -m 644 deploy/broker.sysusers $(DESTDIR)$(sysusersdir)/broker.conf
	install -D -m 644 -t $(DESTDIR)$(sysctldir) deploy/sysctl.d/60-broker.conf
	install -D -m 755 -t $(DESTDIR)$(datadir) deploy/tune.sh
	install -D -m 755 -t $(DESTDIR)$(datadir)/trace deploy/trace/run
	install -D -m 644 -t $(DESTDIR)$(datadir)/trace deploy/trace/*.bt
	install -D -m 644 -t $(DESTDIR)$(datadir)/grafana deploy/grafana/broker.json
	install -D -m 644 -t $(DESTDIR)$(datadir)/prometheus deploy/prometheus/broker.yml
	install -D -m 755 -t $(DESTDIR)$(datadir)/ec2 deploy/ec2/bench deploy/ec2/user-data
	install -D -m 644 -t $(DESTDIR)$(datadir)/ec2 deploy/ec2/README.md deploy/ec2/launch-template.json
	install -D -m 644 -t $(DESTDIR)$(datadir)/container deploy/container/README.md \
		deploy/container/seccomp.json
	mkdir -p $(DESTDIR)$(unitdir)
	sed -e 's|/usr/bin/broker|$(bindir)/broker|; s|/etc/broker|$(sysconfdir)/broker|' \
		deploy/broker.service >$(DESTDIR)$(unitdir)/broker.service
	if test -e $(CONFIG_DIR)/broker.conf; then
		echo "kept $(CONFIG_DIR)/broker.conf"
	else
		install -D -m 644 -t $(CONFIG_DIR) config/broker.conf
	fi

# A configuration that somebody has changed is theirs.
.PHONY: uninstall
uninstall: ## Remove what install put there, but no changed configuration
	@rm -f $(DESTDIR)$(bindir)/broker $(DESTDIR)$(bindir)/broker-load
	rm -f $(patsubst docs/man/%,$(DESTDIR)$(mandir)/man1/%,$(MAN1))
	rm -f $(patsubst docs/man/%,$(DESTDIR)$(mandir)/man5/%,$(MAN5))
	rm -f $(DESTDIR)$(bashdir)/broker $(DESTDIR)$(bashdir)/broker-load $(DESTDIR)$(zshdir)/_broker
	rm -f $(DESTDIR)$(sysctldir)/60-broker.conf
	rm -rf $(DESTDIR)$(datadir)
	rm -f $(DESTDIR)$(unitdir)/broker.service $(DESTDIR)$(sysusersdir)/broker.conf
	if cmp -s config/broker.conf $(CONFIG_DIR)/broker.conf; then
		rm $(CONFIG_DIR)/broker.conf
		rmdir --ignore-fail-on-non-empty $(CONFIG_DIR)
	elif test -e $(CONFIG_DIR)/broker.conf; then
		echo "left $(CONFIG_DIR)/broker.conf: it was changed"
	fi

.PHONY: deb
deb: ## Build the Debian package in build/deb, and have lintian look at it
	@deploy/deb/build

.PHONY: rpm
rpm: ## Build the rpm packages of the last commit in build/rpm
	@deploy/rpm/build

.PHONY: dist
dist: $(BROKER) ## Make a release in build/dist: tarball of the last commit, bill of materials, checksums
	@deploy/dist $(BROKER)

.PHONY: check-deb
check-deb: ## Prove the package on a bare Debian 12 in a chroot (root)
	@deploy/test-deb

# ---- the rest ---------------------------------------------------------------------------------

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	echo
	echo "  SAN=asan|tsan|cov picks a variant: make SAN=asan test"

# What deploy/deps has fetched stays: nothing else can bring it back.
.PHONY: clean
clean: ## Remove everything that was built
	@test ! -d build || find build -mindepth 1 -maxdepth 1 ! -name npm -exec rm -rf {} +
