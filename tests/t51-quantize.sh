#!/usr/bin/env bash
# quantize: the file's bytes are the same for any number of ranks and threads, for every format and kind of source; what
# cannot be read or written ends all ranks with one line, and leaves nothing.
# RUN timeout=300
. tests/tiny_run.sh
formats=tests/fixtures/formats

# same SOURCE OPTIONS...: one rank, then two and three, and two threads
same() {
  local source=$1 ranks
  shift
  OMP_NUM_THREADS=1 "$QST" quantize --quiet --model "$formats/$source" --out "$work/1.h5" "$@" 2>"$work/stderr"
  OMP_NUM_THREADS=2 "$QST" quantize --quiet --model "$formats/$source" --out "$work/n.h5" "$@" 2>"$work/stderr"
  cmp "$work/1.h5" "$work/n.h5" || die "$source $*: two threads write other bytes than one"
  for ranks in 2 3; do
    "${mpirun[@]}" "$ranks" "$QST" quantize --quiet --model "$formats/$source" --out "$work/n.h5" "$@" 2>"$work/stderr"
    cmp "$work/1.h5" "$work/n.h5" || die "$source $*: $ranks ranks write other bytes than one"
  done
}
same llama-f32
same llama.gguf --format fp4
same mistral-bf16 --format fp4 --double-quant off
same qwen2-f16 --double-quant off
same qwen2.gguf --format bf16
same opt-bf16
same opt-bf16 --format bf16

# The two rows ahead of OPT's positions are left out; the others follow each other as they are.
weights=$formats/opt-bf16/model.safetensors
hex() { od -An -v -tx1 "$@" | tr -d ' \n'; }
size=$(($(od -An -N8 -tu8 "$weights")))
[[ $(head -c $((8 + size)) "$weights" | tail -c "$size") =~ embed_positions.weight\":[^}]*\"data_offsets\":\[([0-9]+) ]] ||
  die "where are the positions in $weights?"
begin=$((8 + size + BASH_REMATCH[1]))
written=$(hex "$work/n.h5")
[[ $written == *"$(hex -j $((begin + 128)) -N4096 "$weights")"* ]] || die "the 64 rows of positions are not in the file"
[[ $written != *"$(hex -j "$begin" -N128 "$weights")"* ]] || die "the two rows ahead of the positions are in the file"

# refused RANKS STATUS TEXT WORDS...: one line with the text on whatever rank, the status, no file
refused() {
  local ranks=$1 wanted=$2 text=$3 launch=() status=0
  shift 3
  ((ranks > 1)) && launch=("${mpirun[@]}" "$ranks")
  mkdir -p "$work/out"
  "${launch[@]}" "$QST" quantize --quiet "$@" --out "$work/out/b.h5" >"$work/stdout" 2>"$work/stderr" || status=$?
  [[ $status == "$wanted" ]] || die "$ranks ranks: status $status instead of $wanted: $(cat "$work/stderr")"
  [[ $(grep -c '^qst-mpi' "$work/stderr") == 1 ]] || die "$ranks ranks: not one line: $(cat "$work/stderr")"
  grep -qF -- "$text" "$work/stderr" || die "$ranks ranks: the line lacks '$text': $(cat "$work/stderr")"
  [[ -z $(ls -A "$work/out") ]] || die "$ranks ranks left: $(ls -A "$work/out")"
}

# Weights as most of facebook/opt-* are published.
mkdir "$work/published"
cp "$formats/opt-bf16/config.json" "$work/published"
cp "$formats/opt-bf16/model.safetensors" "$work/published/pytorch_model.bin"
for ranks in 1 2; do refused "$ranks" 1 "save_pretrained()" --model "$work/published"; done

# A NaN at the end of the third shard, whichever rank quantizes that tensor; a shard cut short; one that is missing.
mkdir "$work/bad"
cp "$formats"/mistral-bf16/* "$work/bad"
shard=model-00003-of-00003.safetensors
size=$(stat -c %s "$work/bad/$shard")
printf '\xff\x7f' | dd of="$work/bad/$shard" bs=1 seek=$((size - 2)) conv=notrunc status=none
for ranks in 1 2 3; do refused "$ranks" 1 "NaN" --model "$work/bad"; done
head -c $((size - 1)) "$formats/mistral-bf16/$shard" >"$work/bad/$shard"
for ranks in 1 3; do refused "$ranks" 1 "$shard: tensor" --model "$work/bad"; done
rm "$work/bad/$shard"
for ranks in 1 3; do refused "$ranks" 1 "$shard: No such file" --model "$work/bad"; done

# A disk that is full after 24 kB, in the middle of the layers: writes of rank 0 beyond the limit fail when its signal is
# ignored. MPI's own files would hit the limit as well: ranks speak over TCP.
cat >"$work/limited" <<'END'
#!/usr/bin/env bash
if [[ ${OMPI_COMM_WORLD_RANK:-0} == 0 ]]; then
  trap '' XFSZ
  ulimit -f 24
fi
exec "$QST_UNLIMITED" "$@"
END
chmod +x "$work/limited"
export QST_UNLIMITED=$QST OMPI_MCA_btl=tcp,self
QST=$work/limited
for ranks in 1 3; do refused "$ranks" 3 "b.h5" --model "$formats/llama-f32"; done
