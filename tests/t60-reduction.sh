#!/usr/bin/env bash
# How gradients come together: a sharded optimizer changes no bit, on any grid, and its run goes on on another one; neither
# does computing the side network's activations again. The fast reductions stay near the exact one, and differ from it.
# RUN timeout=200
. tests/tiny_run.sh
make_tiny
steps=12
read -ra options <<<"$(tiny_options) --steps $steps --save-every 6 --threads 1"

# run NAME RANKS OPTION...
run() {
  local name=$1 ranks=$2
  shift 2
  "${mpirun[@]}" "$ranks" "$QST" "${options[@]}" --out "$work/$name" "$@"
}

run one 1
run sharded-2 2 --shard-optimizer
same_run "$work/one" "$work/sharded-2" $steps
run sharded-grid 4 --shard-optimizer --pipeline-stages 2
same_run "$work/one" "$work/sharded-grid" $steps

cp -a "$work/sharded-2" "$work/resumed"
rm "$work"/resumed/step-0000{07,12}.h5
for link in latest best; do ln -sfn step-000006.h5 "$work/resumed/$link"; done
run resumed 3 --shard-optimizer --resume
same_run "$work/one" "$work/resumed" $steps

run recomputed 1 --recompute
same_run "$work/one" "$work/recomputed" $steps
run recomputed-stages 3 --recompute --pipeline-stages 3
same_run "$work/one" "$work/recomputed-stages" $steps

# near A B TOLERANCE: every loss within that part of the other, and not all equal
near() {
  paste <(losses "$1") <(losses "$2") | awk -v tolerance="$3" '
    { d = ($2 - $4) / $2; if (d < 0) d = -d; if (d > tolerance) bad = 1; if (d > 0) differ = 1 }
    END { exit bad || !differ || NR == 0 }' || die "$2: its losses are not near $1's, or they are the same"
}
run fast 2 --reduction fast
near "$work/one" "$work/fast" 1e-5
run fast-bf16 3 --reduction fast-bf16 --act bf16
run bf16 1 --act bf16
near "$work/bf16" "$work/fast-bf16" 2e-2

if "$QST" "${options[@]}" --out "$work/refused" --reduction fast-bf16 --act fp32 2>"$work/refused.log"; then
  die "bf16 sums of fp32 activations were not refused"
fi
grep -q 'fast-bf16 needs bf16 activations' "$work/refused.log" || die "no line says why: $(cat "$work/refused.log")"
