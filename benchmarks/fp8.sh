#!/usr/bin/env bash
# What does --backbone-compute fp8 cost in quality? Evaluation loss of the backbone alone, and of a side network that learns on
# it, with bf16 and with fp8: the same rows, steps and seed. Any device: the cpu device computes the same 8-bit products,
# slowly. Writes a table under benchmarks/results and prints it. `make demo` comes first.
#
#   BUILD=FOLDER   where the program and the demo's files are (build)
#   STEPS          steps of each run (60)
#   LR             learning rate (3e-3)
set -euo pipefail
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build}
QST=$BUILD/qst-mpi
DEMO=${DEMO:-$BUILD/demo}
STEPS=${STEPS:-60}
LR=${LR:-3e-3}
RESULT=benchmarks/results/fp8-$(date -u +%Y-%m-%dT%H%M)
[[ -e $DEMO/train.h5 ]] || { echo "$DEMO/train.h5 is not there: run make demo first" >&2 && exit 1; }
mkdir -p benchmarks/results "$BUILD/fp8"

# losses COMPUTE STEPS LR: evaluation losses after each third of the steps
losses() {
  local run=$BUILD/fp8/$1-$2
  rm -rf "$run"
  "$QST" train --quiet --backbone "$DEMO/backbone.h5" --data "$DEMO/train.h5" --eval-data "$DEMO/eval.h5" --out "$run" \
    --lr "$3" --steps "$2" --eval-every $((($2 + 2) / 3)) --save-every 0 --keep 1 --backbone-compute "$1"
  sed -nE 's/.*"type":"eval".*"loss":([0-9.]+).*/\1/p' "$run/metrics.jsonl" | tr '\n' ' '
}

{
  echo "The demo's model and task, $(git rev-parse --short HEAD), $STEPS steps of 16 rows, lr $LR; evaluation loss in nats a label token"
  echo
  echo "| backbone-compute | backbone alone | after $((STEPS / 3)) steps | $((2 * STEPS / 3)) | $STEPS |"
  echo "|---|---|---|---|---|"
  for compute in bf16 fp8; do
    read -r alone _ <<<"$(losses "$compute" 1 0)" # a side network that has not moved adds nothing
    read -r first second last <<<"$(losses "$compute" "$STEPS" "$LR")"
    echo "| $compute | $alone | $first | $second | $last |"
  done
} | tee "$RESULT.md"
