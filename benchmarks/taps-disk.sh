#!/usr/bin/env bash
# The tap store against its disk: reading micro-batches of random rows against dd over the same files, cold, turn by turn;
# and two ranks that write segments of their own against one file through parallel HDF5. Prints a table, writes it under
# benchmarks/results, and fails when reading stays below 90 % of dd. `make bench-taps` comes first.
#
#   FOLDER   on the disk in question ($BUILD/taps-disk)
#   ROWS     rows of 1.7 MB (600)
#   TURNS    of each (7)
set -euo pipefail
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build}
FOLDER=${FOLDER:-$BUILD/taps-disk}
ROWS=${ROWS:-600}
TURNS=${TURNS:-7}
bench=$BUILD/bench-taps
read -ra mpirun <<<"${MPIRUN:-mpirun --allow-run-as-root -n} 2"
RESULT=benchmarks/results/taps-disk-$(date -u +%Y-%m-%dT%H%M).md
[[ -x $bench ]] || { echo "$bench is not there: run make bench-taps first" >&2 && exit 1; }
mkdir -p benchmarks/results "$FOLDER"
trap 'rm -rf "$FOLDER"' EXIT

# drop_cache FILE...: the next read of them comes from the disk
drop_cache() {
  local file
  for file in "$@"; do
    dd if="$file" iflag=nocache count=0 status=none
  done
}

# time_dd FLAGS FILE...: bytes a second of dd over the files
time_dd() {
  local flags=$1 file begin
  shift
  drop_cache "$@"
  begin=$(date +%s.%N)
  for file in "$@"; do
    # shellcheck disable=SC2086 # no flags are no word
    dd if="$file" of=/dev/null bs=4M $flags status=none
  done
  du -cb "$@" | tail -n 1 | awk -v begin="$begin" -v end="$(date +%s.%N)" '{ printf "%.0f\n", $1 / (end - begin) }'
}

median() {
  sort -n | awk '{ x[NR] = $1 } END { print (x[int((NR + 1) / 2)] + x[int(NR / 2) + 1]) / 2 }'
}

megabytes() {
  awk '{ printf "%.0f", $1 / 1e6 }' "$FOLDER/$1"
}

for ((turn = 0; turn < TURNS; turn++)); do
  for way in write parallel; do
    rm -rf "${FOLDER:?}/store-$way"
    "${mpirun[@]}" "$bench" "$way" "$FOLDER/store-$way" "$ROWS" >>"$FOLDER/$way.txt"
  done
done
rm -r "$FOLDER/store-parallel"
segments=("$FOLDER"/store-write/segment-*.h5)
for ((turn = 0; turn < TURNS; turn++)); do
  time_dd "" "${segments[@]}" >>"$FOLDER/dd.txt"
  time_dd iflag=direct "${segments[@]}" >>"$FOLDER/direct.txt"
  drop_cache "${segments[@]}"
  "$bench" read "$FOLDER/store-write" "$ROWS" "$turn" >>"$FOLDER/read.txt"
done

for name in write parallel dd direct read; do median <"$FOLDER/$name.txt" >"$FOLDER/$name"; done
dd_best=$(sort -n "$FOLDER/dd" "$FOLDER/direct" | tail -n 1)
ratio=$(awk -v a="$(<"$FOLDER/read")" -v b="$dd_best" 'BEGIN { printf "%.2f", a / b }')
verdict=$(awk -v ratio="$ratio" 'BEGIN { print (ratio >= 0.9 ? "PASS" : "FAIL") }')
{
  echo "Tap store and disk: $ROWS rows of 48 tokens, 31 taps of 576 bf16, $((${#segments[@]})) segments; medians of $TURNS turns,"
  echo "$(sed -nE 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(df --output=fstype "$FOLDER" | tail -n 1), commit $(git rev-parse --short HEAD)"
  echo
  echo "| what | MB/s |"
  echo "|---|---|"
  echo "| two ranks, segments of their own, synced | $(megabytes write) |"
  echo "| two ranks, one file through parallel HDF5, synced | $(megabytes parallel) |"
  echo "| dd, cold, through the page cache | $(megabytes dd) |"
  echo "| dd, O_DIRECT | $(megabytes direct) |"
  echo "| random rows of the store, cold, checked against their hashes | $(megabytes read) |"
  echo
  echo "Reading is $ratio of dd (at least 0.90 is asked for): $verdict"
} | tee "$RESULT"
[[ $verdict == PASS ]]
