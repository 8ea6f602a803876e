# SPDX-License-Identifier: MIT
# The list of commands; meson does the building.  `make` = a release build in build/release.

BUILD ?= build
JOBS  ?= $(shell nproc)
MESON  = meson setup --reconfigure
PY     = $(shell command -v /usr/bin/python3 || command -v python3)

.PHONY: all demo quick check check-full soak asan tsan tsa sim bench install deps locking clean

all: release

deps:
	@tools/deps.sh

# $(call build,NAME,MESON OPTIONS)
define build
	@test -f $(BUILD)/$(1)/build.ninja || meson setup $(BUILD)/$(1) $(2) >$(BUILD)-$(1).log 2>&1 || \
		{ cat $(BUILD)-$(1).log; exit 1; }
	@rm -f $(BUILD)-$(1).log
	@ninja -C $(BUILD)/$(1) -j $(JOBS) $(NINJA_QUIET)
endef

.PHONY: release check-build asan-build tsan-build clang-build
release:
	$(call build,release,-Dtests=false -Dstatic_engine=true -Db_lto=true)
# What tests run: optimised, asserts and the lock-rank checker on.
check-build: deps
	$(call build,check,-Dbuildtype=debugoptimized -Dlockrank=true)
asan-build: deps
	$(call build,asan,-Dbuildtype=debugoptimized -Dlockrank=true -Dstatic_engine=true -Db_sanitize=address$(comma)undefined -Db_lundef=false)
	@ninja -C $(BUILD)/asan -j $(JOBS) $(NINJA_QUIET) uext4-walk-fuzz
tsan-build: deps
	$(call build,tsan,-Dbuildtype=debugoptimized -Dlockrank=true -Dstatic_engine=true -Db_sanitize=thread -Db_lundef=false)
clang-build: deps
	@export CC=clang; test -f $(BUILD)/clang/build.ninja || meson setup $(BUILD)/clang >/dev/null
	@ninja -C $(BUILD)/clang -j $(JOBS) $(NINJA_QUIET)
comma := ,

demo: deps release
	@tools/demo.sh $(BUILD)/release/uext4

quick: check-build
	@$(PY) t/run.py --build $(BUILD) quick
check: check-build asan-build tsan-build clang-build release tsa
	@$(PY) t/run.py --build $(BUILD) check
check-full: check-build asan-build tsan-build clang-build release
	@$(PY) t/run.py --build $(BUILD) full
# Stores through mappings against everything, for SECONDS of each kind of image.
soak: check-build
	@$(PY) t/storm.py --uext4 $(BUILD)/check/uext4 --storm $(BUILD)/check/uext4-storm --seconds $(SECONDS_EACH) --jobs 2
SECONDS_EACH ?= 3600
asan: asan-build
	@$(PY) t/run.py --build $(BUILD) asan
tsan: tsan-build
	@$(PY) t/run.py --build $(BUILD) tsan

# clang's thread-safety analysis of every engine source; it builds nothing.
tsa: deps
	@tools/tsa.sh

# More schedules, from SEED on, with atomic operations as scheduling points.
SEED ?= 1
COUNT ?= 1000
sim: check-build
	@ninja -C $(BUILD)/check -j $(JOBS) $(NINJA_QUIET) sim-atomic
	@$(BUILD)/check/sim-atomic --seed $(SEED) --count $(COUNT)

bench: deps release check-build
	@ninja -C $(BUILD)/release -j $(JOBS) $(NINJA_QUIET) mapbench
	@$(PY) bench/bench.py --uext4 $(BUILD)/release/uext4 --nullfuse $(BUILD)/check/nullfuse \
		--mapbench $(BUILD)/release/mapbench

install: release
	@meson install -C $(BUILD)/release --no-rebuild $(if $(DESTDIR),--destdir $(abspath $(DESTDIR)))

locking:
	@$(PY) tools/mklocking.py >docs/locking.md

clean:
	rm -rf $(BUILD)
