#!/usr/bin/env bash
# What may go wrong with a tap store, one thing at a time: a rank that cannot write, damage everywhere in a pipeline, an index
# that cannot be made, a folder that is gone. The run ends with the bits of a live one, and rank 0 says each thing once,
# whichever rank it went wrong on. And a kill that hits a segment half written.
# RUN timeout=200
. tests/tiny_run.sh
make_tiny
read -ra options <<<"$(tiny_options) --epochs 2.5 --threads 1"
"$QST" "${options[@]}" --out "$work/live" 2>/dev/null

# same NAME [LIVE]: the run's checkpoint is that of a live run
same() {
  cmp "$work/${2:-live}/latest" "$work/$1/latest" || die "$1: its checkpoint differs from a live run's: $(cat "$work/$1.log")"
}

# run NAME RANKS OPTION...: a training run, its notes in NAME.log, its results those of a live run
run() {
  local name=$1 ranks=$2
  shift 2
  "${mpirun[@]}" "$ranks" "$QST" "${options[@]/--quiet/--no-quiet}" --out "$work/$name" "$@" 2>"$work/$name.log" ||
    die "$name failed: $(tail -n 3 "$work/$name.log")"
  same "$name"
}

# warned NAME COUNT TEXT: so many warnings match
warned() {
  [[ $(grep -c "^warning: $3" "$work/$1.log") == "$2" ]] || die "$1 does not warn $2 times of '$3': $(cat "$work/$1.log")"
}

# ---- a rank that cannot write ----
# two NAME FOLDER FOLDER: a run of two ranks, each with a store of its own
two() {
  local name=$1 train=("${options[@]/--quiet/--no-quiet}" --out "$work/$1")
  "${mpirun[@]}" 1 "$QST" "${train[@]}" --taps "$2" : -n 1 "$QST" "${train[@]}" --taps "$3" 2>"$work/$name.log" ||
    die "$name: $(cat "$work/$name.log")"
  same "$name"
}
full=/proc/self # nothing can be made there
cannot="cannot be created: .*; training goes on without adding to the store"
two first $full "$work/store-1"
warned first 1 "$full/.*$cannot"
warned first 1 "$full/index.h5: cannot be created: .*; the store has no new index for other tools"
warned first 0 "rank"
two second "$work/store-2" $full
warned second 1 "rank 1 on .*: $full/.*$cannot"
warned second 1 ""
! sed '/^warning: rank 1/,$d' "$work/second.log" | grep -q "^eval after step 14:" || die "said too late: $(cat "$work/second.log")"
two both $full $full
warned both 1 ".*$cannot"
# Said at the end as well: of taps, where a folder has the name of each segment.
fill=("$QST" taps --backbone "$work/b.h5" --data "$work/t.h5" --reduction-factor 3 --threads 1)
"${mpirun[@]}" 2 "${fill[@]}" --quiet --taps "$work/names" 2>/dev/null
for segment in "$work"/names/segment-*.h5; do mkdir -p "$work/taken/${segment##*/}"; done
status=0
"${mpirun[@]}" 1 "${fill[@]}" --taps "$work/store-3" : -n 1 "${fill[@]}" --taps "$work/taken" 2>"$work/filled.log" || status=$?
((status == 3)) || die "half a store gave status $status: $(cat "$work/filled.log")"
grep -q "rows could not be stored: see the warnings" "$work/filled.log" || die "$(cat "$work/filled.log")"
warned filled 1 "rank 1 on .*: $work/taken/segment-.*: Is a directory; training goes on without adding to the store"

# ---- damage wherever a stage reads ----
for stages in 2 3; do
  store=$work/staged-$stages
  "${mpirun[@]}" $stages "$QST" taps --quiet --backbone "$work/b.h5" --data "$work/t.h5" --reduction-factor 3 --threads 1 \
    --taps "$store" --pipeline-stages $stages 2>/dev/null
  for segment in "$store"/segment-*.h5; do
    dd if=/dev/zero of="$segment" bs=1000 seek=40 count=$(($(stat -c %s "$segment") / 1000 - 41)) conv=notrunc status=none
  done
  run "staged-$stages-read" $stages --taps "$store" --pipeline-stages $stages
  warned "staged-$stages-read" 1 ".*their hash does not hold; computed again"
done

