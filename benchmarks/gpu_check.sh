#!/usr/bin/env bash
# Tests the cuda device on this machine's GPU and measures it beside the GPU's own ceilings: `make gpu-check`, or in a
# bundle (`make bundle`) on a machine without compilers. A step that fails is reported and does not keep the next from
# running. After each step gpu-DATE.json, gpu-DATE.md and gpu-DATE.log (what the steps said) are written.
#
#   BUILD=FOLDER       where the programs are (build)
#   RESULTS=FOLDER     where the results go (benchmarks/results)
#   WORK=FOLDER        backbones, rows and logs: 3 GB (BUILD/gpu-check)
#   ONLY="STEP..."     these steps in this order (all of `steps` below)
#   ALL_SECONDS=N      a step that has not begun by then is left out, one that has ends by then (no limit); for a GPU that is
#                      lent for minutes
#   REHEARSE=1         on the host runtime with tiny shapes: tries this script, measures nothing
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

export BUILD=${BUILD:-build}
export WORK=${WORK:-$BUILD/gpu-check}
RESULTS=${RESULTS:-benchmarks/results}
export REHEARSE=${REHEARSE:-}
export CUDA_FOLDER=gpu
if [[ $REHEARSE ]]; then CUDA_FOLDER=host; fi
programs=$BUILD/$CUDA_FOLDER
# shellcheck source=/dev/null # a bundle's libraries
if [[ -r $BUILD/environment.sh ]]; then . "$BUILD/environment.sh"; fi

# label | shape | FLOP a token of a step: decoder, head forward and back, side network | samples a step | tokens a sample |
# tokens a micro-batch | steps | options, STORE in them is a folder that is not there yet. 70B: all of a step of 16 samples of
# 384 tokens in 50 GB, as its plan says. Replayed: an epoch has 64 samples, so most of the steps are of later ones.
trainings=(
  "train-7b|llama-2-7b|13.6e9|16|2048|8192|16|"
  "train-7b-fp8|llama-2-7b|13.6e9|16|2048|8192|16|--backbone-compute fp8"
  "train-70b-50gb|llama-2-70b|139.6e9|16|384|1536|8|--recompute --no-run-ahead"
  "train-7b-replayed|llama-2-7b|0.67e9|16|2048|8192|16|--downsample avgpool --taps STORE"
  "train-70b|llama-2-70b|139.6e9|8|2048|8192|6|--recompute"
)
kernel_shapes=(
  "7b|--rows 8192 --sample 2048 --hidden 4096 --ff 11008 --vocabulary 32000 --heads 32 --kv-heads 32 --parameters 28623104"
  "7b-sm_80|--gpu-isa sm_80 --search attention --rows 8192 --sample 2048 --hidden 4096 --heads 32 --kv-heads 32"
  "70b|--rows 8192 --sample 2048 --hidden 8192 --ff 28672 --vocabulary 32000 --heads 64 --kv-heads 8 --parameters 28623104"
)
if [[ $REHEARSE ]]; then
  export QST_BENCH_SIDE=32 QST_BENCH_SHARED=4096
  trainings=(
    "train-tiny|tests/fixtures/tiny-llama/config.json|1e5|4|16|64|4|--reduction-factor 3"
    "train-tiny-replayed|tests/fixtures/tiny-llama/config.json|1e5|32|16|64|4|--reduction-factor 3 --downsample avgpool --taps STORE"
    "train-tiny-recompute|tests/fixtures/tiny-llama/config.json|1e5|4|16|64|4|--reduction-factor 3 --recompute"
  )
  kernel_shapes=("tiny|--rows 16 --sample 8 --hidden 128 --ff 96 --vocabulary 64 --heads 4 --kv-heads 2 --logit-rows 8 --parameters 5000")
fi

# ---- steps: each runs in a process of its own (gpu_check.sh --step NAME) --------------------------------------

# The wrappers of PTX first: when they are wrong, so is everything.
step_wrappers() { DEVICES=cuda tests/run t20-ptx; }

step_operations() {
  if [[ $REHEARSE ]]; then
    DEVICES=cuda tests/run t25
  else
    DEVICES=cuda tests/run t2
  fi
}

