#!/usr/bin/env bash
# Every command of README.md works: those of the program are run as they stand there, on a small random model in place of
# the one the text names; those of make must be targets; scripts must exist.
# RUN timeout=300
. tests/tiny_run.sh
top=$PWD

# The commands are the lines of indented blocks, continued ones joined.
commands=$(sed -nE 's/^ {4,7}//p' README.md | sed -e ':a' -e '/\\$/N; s/ *\\\n */ /; ta' | sed 's/ *#.*//' |
  grep -E '^(\./|make|mpirun|build/|sbatch|srun|source|benchmarks/)')
[[ -n $commands ]] || die "README.md has no commands"

# A folder in which they can run.
cc -O2 -o "$work/tiny_model" benchmarks/demo/tiny_model.c -lm
mkdir -p "$work/here/build"
"$work/tiny_model" "$work/here/Llama-3-8B" >/dev/null
# shellcheck disable=SC2016 # the model's own template, in its own language
printf "%s\n" '{"chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"}' \
  >"$work/here/Llama-3-8B/tokenizer_config.json"
cp -r "$work/here/Llama-3-8B" "$work/here/Llama-2-70B"
head -n 24 benchmarks/demo/train.jsonl >"$work/here/rows.jsonl"
head -n 8 benchmarks/demo/eval.jsonl >"$work/here/held-out.jsonl"
ln -s "$QST" "$work/here/build/qst-mpi"

# on_two COMMAND: on two ranks, as mpirun, srun or the batch script would start it
on_two() {
  (cd "$work/here" && eval "${mpirun[*]} 2 $1" >"$work/output" 2>&1)
}

run_command() {
  local words=$1
  case $words in
    make*) (cd "$top" && eval "${words/make/make -n}" >/dev/null) ;;
    ./env.sh* | source*) bash -n env.sh ;;
    benchmarks/*) [[ -x ${words%% *} ]] ;;
    sbatch*)
      [[ $words =~ (slurm/[^ ]+\.sbatch)(.*) && -e ${BASH_REMATCH[1]} ]] && rm -rf "$work/here/run" &&
        on_two "build/qst-mpi train ${BASH_REMATCH[2]}"
      ;;
    srun*) on_two "build/qst-mpi ${words#*build/qst-mpi}" ;;
    mpirun*) on_two "${words#mpirun -n 2}" ;;
    *) (cd "$work/here" && eval "$words" >"$work/output" 2>&1) ;;
  esac
}

count=0
while IFS= read -r line; do
  run_command "$line" </dev/null || die "README.md: '$line' failed: $(cat "$work/output")"
  count=$((count + 1))
done <<<"$commands"
echo "$count commands"
