# SPDX-License-Identifier: GPL-2.0-or-later
#
# Stands in for the kernel's tools/testing/selftests/lib.mk when a selftest
# directory is built out of tree. The same variables:
#	TEST_PROGS		programs to run as they are
#	TEST_GEN_PROGS		programs to build and run
#	TEST_GEN_FILES		programs to build that the others use
#	TEST_FILES		what else they use
#	CFLAGS LDFLAGS LDLIBS	(LDLIBS of one: $(OUTPUT)/NAME: LDLIBS += -lX)
#	OUTPUT			where to build (here: build/selftests/<directory>)
# and targets: all, list (what to run), run_tests, clean.
LIBMK_TOP := $(abspath $(dir $(lastword $(MAKEFILE_LIST)))/..)
CBW_BUILD ?= $(LIBMK_TOP)/build
ifeq ($(OUTPUT),)
OUTPUT := $(CBW_BUILD)/selftests/$(notdir $(CURDIR))
endif
KHDR_INCLUDES ?= -I$(LIBMK_TOP)/kernel/include/uapi
CFLAGS += -D_GNU_SOURCE

TEST_GEN_PROGS := $(addprefix $(OUTPUT)/,$(TEST_GEN_PROGS))
TEST_GEN_FILES := $(addprefix $(OUTPUT)/,$(TEST_GEN_FILES))

all: $(TEST_GEN_PROGS) $(TEST_GEN_FILES)

$(OUTPUT):
	@mkdir -p $@

$(OUTPUT)/%: %.c | $(OUTPUT)
	$(CC) $(CFLAGS) $(KHDR_INCLUDES) $(CPPFLAGS) $(LDFLAGS) $(filter %.c %.o %.a %.S,$^) $(LDLIBS) -o $@

list:
	@printf '%s\n' $(addprefix $(CURDIR)/,$(TEST_PROGS)) $(TEST_GEN_PROGS)

run_tests: all
	$(LIBMK_TOP)/tools/vm/run $(addprefix $(CURDIR)/,$(TEST_PROGS)) $(TEST_GEN_PROGS)

clean:
	rm -f $(TEST_GEN_PROGS) $(TEST_GEN_FILES)

.PHONY: all list run_tests clean
