#!/usr/bin/env bash
# Measures every figure that compressed variational inequalities promise on the real program. A line each: ok or SHORT, the figure, the target,
# what it is; a count last. Exit code 1 when anything falls short; what cannot be measured here falls short.
# shellcheck disable=SC2154
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
source bench/acceptance/figures.sh
source bench/acceptance/compression_figures.sh

usage() {
  cat << 'HELP'
usage: bench/acceptance/vineq.sh [--quick] [--bin-dir DIR] [--data DIR]

  --quick        the part that fits in 60 seconds: the large gains on 3 seeds with coarse grids, and the laws
  --bin-dir DIR  the program and the test programs (default build/ci/bin)
  --data DIR     folder with tinyshakespeare/input.txt and fashion-mnist/*.gz (default ../shared/data beside the repository)
HELP
}

quick=false bin_dir=build/ci/bin data_dir=../shared/data
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --quick) quick=true ;;
    --bin-dir)
      [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }
      bin_dir=$2
      shift ;;
    --data)
      [[ $# -ge 2 ]] || { echo "error: $1 needs a value" >&2; exit 2; }
      data_dir=$2
      shift ;;
    *) echo "error: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
conclave=$bin_dir/conclave
if [[ ! -x $conclave ]]; then
  short "not built" "built" "the program $conclave"
  summary
fi

round() { awk -v v="$1" 'BEGIN { if (v ~ /^[0-9.]/) printf "%.3g", v }'; }

# -- contests ------------------------------------------------------------------------------------------------------------------------------
v=configs/vineq
seeds=5 tuning=2 points=7 # of extragradient's and descent-ascent's grid
optimistic=(--tune 'optim.optimistic_masha.gamma=0.3..0.6/3' --tune 'optim.optimistic_masha.p=0.004,0.006,0.01,0.02,0.04')
masha1=(--tune 'optim.masha1.gamma=0.08..0.32/7')
# contest NAME ARGUMENTS...: conclave compare into $scratch/NAME, if it is not there yet; every method on a grid of at least six steps,
# tuned on the first of the same seeds.
contest() {
  local name=$1
  shift
  [[ -e $scratch/$name ]] && return
  if "$conclave" compare "$@" --seeds "$seeds" --tuning-seeds "$tuning" --json > "$scratch/$name.part" 2> "$scratch/$name.log"; then
    mv "$scratch/$name.part" "$scratch/$name"
  else
    tail -n 5 "$scratch/$name.log" >&2
  fi
}
# of NAME ENTRANT FIELD
of() { sed -n "s/^{\"entrant\":\"$2\".*\"$3\":\"\\{0,1\\}\\([^,\"}]*\\).*/\\1/p" "$scratch/$1" 2> /dev/null | head -n 1; }
baselines=("$v/extragradient.textproto" "$v/ogda.textproto"
  --tune "optim.extragradient.gamma=0.7..1.5/$points" --tune "optim.ogda.gamma=0.35..1.0535/$((points + 1))")

two_way=(--tune 'optim.optimistic_masha.gamma=0.3..1/5' --tune 'optim.optimistic_masha.p=0.004,0.008,0.016,0.032,0.064,0.12')
if $quick; then
  # With the grids of the compressed methods around what the long run finds.
  seeds=3 tuning=1 points=6
  baselines=("$v/extragradient.textproto" "$v/ogda.textproto" --tune "optim.extragradient.gamma=0.7..1.1/6" --tune "optim.ogda.gamma=0.4..0.7/6")
  optimistic=(--tune optim.optimistic_masha.gamma=0.42 --tune 'optim.optimistic_masha.p=0.004,0.006,0.01')
  masha1=(--tune 'optim.masha1.gamma=0.1,0.12')
  two_way=(--tune 'optim.optimistic_masha.gamma=0.5,0.56' --tune 'optim.optimistic_masha.p=0.004,0.008')
fi

# inside NAME: a baseline whose best step is the first or the last of its grid may be better than measured.
inside() { equal "$(of "$1" extragradient at_edge), $(of "$1" ogda at_edge)" "false, false" "$1: extragradient's and OGDA's best steps at an edge of their grids"; }
uplink_gains() {
  local h=$1 masha_target=$2 optimistic_target=$3 name=uplink-$1
  contest "$name" "${baselines[@]}" "$v/optimistic_permk_natural.textproto" "$v/masha1_permk_natural.textproto" --by uplink \
    --set "model.bilinear_game.heterogeneity=$h" --max-evaluations 12000 \
    "${optimistic[@]}" "${masha1[@]}"
  at_least "$(round "$(of "$name" masha1_permk_natural uplink_gain)")" "$masha_target" x "uplink, MASHA1 PermK + natural, M=32, h=$h"
  at_least "$(round "$(of "$name" optimistic_permk_natural uplink_gain)")" "$optimistic_target" x "uplink, optimistic PermK + natural, M=32, h=$h"
  inside "$name"
  if ! $quick; then descent_ascent 32 "$h" "$name"; fi
}
# two_way_gains WORKERS H TARGET ENTRANT...: with MASHA1 with messages of the same size beside, where workers are 8 and alike.
two_way_gains() {
  local workers=$1 h=$2 target=$3 name=two-way-$1-$2 more=() entrants entrant
  shift 3
  entrants=("${@/#/$v/}")
  if ! $quick && [[ $workers-$h == 8-0.1 ]]; then
    more=("$v/masha1_permk_int4.textproto" --tune 'optim.masha1.gamma=0.22,0.33,0.45' --tune 'optim.masha1.p=0.05,0.1')
  fi
  contest "$name" "${baselines[@]}" "${entrants[@]/%/.textproto}" --by two-way --set "trainer.workers=$workers" \
    --set "model.bilinear_game.heterogeneity=$h" --max-evaluations 12000 \
    "${two_way[@]}" "${more[@]}"
  if ((${#more[@]} > 0)); then
    at_least "$(round "$(of "$name" masha1_permk_int4 two_way_gain)")" 1.8 x "G3: two-way, MASHA1 with 4-bit PermK, M=$workers, h=$h"
  fi
  for entrant in "$@"; do
    at_least "$(round "$(of "$name" "$entrant" two_way_gain)")" "$target" x "two-way, $entrant, M=$workers, h=$h"
    at_most "$(round "$(of "$name" "$entrant" evaluations_of_baseline)")" 1.5 x "its evaluations over the baseline's"
  done
  inside "$name"
  if ! $quick; then descent_ascent "$workers" "$h" "$name"; fi
}
# descent_ascent WORKERS H NAME: it is no baseline: on a grid of its own it does not arrive within four times what OGDA takes in contest NAME.
descent_ascent() {
  local workers=$1 h=$2 name=gda-$1-$2 best
  best=$(of "$3" ogda evaluations)
  seeds=1 contest "$name" "$v/gda.textproto" --set "trainer.workers=$workers" --set "model.bilinear_game.heterogeneity=$h" \
    --tune "optim.gda.gamma=0.003..0.3/$points" --max-evaluations "$(awk -v b="${best:-1000}" 'BEGIN { printf "%d", 4 * b }')"
  equal "$(of "$name" gda reached)" 0 "descent-ascent, M=$workers, h=$h: seeds on which it arrives within 4 times OGDA's evaluations"
}
# Gains of PermK over a range of M at h = 0.1: the slope in log-log.
m_law() {
  local m exponent
  for m in 4 8 16 32; do
    cat > "$scratch/masha1_permk.textproto" << CONFIG
include: "$PWD/$v/setup_a_problem.textproto"
name: "masha1_permk"
trainer { workers: $m }
optim { masha1 { gamma: 0.1 p: $(awk -v m="$m" 'BEGIN { print 1 / m }') exchange { quantized { codec { perm_k {} } } } } }
CONFIG
    contest "m-$m" "$v/extragradient.textproto" "$scratch/masha1_permk.textproto" --by uplink --set "trainer.workers=$m" --max-evaluations 30000 \
      --tune 'optim.extragradient.gamma=0.6..1.2/6' --tune 'optim.masha1.gamma=0.05..0.6/8'
    echo "$m $(of "m-$m" masha1_permk uplink_gain)"
  done > "$scratch/m-law"
  exponent=$(awk '{ x = log($1); y = log($2); n++; sx += x; sy += y; sxx += x * x; sxy += x * y } END { printf "%.2f", (n * sxy - sx * sy) / (n * sxx - sx * sx) }' "$scratch/m-law")
  at_least "$exponent" 0.45 "" "exponent of the PermK uplink gain in M, 4 to 32, h=0.1"
  at_most "$exponent" 0.75 "" "the same, from above"
}
# RandK of fewer than d / M coordinates saves nothing more: uplink bytes at 1/2, 1/4 and 1/8 of that, p = k / d, h = 0.1.
rand_k_law() {
  local share bytes
  for share in 2 4 8; do
    cat > "$scratch/rand_k_$share.textproto" << CONFIG
include: "$PWD/$v/setup_a_problem.textproto"
name: "rand_k_$share"
trainer { workers: 8 }
optim { masha1 { gamma: 0.1 p: $(awk -v s="$share" 'BEGIN { print 1 / (8 * s) }')
  exchange { quantized { codec { rand_k { fraction: $(awk -v s="$share" 'BEGIN { print 1 / (8 * s) }') } } } } } }
CONFIG
  done
  seeds=3 tuning=1 contest rand_k "$scratch"/rand_k_{2,4,8}.textproto --by uplink --set model.bilinear_game.dim=64 --max-evaluations 30000 \
    --tune 'optim.masha1.gamma=0.04..0.32/7'
  bytes=$(for share in 2 4 8; do of rand_k "rand_k_$share" uplink_bytes; done | sort -g)
  at_most "$(awk 'NR == 1 { least = $1 } END { if (NR == 3 && least > 0) printf "%.2f", $1 / least }' <<< "$bytes")" 1.15 x \
    "G4: MASHA1's uplink bytes with RandK of d/2M, d/4M and d/8M coordinates, most over least, M=8, h=0.1"
}
# Bytes at p* = k/d against the best p of {1/8 .. 8} p*.
best_p() {
  local best at
  contest p "$v/masha1_randk_provable.textproto" --by uplink --set optim.step=GIVEN --set optim.masha1.gamma=0.1 --set trainer.workers=8 \
    --set model.bilinear_game.heterogeneity=1 --set model.bilinear_game.dim=64 --max-evaluations 20000 \
    --vary optim.masha1.p=0.0125,0.025,0.05,0.1,0.2,0.4,0.8 --tune 'optim.masha1.gamma=0.08..0.6/10'
  best=$(sed -n 's/.*"uplink_bytes":\([0-9.]*\).*/\1/p' "$scratch/p" | sort -g | head -n 1)
  at=$(of p "masha1_randk_provable p=0.1" uplink_bytes)
  at_most "$(awk -v a="$at" -v b="$best" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b }')" 1.10 x "uplink bytes at p* = k/d over those at the best p, RandK 10 %, h=1"
}
# ratio A B: A / B, nothing where one is missing.
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (a > 0 && b > 0) printf "%.4f", a / b }'; }
# off VALUE EXPECTED: |VALUE / EXPECTED - 1|.
off() { awk -v v="$1" -v e="$2" 'BEGIN { if (v > 0 && e > 0) { d = v / e - 1; printf "%.3f", d < 0 ? -d : d } }'; }
# Methods at their proven steps on a problem that curves as much as it turns: iterations follow Cq.
proven=("$v/masha1_randk_provable.textproto" --set optim.step_multiple=1 --set optim.masha1.p=0.4 --set model.bilinear_game.heterogeneity=1
  --set model.bilinear_game.lambda=0.5 --set model.bilinear_game.dim=64 --max-evaluations 20000)
# Iterations of b of 32 workers against Cq of b; L and its mean square are close to 1 and alike. One takes b / 32 evaluations and p refreshes.
participation() {
  local b worst=0 few all
  contest pp "${proven[@]}" --set trainer.workers=32 --vary optim.masha1.participants=8,16,32
  iterations_of() { awk -v e="$(of pp "masha1_randk_provable participants=$1" evaluations)" -v b="$1" 'BEGIN { print (e - 1) / (b / 32 + 0.4) }'; }
  all=$(iterations_of 32)
  for b in 8 16; do
    few=$(off "$(ratio "$(iterations_of "$b")" "$all")" "$(awk -v b="$b" 'BEGIN {
      q = 64 / 6; print sqrt((1 + (32 - b) / (b * 31) + (q - 1) / b) / (1 + (q - 1) / 32)) }')")
    worst=$(awk -v a="$worst" -v b="${few:-9}" 'BEGIN { print (b + 0 > a + 0 ? b : a) }')
  done
  at_most "$worst" 0.25 "" "G7: partial participation b = M/4, M/2: iterations against Cq, worst deviation"
}
# What a lossy way back costs: sqrt(q_s) more iterations.
server_codec() {
  local name down up='quantized { codec { rand_k { fraction: 0.1 } } }'
  while read -r name down; do
    contest "down-$name" "${proven[@]}" --set trainer.workers=8 --set "optim.masha1.exchange={ $up $down }"
  done << 'WAYS'
exact
natural downlink { codec { natural {} } }
rand_k downlink { codec { rand_k { fraction: 0.1 } } }
WAYS
  iterations() { of "down-$1" masha1_randk_provable evaluations; }
  at_most "$(ratio "$(iterations natural)" "$(iterations exact)")" 1.15 x "G6: iterations with a server codec of q_s = 9/8 over those without"
  at_most "$(off "$(ratio "$(iterations rand_k)" "$(iterations exact)")" "$(awk 'BEGIN { print sqrt(64 / 6) }')")" 0.25 "" \
    "G6: the same with q_s = d/k against its root, deviation"
}
# Robust regression with a strong rotation, to gradient mapping 1e-6: OGDA over DIANA against the best exact method, each tuned; MASHA2 is told.
robust_regression() {
  local method
  for method in extragradient ogda gda masha2; do
    printf 'include: "%s"\nname: "%s"\noptim { %s { gamma: 0.1 %s } }\n' "$PWD/$v/robust_rotation_problem.textproto" "$method" "$method" "$([[ $method != masha2 ]] ||
      echo 'p: 0.05 exchange { ef14 { codec { top_k { fraction: 0.1 values { block_int { bits: 8 block: 16 rounding: NEAREST } } } } } }')" > "$scratch/$method.textproto"
  done
  contest robust "$scratch"/{extragradient,ogda,gda,masha2}.textproto "$v/robust_rotation.textproto" --by two-way --measure mapping --target 1e-12 \
    --max-evaluations 1000 --tune 'optim.*.gamma=0.05..1.6/9' --tune optim.masha2.p=0.05,0.2
  at_least "$(round "$(of robust robust_rotation two_way_gain)")" 3 x "G10: two-way gain on a robust regression with a strong rotation, gradient mapping 1e-6 (MASHA2, TopK + int8: $(round "$(of robust masha2 two_way_gain)"))"
  at_most "$(round "$(of robust robust_rotation evaluations_of_baseline)")" 1.5 x "its evaluations over the baseline's"
}
# Local steps on a game that curves more than it turns, against the better of descent-ascent and OGDA.
local_steps() {
  contest local "$v"/proxskip{_gda,_ogda,}.textproto --by two-way --tune 'optim.gda.gamma=0.4..2.4/7' --tune 'optim.ogda.gamma=0.2..1.2/7' \
    --tune 'optim.proxskip.gamma=0.4..1.4/6' --tune optim.proxskip.p=0.1,0.15,0.2,0.3 --max-evaluations 2000
  at_least "$(round "$(of local proxskip two_way_gain)")" 2 x "two-way, ProxSkip-VIP-FL on a game that curves more than it turns, M=8"
}
# spread A B: by how much the mean of the numbers in file B is above that in file A, in standard deviations of A's.
spread() {
  cat "$1" - "$2" <<< '' 2> /dev/null | awk '
    NF == 0 { second = 1; next }
    { if (second) { t += $1; ++m } else { s += $1; q += $1 * $1; ++n } }
    END { if (n > 1 && m > 0) printf "%.2f", (t / m - s / n) / sqrt((q - s * s / n) / (n - 1)) }'
}
# A GAN on eight Gaussians, 5 seeds: the distance of the generator's points to the data over the last tenth of the steps, and two-way bytes.
gan() {
  local seed entrant
  for entrant in eight_gaussians eight_gaussians_int4; do
    [[ -e $scratch/$entrant.bytes ]] && continue
    for ((seed = 1; seed <= seeds; ++seed)); do
      "$conclave" train "$v/$entrant.textproto" --set "seed=$seed" --run-dir "$scratch/$entrant-$seed" > "$scratch/$entrant.log" 2>&1 || tail -n 5 "$scratch/$entrant.log" >&2
      tail -n 250 "$scratch/$entrant-$seed/metrics.jsonl" | sed -n 's/.*"distance":\([-0-9.e]*\).*/\1/p' | awk '{ s += $1 } END { if (NR) print s / NR }'
    done > "$scratch/$entrant.distances"
    tail -n 1 "$scratch/$entrant-1/metrics.jsonl" | sed -n 's/.*"logical_up":\([0-9]*\).*"logical_down":\([0-9]*\).*/\1 \2/p' | awk '{ print $1 + $2 }' > "$scratch/$entrant.bytes"
  done
  at_least "$(round "$(ratio "$(cat "$scratch/eight_gaussians.bytes")" "$(cat "$scratch/eight_gaussians_int4.bytes")")")" 4 x "G12: eight Gaussians, two-way bytes of exact over 4-bit EF21"
  at_most "$(spread "$scratch/eight_gaussians.distances" "$scratch/eight_gaussians_int4.distances")" 2 sigma "G12: its distance to the data above exact training's, in spreads over seeds"
}
# perturbed CONFIG FIELD SETTINGS...: a run a seed; FIELD of the last held-out evaluation by seed, and two-way bytes of a step.
perturbed() {
  local entrant=$1 field=$2 seed
  shift 2
  [[ -e $scratch/$entrant.bytes ]] && return
  for ((seed = 1; seed <= seeds; ++seed)); do
    "$conclave" train "$v/$entrant.textproto" --set "seed=$seed" --run-dir "$scratch/$entrant-$seed" "$@" > "$scratch/$entrant.log" 2>&1 || tail -n 5 "$scratch/$entrant.log" >&2
    sed -n "s/.*\"evaluation\":{.*\"$field\":\([-0-9.e]*\).*/\1/p" "$scratch/$entrant-$seed/metrics.jsonl" | tail -n 1
  done > "$scratch/$entrant.held-out"
  tail -n 1 "$scratch/$entrant-1/metrics.jsonl" | sed -n 's/.*"logical_up":\([0-9]*\).*"logical_down":\([0-9]*\).*/\1 \2/p' | awk '{ print $1 + $2 }' > "$scratch/$entrant.bytes"
}
mean_of() { awk '{ s += $1 } END { if (NR) printf "%.4f", s / NR }' "$1" 2> /dev/null; }
# Adversarial training at exact and at 4-bit gradients: images whose pixels are moved, and masked text whose embeddings are (FreeLB).
robust_images() {
  local folder=$data_dir/fashion-mnist files=() entrant
  if [[ ! -r $folder/train-images-idx3-ubyte.gz ]]; then short "no $folder" "<= 2 sigma" "PGD-trained perceptron on Fashion-MNIST (--data DIR)"; return; fi
  folder=$(realpath "$folder")
  files=(--set "data.sources[0].images.path=\"$folder/train-images-idx3-ubyte.gz\"" --set "data.sources[0].images.labels=\"$folder/train-labels-idx1-ubyte.gz\""
    --set "data.sources[0].images.held_out_path=\"$folder/t10k-images-idx3-ubyte.gz\"" --set "data.sources[0].images.held_out_labels=\"$folder/t10k-labels-idx1-ubyte.gz\"")
  for entrant in fashion_robust fashion_robust_int4; do seeds=3 perturbed "$entrant" robust_accuracy "${files[@]}"; done
  at_least "$(round "$(ratio "$(cat "$scratch/fashion_robust.bytes")" "$(cat "$scratch/fashion_robust_int4.bytes")")")" 4 x "G12: adversarial perceptron on Fashion-MNIST, two-way bytes of exact over 4-bit EF21"
  at_most "$(spread "$scratch/fashion_robust.held-out" "$scratch/fashion_robust_int4.held-out" | awk 'NF > 0 { printf "%.2f", -$1 }')" 2 sigma \
    "G12: its robust accuracy ($(mean_of "$scratch/fashion_robust_int4.held-out")) below exact training's ($(mean_of "$scratch/fashion_robust.held-out")), in spreads over seeds"
  at_least "$(mean_of "$scratch/fashion_robust_int4.held-out")" 0.6 "" "the same against 20 steps of ascent; trained on images as they are, a perceptron is left with 0.07"
}
# A short run of the encoder, alone, on four ranks, and stopped at step 10 of 20: the same losses, and the same last checkpoint after the stop.
freelb_bits() {
  local name more=(--set "data.sources[0].text.path=\"$text\"" --set "data.cache_dir=\"$scratch/cache\"" --set trainer.steps=20 --set trainer.eval.every=0
    --set trainer.eval.batches=2 --set checkpoint.every=10 --set checkpoint.keep_last=9 --set model.masked_lm.width=16) figure=equal
  for name in straight ranks stopped; do
    "$conclave" train "$v/masked_freelb_int4.textproto" --run-dir "$scratch/bits-$name" --ranks "$([[ $name == ranks ]] && echo 4 || echo 1)" "${more[@]}" > "$scratch/log" 2>&1 || figure=failed
  done
  rm -rf "$scratch/bits-stopped/checkpoints/step-20"
  "$conclave" train "$v/masked_freelb_int4.textproto" --run-dir "$scratch/bits-stopped" --resume "${more[@]}" > "$scratch/log" 2>&1 || figure=failed
  grep -q 'resumed from .*step-10 ' "$scratch/log" || figure=failed
  [[ $(state_fields bits-straight | wc -l) == 20 ]] || figure=failed
  for name in ranks stopped; do cmp -s <(state_fields bits-straight) <(state_fields "bits-$name") || figure=differ; done
  cmp -s "$scratch"/bits-{straight,stopped}/checkpoints/step-20/rank-0.safetensors || figure=differ
  equal "$figure" equal "FreeLB-trained encoder: bits on 4 ranks, and after a stop at step 10 of 20"
}
robust_text() {
  local text=$data_dir/tinyshakespeare/input.txt entrant
  if [[ ! -r $text ]]; then short "no $text" "<= 2 sigma" "FreeLB-trained encoder (--data DIR)"; return; fi
  text=$(realpath "$text")
  freelb_bits
  for entrant in masked_freelb masked_freelb_int4; do
    seeds=3 perturbed "$entrant" clean_loss --set "data.sources[0].text.path=\"$text\"" --set "data.cache_dir=\"$scratch/cache\""
  done
  at_least "$(round "$(ratio "$(cat "$scratch/masked_freelb.bytes")" "$(cat "$scratch/masked_freelb_int4.bytes")")")" 4 x "FreeLB-trained encoder on masked text, two-way bytes of exact over EF21 with 4 bits up and 8 back"
  at_most "$(spread "$scratch/masked_freelb.held-out" "$scratch/masked_freelb_int4.held-out")" 2 sigma \
    "its held-out loss ($(mean_of "$scratch/masked_freelb_int4.held-out")) above exact training's ($(mean_of "$scratch/masked_freelb.held-out")), in spreads over seeds"
}

# -- laws, by the test programs ----------------------------------------------------------------------------------------------------------------
# law PROGRAM FILTER WHAT: the tests exist and pass.
law() {
  local passed pattern patterns
  IFS=: read -ra patterns <<< "$2"
  for pattern in "${patterns[@]}"; do
    if ! "$bin_dir/$1" --gtest_list_tests --gtest_filter="$pattern" 2> /dev/null | grep -c '^  ' > /dev/null; then short "no $pattern" "all pass" "$3"; return; fi
  done
  if "$bin_dir/$1" --gtest_filter="$2" > "$scratch/log" 2>&1; then
    passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$scratch/log")
    if ((${passed:-0} > 0)); then ok "$passed pass" "all pass" "$3"; return; fi
  fi
  tail -n 5 "$scratch/log" >&2
  short failed "all pass" "$3"
}
laws() {
  law optim_test 'Masha1Test.ItsLyapunovFunctionFallsAsItMust' "G1: Lyapunov law of MASHA1"
  law optim_test 'RatesTest.*:UncompressedTest.*:All/ModeTest*:Masha1Test.FollowsItsRecursionModeByMode' "G1: closed-form rates"
  law trainer_test 'VineqGates.Masha1ConvergesLinearly*' "G2: linear to 1e-12 at proven steps, seven codecs"
  law trainer_test 'VineqGates.WithoutAReferencePoint*:VineqGates.DescentAscent*:VineqGates.AMajority*' "G2: negative controls stall and diverge"
  law trainer_test 'RaceTest.*' "ledger equals the formulas"
  law comm_test 'QuantizedExchange.*Frames*:*LedgerEqualsTheFormula:*BothBooksAgree*' "G3: both books to the byte, frames below 1 % of messages at 1e5 coordinates"
  law comm_test 'CodecConformance.*:CodecMoments.*:TopK.*:PermK.*' "G8: contracts, bits, index entropy; means and second moments of a million draws"
  law comm_test 'Hierarchical.*:ExchangeConformance.*' "exact inside groups, compressed between them: bytes by link, bits, resume; laws of all exchanges"
  law comm_test 'OkTopK.*:SparseTerms.*' "sums of the largest coordinates: what is kept, what travels, balanced regions"
  law comm_test 'CodecDecisions.*:CodingCost.*:ConfiguredButDidNothing.*' "codecs decline where they do not pay; configured but did nothing is an error"
  law optim_test '*SchemeTest.GivesEqualBits*' "G9: equal bits on any number of ranks, every scheme"
  law optim_test '*SchemeTest.ResumesBitByBit*' "G9: kill and resume, every scheme"
  law optim_test 'ResumeTest.EveryPairAtEveryStep' "G9: kill and resume at every step, every scheme over every exchange"
  law optim_test 'ProxSkipTest.*:LocalExtragradientTest.*' "local steps: controls add up to zero and remove the bias"
  law optim_test '*ProxTest.*:*SetTest.*:ProxFamilyTest.*:UncompressedTest.EverySchemeFindsTheSolutionThatAProxAsksFor' "prox terms: each solves its problem, firmly non-expansive, projections to the bit"
  law optim_test 'Masha1Test.WhereEveryWorker*:Masha1Test.APartialMean*' "partial participation: all is MASHA1 to the bit, some are unbiased"
  law comm_test 'Participants.*' "partial participation: absent workers send nothing, bits and both books on any mesh"
  law models_test 'Games.*:ProblemRows.*:MatrixGame.*:GroupRobust.*:QuadraticGame.*' "games: solutions, gaps, constants, samples, files in LIBSVM's format"
  law trainer_test 'VineqErrors.*:RunFolder.ResumeTakesSafeChangesOnly:ResumeTest.*' "bad input: configs, and resuming with another M or codec"
  law optim_test '*SchemeTest.SkipsAPoisonedStep*:*AreRefused:*IsRefused:StepSizeTest.Missing*' "bad input: numbers that are none, settings without a meaning"
  law comm_test 'WireFrame.*:CodecConformance.*DataLoss*:CodecConformance.WhatIsBeyond*:*Refuses*:*ANonFinite*' "bad input: codecs of the wrong class, damaged messages"
  law trainer_test 'VineqGates.EveryGameIsSolved:VineqGates.VarianceReduction*' "every game, uncompressed and compressed; finite sums"
  law trainer_test 'PerturbedTraining.*' "perturbed samples: the inner maximum, its gradient, any number of ranks"
}

# One rank, four threads, four processes: the same losses and norms; the last two also book the same bytes.
transports() {
  local config name figure=equal how
  for config in ogda_diana_int4 optimistic_permk_int4 masha2_topk_int8; do
    for name in one threads processes; do
      how=("$conclave")
      if [[ $name == processes ]]; then how=(launch/mpirun.sh -n 4 --timeout 100 "$conclave"); fi
      how+=(train "$v/$config.textproto" --run-dir "$scratch/$config-$name" --set trainer.steps=60)
      if [[ $name == threads ]]; then how+=(--ranks 4); fi
      "${how[@]}" > "$scratch/log" 2>&1 || { tail -n 5 "$scratch/log" >&2; figure=failed; }
      [[ $(state_fields "$config-$name" | wc -l) == 60 ]] || figure=failed
      cmp -s <(state_fields "$config-one") <(state_fields "$config-$name") || figure=differ
    done
    cmp -s <(sed 's/,"clock":.*//' "$scratch/$config-threads/metrics.jsonl") <(sed 's/,"clock":.*//' "$scratch/$config-processes/metrics.jsonl") || figure=differ
  done
  equal "$figure" equal "G9: three compressed methods on 1 rank, 4 threads and 4 processes under MPI: bits and bytes"
}

# Two halves of the contests at once; the lines of the second are printed when both are there.
second_half() {
  uplink_gains 0.1 8 35
  if $quick; then return; fi
  uplink_gains 1 2.4 3
  m_law
  robust_images
}
first_half() {
  two_way_gains 8 0.1 10 optimistic_permk_int4
  if $quick; then return; fi
  two_way_gains 16 0.1 10 optimistic_permk_int4
  two_way_gains 8 1 4 ogda_diana_int4 optimistic_int4
  two_way_gains 16 1 4 ogda_diana_int4 optimistic_int4
  rand_k_law
  best_p
  server_codec
  participation
  robust_regression
  local_steps
  gan
  robust_text
}

second_half > /dev/null 2>&1 &
other=$!
laws
transports
first_half
wait "$other"
second_half
codec_rates
if ! $quick; then
  crossover
  mixtures
  on_slow_links
  crossover_between_hosts
fi
summary
