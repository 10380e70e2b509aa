#!/usr/bin/env bash
# A run that would be ended in the middle saves before that by itself, stops with status 75, and goes on to the same bits:
# with --time-limit, and by what Slurm says of the job's end.
# RUN timeout=120
. tests/tiny_run.sh
make_tiny
steps=60
read -ra options <<<"$(tiny_options) --steps $steps --save-every 0 --threads 1"
"$QST" "${options[@]}" --out "$work/whole"

# stops_after STEP WORD...: this start, with WORDs, stops after the step
stops_after() {
  local run=$work/run step=$1 status=0
  shift
  "$QST" "${options[@]/--quiet/--keep=5}" --out "$run" "$@" 2>"$work/stderr" || status=$?
  [[ $status == 75 ]] || die "status $status, not 75: $(cat "$work/stderr")"
  [[ $(readlink "$run/latest") == step-00000$step.h5 ]] || die "stopped at $(readlink "$run/latest"), not after step $step"
  grep -q "stopped before the time limit after step $step;" "$work/stderr" || die "not said why: $(cat "$work/stderr")"
}

# Too little time for anything: one step each start, so that even such a job gets on.
stops_after 1 --time-limit 0.1
stops_after 2 --time-limit 0.1 --resume

# A Slurm job: new versions of Slurm say the end, else squeue says what is left. It is asked for, and asked again.
mkdir "$work/bin"
cat >"$work/bin/squeue" <<'END'
#!/bin/sh
echo "$*" >>"${0%/*}/asked"
head -n "$(wc -l <"${0%/*}/asked")" "${0%/*}/answers" | tail -n 1
END
chmod +x "$work/bin/squeue"
export PATH=$work/bin:$PATH SLURM_JOB_ID=17
echo 0:20 >"$work/bin/answers"
SLURM_JOB_END_TIME=$(($(date +%s) + 20)) stops_after 3 --resume
[[ $(wc -l <"$work/bin/asked") == 1 ]] || die "the end was known, and squeue asked $(cat "$work/bin/asked")"
stops_after 4 --resume
grep -q -- "--jobs=17 " "$work/bin/asked" || die "squeue was asked for something else: $(cat "$work/bin/asked")"

# Ten hours more were given when it asks the second time; and a job without a limit.
rm "$work/bin/asked"
printf '%s\n' 0:20 10:00:20 >"$work/bin/answers"
cp -a "$work/run" "$work/longer"
"$QST" "${options[@]}" --out "$work/longer" --resume
[[ $(wc -l <"$work/bin/asked") == 2 ]] || die "squeue was not asked again"
same_run "$work/whole" "$work/longer" $steps
echo UNLIMITED >"$work/bin/answers"
"$QST" "${options[@]}" --out "$work/run" --resume
same_run "$work/whole" "$work/run" $steps

# Ranks agree, though rank 0 alone knows.
unset SLURM_JOB_ID
status=0
"${mpirun[@]}" 2 "$QST" "${options[@]}" --out "$work/ranks" --time-limit 0.1 || status=$?
[[ $status == 75 && $(readlink "$work/ranks/latest") == step-000001.h5 ]] || die "two ranks ended with status $status"
"$QST" "${options[@]}" --out "$work/ranks" --resume
same_run "$work/whole" "$work/ranks" $steps
