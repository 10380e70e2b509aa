#!/usr/bin/env bash
# A run killed with SIGKILL at many moments resumes to the same bits, and nothing half-written stays behind.
# RUN timeout=300
. tests/tiny_run.sh
make_tiny
steps=200
read -ra options <<<"$(tiny_options) --steps $steps --save-every 5 --keep 2"
"$QST" "${options[@]}" --out "$work/whole" --threads 1

kills=0
for attempt in $(seq 60); do
  "$QST" "${options[@]}" --out "$work/killed" --threads 1 --resume &
  child=$!
  sleep "0.$((attempt * 37 % 90 + 10))"
  if kill -KILL $child 2>/dev/null; then kills=$((kills + 1)); fi
  wait $child && break
done
((kills >= 3)) || die "the run was over before it could be killed: $kills times"
[[ -e $work/killed/step-000200.h5 ]] || "$QST" "${options[@]}" --out "$work/killed" --threads 1 --resume
same_run "$work/whole" "$work/killed" $steps
[[ $(readlink "$work/killed/latest") == step-000200.h5 ]] || die "latest does not name the last checkpoint"
! compgen -G "$work/killed/*.tmp-*" >/dev/null || die "temporary files are left: $(ls "$work/killed")"
echo "killed $kills times"
