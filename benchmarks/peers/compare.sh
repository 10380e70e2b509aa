#!/usr/bin/env bash
# Training throughput and memory beside QLoRA with transformers + peft + bitsandbytes: same model, rows, batch and cores, in
# turn in one go. Writes a table and JSON under benchmarks/results and prints the table.
#
#   BUILD=FOLDER             where the program is (build)
#   QST_PEERS_PYTHON=PYTHON  a Python with torch, transformers, peft, bitsandbytes, gguf; otherwise a virtual environment
#                            is made in build/peers/venv (about 1.5 GB)
#   QST_TORCH_INDEX=URL      package index for torch (https://download.pytorch.org/whl/cpu)
#   PEERS_STEPS, PEERS_LENGTH, PEERS_BATCH   12 steps of 4 rows of 512 tokens; of the steps the first 3 are not counted
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/../.."

BUILD=${BUILD:-build}
QST=$BUILD/qst-mpi
WORK=$BUILD/peers
RESULTS=benchmarks/results
STEPS=${PEERS_STEPS:-12}
LENGTH=${PEERS_LENGTH:-512}
BATCH=${PEERS_BATCH:-4}
WARMUP=3
CORES=$(nproc)

note() { echo "== $*" >&2; }

python_with_peers() {
  if [[ -n ${QST_PEERS_PYTHON:-} ]]; then
    echo "$QST_PEERS_PYTHON"
    return
  fi
  local venv=$WORK/venv
  if [[ ! -e $venv/complete ]]; then
    note "making $venv with torch, transformers, peft, bitsandbytes (once)"
    python3 -m venv "$venv" >&2
    "$venv/bin/pip" install --quiet torch --index-url "${QST_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" >&2
    "$venv/bin/pip" install --quiet transformers peft bitsandbytes gguf accelerate >&2
    touch "$venv/complete"
  fi
  echo "$venv/bin/python"
}

prepare() {
  local model
  model=$(benchmarks/demo/get_model.sh)
  if [[ ! -e $WORK/model/complete ]]; then
    note "unpacking the model for the peer"
    "$PYTHON" benchmarks/peers/qlora.py prepare --model "$model" --out "$WORK/model" >&2
    touch "$WORK/model/complete"
  fi
  "$PYTHON" benchmarks/peers/qlora.py rows --tokenizer "$WORK/model" --rows benchmarks/demo/train.jsonl \
    --length "$LENGTH" --count $((STEPS * BATCH)) --out "$WORK/rows.jsonl" >&2
  note "quantizing the model for qst-mpi"
  "$QST" quantize --quiet --model "$model" --out "$WORK/backbone.h5" >&2
  "$QST" tokenize --quiet --backbone "$WORK/backbone.h5" --in "$WORK/rows.jsonl" --out "$WORK/rows.h5" >&2
}

launch() { # RANKS
  LAUNCH=()
  if (($1 == 1)); then return; fi
  LAUNCH=(mpirun -n "$1")
  mpirun --version | grep -q "Open MPI" || return 0
  LAUNCH+=(--bind-to none)
  if ((EUID == 0)); then LAUNCH+=(--allow-run-as-root); fi
}

number_of() { sed -nE "s/.*\"$1\": *([-+.0-9eE]+).*/\1/p"; }

median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# Lines of results: name | tokens/s | peak bytes of all its processes | JSON.
ours() { # NAME RANKS
  local run=$WORK/run-$2 speed memory
  note "$1"
  rm -rf "$run"
  launch "$2"
  "${LAUNCH[@]}" "$QST" train --quiet --backbone "$WORK/backbone.h5" --data "$WORK/rows.h5" --out "$run" \
    --steps "$STEPS" --global-batch "$BATCH" --micro-batch-tokens $((LENGTH * BATCH / $2)) --save-every 0 \
    --threads $((CORES / $2)) >&2
  speed=$(grep '"type":"step"' "$run/metrics.jsonl" | tail -n +$((WARMUP + 1)) | number_of tokens_per_second | median)
  memory=$(tail -n 2 "$run/metrics.jsonl" | number_of memory_bytes | tail -n 1)
  memory=$((memory * $2))
  echo "$1|$speed|$memory|{\"name\":\"$1\",\"tokens_per_second\":$speed,\"peak_rss_bytes\":$memory}"
}

theirs() { # NAME [--checkpointing]
  local name=$1 json
  shift
  note "$name"
  json=$("$PYTHON" benchmarks/peers/qlora.py train --model "$WORK/model" --rows "$WORK/rows.jsonl" --batch "$BATCH" \
    --steps "$STEPS" --warmup "$WARMUP" --threads "$CORES" "$@" 2>"$WORK/peer.log" | tail -n 1) || {
    tail -n 5 "$WORK/peer.log" >&2
    return 1
  }
  echo "$name|$(number_of tokens_per_second <<<"$json")|$(number_of peak_rss_bytes <<<"$json")|{\"name\":\"$name\",${json#\{}"
}

cpu_model() { sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1; }

table() { # the lines of results on standard input
  echo "SmolLM2-135M-Instruct, $BATCH rows of $LENGTH tokens a step, $CORES cores, $(cpu_model)"
  echo
  awk -F '|' 'BEGIN { printf "%-44s %10s %16s\n", "", "tokens/s", "peak memory, MB" }
    { printf "%-44s %10.0f %16.0f\n", $1, $2, $3 / 1e6; speed[NR] = $2; memory[NR] = $3 }
    END {
      peer = speed[3] > speed[4] ? 3 : 4
      printf "\nqst-mpi (1 rank) beside the faster QLoRA: %.1f times the tokens/s, %.2f of its memory\n",
        speed[1] / speed[peer], memory[1] / memory[peer]
    }'
}

json() { # the lines of results on standard input
  printf '{"benchmark":"peers","model":"SmolLM2-135M-Instruct","cores":%d,"cpu":"%s","rows_a_step":%d,"tokens_a_row":%d,' \
    "$CORES" "$(cpu_model)" "$BATCH" "$LENGTH"
  printf '"commit":"%s","date":"%s","results":[%s]}\n' "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" "$DATE" \
    "$(cut -d '|' -f 4 | paste -s -d ,)"
}

mkdir -p "$WORK" "$RESULTS"
[[ -x $QST ]] || { echo "$QST is not there: run make first" >&2 && exit 1; }
PYTHON=$(python_with_peers)
prepare
lines=$(
  ours "qst-mpi, 1 rank of $CORES threads" 1
  ours "qst-mpi, $CORES ranks of 1 thread, memory of all" "$CORES"
  theirs "QLoRA (peft + bitsandbytes)"
  theirs "QLoRA (…), gradient checkpointing" --checkpointing
)
DATE=$(date -u +%Y-%m-%dT%H-%M-%SZ)
table <<<"$lines" | tee "$RESULTS/peers-$DATE.txt"
json <<<"$lines" >"$RESULTS/peers-$DATE.json"
