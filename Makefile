# qst-mpi: `make help` lists the targets. What the machine offers is found by env.sh (modules or packages).
#
# Variables: CC, CFLAGS (added), PREFIX, V=1 (show commands), SAN=address|thread (sanitizer build in its own folder),
# BUILD (folder of all products), search="TEXT..." (run the tests whose name contains one), CUDA=0|1|auto (the cuda device: left
# out, demanded, when nvcc is found), CUDA_ARCHS (what it is compiled for: CUDA_ARCHS=90a while developing on one GPU).

SHELL := /bin/bash
.DEFAULT_GOAL := all
BUILD ?= build$(if $(SAN),/$(SAN))
PREFIX ?= /usr/local
V ?= 0
Q := $(if $(filter 1,$(V)),,@)

# Libraries. A cluster's env.sh may set any of these after loading its modules. Each is asked for once, when first needed.
PKG := pkg-config
once = $(eval $(1) := $$(shell $(2)))$($(1))
MPI_CFLAGS ?= $(call once,MPI_CFLAGS,$(PKG) --cflags ompi-c 2>/dev/null || mpicc --showme:compile)
MPI_LIBS ?= $(call once,MPI_LIBS,$(PKG) --libs ompi-c 2>/dev/null || mpicc --showme:link)
HDF5_CFLAGS ?= $(call once,HDF5_CFLAGS,$(PKG) --cflags hdf5-openmpi 2>/dev/null || $(PKG) --cflags hdf5)
HDF5_LIBS ?= $(call once,HDF5_LIBS,$(PKG) --libs hdf5-openmpi 2>/dev/null || $(PKG) --libs hdf5)
OTHER_CFLAGS ?= $(call once,OTHER_CFLAGS,$(PKG) --cflags jansson libpcre2-8 libutf8proc libxxhash)
OTHER_LIBS ?= $(call once,OTHER_LIBS,$(PKG) --libs jansson libpcre2-8 libutf8proc libxxhash)
DNNL_LIBS ?= -ldnnl # oneDNN: the ceiling that benchmarks compare with

# The cuda device: compiled where nvcc is found, for every GPU that it knows. It passes its tests on the host runtime, but has
# not yet been run on a GPU. cuBLASLt is loaded when it opens; the runtime is linked statically and needs no driver to start.
CUDA ?= auto
NVCC ?= $(or $(shell command -v nvcc),$(wildcard /usr/local/cuda/bin/nvcc))
ifeq ($(CUDA)$(NVCC),1)
$(error CUDA=1, but there is no nvcc: add it to PATH, set NVCC, or leave the cuda device out with CUDA=0)
endif
WITH_CUDA := $(if $(filter auto 1,$(CUDA)),$(if $(NVCC),1))
CUDA_HOME ?= $(patsubst %/bin/,%,$(dir $(realpath $(NVCC))))
CUDA_LIBS ?= -L$(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib) $(CUDA_HOME)/lib64) -lcudart_static -ldl -lrt \
  -lpthread -lstdc++
CUDA_DEFINES := $(if $(WITH_CUDA),-DQST_CUDA)
# Ampere, Ada, Hopper (with what only it has), Blackwell; and for GPUs to come, code that the driver compiles.
ALL_CUDA_ARCHS := 80 86 89 90a 100 120
NVCC_KNOWS = $(call once,NVCC_KNOWS,$(NVCC) --list-gpu-arch)
CUDA_ARCHS ?= $(foreach arch,$(ALL_CUDA_ARCHS),$(if $(filter compute_$(arch:a=),$(NVCC_KNOWS)),$(arch)))
CUDA_LEFT_OUT = $(filter-out $(CUDA_ARCHS),$(ALL_CUDA_ARCHS))
CUDA_STATE = $(if $(WITH_CUDA),$$($(NVCC) --version | sed -n 's/.*release/nvcc/p') for sm \
  $(CUDA_ARCHS)$(if $(CUDA_LEFT_OUT),; not asked for or not known to it: $(CUDA_LEFT_OUT)),left out: \
  $(if $(NVCC),CUDA=$(CUDA),there is no nvcc))
NVCC_TARGETS = $(foreach arch,$(CUDA_ARCHS),-gencode arch=compute_$(arch),code=sm_$(arch)) \
  $(foreach arch,$(filter-out %a,$(lastword $(CUDA_ARCHS))),-gencode arch=compute_$(arch),code=compute_$(arch))
