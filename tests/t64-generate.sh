#!/usr/bin/env bash
# generate: the same answers on any number of ranks and from any size of batch, also sampled; a seed gives them again and
# another seed others; odd rows; and a place where nothing can be written is noticed before the work.
# RUN timeout=120
. tests/tiny_run.sh

# A tokenizer of single characters that fits the tiny model's 150 tokens.
cp -r tests/fixtures/tiny-llama "$work/model"
awk 'BEGIN {
  printf "{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},{\"id\":2,\"content\":\"</s>\",\"special\":true}],"
  printf "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},"
  printf "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"<s>\":1,\"</s>\":2"
  for (i = 33; i < 127; i++) printf ",\"%s%c\":%d", i == 34 || i == 92 ? "\\" : "", i, i - 30
  printf ",\"\\u0120\":97,\"\\u010a\":98,\"\\u00c3\":99,\"\\u00a9\":100,\"\\u00ef\":101,\"\\u00bf\":102,\"\\u00bd\":103}}}\n"
}' >"$work/model/tokenizer.json"
echo '{"bos_token":"<s>","eos_token":"</s>"}' >"$work/model/tokenizer_config.json"
"$QST" quantize --quiet --model "$work/model" --out "$work/b.h5"

{
  printf '\xef\xbb\xbf{"prompt":"with a byte order mark"}\n'
  printf '{"prompt":"caf\xc3\xa9 and \xff","keep":[1,{"a":null}]}\n\n'
  for i in 1 2 3 4 5 6 7; do printf '{"prompt":"row %s%.*s"}\n' "$i" $((i * 3)) "abcdefghijklmnopqrstuvwxyz"; done
} >"$work/in.jsonl"
options=(generate --quiet --backbone "$work/b.h5" --template plain --in "$work/in.jsonl" --max-new-tokens 8)
sampling=(--temperature 0.9 --top-p 0.8 --seed 5)

"$QST" "${options[@]}" --out "$work/greedy"
"$QST" "${options[@]}" "${sampling[@]}" --out "$work/sampled"
[[ $(wc -l <"$work/greedy") == 9 ]] || die "not 9 answers: $(cat "$work/greedy")"
grep -q '"keep":\[1,{"a":null}\],"answer":' "$work/greedy" || die "members of a row were lost: $(cat "$work/greedy")"
iconv -f UTF-8 -t UTF-8 "$work/sampled" >/dev/null || die "the answers are not UTF-8"
for ranks in 2 3; do
  "${mpirun[@]}" $ranks "$QST" "${options[@]}" --out "$work/again"
  cmp "$work/greedy" "$work/again"
  "${mpirun[@]}" $ranks "$QST" "${options[@]}" "${sampling[@]}" --out "$work/again"
  cmp "$work/sampled" "$work/again"
done
for batch in 1 2 5; do
  "$QST" "${options[@]}" "${sampling[@]}" --batch $batch --out "$work/again"
  cmp "$work/sampled" "$work/again"
done
"$QST" "${options[@]}" "${sampling[@]}" --seed 6 --out "$work/again"
! cmp -s "$work/sampled" "$work/again" || die "another seed gives the same answers"

status=0
"$QST" "${options[@]}" --backbone "$work/none" --out "$work/none/answers" 2>"$work/stderr" || status=$?
[[ $status == 3 ]] || die "status $status: $(cat "$work/stderr")"
grep -q "none/answers: No such file" "$work/stderr" || die "another line: $(cat "$work/stderr")"
