#!/usr/bin/env bash
# Strong and weak scaling of training over ranks and grids. Strong: the same steps on more ranks, whose losses must be equal,
# digit for digit. Weak: each rank has the same rows a step. Each configuration runs ROUNDS times in turn with the others.
# Writes a table, JSON (which `plan --sweep --measured` reads) and a picture under benchmarks/results and prints the table.
#
#   benchmarks/scaling.sh [options of train]      under mpirun, a core a rank; or inside a Slurm job, or given to
#                                                 sbatch in the repository, under srun
#   benchmarks/scaling.sh table NAME FOLDER...    of runs that are there; none is started. Strong scaling: those of which the
#                                                 name, or that of the folder they are in, begins with strong
#
#   BUILD=FOLDER        where the program is (build)
#   RANKS, STAGES       which grids (1 2 4 … up to the processors; 1 and 2): stages must divide ranks
#   ROWS                rows of a step for each rank in weak scaling, and for the most ranks in strong scaling (16)
#   STEPS, ROUNDS       of each run (6, of which the first 2 are not counted); how often (2)
#   BACKBONE, DATA      a model and rows (SmolLM2-135M, rows of 512 tokens, all with labels)
#   MPIRUN_OPTIONS      where mpirun puts ranks (--bind-to core --map-by core)
#   SHARE               percent of a core that each rank may use (all of one). With less, more ranks than there are cores run
#                       like as many slower machines, each held to its share by a control group of its own; needs root
#   EFFICIENCY, BEHIND, BUBBLE   goals in percent: of 2 ranks in weak scaling at least (92), of 2 stages behind 2 replicas at
#                       most (8), of the time that the busiest of 3 or more stages idles in weak scaling at most (3)
set -euo pipefail
shopt -s inherit_errexit
if [[ -e $(dirname "$0")/smollm2.sh ]]; then cd "$(dirname "$0")/.."; fi # sbatch runs a copy, where it was submitted

BUILD=${BUILD:-build}
QST=${QST:-$BUILD/qst-mpi}
WORK=${WORK:-$BUILD/scaling}
ROWS=${ROWS:-16} STEPS=${STEPS:-6} ROUNDS=${ROUNDS:-2} STAGES=${STAGES:-1 2}
RESULT=${RESULT:-benchmarks/results/scaling-$(date -u +%Y-%m-%dT%H%M)}
export LC_ALL=C # numbers with a point
mkdir -p "$WORK" "$(dirname "$RESULT")"
. benchmarks/smollm2.sh

powers() { # MOST
  local n
  for ((n = 1; n <= $1; n *= 2)); do echo -n "$n "; done
}

# A control group, of either version, for share_of_core.sh.
prepare_group() {
  local top=/sys/fs/cgroup
  if [[ -d $top/cpu ]]; then top+=/cpu; fi
  group=$top/qst-scaling-$$
  if ! mkdir "$group" 2>/dev/null; then
    echo "SHARE=$SHARE: no control group can be made in $top: run as root, with cgroups mounted" >&2
    exit 2
  fi
  trap 'rmdir "$group"/rank-* "$group"' EXIT
  if [[ -e $group/cgroup.subtree_control ]]; then
    echo +cpu >"$top/cgroup.subtree_control"
    echo +cpu >"$group/cgroup.subtree_control"
  fi
}

# launch RANKS COMMAND...: a core (or what Slurm gives a task) for each rank and no more
launch() {
  local ranks=$1
  shift
  if [[ ${SLURM_JOB_ID:-} ]]; then
    srun --mpi="${QST_MPI:-pmix}" --kill-on-bad-exit=1 --ntasks="$ranks" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --cpu-bind=cores "$@"
  else
    local root=()
    if [[ $(id -u) == 0 ]]; then root=(--allow-run-as-root); fi
    local where=(--bind-to core --map-by core)
    if [[ ${SHARE:-} ]]; then
      where=(--oversubscribe --bind-to none)
      set -- benchmarks/share_of_core.sh "$group" "$SHARE" "$@"
    fi
    if [[ ${MPIRUN_OPTIONS:-} ]]; then read -ra where <<<"$MPIRUN_OPTIONS"; fi
    mpirun "${root[@]}" "${where[@]}" -n "$ranks" "$@"
  fi
}

