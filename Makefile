EXTENSION = tierlimit
MODULE_big = tierlimit
PGFILEDESC = "tierlimit - API rate limits and quotas in shared memory"

# This file's folder, which need not be the one that make runs in, and names of
# files there.
here := $(patsubst %/,%,$(dir $(firstword $(MAKEFILE_LIST))))
files = $(patsubst $(here)/%,%,$(sort $(wildcard $(here)/$(1))))

DATA = $(call files,sql/*--*.sql)
OBJS = $(patsubst %.c,%.o,$(call files,src/*.c) $(call files,src/*/*.c))
PG_CPPFLAGS = -I$(here)/src
SHLIB_EXPORTS = src/exports.txt

# What the tests print depends on neither the user's locale nor on a server
# that happens to run: each suite starts its own.
TEST_CONF = --temp-config=test/tierlimit.conf
ENCODING = UTF8
NO_LOCALE = 1

REGRESS = install sliding tiers credits calendar shadow keys misuse \
	transactions privileges log answers secrets gate anonymous paths retry \
	downgrade postgrest statistics config extremes report bill simulate page
REGRESS_OPTS = --inputdir=test --temp-instance=./tmp_check $(TEST_CONF)

ISOLATION = change_tier keep_charge sign_up
ISOLATION_OPTS = --inputdir=test --outputdir=. --temp-instance=./tmp_check_iso $(TEST_CONF)

TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

EXTRA_CLEAN = build test/unit/build test/service/node_modules test/page/node_modules

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

# Debian has most of PGXS in the client's package, but not the server's headers.
ifneq ($(wildcard $(shell $(PG_CONFIG) --includedir-server 2>/dev/null)/postgres.h),)
include $(PGXS)
# OpenSSL, if the server has it (src/base/sha256.c).
SHLIB_LINK += $(filter -lcrypto, $(LIBS))
# As one unit: a check is many small functions of different files.  (PGXS has set
# CFLAGS by override; without one, what is added here would be ignored.)  Only for
# gcc, which goes by several names.
ONE_UNIT ?= $(findstring Free Software Foundation,$(shell $(CC) --version 2>/dev/null))
ifneq ($(filter-out no,$(ONE_UNIT)),)
override CFLAGS += -flto=auto -fno-semantic-interposition -fno-plt
endif
# Compilers make files, but no folders.
ifneq ($(here),.)
$(shell mkdir -p $(dir $(OBJS)))
endif
else
all install installcheck:
	@echo 'To build tierlimit, install the files that PostgreSQL extensions are built with' >&2
	@echo "(Debian: apt-get install $$($(here)/test/tools/deps --headers)), or say where they are:" >&2
	@echo '    make PG_CONFIG=/path/to/pg_config' >&2
	@exit 1
clean:
	rm -rf $(EXTRA_CLEAN)
endif

# PGXS tracks no headers.
$(OBJS): $(call files,src/*/*.h)

# These need nothing installed: they fetch what they lack.
.PHONY: test check test-matrix test-fresh test-upgrade demo demo-stop service bench bench-build bench-reports dist indent

test:
	@$(here)/test/tools/run-tests

# PGXS has a check of its own, which says "not supported" and succeeds: mute it.
check: private SHELL = true
check: test

test-upgrade:
	@$(here)/test/tools/test-matrix upgrade

test-matrix test-fresh demo demo-stop service bench bench-build bench-reports dist indent:
	@$(here)/test/tools/$@
