#!/usr/bin/env bash
# The whole way once, on a real model: quantize, tokenize, evaluate, finetune on 2 ranks, evaluate again, report.
# `make demo` builds the program and runs this. Everything goes to build/demo; what is there already is not made again,
# and a training run that was interrupted goes on.
#
#   BUILD=FOLDER            where the program is (build)
#   QST_SMOLLM2=FILE.gguf   the model, where it cannot be fetched (see get_model.sh)
#   DEMO_RANKS, DEMO_EPOCHS other than 2 and 1.2
set -euo pipefail
cd "$(dirname "$0")/../.."

BUILD=${BUILD:-build}
QST=$BUILD/qst-mpi
DEMO=$BUILD/demo
ROWS=benchmarks/demo
RUN=$DEMO/run
RANKS=${DEMO_RANKS:-2}
EPOCHS=${DEMO_EPOCHS:-1.2}
CORES=$(nproc)
THREADS=$((CORES > RANKS ? CORES / RANKS : 1))
ANSWER_TOKENS=32
# A step of 16 rows is about 820 tokens: two micro-batches of at most 512, one a rank.
TRAIN_OPTIONS=(--epochs "$EPOCHS" --global-batch 16 --micro-batch-tokens 512 --lr 0.003 --save-every 50 --eval-every 100)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Prints a command as it could be typed.
announce() {
  printf '$'
  printf ' %q' "$@"
  printf '\n'
}

show() {
  announce "$@"
  "$@"
}

# Makes FILE by the command unless it is there; FILE must appear complete or not at all.
make_once() { # FILE COMMAND…
  local file=$1
  shift
  if [[ -e $file ]]; then echo "$file is there already"; else show "$@"; fi
}

# As make_once, for commands that write to standard output.
save_once() { # FILE COMMAND…
  local file=$1
  shift
  if [[ -e $file ]]; then
    echo "$file is there already"
    return
  fi
  announce "$@"
  "$@" >"$file.new"
  mv "$file.new" "$file"
}

launcher() {
  LAUNCH=(mpirun -n "$RANKS")
  mpirun --version 2>/dev/null | grep -q "Open MPI" || return 0
  LAUNCH+=(--bind-to none)
  if ((CORES < RANKS)); then LAUNCH+=(--oversubscribe); fi
  if ((EUID == 0)); then LAUNCH+=(--allow-run-as-root); fi
}

get_model() {
  if MODEL=$(benchmarks/demo/get_model.sh); then
    MODEL_NAME=SmolLM2-135M-Instruct
    return
  fi
  echo "Going on with a small random model, so that every step can be tried; its answers will be wrong."
  MODEL=$DEMO/tiny-model
  MODEL_NAME="a small random model"
  if [[ ! -e $MODEL/model.safetensors ]]; then
    show "${CC:-cc}" -O2 -o "$DEMO/tiny_model" $ROWS/tiny_model.c -lm
    show "$DEMO/tiny_model" "$MODEL"
  fi
}

