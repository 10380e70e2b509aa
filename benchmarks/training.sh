#!/usr/bin/env bash
# Training throughput of SmolLM2-135M as a fraction of one large matrix product on the same cores in the same run, and what
# a second rank brings. Rows of 512 tokens, every token with a label, micro-batches of 2,048 tokens. Writes a table and JSON
# under benchmarks/results and prints the table.
#
#   BUILD=FOLDER     where the program is (build)
#   STEPS            steps of each run (8); the first 2 are not counted, the median of the rest is
#   QST_SMOLLM2      the model's file, see demo/get_model.sh
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build}
QST=$BUILD/qst-mpi
WORK=$BUILD/training
STEPS=${STEPS:-8}
RESULT=benchmarks/results/training-$(date -u +%Y-%m-%dT%H%M)
mkdir -p "$WORK" benchmarks/results
. benchmarks/smollm2.sh

mpirun=(mpirun --bind-to core)
if [[ $(id -u) == 0 ]]; then mpirun+=(--allow-run-as-root); fi

# ceiling THREADS: GFLOP/s of one large bf16 product
ceiling() {
  "$BUILD/bench-kernels" --ceilings on --threads "$1" | sed -E 's/.*"product_gflops": ([0-9.]+).*/\1/'
}

# train NAME BATCH LAUNCHER…: prints the median tokens/s and the peak memory of a rank in MB
train() {
  local name=$1 batch=$2
  shift 2
  rm -rf "${WORK:?}/$name"
  "$@" "$QST" train --quiet --backbone "$WORK/backbone.h5" --data "$WORK/rows.h5" --out "$WORK/$name" \
    --steps "$STEPS" --global-batch "$batch" --micro-batch-tokens 2048 --save-every 0 >&2
  grep '"type":"step"' "$WORK/$name/metrics.jsonl" | sed 1,2d |
    sed -E 's/.*"tokens_per_second":([0-9.]+).*"memory_bytes":([0-9]+).*/\1 \2/' | sort -n |
    awk '{ rate[NR] = $1; if ($2 > memory) memory = $2 } END { printf "%.1f %.0f\n", rate[int((NR + 1) / 2)], memory / 1e6 }'
}

# FLOP a token: twice the decoder's weights, four times the head's (forward and input gradient), about six times the side
# network's, and the attention of rows of 512.
flop() {
  awk -v n=$LENGTH 'BEGIN { print 2 * 30 * (576 * 960 + 576 * 576 + 3 * 576 * 1536) + 4 * 49152 * 576 + 6 * 735228 + 2 * 30 * 576 * n }'
}

prepare
: >"$RESULT.rows"
# measure NAME THREADS BATCH LAUNCHER…
measure() {
  local name=$1 threads=$2 batch=$3 before after result
  shift 3
  before=$(ceiling "$threads")
  result=$(train "$name" "$batch" "$@")
  after=$(ceiling "$threads")
  echo "$name $threads $before $after $result" >>"$RESULT.rows"
}

cores=$(nproc)
measure one-rank-one-core 1 4 taskset -c 0
if ((cores > 1)); then
  measure two-ranks-one-core-each 2 8 "${mpirun[@]}" -n 2
  measure one-rank-all-cores "$cores" 8 env
fi

awk -v flop="$(flop)" -v processor="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
  -v commit="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" -v load="$(cut -d ' ' -f 1 /proc/loadavg)" \
  -v json="$RESULT.json" '
  BEGIN {
    printf "%s, commit %s, load %s at the end; %.3f GFLOP a token\n\n", processor, commit, load, flop / 1e9
    print "| run | tokens/s | GFLOP/s | large product, GFLOP/s before and after | fraction | MB a rank |"
    print "|---|---|---|---|---|---|"
    printf "{\"processor\": \"%s\", \"commit\": \"%s\", \"flop_per_token\": %.0f, \"runs\": [", processor, commit, flop >json
  }
  {
    rate = $5 * flop / 1e9; ceiling = ($3 + $4) / 2
    printf "| %s | %.0f | %.0f | %.0f, %.0f | %.2f | %d |\n", $1, $5, rate, $3, $4, rate / ceiling, $6
    printf "%s{\"run\": \"%s\", \"threads\": %d, \"tokens_per_second\": %.1f, \"product_gflops\": %.1f, \"fraction\": %.3f, \"rank_megabytes\": %d}", (NR > 1 ? ", " : ""), $1, $2, $5, ceiling, rate / ceiling, $6 >json
    tokens[$1] = $5
  }
  END {
    print "]}" >json
    if (tokens["two-ranks-one-core-each"])
      printf "\nTwo ranks of one core each: %.2f times one.\n", tokens["two-ranks-one-core-each"] / tokens["one-rank-one-core"]
  }' "$RESULT.rows" | tee "$RESULT.md"
rm -f "$RESULT.rows"