# run SCALING RANKS STAGES ROWS ROUND OPTION...
run() {
  local name="$1-$2x$3-$5" ranks=$2 stages=$3 rows=$4
  shift 5
  rm -rf "${WORK:?}/$name"
  launch "$ranks" "$QST" train --quiet --backbone "${BACKBONE:-$WORK/backbone.h5}" --data "${DATA:-$WORK/rows.h5}" \
    --out "$WORK/$name" --steps "$STEPS" --global-batch "$rows" --pipeline-stages "$stages" --save-every 0 "$@" >&2
  folders+=("$WORK/$name")
}

run_all() {
  local ranks stages round most
  most=$(tr ' ' '\n' <<<"$RANKS" | sort -n | tail -n 1)
  for ((round = 1; round <= ROUNDS; round++)); do
    for ranks in $RANKS; do
      for stages in $STAGES; do
        if ((ranks % stages || stages > ranks)); then continue; fi
        run strong "$ranks" "$stages" $((ROWS * most)) $round "$@"
        if ((ranks != most)); then
          run weak "$ranks" "$stages" $((ROWS * ranks)) $round "$@"
        else # the same run
          rm -rf "$WORK/weak-${ranks}x$stages-$round"
          ln -s "strong-${ranks}x$stages-$round" "$WORK/weak-${ranks}x$stages-$round"
          folders+=("$WORK/weak-${ranks}x$stages-$round")
        fi
      done
    done
  done
}