# Code for all GPUs is large: compressed it is a seventh. Older versions compress less, unasked.
NVCC_COMPRESS = $(call once,NVCC_COMPRESS,$(NVCC) --help | grep -q compress-mode && echo --compress-mode=size)
# QST_SM90A: whether kernels may use what only sm_90a has.
NVCC_FLAGS = -DQST_SM90A=$(if $(filter 90a,$(CUDA_ARCHS)),1,0) -std=c++20 -O3 -lineinfo --threads 0 $(NVCC_COMPRESS) -I. -Isrc -Ikernels/cuda/ptx -Xcompiler -Wall,-Wextra $(NVCC_TARGETS)
NVCC_CACHE = $(filter ccache,$(firstword $(CC)))

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes -Wmissing-prototypes \
  -Wno-pass-failed # clang: `omp simd` is a permission, and without optimization or under sanitizers not taken
SAN_address := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1
SAN_thread := # OpenMP's barriers are invisible to ThreadSanitizer: it sees the kernels alone (KERNEL_SAN_thread)
KERNEL_SAN_address := $(SAN_address)
KERNEL_SAN_thread := -fsanitize=thread
BASE_CFLAGS = -std=c11 -D_GNU_SOURCE -O3 -g -fopenmp -MMD -MP $(WARNINGS) -Isrc -I. \
  $(MPI_CFLAGS) $(HDF5_CFLAGS) $(OTHER_CFLAGS) $(SAN_$(SAN)) $(CUDA_CFLAGS)
LIBS = $(MPI_LIBS) $(HDF5_LIBS) $(OTHER_LIBS) $(if $(WITH_CUDA),$(CUDA_LIBS)) -lm

# kernels/cpu/isa/ is compiled once for each instruction set; the device chooses when it opens.
ISAS := plain avx2 avx512
ISA_FLAGS := -ffp-contract=fast -fno-math-errno -fno-trapping-math
ISA_plain :=
ISA_avx2 := -mavx2 -mfma -mf16c -mprefer-vector-width=256
ISA_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vbmi -mfma -mprefer-vector-width=512

