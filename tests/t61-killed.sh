#!/usr/bin/env bash
# A run killed with SIGKILL at many moments resumes to the same bits, and nothing half-written stays behind.
# RUN timeout=300
. tests/tiny_run.sh
make_tiny
steps=1000
if ((${TIME_FACTOR:-1} > 1)); then steps=250; fi # sanitizers are slow enough for as many kills
last=$(printf step-%06d.h5 $steps) before=$(printf step-%06d.h5 $((steps - 5)))
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
[[ -e $work/killed/$last ]] || "$QST" "${options[@]}" --out "$work/killed" --threads 1 --resume
same_run "$work/whole" "$work/killed" $steps
[[ $(readlink "$work/killed/latest") == "$last" ]] || die "latest does not name the last checkpoint"

# Killed between a checkpoint and its links: the links are set right, though there is nothing left to train.
ln -sfn "$before" "$work/killed/latest"
ln -sfn "$before" "$work/killed/best"
"$QST" "${options[@]}" --out "$work/killed" --threads 1 --resume
[[ $(readlink "$work/killed/latest") == "$last" ]] || die "latest still names an older checkpoint"
[[ $(readlink "$work/killed/best") == "$(readlink "$work/whole/best")" ]] || die "best still names another checkpoint"
! compgen -G "$work/killed/*.tmp-*" >/dev/null || die "temporary files are left: $(ls "$work/killed")"
echo "killed $kills times"
