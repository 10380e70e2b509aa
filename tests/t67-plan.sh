#!/usr/bin/env bash
# plan as a user meets it: shapes and GPUs by name, what fits and what would, the same memory as a real run's banner, JSON,
# and errors that say what to do.
# RUN timeout=240
# shellcheck source=tests/tiny_run.sh
. tests/tiny_run.sh
make_tiny

fails() { # TEXT COMMAND…: must fail and say TEXT
  local text=$1
  shift
  if "$@" >"$work/out" 2>"$work/err"; then die "$*: should have failed"; fi
  grep -qF -- "$text" "$work/err" || die "$*: said '$(cat "$work/err")', not '$text'"
}

number() { # KEY FILE: the first number of that name
  grep -oE "\"$1\": *[0-9.e+-]+" "$2" | head -n 1 | sed 's/.*: *//'
}

# the published shapes, and the paper's 70B on GPUs that do and don't hold it
"$QST" plan --model-shape llama-2-70b --gpu h100-80 --nodes 2 --gpus-per-node 8 --global-batch 64 >"$work/70b"
grep -q "16 replicas of 1 stage" "$work/70b" || die "70b: $(cat "$work/70b")"
grep -qE "weights 36\.[0-9]+ GB" "$work/70b" || die "70b: its weights are 35.3 GB in NF4 and 1.05 in bf16"
"$QST" plan --model-shape llama-2-70b --gpu a100-40 --gpus-per-node 8 --global-batch 64 >"$work/40"
grep -q "DOES NOT FIT" "$work/40" || die "70b in 40 GB: $(cat "$work/40")"
stages=$(sed -nE 's/^fits with  --pipeline-stages ([0-9]+) .*/\1/p' "$work/40")
[[ $stages ]] || die "70b in 40 GB: nothing was found that fits"
"$QST" plan --model-shape llama-2-70b --gpu a100-40 --gpus-per-node 8 --global-batch 64 --pipeline-stages "$stages" \
  >"$work/fits"
if grep -q "DOES NOT FIT" "$work/fits"; then die "the remedy does not fit either: $(cat "$work/fits")"; fi
"$QST" plan --model-shape llama-2-70b --gpu l4 --gpus-per-node 9 --global-batch 72 >"$work/nine"
grep -q "^fits with  --pipeline-stages 3 " "$work/nine" || die "9 GPUs are 3 pipelines of 3 stages: $(cat "$work/nine")"
for shape in llama-3-8b smollm2-360m qwen2.5-7b mistral-7b opt-13b; do
  "$QST" plan --json --model-shape "$shape" >"$work/$shape.json"
  grep -q '"fits": true' "$work/$shape.json" || die "$shape: $(cat "$work/$shape.json")"
done

# a plan's memory is what a real run lays out, to the byte, whatever the options
cat >"$work/calibration.json" <<'END'
{"product_gflops": 100, "copy_gbytes": 10, "results": [{"operation": "linear", "p50_ms": 1, "gflops": 50, "gbytes": 1}]}
END
read -ra words <<<"$(tiny_options)"
words=("${words[@]:2}" --threads 1)
planned() { # RANKS OPTIONS…: bytes of rank 0
  "$QST" plan "${words[@]}" --gpu cpu --calibration "$work/calibration.json" --gpus-per-node "$1" "${@:2}" --json \
    >"$work/plan.json"
  number bytes "$work/plan.json"
}
same_memory() { # RANKS OPTIONS…
  rm -rf "$work/run"
  "${mpirun[@]}" "$1" "$QST" train --quiet "${words[@]}" --steps 1 --out "$work/run" "${@:2}"
  local real plan
  real=$(number buffer_bytes "$work/run/metrics.jsonl")
  plan=$(planned "$@")
  [[ $real && $plan == "$real" ]] || die "$*: $plan bytes are planned, the run has $real"
}
same_memory 1
[[ $(number step_tokens "$work/plan.json") == $(number tokens <(grep '"type":"step"' "$work/run/metrics.jsonl")) ]] ||
  die "the plan's first step has other tokens than the run's"
[[ $(number steps "$work/plan.json") == 9 ]] || die "100 rows in steps of 12 are 9 steps"
same_memory 1 --downsample maxpool --recompute
same_memory 1 --act fp32 --downsample linear --micro-batch-tokens 512
same_memory 2 --pipeline-stages 2 --taps "$work/store"
same_memory 2 --pipeline-stages 2 --taps "$work/store-int8" --tap-format int8
same_memory 1 --backbone-compute fp8
same_memory 2 --pipeline-stages 2
same_memory 2 --shard-optimizer --reduction fast

