#!/usr/bin/env bash
# A rank that dies, and a node that dies with all that runs on it: the job ends at once, says which, is queued again and goes
# on to the bits of an undisturbed run. A job that loses a rank soon after its start would lose it again, and is not; nor is
# one that ends for a reason that lasts: a full disk, found by one rank or known to all.
# RUN timeout=200
. tests/tiny_run.sh
. tests/slurm_cluster.sh
make_tiny
cluster_start KillWait=5
steps=800
read -ra options <<<"$(tiny_options) --steps $steps --save-every 50 --eval-every 0"
"$QST" "${options[@]}" --out "$work/whole" --threads 1

# submit_and_wait RUN: until it has a checkpoint; sets `job`
submit_and_wait() {
  job=$(sbatch --parsable --output="$1.log" --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --gpus-per-node=0 \
    slurm/several-nodes.sbatch "${options[@]:1}" --out "$1")
  until_true 30 test -e "$1/latest" || die "$1 does not begin: $(cat "$1.log")"
}

# The process of the rank on NODE.
rank_on() {
  local id
  for id in $(processes_of "$1"); do
    if [[ $(readlink "/proc/$id/exe") == "$(readlink -f "$QST")" ]]; then echo "$id"; fi
  done
}

# goes_on RUN: the job is queued again and completes, to the same bits
goes_on() {
  job_wait "$job" 90 COMPLETED FAILED CANCELLED
  [[ $(job_state "$job") == COMPLETED ]] || die "job $job is $(job_state "$job"): $(cat "$1.log")"
  (($(scontrol show job "$job" | sed -n 's/.*Restarts=\([0-9]*\).*/\1/p') == 1)) || die "not queued again: $(cat "$1.log")"
  same_run "$work/whole" "$1" $steps
}

submit_and_wait "$work/early"
kill -KILL "$(rank_on n2)"
job_wait "$job" 20 FAILED
grep -q "srun: error: n2: task 1: Killed" "$work/early.log" || die "who died is not said: $(cat "$work/early.log")"
grep -q "within 300 s of the start, so it is not queued again" "$work/early.log" || die "no reason: $(cat "$work/early.log")"

export QST_RETRY_AFTER=0
QST_RETRIES=0 submit_and_wait "$work/often"
kill -KILL "$(rank_on n2)"
job_wait "$job" 20 FAILED
grep -q "queued again 0 times before, so it is not now" "$work/often.log" || die "no reason: $(cat "$work/often.log")"

submit_and_wait "$work/rank"
kill -KILL "$(rank_on n2)"
until_true 20 grep -qE "a rank was lost \(status (6|137)\): queueing it again" "$work/rank.log" || die "$(cat "$work/rank.log")"
grep -qE "^qst-mpi: rank 0 on n1: rank 1 on n2 has died" "$work/rank.log" || die "rank 0 does not say it: $(cat "$work/rank.log")"
goes_on "$work/rank"

# ends RUN OPTION...: whose files may not be larger than 32 kB, as on a full disk; it is not queued again
ends() {
  local run=$1
  shift
  job=$(ulimit -f 32 && sbatch --parsable --output="$run.log" --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 \
    --gpus-per-node=0 slurm/several-nodes.sbatch "${options[@]:1}" --out "$run" "$@")
  job_wait "$job" 60 FAILED COMPLETED CANCELLED
  [[ $(job_state "$job") == FAILED && $(scontrol show job "$job") == *"ExitCode=3:0"* ]] ||
    die "$(scontrol show job "$job"): $(cat "$run.log")"
  grep -qE "^qst-mpi.*$run/.*: (File too large|No space left)" "$run.log" || die "no reason: $(cat "$run.log")"
  ! grep -q "queueing it again" "$run.log" || die "queued again: $(cat "$run.log")"
}
ends "$work/save" --save-every 1
ends "$work/metrics" --save-every 0

submit_and_wait "$work/node"
node_kill n2
job_wait "$job" 60 PENDING
node_start n2
goes_on "$work/node"
