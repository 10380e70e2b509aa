# What benchmarks of whole runs share: SmolLM2-135M quantized, and rows of 512 random tokens that all have labels. Sourced;
# needs QST and a folder WORK, leaves $WORK/backbone.h5 and $WORK/rows.h5.
# shellcheck shell=bash
LENGTH=512

make_rows() { # COUNT
  awk -v count="$1" -v len="$LENGTH" 'BEGIN {
    srand(1)
    for (row = 0; row < count; row++) {
      ids = ""
      for (i = 0; i < len; i++) ids = ids (i ? "," : "") 100 + int(rand() * 40000)
      printf "{\"input_ids\":[%s],\"labels\":[%s]}\n", ids, ids
    }
  }'
}

prepare() {
  if [[ -e $WORK/rows.h5 ]]; then return; fi
  "$QST" quantize --quiet --model "$(benchmarks/demo/get_model.sh)" --out "$WORK/backbone.h5"
  make_rows 256 >"$WORK/rows.jsonl"
  "$QST" tokenize --quiet --backbone "$WORK/backbone.h5" --in "$WORK/rows.jsonl" --out "$WORK/rows.h5"
}
