#!/usr/bin/env bash
# benchmarks/scaling.sh on a tiny model: a table, JSON that plan reads, a picture; it fails when losses differ or a goal is missed.
# RUN timeout=400
. tests/tiny_run.sh
command -v mpirun >/dev/null || exit 77
export ASAN_OPTIONS=${ASAN_OPTIONS:-}:detect_leaks=0 # MPI's plug-ins leak on purpose
make_tiny
export BUILD QST BACKBONE=$work/b.h5 DATA=$work/t.h5 WORK=$work/runs RANKS="1 2" STAGES="1 2" ROWS=6 STEPS=4 ROUNDS=1
tiny=(--reduction-factor 3 --micro-batch-tokens 96 --lr 3e-3)

# Two ranks may have to share a core here: goals that nothing misses.
EFFICIENCY=0 BEHIND=100 RESULT=$work/result MPIRUN_OPTIONS="--oversubscribe --bind-to none" \
  benchmarks/scaling.sh "${tiny[@]}" >"$work/out" 2>"$work/errors" || die "failed: $(cat "$work/out" "$work/errors")"
[[ $(tail -n 1 "$work/out") == PASS ]] || die "no PASS: $(cat "$work/out")"
[[ $(grep -cE '^\| (weak|strong) \| [12] \| [12] x [12] \| (6|12) \| [0-9]+ \| [0-9.]+ % \| [0-9.]+ % \| [0-9]+ \|$' "$work/out") == 6 ]] ||
  die "not six rows: $(cat "$work/out")"
[[ $(grep -c '"tokens_per_second": [0-9]' "$work/result.json") == 6 ]] || die "not six points: $(cat "$work/result.json")"
if command -v gnuplot >/dev/null; then grep -q "weak 2 stages" "$work/result.svg" || die "no picture"; fi

"$QST" plan --model-shape smollm2-135m --gpus-per-node 2 --global-batch 64 --gpu a100-80 --sweep \
  --measured "$work/result.json" >"$work/sweep.txt" || die "plan does not read it"
[[ $(grep -c '^measured ' "$work/sweep.txt") == 6 ]] || die "plan reads: $(cat "$work/sweep.txt")"

# The same runs again, as a table only; with a goal out of reach; and with a loss that differs.
again() { # NAME STATUS
  local status=0
  RESULT="" benchmarks/scaling.sh table "$work/$1" "$work"/runs/* >"$work/out" || status=$?
  [[ $status == "$2" ]] || die "$1 ended with $status: $(cat "$work/out")"
}
BEHIND=100 EFFICIENCY=0 again table 0
cmp -s <(sed 1d "$work/table.md") <(sed 1d "$work/result.md") || die "a table of the same runs differs"
BEHIND=100 EFFICIENCY=99999 again goal 1
grep -q '(goal 99999): FAIL' "$work/out" || die "the goal is not named: $(cat "$work/out")"
sed -i 's/"loss":[0-9]/"loss":9/' "$work/runs/strong-2x2-1/metrics.jsonl"
BEHIND=100 EFFICIENCY=0 again loss 1
grep -q 'grids: FAIL' "$work/out" || die "a different loss passed: $(cat "$work/out")"

# Three ranks, each like a machine with a part of a core; where control groups cannot be made, a line says so.
groups() { find /sys/fs/cgroup -name 'qst-scaling-*' | sort; }
before=$(groups)
status=0
SHARE=40 RANKS=3 STAGES=3 BUBBLE=100 RESULT=$work/share benchmarks/scaling.sh "${tiny[@]}" >"$work/out" 2>"$work/errors" || status=$?
if grep -q 'no control group can be made' "$work/errors"; then
  [[ $status == 2 && $(wc -l <"$work/errors") == 1 ]] || die "status $status: $(cat "$work/errors")"
else
  grep -qE '^3 stages: the busiest idles for [0-9.]+ % of the time \(goal 100\): PASS$' "$work/out" ||
    die "status $status: $(cat "$work/out" "$work/errors")"
  grep -q '"percent_of_core": 40,' "$work/share.json" || die "the share is not on file"
  [[ $(groups) == "$before" ]] || die "control groups are left"
fi
