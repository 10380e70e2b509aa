#!/usr/bin/env bash
# Bugs planted in kernels and in host code (tests/host/planted.cu): each must be caught, by the host runtime alone or by the
# sanitizer whose build this is, and the same code without its bug must pass, in every order of threads.
# RUN device=cuda
set -euo pipefail
if [[ $CUDA_FOLDER == gpu ]]; then echo "a GPU is not the host runtime" && exit 77; fi
planted=${QST%/*}/planted
sanitizer=none
if grep -q __asan_init "$planted"; then sanitizer=address; fi
if grep -q __tsan_init "$planted"; then sanitizer=thread; fi

case $sanitizer in
  none)
    bugs=(barrier warp-barrier divergent unset weak-wait early-refill early-read long-copy host-pointer high-grid
      unasked-shared unfilled overwritten unfenced unbegun unawaited refilled incomplete)
    ;;
  address) bugs=(beyond beyond-shared misaligned host-reads) ;;
  thread) bugs=(barrier warp-barrier shuffle-order lost-update lost-between-blocks early-refill) ;;
esac

# who: the tool that complained, from what the program wrote
who() {
  case $1 in
    *ThreadSanitizer*) echo ThreadSanitizer ;;
    *AddressSanitizer*) echo AddressSanitizer ;;
    *"runtime error:"*) echo UndefinedBehaviorSanitizer ;;
    *"host runtime:"* | *refused*) echo "the runtime" ;;
    *) echo "its result" ;;
  esac
}

failed=0
for bug in "${bugs[@]}"; do
  caught=
  for schedule in forward reverse random; do
    export QST_HOST_SCHEDULE=$schedule
    "$planted" "$bug" fixed || { echo "$bug: fails without its bug ($schedule)" && failed=1; }
    output=$("$planted" "$bug" 2>&1) || caught+="${caught:+, }$(who "$output") ($schedule)"
  done
  echo "$bug: ${caught:-not caught}"
  [[ $caught ]] || failed=1
  [[ $sanitizer == none || $caught == *Sanitizer* ]] || failed=1
done
exit $failed
