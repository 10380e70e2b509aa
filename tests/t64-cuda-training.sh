#!/usr/bin/env bash
# Whole runs on the cuda device, a GPU or the host runtime: 1, 2 and 3 ranks, threads of a block in every order, equal byte
# for byte; and a loss curve within bf16's error of the cpu device's.
# RUN timeout=400 device=cuda
. tests/tiny_run.sh
make_tiny
steps=8 schedules="reverse random" more_ranks="2 3"
# Sanitizers see the same kernels and calls in fewer steps and runs.
if ((${TIME_FACTOR:-1} > 1)); then steps=2 schedules=random more_ranks=2; fi
read -ra options <<<"$(tiny_options) --steps $steps --act bf16"

"$QST" "${options[@]}" --device cuda --out "$work/one"
for schedule in $schedules; do
  QST_HOST_SCHEDULE=$schedule "$QST" "${options[@]}" --device cuda --out "$work/$schedule"
  same_run "$work/one" "$work/$schedule" $steps
done
for ranks in $more_ranks; do
  ((ranks <= MOST_RANKS)) || continue
  "${mpirun[@]}" "$ranks" "$QST" "${options[@]}" --device cuda --out "$work/ranks-$ranks"
  same_run "$work/one" "$work/ranks-$ranks" $steps
done

# Resumed, on another number of ranks where there are several.
resume=()
if ((MOST_RANKS > 1)); then resume=("${mpirun[@]}" 2); fi
"$QST" "${options[@]}" --device cuda --out "$work/half" --save-every $((steps / 2))
rm "$work/half/step-00000$steps.h5"
for link in latest best; do ln -sfn step-00000$((steps / 2)).h5 "$work/half/$link"; done
rm -f "$work/half"/step-00000[5-8].h5
"${resume[@]}" "$QST" "${options[@]}" --device cuda --out "$work/half" --save-every $((steps / 2)) --resume
same_run "$work/one" "$work/half" $steps

# A pipeline, also with its optimizer sharded and its activations computed again.
if ((MOST_RANKS >= 4)); then
  "${mpirun[@]}" 2 "$QST" "${options[@]}" --device cuda --out "$work/stages" --pipeline-stages 2
  same_run "$work/one" "$work/stages" $steps
  "${mpirun[@]}" 4 "$QST" "${options[@]}" --device cuda --out "$work/grid" --pipeline-stages 2 --shard-optimizer --recompute
  same_run "$work/one" "$work/grid" $steps
fi

# Rows of one length: the same tasks again and again, replayed as graphs. Two ranks replay others than one.
awk 'BEGIN { for (r = 0; r < 40; r++) { printf "{\"input_ids\":["; for (i = 0; i < 12; i++) printf "%s%d", i ? "," : "", 3 + (7 * r + 5 * i * i) % 90; print "]}" } }' \
  >"$work/even.jsonl"
"$QST" tokenize --quiet --backbone "$work/b.h5" --in "$work/even.jsonl" --out "$work/even.h5"
even=("${options[@]}" --data "$work/even.h5" --global-batch 20 --micro-batch-tokens 48 --device cuda)
"$QST" "${even[@]}" --out "$work/even-1"
# The products' algorithms are found before the first micro-batch.
QST_HOST_EARLY_CHOICE=1 "$QST" "${even[@]}" --out "$work/even-early"
same_run "$work/even-1" "$work/even-early" $steps
"$QST" "${even[@]}" --no-run-ahead --recompute --out "$work/even-lean"
same_run "$work/even-1" "$work/even-lean" $steps
if ((MOST_RANKS >= 2)); then
  "${mpirun[@]}" 2 "$QST" "${even[@]}" --out "$work/even-2"
  same_run "$work/even-1" "$work/even-2" $steps
fi

# Against the cpu device: the same files, each loss within 1 percent (bf16 has 8 bits).
like_cpu() {
  paste <(losses "$work/$1") <(losses "$work/cpu") | awk '
    function abs(x) { return x < 0 ? -x : x }
    { lines++; if ($1 != $3 || !(abs($2 - $4) <= 0.01 * abs($4))) { print "cuda " $2 ", cpu " $4 " at step " $1; bad = 1 } }
    END { exit bad || lines != '$steps' }' || die "$1: the loss curves of cuda and cpu differ"
}
"$QST" "${options[@]}" --device cpu --out "$work/cpu"
like_cpu one

# Sanitizers have seen every kernel and call by now.
if ((${TIME_FACTOR:-1} > 1)); then exit 0; fi

