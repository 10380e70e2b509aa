#!/usr/bin/env bash
# One run, many ways: 1, 2 and 3 ranks, any number of threads, twice the same, interrupted and resumed on another number of
# ranks: equal checkpoints, byte for byte, and equal losses.
# RUN timeout=300
. tests/tiny_run.sh
make_tiny
steps=30
read -ra options <<<"$(tiny_options) --steps $steps --save-every 10"

"$QST" "${options[@]}" --out "$work/one" --threads 1
"$QST" "${options[@]}" --out "$work/again" --threads 1
same_run "$work/one" "$work/again" $steps
for threads in 2 3; do
  "$QST" "${options[@]}" --out "$work/threads-$threads" --threads $threads
  same_run "$work/one" "$work/threads-$threads" $steps
done
for ranks in 1 2 3; do
  "${mpirun[@]}" $ranks "$QST" "${options[@]}" --out "$work/ranks-$ranks" --threads 1
  same_run "$work/one" "$work/ranks-$ranks" $steps
done

# Cut off after step 10, as a killed run leaves it, and resumed on other numbers of ranks.
for ranks in 1 3; do
  cp -a "$work/ranks-2" "$work/resumed-$ranks"
  rm "$work/resumed-$ranks"/step-0000[23]0.h5
  for link in latest best; do ln -sfn step-000010.h5 "$work/resumed-$ranks/$link"; done
  rm -f "$work/resumed-$ranks"/step-00001[1-9].h5 "$work/resumed-$ranks"/step-00002?.h5
  "${mpirun[@]}" $ranks "$QST" "${options[@]}" --out "$work/resumed-$ranks" --threads 1 --resume
  same_run "$work/one" "$work/resumed-$ranks" $steps
done

# A different seed must differ, or the comparison proves nothing.
"$QST" "${options[@]}" --out "$work/other" --seed 2
! cmp -s "$work/one/step-000030.h5" "$work/other/step-000030.h5" || die "another seed gave the same checkpoint"
