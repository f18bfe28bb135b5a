#!/usr/bin/env bash
# shellcheck disable=SC2154
# The figures of foundation.sh, a function each, and how a line of the report looks. Sourced, never run.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
oks=0 shorts=0

# ok FIGURE TARGET WHAT, short FIGURE TARGET WHAT: a line of the report.
ok() { oks=$((oks + 1)); printf 'ok     %-18s %-20s %s\n' "$@"; }
short() { shorts=$((shorts + 1)); printf 'SHORT  %-18s %-20s %s\n' "$@"; }
summary() {
  echo "$oks ok, $shorts SHORT"
  ((shorts == 0)) || exit 1
  exit 0
}
# at_least VALUE LIMIT UNIT WHAT
at_least() {
  if awk -v v="$1" -v l="$2" 'BEGIN { exit !(v ~ /^[-+]?[0-9.]+(e[-+]?[0-9]+)?$/ && v + 0 >= l + 0) }'; then
    ok "$1 $3" ">= $2 $3" "$4"
  else
    short "${1:-none} $3" ">= $2 $3" "$4"
  fi
}
# at_most VALUE LIMIT UNIT WHAT: compares numbers; a value that is none falls short.
at_most() {
  if awk -v v="$1" -v l="$2" 'BEGIN { exit !(v ~ /^[-+]?[0-9.]+(e[-+]?[0-9]+)?$/ && v + 0 <= l + 0) }'; then
    ok "$1 $3" "<= $2 $3" "$4"
  else
    short "${1:-none} $3" "<= $2 $3" "$4"
  fi
}
# equal GOT WANTED WHAT: nothing got equals nothing.
equal() { if [[ -n $1 && $1 == "$2" ]]; then ok "${1:-none}" "$2" "$3"; else short "${1:-none}" "$2" "$3"; fi; }

milliseconds() { date +%s%3N; }
# seconds_of COMMAND...: its wall time in seconds, or nothing when it fails.
seconds_of() {
  local start
  start=$(milliseconds)
  "$@" > "$scratch/log" 2>&1 || { tail -n 15 "$scratch/log" >&2; return 1; }
  awk -v ms=$(($(milliseconds) - start)) 'BEGIN { printf "%.1f", ms / 1000 }'
}

# -- builds and suites ---------------------------------------------------------------------------------------------------------------------
build_program() {
  cmake --preset release -B "$scratch/build" -DCONCLAVE_CUDA=OFF &&
    CCACHE_DISABLE=1 cmake --build "$scratch/build" --target conclave --parallel 2
}
build_from_nothing() { at_most "$(seconds_of build_program)" 210 s "build of target conclave from nothing, no compiler cache, 2 jobs"; rm -rf "$scratch/build"; }
build_tests() { cmake --preset ci > "$scratch/log" 2>&1 && cmake --build build/ci --parallel 2 >> "$scratch/log" 2>&1; }
unit_suite() {
  local spent
  build_tests || { tail -n 5 "$scratch/log" >&2; short "no build" "<= 90 s" "unit suite, 2 at a time"; return; }
  spent=$(seconds_of ctest --test-dir build/ci --label-regex '^unit$' --parallel 2 --no-tests=error)
  at_most "$spent" 90 s "unit suite passes, 2 at a time"
}
sanitizer() {
  local log=$scratch/$1.log
  if tests/run.sh --preset "$1" --label unit --jobs 2 > "$log" 2>&1; then ok green green "unit suite under the preset $1"; else
    tail -n 15 "$log" >&2
    short red green "unit suite under the preset $1"
  fi
}

