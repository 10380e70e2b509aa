#!/usr/bin/env bash
# train --trace: a timeline of every rank's lanes that agrees with the run, drawn by report; and how long the busiest rank idled.
# RUN timeout=120
. tests/tiny_run.sh
make_tiny
steps=6
read -ra options <<<"$(tiny_options) --steps $steps --eval-every 0 --threads 1"
"${mpirun[@]}" 2 "$QST" "${options[@]}" --pipeline-stages 2 --out "$work/run" --trace "$work/run/trace.json"

trace=$work/run/trace.json
for lane in "0,\"tid\":0" "0,\"tid\":1" "1,\"tid\":0" "1,\"tid\":1"; do
  grep -q "\"ph\":\"X\".*\"pid\":$lane" "$trace" || die "no task of $lane"
done
count() { grep -c "\"name\":\"$1\",\"pid\":$2" "$trace"; }
for rank in 0 1; do
  [[ $(count update $rank) == "$steps" ]] || die "rank $rank: $(count update $rank) updates"
  # the evaluation at the end has no backward passes
  (($(count backward $rank) >= 2 * steps)) || die "rank $rank: $(count backward $rank) backward passes"
  (($(count forward $rank) > $(count backward $rank))) || die "rank $rank: no more forward than backward passes"
  (($(count taps $rank) >= $(count forward $rank))) || die "rank $rank: fewer taps than forward passes"
done

# A share of every step, of the busiest rank: both are never idle all the time.
[[ $(grep -cE '"idle":(0\.[0-9]+|[0-9.]+e-[0-9]+|0)\}' "$work/run/metrics.jsonl") == "$steps" ]] ||
  die "idle is not a share of a step: $(cat "$work/run/metrics.jsonl")"

"$QST" report "$work/run" >/dev/null
for text in "Timeline of the last steps" "rank 1, side" "<title>backward [0-9]" "idle time of the busiest rank"; do
  grep -q "$text" "$work/run/report.html" || die "the report has no '$text'"
done
shown=$(grep -o '<title>update' "$work/run/report.html" | wc -l)
((shown >= 7 && shown <= 9)) || die "$shown updates of two ranks are shown, not of 4 steps"

fails() { # TEXT FILE
  ! "$QST" report "$work/run" --trace "$2" >"$work/out" 2>&1 || die "accepted $2"
  grep -q "$1" "$work/out" || die "$2: $(cat "$work/out")"
}
echo '[{"ph":"X","name":"taps","pid":-1,"tid":0,"ts":0,"dur":1}]' >"$work/wrong.json"
fails "wrong.json: has an event that train does not write" "$work/wrong.json"
echo '{}' >"$work/none.json"
fails "none.json: is no timeline" "$work/none.json"
head -c 300 "$trace" >"$work/half.json"
fails "half.json: " "$work/half.json"
