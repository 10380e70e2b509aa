#!/usr/bin/env bash
# benchmarks/scaling.sh inside a Slurm job of two nodes: srun starts its runs; and its table of runs that a job array left.
# RUN timeout=150
. tests/tiny_run.sh
. tests/slurm_cluster.sh
make_tiny
cluster_start ""

export QST BACKBONE=$work/b.h5 DATA=$work/t.h5 WORK=$work/runs RANKS="1 2" STAGES="1 2" ROWS=6 STEPS=4 ROUNDS=1
export EFFICIENCY=0 BEHIND=100 RESULT=$work/result
tiny=(--reduction-factor 3 --micro-batch-tokens 96 --lr 3e-3)
job=$(sbatch --parsable --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --output="$work/log" benchmarks/scaling.sh "${tiny[@]}")
job_wait "$job" 100 COMPLETED FAILED
[[ $(tail -n 1 "$work/result.md") == PASS ]] || die "no PASS: $(cat "$work/log")"
[[ $(grep -c '"ranks": 2, ' "$work/result.json") == 4 ]] || die "not four points of two ranks: $(cat "$work/result.json")"

export OUT=$work/strong
job=$(sbatch --parsable --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --gpus-per-node=0 --array=1,2 --output="$work/array-%a.log" \
  slurm/scaling-array.sbatch --backbone "$BACKBONE" --data "$DATA" --global-batch 12 "${tiny[@]}")
for ranks in 1 2; do job_wait "${job}_$ranks" 60 COMPLETED FAILED; done
benchmarks/scaling.sh table "$work/array" "$work"/strong/ranks-* >"$work/out" || die "$(cat "$work/out")"
[[ $(grep -c '^| strong | [12] |' "$work/out") == 2 ]] || die "not two rows: $(cat "$work/out")"
