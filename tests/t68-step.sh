#!/usr/bin/env bash
# bench-step on a tiny model, alone and as two ranks: every phase has a row, the phases make up the step, JSON agrees.
# RUN timeout=120
. tests/tiny_run.sh
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 # oneDNN's, the ceiling's
make_tiny
bench=$BUILD/bench-step
options=(--backbone "$work/b.h5" --data "$work/t.h5" --reduction-factor 3 --global-batch 12 --micro-batch-tokens 96 --steps 8 --threads 1)

check() { # NAME
  [[ $(tail -n 1 "$work/$1.txt") == "# PASS" ]] || die "$1: no PASS: $(cat "$work/$1.txt")"
  [[ $(grep -c '"floor_seconds"' "$work/$1.json") == 11 ]] || die "$1: not ten phases and a step: $(cat "$work/$1.json")"
  for phase in "backbone products" "backbone attention" "side forward" "side backward"; do
    grep -qE "^$phase +0\.[0-9]*[1-9]" "$work/$1.txt" || die "$1: $phase takes no time: $(cat "$work/$1.txt")"
  done
  awk '/^step / { step = $2 } /^[a-z]/ && !/^step / { sub(/^[a-z,]+( [a-z]+)*  +/, ""); sum += $1 }
    END { exit !(sum > .1 * step && sum < 1.01 * step) }' "$work/$1.txt" || die "$1: phases do not make up the step"
  grep -q '"steps": 7' "$work/$1.json" || die "$1: not 7 of 8 steps were counted"
}
"$bench" "$work/one.json" "${options[@]}" --out "$work/one" >"$work/one.txt" || die "$(cat "$work/one.txt")"
check one
grep -qE '^head +0\.[0-9]*[1-9]' "$work/one.txt" || die "the head takes no time: $(cat "$work/one.txt")"
"${mpirun[@]}" 2 "$bench" "$work/two.json" "${options[@]}" --out "$work/two" --pipeline-stages 2 >"$work/two.txt" ||
  die "$(cat "$work/two.txt")"
check two

# The run is a real one: the same as without clocks.
"$QST" train --quiet "${options[@]}" --out "$work/plain"
same_run "$work/one" "$work/plain" 8

fails() { # TEXT OPTION...
  local text=$1
  shift
  ! "$bench" "$@" >"$work/out" 2>&1 || die "accepted: $*"
  grep -q "$text" "$work/out" || die "$*: $(cat "$work/out")"
}
fails "not overwritten" "$work/one.json" "${options[@]}" --out "$work/three"
fails "give --steps 2 or more" - "${options[@]}" --out "$work/four" --steps 1
