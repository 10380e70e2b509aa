#!/usr/bin/env bash
# The demo's whole way with a small random model: a run, a second one that makes nothing again, and one that goes on with
# a training that was cut short.
# RUN timeout=240
set -euo pipefail
export BUILD=$TMPDIR/demo-build QST_SMOLLM2=/there-is-no-model DEMO_EPOCHS=0.05
# Not under sanitizers: some minutes, and what MPI leaks would end the demo, which starts its ranks by itself. Each of its
# commands has a test of its own there.
if ((${TIME_FACTOR:-1} > 1)); then
  echo "skipped: under sanitizers MPI's leaks would end it"
  exit 77
fi
mkdir -p "$BUILD"
ln -s "$QST" "$BUILD/qst-mpi"

demo() {
  benchmarks/demo/demo.sh >"$TMPDIR/log" 2>&1 || { cat "$TMPDIR/log" && exit 1; }
}

says() {
  grep -qE -- "$1" "$TMPDIR/log" || { echo "the demo does not say: $1" && cat "$TMPDIR/log" && exit 1; }
}

demo
says 'could not be had: QST_SMOLLM2 says /there-is-no-model'
says '^\$ mpirun .* train '
says '^  exact match \(%\) +0\.0 +[0-9.]+$'
says '^  after     '
[[ -s $BUILD/demo/report.html ]]

demo
says 'run is there already'
if grep -qE '^\$ .*(quantize|train|eval|generate) ' "$TMPDIR/log"; then
  echo "the second run made again:" && grep '^\$' "$TMPDIR/log" && exit 1
fi

# As after an interruption: a checkpoint, no mark that training ended.
rm "$BUILD/demo/trained" "$BUILD/demo/after.json"
demo
says '^\$ mpirun .* train .* --resume'
