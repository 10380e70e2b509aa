#!/usr/bin/env bash
# How far a plan for this machine is from a run on it: bench-kernels calibrates, plan says what training SmolLM2-135M will
# take, training is measured, and the two are compared. Rows of 512 tokens, every token with a label, micro-batches of 2,048
# tokens; one rank on one core, one on all cores, and a rank on each core, calibrated by as many copies of bench-kernels.
# Writes a table and JSON under benchmarks/results and prints the table; fails where a plan is further off than LIMIT.
#
#   BUILD=FOLDER     where the program is (build)
#   STEPS            steps of each run (8); the first 2 are not counted, the median of the rest is
#   LIMIT            percent (15)
#   SHAPES           what to try, RANKSxCORES-OF-EACH ("1x1 1xALL ALLx1")
#   CLOCK            wall, or own: on a machine that others use too, one core's running time instead of the time that passes
#   QST_SMOLLM2      the model's file, see demo/get_model.sh
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build}
QST=$BUILD/qst-mpi
WORK=$BUILD/plan-accuracy
STEPS=${STEPS:-8}
LIMIT=${LIMIT:-15}
CLOCK=${CLOCK:-wall}
cores=$(nproc)
SHAPES=${SHAPES:-$(if ((cores > 1)); then echo "1x1 1x$cores ${cores}x1"; else echo 1x1; fi)}
ROWS=16 # a step
RESULT=benchmarks/results/plan-accuracy-$(date -u +%Y-%m-%dT%H%M)
if [[ $CLOCK == own && $SHAPES != 1x1 ]]; then
  echo "CLOCK=own counts one core: give SHAPES=1x1" >&2
  exit 2
fi
mkdir -p "$WORK" benchmarks/results

. benchmarks/smollm2.sh

options=(--backbone "$WORK/backbone.h5" --data "$WORK/rows.h5" --global-batch "$ROWS" --micro-batch-tokens 2048)

# Tokens a second of a run, by the clock or by what its one core has run.
median_rate() { # FOLDER
  grep '"type":"step"' "$1/metrics.jsonl" | sed 1,2d | sed -E 's/.*"tokens_per_second":([0-9.]+).*/\1/' | sort -n |
    awk '{ rate[NR] = $1 } END { print rate[int((NR + 1) / 2)] }'
}

user_seconds() { # COMMAND…: of the processor
  local TIMEFORMAT=%U
  { time "$@" >&2; } 2>&1 >/dev/null | tail -n 1
}

mpirun=(mpirun --bind-to core --map-by core)
if [[ $(id -u) == 0 ]]; then mpirun+=(--allow-run-as-root); fi

train() { # RANKS THREADS STEPS
  local launch=(taskset -c "0-$(($2 - 1))")
  if (($1 > 1)); then launch=("${mpirun[@]}" -n "$1"); fi
  rm -rf "${WORK:?}/run"
  "${launch[@]}" "$QST" train --quiet "${options[@]}" --out "$WORK/run" --steps "$3" --save-every 0 --threads "$2" >&2
}

# The steps between two runs of different length, without what both spend at the start.
own_rate() {
  local short long
  short=$(user_seconds train 1 1 1)
  long=$(user_seconds train 1 1 "$STEPS")
  awk -v a="$short" -v b="$long" -v tokens=$(((STEPS - 1) * ROWS * LENGTH)) 'BEGIN { print tokens / (b - a) }'
}

# calibrate RANKS THREADS: the name of the first copy's result
calibrate() {
  local first job jobs=() clock=wall
  if (($2 == 1)); then clock=own; fi # what else runs on the core is not the kernels'
  for ((rank = 0; rank < $1; rank++)); do
    rm -f "$WORK/calibration-$rank.json"
    first=$((rank * $2))
    taskset -c "$first-$((first + $2 - 1))" "$BUILD/bench-kernels" --threads "$2" --clock "$clock" \
      --json "$WORK/calibration-$rank.json" >&2 &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job"; done
  echo "$WORK/calibration-0.json"
}

measure() { # RANKS THREADS: prints planned and measured tokens a second
  local calibration planned measured
  calibration=$(calibrate "$1" "$2")
  planned=$("$QST" plan "${options[@]}" --gpu cpu --calibration "$calibration" --gpus-per-node "$1" --threads "$2" \
    --steps "$STEPS" --json | sed -nE 's/.*"tokens_per_second": ([0-9.e+]+).*/\1/p')
  if [[ $CLOCK == own ]]; then
    measured=$(own_rate)
  else
    train "$1" "$2" "$STEPS"
    measured=$(median_rate "$WORK/run")
  fi
  echo "$1x$2 $planned $measured"
}

prepare
for shape in $SHAPES; do measure "${shape%x*}" "${shape#*x}"; done >"$RESULT.rows"
status=0
awk -v limit="$LIMIT" -v clock="$CLOCK" -v json="$RESULT.json" -v load="$(cut -d ' ' -f 1 /proc/loadavg)" \
  -v processor="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
  -v commit="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" '
  BEGIN {
    printf "%s, commit %s, %s clock, load %s at the end\n\n", processor, commit, clock, load
    print "| ranks x cores of each | planned tokens/s | measured | plan / measured |"
    print "|---|---|---|---|"
    printf "{\"processor\": \"%s\", \"commit\": \"%s\", \"clock\": \"%s\", \"load\": %s, \"runs\": [", processor, commit, clock, load >json
  }
  {
    error = 100 * ($2 / $3 - 1); if (error > limit || error < -limit) bad++
    printf "| %s | %.0f | %.0f | %+.1f %% |\n", $1, $2, $3, error
    printf "%s{\"shape\": \"%s\", \"planned\": %.1f, \"measured\": %.1f, \"error\": %.4f}", (NR > 1 ? ", " : ""), $1, $2, $3, error / 100 >json
  }
  END {
    print "]}" >json
    printf "\n%s: within %s %%\n", bad || !NR ? "FAIL" : "PASS", limit
    exit bad || !NR
  }' "$RESULT.rows" | tee "$RESULT.md" || status=$?
rm -f "$RESULT.rows"
exit "$status"
