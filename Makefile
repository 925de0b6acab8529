# anyvod: Makefile for PGXS
#
#   make, make install       build and install (PG_CONFIG=... picks a server)
#   make demo                the main job before your eyes, nothing installed
#   make test                every test, in a throwaway cluster
#   make bench               how fast, beside the limits of the machine;
#                            OTHER=/path/to/tree compares two source trees
#   make bench-quick         the same in less than two minutes
#   make bench-schedule      what the learned schedule costs, beside others
#   make bench-pace          what the worker needs, beside what it should
#   make soak-calls          200,000 calls and 20,000 cancelled in one session
#   make soak                half an hour at 2,000 questions a second, with faults
#   make sanitize            the tests with AddressSanitizer, UBSan and assertions
#   make valgrind            the tests with every server process under valgrind
#   make faults              faults of network, system and database, as a table
#   make gallery-test        the gallery in a real browser
#   make doc-test            what the documents say, with pgbouncer and Python
#   make monitor-test        the figures for Prometheus, with its own programs
#   make matrix-build        compile against every supported version
#   make matrix              every test on every supported version
#   make deb, make deb-check Debian packages; their test on clean systems
#   make newcomer            README's set-up on a bare system, with its times
#   make dist                archives of the committed sources
#   make meta                META.json, from the control file
#   make fuzz SECONDS=60     look for bytes that the readers cannot bear
#   make coverage            what the tests reach of the code without a server
#   make format              PostgreSQL's code style

MODULE_big = anyvod
OBJS = \
	$(WIN32RES) \
	src/anyvod.o \
	src/control/counters.o \
	src/control/hooks.o \
	src/control/shmem.o \
	src/control/slot.o \
	src/http/client.o \
	src/http/event_loop.o \
	src/http/handles.o \
	src/http/loop.o \
	src/http/multi.o \
	src/http/result.o \
	src/launcher/launcher.o \
	src/response/answer.o \
	src/response/document.o \
	src/response/sanitize.o \
	src/response/to_datum.o \
	src/response/value.o \
	src/schedule/plan.o \
	src/schedule/retry.o \
	src/schedule/schedule.o \
	src/server/options.o \
	src/server/settings.o \
	src/server/validate.o \
	src/sql/errors.o \
	src/sql/query.o \
	src/sql/query_many.o \
	src/sql/request.o \
	src/sql/stat_views.o \
	src/sql/triggers.o \
	src/sql/wait.o \
	src/table/access.o \
	src/table/row_image.o \
	src/table/select.o \
	src/table/settled.o \
	src/table/update.o \
	src/worker/durations.o \
	src/worker/give_up.o \
	src/worker/poll.o \
	src/worker/queue.o \
	src/worker/retention.o \
	src/worker/scan.o \
	src/worker/server_health.o \
	src/worker/worker.o \
	src/worker/write.o
PGFILEDESC = "anyvod - AI image and video tasks of an AnyAPI gateway"

EXTENSION = anyvod
DATA = anyvod--1.0.sql

CURL_CONFIG ?= curl-config
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" $(dir $(lastword $(MAKEFILE_LIST)))anyvod.control)
PG_CPPFLAGS = -I$(srcdir)/src -DANYVOD_VERSION='"$(EXTVERSION)"' $(shell pkg-config --cflags libcurl 2>/dev/null || $(CURL_CONFIG) --cflags)
# PostgreSQL's own headers have parameters that they do not use.
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter
# A question calls the server and libcurl hundreds of times: 1 % of its time
# goes into the linker's stubs.
PG_CFLAGS += -fno-plt
SHLIB_EXPORTS = src/exports.txt
SHLIB_LINK = $(shell pkg-config --libs libcurl 2>/dev/null || $(CURL_CONFIG) --libs)

# The order matters: each file makes what it needs, and no more.
REGRESS = upstream query many parse tasks wait stat looks versions
# They want the simulator beside the server: see "make test", and
# debian/tests/installcheck, which says where it listens.
ifndef ANYVOD_SIMULATOR_PORT
NO_INSTALLCHECK = 1
endif
EXTRA_CLEAN = build src/exports.list

# "make test" works, and says what is missing, before there is a pg_config.
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
include $(wildcard $(PGXS))