# -- small runs ----------------------------------------------------------------------------------------------------------------------------
prepare() {
  export CONCLAVE_BIN_DIR=$bin_dir
  bin_dir=$(realpath "$bin_dir")
  conclave=$bin_dir/conclave
  local i
  for ((i = 0; i < 400; ++i)); do echo "the $((i * 7919 % 97))th of $((i % 13)) said unto the $((i * 31 % 11))th"; done > "$scratch/text"
  cat > "$scratch/moe.textproto" << CONFIG
name: "acceptance_moe"
trainer { steps: 200 workers: 24 global_batch: 24 log_every: 1000 eval { batches: 1 } }
optim {
  first_order { lr: 0.003 rule { adamw { weight_decay: 0.1 } } }
  schedule { cosine {} warmup_steps: 10 }
  clip_norm: 1
}
model { moe_lm { layers: 2 width: 16 heads: 2 context: 16 moe { experts: 24 top_k: 2 hidden: 16 } } }
data { sources { text { path: "$scratch/text" } } cache_dir: "$scratch/cache" }
CONFIG
  cat > "$scratch/game.textproto" << 'CONFIG'
name: "acceptance_game"
trainer { steps: 200 workers: 6 global_batch: 0 log_every: 1000 }
optim { extragradient { gamma: 0.3 } }
model { precision { compute: F64 } bilinear_game { dim: 32 sigma_min: 1 sigma_max: 1 } }
CONFIG
  "$conclave" tokenize "$scratch/moe.textproto" > /dev/null 2>&1
}
# train NAME RANKS KIND ARGUMENTS...: a run in $scratch/NAME.
train() {
  local name=$1 ranks=$2 kind=$3
  shift 3
  launch/mpirun.sh -n "$ranks" --timeout 300 "$conclave" train "$scratch/$kind.textproto" --run-dir "$scratch/$name" "$@" > "$scratch/log" 2>&1 ||
    { tail -n 5 "$scratch/log" >&2; return 1; }
}
state_fields() { sed -n 's/^\({"step":.*\),"wire":.*/\1/p' "$scratch/$1/metrics.jsonl"; }
# field NAME STEP FIELD: a number of a run's metrics; where a step was evaluated on held-out data, `loss` is the held-out one, which comes last.
field() { sed -n "s/^{\"step\":$2,.*\"$3\":\([-+0-9.eE]*\).*/\1/p" "$scratch/$1/metrics.jsonl"; }

# From mpirun to the end of the first step, with tokenizer and shards there; the median of five.
start_up() {
  local times=() i start ended
  for i in 1 2 3 4 5; do
    start=$(milliseconds)
    train "start-$i" 2 moe --set trainer.steps=1 --set optim.schedule.warmup_steps=0 --set parallel.expert=2 || break
    ended=$(sed -n 's/^{"step":1,.*"unix_ms":\([0-9]*\).*/\1/p' "$scratch/start-$i/metrics.jsonl")
    [[ -n $ended ]] && times+=("$((ended - start))")
  done
  at_most "$(printf '%s\n' "${times[@]}" | sort -n | awk '{ v[NR] = $1 } END { if (NR == 5) printf "%.2f", v[3] / 1000 }')" 3 s "from mpirun to the first step on 2 ranks, median of 5"
}

# -- games -----------------------------------------------------------------------------------------------------------------------------------
# On A with all singular values s, extragradient shrinks the operator norm by sqrt(1 - g^2 s^2 + g^4 s^4) a step, descent-ascent grows it by
# sqrt(1 + g^2 s^2).
game_rate() {
  local error
  train rate 2 game --set trainer.steps=100 || { short failed "<= 1e-9" "extragradient at its closed-form rate"; return; }
  error=$(awk -v a="$(field rate 1 gradient_norm)" -v b="$(field rate 51 gradient_norm)" \
    'BEGIN { g = 0.3; rate = sqrt(1 - g^2 + g^4); if (a > 0) { e = exp(log(b / a) / 50) / rate - 1; printf "%.1e", e < 0 ? -e : e } }')
  at_most "$error" 1e-9 "" "extragradient on a bilinear game: relative error of its rate over 50 steps"
}
game_divergence() {
  local growth
  train diverge 1 game --set optim.gda.gamma=0.3 --set trainer.steps=51 || { short failed 1.0440 "growth of gradient descent-ascent a step"; return; }
  growth=$(awk -v a="$(field diverge 1 gradient_norm)" -v b="$(field diverge 51 gradient_norm)" 'BEGIN { if (a > 0) printf "%.4f", exp(log(b / a) / 50) }')
  equal "$growth" "$(awk 'BEGIN { printf "%.4f", sqrt(1.09) }')" "gradient descent-ascent diverges: growth of the operator norm a step"
}

