#!/usr/bin/env bash
# Every batch script of slurm/ runs: on small nodes with a tiny model, and as it stands Slurm takes it for nodes that have what
# it asks for. (one-node and several-nodes run in t71 and t72.)
# RUN timeout=150
. tests/tiny_run.sh
. tests/slurm_cluster.sh
make_tiny
cluster_start ""

# What they ask for is to be had.
node_start big1
node_start big2
until_true 20 nodes_ready big || die "the large nodes do not come up: $(sinfo -N)"
for script in slurm/*.sbatch; do
  sbatch --test-only --partition=big --time=60 "$script" 2>"$work/stderr" || die "$script: $(cat "$work/stderr")"
  grep -q "using 64 processors\|using 128 processors" "$work/stderr" || die "$script asks for: $(cat "$work/stderr")"
done

# The plan for 70B, of the same options: it fits.
"$QST" plan --config slurm/70b.conf --model-shape llama-2-70b --nodes 2 --gpus-per-node 8 --gpu h100-80 --json >"$work/plan"
grep -q '"fits": *true' "$work/plan" || die "70B does not fit: $(cat "$work/plan")"

steps=30
read -ra options <<<"$(tiny_options) --steps $steps --eval-every 0 --save-every 0"
"$QST" "${options[@]}" --out "$work/whole" --threads 1
options=("${options[@]:1}")
small=(--parsable --ntasks-per-node=1 --cpus-per-task=1 --gpus-per-node=0)

export BACKBONE=$work/b.h5 DATA=$work/t.h5 RUN=$work/70b DEVICE=cpu OUT=$work/scaling
job=$(sbatch "${small[@]}" --mem=10 --output="$work/70b.log" slurm/70b-2x8.sbatch "${options[@]}" --clip 1 --weight-decay 0.01)
job_wait "$job" 60 COMPLETED FAILED
same_run "$work/whole" "$RUN" $steps
grep -q "pipeline-stages = 2" "$RUN/options" || die "no pipeline: $(cat "$RUN/options")"
grep -q '"ranks":2,' "$RUN/metrics.jsonl" || die "not two ranks: $(head -n 1 "$RUN/metrics.jsonl")"

job=$(sbatch "${small[@]}" --nodes=2 --array=1,2 --output="$work/array-%a.log" slurm/scaling-array.sbatch "${options[@]}")
for ranks in 1 2; do
  job_wait "${job}_$ranks" 60 COMPLETED FAILED
  same_run "$work/whole" "$OUT/ranks-$ranks" $steps
  grep -q "\"ranks\":$ranks," "$OUT/ranks-$ranks/metrics.jsonl" || die "not $ranks ranks: $(cat "$work/array-$ranks.log")"
done
"$QST" report "$OUT/ranks-1" "$OUT/ranks-2" --out "$work/report" --quiet >/dev/null || die "no report of the study"

# By hand: salloc, and in it srun or mpirun.
salloc -N2 -n2 srun --mpi=pmix "$QST" train "${options[@]}" --out "$work/salloc" 2>"$work/stderr" || die "$(cat "$work/stderr")"
same_run "$work/whole" "$work/salloc" $steps
OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 salloc -N2 -n2 mpirun "$QST" train "${options[@]}" --out "$work/mpirun" \
  2>"$work/stderr" || die "$(cat "$work/stderr")"
same_run "$work/whole" "$work/mpirun" $steps
