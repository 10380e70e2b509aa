#!/usr/bin/env bash
# A rank that dies where nobody ends the others: they notice at once, name it, and end. (mpirun ends them otherwise.)
# RUN timeout=120
. tests/tiny_run.sh
make_tiny
read -ra options <<<"$(tiny_options) --save-every 0 --eval-every 0 --threads 1 --steps 1000000"
"${mpirun[@]:0:${#mpirun[@]}-1}" --enable-recovery -n 3 "$QST" "${options[@]}" --out "$work/run" 2>"$work/error" &
job=$!
for _ in $(seq $((600 * ${TIME_FACTOR:-1}))); do
  if grep -qs '"step":20,' "$work/run/metrics.jsonl"; then break; fi
  sleep 0.05
done
mapfile -t ranks < <(pgrep -P $job)
((${#ranks[@]} == 3)) || die "the run did not start: $(cat "$work/error")"

begin=$SECONDS
kill -KILL "${ranks[1]}"
for _ in $(seq $((400 * ${TIME_FACTOR:-1}))); do
  if ! kill -0 "${ranks[0]}" 2>/dev/null && ! kill -0 "${ranks[2]}" 2>/dev/null; then break; fi
  sleep 0.05
done
if kill -0 "${ranks[0]}" 2>/dev/null || kill -0 "${ranks[2]}" 2>/dev/null; then
  kill -KILL "${ranks[@]}" $job
  die "ranks 0 and 2 wait for a dead one: $(cat "$work/error")"
fi
wait $job || true
grep -qE "^qst-mpi: rank [02] on [^:]+: rank 1 on [^ ]+ has died$" "$work/error" || die "not named: $(cat "$work/error")"
((SECONDS - begin <= 10 * ${TIME_FACTOR:-1})) || die "it took $((SECONDS - begin)) s"
