#!/usr/bin/env bash
# The pca downsample: runs find their directions themselves, the same on any grid, or take those of calibrate or
# of the tap store; the side network's file carries them; a store keeps k numbers a tap and replays any grid to the same bits.
# RUN timeout=200
. tests/tiny_run.sh
if ((${TIME_FACTOR:-1} > 1)); then
  echo "skipped: too slow under sanitizers; t41 and t46 run the code there"
  exit 77
fi
make_tiny
read -ra options <<<"$(tiny_options) --downsample pca --rank 6 --epochs 2.5 --threads 1 --calibration-tokens 500"
data=(--backbone "$work/b.h5" --data "$work/t.h5" --rank 6 --micro-batch-tokens 96 --calibration-tokens 500 --threads 1)

# run NAME RANKS OPTION...: a training run, its notes in NAME.log
run() {
  local name=$1 ranks=$2 start=()
  shift 2
  ((ranks == 1)) || start=("${mpirun[@]}" "$ranks")
  "${start[@]}" "$QST" "${options[@]/--quiet/--no-quiet}" --out "$work/$name" "$@" 2>"$work/$name.log" ||
    die "$name failed: $(tail -n 3 "$work/$name.log")"
}

# same NAME RANKS OPTION...: a run that ends like the first
same() {
  run "$@"
  cmp "$work/pca/latest" "$work/$1/latest" || die "$1: its checkpoint differs"
  diff <(losses "$work/pca") <(losses "$work/$1") >/dev/null || die "$1: its loss curve differs"
}

run pca 1
grep -q "^pca  .* 6 directions a layer from 5[0-9][0-9] tokens of" "$work/pca.log" || die "$(cat "$work/pca.log")"
awk '{ loss[NR] = $2 } END { exit !(loss[NR] < loss[1]) }' <(losses "$work/pca") || die "$(losses "$work/pca")"
for ranks in 2 3; do
  same "ranks-$ranks" $ranks
done
same stages-3 3 --pipeline-stages 3
same stages-4 4 --pipeline-stages 2 --placement replicas
grep -q "^pca  .* 6 directions a layer from 5[0-9][0-9] tokens of" "$work/stages-4.log" || die "$(cat "$work/stages-4.log")"

# ---- calibrate ----
for ranks in 1 2 3; do
  "${mpirun[@]}" $ranks "$QST" calibrate --quiet "${data[@]}" --out "$work/d$ranks.h5"
done
"${mpirun[@]}" 4 "$QST" calibrate --quiet "${data[@]}" --out "$work/d4.h5" --pipeline-stages 2
cmp "$work/d1.h5" "$work/d2.h5" || die "directions depend on the ranks"
cmp "$work/d1.h5" "$work/d3.h5" || die "directions depend on the ranks"
cmp "$work/d1.h5" "$work/d4.h5" || die "directions depend on the stages"
same given 2 --directions "$work/d1.h5"
! grep -q "directions a layer" "$work/given.log" || die "given directions, it found others"
same staged 2 --directions "$work/d1.h5" --pipeline-stages 2
status=0
"$QST" "${options[@]}" --out "$work/no" --directions "$work/d1.h5" --rank 5 2>"$work/stderr" || status=$?
((status == 1)) || die "directions of another rank gave status $status: $(cat "$work/stderr")"
"$QST" calibrate --quiet "${data[@]}" --out "$work/other.h5" --calibration-tokens 100

# ---- the side network's file ----
"$QST" export --quiet --side "$work/pca" --out "$work/side.safetensors"
"$QST" export --quiet --side "$work/side.safetensors" --out "$work/side.h5"
last=$(sed -nE 's/.*"type":"eval".*"loss":([0-9.]+).*/\1/p' "$work/pca/metrics.jsonl" | tail -n 1)
for side in pca side.safetensors side.h5; do
  "$QST" eval --quiet --json --backbone "$work/b.h5" --side "$work/$side" --data "$work/e.h5" --micro-batch-tokens 96 \
    --threads 1 >"$work/eval.json"
  grep -q "\"loss\": *${last:0:8}" "$work/eval.json" || die "$side: not $last: $(cat "$work/eval.json")"
done
run half 1 --save-every 5
rm "$work"/half/step-00002[01].h5
same half 2 --save-every 5 --resume
! grep -q "directions a layer" "$work/half.log" || die "a resumed run found other directions"
run init 1 --init "$work/side.h5"
! grep -q "directions a layer" "$work/init.log" || die "a run from --init found other directions"

# ---- the tap store ----
same live-store 2 --taps "$work/store"
! compgen -G "$work/store/*.tmp-*" >/dev/null || die "left in the store: $(ls "$work/store")"
cmp "$work/store/directions.h5" "$work/d1.h5" || die "the store keeps other directions"
same replayed 1 --taps "$work/store"
grep -q "^taps  .* 0 tokens live" "$work/replayed.log" || die "$(cat "$work/replayed.log")"
! grep -q "directions a layer" "$work/replayed.log" || die "given a store, it found other directions"
same replayed-staged 3 --taps "$work/store" --pipeline-stages 3
same live-staged 2 --taps "$work/store-staged" --pipeline-stages 2
cmp "$work/store-staged/directions.h5" "$work/d1.h5" || die "a pipeline's store keeps other directions"
"${mpirun[@]}" 2 "$QST" taps "${data[@]}" --downsample pca --reduction-factor 3 --taps "$work/filled" 2>"$work/fill.log"
same from-filled 2 --taps "$work/filled"
grep -q "^taps  .* 0 tokens live" "$work/from-filled.log" || die "$(cat "$work/from-filled.log")"
tokens=$("$QST" inspect --json "$work/t.h5" | sed -nE 's/.*"tokens": *([0-9]+),.*/\1/p' | head -n 1)
bytes=$("$QST" inspect --json "$work/filled"/segment-*.h5 | tr -d '\n ' | grep -o '"name":"/taps"[^}]*"bytes":[0-9]*' |
  awk -F : '{ sum += $NF } END { print sum }')
((bytes == tokens * 4 * 6 * 2)) || die "$bytes bytes of taps for $tokens tokens: not 4 taps of 6 bf16 numbers"
status=0
"$QST" "${options[@]}" --out "$work/no" --taps "$work/store" --directions "$work/other.h5" 2>"$work/stderr" || status=$?
((status == 1)) || die "other directions gave status $status"
grep -q "holds taps for other --directions" "$work/stderr" || die "$(cat "$work/stderr")"
"$QST" calibrate --quiet "${data[@]}" --out "$work/five.h5" --rank 5
status=0
"$QST" "${options[@]}" --out "$work/no" --taps "$work/store" --directions "$work/five.h5" --rank 5 2>"$work/stderr" || status=$?
((status == 1)) || die "another rank gave status $status"
grep -q "holds taps for another --rank (cols 6, needed is 5)" "$work/stderr" || die "$(cat "$work/stderr")"
