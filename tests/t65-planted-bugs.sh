#!/usr/bin/env bash
# The host runtime catches bugs: kernels with one each fail, the same without it pass, in every order of threads.
# RUN device=cuda
set -euo pipefail
if [[ $CUDA_FOLDER == gpu ]]; then echo "a GPU is not the host runtime" && exit 77; fi
planted=${QST%/*}/planted

# caught NAME: by at least one order of threads
caught() {
  local schedule status result=1
  for schedule in forward reverse random; do
    QST_HOST_SCHEDULE=$schedule "$planted" "$1" fixed || { echo "$1: fails ($schedule) without its bug" >&2 && exit 1; }
    status=0
    QST_HOST_SCHEDULE=$schedule "$planted" "$1" 2>/dev/null || status=$?
    if ((status != 0)); then result=0; fi
  done
  if ((result)); then echo "$1: not caught" >&2 && exit 1; fi
}

for bug in barrier divergent unset warp-barrier early-read long-copy unfilled overwritten; do caught "$bug"; done
# A kernel that leaves its buffer is AddressSanitizer's to see.
if grep -q __asan_init "$planted"; then caught beyond; else echo "not in this build: beyond (SAN=address)"; fi
