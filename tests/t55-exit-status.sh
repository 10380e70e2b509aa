#!/usr/bin/env bash
# A wrong command line or a missing file, alone and on ranks: one line of ours on stderr, the same non-zero status on
# every rank, nothing written. Wrapped ranks write down their own exit status.
set -u
failed=0

complain() {
  echo "$1"
  failed=1
}

# expect STATUS TEXT RANKS WORDS...
expect() {
  local status=$1 text=$2 ranks=$3 got count rank
  shift 3
  local folder=$TMPDIR/case launch=()
  rm -rf "$folder" && mkdir -p "$folder"
  ((ranks > 1)) && read -ra launch <<<"$MPIRUN $ranks"
  # shellcheck disable=SC2016
  "${launch[@]}" bash -c '"$QST" "$@" 2>"$0/stderr-${OMPI_COMM_WORLD_RANK:-0}"; echo $? >"$0/status-${OMPI_COMM_WORLD_RANK:-0}"' \
    "$folder" "$@" >"$folder/stdout" 2>"$folder/launcher"
  for ((rank = 0; rank < ranks; rank++)); do
    got=$(cat "$folder/status-$rank")
    [[ $got == "$status" ]] || complain "$*: rank $rank of $ranks ended with $got, not $status"
  done
  # Libraries of MPI speak in brackets of what they miss in a container.
  count=$(cat "$folder"/stderr-* | grep -cv '^\[')
  [[ $count == 1 ]] || complain "$*: $count lines on $ranks ranks: $(cat "$folder"/stderr-*)"
  grep -qF -- "$text" "$folder/stderr-0" || complain "$*: no '$text' in: $(cat "$folder"/stderr-*)"
  # inspect tells of a damaged file in its result as well
  [[ ${1:-} != inspect && -s $folder/stdout ]] && complain "$*: wrote to stdout"
}

for ranks in 1 3; do
  expect 2 "qst-mpi: 'trian': unknown command; did you mean train?" $ranks trian
  expect 2 "qst-mpi: a command is needed" $ranks
  expect 2 "qst-mpi train: --mix: 'alhpa' is not one of" $ranks train --mix alhpa
  expect 2 "qst-mpi eval: --data FILE is missing" $ranks eval --backbone b.h5
  expect 1 "$TMPDIR/none.conf: No such file" $ranks train --config "$TMPDIR/none.conf"
  expect 1 "$TMPDIR/none" $ranks train --backbone "$TMPDIR/none.h5" --data "$TMPDIR/none" --out "$TMPDIR/run"
  expect 1 "$TMPDIR/none" $ranks eval --backbone "$TMPDIR/none.h5" --data "$TMPDIR/none"
  expect 1 "$TMPDIR/none.h5" $ranks generate --backbone "$TMPDIR/none.h5" --prompt x
  expect 1 "$TMPDIR/none" $ranks quantize --model "$TMPDIR/none" --out "$TMPDIR/b.h5"
  expect 1 "$TMPDIR/none" $ranks tokenize --backbone "$TMPDIR/none" --in "$TMPDIR/none" --out "$TMPDIR/t.h5"
  expect 1 "$TMPDIR/none" $ranks export --side "$TMPDIR/none" --out "$TMPDIR/s.safetensors"
  expect 1 "$TMPDIR/none" $ranks inspect "$TMPDIR/none"
  expect 1 "$TMPDIR/none" $ranks report "$TMPDIR/none"
  [[ -z $(find "$TMPDIR" -name '*.h5*' -o -name 'run' -o -name 's.*') ]] || complain "files were left behind"
done

# Help and version go to stdout once, however many ranks there are.
for ranks in 1 2; do
  launch=()
  ((ranks > 1)) && read -ra launch <<<"$MPIRUN $ranks"
  [[ $("${launch[@]}" "$QST" --version | wc -l) == 1 ]] || complain "--version on $ranks ranks"
  [[ $("${launch[@]}" "$QST" help train | grep -c -e '--lr X') == 1 ]] || complain "help train on $ranks ranks"
done

# Output that cannot be written is a failure, not a success.
"$QST" help >/dev/full 2>"$TMPDIR/full" && complain "a full disk went unnoticed"
grep -q "standard output: No space left" "$TMPDIR/full" || complain "no word of the full disk: $(cat "$TMPDIR/full")"

# Tasks that Slurm started without MPI must not each believe to be alone.
SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=0 "$QST" --version >"$TMPDIR/out" 2>"$TMPDIR/err"
[[ $? == 2 ]] || complain "four tasks without MPI were let through"
grep -q -- "srun --mpi=pmix" "$TMPDIR/err" || complain "no advice: $(cat "$TMPDIR/err")"
SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=2 "$QST" --version >"$TMPDIR/out" 2>"$TMPDIR/err"
[[ -s $TMPDIR/err ]] && complain "every task gives the advice"
exit $failed