# a faster network is no slower, and the run's length follows from its rows
speed() { # FILE OPTIONS…: tokens/s of LLaMA-2 7B on 64 nodes
  "$QST" plan --model-shape llama-2-7b --nodes 64 --gpus-per-node 8 --global-batch 1024 --json "${@:2}" >"$1"
  number tokens_per_second "$1"
}
slow=$(speed "$work/slow.json" --link 10)
usual=$(speed "$work/usual.json")
awk -v a="$slow" -v b="$usual" 'BEGIN { exit !(a < b) }' || die "10 Gbit/s are as fast as 3,200"

"$QST" plan "${words[@]}" --gpu cpu --calibration "$work/calibration.json" --nodes 2 --gpus-per-node 4 --json >"$work/shared.json"
"$QST" plan "${words[@]}" --gpu cpu --calibration "$work/calibration.json" --nodes 2 --gpus-per-node 4 --link 10 --json \
  >"$work/linked.json"
[[ $(number step_seconds "$work/shared.json") == $(number step_seconds "$work/linked.json") ]] ||
  die "the ranks of a node do not share its Ethernet of 10 Gbit/s"

# what is left open is chosen such that it fits; train does the same, and says what it took
"$QST" plan --model-shape llama-2-70b --gpu a100-40 --nodes 2 --gpus-per-node 8 --global-batch 128 \
  --pipeline-stages auto --micro-batch-tokens auto --json >"$work/auto.json"
grep -q '"fits": true' "$work/auto.json" || die "auto does not fit: $(cat "$work/auto.json")"
(($(number stages "$work/auto.json") > 1)) || die "70b on one GPU of 40 GB: $(cat "$work/auto.json")"
auto=("${words[@]}" --steps 3 --threads 1)
"$QST" train "${auto[@]}" --out "$work/one" 2>"$work/err"
if grep -q "^planned" "$work/err"; then die "nothing was to be planned: $(cat "$work/err")"; fi
"${mpirun[@]}" 2 "$QST" train "${auto[@]}" --pipeline-stages auto --out "$work/two" 2>"$work/err"
grep -qE "^planned +--pipeline-stages [12] " "$work/err" || die "no choice was said: $(cat "$work/err")"
same_run "$work/one" "$work/two" 3
"$QST" train "${auto[@]}" --micro-batch-tokens auto --out "$work/three" 2>"$work/err"
grep -qE "^micro-batch-tokens = [0-9]+$" "$work/three/options" || die "options: $(cat "$work/three/options")"
# a cpu has no more than Slurm gave the job (t04 has what cgroups leave)
SLURM_MEM_PER_NODE=1 fails "fits in the memory of 1 ranks of 0.0 GB" "$QST" train "${auto[@]}" --micro-batch-tokens auto --out "$work/four"
fails "give taps a number" "$QST" taps --pipeline-stages auto --backbone "$work/b.h5" --data "$work/t.h5" --taps "$work/taps"

# scaling to 1,024 nodes, with what was measured beside it
echo '{"points": [{"scaling": "weak", "ranks": 2, "tokens_per_second": 1000},
  {"scaling": "strong", "ranks": 4, "stages": 2, "rows": 32, "tokens_per_second": 5000}]}' >"$work/measured.json"
sweep=("$QST" plan --model-shape smollm2-135m --gpus-per-node 8 --global-batch 64 --gpu a100-80 --sweep)
"${sweep[@]}" --measured "$work/measured.json" --out "$work/sweep" >"$work/sweep.txt"
for line in "strong scaling" "weak scaling" "^ +1024 +8192 " "^measured +weak, 2 ranks \(1 stage\): 1000.0 tokens/s, the plan says" \
  "^measured +strong, 4 ranks \(2 stages\): 5000.0 tokens/s, the plan says"; do
  grep -qE "$line" "$work/sweep.txt" || die "the sweep has no '$line': $(cat "$work/sweep.txt")"
done
awk '/^weak/ { weak = 1 } /^ +[0-9]+ +[0-9]+ / { if ($1 == 1024 && !weak && $4 > 20) bad = 1
  if (weak && ($4 > 100.01 || $4 < 50)) bad = 1; if (weak && $6 < 0.999 * $3) bad = 1 } END { exit bad }' "$work/sweep.txt" ||
  die "64 rows scale to 8,192 GPUs, weak scaling is beyond reason, or a fast reduction slow: $(cat "$work/sweep.txt")"
