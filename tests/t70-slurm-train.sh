#!/usr/bin/env bash
# Under a real Slurm of two nodes `srun qst-mpi train` is enough: the ranks find each other and their threads, and give the
# bits of one process. Where MPI and Slurm do not meet, one line says so.
# RUN timeout=120
. tests/tiny_run.sh
. tests/slurm_cluster.sh
make_tiny
cluster_start ""
steps=60
read -ra options <<<"$(tiny_options) --steps $steps --save-every 20"
"$QST" "${options[@]}" --out "$work/one" --threads 1

# ranks COUNT RUN OPTION...: so many on the two nodes. On a busy machine Open MPI 4.1's TCP transport now and then calls a NULL
# pointer within MPI_Init when the nodes are one host; nothing of ours has begun then, and it is tried again.
ranks() {
  local count=$1 run=$2 status
  shift 2
  for _ in 1 2 3; do
    status=0
    srun -N2 "-n$count" --mpi=pmix "$QST" "${options[@]}" --out "$run" "$@" || status=$?
    if [[ $status != 139 || -e $run ]]; then break; fi
  done
  return $status
}

ranks 2 "$work/two"
same_run "$work/one" "$work/two" $steps
grep -q '"ranks":2,' "$work/two/metrics.jsonl" || die "not two ranks: $(head -n 1 "$work/two/metrics.jsonl")"
ranks 4 "$work/four"
same_run "$work/one" "$work/four" $steps

# Pipelines over the two nodes: a stage each, and two of them side by side.
ranks 2 "$work/stages" --pipeline-stages 2
same_run "$work/one" "$work/stages" $steps
ranks 4 "$work/grid" --pipeline-stages 2
same_run "$work/one" "$work/grid" $steps

# A task's threads are its processors, whether or not Slurm binds it to them.
threads() {
  grep -o '"threads":[0-9]*' "$1/metrics.jsonl" | head -n 1
}
srun -N1 -n1 --cpus-per-task=2 "$QST" "${options[@]}" --steps 1 --out "$work/wide"
[[ $(threads "$work/two") == '"threads":1' ]] || die "$(threads "$work/two") on one processor"
[[ $(threads "$work/wide") == '"threads":2' ]] || die "$(threads "$work/wide") on two processors"

status=0
srun -N2 -n2 --mpi=none "$QST" "${options[@]}" --out "$work/none" 2>"$work/stderr" || status=$?
[[ $status == 2 ]] || die "status $status without PMIx"
grep -q "srun --mpi=pmix" "$work/stderr" || die "no remedy: $(cat "$work/stderr")"
[[ ! -e $work/none ]] || die "ranks that do not see each other wrote a run"
