#!/usr/bin/env bash
# A pipeline that is asked to stop has micro-batches of the next step on their way between its stages: it ends in order with
# a checkpoint and status 75, and goes on to the same bits on one rank and on another grid.
# RUN timeout=200
. tests/tiny_run.sh
make_tiny
steps=300
read -ra options <<<"$(tiny_options) --steps $steps --save-every 1000 --eval-every 0 --threads 1"
"$QST" "${options[@]}" --out "$work/whole"

# stop NAME STAGES RANKS: one rank of a running pipeline gets SIGUSR1
stop() {
  local name=$1 stages=$2 ranks=$3 child status=0
  "${mpirun[@]}" "$ranks" "$QST" "${options[@]}" --out "$work/$name" --pipeline-stages "$stages" &
  child=$!
  for _ in $(seq $((600 * ${TIME_FACTOR:-1}))); do
    grep -qs '"step":20,' "$work/$name/metrics.jsonl" && break
    sleep 0.02
  done
  pkill -USR1 -n -f -- "--out $work/$name " || die "$name: no rank to signal"
  wait $child || status=$?
  ((status == 75)) || die "$name: status $status"
  [[ -e $work/$name/latest && ! -e $work/$name/step-000300.h5 ]] || die "$name did not stop on its way"
}

stop two 2 2
"$QST" "${options[@]}" --out "$work/two" --resume
same_run "$work/whole" "$work/two" $steps
stop grid 3 3
"${mpirun[@]}" 4 "$QST" "${options[@]}" --out "$work/grid" --pipeline-stages 2 --resume
same_run "$work/whole" "$work/grid" $steps
