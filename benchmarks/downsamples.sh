#!/usr/bin/env bash
# Which --downsample? Equal steps, rows, seed and learning rate for each, on the demo task and on plain text (the reference
# of the Python language, as python3 carries it): evaluation loss, the time of the steps live and replayed, and the bytes
# that a token takes in the tap store. Also what int8 taps cost. Prints a table and writes it under benchmarks/results.
# `make demo` comes first.
#
#   STEPS    of each run (60), of 16 rows; text is cut into rows of at most 128 tokens
#   RATE     learning rate (3e-3)
#   KINDS    of downsample (adapter lora pca maxpool avgpool)
set -euo pipefail
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build}
QST=$BUILD/qst-mpi
DEMO=$BUILD/demo
WORK=$BUILD/downsamples
STEPS=${STEPS:-60}
RANKS=$(nproc)
mpirun=(mpirun --bind-to core --map-by core -n "$RANKS")
if [[ $(id -u) == 0 ]]; then mpirun+=(--allow-run-as-root); fi
RATE=${RATE:-3e-3}
read -ra kinds <<<"${KINDS:-adapter lora pca maxpool avgpool}"
RESULT=benchmarks/results/downsamples-$(date -u +%Y-%m-%dT%H%M).md
[[ -e $DEMO/train.h5 ]] || { echo "$DEMO/train.h5 is not there: run make demo first" >&2 && exit 1; }
rm -rf "$WORK"
mkdir -p "$WORK" benchmarks/results
trap 'rm -rf "$WORK"' EXIT

# Rows of whole paragraphs of about 1,000 characters; every tenth is held out.
make_text() {
  python3 - "$WORK" <<'PYTHON'
import json, pydoc_data.topics, sys
text = "\n\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
rows, row = [], ""
for paragraph in text.split("\n\n"):
    row += paragraph + "\n\n"
    if len(row) >= 1000:
        rows.append(row[:4000])
        row = ""
for name, wanted in (("train", lambda i: i % 10), ("eval", lambda i: i % 10 == 0)):
    with open(f"{sys.argv[1]}/text-{name}.jsonl", "w") as file:
        file.writelines(json.dumps({"text": r}) + "\n" for i, r in enumerate(rows) if wanted(i))
PYTHON
  local part
  for part in train eval; do
    "$QST" tokenize --quiet --backbone "$DEMO/backbone.h5" --in "$WORK/text-$part.jsonl" \
      --max-tokens 128 --out "$WORK/text-$part.h5"
  done
}

# train CORPUS OPTION...: a run that uses the store; its folder is $WORK/run
train() {
  local data=$DEMO/train.h5 eval=$DEMO/eval.h5
  if [[ $1 == text ]]; then data=$WORK/text-train.h5 eval=$WORK/text-eval.h5; fi
  shift
  rm -rf "$WORK/run"
  "${mpirun[@]}" "$QST" train --quiet --backbone "$DEMO/backbone.h5" --data "$data" --eval-data "$eval" --out "$WORK/run" \
    --taps "$WORK/store" --steps "$STEPS" --lr "$RATE" --micro-batch-tokens 512 --save-every 0 "$@" >&2
}

# Of the last step: the run's clock stops before the evaluation at its end.
seconds() {
  sed -nE 's/.*"type":"step".*"seconds":([0-9.]+).*/\1/p' "$WORK/run/metrics.jsonl" | tail -n 1
}

# row CORPUS NAME OPTION...
row() {
  local corpus=$1 name=$2 live loss bytes
  shift 2
  rm -rf "$WORK/store"
  train "$corpus" "$@"
  live=$(seconds)
  loss=$(sed -nE 's/.*"type":"eval".*"loss":([0-9.]+).*/\1/p' "$WORK/run/metrics.jsonl" | tail -n 1)
  # "/taps", "u16", [tokens, numbers], bytes: the numbers in it
  bytes=$("$QST" inspect --json "$WORK"/store/segment-*.h5 | tr -d '\n ' | grep -oE '"/(taps|scales)"[^}]*"bytes":[0-9]+' |
    awk -F '[^0-9]+' '/taps/ { tokens += $3 } { bytes += $5 } END { printf "%.0f", bytes / tokens }')
  train "$corpus" "$@"
  echo "| $corpus | $name | $loss | $live | $(seconds) | $bytes |"
}

make_text
{
  echo "SmolLM2-135M-Instruct, $STEPS steps of 16 rows, learning rate $RATE, $RANKS ranks; losses in nats a label token,"
  echo "$(sed -nE 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), commit $(git rev-parse --short HEAD)"
  echo
  echo "| data | downsample | evaluation loss | live s | replayed s | bytes of taps a token |"
  echo "|---|---|---|---|---|---|"
  for corpus in demo text; do
    for kind in "${kinds[@]}"; do
      row $corpus "$kind" --downsample "$kind"
    done
    row $corpus "adapter, int8 taps" --downsample adapter --tap-format int8
  done
} | tee "$RESULT"
