#!/usr/bin/env bash
# The tap store: a replayed run equals a live one bit for bit, whatever ranks, order of rows and kind of taps; what a kill, a
# second writer, a full disk or damage leave behind is still right; stores of something else are refused; other tools read
# them.
# RUN timeout=400
. tests/tiny_run.sh
# Under sanitizers, where all of it takes minutes: one kind of taps, live, replayed and by another side network.
kinds="adapter linear maxpool avgpool" stores="1 2 3" epochs=2.5
if ((${TIME_FACTOR:-1} > 1)); then kinds=adapter stores=2 epochs=1.5; fi
make_tiny
read -ra options <<<"$(tiny_options) --epochs $epochs --threads 1"

# same A B: equal last checkpoints and loss curves
same() {
  cmp "$1/latest" "$2/latest" || die "$2: its checkpoint differs from $1's"
  diff <(losses "$1") <(losses "$2") >/dev/null || die "$2: its loss curve differs from $1's"
}

# replayed LIVE REPLAYED RUN: what the last line about taps of a run must say, in tokens; * is any number
replayed() {
  local line
  line=$(grep '^taps ' "$3.log")
  # shellcheck disable=SC2053 # a pattern
  [[ $line == *\ $1\ tokens\ live*\ $2\ replayed\;* ]] || die "$3: not $1 live and $2 replayed: $line"
}

# run NAME RANKS OPTION...: a training run, its notes in NAME.log
run() {
  local name=$1 ranks=$2 start=()
  shift 2
  ((ranks == 1)) || start=("${mpirun[@]}" "$ranks")
  "${start[@]}" "$QST" "${options[@]/--quiet/--no-quiet}" --out "$work/$name" "$@" 2>"$work/$name.log" ||
    die "$name failed: $(tail -n 3 "$work/$name.log")"
}

# ---- the same bits ----
for kind in $kinds; do
  run "$kind" 1 --downsample "$kind"
  for ranks in $stores; do
    run "$kind-$ranks" "$ranks" --downsample "$kind" --taps "$work/store-$kind-$ranks"
    same "$work/$kind" "$work/$kind-$ranks"
    replayed "[1-9]*" "[1-9]*" "$work/$kind-$ranks"
    run "$kind-$ranks-again" $((4 - ranks)) --downsample "$kind" --taps "$work/store-$kind-$ranks"
    same "$work/$kind" "$work/$kind-$ranks-again"
    replayed 0 "[1-9]*" "$work/$kind-$ranks-again"
    rm -r "$work/$kind-$ranks" "$work/$kind-$ranks-again"
  done
done
store=$work/store-adapter-2

# Another side network, another order of the rows: the same store.
other=(--downsample lora --rank 4 --seed 3 --micro-batch-tokens 160 --global-batch 7)
run other 1 "${other[@]}"
run other-taps 2 "${other[@]}" --taps "$store"
same "$work/other" "$work/other-taps"
replayed 0 "[1-9]*" "$work/other-taps"

if ((${TIME_FACTOR:-1} > 1)); then exit 0; fi

run fp32 1 --act fp32
run fp32-taps 2 --act fp32 --taps "$work/store-fp32"
run fp32-again 1 --act fp32 --taps "$work/store-fp32"
same "$work/fp32" "$work/fp32-taps"
same "$work/fp32" "$work/fp32-again"

# int8 changes the numbers, but not with what was live and what replayed.
for kind in adapter avgpool; do
  int8=(--downsample "$kind" --tap-format int8)
  run "int8-$kind" 1 "${int8[@]}" --taps "$work/store-int8-$kind"
  run "int8-again-$kind" 3 "${int8[@]}" --taps "$work/store-int8-$kind"
  same "$work/int8-$kind" "$work/int8-again-$kind"
  replayed 0 "[1-9]*" "$work/int8-again-$kind"
  ! cmp -s "$work/int8-$kind/latest" "$work/$kind/latest" || die "int8 is exact"
done

# ---- on any grid ----
# Stages write segments of their own taps. Rows replay where all taps are there, whatever grid each came from.
for kind in adapter avgpool; do
  run staged-$kind 3 --downsample $kind --taps "$work/store-staged-$kind" --pipeline-stages 3
  same "$work/$kind" "$work/staged-$kind"
  replayed "[1-9]*" "[1-9]*" "$work/staged-$kind"
  for grid in "1 1" "2 2" "4 2"; do
    read -r ranks stages <<<"$grid"
    run "grid-$kind-$ranks" "$ranks" --downsample $kind --taps "$work/store-staged-$kind" --pipeline-stages "$stages"
    same "$work/$kind" "$work/grid-$kind-$ranks"
    replayed 0 "[1-9]*" "$work/grid-$kind-$ranks"
  done
  run whole-$kind 2 --downsample $kind --taps "$work/store-$kind-3" --pipeline-stages 2
  same "$work/$kind" "$work/whole-$kind"
  replayed 0 "[1-9]*" "$work/whole-$kind"