# ---- a disk that is full, at many places: what a store takes is 1.1 MB, its index 0.1 MB ----
# on_disk KB COMMAND...: with $work/disk on a disk of its own, of that size, which goes with the command; lists what is left there
on_disk() {
  # shellcheck disable=SC2016 # the inner shell's
  unshare --mount bash -c 'mount -t tmpfs -o size="$1k" none "$2" && "${@:3}" && ls "$2/store"' - "$1" "$work/disk" "${@:2}"
}
mkdir "$work/disk"
if on_disk 64 mkdir "$work/disk/store" 2>/dev/null; then
  for size in 8 200 600 900; do
    name=disk-$size
    on_disk $size "$QST" "${options[@]}" --out "$work/$name" --taps "$work/disk/store" >"$work/left" 2>"$work/$name.log" ||
      die "$name: $(cat "$work/$name.log")"
    same "$name"
    warned "$name" 1 ".*No space left on device; training goes on without adding to the store"
    ! grep -q "tmp-" "$work/left" || die "a full disk of $size KB left $(cat "$work/left")"
  done
else
  echo "full disks were not tried: only root may mount one"
fi

# ---- an index that cannot be made ----
mkdir -p "$work/indexed/index.h5"
run indexed 1 --taps "$work/indexed"
warned indexed 1 ".*indexed/index.h5: .*; the store has no new index for other tools"
[[ $(cd "$work/indexed" && echo index*) == index.h5 ]] || die "the index was left: $(ls "$work/indexed")"
run only-read 2 --taps "$work/indexed"
warned only-read 0 "" # who only reads may have no right to write

# ---- a folder that goes while it is used ----
epochs=(--epochs 30 --eval-every 0)
"$QST" "${options[@]}" "${epochs[@]}" --out "$work/long" 2>/dev/null
"$QST" "${options[@]/--quiet/--no-quiet}" "${epochs[@]}" --out "$work/gone" --taps "$work/going" 2>"$work/gone.log" &
child=$!
until compgen -G "$work/going/segment-*.h5" >/dev/null; do kill -0 $child && sleep 0.01; done
kill -STOP $child
! grep -q "^taps" "$work/gone.log" || die "the run was over before its store was moved"
mv "$work/going" "$work/moved"
: >"$work/going"
kill -CONT $child
wait $child || die "a store that went ended the run: $(cat "$work/gone.log")"
same gone long
warned gone 1 "$work/going: Not a directory; what is new there is not used"

# ---- killed while a segment is half written ----
make_rows "$work/large.jsonl" 4000
"$QST" tokenize --quiet --backbone "$work/b.h5" --in "$work/large.jsonl" --out "$work/large.h5"
fill=("$QST" taps --backbone "$work/b.h5" --data "$work/large.h5" --reduction-factor 3 --threads 1 --act fp32)
"${fill[@]}" --quiet --taps "$work/large" 2>/dev/null
smallest=$(stat -c %s "$work"/large/segment-*.h5 | sort -n | head -n 1)

# kill_writing STORE: fills it, and kills the run as soon as there is something of the second segment; fails when that was whole
kill_writing() {
  local temporary child
  "${fill[@]}" --quiet --taps "$1" 2>/dev/null &
  child=$!
  until compgen -G "$1/segment-*.h5" >/dev/null; do kill -0 $child && sleep 0.01; done
  while temporary=("$1"/segment-*.tmp-*) && [[ ! -s ${temporary[0]} ]]; do kill -0 $child || return 1; done
  kill -KILL $child
  wait $child || true
  [[ -e ${temporary[0]} ]] && (($(stat -c %s "${temporary[0]}") < smallest))
}
for attempt in $(seq 10); do
  kill_writing "$work/half-$attempt" && break
done
half=$work/half-$attempt
compgen -G "$half/segment-*.tmp-*" >/dev/null || die "no segment was caught half written: $(ls "$half")"
"$QST" inspect "$half"/segment-*.h5 >/dev/null || die "a killed run left a segment that is not whole"
"${fill[@]}" --taps "$half" 2>"$work/half.log" || die "$(cat "$work/half.log")"
grep -q ", [1-9][0-9]* of 4000 rows are there" "$work/half.log" || die "nothing was kept: $(cat "$work/half.log")"
grep -q " [1-9][0-9]* tokens live.*has 4000 of 4000 rows" "$work/half.log" || die "not filled: $(cat "$work/half.log")"
[[ $(cd "$half" && echo ./*) == $(cd "$work/large" && echo ./*) ]] || die "left by the killed run: $(ls "$half")"
for file in "$work/large"/*; do cmp "$file" "$half/${file##*/}"; done
echo "killed half way at attempt $attempt"