SOURCES := $(wildcard src/base/*.c src/commands/*.c src/*.c kernels/*.c kernels/cpu/*.c kernels/null/*.c comm/*.c io/*.c)
LIBRARY_SOURCES := $(filter-out src/main.c,$(SOURCES))
ISA_SOURCES := $(wildcard kernels/cpu/isa/*.c)
CUDA_SOURCES := $(wildcard kernels/cuda/*.c comm/nccl/*.c)
CUDA_TABLES := kernels/device comm/transport # what names the backends of this build
CUDA_KERNELS := $(wildcard kernels/cuda/*.cu)
COMMON_OBJECTS := $(LIBRARY_SOURCES:%.c=$(BUILD)/%.o) \
  $(foreach isa,$(ISAS),$(ISA_SOURCES:kernels/cpu/isa/%.c=$(BUILD)/kernels/cpu/isa/%.$(isa).o))
CUDA_OBJECTS := $(CUDA_SOURCES:%.c=$(BUILD)/%.o) $(CUDA_KERNELS:%.cu=$(BUILD)/%.cu.o)
LIBRARY_OBJECTS := $(COMMON_OBJECTS) $(if $(WITH_CUDA),$(CUDA_OBJECTS))
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

$(CUDA_TABLES:%=$(BUILD)/%.o): CUDA_CFLAGS = $(if $(WITH_CUDA),$(CUDA_DEFINES) -isystem $(CUDA_HOME)/include)
$(CUDA_TABLES:%=$(BUILD)/%.o): $(BUILD)/with-cuda-$(or $(WITH_CUDA),0)
$(BUILD)/with-cuda-%:
	@mkdir -p $(@D)
	$(Q)rm -f $(BUILD)/with-cuda-* && touch $@

$(CUDA_SOURCES:%.c=$(BUILD)/%.o): CUDA_CFLAGS = -isystem $(CUDA_HOME)/include

$(CUDA_KERNELS:%.cu=$(BUILD)/%.cu.o): $(BUILD)/cuda-archs-$(subst $() $(),-,$(strip $(if $(WITH_CUDA),$(CUDA_ARCHS))))
$(BUILD)/cuda-archs-%:
	@mkdir -p $(@D)
	$(Q)rm -f $(BUILD)/cuda-archs-* && touch $@

$(BUILD)/%.cu.o: %.cu
	$(if $(filter 1,$(V)),,@echo "nvcc $<")
	@mkdir -p $(@D)
	$(Q)$(NVCC_CACHE) $(NVCC) $(NVCC_FLAGS) -MMD -MP -c -o $@ $<

define ISA_RULE
$(BUILD)/kernels/cpu/isa/%.$(1).o: kernels/cpu/isa/%.c
	$$(if $$(filter 1,$$(V)),,@echo "cc   $$< ($(1))")
	@mkdir -p $$(@D)
	$$(Q)$$(CC) $$(BASE_CFLAGS) $$(CFLAGS) $$(ISA_FLAGS) $$(ISA_$(1)) -DCPU_ISA=$(1) -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call ISA_RULE,$(isa))))

$(BUILD)/tests/%: $(BUILD)/tests/%.cu.o $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "test $@")
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

$(BUILD)/tests/%: tests/%.c $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "test $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -o $@ $< $(LIBRARY) $(LDFLAGS) $(LIBS)

# ---- the CUDA code without a GPU -----------------------------------------------------------------------------

# The same sources against tests/host, and with them the tests that declare device=cuda: $(BUILD)/host.
HOST := $(BUILD)/host
HOST_RUNTIME := $(wildcard tests/host/*.cc)
HOST_CFLAGS := -DQST_CUDA -Itests/host/include
HOST_CXXFLAGS = -std=c++20 -O3 -g -MD -MP -Wall -Wextra -Wno-unknown-pragmas -ffp-contract=off -fno-strict-aliasing \
  -DQST_SM90A=1 -DOMPI_SKIP_MPICXX $(MPI_CFLAGS) -Itests/host/include -I. -Isrc $(SAN_$(SAN))
HOST_OBJECTS := $(CUDA_TABLES:%=$(HOST)/%.o) $(HOST_RUNTIME:%.cc=$(HOST)/%.o) $(CUDA_KERNELS:%.cu=$(HOST)/%.cu.o) \
  $(patsubst %.c,$(HOST)/%.o,$(filter-out kernels/cuda/cublaslt.c comm/nccl/library.c,$(CUDA_SOURCES)))
HOST_LIBRARY := $(HOST)/libqst.a
HOST_TESTS := $(addprefix $(HOST)/,$(basename $(shell grep -lE 'RUN.* device=cuda' tests/t[0-9]*.c tests/t[0-9]*.cu)))
HOST_LIBS = $(KERNEL_SAN_$(SAN)) $(MPI_LIBS) $(HDF5_LIBS) $(OTHER_LIBS) -lstdc++ -lm

$(HOST_LIBRARY): $(filter-out $(CUDA_TABLES:%=$(BUILD)/%.o),$(COMMON_OBJECTS)) $(HOST_OBJECTS)
	$(Q)rm -f $@ && ar rcs $@ $^

$(CUDA_TABLES:%=$(HOST)/%.o) $(CUDA_SOURCES:%.c=$(HOST)/%.o): $(HOST)/%.o: %.c
	$(if $(filter 1,$(V)),,@echo "cc   $< (host)")
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) $(HOST_CFLAGS) -c -o $@ $<

$(HOST)/%.cu.o: %.cu
	$(if $(filter 1,$(V)),,@echo "c++  $< (host)")
	@mkdir -p $(@D)
	$(Q)$(CXX) $(HOST_CXXFLAGS) $(KERNEL_SAN_$(SAN)) -x c++ -c -o $@ $<

$(HOST)/tests/host/%.o: tests/host/%.cc
	$(if $(filter 1,$(V)),,@echo "c++  $<")
	@mkdir -p $(@D)
	$(Q)$(CXX) $(HOST_CXXFLAGS) -O3 -march=native -c -o $@ $<

$(HOST)/qst-mpi: $(BUILD)/src/main.o $(HOST_LIBRARY)
	$(if $(filter 1,$(V)),,@echo "link $@")
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(HOST_LIBS)

$(HOST)/bench-comm: benchmarks/comm.c $(HOST_LIBRARY)
	$(if $(filter 1,$(V)),,@echo "link $@")
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -o $@ $< $(HOST_LIBRARY) $(LDFLAGS) $(HOST_LIBS)

$(HOST)/planted: $(HOST)/tests/host/planted.cu.o $(HOST_LIBRARY)
	$(if $(filter 1,$(V)),,@echo "link $@")
	$(Q)$(CXX) -fopenmp -o $@ $^ $(LDFLAGS) $(HOST_LIBS)

$(HOST)/tests/%: $(HOST)/tests/%.cu.o $(HOST_LIBRARY)
	$(if $(filter 1,$(V)),,@echo "test $@")
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(HOST_LIBS)

$(HOST)/tests/%: tests/%.c $(HOST_LIBRARY)
	$(if $(filter 1,$(V)),,@echo "test $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) $(HOST_CFLAGS) -o $@ $< $(HOST_LIBRARY) $(LDFLAGS) $(HOST_LIBS)

.PRECIOUS: $(BUILD)/%.cu.o $(HOST)/%.cu.o

# The same tests for this machine's GPU: $(BUILD)/gpu.
GPU := $(BUILD)/gpu
GPU_CFLAGS = $(CUDA_DEFINES) -isystem $(CUDA_HOME)/include
GPU_TESTS := $(HOST_TESTS:$(HOST)/%=$(GPU)/%)

$(GPU)/qst-mpi: $(PROGRAM)
	@mkdir -p $(@D)
	$(Q)ln -f $< $@

$(GPU)/tests/%: $(BUILD)/tests/%.cu.o $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "test $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -o $@ $^ $(LDFLAGS) $(LIBS)

$(GPU)/tests/%: tests/%.c $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "test $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) $(GPU_CFLAGS) -o $@ $< $(LIBRARY) $(LDFLAGS) $(LIBS)

# ---- tests and checks ---------------------------------------------------------------------------------------

.PHONY: test tests check
test: ## install what is missing, build and run the tests (search=TEXT: those whose name contains it)
	$(Q)./env.sh
	$(Q)$(MAKE) --no-print-directory check

tests: $(TEST_PROGRAMS)

# Those of a list of names that contain a word of $(search); all without it.
selected = $(if $(search),$(foreach f,$(1),$(if $(strip $(foreach s,$(search),$(findstring $(s),$(f)))),$(f))),$(1))

# Scripts need the programs; what search does not ask for is not built.
check: $(addprefix $(BUILD)/tests/,$(call selected,$(notdir $(TEST_PROGRAMS)))) $(if $(wildcard $(addprefix tests/*,$(addsuffix *.sh,$(or $(search),t)))),$(PROGRAM) $(BUILD)/bench-comm $(BUILD)/bench-step)
	$(Q)BUILD=$(BUILD) TIME_FACTOR=$(if $(SAN),5,1) tests/run $(search)

# What the rehearsal of gpu-check (t66) needs besides.
REHEARSAL = $(if $(call selected,t66-gpu-check),$(addprefix $(HOST)/,bench-kernels tests/t20-ptx tests/t25-sums) \
  $(BUILD)/random-backbone)

.PHONY: check-cuda
check-cuda: $(addprefix $(HOST)/tests/,$(call selected,$(notdir $(HOST_TESTS)))) $(PROGRAM) $(HOST)/qst-mpi $(HOST)/planted $(HOST)/bench-comm $(REHEARSAL) ## test the CUDA code without a GPU (search=TEXT)
	$(Q)BUILD=$(BUILD) DEVICES=cuda TIME_FACTOR=$(if $(SAN),5,1) $(if $(filter thread,$(SAN)),THREADS=1) tests/run $(search)

# A fuzz target tests/fuzz/fuzz_NAME.c starts from the files its own source names: // SEEDS tests/fixtures/x*.json
FUZZ_SECONDS ?= 15
FUZZ_BUILD := build/fuzz
FUZZ_CFLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -O1
FUZZ_TARGETS := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: fuzz fuzz-build $(FUZZ_TARGETS)
fuzz: ## run each fuzz target for FUZZ_SECONDS, as many at a time as there are processors (clang)
	$(Q)$(MAKE) --no-print-directory fuzz-build CC=clang BUILD=$(FUZZ_BUILD) CFLAGS="$(FUZZ_CFLAGS)"
	$(Q)printf '%s\n' $(call selected,$(FUZZ_TARGETS)) | \
	  xargs -P "$$(nproc)" -I{} tests/fuzz/run $(FUZZ_BUILD)/tests/fuzz/{} $(FUZZ_SECONDS)

fuzz-build: $(FUZZ_TARGETS:%=$(BUILD)/tests/fuzz/%)

$(BUILD)/tests/fuzz/%: tests/fuzz/%.c $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "fuzz $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -fsanitize=fuzzer -o $@ $< $(LIBRARY) $(LDFLAGS) $(LIBS)

C_FILES = $(shell find src kernels comm io tests benchmarks \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cc' \) | sort)

.PHONY: format format-check tidy
format: ## lay out the C files with clang-format
	$(Q)clang-format -i $(C_FILES)

format-check: ## fail if `make format` would change a file
	$(Q)clang-format --dry-run -Werror $(C_FILES)

tidy: ## clang-tidy on the C files (search=TEXT: those whose path contains it)
	$(Q)printf '%s\n' $(call selected,$(SOURCES)) | \
	  xargs -P "$$(nproc)" -n 4 sh -c 'clang-tidy --quiet "$$@" -- $(filter-out -MMD -MP,$(BASE_CFLAGS)) 2>/dev/null' tidy

# ---- benchmarks ---------------------------------------------------------------------------------------------

.PHONY: bench-kernels bench-comm bench-step
bench-step: $(BUILD)/bench-step ## build the benchmark of the phases of a training step (benchmarks/step.sh)

$(BUILD)/bench-step: benchmarks/step.c benchmarks/ceilings.c $(LIBRARY) benchmarks/ceilings.h
	$(if $(filter 1,$(V)),,@echo "link $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -MMD -MP,$(BASE_CFLAGS)) $(CFLAGS) -o $@ $(filter %.c %.a,$^) $(LDFLAGS) $(LIBS) $(DNNL_LIBS)

bench-comm: $(BUILD)/bench-comm ## build the benchmark of communication (mpirun -n 2 build/bench-comm --help)

$(BUILD)/bench-comm: benchmarks/comm.c $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "link $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(BASE_CFLAGS) $(CFLAGS) -o $@ $< $(LIBRARY) $(LDFLAGS) $(LIBS)

bench-kernels: $(BUILD)/bench-kernels ## build the benchmark of every kernel (build/bench-kernels --help)

BENCH_KERNELS := benchmarks/kernels.c benchmarks/kernels_cases.c benchmarks/clock.c
BENCH_KERNELS_HEADERS := benchmarks/kernels_cases.h benchmarks/ceilings.h tests/device_memory.h kernels/device.h

$(BUILD)/bench-kernels: $(BENCH_KERNELS) benchmarks/ceilings.c $(LIBRARY) $(BENCH_KERNELS_HEADERS)
	$(if $(filter 1,$(V)),,@echo "link $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -MMD -MP,$(BASE_CFLAGS)) $(CFLAGS) -o $@ $(filter %.c %.a,$^) $(LDFLAGS) $(LIBS) $(DNNL_LIBS)

$(GPU)/bench-kernels: $(BENCH_KERNELS) benchmarks/ceilings_cuda.c $(LIBRARY) $(BENCH_KERNELS_HEADERS)
	$(if $(filter 1,$(V)),,@echo "link $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -MMD -MP,$(BASE_CFLAGS)) $(CFLAGS) $(GPU_CFLAGS) -o $@ $(filter %.c %.a,$^) $(LDFLAGS) $(LIBS)

$(HOST)/bench-kernels: $(BENCH_KERNELS) benchmarks/ceilings_cuda.c $(HOST_LIBRARY) $(BENCH_KERNELS_HEADERS)
	$(if $(filter 1,$(V)),,@echo "link $@")
	$(Q)$(CC) $(filter-out -MMD -MP,$(BASE_CFLAGS)) $(CFLAGS) $(HOST_CFLAGS) -o $@ $(filter %.c %.a,$^) $(LDFLAGS) $(HOST_LIBS)

$(BUILD)/random-backbone: benchmarks/random_backbone.c $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "link $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -MMD -MP,$(BASE_CFLAGS)) $(CFLAGS) -o $@ $(filter %.c %.a,$^) $(LDFLAGS) $(LIBS)

.PHONY: gpu-programs gpu-check bundle
gpu-programs: $(PROGRAM) $(BUILD)/random-backbone $(GPU_TESTS) $(GPU)/qst-mpi $(GPU)/bench-kernels

gpu-check: ## test and measure the cuda device on this machine's GPU (results under benchmarks/results)
	$(Q)$(MAKE) --no-print-directory CUDA=1 gpu-programs
	$(Q)BUILD=$(BUILD) benchmarks/gpu_check.sh

bundle: ## pack what gpu-check needs, with its libraries, for a machine without compilers (build/bundle)
	$(Q)$(MAKE) --no-print-directory CUDA=1 gpu-programs
	$(Q)benchmarks/bundle.sh $(BUILD) build/bundle

.PHONY: bench-taps
bench-taps: $(BUILD)/bench-taps ## build the benchmark of the tap store's way to the disk (benchmarks/taps-disk.sh runs it)

$(BUILD)/bench-taps: benchmarks/taps_disk.c $(LIBRARY)
	$(if $(filter 1,$(V)),,@echo "link $@")
	@mkdir -p $(@D)
	$(Q)$(CC) $(filter-out -MMD -MP,$(BASE_CFLAGS)) $(CFLAGS) -o $@ $(filter %.c %.a,$^) $(LDFLAGS) $(LIBS)

# ---- use ----------------------------------------------------------------------------------------------------

.PHONY: demo
demo: ## install what is missing, build, and finetune a real model on two ranks (about 10 minutes)
	$(Q)./env.sh
	$(Q)$(MAKE) --no-print-directory all
	$(Q)BUILD=$(BUILD) benchmarks/demo/demo.sh

$(BUILD)/qst-mpi.1: $(PROGRAM)
	$(Q)$(PROGRAM) help --man >$@

$(BUILD)/qst-mpi.bash: $(PROGRAM)
	$(Q)$(PROGRAM) help --completion >$@

.PHONY: man install
man: $(BUILD)/qst-mpi.1 ## make the man page (build/qst-mpi.1)

install: $(PROGRAM) $(BUILD)/qst-mpi.1 $(BUILD)/qst-mpi.bash ## install under PREFIX (/usr/local); DESTDIR is honoured
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/qst-mpi
	install -D -m 644 $(BUILD)/qst-mpi.1 $(DESTDIR)$(PREFIX)/share/man/man1/qst-mpi.1
	install -D -m 644 $(BUILD)/qst-mpi.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/qst-mpi

# ---- about --------------------------------------------------------------------------------------------------

.PHONY: help info
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: CC, CFLAGS, LDFLAGS, PREFIX, DESTDIR, BUILD, V=1 (show commands), SAN=address|thread, search=TEXT...,"
	@echo "  CUDA=auto|0|1, CUDA_ARCHS=\"$(ALL_CUDA_ARCHS)\""

info: ## what this build is made of
	@echo "compiler  $$($(CC) --version | head -n 1)"
	@echo "MPI       $$(mpirun --version 2>/dev/null | head -n 1)"
	@echo "HDF5      $$($(PKG) --modversion hdf5-openmpi 2>/dev/null || $(PKG) --modversion hdf5)"
	@echo "oneDNN    $$(printf '#include <oneapi/dnnl/dnnl_version.h>\nDNNL_VERSION_MAJOR.DNNL_VERSION_MINOR' | \
	  $(CC) $(OTHER_CFLAGS) -E -P - | tail -n 1 | tr -d ' ')"
	@echo "cuda      $(CUDA_STATE)"
	@echo "flags     $(BASE_CFLAGS) $(CFLAGS)"
	@echo "libraries $(LIBS)"
	@echo "tests     $(words $(TEST_PROGRAMS)) programs"

print-%: ## print-NAME prints the variable NAME
	@echo '$($*)'

.PHONY: cuda-compile
cuda-compile: $(if $(WITH_CUDA),$(CUDA_OBJECTS)) ## compile the cuda device for all of CUDA_ARCHS
	@echo "$(if $(WITH_CUDA),sm: $(CUDA_ARCHS),no nvcc: the cuda device is left out)"

.PHONY: clean
clean: ## remove everything that was built
	$(Q)rm -rf build

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
