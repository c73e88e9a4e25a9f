# SPDX-License-Identifier: GPL-2.0-or-later
#
# make                    user space, and the module if this machine has a
#                         kernel build directory (KDIR)
# make module KDIR=...    the module alone; DEBUG=1: with delay hooks; W=1, C=1
# make check              unit tests, a minute of fuzzing, VM cases on the stable kernel, bars
# make check CASES='a b'  only these cases
# make check-long         with the cases that take longer
# make check-kernels      the VM cases on the stable, backports and sid kernels
# make check-debug        the VM cases on a KASAN + lockdep + kmemleak kernel, and
#                         those with injected faults (builds it: 15 minutes)
# make check-kcsan        the concurrent ones on a kernel that finds data races
# tools/vm/run --shell    a shell on such a kernel (tools/vm/README)
# make demo               the main job, end to end, in a VM
# make fuzz [SECONDS=120]  the fuzzers, so long each, what they find in build/fuzz
# make bench              all figures, into bench/ (more than an hour)
# make bench ROWS=REGEX   a part, on the terminal (tools/bench/run --list)
# make lint               what reviewers' tools say
# make install            DESTDIR=, PREFIX=
# make clean

TOP := $(CURDIR)
KDIR ?= $(wildcard /lib/modules/$(shell uname -r)/build)
PREFIX ?= /usr/local
export PREFIX DESTDIR CASES ROWS SECONDS KDIR DEBUG W C V

.PHONY: all module userspace selftests check check-long check-kernels \
	check-debug check-kcsan fuzz demo bench lint install clean help deps

all: userspace $(if $(KDIR),module)

help:
	@sed -n '3,/^$$/s/^# //p' Makefile

deps:
	@tools/deps

module:
	@tools/kernel/module

userspace:
	@if [ -f userspace/Makefile ]; then $(MAKE) -C userspace; \
	else echo "there is no userspace/ yet"; fi

selftests: userspace
	@$(MAKE) -C selftests

check:
	@tools/check

check-long:
	@tools/check --long

check-kernels:
	@tools/check --kernels

check-debug:
	@tools/check --debug

check-kcsan:
	@tools/check --kcsan

fuzz:
	@$(MAKE) -C selftests/fuzz run-all

demo:
	@tools/deps demo
	@tools/demo

bench:
	@tools/bench/all

lint:
	@tools/lint

install: userspace
	$(MAKE) -C userspace install
	@if [ -n "$(KDIR)" ]; then ko=$$(tools/kernel/module | tail -n 1) && \
		$(MAKE) -C "$(KDIR)" M="$${ko%/*}" \
			$(if $(DESTDIR),INSTALL_MOD_PATH="$(DESTDIR)") \
			modules_install; \
	else echo "no KDIR: the module is not installed"; fi

clean:
	rm -rf build
	@if [ -f userspace/Makefile ]; then $(MAKE) -C userspace clean; fi
