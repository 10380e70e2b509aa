#!/usr/bin/env bash
# What the tap store brings on the demo task: a live epoch, one that also fills a store, one replayed from it (cold), turn by
# turn, on two ranks, with the demo's label mask; the same for exact and int8 taps. Prints a table, writes it under
# benchmarks/results, and fails when storing costs more than 10 % of the live epoch, or replay is less than 3 times as fast.
# `make demo` comes first.
#
#   ROWS    of the demo's rows, an epoch (640; each takes 1.8 MB of disk)
#   TURNS   of each (3)
set -euo pipefail
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build}
QST=$BUILD/qst-mpi
DEMO=$BUILD/demo
WORK=$BUILD/taps
ROWS=${ROWS:-640}
TURNS=${TURNS:-3}
RESULT=benchmarks/results/taps-$(date -u +%Y-%m-%dT%H%M).md
[[ -e $DEMO/backbone.h5 ]] || { echo "$DEMO/backbone.h5 is not there: run make demo first" >&2 && exit 1; }
mkdir -p "$WORK" benchmarks/results
trap 'rm -rf "$WORK"' EXIT
mpirun=(mpirun --bind-to core)
if [[ $(id -u) == 0 ]]; then mpirun+=(--allow-run-as-root); fi

"$QST" tokenize --quiet --backbone "$DEMO/backbone.h5" --in benchmarks/demo/train.jsonl --template chatml --limit "$ROWS" \
  --out "$WORK/rows.h5"

# train NAME OPTION...: an epoch; adds its seconds to NAME.txt
train() {
  local name=$1
  shift
  rm -rf "$WORK/run"
  "${mpirun[@]}" -n 2 "$QST" train --quiet --backbone "$DEMO/backbone.h5" --data "$WORK/rows.h5" --out "$WORK/run" \
    --micro-batch-tokens 512 --lr 3e-3 --save-every 0 "$@" >&2
  sed -nE 's/.*"type":"end".*"seconds":([0-9.]+).*/\1/p' "$WORK/run/metrics.jsonl" >>"$WORK/$name.txt"
}

# The next read of the store comes from the disk.
drop_cache() {
  local segment
  for segment in "$WORK/store-$1"/segment-*.h5; do
    dd if="$segment" iflag=nocache count=0 status=none
  done
}

median() {
  sort -n "$WORK/$1.txt" | awk '{ x[NR] = $1 } END { print (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2 }'
}

for ((turn = 0; turn < TURNS; turn++)); do
  train live
  for format in exact int8; do
    rm -rf "$WORK/store-$format"
    train "fill-$format" --taps "$WORK/store-$format" --tap-format "$format"
    drop_cache "$format"
    train "replay-$format" --taps "$WORK/store-$format" --tap-format "$format"
  done
done

tokens=$("$QST" inspect "$WORK/rows.h5" --json | sed -nE 's/.*"tokens": *([0-9]+).*/\1/p' | head -n 1)
live=$(median live)
verdict=PASS
# row WHAT NAME BYTES
row() {
  awk -v what="$1" -v seconds="$(median "$2")" -v live="$live" -v tokens="$tokens" -v bytes="$3" 'BEGIN {
    printf "| %s | %.1f | %.0f | %.2f | %s |\n", what, seconds, tokens / seconds, live / seconds, bytes }'
}
# check NAME LEAST: the live epoch's time is at least that many times this one's
check() {
  awk -v seconds="$(median "$1")" -v live="$live" -v least="$2" 'BEGIN { exit !(live / seconds >= least) }' || verdict=FAIL
}
check fill-exact 0.909
check replay-exact 3
{
  echo "SmolLM2-135M-Instruct, demo task, an epoch of $ROWS rows, 2 ranks of one core; medians of $TURNS turns,"
  echo "$(sed -nE 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), commit $(git rev-parse --short HEAD)"
  echo
  echo "| epoch | seconds | tokens/s | times live | store |"
  echo "|---|---|---|---|---|"
  row "live" live "-"
  for format in exact int8; do
    row "live, storing $format" "fill-$format" "$(du -sbh "$WORK/store-$format" | cut -f 1)B"
    row "replayed $format, cold" "replay-$format" "$(du -sbh "$WORK/store-$format" | cut -f 1)B"
  done
  echo
  echo "Storing exact taps may cost 10 % (0.91 times live), replaying them must be 3 times live: $verdict"
} | tee "$RESULT"
[[ $verdict == PASS ]]
