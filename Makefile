# qst-mpi: `make help` lists the targets. What the machine offers is found by env.sh (modules or packages).
#
# Variables: CC, CFLAGS (added), PREFIX, V=1 (show commands), SAN=address|thread (sanitizer build in its own folder),
# BUILD (folder of all products), search=TEXT (run the tests whose name contains it).

SHELL := /bin/bash
.DEFAULT_GOAL := all
BUILD ?= build$(if $(SAN),/$(SAN))
PREFIX ?= /usr/local
V ?= 0
Q := $(if $(filter 1,$(V)),,@)

# Libraries. A cluster's env.sh may set any of these after loading its modules.
PKG := pkg-config
MPI_CFLAGS ?= $(shell $(PKG) --cflags ompi-c 2>/dev/null || mpicc --showme:compile)
MPI_LIBS ?= $(shell $(PKG) --libs ompi-c 2>/dev/null || mpicc --showme:link)
HDF5_CFLAGS ?= $(shell $(PKG) --cflags hdf5-openmpi 2>/dev/null || $(PKG) --cflags hdf5)
HDF5_LIBS ?= $(shell $(PKG) --libs hdf5-openmpi 2>/dev/null || $(PKG) --libs hdf5)
OTHER_CFLAGS ?= $(shell $(PKG) --cflags jansson libpcre2-8 libutf8proc libxxhash)
OTHER_LIBS ?= $(shell $(PKG) --libs jansson libpcre2-8 libutf8proc libxxhash) -ldnnl

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes -Wmissing-prototypes
SAN_address := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1
SAN_thread := -fsanitize=thread -O1
BASE_CFLAGS := -std=c11 -D_GNU_SOURCE -O3 -g -fopenmp -MMD -MP $(WARNINGS) -Isrc -I. \
  $(MPI_CFLAGS) $(HDF5_CFLAGS) $(OTHER_CFLAGS) $(SAN_$(SAN))
LIBS := $(MPI_LIBS) $(HDF5_LIBS) $(OTHER_LIBS) -lm

# kernels/cpu/isa/ is compiled once for each instruction set; the device chooses when it opens.
ISAS := plain avx2 avx512
ISA_plain :=
ISA_avx2 := -mavx2 -mfma -mf16c -mprefer-vector-width=256
ISA_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vbmi -mfma -mprefer-vector-width=512

SOURCES := $(wildcard src/base/*.c src/commands/*.c src/*.c kernels/*.c kernels/cpu/*.c comm/*.c io/*.c)
LIBRARY_SOURCES := $(filter-out src/main.c,$(SOURCES))
ISA_SOURCES := $(wildcard kernels/cpu/isa/*.c)
LIBRARY_OBJECTS := $(LIBRARY_SOURCES:%.c=$(BUILD)/%.o) \
  $(foreach isa,$(ISAS),$(ISA_SOURCES:kernels/cpu/isa/%.c=$(BUILD)/kernels/cpu/isa/%.$(isa).o))
LIBRARY := $(BUILD)/libqst.a
PROGRAM := $(BUILD)/qst-mpi
TEST_PROGRAMS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/t[0-9]*.c))

.PHONY: all
all: $(PROGRAM) ## build the program (build/qst-mpi)

$(PROGRAM): $(BUILD)/src/main.o $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "link $@")
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

$(LIBRARY): $(LIBRARY_OBJECTS)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/%.o: %.c
	$(if $(filter 1,$(V)),,@echo "cc   $<")
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -c -o $@ $<

define ISA_RULE
$(BUILD)/kernels/cpu/isa/%.$(1).o: kernels/cpu/isa/%.c
	$$(if $$(filter 1,$$(V)),,@echo "cc   $$< ($(1))")
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(BASE_CFLAGS) $$(CFLAGS) $$(ISA_$(1)) -DCPU_ISA=$(1) -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call ISA_RULE,$(isa))))

$(BUILD)/tests/%: tests/%.c $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "test $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -o $@ $< $(LIBRARY) $(LDFLAGS) $(LIBS)

.PHONY: clean
clean: ## remove everything that was built
	$(Q)rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
