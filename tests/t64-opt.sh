#!/usr/bin/env bash
# A model of the OPT family all the way: the same bits on any grid and from a tap store, recomputed activations, resumed,
# evaluated, decoded, exported under the reference implementation's names and taken back.
# RUN timeout=120
. tests/tiny_run.sh
TINY=tiny-opt make_tiny
steps=20
read -ra options <<<"$(tiny_options) --reduction-factor 2 --steps $steps --save-every 10 --keep 9"

"$QST" "${options[@]}" --out "$work/one" --threads 1
# like_one NAME RANKS OPTION...
like_one() {
  local name=$1 ranks=$2
  shift 2
  "${mpirun[@]}" "$ranks" "$QST" "${options[@]}" --out "$work/$name" --threads 1 "$@"
  same_run "$work/one" "$work/$name" $steps
}
like_one replicas 2
like_one stages 3 --pipeline-stages 3
like_one recomputed 2 --pipeline-stages 2 --recompute
like_one stored 2 --taps "$work/taps"
like_one replayed 3 --pipeline-stages 3 --taps "$work/taps"

losses "$work/one" | awk '{ if (NR <= 5) first += $2; last[NR % 5] = $2 }
  END { for (i in last) sum += last[i]; exit !(NR == 20 && sum < 0.97 * first) }' || die "it does not learn: $(losses "$work/one")"

cp -a "$work/one" "$work/resumed"
rm "$work/resumed"/step-0000{14,20}.h5
for link in latest best; do ln -sfn step-000010.h5 "$work/resumed/$link"; done
like_one resumed 2 --pipeline-stages 2 --resume

# loss SIDE: the evaluation loss with it
loss() {
  "$QST" eval --backbone "$work/b.h5" --side "$1" --data "$work/e.h5" --json | grep -o '"loss": *[0-9.]*'
}
"$QST" export --quiet --side "$work/one" --out "$work/side.safetensors"
"$QST" export --quiet --side "$work/side.safetensors" --out "$work/back.h5"
[[ $(loss "$work/one") == "$(loss "$work/back.h5")" ]] || die "another loss: $(loss "$work/one"), $(loss "$work/back.h5")"
for name in model.decoder.qst_layers.2.self_attn.out_proj.bias model.decoder.qst_layers.0.fc1.bias \
  model.decoder.qst_layers.1.self_attn_layer_norm.weight model.decoder.final_layer_norm_qst.bias model.decoder.z.1; do
  grep -qa "\"$name\"" "$work/side.safetensors" || die "no tensor $name"
done