# steps FOLDER...: a line a counted step: scaling ranks stages rows step tokens/s idle bytes loss
steps() {
  local folder
  for folder in "$@"; do
    awk -v folder="$(basename "$(dirname "$folder")") $(basename "$folder")" '
      function value(key) { return match($0, "\"" key "\":\"?[^,\"}]*") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) : "" }
      function plain(key) { v = value(key); gsub(/"/, "", v); return v }
      /"type":"start"/ { ranks = plain("ranks"); stages = plain("pipeline-stages"); rows = plain("global-batch") }
      /"type":"step"/ && plain("step") > 2 {
        print folder ~ /(^| )strong[^ ]*( |$)/ ? "strong" : "weak", ranks, stages, rows, plain("step"), plain("tokens_per_second"), plain("idle"),
          plain("memory_bytes"), plain("loss")
      }' "$folder/metrics.jsonl"
  done
}

# A line a configuration, of the medians of its steps; "different" where strong scaling gave another loss.
summarize() {
  sort -k1,1r -k2,2n -k3,3n -k6,6n | awk '
    function flush() {
      if (n) print key, rate[int((n + 1) / 2)], idle_count ? idle / idle_count : "null", memory
      n = idle = idle_count = memory = 0
    }
    { next_key = $1 " " $2 " " $3 " " $4 }
    next_key != key { flush(); key = next_key }
    {
      rate[++n] = $6
      if ($7 != "null") { idle += $7; idle_count++ }
      if ($8 > memory) memory = $8
      if ($1 == "strong" && $5 in loss && loss[$5] != $9) different = 1
      if ($1 == "strong") loss[$5] = $9
    }
    END { flush(); if (different) print "different" }'
}

# table NAME-OF-THE-RESULT: of summarize
table() {
  awk -v json="$1.json" -v plot="$1.dat" -v efficiency="${EFFICIENCY:-92}" -v behind="${BEHIND:-8}" \
    -v bubble="${BUBBLE:-3}" -v percent="${SHARE:-100}" \
    -v processor="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" -v host="$(uname -n)" \
    -v commit="$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" -v load="$(cut -d ' ' -f 1 /proc/loadavg)" \
    -v mpi="$(mpirun --version 2>/dev/null | head -n 1)" '
    BEGIN {
      printf "%s%s, %s, commit %s, load %s at the end\n\n", processor, percent < 100 ? ", each rank held to " percent " % of a core" : "", mpi, commit, load
      print "| scaling | ranks | replicas x stages | rows a step | tokens/s | efficiency | idle | MB a rank |"
      print "|---|---|---|---|---|---|---|---|"
      printf "{\"benchmark\": \"scaling\", \"processor\": \"%s\", \"host\": \"%s\", \"mpi\": \"%s\", \"commit\": \"%s\", \"load\": %s, \"percent_of_core\": %d, \"points\": [",
        processor, host, mpi, commit, load, percent >json
    }
    $1 == "different" { different = 1; next }
    {
      if (!($1 in one)) one[$1] = $5 / $2
      efficient = $5 / $2 / one[$1]
      speed[$1, $2, $3] = $5
      part[$1, $2, $3] = efficient
      if ($1 == "weak" && $3 > deepest && $3 > 2) { deepest = $3; waits = 100 * $6 }
      printf "| %s | %d | %d x %d | %d | %.0f | %.1f %% | %s | %.0f |\n", $1, $2, $2 / $3, $3, $4, $5, 100 * efficient,
        $6 == "null" ? "-" : sprintf("%.1f %%", 100 * $6), $7 / 1e6
      printf "%s\n {\"scaling\": \"%s\", \"ranks\": %d, \"stages\": %d, \"rows\": %d, \"tokens_per_second\": %.1f, \"efficiency\": %.4f, \"idle\": %s, \"rank_bytes\": %.0f}",
        (count++ ? "," : ""), $1, $2, $3, $4, $5, efficient, $6, $7 >json
      printf "%s-%d-stages %d %.2f\n", $1, $3, $2, 100 * efficient >plot
    }
    function judge(what, good) { printf "%s: %s\n", what, good ? "PASS" : "FAIL"; if (!good) failed = 1 }
    END {
      print "]}" >json
      print ""
      judge("losses of strong scaling equal on all grids", !different)
      if (("weak", 2, 1) in part)
        judge(sprintf("weak scaling, 2 ranks: %.1f %% of two times one (goal %s)", 100 * part["weak", 2, 1], efficiency), 100 * part["weak", 2, 1] >= efficiency)
      if (("weak", 2, 2) in part && ("weak", 2, 1) in part) {
        late = 100 * (1 - speed["weak", 2, 2] / speed["weak", 2, 1])
        judge(sprintf("2 stages: %.1f %% behind 2 replicas (goal %s)", late, behind), late <= behind)
      }
      if (deepest)
        judge(sprintf("%d stages: the busiest idles for %.1f %% of the time (goal %s)", deepest, waits, bubble), waits <= bubble)
      print failed || !count ? "FAIL" : "PASS"
      exit failed || !count
    }'
}

draw() { # NAME-OF-THE-RESULT
  if ! command -v gnuplot >/dev/null; then return; fi
  {
    echo "set terminal svg size 720,420 background 'white'; set output '$1.svg'"
    echo "set xlabel 'ranks'; set ylabel 'efficiency, %'; set logscale x 2; set yrange [0:110]; set grid; set key bottom left"
    echo -n "plot "
    cut -d ' ' -f 1 "$1.dat" | sort -u | while read -r curve; do
      echo -n "'< grep ^$curve $1.dat' using 2:3 with linespoints title '${curve//-/ }', "
    done
    echo
  } | gnuplot -d -
}

folders=()
if [[ ${1:-} == table ]]; then
  RESULT=${2:?a name for the result}
  folders=("${@:3}")
else
  if [[ ! ${BACKBONE:-} ]]; then prepare; fi
  if [[ ${SHARE:-} ]]; then prepare_group; fi
  RANKS=${RANKS:-$(powers "${SLURM_NTASKS:-$(nproc)}")}
  run_all "$@"
fi
if [[ -e $RESULT.md ]]; then
  echo "$RESULT.md exists; results are not overwritten" >&2
  exit 2
fi
status=0
steps "${folders[@]}" | summarize >"$RESULT.lines"
table "$RESULT" <"$RESULT.lines" >"$RESULT.md" || status=$?
draw "$RESULT"
rm -f "$RESULT.lines" "$RESULT.dat"
cat "$RESULT.md"
exit "$status"