# -- variational inference -----------------------------------------------------------------------------------------------------------------
pca_optimum() {
  local config=configs/varinf/linear_vae.textproto optimum reached overrides more=() pair
  overrides=(data.validation_fraction=0 'data.sources[0].gaussian.samples=2048' trainer.global_batch=2048 trainer.steps=3000)
  for pair in "${overrides[@]}"; do more+=(--set "$pair"); done
  optimum=$("$bin_dir/pca_optimum_program" "$config" "${overrides[@]}")
  "$conclave" train "$config" --run-dir "$scratch/vae" "${more[@]}" > "$scratch/log" 2>&1 || tail -n 5 "$scratch/log" >&2
  reached=$(field vae 3000 loss)
  at_most "$(awk -v a="$reached" -v b="$optimum" 'BEGIN { if (a != "" && b != "") printf "%.1e", a - b < 0 ? b - a : a - b }')" 1e-4 nats "linear_vae above the optimum of probabilistic PCA ($optimum)"
}

# -- the same numbers whatever the mesh ------------------------------------------------------------------------------------------------------
meshes=(2x1 1x2 4x1 2x2 1x4)
# on_mesh NAME MESH ARGUMENTS...
on_mesh() {
  local name=$1 data=${2%x*} expert=${2#*x}
  shift 2
  train "$name" $((data * expert)) moe --set trainer.workers=8 --set trainer.global_batch=8 --set model.moe_lm.moe.experts=8 \
    --set "parallel.data=$data" --set "parallel.expert=$expert" "$@"
}
invariant_bits() {
  local mesh equal=0
  on_mesh invariant-1x1 1x1 --set parallel.numerics=WORLD_SIZE_INVARIANT --set trainer.steps=50
  for mesh in "${meshes[@]}"; do
    on_mesh "invariant-$mesh" "$mesh" --set parallel.numerics=WORLD_SIZE_INVARIANT --set trainer.steps=50 || continue
    [[ $(state_fields invariant-1x1 | wc -l) == 50 ]] && cmp -s <(state_fields invariant-1x1) <(state_fields "invariant-$mesh") || continue
    read -r _ tensors _ same _ <<< "$("$bin_dir/checkpoint_diff_program" "$scratch/invariant-1x1" "$scratch/invariant-$mesh")"
    if [[ -n $tensors && $tensors == "$same" ]]; then equal=$((equal + 1)); fi
  done
  equal "$equal of ${#meshes[@]}" "${#meshes[@]} of ${#meshes[@]}" "meshes (${meshes[*]}) with the bits of one rank: 50 losses, all parameters"
}
double_parity() {
  local mesh worst='' apart
  on_mesh double-1x1 1x1 --set model.precision.compute=F64 --set trainer.steps=20
  for mesh in "${meshes[@]}"; do
    on_mesh "double-$mesh" "$mesh" --set model.precision.compute=F64 --set trainer.steps=20
    read -r _ _ _ _ _ apart _ <<< "$("$bin_dir/checkpoint_diff_program" "$scratch/double-1x1" "$scratch/double-$mesh" 2> /dev/null)"
    worst=$(awk -v a="$worst" -v b="${apart:-failed}" 'BEGIN { print (a == "failed" || b == "failed") ? "failed" : (b + 0 > a + 0 ? b : a + 0) }')
  done
  at_most "$worst" 1e-12 "" "worst tensor over the meshes in double precision after 20 steps, relative"
}

# resume_bits RANKS KIND: stopped at 70 and at 140 against straight through. What a later checkpoint or metric holds is thrown away at each stop.
resume_bits() {
  local ranks=$1 kind=$2 name=$2-$1 more=() step
  if [[ $kind == moe ]]; then more=(--set "parallel.expert=$ranks"); fi
  local figure=equal
  train "$name" "$ranks" "$kind" "${more[@]}" || figure=failed
  train "$name-stopped" "$ranks" "$kind" "${more[@]}" --set checkpoint.every=70 --set checkpoint.keep_last=9 || figure=failed
  for step in 70 140; do
    find "$scratch/$name-stopped/checkpoints" -maxdepth 1 -name 'step-*' | while read -r path; do ((${path##*-} <= step)) || rm -r "$path"; done
    train "$name-stopped" "$ranks" "$kind" "${more[@]}" --set checkpoint.every=70 --set checkpoint.keep_last=9 --resume || figure=failed
    grep -q "resumed from .*step-$step " "$scratch/log" || figure=failed
  done
  cmp -s <(state_fields "$name") <(state_fields "$name-stopped") || figure=differ
  [[ $(state_fields "$name" | wc -l) == 200 ]] || figure=failed
  cmp -s <(cat "$scratch/$name/checkpoints/step-200/"*.safetensors) <(cat "$scratch/$name-stopped/checkpoints/step-200/"*.safetensors) || figure=differ
  equal "$figure" equal "bits after stops at 70 and 140 of 200 steps, $kind on $ranks ranks"
}

# -- through the test scripts and the suite ----------------------------------------------------------------------------------------------------
test_script() {
  if bash "tests/dist/$1_test.sh" > "$scratch/log" 2>&1; then ok passes passes "tests/dist/$1_test.sh"; else
    tail -n 15 "$scratch/log" >&2
    short fails passes "tests/dist/$1_test.sh"
  fi
}
# law PATTERN WHAT: the unit tests of that name exist and pass.
law() {
  local number
  number=$(ctest --test-dir build/ci --tests-regex "$1" --show-only 2> /dev/null | sed -n 's/^Total Tests: //p')
  if ctest --test-dir build/ci --tests-regex "$1" --no-tests=error > "$scratch/log" 2>&1; then ok "$number pass" "all pass" "$2"; else
    short "${number:-0} found" "all pass" "$2"
  fi
}

unit_laws() {
  law '^trainer\.WorldSizeInvariant' "loopback: every rank count and split up to 8 gives equal bits"
  law '^trainer\.Parity' "loopback: every split in double precision"
  law '^(models\.Mixture\.OneExpert|models\.MoeLm\.OneExpert)' "one expert is the dense model"
  law '^models\.MoeLm\.ARankWithoutTokens' "a rank without tokens"
  law '^models\.(Router|BalanceLoss|RouterZ)' "router laws; balance loss 1 under uniform load"
  law '^parallel\.ExpertDispatch\.(RoundTrip|BackwardIsTheAdjoint)|DispatchAgainstOracle' "dispatch: identity round trip, adjoint, oracle"
  law '^comm\..*Laws' "laws of the communicators, adjoints among them"
}

# -- quality and the quickstart ------------------------------------------------------------------------------------------------------------------
quality() {
  local text=$data_dir/tinyshakespeare/input.txt config=configs/language/shakespeare_char_moe.textproto loss tokens
  local what="nats a character held out, tinyshakespeare, MoE with the active parameters of nanoGPT's CPU recipe"
  if [[ ! -r $text ]]; then short "no $text" "< 1.88 nats" "$what (--data DIR)"; return; fi
  launch/mpirun.sh -n 2 "$conclave" train "$config" --run-dir "$scratch/shakespeare" --set "data.sources[0].text.path=\"$text\"" \
    --set "data.cache_dir=\"$scratch/cache\"" > "$scratch/log" 2>&1 || tail -n 5 "$scratch/log" >&2
  loss=$(field shakespeare 2000 loss)
  tokens=$(sed -n 's/^{"step":.*"tokens":\([0-9]*\).*/\1/p' "$scratch/shakespeare/metrics.jsonl" | awk '{ sum += $1 } END { print sum + 0 }')
  at_most "$loss" 1.8799 nats "$what"
  at_most "$tokens" 1536000 chars "characters seen by that run"
}
quickstart() {
  local run=$scratch/quickstart start total
  start=$(milliseconds)
  launch/quickstart.sh --run-dir "$run" > "$scratch/log" 2>&1 || { tail -n 15 "$scratch/log" >&2; short failed "<= 480 s" "quickstart"; return; }
  total=$(((($(milliseconds) - start)) / 1000))
  at_most "$total" 480 s "quickstart, all of it (what was built before is not built again; see the build above)"
  at_most "$(sed -n 's/^train *\([0-9.]*\) s$/\1/p' "$scratch/log" | head -n 1)" 200 s "quickstart, training alone"
  launch/quickstart.sh --run-dir "$run-2" --steps 50 > "$scratch/log" 2>&1
  at_most "$(sed -n 's/^training starts \([0-9]*\) s after the call.*/\1/p' "$scratch/log")" 10 s "second call of the quickstart until training starts"
}
