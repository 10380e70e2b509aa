#!/usr/bin/env bash
# The check of a GPU, rehearsed on the host runtime: its steps run, one that fails is reported and the next run all the
# same, and what was found stands in the JSON and in the table.
# RUN timeout=300 device=cuda
set -euo pipefail
if [[ $CUDA_FOLDER == gpu ]]; then echo "make gpu-check is the real one" && exit 77; fi
work=$(mktemp -d "${TMPDIR:-/tmp}/qst-gpu-check.XXXXXX")
trap 'rm -rf "$work"' EXIT

die() {
  echo "$*" >&2
  exit 1
}

# check STATUS STEPS...: runs these steps, which end with the status; sets `json` and `table`
check() {
  local expected=$1 status=0
  shift
  rm -rf "$work/results"
  REHEARSE=1 WORK=$work/work RESULTS=$work/results ONLY=$* benchmarks/gpu_check.sh >"$work/output" 2>&1 || status=$?
  ((status == expected)) || die "status $status: $(cat "$work/output" "$work"/work/*.log)"
  json=$(cat "$work"/results/gpu-*.json) table=$(cat "$work"/results/gpu-*.md)
}

check 0 wrappers operations runs ceilings kernels train-tiny train-tiny-replayed train-tiny-recompute peers
for step in wrappers operations runs ceilings kernels train-tiny train-tiny-replayed train-tiny-recompute; do
  [[ $json == *"{\"step\": \"$step\", \"result\": \"pass\""* ]] || die "$step: $json"
done
[[ $(cat "$work"/results/gpu-*.log) == *" 1024 tokens live "*" 1024 replayed;"* ]] || die "not replayed: $(cat "$work"/results/gpu-*.log)"
[[ $json == *'"step": "peers", "result": "skipped"'* ]] || die "peers: $json"
[[ $json == *'"product_gflops"'*'"dequantize_gbytes"'* && $json == *'"tokens_per_second"'* && $json == *'"operation": "rmsnorm"'* ]] || die "$json"
[[ $table == *"not measurements"* && $table == *"| train-tiny-recompute |"* && $table == *"| rmsnorm |"* ]] || die "$table"
if command -v python3 >/dev/null; then python3 -c 'import json, sys; json.loads(sys.argv[1])' "$json"; fi

[[ $(cat "$work"/results/gpu-*.log) == *"== ceilings: pass"*product_gflops*"== peers: skipped"* ]] || die "the steps' output is not all there"

ALL_SECONDS=0 check 0 ceilings
[[ $json == *'"ceilings", "result": "skipped"'* && $json == *'"ceilings": []'* ]] || die "without time: $json"

check 1 nonesuch ceilings
[[ $json == *'"nonesuch", "result": "failed"'*'"ceilings", "result": "pass"'* ]] || die "$json"
