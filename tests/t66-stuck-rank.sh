#!/usr/bin/env bash
# A run in which a rank is stopped, or killed, ends within --comm-timeout and says so, and resumes; a save that takes
# longer than it times nobody out.
# RUN timeout=240
# RUN timeout=300 device=cuda
if ((MOST_RANKS < 3)); then echo "needs 3 ranks" && exit 77; fi
. tests/tiny_run.sh
if ((${TIME_FACTOR:-1} > 1)); then
  echo "skipped: what it preloads must not come before a sanitizer's library"
  exit 77
fi
make_tiny
read -ra options <<<"$(tiny_options) --save-every 0 --eval-every 0 --comm-timeout 5 --threads 1 --device $DEVICE"

# start RUN: three ranks that would train for ever; sets `job`, and `ranks` to their processes
start() {
  local run=$1
  "${mpirun[@]}" 3 "$QST" "${options[@]}" --steps 1000000 --out "$run" 2>"$work/error" >/dev/null </dev/null &
  job=$!
  for _ in $(seq $((1500 * ${TIME_FACTOR:-1}))); do
    grep -qs '"step":3,' "$run/metrics.jsonl" && break
    sleep 0.02
  done
  mapfile -t ranks < <(pgrep -P $job)
  ((${#ranks[@]} == 3)) || die "the run did not start: $(cat "$work/error")"
}

# ended SECONDS: the job's status; it must end in so many seconds
ended() {
  for _ in $(seq $(($1 * 20 * ${TIME_FACTOR:-1}))); do
    kill -0 $job 2>/dev/null || break
    sleep 0.05
  done
  if kill -0 $job 2>/dev/null; then
    kill -KILL "${ranks[@]}" $job
    die "the job hangs"
  fi
  status=0
  wait $job || status=$?
}

start "$work/stopped"
kill -STOP "${ranks[1]}"
ended 12
((status == 6)) || die "status $status: $(cat "$work/error")"
grep -qE "^qst-mpi: rank [02] on $(hostname): .*: rank 1 on $(hostname) did not come within 5 s" "$work/error" ||
  die "no word of rank 1: $(cat "$work/error")"

start "$work/killed"
kill -KILL "${ranks[2]}"
ended 12
((status != 0)) || die "a killed rank was not noticed"

# Every fsync takes longer than the deadline.
cat >"$work/slow.c" <<'C'
#include <sys/syscall.h>
#include <unistd.h>
int fsync(int descriptor) {
  sleep(7);
  return (int)syscall(SYS_fsync, descriptor);
}
C
cc -shared -fPIC -D_GNU_SOURCE -o "$work/slow.so" "$work/slow.c"
"${mpirun[@]}" 3 -x LD_PRELOAD="$work/slow.so" "$QST" "${options[@]}" --steps 4 --out "$work/slow"
"$QST" "${options[@]}" --steps 4 --out "$work/quick"
same_run "$work/quick" "$work/slow" 4