done

# A stage's segments are lost, one whole segment comes: the rest is computed again, by another split.
staged=$work/store-staged-adapter
rm "$staged"/segment-*-0-*.h5 "$staged"/index.h5
cp "$(find "$work/store-adapter-2" -name 'segment-*' | head -n 1)" "$staged"
run patched 2 --taps "$staged" --pipeline-stages 2
same "$work/adapter" "$work/patched"
replayed "[1-9]*" "[1-9]*" "$work/patched"
run patched-again 3 --taps "$staged" --pipeline-stages 3
same "$work/adapter" "$work/patched-again"
replayed 0 "[1-9]*" "$work/patched-again"
"${mpirun[@]}" 4 "$QST" taps --backbone "$work/b.h5" --data "$work/t.h5" --threads 1 --pipeline-stages 2 \
  --taps "$work/filled-staged" 2>"$work/fill.log"
tokens=$("$QST" inspect --json "$work/t.h5" | sed -nE 's/.*"tokens": *([0-9]+),.*/\1/p' | head -n 1)
replayed "$tokens" 0 "$work/fill"
# int8: a stage's side network reads rounded taps, the next stage's backbone goes on from those that are not.
for kind in adapter avgpool; do
  int8=(--downsample "$kind" --tap-format int8)
  run "int8-staged-$kind" 4 "${int8[@]}" --taps "$work/store-int8-staged-$kind" --pipeline-stages 2
  same "$work/int8-$kind" "$work/int8-staged-$kind"
  replayed "[1-9]*" "[1-9]*" "$work/int8-staged-$kind"
  for from in "staged-$kind" "$kind"; do
    run "int8-grid-$from" 3 "${int8[@]}" --taps "$work/store-int8-$from" --pipeline-stages 3
    same "$work/int8-$kind" "$work/int8-grid-$from"
    replayed 0 "[1-9]*" "$work/int8-grid-$from"
  done
done

# Damage: no stage computes alone, so all do the step again.
for segment in "$work"/store-staged-avgpool/segment-*.h5; do
  printf 'damaged' | dd of="$segment" bs=1 seek=$(($(stat -c %s "$segment") / 2)) conv=notrunc status=none
done
for grid in "2 2" "3 3" "4 2"; do
  read -r ranks stages <<<"$grid"
  run "damaged-$ranks" "$ranks" --downsample avgpool --taps "$work/store-staged-avgpool" --pipeline-stages "$stages"
  same "$work/avgpool" "$work/damaged-$ranks"
  replayed "[1-9]*" "[1-9]*" "$work/damaged-$ranks"
  # Once of whichever rank comes first, and of rank 0 when it comes later.
  [[ $(grep -c "are damaged: their hash does not hold; computed again" "$work/damaged-$ranks.log") == [12] ]] ||
    die "$(cat "$work/damaged-$ranks.log")"
done
status=0
"${mpirun[@]}" 3 "$QST" taps --quiet --backbone "$work/b.h5" --data "$work/t.h5" --threads 1 --downsample avgpool \
  --reduction-factor 3 --taps "$work/store-staged-avgpool" --pipeline-stages 3 2>"$work/stderr" || status=$?
((status == 1)) || die "damage in a pipeline gave status $status: $(cat "$work/stderr")"
grep -q "are damaged: remove them with taps --prune" "$work/stderr" || die "$(cat "$work/stderr")"

# ---- what other tools see ----
if command -v h5dump >/dev/null; then
  for plane in taps normed; do
    h5dump -d /$plane -b LE -o "$work/index.bin" "$store/index.h5" >/dev/null
    for segment in "$store"/segment-*.h5; do
      h5dump -d /$plane -b LE -o "$work/segment.bin" "$segment" >/dev/null
      cat "$work/segment.bin"
    done | cmp - "$work/index.bin" || die "the index shows other $plane than the segments hold"
  done
  # The index over segments of stages shows what that over whole ones does.
  fill=("$QST" taps --quiet --backbone "$work/b.h5" --data "$work/t.h5" --threads 1)
  "${fill[@]}" --taps "$work/index-1"
  "${mpirun[@]}" 2 "${fill[@]}" --taps "$work/index-2" --pipeline-stages 2
  for plane in rows tokens labels taps normed; do
    for stages in 1 2; do
      h5dump -d /$plane -b LE -o "$work/index-$stages.bin" "$work/index-$stages/index.h5" >/dev/null
    done
    cmp "$work/index-1.bin" "$work/index-2.bin" || die "the index of stages' segments shows other $plane"
  done
