EXTENSION = tierlimit
MODULE_big = tierlimit
PGFILEDESC = "tierlimit - API rate limits and quotas in shared memory"

DATA = $(wildcard sql/*--*.sql)
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))
SHLIB_EXPORTS = src/exports.txt

# What the tests print depends on neither the user's locale nor on a server
# that happens to run: each suite starts its own.
TEST_CONF = --temp-config=test/tierlimit.conf
ENCODING = UTF8
NO_LOCALE = 1

REGRESS = install sliding tiers credits calendar shadow keys misuse \
	transactions privileges log answers secrets gate retry downgrade postgrest statistics
REGRESS_OPTS = --inputdir=test --temp-instance=./tmp_check $(TEST_CONF)

ISOLATION = change_tier keep_charge sign_up
ISOLATION_OPTS = --inputdir=test --outputdir=. --temp-instance=./tmp_check_iso $(TEST_CONF)

TAP_TESTS = 1
PROVE_TESTS = test/t/*.pl

EXTRA_CLEAN = build test/unit/build test/service/node_modules

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
# OpenSSL, if the server has it (src/sha256.c).
SHLIB_LINK += $(filter -lcrypto, $(LIBS))
# As one unit: a check is many small functions of different files.  (PGXS has set
# CFLAGS by override; without one, what is added here would be ignored.)
ifneq ($(filter gcc%, $(notdir $(firstword $(CC)))),)
override CFLAGS += -flto=auto -fno-semantic-interposition -fno-plt
endif
else
all install installcheck:
	@echo 'To build tierlimit, install the files that PostgreSQL extensions are built with' >&2
	@echo '(Debian: apt-get install postgresql-server-dev-15), or say where they are:' >&2
	@echo '    make PG_CONFIG=/path/to/pg_config' >&2
	@exit 1
clean:
	rm -rf $(EXTRA_CLEAN)
endif

# PGXS tracks no headers.
$(OBJS): $(wildcard src/*.h)

# These need nothing installed: they fetch what they lack.
.PHONY: test check demo demo-stop service bench

test:
	@test/tools/run-tests

# PGXS has a check of its own, which says "not supported" and succeeds: mute it.
check: private SHELL = true
check: test

demo demo-stop service bench:
	@test/tools/$@

clean: demo-stop
