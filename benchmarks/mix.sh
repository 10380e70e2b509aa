#!/usr/bin/env bash
# Which --mix should be the default? The demo task, the same steps, rows, seed and learning rates for each: evaluation loss
# on the held-out rows. Writes a table and JSON under benchmarks/results and prints the table. `make demo` comes first.
#
#   BUILD=FOLDER   where the program and the demo's files are (build)
#   STEPS          steps of each run (60)
#   RATES          learning rates to try (1e-3 3e-3)
set -euo pipefail
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build}
QST=$BUILD/qst-mpi
DEMO=$BUILD/demo
STEPS=${STEPS:-60}
read -ra rates <<<"${RATES:-1e-3 3e-3}"
RESULT=benchmarks/results/mix-$(date -u +%Y-%m-%dT%H%M)
[[ -e $DEMO/train.h5 ]] || { echo "$DEMO/train.h5 is not there: run make demo first" >&2 && exit 1; }
mkdir -p benchmarks/results

# losses MIX RATE: evaluation losses after each third of the steps
losses() {
  local run=$BUILD/mix/$1-$2
  rm -rf "$run"
  "$QST" train --quiet --backbone "$DEMO/backbone.h5" --data "$DEMO/train.h5" --eval-data "$DEMO/eval.h5" --out "$run" \
    --mix "$1" --lr "$2" --steps "$STEPS" --eval-every $((STEPS / 3)) --save-every 0 --keep 1
  sed -nE 's/.*"type":"eval".*"loss":([0-9.]+).*/\1/p' "$run/metrics.jsonl" | tr '\n' ' '
}

{
  echo "SmolLM2-135M-Instruct, demo task, $STEPS steps of 16 rows; evaluation loss in nats a label token"
  echo
  echo "| mix | lr | after $((STEPS / 3)) steps | $((2 * STEPS / 3)) | $STEPS |"
  echo "|---|---|---|---|---|"
  for mix in residual alpha gate; do
    for rate in "${rates[@]}"; do
      read -r first second last <<<"$(losses "$mix" "$rate")"
      echo "| $mix | $rate | $first | $second | $last |"
    done
  done
} | tee "$RESULT.md"
