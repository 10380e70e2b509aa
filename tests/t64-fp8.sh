#!/usr/bin/env bash
# Whole runs with --backbone-compute fp8: the side network learns on what it sees; cpu and cuda devices compute the same
# products; a run is gone on with only as it was begun.
# RUN timeout=120
# RUN timeout=240 device=cuda
. tests/tiny_run.sh
make_tiny
steps=4
read -ra options <<<"$(tiny_options) --steps $steps --act bf16"
device=${DEVICE:-cpu}

"$QST" "${options[@]}" --device "$device" --backbone-compute bf16 --out "$work/bf16"
"$QST" "${options[@]}" --device "$device" --backbone-compute fp8 --out "$work/fp8"
if ((MOST_RANKS >= 2)); then
  "${mpirun[@]}" 2 "$QST" "${options[@]}" --device "$device" --backbone-compute fp8 --out "$work/ranks"
  same_run "$work/fp8" "$work/ranks" $steps
fi

# near A B: each loss within 5 percent (8-bit floats have 4 bits), with `share` instead
near() {
  paste <(losses "$1") <(losses "$2") | awk -v share="$3" '
    function abs(x) { return x < 0 ? -x : x }
    { lines++; if (!(abs($2 - $4) <= share * abs($4))) { print $2 " and " $4 " at step " $1; bad = 1 } }
    END { exit bad || lines != '$steps' }' || die "the loss curves of $1 and $2 differ"
}
near "$work/fp8" "$work/bf16" 0.05
cmp -s "$work/fp8/step-000004.h5" "$work/bf16/step-000004.h5" && die "fp8 changed nothing"

if [[ $device == cuda ]]; then
  "$QST" "${options[@]}" --device cpu --backbone-compute fp8 --out "$work/cpu"
  near "$work/fp8" "$work/cpu" 0.01
fi

status=0
"$QST" "${options[@]}" --device "$device" --backbone-compute bf16 --out "$work/fp8" --resume 2>"$work/error" || status=$?
((status == 1)) || die "status $status: $(cat "$work/error")"
grep -q 'backbone-compute' "$work/error" || die "resumed with other products: $(cat "$work/error")"
