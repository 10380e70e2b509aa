#!/usr/bin/env bash
# One run, many ways: 1, 2 and 3 ranks, grids of pipeline stages, any number of threads, twice the same, interrupted and
# resumed on another grid: equal checkpoints, byte for byte, and equal losses.
# RUN timeout=300
. tests/tiny_run.sh
make_tiny
steps=30
read -ra options <<<"$(tiny_options) --steps $steps --save-every 10 --keep 9"

"$QST" "${options[@]}" --out "$work/one" --threads 1
"$QST" "${options[@]}" --out "$work/again" --threads 1
same_run "$work/one" "$work/again" $steps
for threads in 2 3; do
  "$QST" "${options[@]}" --out "$work/threads-$threads" --threads $threads
  same_run "$work/one" "$work/threads-$threads" $steps
done
for ranks in 1 2 3; do
  "${mpirun[@]}" $ranks "$QST" "${options[@]}" --out "$work/ranks-$ranks" --threads 1
  same_run "$work/one" "$work/ranks-$ranks" $steps
done

# grid NAME STAGES RANKS OPTION...: a run on that grid
grid() {
  local name=$1 stages=$2 ranks=$3
  shift 3
  "${mpirun[@]}" "$ranks" "$QST" "${options[@]}" --out "$work/$name" --threads 1 --pipeline-stages "$stages" "$@"
  same_run "$work/one" "$work/$name" $steps
}
grid stages-2 2 2
grid stages-3 3 3
grid two-by-two 2 4
grid by-replicas 2 4 --placement replicas
grid ranks-4 1 4

# Cut off after step 10, as a killed run leaves it, and resumed on another grid.
cut() {
  cp -a "$work/$1" "$work/$2"
  rm "$work/$2"/step-0000[23]0.h5
  for link in latest best; do ln -sfn step-000010.h5 "$work/$2/$link"; done
  rm -f "$work/$2"/step-00001[1-9].h5 "$work/$2"/step-00002?.h5
  [[ $(cd "$work/$2" && echo step-*) == "step-000007.h5 step-000010.h5" ]] || die "$2: $(ls "$work/$2")"
}
for ranks in 1 3; do
  cut ranks-2 "resumed-$ranks"
  grid "resumed-$ranks" 1 $ranks --resume
done
cut stages-3 stages-3-to-2
grid stages-3-to-2 2 2 --resume
cut ranks-2 ranks-2-to-stages
grid ranks-2-to-stages 3 3 --resume
cut two-by-two grid-to-one
"$QST" "${options[@]}" --out "$work/grid-to-one" --threads 1 --resume
same_run "$work/one" "$work/grid-to-one" $steps

# What is left to the program may become something else on other ranks, but not the micro-batches: those are the run's.
for ranks in 1 2 3; do
  cut ranks-2 "auto-$ranks"
  grid "auto-$ranks" auto $ranks --micro-batch-tokens auto --resume
done
cut two-by-two auto-placement
grid auto-placement 2 4 --placement auto --micro-batch-tokens auto --resume
cut ranks-2 auto-said
"$QST" "${options[@]}" --out "$work/auto-said" --micro-batch-tokens auto --resume --no-quiet 2>"$work/err"
grep -qE "^resumed +--micro-batch-tokens 96, as the run has it" "$work/err" || die "not said: $(cat "$work/err")"
cut ranks-2 auto-damaged
truncate -s 9999 "$work/auto-damaged/step-000010.h5"
"$QST" "${options[@]}" --out "$work/auto-damaged" --micro-batch-tokens auto --resume 2>"$work/err"
[[ $(grep -c "passed over a damaged checkpoint: .*step-000010.h5" "$work/err") == 1 ]] || die "not once: $(cat "$work/err")"
same_run "$work/one" "$work/auto-damaged" $steps
"$QST" "${options[@]}" --out "$work/auto-fresh" --micro-batch-tokens auto --resume --no-quiet --steps 1 2>"$work/err"
grep -qE "^planned .* --micro-batch-tokens [0-9]+" "$work/err" || die "nothing to resume, nothing planned: $(cat "$work/err")"

# A resume that is refused leaves the run as it was.
cut ranks-2 refused
cp "$work/refused/options" "$work/kept"
! "$QST" "${options[@]}" --out "$work/refused" --lr 1 --resume 2>"$work/err" || die "another learning rate was accepted"
grep -q 'it has "lr = 0.003", the command says "lr = 1"' "$work/err" || die "not what differs: $(cat "$work/err")"
cmp "$work/kept" "$work/refused/options"

# A different seed must differ, or the comparison proves nothing.
"$QST" "${options[@]}" --out "$work/other" --seed 2
! cmp -s "$work/one/step-000030.h5" "$work/other/step-000030.h5" || die "another seed gave the same checkpoint"
