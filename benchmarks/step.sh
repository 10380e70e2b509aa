#!/usr/bin/env bash
# Where the time of SmolLM2-135M's training steps goes, on one core and on all of them: bench-step (see step.c) on rows of 512
# tokens that all have labels. Writes tables and JSON under benchmarks/results and prints the tables.
#
#   BUILD=FOLDER   where the programs are (build)
#   STEPS          of each run (6); the first is not counted
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build}
QST=$BUILD/qst-mpi
WORK=$BUILD/step
RESULT=benchmarks/results/step-$(date -u +%Y-%m-%dT%H%M)
mkdir -p "$WORK" benchmarks/results
. benchmarks/smollm2.sh

# measure THREADS COMMAND...
measure() {
  local threads=$1
  shift
  rm -rf "${WORK:?}/run"
  "$@" "$BUILD/bench-step" "$RESULT-$threads.json" --backbone "$WORK/backbone.h5" --data "$WORK/rows.h5" --out "$WORK/run" \
    --threads "$threads" --steps "${STEPS:-6}" --global-batch 8 --save-every 0 | tee -a "$RESULT.txt"
}

prepare
measure 1 taskset -c 0
if (($(nproc) > 1)); then measure "$(nproc)" env; fi