step_runs() {
  if [[ $REHEARSE ]]; then
    DEVICES=cuda tests/run t25
  else
    DEVICES=cuda tests/run t3 t4 t6
  fi
}

# Tool by tool, as far as there is time: what is over its own says nothing.
step_sanitizer() {
  local tool name status worst=0
  command -v compute-sanitizer >/dev/null || { echo "there is no compute-sanitizer here" && return 77; }
  for tool in memcheck racecheck; do
    for name in t20-ptx t25-sums t24-loss t21-norms t22-elementwise t23-attention t28-lanes; do
      status=0
      DEVICE=cuda timeout 30 compute-sanitizer --tool "$tool" --error-exitcode 9 "$programs/tests/$name" || status=$?
      echo "== $tool $name: status $status (124: not done in time)"
      if ((status != 0 && status != 124)); then worst=1; fi
    done
  done
  return $worst
}

step_ceilings() {
  "$programs/bench-kernels" --ceilings on | tee "$WORK/ceilings.json"
}

step_kernels() {
  local entry status=0
  for entry in "${kernel_shapes[@]}"; do
    rm -f "$WORK/kernels-${entry%%|*}.json"
    # shellcheck disable=SC2086
    "$programs/bench-kernels" ${entry#*|} --json "$WORK/kernels-${entry%%|*}.json" || status=1
  done
  return $status
}

make_rows() { # COUNT LENGTH
  awk -v count="$1" -v len="$2" 'BEGIN {
    srand(1)
    for (row = 0; row < count; row++) {
      ids = ""
      for (i = 0; i < len; i++) ids = ids (i ? "," : "") 3 + int(rand() * 80)
      printf "{\"input_ids\":[%s],\"labels\":[%s]}\n", ids, ids
    }
  }'
}

# The most memory of the GPU in use, in MB, while a command runs: the last line of the file.
watch_memory() { # FILE COMMAND...
  local file=$1 status
  shift
  touch "$file.on"
  (
    most=0
    while [[ -e $file.on ]]; do
      used=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2>/dev/null | head -n 1)
      if ((${used:-0} > most)); then most=$used; fi
      sleep 1 # asking holds up the driver, and with it what is measured
    done
    echo $((most * 1048576 / 1000000)) >"$file" # it counts in MiB
  ) &
  "$@"
  status=$?
  rm -f "$file.on"
  wait $!
  return $status
}

make_backbone() { # SHAPE FILE
  [[ -e $2 ]] || "$BUILD/random-backbone" "$1" "$2"
}

make_data() { # BACKBONE LENGTH FILE
  [[ -e $3 ]] && return
  make_rows 64 "$2" >"$3.jsonl"
  "$programs/qst-mpi" tokenize --quiet --backbone "$1" --in "$3.jsonl" --out "$3"
}