fi
"$QST" inspect "$store"/*.h5 >/dev/null || die "inspect finds faults in a store"

# ---- filled without training ----
for kind in lora avgpool; do
  taps=(taps --backbone "$work/b.h5" --data "$work/t.h5" --downsample "$kind" --reduction-factor 3 --threads 1)
  "${mpirun[@]}" 2 "$QST" "${taps[@]}" --taps "$work/filled-$kind" 2>"$work/fill.log"
  replayed "[1-9]*" 0 "$work/fill"
  "${mpirun[@]}" 3 "$QST" "${taps[@]}" --taps "$work/filled-$kind" 2>"$work/fill.log"
  replayed 0 "[1-9]*" "$work/fill"
done
run from-filled 2 --taps "$work/filled-lora" --downsample adapter
same "$work/adapter" "$work/from-filled"
replayed 0 "[1-9]*" "$work/from-filled"

status=0
(ulimit -f 8 && "$QST" "${taps[@]}" --taps "$work/filled-full" --quiet 2>"$work/stderr") || status=$?
((status == 3)) || die "a full disk gave status $status"
grep -q "100 rows could not be stored" "$work/stderr" || die "$(cat "$work/stderr")"

# ---- stores of something else ----
# refused TEXT OPTION...
refused() {
  local text=$1 status=0
  shift
  "$QST" "${options[@]}" --out "$work/refused" --taps "$store" "$@" 2>"$work/stderr" || status=$?
  ((status == 1)) || die "status $status: $*: $(cat "$work/stderr")"
  grep -qF -- "holds taps $text" "$work/stderr" || die "the line lacks '$text': $(cat "$work/stderr")"
}
"$QST" quantize --quiet --format bf16 --model tests/fixtures/tiny-llama --out "$work/b16.h5" 2>/dev/null
refused "of another backbone" --backbone "$work/b16.h5"
refused "of other data" --data "$work/e.h5"
refused "for another --downsample" --downsample maxpool
refused "of another --act" --act fp32
refused "in another --tap-format" --tap-format int8
refused "of another --backbone-compute" --backbone-compute fp8
store=$work/store-maxpool-1
refused "for another --reduction-factor" --downsample maxpool --reduction-factor 6

# ---- killed at any moment ----
kills=0
for attempt in $(seq 8); do
  "$QST" "${options[@]}" --epochs 40 --out "$work/killed-$attempt" --taps "$work/store-killed" 2>/dev/null &
  child=$!
  sleep "0.$((attempt * 13 % 40 + 10))"
  if kill -KILL $child 2>/dev/null; then kills=$((kills + 1)); fi
  wait $child || true
done
((kills >= 4)) || die "the run was over before it could be killed: $kills times"
rm -f "$work/store-killed/index.h5" # made at the end of a run, if one came so far
run after 2 --taps "$work/store-killed"
same "$work/adapter" "$work/after"
! compgen -G "$work/store-killed/*.tmp-*" >/dev/null || die "killed runs left $(ls "$work/store-killed")"
"$QST" inspect "$work"/store-killed/*.h5 >/dev/null || die "inspect finds faults in the store of a killed run"

# ---- two runs that fill one store ----
run one 1 --taps "$work/store-two" --seed 5 &
child=$!
run two 1 --taps "$work/store-two"
wait $child || die "the other of two writers failed"
same "$work/adapter" "$work/two"
run both 2 --taps "$work/store-two"
same "$work/adapter" "$work/both"
replayed 0 "[1-9]*" "$work/both"

# ---- a full disk: files may be as large as a checkpoint, not as a segment ----
limit=$(($(stat -L -c %s "$work/adapter/latest") / 1024 + 8))
(ulimit -f $limit && run full 1 --taps "$work/store-full")
same "$work/adapter" "$work/full"
grep -q "warning: .*store-full.*File too large; training goes on" "$work/full.log" || die "$(cat "$work/full.log")"
! compgen -G "$work/store-full/*.tmp-*" >/dev/null || die "a full disk left $(ls "$work/store-full")"
"$QST" inspect "$work"/store-full/*.h5 >/dev/null || die "inspect finds faults in the store of a full disk"
run refilled 2 --taps "$work/store-full"
same "$work/adapter" "$work/refilled"

# ---- damage: the rows are computed again ----
for segment in "$work"/store-adapter-1/segment-*.h5; do
  printf 'damaged' | dd of="$segment" bs=1 seek=$(($(stat -c %s "$segment") / 2)) conv=notrunc status=none
done
run damaged 1 --taps "$work/store-adapter-1"
same "$work/adapter" "$work/damaged"
grep -q "warning: .*are damaged: their hash does not hold; computed again" "$work/damaged.log" ||
  die "$(cat "$work/damaged.log")"
status=0
"$QST" taps --quiet --backbone "$work/b.h5" --data "$work/t.h5" --taps "$work/store-adapter-1" 2>"$work/stderr" || status=$?
((status == 1)) || die "damage gave status $status"
grep -q "are damaged: remove them with taps --prune" "$work/stderr" || die "$(cat "$work/stderr")"