# Everything below runs scripts of test/ that say more about themselves.  They
# need neither an installed anyvod nor a running server, and install what they
# miss (see test/setup).

.PHONY: setup test faults soak soak-calls sanitize valgrind bench-pace \
	bench-schedule demo matrix fuzz coverage format format-check gallery-test \
	matrix-build deb deb-check dist doc-test meta meta-check pg-upgrade \
	monitor-test newcomer

setup:
	@PG_CONFIG='$(PG_CONFIG)' test/setup

test:
	@PG_CONFIG='$(PG_CONFIG)' TESTS='$(TESTS)' TAP='$(TAP)' KEEP='$(KEEP)' \
		REGRESS='$(REGRESS)' \
		SOME_REGRESS='$(filter command line,$(origin REGRESS))' test/run

soak-calls:
	@PG_CONFIG='$(PG_CONFIG)' TESTS=tap TAP=150 ANYVOD_CALLS=200000 test/run

soak:
	@PG_CONFIG='$(PG_CONFIG)' KEEP='$(KEEP)' STAGE_LIMIT=3600 TESTS=tap \
		TAP=231 ANYVOD_SOAK=1800 test/run

sanitize valgrind:
	@PG_CONFIG='$(PG_CONFIG)' KEEP='$(KEEP)' TESTS='$(TESTS)' TAP='$(TAP)' \
		REGRESS='$(if $(filter command line,$(origin REGRESS)),$(REGRESS))' \
		test/instrumented $@

faults:
	@PG_CONFIG='$(PG_CONFIG)' TESTS=faults FAULTS='$(FAULTS)' KEEP='$(KEEP)' \
		test/run

demo:
	@PG_CONFIG='$(PG_CONFIG)' test/demo

.PHONY: bench bench-quick
bench bench-quick:
	@PG_CONFIG='$(PG_CONFIG)' ROWS='$(ROWS)' RUNS='$(RUNS)' OTHER='$(OTHER)' \
		QUICK='$(if $(filter bench-quick,$@),yes)' bench/run

bench-schedule: setup
	@$(MAKE) -s -C bench PG_CONFIG='$(PG_CONFIG)' schedule

bench-pace:
	@PG_CONFIG='$(PG_CONFIG)' TESTS=tap TAP=schedule_end_to_end ANYVOD_PACE=yes KEEP='$(KEEP)' \
		test/run

gallery-test:
	@test/setup chromium chromedriver
	@$(MAKE) -s test TESTS=tap TAP='320 321'

doc-test:
	@test/setup pgbouncer python3-psycopg2
	@$(MAKE) -s test TESTS=tap TAP='350 351'

monitor-test:
	@PG_CONFIG='$(PG_CONFIG)' KEEP='$(KEEP)' test/monitor

matrix-build:
	@test/matrix build

matrix:
	@TESTS='$(TESTS)' TAP='$(TAP)' \
		REGRESS='$(if $(filter command line,$(origin REGRESS)),$(REGRESS))' \
		test/matrix

deb:
	@test/deb

deb-check:
	@test/deb check

newcomer:
	@test/newcomer

# The name with three numbers is PGXN's wish.
dist:
	@mkdir -p build
	git archive --prefix=anyvod-$(EXTVERSION)/ -o build/anyvod-$(EXTVERSION).tar.gz HEAD
	git archive --prefix=anyvod-$(EXTVERSION).0/ -o build/anyvod-$(EXTVERSION).0.zip HEAD

meta:
	@test/meta

meta-check:
	@test/meta --check

pg-upgrade:
	@test/matrix upgrade

fuzz:
	@test/setup clang
	@$(MAKE) -C test/fuzz PG_CONFIG='$(PG_CONFIG)' \
		$(if $(SECONDS),SECONDS='$(SECONDS)') fuzz

coverage:
	@test/setup
	@$(MAKE) -s -C test/unit PG_CONFIG='$(PG_CONFIG)' coverage

format:
	@test/format

format-check:
	@test/format --check

# Without a server's makefiles there is nothing above this line to build with;
# the targets above still work, the others say what is missing.
ifeq ($(wildcard $(PGXS)),)
.DEFAULT_GOAL = all
.PHONY: all install installcheck
all install installcheck:
	@echo 'anyvod: no PostgreSQL server headers found by PG_CONFIG=$(PG_CONFIG)' >&2
	@exit 1
endif
