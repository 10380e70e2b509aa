#!/usr/bin/env bash
# What the batch scripts in this folder end in: starts `qst-mpi "$@"` on the tasks of the job and decides what becomes of the
# job afterwards. It runs in the folder of the built repository; nothing here is one site's (see site.sh.example).
#
#   QST_MPI           how srun starts ranks: pmix (the default), pmi2, or whatever `srun --mpi=list` offers
#   QST_RANKS         of the job's tasks use so many only (all)
#   QST_RETRY_AFTER   seconds; a job that lost a rank later than this after its start is queued again (300) …
#   QST_RETRIES       … unless it was queued so often before (20)
set -uo pipefail
: "${SLURM_JOB_ID:?start this from a batch script: see slurm/README.md}"
# shellcheck disable=SC1091
source ./env.sh || exit 1

say() {
  echo "slurm/run.sh: job $SLURM_JOB_ID: $*" >&2
}

resume=()
if ((${SLURM_RESTART_COUNT:-0} > 0)) && [[ " $* " != *" --resume "* ]]; then resume=(--resume); fi

# SIGTERM (scancel, preemption) goes to the ranks, too: they save, and this script waits for them.
ended=
trap 'ended=1' TERM

# srun does not take the job's --cpus-per-task by itself (Slurm 22.05 and later).
srun --mpi="${QST_MPI:-pmix}" ${QST_RANKS:+--ntasks="$QST_RANKS"} --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "${QST:-build/qst-mpi}" "$@" "${resume[@]}"
status=$?

requeue() { # WHY
  say "$1: queueing it again"
  scontrol requeue "$SLURM_JOB_ID" && exit "$status"
  say "this Slurm does not queue it again: submit it with --resume at the end of the line"
  exit "$status"
}

if ((status == 0)); then exit 0; fi
if [[ $ended ]]; then
  say "Slurm ended it (status $status). Unless Slurm queues it again, submit it with --resume at the end of the line"
  exit "$status"
fi
if ((status == 75)); then requeue "stopped with a checkpoint"; fi
# A task that a signal killed, or its neighbours' word (ERR_LOST in src/base/error.h). All else would fail again.
if ((status > 128 || status == 6)); then
  if ((SECONDS < ${QST_RETRY_AFTER:-300})); then
    say "a rank was lost (status $status) within ${QST_RETRY_AFTER:-300} s of the start, so it is not queued again"
  elif ((${SLURM_RESTART_COUNT:-0} < ${QST_RETRIES:-20})); then
    requeue "a rank was lost (status $status)"
  else
    say "a rank was lost (status $status); it was queued again ${QST_RETRIES:-20} times before, so it is not now"
  fi
fi
exit "$status"
