#!/usr/bin/env bash
# bench-comm: every operation and size verified on 1 to 3 ranks, a table and JSON that agree; wrong options end all ranks.
# RUN timeout=120
# RUN timeout=240 device=cuda
if ((MOST_RANKS < 3)); then echo "needs 3 ranks" && exit 77; fi
. tests/tiny_run.sh
bench=$(dirname "$QST")/bench-comm
small=(--device "${DEVICE:-cpu}" --smallest 8 --largest 8192 --factor 8 --warm-up 1 --runs 3)

for ranks in 1 2 3; do
  "${mpirun[@]}" $ranks "$bench" "${small[@]}" --json "$work/$ranks.json" >"$work/$ranks.txt"
  grep -q ' 0 failed: PASS$' "$work/$ranks.txt" || die "no PASS with $ranks ranks"
  rows=$(grep -c ' 0 PASS$' "$work/$ranks.txt")
  [[ $rows == $(grep -c '"pass": true' "$work/$ranks.json") ]] || die "table and JSON differ with $ranks ranks"
  # 4 sizes of three types for two operations and of one for the other two; alone nobody sends, and one or two numbers are
  # not enough for a part a rank.
  wanted=(0 28 31 30)
  [[ $rows == "${wanted[ranks]}" ]] || die "$rows rows with $ranks ranks, not ${wanted[ranks]}"
  if [[ ${DEVICE:-cpu} == cuda ]] && ((ranks > 1)); then
    grep -q '^# transport nccl 2\.28\.9; ' "$work/$ranks.txt" || die "no version of NCCL: $(head -n 2 "$work/$ranks.txt")"
    grep -q '"nccl": "2.28.9"' "$work/$ranks.json" || die "no version of NCCL: $(head -n 9 "$work/$ranks.json")"
  fi
  grep -q "^# rank $((ranks - 1)), " "$work/$ranks.txt" || die "rank $((ranks - 1)) has no line"
done

fails() { # TEXT OPTION...: with two ranks
  local text=$1
  shift
  ! "${mpirun[@]}" 2 "$bench" "$@" >"$work/out" 2>&1 || die "accepted: $*"
  grep -q "$text" "$work/out" || die "$* does not say \"$text\": $(cat "$work/out")"
}
if [[ ${DEVICE:-cpu} == cuda ]]; then
  export QST_HOST_NCCL=21304
  fails 'NCCL 2\.13\.4 was found, 2\.14\.0 or later is needed: install' "${small[@]}"
  QST_HOST_NCCL=2804
  fails 'NCCL 2\.8\.4 was found' "${small[@]}"
  unset QST_HOST_NCCL
fi
fails 'not overwritten' "${small[@]}" --json "$work/2.json"
fails 'unknown option --sizes' --sizes 3
fails 'no operation' "${small[@]}" --search nothing
