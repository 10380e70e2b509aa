# What the tests of whole runs share: a tiny model and rows, made with the program itself. Sourced; sets `work`, and the
# functions below. Stops the test on the first failure.
# shellcheck shell=bash
set -euo pipefail
: "${QST:?path of the program}" "${MPIRUN:?how to start N ranks}"
work=$(mktemp -d "${TMPDIR:-/tmp}/qst-run.XXXXXX")
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2034 # used by the tests
read -ra mpirun <<<"$MPIRUN"

die() {
  echo "$*" >&2
  exit 1
}

# make_rows FILE COUNT: rows that came tokenized, of 6 to 40 tokens, the second half of each with labels
make_rows() {
  awk -v count="$2" 'BEGIN {
    state = 12345
    for (row = 0; row < count; row++) {
      state = (state * 1103515245 + 12345) % 2147483648
      length_ = 6 + int(state / 65536) % 35
      ids = labels = ""
      for (i = 0; i < length_; i++) {
        state = (state * 1103515245 + 12345) % 2147483648
        id = 3 + int(state / 65536) % 90
        ids = ids (i ? "," : "") id
        labels = labels (i ? "," : "") (i < length_ / 2 ? -100 : id)
      }
      printf "{\"input_ids\":[%s],\"labels\":[%s]}\n", ids, labels
    }
  }' >"$1"
}

# make_tiny: $work/b.h5 (nf4), $work/t.h5 (100 rows) and $work/e.h5 (20 rows); TINY names another model than tiny-llama
make_tiny() {
  make_rows "$work/t.jsonl" 100
  make_rows "$work/e.jsonl" 20
  "$QST" quantize --quiet --model "tests/fixtures/${TINY:-tiny-llama}" --out "$work/b.h5"
  "$QST" tokenize --quiet --backbone "$work/b.h5" --in "$work/t.jsonl" --out "$work/t.h5"
  "$QST" tokenize --quiet --backbone "$work/b.h5" --in "$work/e.jsonl" --out "$work/e.h5"
}

# The options every tiny run has; a test adds --out, --steps and so on.
tiny_options() {
  echo train --quiet --backbone "$work/b.h5" --data "$work/t.h5" --eval-data "$work/e.h5" \
    --reduction-factor 3 --global-batch 12 --micro-batch-tokens 96 --lr 3e-3 --eval-every 7
}

# losses RUN: the loss curve, one line a step
losses() {
  grep -o '"type":"step".*' "$1/metrics.jsonl" | sed -E 's/.*"step":([0-9]+).*"loss":([^,]+).*/\1 \2/'
}

# same_run A B STEP: equal checkpoints and equal loss curves
same_run() {
  local name
  name=$(printf 'step-%06d.h5' "$3")
  cmp "$1/$name" "$2/$name" || die "$2: its checkpoint of step $3 differs from $1's"
  diff <(losses "$1") <(losses "$2") >/dev/null || die "$2: its loss curve differs from $1's"
}
