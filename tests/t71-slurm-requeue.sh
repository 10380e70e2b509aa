#!/usr/bin/env bash
# A batch job that Slurm signals, or takes the nodes from, saves, queues itself again and goes on to the bits of a run that
# was left alone. One that has too little time left saves by itself. One that somebody cancels saves and stays away.
# RUN timeout=200
. tests/tiny_run.sh
. tests/slurm_cluster.sh
make_tiny
started=$SECONDS
cluster_start PreemptType=preempt/partition_prio PreemptMode=REQUEUE \
  "PartitionName=spare Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20" \
  "PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF"
steps=1500
read -ra options <<<"$(tiny_options) --steps $steps --save-every 0 --eval-every 0"
"$QST" "${options[@]}" --out "$work/whole" --threads 1
options=("${options[@]:1}")
small=(--parsable --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --gpus-per-node=0)

# submit RUN SBATCH-OPTION...: prints the job's number
submit() {
  local run=$1
  shift
  sbatch "${small[@]}" --output="$run.log" "$@" slurm/one-node.sbatch "${options[@]}" --out "$run"
}

steps_done() { # RUN STEPS
  grep -q "\"step\":$2," "$1/metrics.jsonl"
}

# submit_and_wait RUN SBATCH-OPTION...: until it trains; sets `job`
submit_and_wait() {
  job=$(submit "$@")
  until_true 30 steps_done "$1" 50 || die "$1 does not begin: $(cat "$1.log")"
}

# completes RUN: job ends with the bits of the whole run, in several parts
completes() {
  job_wait "$job" 60 COMPLETED FAILED TIMEOUT CANCELLED
  [[ $(job_state "$job") == COMPLETED ]] || die "job $job is $(job_state "$job"): $(cat "$1.log")"
  grep -q "stopped with a checkpoint: queueing it again" "$1.log" || die "$1 was never queued again: $(cat "$1.log")"
  same_run "$work/whole" "$1" $steps
}

# This one begins when 25 of its 60 seconds are left, which is less than a first save may take. See below.
late=$(sbatch "${small[@]}" --partition=urgent --time=1 --output="$work/late.log" \
  --wrap "sleep 35; srun --mpi=pmix $QST train ${options[*]/--quiet/--keep=3} --out $work/late")

# Its nodes are wanted for something urgent.
submit_and_wait "$work/spare" --partition=spare
urgent=$(sbatch "${small[@]}" --partition=urgent --output=/dev/null --wrap "sleep 1")
job_wait "$urgent" 40 COMPLETED
completes "$work/spare"

submit_and_wait "$work/cancelled"
scancel "$job"
job_wait "$job" 20 CANCELLED
until_true 20 test -e "$work/cancelled/latest" || die "a cancelled run saved nothing: $(cat "$work/cancelled.log")"
until_true 20 grep -q "Slurm ended it (status 75)" "$work/cancelled.log" || die "not waited for: $(cat "$work/cancelled.log")"
cancelled=$job

# Slurm looks every 30 seconds after its start whether a job is to be sent the signal of --signal: one that begins shortly
# before that is in the middle when it comes. It may be over already: then once more.
for try in 1 2 3; do
  while (((SECONDS - started) % 30 != 27)); do sleep 0.2; done
  submit_and_wait "$work/signal-$try" --time=2 --signal=USR1@119
  job_wait "$job" 60 COMPLETED
  if grep -q "queueing it again" "$work/signal-$try.log"; then break; fi
done
completes "$work/signal-$try"

job_wait "$late" 60 FAILED COMPLETED TIMEOUT
[[ $(scontrol show job "$late") == *"ExitCode=75:0"* ]] || die "$(scontrol show job "$late"): $(cat "$work/late.log")"
grep -q "stopped before the time limit after step 1;" "$work/late.log" || die "not stopped in time: $(cat "$work/late.log")"
srun -N2 -n2 --mpi=pmix "$QST" train "${options[@]}" --out "$work/late" --resume
same_run "$work/whole" "$work/late" $steps
[[ $(job_state "$cancelled") == CANCELLED ]] || die "a cancelled job is $(job_state "$cancelled")"
