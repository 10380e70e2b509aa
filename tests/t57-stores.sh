#!/usr/bin/env bash
# tokenize, inspect and export: the same bytes whatever the threads and ranks, what files hold, damage named, side networks
# there and back between checkpoints and safetensors, full disks.
# RUN timeout=300
. tests/tiny_run.sh
make_rows "$work/rows.jsonl" 1500
"$QST" quantize --quiet --model tests/fixtures/formats/llama.gguf --out "$work/b.h5"

# contains TEXT COMMAND...: succeeds and prints a line with the text
contains() {
  local text=$1
  shift
  "$@" >"$work/stdout" 2>"$work/stderr" || die "failed: $* : $(cat "$work/stderr")"
  grep -qE -- "$text" "$work/stdout" || die "$*: no '$text' in: $(cat "$work/stdout")"
}

# refused STATUS TEXT COMMAND...: one line with the text on stderr
refused() {
  local wanted=$1 text=$2 status=0
  shift 2
  "$@" >"$work/stdout" 2>"$work/stderr" || status=$?
  [[ $status == "$wanted" ]] || die "status $status instead of $wanted: $* : $(cat "$work/stderr")"
  [[ $(grep -c . "$work/stderr") == 1 ]] || die "not one line: $* : $(cat "$work/stderr")"
  grep -qF -- "$text" "$work/stderr" || die "the line lacks '$text': $(cat "$work/stderr")"
}

# ---- tokenize ----
tokenize=("$QST" tokenize --quiet --in "$work/rows.jsonl")
"${tokenize[@]}" --threads 1 --out "$work/1.h5"
"${tokenize[@]}" --threads 3 --out "$work/3.h5"
"${mpirun[@]}" 2 "${tokenize[@]}" --out "$work/ranks.h5"
cmp "$work/1.h5" "$work/3.h5" || die "three threads write other bytes than one"
cmp "$work/1.h5" "$work/ranks.h5" || die "two ranks write other bytes than one"
contains '^rows +1500$' "$QST" inspect "$work/1.h5"
"${tokenize[@]}" --limit 7 --out "$work/7.h5"
contains '"rows": 7,' "$QST" inspect --json "$work/7.h5"

"${tokenize[@]}" --max-tokens 16 --out "$work/cut.h5"
contains '^longest_row +16$' "$QST" inspect "$work/cut.h5"
contains '^truncated +[1-9]' "$QST" inspect "$work/cut.h5"

# The number of the first bad line, whichever thread meets it; blank lines count.
{ head -n 1200 "$work/rows.jsonl" && echo && echo '{"input_ids":[1' && echo '{"text":"x"}'; } >"$work/bad.jsonl"
refused 1 "$work/bad.jsonl line 1202" "$QST" tokenize --quiet --threads 3 --in "$work/bad.jsonl" --out "$work/none.h5"
: >"$work/empty.jsonl"
refused 1 "has no rows" "$QST" tokenize --quiet --in "$work/empty.jsonl" --out "$work/none.h5"
refused 1 "Is a directory" "$QST" tokenize --quiet --in "$work" --out "$work/none.h5"
[[ ! -e $work/none.h5 ]] || die "a failed tokenize left a file"

# ---- inspect ----
contains '^weight_format +nf4$' "$QST" inspect "$work/b.h5"
contains '^checksums +all [0-9]+ hold$' "$QST" inspect "$work/b.h5"
contains '^ +architecture +llama$' "$QST" inspect tests/fixtures/formats/llama.gguf
contains '^ +architecture +qwen2$' "$QST" inspect tests/fixtures/formats/qwen2-f16
contains '^format +safetensors$' "$QST" inspect tests/fixtures/quantized.safetensors
refused 1 "$work/rows.jsonl: is not an HDF5 file" "$QST" inspect "$work/rows.jsonl"
refused 1 "neither a run" "$QST" inspect tests

# A flipped byte is found wherever it matters, and the dataset is named when it lies in one.
size=$(stat -c %s "$work/b.h5") named=0
for part in 5 12 19 26 33 40 47 54 61 68 75 82 89 96; do
  cp "$work/b.h5" "$work/flip.h5"
  at=$((size * part / 100))
  byte=$(od -An -tu1 -j "$at" -N 1 "$work/b.h5")
  printf "%b" "\\x$(printf %x $((byte ^ 64)))" | dd of="$work/flip.h5" bs=1 seek="$at" conv=notrunc status=none
  status=0
  "$QST" inspect "$work/flip.h5" >"$work/stdout" 2>"$work/stderr" || status=$?
  ((status <= 1)) || die "a flip at $at: status $status: $(cat "$work/stderr")"
  if grep -qE 'flip.h5: /[a-z0-9_/]+ is damaged: its checksum does not hold' "$work/stderr"; then
    named=$((named + 1))
    ((status == 1)) || die "a flip at $at: named, but status $status"
  fi
done
((named >= 5)) || die "only $named of 14 flipped bytes were laid to a dataset"

# ---- export ----
checkpoint=tests/fuzz/corpus/fuzz_h5/checkpoint.h5
"$QST" export --quiet --side "$checkpoint" --out "$work/side.safetensors"
"$QST" export --quiet --side "$work/side.safetensors" --out "$work/side.h5"
"$QST" export --quiet --side "$work/side.h5" --out "$work/again.safetensors"
cmp "$work/side.safetensors" "$work/again.safetensors" || die "a side network changes on its way there and back"
contains '^optimizer_state +false$' "$QST" inspect "$work/side.h5"
contains 'model.z.0 +F32 +\[2\]' "$QST" inspect "$work/side.safetensors"
refused 2 "must end in .safetensors or .h5" "$QST" export --quiet --side "$checkpoint" --out "$work/side.bin"
refused 1 "is a qst-backbone file where a qst-checkpoint file is needed" \
  "$QST" export --quiet --side "$work/b.h5" --out "$work/none.h5"

# ---- a full disk, at many places of the file ----
mkdir "$work/full"
for blocks in 1 4 16 33 64; do
  status=0
  (ulimit -f "$blocks" && exec "${tokenize[@]}" --out "$work/full/t.h5") 2>"$work/stderr" || status=$?
  ((status == 3)) || die "ulimit -f $blocks: status $status: $(cat "$work/stderr")"
  grep -q "full/t.h5: .*File too large" "$work/stderr" || die "ulimit -f $blocks: $(cat "$work/stderr")"
  [[ -z $(ls -A "$work/full") ]] || die "ulimit -f $blocks left $(ls -A "$work/full")"
done
