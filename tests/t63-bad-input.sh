#!/usr/bin/env bash
# Whatever is wrong with what a user gives, all ranks end with a status and one clear line that says what, and nothing
# half-written stays.
# RUN timeout=300
. tests/tiny_run.sh
make_tiny
read -ra options <<<"$(tiny_options) --steps 5 --save-every 2"
"$QST" "${options[@]}" --out "$work/run"
side=$work/run/latest

# refused STATUS TEXT COMMAND…: exits with the status, and says exactly one line (besides warnings), which has the text
refused() {
  local wanted=$1 text=$2 status=0
  shift 2
  "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
  [[ $status == "$wanted" ]] || die "status $status instead of $wanted: $* : $(cat "$work/stderr")"
  sed -i '/^warning: /d' "$work/stderr"
  [[ $(grep -c . "$work/stderr") == 1 ]] || die "not one line: $* : $(cat "$work/stderr")"
  grep -qF -- "$text" "$work/stderr" || die "the line lacks '$text': $(cat "$work/stderr")"
}

# Every input of train and eval: missing, empty, not HDF5, truncated in many places, one of our other files.
: >"$work/empty"
echo "not a store" >"$work/text"
for kind in backbone data; do
  other=$work/t.h5 good=$work/b.h5
  if [[ $kind == data ]]; then other=$work/b.h5 good=$work/t.h5; fi
  for bad in "$work/missing" "$work/empty" "$work/text" "$other" "$work"; do
    refused 1 "$bad" "$QST" "${options[@]}" --out "$work/none" "--$kind" "$bad"
  done
  size=$(stat -c %s "$good")
  for part in 1 7 20 45 70 95 99; do
    head -c $((size * part / 100)) "$good" >"$work/cut.h5"
    refused 1 "$work/cut.h5" "$QST" "${options[@]}" --out "$work/none" "--$kind" "$work/cut.h5"
  done
done
for bad in "$work/missing" "$work/empty" "$work/text" "$work/t.h5"; do
  refused 1 "$bad" "$QST" eval --quiet --backbone "$work/b.h5" --data "$work/e.h5" --side "$bad"
done

# What does not belong together.
"$QST" quantize --quiet --model tests/fixtures/tiny-llama --format fp4 --out "$work/fp4.h5"
refused 1 "another backbone" "$QST" eval --quiet --backbone "$work/fp4.h5" --data "$work/e.h5" --side "$side"
refused 1 "another backbone" "$QST" "${options[@]}" --out "$work/none" --backbone "$work/fp4.h5" --init "$side"
refused 2 "--resume" "$QST" "${options[@]}" --out "$work/run"
refused 1 "lr" "$QST" "${options[@]}" --out "$work/run" --resume --lr 1e-2
refused 1 "--data" "$QST" "${options[@]}" --out "$work/run" --resume --data "$work/e.h5"
echo '{"input_ids":[5,6,7],"labels":[-100,-100,-100]}' >"$work/mute.jsonl"
"$QST" tokenize --quiet --backbone "$work/b.h5" --in "$work/mute.jsonl" --out "$work/mute.h5" 2>/dev/null
refused 1 "no token has a label" "$QST" "${options[@]}" --out "$work/none" --data "$work/mute.h5"
refused 1 "no token has a label" "$QST" "${options[@]}" --out "$work/none" --eval-data "$work/mute.h5"
refused 2 "--reduction-factor" "$QST" "${options[@]}" --out "$work/none" --reduction-factor 7
refused 2 "--reduction-factor 6" "$QST" "${options[@]}" --out "$work/none" --reduction-factor 1024
refused 1 "--micro-batch-tokens" "$QST" "${options[@]}" --out "$work/none" --micro-batch-tokens 16

# Results of benchmarks.
for bad in "$work/missing" "$work" "$work/empty" "$work/b.h5"; do
  refused 1 "$bad: " "$QST" plan --quiet --model-shape smollm2-135m --gpu cpu --calibration "$bad"
  refused 1 "$bad: " "$QST" plan --quiet --model-shape smollm2-135m --sweep --measured "$bad"
done
refused 1 "No such file" "$QST" plan --quiet --model-shape smollm2-135m --gpu cpu --calibration "$work/missing"
refused 1 "directory" "$QST" plan --quiet --model-shape smollm2-135m --sweep --measured "$work"

# Places where nothing can be written.
refused 3 "$work/text" "$QST" "${options[@]}" --out "$work/text/run"
refused 3 "$work/text" "$QST" quantize --quiet --model tests/fixtures/tiny-llama --out "$work/text/b.h5"
refused 3 "$work/text" "$QST" tokenize --quiet --backbone "$work/b.h5" --in "$work/t.jsonl" --out "$work/text/t.h5"
refused 3 "$work/text" "$QST" export --quiet --side "$side" --out "$work/text/side.safetensors"

# Several ranks say it once, and all of them end. (mpirun adds lines of its own.)
for bad in "--backbone $work/missing" "--data $work/cut.h5" "--init $work/empty" "--out $work/text/run" \
  "--global-batch 2"; do
  status=0
  # shellcheck disable=SC2086 # an option and its value
  "${mpirun[@]}" 3 "$QST" "${options[@]}" --out "$work/none" $bad >"$work/stdout" 2>"$work/stderr" || status=$?
  [[ $status != 0 && $status -lt 100 ]] || die "status $status of 3 ranks with $bad"
  [[ $(grep -c '^qst-mpi' "$work/stderr") == 1 ]] || die "not one line of ours: $(cat "$work/stderr")"
done

# Ranks that are told different things, or whose disks hold different files under one name.
apart() {
  local wanted=$1 text=$2 status=0
  shift 2
  "${mpirun[@]}" 1 "$QST" "${options[@]}" --out "$work/none" : -n 1 "$QST" "$@" >"$work/stdout" 2>"$work/stderr" || status=$?
  [[ $status == "$wanted" ]] || die "status $status where ranks differ in $*"
  [[ $(grep -c '^qst-mpi' "$work/stderr") == 1 ]] || die "not one line of ours: $(cat "$work/stderr")"
  grep -qF -- "$text" "$work/stderr" || die "the line lacks '$text': $(cat "$work/stderr")"
}
apart 2 'has "lr = 0.004" where rank 0 has "lr = 0.003"' "${options[@]}" --out "$work/none" --lr 4e-3
apart 2 'has "taps = (given)"' "${options[@]}" --out "$work/none" --taps "$work/store"
apart 2 'eval" where rank 0 has' eval --backbone "$work/b.h5" --data "$work/e.h5"
apart 1 "$work/e.h5: is not the file that rank 0 has" "${options[@]}" --out "$work/none" --data "$work/e.h5"
apart 1 "--backbone: is not the file that rank 0 has" "${options[@]}" --out "$work/none" --backbone "$work/fp4.h5"

# A full disk, as far as a limit on the size of files can play one: the line, and no temporary file.
full() (
  ulimit -f 8 # blocks of 1 KiB
  trap '' XFSZ
  exec "$@"
)
refused 3 "$work/full.h5" full "$QST" quantize --quiet --model tests/fixtures/tiny-llama --out "$work/full.h5"
refused 3 "$work/full/" full "$QST" "${options[@]}" --out "$work/full"
left=$(find "$work" -name '*.tmp-*')
[[ -z $left ]] || die "left behind: $left"
[[ ! -e $work/full.h5 ]] || die "a file was written into a full disk"

# The run that all of this happened around is whole.
"$QST" inspect --quiet "$side" >/dev/null || die "the checkpoint was damaged"