# What was made of another model, other rows or with other options is not used.
forget_what_is_old() {
  local made_of
  made_of=$(cksum "$ROWS"/*.jsonl && cksum <"$(model_file)" && echo "${TRAIN_OPTIONS[@]}")
  if [[ ! -e $DEMO/made-of || $(<"$DEMO/made-of") != "$made_of" ]]; then
    rm -rf "$RUN" "$DEMO"/*.h5 "$DEMO"/*.json "$DEMO"/*.jsonl
    echo "$made_of" >"$DEMO/made-of"
  fi
}

model_file() {
  if [[ -d $MODEL ]]; then echo "$MODEL/model.safetensors"; else echo "$MODEL"; fi
}

evaluate() { # NAME [--side SIDE]
  local name=$1
  shift
  save_once "$DEMO/$name.json" "${LAUNCH[@]}" "$QST" eval --backbone "$DEMO/backbone.h5" "$@" --data "$DEMO/eval.h5" \
    --batch 100 --threads "$THREADS" --json
}

answer() { # NAME [--side SIDE]
  local name=$1
  shift
  make_once "$DEMO/answers-$name.jsonl" "$QST" generate --backbone "$DEMO/backbone.h5" "$@" --in "$ROWS/eval.jsonl" \
    --limit 4 --out "$DEMO/answers-$name.jsonl" --template chatml --max-new-tokens "$ANSWER_TOKENS"
}

train() {
  local resume=()
  if [[ -e $DEMO/trained ]]; then
    echo "$RUN is there already"
    return
  fi
  if [[ -e $RUN/latest ]]; then resume=(--resume); else rm -rf "$RUN"; fi
  show "${LAUNCH[@]}" "$QST" train --backbone "$DEMO/backbone.h5" --data "$DEMO/train.h5" --eval-data "$DEMO/eval.h5" \
    --out "$RUN" "${TRAIN_OPTIONS[@]}" --threads "$THREADS" "${resume[@]}"
  touch "$DEMO/trained"
}

# The value of a key in a line of JSON on standard input.
number_of() { sed -nE "s/.*\"$1\": *([-+.0-9eE]+).*/\1/p"; }
text_of() { sed -nE "s/.*\"$1\": *\"(([^\"\\\\]|\\\\.)*)\".*/\1/p"; }

table_row() { # LABEL FORMAT SCALE KEY
  printf '  %-28s' "$1"
  for name in before after; do
    number_of "$4" <"$DEMO/$name.json" | awk -v format="%14$2" -v scale="$3" '{ printf format, $1 * scale }'
  done
  echo
}

summary() {
  printf '  %-28s%14s%14s\n' "200 held-out rows" before after
  table_row "loss (nats a token)" .4f 1 loss
  table_row "perplexity" .3f 1 perplexity
  table_row "exact match (%)" .1f 100 exact_match
}

answers() {
  local i
  for i in 1 2 3 4; do
    echo
    echo "  customer  $(sed -n "${i}p" "$ROWS/eval.jsonl" | text_of prompt)"
    echo "  wanted    $(sed -n "${i}p" "$ROWS/eval.jsonl" | text_of completion)"
    echo "  before    $(sed -n "${i}p" "$DEMO/answers-before.jsonl" | text_of answer | cut -c 1-120)"
    echo "  after     $(sed -n "${i}p" "$DEMO/answers-after.jsonl" | text_of answer | cut -c 1-120)"
  done
}

[[ -x $QST ]] || { echo "$QST is not there: run \`make demo\` or \`make\` first" >&2 && exit 1; }
mkdir -p "$DEMO"
launcher

say "1 of 8  The model"
get_model
echo "$MODEL_NAME: $MODEL"
forget_what_is_old

say "2 of 8  Quantize it to 4 bits (NF4)"
make_once "$DEMO/backbone.h5" "$QST" quantize --model "$MODEL" --out "$DEMO/backbone.h5"

say "3 of 8  Tokenize the task: customers' sentences, and the order line each stands for"
make_once "$DEMO/train.h5" "$QST" tokenize --backbone "$DEMO/backbone.h5" --in "$ROWS/train.jsonl" \
  --out "$DEMO/train.h5" --template chatml
make_once "$DEMO/eval.h5" "$QST" tokenize --backbone "$DEMO/backbone.h5" --in "$ROWS/eval.jsonl" \
  --out "$DEMO/eval.h5" --template chatml

say "4 of 8  Before: the backbone alone on rows it is not going to be trained on"
evaluate before
answer before

say "5 of 8  Train the side network on $RANKS ranks"
train

say "6 of 8  After: the backbone with its side network"
evaluate after --side "$RUN"
answer after --side "$RUN"

say "7 of 8  Report"
show "$QST" report "$RUN" --out "$DEMO/report.html"

say "8 of 8  What came of it ($MODEL_NAME)"
summary
answers
cat <<END

  The curves: $DEMO/report.html and $DEMO/report.png

To go on with:
  $QST generate --backbone $DEMO/backbone.h5 --side $RUN --template chatml --prompt "Please send two red cups to Rome on Friday."
  $QST inspect $DEMO/backbone.h5
  $QST export --side $RUN --out side.safetensors
  your own rows: {"prompt": …, "completion": …} a line, then steps 3, 5 and 6 as printed above
END
printf '\nDone in %d min %d s.\n' $((SECONDS / 60)) $((SECONDS % 60))
