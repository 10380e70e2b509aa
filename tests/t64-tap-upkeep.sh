#!/usr/bin/env bash
# What surrounds a tap store: the cache on a node's disk is filled and read, and costs nothing but speed when its copies are
# damaged, its disk is full or cannot be written; pruning removes what is damaged, doubled or too much, and no more; the
# disk is measured against the backbone.
# RUN timeout=120
. tests/tiny_run.sh
if ((${TIME_FACTOR:-1} > 1)); then
  echo "skipped: too slow under sanitizers; t17-tap-file covers the files there"
  exit 77
fi
make_tiny
read -ra options <<<"$(tiny_options) --epochs 2.5 --threads 1"
taps=(taps --backbone "$work/b.h5" --data "$work/t.h5" --reduction-factor 3 --threads 1)

# run NAME RANKS OPTION...: a training run, its notes in NAME.log, its results those of a live run
run() {
  local name=$1 ranks=$2 start=()
  shift 2
  ((ranks == 1)) || start=("${mpirun[@]}" "$ranks")
  "${start[@]}" "$QST" "${options[@]/--quiet/--no-quiet}" --out "$work/$name" "$@" 2>"$work/$name.log" ||
    die "$name failed: $(tail -n 3 "$work/$name.log")"
  cmp "$work/live/latest" "$work/$name/latest" || die "$name: its checkpoint differs from a live run's"
}

# says NAME TEXT
says() {
  grep -q -- "$2" "$work/$1.log" || die "$1 does not say '$2': $(cat "$work/$1.log")"
}

"$QST" "${options[@]}" --out "$work/live" 2>/dev/null
store=$work/store
cache=$work/cache

# ---- the cache ----
run fill 2 --taps "$store" --tap-cache "$cache"
# Copies are made beside the training, which does not wait for them: the last ones may come in a later run.
copied() {
  local segment
  for segment in "$store"/segment-*.h5; do cmp -s "$segment" "$cache"/taps-*/"${segment##*/}" || return 1; done
}
for attempt in $(seq 9); do
  run "cached-$attempt" 2 --taps "$store" --tap-cache "$cache"
  copied && break
done
copied || die "not all of $(ls "$store") is in the cache: $(ls "$cache"/taps-*)"
[[ ! -e $cache/index.h5 ]] || die "the index was copied"
echo left >"$(echo "$cache"/taps-*)/segment.tmp-$(uname -n)-999999999"
run all-cached 3 --taps "$store" --tap-cache "$cache"
says all-cached "MB of them from the tap cache"
! compgen -G "$cache/taps-*/*.tmp-*" >/dev/null || die "left in the cache: $(ls "$cache"/taps-*)"

for copy in "$cache"/taps-*/segment-*.h5; do
  printf 'damaged' | dd of="$copy" bs=1 seek=$(($(stat -c %s "$copy") / 2)) conv=notrunc status=none
done
run damaged-copy 1 --taps "$store" --tap-cache "$cache"
says damaged-copy "in the tap cache did not hold: read from"

limit=$(($(stat -L -c %s "$work/live/latest") / 1024 + 8))
(ulimit -f $limit && run full-cache 1 --taps "$store" --tap-cache "$work/full")
says full-cache "warning: .*File too large; the tap cache is not filled further"
! compgen -G "$work/full/taps-*/*.tmp-*" >/dev/null || die "a full cache disk left $(ls "$work"/full/taps-*)"

run no-cache 1 --taps "$store" --tap-cache /proc/none
says no-cache "warning: /proc/none.*there is no tap cache"

# ---- pruning ----
# prune NAME OPTION...
prune() {
  local name=$1
  shift
  "${mpirun[@]}" 2 "$QST" "${taps[@]}" --taps "$store" --prune "$@" 2>"$work/$name.log" || die "$(cat "$work/$name.log")"
}
segments=$(cd "$store" && echo segment-*)
prune nothing
says nothing "0 segments were damaged, 0 doubled, 0 beyond the limit; .* has 100 of 100 rows"
[[ $(cd "$store" && echo segment-*) == "$segments" ]] || die "prune removed what is needed"