[[ $(grep -c '"nodes": 1024' "$work/sweep/sweep.json") == 8 ]] || die "sweep.json: $(cat "$work/sweep/sweep.json")"
if command -v gnuplot >/dev/null; then
  grep -q "weak scaling" "$work/sweep/sweep.svg" || die "no picture of the sweep"
fi
# stages that divide no node's ranks, or lie across nodes: whole pipelines alone, and a word of the others
across() { # STAGES LINES NODES…: these numbers of nodes come first; so many lines say what is left out
  "${sweep[@]}" --pipeline-stages "$1" --out "$work/across" >"$work/across.txt"
  [[ $(grep -oE '"nodes": [0-9]+' "$work/across/sweep.json" | head -n $(($# - 2)) | sed 's/.* //' | xargs) == "${*:3}" &&
    $(grep -c "^left out " "$work/across.txt") == "$2" ]] || die "$1 stages on nodes of 8: $(cat "$work/across.txt")"
}
across 3 1 1 1 3 6 12
across 12 1 3 6 12
across 16 1 2 4 8
across 4 0 1 1 2 4
"$QST" plan --model-shape llama-2-70b --gpu l4 --gpus-per-node 8 --global-batch 64 --sweep >"$work/large.txt"
grep -qE "^memory +([0-9]+) of these \\1 points DO NOT FIT" "$work/large.txt" || die "70B fits on an L4: $(cat "$work/large.txt")"
! grep -q "DO NOT FIT" "$work/sweep.txt" || die "135M does not fit on an A100: $(cat "$work/sweep.txt")"
fails "the model has 30 layers" "${sweep[@]}" --pipeline-stages 32

echo '{"points": [{"scaling": "sideways", "ranks": 2}]}' >"$work/wrong.json"
echo '{"points": [{"scaling": "weak", "ranks": 12, "tokens_per_second": 1}]}' >"$work/twelve.json"
fails "nodes of 8" "${sweep[@]}" --measured "$work/twelve.json"
fails "a point needs scaling" "${sweep[@]}" --measured "$work/wrong.json"
fails "give a result of benchmarks/scaling" "${sweep[@]}" --measured "$work/sweep/sweep.json"

fails "did you mean llama-2-70b" "$QST" plan --model-shape llama-2-700b
fails "there are: llama-2-7b" "$QST" plan --model-shape gpt-5
fails "did you mean rtx4090" "$QST" plan --model-shape llama-2-7b --gpu rtx409
fails "--calibration FILE" "$QST" plan --model-shape llama-2-7b --gpu cpu
fails "give a result of bench-kernels" "$QST" plan --model-shape llama-2-7b --gpu cpu --calibration "$work/plan.json"
fails "raise --global-batch" "$QST" plan --model-shape llama-2-7b --nodes 4 --gpus-per-node 8
fails "do not divide" "$QST" plan --model-shape llama-2-7b --gpus-per-node 8 --pipeline-stages 3
fails "raise --micro-batch-tokens" "$QST" plan --model-shape llama-2-7b --row-tokens 4000
fails "longer than the 4096 positions" "$QST" plan --model-shape llama-2-7b --row-tokens 8000 --micro-batch-tokens 8000
fails "model-shape" "$QST" plan --gpu h200
fails "plan runs on" "$QST" eval --device null --backbone "$work/b.h5" --data "$work/e.h5"

# a tap store: LLaMA-2 7B's taps are 33 x 4096 bf16 numbers a token, and a label has 4096 more
"$QST" plan --model-shape llama-2-7b --gpu h100-80 --row-tokens 512 --label-share 0.5 --rows 1000 --taps "$work/no/store" >"$work/taps"
grep -q "^tap store  274432 bytes a token, 140.5 GB for all rows" "$work/taps" || die "tap store: $(cat "$work/taps")"
grep -qE "^disk       reads [0-9]+ MB/s here: [0-9]+ tokens/s replayed, [0-9]+ live: the (disk|backbone) is" "$work/taps" ||
  die "tap store: $(cat "$work/taps")"
"$QST" plan --json --model-shape llama-2-7b --gpu h100-80 --downsample pca --taps "$work" >"$work/taps.json"
grep -q '"tap_store"' "$work/taps.json" || die "no tap_store in $(cat "$work/taps.json")"
[[ ! -e $work/no ]] || die "plan made the store's folder"

# the same of the other family
TINY=tiny-opt make_tiny
same_memory 1 --reduction-factor 2
same_memory 2 --reduction-factor 2 --pipeline-stages 2
