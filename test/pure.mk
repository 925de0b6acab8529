# What test/unit and test/fuzz have in common: how the pure files are built
# without a server.  The including Makefile sets HERE, its own folder.

PG_CONFIG ?= pg_config
CURL_CONFIG ?= curl-config
CC = gcc
CFLAGS = -O2 -g

# Assertions of src/ hold in the tests.
ASSERTIONS = -DUSE_ASSERT_CHECKING

TOP := $(abspath $(HERE)/../..)
UNIT := $(TOP)/test/unit

# libpgcommon and libpgport are in either folder, depending on the packager.
LIBDIRS := $(shell $(PG_CONFIG) --pkglibdir) $(shell $(PG_CONFIG) --libdir)
PGLIBS := $(foreach lib,pgcommon pgport,$(firstword \
	$(wildcard $(addsuffix /lib$(lib).a,$(LIBDIRS)))))

ALL_CFLAGS = -std=gnu11 -Wall -Wextra -Werror -Wno-unused-parameter \
	-Wno-ignored-attributes $(CFLAGS) -DFRONTEND $(ASSERTIONS) \
	-isystem $(shell $(PG_CONFIG) --includedir-server) -I$(TOP)/src \
	-I$(UNIT) $(MORE_CFLAGS)

# The pure files: no SPI, no libcurl, no clock, no backend.
PURE = answer document plan retry sanitize schedule value validate
HELPERS = bytes expected memory sound
HEADERS = $(wildcard $(HERE)/*.h $(UNIT)/*.h $(TOP)/src/*.h \
	$(TOP)/src/response/*.h $(TOP)/src/schedule/*.h \
	$(TOP)/src/server/validate.h)
OBJECTS = $(PURE:%=$(BUILD)/%.o) $(HELPERS:%=$(BUILD)/%.o)

VPATH = $(HERE):$(UNIT):$(TOP)/src:$(TOP)/src/response:\
	$(TOP)/src/schedule:$(TOP)/src/server

$(BUILD)/%.o: %.c $(HEADERS)
	@mkdir -p $(BUILD)
	$(CC) $(ALL_CFLAGS) -c $< -o $@

.SECONDARY:
