#!/usr/bin/env bash
# A program with the cuda device on a machine without a GPU: it starts, computes on the cpu unless told otherwise, and says
# what is missing when it is told.
# RUN
. tests/tiny_run.sh
make_tiny
evaluate=("$QST" eval --quiet --json --backbone "$work/b.h5" --data "$work/e.h5" --micro-batch-tokens 96)
status=0
message=$("${evaluate[@]}" --device cuda 2>&1) || status=$?
if ((status == 0)); then echo "this machine has a GPU" && exit 77; fi
if [[ $message == *"not compiled into this program"* ]]; then echo "this program has no cuda device" && exit 77; fi
((status == 3)) || die "status $status: $message"
[[ $message == *"no GPU to compute on"*"--device cpu"* ]] || die "not what is missing: $message"
"${evaluate[@]}" --device auto >"$work/auto"
"${evaluate[@]}" --device cpu >"$work/cpu"
sed -i 's/"seconds":[^,}]*//; s/"[a-z_]*per_second":[^,}]*//' "$work/auto" "$work/cpu"
cmp "$work/auto" "$work/cpu" || die "auto is not the cpu here: $(cat "$work/auto" "$work/cpu")"
