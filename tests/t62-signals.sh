#!/usr/bin/env bash
# SIGTERM, SIGUSR1, SIGHUP and Ctrl-C make a checkpoint and a clean exit with status 75, also for several ranks, and the run
# resumes to the same bits.
# RUN timeout=300
. tests/tiny_run.sh
make_tiny
steps=400
if ((${TIME_FACTOR:-1} > 1)); then steps=150; fi # of which sanitizers make seconds
last=$(printf step-%06d.h5 $steps)
read -ra options <<<"$(tiny_options) --steps $steps --save-every 1000 --eval-every 0"
"$QST" "${options[@]}" --out "$work/whole" --threads 1

# wait_for_step RUN STEP
wait_for_step() {
  for _ in $(seq $((600 * ${TIME_FACTOR:-1}))); do
    grep -qs "\"step\":$2," "$1/metrics.jsonl" && return
    sleep 0.02
  done
  die "$1 never came to step $2"
}

set -m # or what runs behind & ignores SIGINT
for signal in TERM USR1 HUP INT; do
  run=$work/$signal
  "$QST" "${options[@]}" --out "$run" --threads 1 &
  child=$!
  wait_for_step "$run" 20
  kill -"$signal" $child
  status=0
  wait $child || status=$?
  [[ $status == 75 ]] || die "SIG$signal gave status $status"
  [[ -e $run/latest ]] || die "SIG$signal left no checkpoint"
  [[ ! -e $run/$last ]] || die "SIG$signal came too late to stop anything"
  "${mpirun[@]}" 2 "$QST" "${options[@]}" --out "$run" --threads 1 --resume
  same_run "$work/whole" "$run" $steps
done

set +m

# A signal while the model is loaded makes a checkpoint of step 0. Whether it comes before, during or after that is a
# matter of milliseconds: the wait grows until it was during.
run=$work/early
for wait in $(seq -w 1 2 99); do
  rm -rf "$run"
  "$QST" "${options[@]}" --out "$run" --threads 1 &
  child=$!
  sleep "0.$wait"
  kill -TERM $child
  wait $child || true
  [[ -e $run/latest ]] && break
done
[[ $(readlink "$run/latest") == step-000000.h5 ]] || die "no signal was noted during the start"
"$QST" "${options[@]}" --out "$run" --threads 1 --resume
same_run "$work/whole" "$run" $steps

# While a run goes on, a second one in the same folder is refused.
run=$work/busy
"$QST" "${options[@]}" --out "$run" --threads 1 &
child=$!
wait_for_step "$run" 20
status=0
"$QST" "${options[@]}" --out "$run" --threads 1 --resume 2>"$work/stderr" || status=$?
[[ $status == 2 ]] || die "status $status for a second run in a folder"
grep -q "another process is training" "$work/stderr" || die "no word of the first run: $(cat "$work/stderr")"
kill -TERM $child
wait $child || true
"$QST" "${options[@]}" --out "$run" --threads 1 --resume
same_run "$work/whole" "$run" $steps

# One rank of two gets the signal: both stop after the same step.
run=$work/ranks
"${mpirun[@]}" 2 "$QST" "${options[@]}" --out "$run" --threads 1 &
child=$!
wait_for_step "$run" 20
pkill -USR1 -n -f "out $run" -P "$child" || die "no rank found"
status=0
wait $child || status=$?
[[ $status == 75 ]] || die "mpirun ended with status $status"
"$QST" "${options[@]}" --out "$run" --threads 1 --resume
same_run "$work/whole" "$run" $steps