# In a folder of its own.
other_family() {
  local work=$work/opt options
  mkdir "$work"
  TINY=tiny-opt make_tiny
  read -ra options <<<"$(tiny_options) --reduction-factor 2 --steps $steps --act bf16"
  "$QST" "${options[@]}" --device cuda --out "$work/one"
  "$QST" "${options[@]}" --device cpu --out "$work/cpu"
  like_cpu one
  if ((MOST_RANKS >= 2)); then
    "${mpirun[@]}" 2 "$QST" "${options[@]}" --device cuda --out "$work/stages" --pipeline-stages 2
    same_run "$work/one" "$work/stages" $steps
  fi
}
other_family

if [[ $CUDA_FOLDER == gpu ]]; then exit 0; fi

# A cuBLASLt that refuses products, all of them or some: one line says so, and the rest is as ever.
for refused in all some; do
  QST_HOST_NO_ALGORITHM=$refused "$QST" "${options[@]}" --device cuda --out "$work/$refused" 2>"$work/error"
  grep -cE '^warning: cuda: cuBLASLt 13.0.0 has no algorithm for products like [0-9]+ x [0-9]+ x [0-9]+ in bf16' \
    "$work/error" | grep -qx 1 || die "$refused: $(cat "$work/error")"
  like_cpu $refused
done
QST_HOST_NO_ALGORITHM=some "${mpirun[@]}" 2 "$QST" "${options[@]}" --device cuda --out "$work/some-2"
same_run "$work/some" "$work/some-2" $steps

# Without a GPU to be seen the same program chooses the cpu, and says so when asked for cuda.
QST_HOST_GPUS=0 "$QST" "${options[@]}" --device auto --out "$work/auto"
same_run "$work/cpu" "$work/auto" $steps
status=0
QST_HOST_GPUS=0 "$QST" "${options[@]}" --device cuda --out "$work/none" 2>"$work/error" || status=$?
((status == 3)) || die "status $status: $(cat "$work/error")"
grep -q 'no GPU' "$work/error" || die "no GPU: status $status, $(cat "$work/error")"
for driver in 0 12040; do
  status=0 wanted='no GPU to compute on'
  if ((driver)); then wanted='the driver knows CUDA 12.4, this program was built with 13.0'; fi
  QST_HOST_DRIVER=$driver "$QST" "${options[@]}" --device cuda --out "$work/none" 2>"$work/error" || status=$?
  ((status == 3)) || die "status $status: $(cat "$work/error")"
  grep -q "$wanted" "$work/error" || die "driver $driver: $(cat "$work/error")"
done
status=0
QST_HOST_DRIVER=12040 "$QST" "${options[@]}" --device auto --out "$work/none" 2>"$work/error" || status=$?
((status == 3)) || die "with an old driver auto: status $status, $(cat "$work/error")"
status=0
QST_HOST_CAPABILITY=7 "$QST" "${options[@]}" --device cuda --out "$work/none" 2>"$work/error" || status=$?
((status == 3)) || die "status $status: $(cat "$work/error")"
grep -q 'compute capability 7' "$work/error" || die "an old GPU: status $status, $(cat "$work/error")"
status=0
QST_HOST_CAPABILITY=8.0 "$QST" "${options[@]}" --device cuda --gpu-isa sm_90a --out "$work/none" 2>"$work/error" || status=$?
((status == 2)) || die "status $status: $(cat "$work/error")"
grep -q 'sm_90a is for compute capability 9.0; .* has 8.0' "$work/error" || die "another GPU's kernels: $(cat "$work/error")"
QST_HOST_CAPABILITY=9.0 "$QST" "${options[@]}" --device cuda --gpu-isa sm_80 --out "$work/sm_80"
status=0
QST_HOST_GPUS=2 "${mpirun[@]}" 3 "$QST" "${options[@]}" --device cuda --out "$work/none" 2>"$work/error" || status=$?
((status != 0)) || die "it started: $(cat "$work/error")"
grep -q 'has no GPU of its own' "$work/error" || die "too few GPUs: $(cat "$work/error")"
status=0
QST_HOST_SHARED_GPU=1 "${mpirun[@]}" 3 "$QST" "${options[@]}" --device cuda --out "$work/none" 2>"$work/error" || status=$?
((status == 2)) || die "status $status: $(cat "$work/error")"
grep -q 'rank 0 and rank 1 would share the GPU 0000:00:00.0' "$work/error" || die "a shared GPU: $(cat "$work/error")"
[[ ! -e $work/none ]] || die "a shared GPU was found too late"
QST_HOST_SHARED_GPU=1 QST_HOST_GPUS=3 "${mpirun[@]}" 3 "$QST" "${options[@]}" --device cuda --out "$work/each-its-own"
same_run "$work/one" "$work/each-its-own" $steps