# train LABEL: real training of a backbone of that shape with random weights
train() {
  local entry label shape flop samples length micro_batch steps options folder=$WORK/$1
  for entry in "${trainings[@]}"; do
    IFS='|' read -r label shape flop samples length micro_batch steps options <<<"$entry"
    [[ $label != "$1" ]] || break
  done
  [[ $label == "$1" ]] || { echo "there is no training $1" && return 2; }
  mkdir -p "$folder"
  rm -rf "$folder/run" "$folder/store"
  local backbone data
  backbone=$WORK/$(basename "${shape%/config.json}").h5 data=$WORK/$(basename "${shape%/config.json}")-$length.rows
  make_backbone "$shape" "$backbone" || return 1
  make_data "$backbone" "$length" "$data" || return 1
  # shellcheck disable=SC2086
  watch_memory "$folder/memory" "$programs/qst-mpi" train --device cuda --backbone "$backbone" --data "$data" \
    --out "$folder/run" --steps "$steps" --global-batch "$samples" --micro-batch-tokens "$micro_batch" \
    --save-every 0 ${options//STORE/$folder/store} || return 1
  grep '"type":"step"' "$folder/run/metrics.jsonl" | sed 1,2d |
    sed -E 's/.*"tokens_per_second":([0-9.eE+-]+).*/\1/' | sort -g |
    awk -v name="$label" -v flop="$flop" -v memory="$(cat "$folder/memory")" '
      { rate[NR] = $1 }
      END {
        if (!NR) exit 1
        median = rate[int((NR + 1) / 2)]
        printf "{\"training\": \"%s\", \"tokens_per_second\": %.1f, \"tflops\": %.2f, \"gpu_megabytes\": %d}\n",
          name, median, median * flop / 1e12, memory
      }' | tee "$folder/train.json"
}

step_peers() {
  if [[ $REHEARSE ]] || ! python3 -c 'import torch, transformers, peft, bitsandbytes; torch.zeros(1).cuda()' 2>/dev/null; then
    echo "no PyTorch with transformers, peft and bitsandbytes on a GPU here"
    return 77
  fi
  python3 benchmarks/peers/qlora_shape.py --out "$WORK/peers.json"
}

# What decides most first: are operations right, how fast is training; then why.
names=("${trainings[@]%%|*}")
steps=(wrappers operations ceilings "${names[0]}" kernels "${names[@]:1}" runs sanitizer peers)

# Seconds a step may take: several times what is expected, for one that hangs must leave time for the others.
limit_of() { # NAME
  case $1 in
    wrappers | ceilings) echo 60 ;;
    operations) echo 150 ;;
    runs) echo 240 ;;
    kernels) echo 100 ;; # what it has by then is kept
    *) echo 180 ;;
  esac
}

# ---- the whole -------------------------------------------------------------------------------------------------

# run_step NAME: its output to a file, its result to the list
run_step() {
  local name=$1 status start=$SECONDS result limit
  limit=$(limit_of "$name")
  if [[ ${ALL_SECONDS:-} ]] && ((ALL_SECONDS - SECONDS < limit)); then limit=$((ALL_SECONDS - SECONDS)); fi
  printf '== %s\n' "$name"
  if ((limit > 0)); then
    timeout --kill-after=10 "$limit" bash benchmarks/gpu_check.sh --step "$name" >"$WORK/$name.log" 2>&1
    status=$?
  else
    echo "no time is left" >"$WORK/$name.log"
    status=77
  fi
  case $status in
    0) result=pass ;;
    77) result=skipped ;;
    124 | 137) result="over its time" ;;
    *) result=failed ;;
  esac
  { printf '== %s: %s\n' "$name" "$result" && cat "$WORK/$name.log"; } >>"$result_file.log"
  tail -n 3 "$WORK/$name.log" | sed 's/^/   /'
  printf '%s: %s (%s s)\n' "$name" "$result" $((SECONDS - start))
  printf '%s|%s|%s\n' "$name" "$result" $((SECONDS - start)) >>"$WORK/steps"
  write_results
}

one_line() { tr -cd '[:alnum:] ,.:_()-' | cut -c 1-200; }