"$QST" "${taps[@]}" --quiet --taps "$work/whole" 2>/dev/null
cp "$work"/whole/segment-*.h5 "$store"
echo left >"$store/segment-0123.h5.tmp-$(uname -n)-999999999"
echo left >"$store/segment-0123.h5.tmp-elsewhere-1"
echo being-written >"$store/segment-4567.h5.tmp-elsewhere-1"
echo being-written >"$store/segment-4567.h5.tmp-$(uname -n)-999999999-1" # of a host whose name begins like this one's
echo notes >"$store/notes.tmp-$(uname -n)-999999999"
touch -d "25 hours ago" "$store/segment-0123.h5.tmp-elsewhere-1" "$store"/notes.tmp-*
prune doubled
rm "$store"/notes.tmp-* || die "the file of somebody else was removed"
left=("$store"/*.tmp-*)
[[ ${#left[@]} == 2 && ${left[*]} != *segment-0123* ]] || die "temporary files after pruning: ${left[*]}"
rm "${left[@]}"
says doubled "0 segments were damaged, [2-9] doubled, 0 beyond the limit; .* has 100 of 100 rows"
[[ $(cd "$store" && echo segment-*) == $(cd "$work/whole" && echo segment-*) ]] || die "not pruned: $(ls "$store")"
run after-doubled 1 --taps "$store"

# A segment that was cut short: whoever fills the store puts a whole one in its place.
cp -r "$work/whole" "$work/cut"
truncate -s 5000 "$(find "$work/cut" -name 'segment-*' | head -n 1)"
"$QST" "${taps[@]}" --taps "$work/cut" 2>"$work/cut.log" || die "not filled again: $(cat "$work/cut.log")"
says cut "the segment is passed over"
for segment in "$work"/whole/segment-*.h5; do cmp "$segment" "$work/cut/${segment##*/}"; done

# Segments of a pipeline's stages: each half is needed until whole ones have its rows.
staged=$work/staged
"${mpirun[@]}" 2 "$QST" "${taps[@]}" --quiet --taps "$staged" --pipeline-stages 2 2>/dev/null
whole=$store store=$staged
prune staged
says staged "0 segments were damaged, 0 doubled, 0 beyond the limit; .* has 100 of 100 rows"
cp "$whole"/segment-*.h5 "$staged"
prune staged-and-whole
says staged-and-whole "0 segments were damaged, [2-9] doubled, 0 beyond the limit; .* has 100 of 100 rows"
[[ $(cd "$staged" && echo segment-*) == $(cd "$whole" && echo segment-*) ]] || die "not pruned: $(ls "$staged")"
store=$whole

printf 'damaged' | dd of="$(find "$store" -name 'segment-*' | head -n 1)" bs=1 seek=40000 conv=notrunc status=none
prune damaged
says damaged "1 segments were damaged, 0 doubled, 0 beyond"
run after-damage 2 --taps "$store"
ln -s segment-loop.h5 "$store/segment-loop.h5"
status=0
"$QST" "${taps[@]}" --taps "$store" --prune --quiet 2>"$work/stderr" || status=$?
[[ $status == 3 && -L $store/segment-loop.h5 ]] || die "status $status, what cannot be opened was pruned: $(ls "$store")"
rm "$store/segment-loop.h5"
prune limited --limit-mb 1
says limited "[1-9] beyond the limit; .* has [0-9][0-9] of 100 rows, [01]\.[0-9] MB"
"$QST" inspect "$store"/*.h5 >/dev/null || die "inspect finds faults in a pruned store"
run after-limit 2 --taps "$store"

status=0
"$QST" taps --prune --quiet --backbone "$work/b.h5" --data "$work/e.h5" --taps "$store" 2>"$work/stderr" || status=$?
((status == 1)) || die "other data gave status $status"
grep -q "holds taps of other data" "$work/stderr" || die "$(cat "$work/stderr")"
status=0
"$QST" taps --prune --quiet --backbone "$work/b.h5" --data "$work/t.h5" --taps "$work" 2>"$work/stderr" || status=$?
((status == 1)) || die "no store gave status $status"
grep -q "holds no segments of taps" "$work/stderr" || die "$(cat "$work/stderr")"

# ---- what is said before a store is made ----
"$QST" "${taps[@]}" --taps "$work/new" 2>"$work/new.log"
says new "^store .* MB for [0-9]* tokens and [0-9]* label rows, 0 of 100 rows are there"
says new "^disk  .* reads [0-9]* MB/s, writes [0-9]* MB/s: .* is the faster source"
! compgen -G "$work/new/probe*" >/dev/null || die "the probe was left behind"
