#!/usr/bin/env bash
# benchmarks/tap-statistics.py reads a store of exact, of int8 and of pca taps with h5py, sees every layer, and draws its plot.
# RUN timeout=120
. tests/tiny_run.sh
python=${PYTHON:-python3}
if ! "$python" -c 'import h5py, numpy' 2>/dev/null; then
  echo "skipped: $python has no h5py and numpy (PYTHON=... names another)"
  exit 77
fi
make_tiny
for format in exact int8; do
  "$QST" taps --quiet --backbone "$work/b.h5" --data "$work/t.h5" --taps "$work/$format" --tap-format $format
  "$python" benchmarks/tap-statistics.py "$work/$format" >"$work/$format.txt" || die "no statistics of $format taps"
done
# Of the embedding and each layer a line: the same numbers of both formats to two digits.
(($(wc -l <"$work/exact.txt") == 6)) || die "$(cat "$work/exact.txt")"
paste "$work/exact.txt" "$work/int8.txt" | awk 'NR > 2 && ($2 / $6 > 1.01 || $6 / $2 > 1.01) { exit 1 }' ||
  die "int8 taps look different: $(paste "$work/exact.txt" "$work/int8.txt")"
"$QST" taps --quiet --backbone "$work/b.h5" --data "$work/t.h5" --taps "$work/pca" --downsample pca --rank 5
"$python" benchmarks/tap-statistics.py "$work/pca" | awk 'NR > 4 && ($2 < 0.99 || $2 > 1.01 || $4 != "nan") { exit 1 }' ||
  die "pca taps are not components of variance 1: $("$python" benchmarks/tap-statistics.py "$work/pca")"
if "$python" -c 'import matplotlib' 2>/dev/null; then
  for store in exact pca; do
    "$python" benchmarks/tap-statistics.py "$work/$store" "$work/$store.png" >/dev/null
    [[ $(head -c 4 "$work/$store.png" | tail -c 3) == PNG ]] || die "no plot"
  done
fi