gpu_facts() {
  if [[ $REHEARSE ]]; then
    echo "host runtime, rehearsal"
  else
    { nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no GPU"; } |
      head -n 1
  fi
}

# join FILES...: JSON values as an array, those that are there
join() {
  local first=1 file
  printf '['
  for file in "$@"; do
    [[ -s $file ]] || continue
    ((first)) || printf ', '
    first=0
    cat "$file"
  done
  printf ']'
}

# After every step: a run that is cut off leaves what it has.
write_results() {
  local name result seconds separator=''
  {
    printf '{"date": "%s", "gpu": "%s", "commit": "%s", "rehearsal": %s,\n "steps": [' "$date" "$(gpu_facts | one_line)" \
      "$commit" "$([[ $REHEARSE ]] && echo true || echo false)"
    while IFS='|' read -r name result seconds; do
      printf '%s{"step": "%s", "result": "%s", "seconds": %d}' "$separator" "$name" "$result" "$seconds"
      separator=', '
    done <"$WORK/steps"
    printf '],\n "ceilings": %s,\n "training": %s,\n "peers": %s,\n "kernels": %s}\n' "$(join "$WORK"/ceilings.json)" \
      "$(join "$WORK"/*/train.json)" "$(join "$WORK"/peers.json)" "$(join "$WORK"/kernels-*.json)"
  } >"$result_file.json"
  write_table >"$result_file.md"
}

write_table() {
  local product sustained copy dequantize file
  product=$(sed -nE 's/.*"product_gflops": ([0-9.]+).*/\1/p' "$WORK/ceilings.json" 2>/dev/null)
  sustained=$(sed -nE 's/.*"sustained_gflops": ([0-9.]+).*/\1/p' "$WORK/ceilings.json" 2>/dev/null)
  copy=$(sed -nE 's/.*"copy_gbytes": ([0-9.]+).*/\1/p' "$WORK/ceilings.json" 2>/dev/null)
  dequantize=$(sed -nE 's/.*"dequantize_gbytes": ([0-9.]+).*/\1/p' "$WORK/ceilings.json" 2>/dev/null)
  printf '%s, %s, commit %s\n\n' "$(gpu_facts | one_line)" "$date" "$commit"
  if [[ $REHEARSE ]]; then printf 'A rehearsal on the host runtime: these are not measurements.\n\n'; fi
  printf '| step | result | seconds |\n|---|---|---|\n'
  sed -E 's/^([^|]*)\|([^|]*)\|(.*)$/| \1 | \2 | \3 |/' "$WORK/steps"
  printf '\nCeilings: bf16 product %s GFLOP/s (%s after a second of it), copy %s GB/s. Dequantization of NF4: %s GB/s.\n' \
    "${product:-not measured}" "${sustained:-not measured}" "${copy:-not measured}" "${dequantize:-not measured}"
  printf '\n| training, random weights | tokens/s | TFLOP/s | of the product | GPU memory, MB |\n|---|---|---|---|---|\n'
  for file in "$WORK"/*/train.json; do
    [[ -s $file ]] || continue
    sed -E 's/.*"training": "([^"]*)", "tokens_per_second": ([0-9.]+), "tflops": ([0-9.]+), "gpu_megabytes": ([0-9]+).*/\1 \2 \3 \4/' \
      "$file" | awk -v product="${product:-0}" '
        { printf "| %s | %.0f | %.1f | %s | %d |\n", $1, $2, $3, (product > 0 ? sprintf("%.2f", $3 * 1000 / product) : "-"), $4 }'
  done
  if [[ -s $WORK/peers.json ]]; then printf '\nBeside it, QLoRA: %s\n' "$(cat "$WORK/peers.json")"; fi
  printf '\n| operation | case | shape | ms | of the product | of the copy |\n|---|---|---|---|---|---|\n'
  for file in "$WORK"/kernels-*.json; do
    if [[ -s $file ]]; then kernel_rows "$file"; fi
  done
}

kernel_rows() { # FILE
  local shape
  shape=$(basename "$1" .json)
  tr -d '\n' <"$1" | sed 's/{ *"operation"/\n&/g' | sed -nE \
    's/.*"operation": "([^"]*)", *"case": "([^"]*)".*"p50_ms": ([0-9.eE+-]+),.*"of_product": ([0-9.eE+-]+),.*"of_copy": ([0-9.eE+-]+),.*/\1|\2|\3|\4|\5/p' |
    awk -F'|' -v shape="${shape#kernels-}" '{ printf "| %s | %s | %s | %.4f | %.2f | %.2f |\n", $1, $2, shape, $3, $4, $5 }'
}

if [[ ${1:-} == --step ]]; then
  if [[ $2 == train-* ]]; then train "$2"; else "step_$2"; fi
  exit
fi

mkdir -p "$WORK" "$RESULTS"
rm -f "$WORK"/*.json "$WORK"/*/train.json "$WORK"/*.log
: >"$WORK/steps"
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
commit=$(git rev-parse --short HEAD 2>/dev/null || cat "$BUILD/commit" 2>/dev/null || echo unknown)
result_file=$RESULTS/gpu-${date//:/-}
read -ra wanted <<<"${ONLY:-${steps[*]}}"
for name in "${wanted[@]}"; do run_step "$name"; done
echo "$result_file.md"
! grep -qE '\|(failed|over its time)\|' "$WORK/steps"
